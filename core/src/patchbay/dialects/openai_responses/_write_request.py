"""Writes a Responses request. Format: https://platform.openai.com/docs/api-reference/responses/create"""

from __future__ import annotations

import re

import msgspec

from patchbay.canonical import Chat, Reasoning, ResponseFormat
from patchbay.dialects.base import WrittenRequest
from patchbay.dialects.efforts import effort_of
from patchbay.dialects.json_text import Object, add_missing, dump, dump_array, dump_object, load_array, load_object
from patchbay.dialects.openai_responses._item_rules import fit_tier, is_missed
from patchbay.dialects.openai_responses._quirks import NAME, OpenAIResponsesQuirks
from patchbay.dialects.openai_responses._read_request import LOGPROBS
from patchbay.dialects.openai_responses._write_items import ItemWriter
from patchbay.dialects.openai_responses._write_tools import ToolWriter
from patchbay.dialects.request_warnings import Warnings
from patchbay.dialects.signatures import is_openai_made
from patchbay.dialects.tool_names import ToolNames, fitted
from patchbay.errors import InvalidRequest

ENCRYPTED_REASONING = "reasoning.encrypted_content"
_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_-]")
_MAX_FORMAT_NAME = 64
# Anthropic's `standard_only` is what OpenAI calls `default`.
_SERVICE_TIERS = {"standard_only": "default"}
# What a request goes on from, and an item that is only named.
_CONTEXTS = ("previous_response_id", "conversation")
_REFERENCE = b'"item_reference"'
# What OpenAI's two dialects call alike.
_SHARED_WITH_CHAT = (
    "moderation",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "store",
)


def write_request(chat: Chat, model: str, quirks: OpenAIResponsesQuirks) -> WrittenRequest:
    """Writes a chat as a body for a server, with a warning for each thing that the server has no word for.

    The input comes last, so that the bytes of one turn, up to the end of its last item, begin those of the next.

    Raises:
        InvalidRequest: When a JSON text carried in the chat is not one.
    """
    warnings = Warnings(NAME)
    names = ToolNames(chat.tools, quirks.max_tool_name, _FORBIDDEN, custom=True, namespaces=True)
    try:
        body = _write(chat, model, quirks, names, warnings)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"The request carries a malformed JSON object: {error}") from error
    return WrittenRequest(dump_object(body), warnings.all(), names.changed, warnings.notes())


def _write(chat: Chat, model: str, quirks: OpenAIResponsesQuirks, names: ToolNames, warnings: Warnings) -> Object:
    own = _own_fields(chat, warnings)
    items = ItemWriter(quirks, names, warnings, keeps_items=quirks.keeps_answers and _names_items(chat, own))
    tools = ToolWriter(chat, quirks, names, warnings)
    body: Object = {"model": dump(model)}
    if chat.stream or quirks.stream_only:
        body["stream"] = b"true"
    body |= _sampling(chat, quirks, warnings)
    if chat.HasField("reasoning"):
        body |= _reasoning(chat.reasoning, own, quirks)
    if chat.response_format.type:
        body["text"] = dump_object({"format": _format(chat.response_format)})
    body |= _caller(chat, quirks, warnings)
    _write_include(body, own, chat, quirks)
    if not quirks.keeps_answers:
        own.pop("store", None)
    own.setdefault("store", b"false")
    instructions = items.instructions(chat)
    if instructions is not None or quirks.instructions_required:
        body["instructions"] = dump(instructions or "")
    add_missing(body, own)
    body |= tools.fields()
    for name in sorted(quirks.unsupported & body.keys()):
        if is_missed(name, body.pop(name)):
            warnings.dropped(name)
    written = items.write(chat)
    tools.add_items(written)
    body["input"] = dump_array(written)
    return body


def _own_fields(chat: Chat, warnings: Warnings) -> Object:
    """The fields of the request that no canonical field covers, and those that Chat Completions calls alike."""
    extensions = dict(chat.extensions)
    shared: Object = {}
    if "openai_chat" in extensions:
        theirs = load_object(extensions["openai_chat"])
        shared = {name: theirs.pop(name) for name in _SHARED_WITH_CHAT if name in theirs}
        if "verbosity" in theirs:
            shared["text"] = dump_object({"verbosity": theirs.pop("verbosity")})
        extensions["openai_chat"] = dump_object(theirs).decode()
    own = load_object(warnings.own_extension(extensions))
    add_missing(own, shared)
    return own


def _names_items(chat: Chat, own: Object) -> bool:
    """Whether the client counts on items that the server keeps."""
    if own.get("store") == b"true" or any(own.get(name, b"null") != b"null" for name in _CONTEXTS):
        return True
    return any(
        block.opaque.dialect == NAME and load_object(block.opaque.json).get("type", _REFERENCE) == _REFERENCE
        for message in chat.messages
        for block in message.blocks
        if block.HasField("opaque")
    )


def _sampling(chat: Chat, quirks: OpenAIResponsesQuirks, warnings: Warnings) -> Object:
    sampling = chat.sampling
    body: Object = {}
    if sampling.HasField("max_tokens"):
        body["max_output_tokens"] = dump(max(sampling.max_tokens, quirks.min_output_tokens))
    # Models that reason refuse to be told even what happens anyway.
    if sampling.HasField("temperature") and sampling.temperature != 1:
        body["temperature"] = dump(sampling.temperature)
    if sampling.HasField("top_p") and sampling.top_p != 1:
        body["top_p"] = dump(sampling.top_p)
    if sampling.HasField("top_logprobs"):
        body["top_logprobs"] = dump(sampling.top_logprobs)
    if sampling.HasField("top_k"):
        warnings.dropped("top_k")
    if sampling.stop:
        warnings.dropped("stop")
    warnings.of_sampling(sampling)
    return body


def _reasoning(reasoning: Reasoning, own: Object, quirks: OpenAIResponsesQuirks) -> Object:
    written: Object = {}
    effort = effort_of(reasoning, quirks.efforts, quirks.disabled_effort)
    if effort is not None:
        written["effort"] = dump(effort)
    if _is_wanted(reasoning) and reasoning.display != "omitted":
        written["summary"] = load_object(own.get("reasoning", b"{}")).get("summary", b'"auto"')
    return {"reasoning": dump_object(written)} if written else {}


def _is_wanted(reasoning: Reasoning) -> bool:
    if reasoning.mode == Reasoning.MODE_DISABLED or reasoning.effort == "none":
        return False
    return bool(reasoning.mode or reasoning.effort or reasoning.display or reasoning.budget_tokens)


def _format(wanted: ResponseFormat) -> bytes:
    if wanted.type == ResponseFormat.TYPE_TEXT:
        return b'{"type":"text"}'
    if wanted.type == ResponseFormat.TYPE_JSON_OBJECT or not wanted.schema_json:
        return b'{"type":"json_object"}'
    # The name is required here and means nothing to other dialects.
    name = fitted(wanted.name or "response", _MAX_FORMAT_NAME, _FORBIDDEN)
    fields: Object = {"type": b'"json_schema"', "name": dump(name), "schema": wanted.schema_json.encode()}
    if wanted.HasField("description"):
        fields["description"] = dump(wanted.description)
    if wanted.HasField("strict"):
        fields["strict"] = dump(wanted.strict)
    return dump_object(fields)


def _caller(chat: Chat, quirks: OpenAIResponsesQuirks, warnings: Warnings) -> Object:
    body: Object = {}
    if chat.HasField("user"):
        body["user"] = dump(fitted(chat.user, quirks.max_user))
    if chat.metadata:
        body["metadata"] = dump(dict(sorted(chat.metadata.items())))
    if chat.HasField("service_tier"):
        asked = _SERVICE_TIERS.get(chat.service_tier, chat.service_tier)
        tier = fit_tier(asked, quirks)
        if tier is not None:
            body["service_tier"] = dump(tier)
        elif asked not in ("auto", "default"):
            warnings.dropped("service_tier", f"{asked} is not supported by this backend")
    return body


def _write_include(body: Object, own: Object, chat: Chat, quirks: OpenAIResponsesQuirks) -> None:
    asked = own.pop("include", b"null")
    include = load_array(asked) if asked.startswith(b"[") else []
    if quirks.always_encrypted or _is_wanted(chat.reasoning) or _has_encrypted_reasoning(chat):
        include.append(dump(ENCRYPTED_REASONING))
    if chat.sampling.logprobs:
        include.append(dump(LOGPROBS))
    if include:
        body["include"] = dump_array(dict.fromkeys(include))


def _has_encrypted_reasoning(chat: Chat) -> bool:
    return any(
        is_openai_made(block.thinking.signature)
        for message in chat.messages
        for block in message.blocks
        if block.HasField("thinking")
    )
