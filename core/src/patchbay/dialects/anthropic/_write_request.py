"""Writes a request body of the Messages API: https://platform.claude.com/docs/en/api/messages/create"""

from __future__ import annotations

import msgspec

from patchbay.canonical import Block, Chat, ResponseFormat, Sampling, Tool, ToolChoice
from patchbay.dialects.anthropic._json import Object, add_missing, carried, dump, load_fields
from patchbay.dialects.anthropic._quirks import NAME, AnthropicQuirks
from patchbay.dialects.anthropic._tool_names import ToolNames
from patchbay.dialects.anthropic._warnings import Warnings
from patchbay.dialects.anthropic._write_blocks import Written, cache_control
from patchbay.dialects.anthropic._write_messages import MessageWriter
from patchbay.dialects.anthropic._write_thinking import ThinkingWriter
from patchbay.dialects.base import WrittenRequest
from patchbay.dialects.native import set_top_level
from patchbay.errors import InvalidRequest

_CHOICES = {
    ToolChoice.MODE_AUTO: "auto",
    ToolChoice.MODE_ANY: "any",
    ToolChoice.MODE_TOOL: "tool",
    ToolChoice.MODE_NONE: "none",
}
# OpenAI's `default` asks for what Anthropic calls `standard_only`.
_SERVICE_TIERS = {"auto": "auto", "standard_only": "standard_only", "default": "standard_only"}


def write_request(chat: Chat, model: str, quirks: AnthropicQuirks) -> WrittenRequest:
    """Writes a body for an upstream.

    The messages come last, so that the bytes of one turn, up to the end of its last message, begin those of the next.

    Raises:
        InvalidRequest: There are no messages, or the schema of a tool's input is no JSON object.
    """
    warnings = Warnings()
    names = ToolNames()
    features = quirks.features(model)
    writer = MessageWriter(warnings, names, system_messages=features.system_messages)
    system = writer.system(chat)
    messages = writer.write(chat)
    thinking_writer = ThinkingWriter(chat, features, warnings, messages=messages)
    max_tokens = _max_tokens(chat, quirks)
    thinking = thinking_writer.thinking(max_tokens)

    body: Object = {"model": model, "max_tokens": max_tokens}
    if chat.stream:
        body["stream"] = True
    body.update(thinking_writer.sampling(thinking))
    _write_stop(body, chat, warnings)
    if thinking:
        body["thinking"] = thinking
    _write_output_config(body, chat, thinking_writer.effort(), warnings)
    _write_metadata(body, chat, warnings)
    _warn_of_sampling(chat.sampling, warnings)
    rest = warnings.own_extension(chat.extensions)
    if chat.reasoning.mode and not thinking:
        # What is left of a `thinking` that was dropped.
        rest.pop("thinking", None)
    add_missing(body, rest)
    if quirks.automatic_caching and not _has_cache_mark(chat):
        body.setdefault("cache_control", {"type": "ephemeral"})
    # After the extensions, which hold what is left of these fields but never all of them.
    _write_tools(body, chat, warnings, names)
    if system:
        body["system"] = system
    body["messages"] = messages
    return WrittenRequest(dump(body), warnings.all(), names.replaced)


def _max_tokens(chat: Chat, quirks: AnthropicQuirks) -> int:
    if chat.sampling.HasField("max_tokens"):
        return chat.sampling.max_tokens
    return max(quirks.default_max_tokens, chat.reasoning.budget_tokens * 4 // 3)


def _write_stop(body: Object, chat: Chat, warnings: Warnings) -> None:
    stop = [sequence for sequence in chat.sampling.stop if sequence.strip()]
    if len(stop) < len(chat.sampling.stop):
        warnings.dropped("stop", "made of white space only is not supported by this backend")
    if stop:
        body["stop_sequences"] = stop


def _write_output_config(body: Object, chat: Chat, effort: str | None, warnings: Warnings) -> None:
    config: Object = {}
    if effort is not None:
        config["effort"] = effort
    wanted = chat.response_format
    if wanted.type == ResponseFormat.TYPE_JSON_SCHEMA and wanted.schema_json:
        config["format"] = {"type": "json_schema", "schema": carried(wanted.schema_json)}
        if wanted.description:
            warnings.dropped("response_format.json_schema.description")
    elif wanted.type in (ResponseFormat.TYPE_JSON_OBJECT, ResponseFormat.TYPE_JSON_SCHEMA):
        warnings.dropped("response_format", "without a schema is not supported by this backend")
    if config:
        body["output_config"] = config


def _write_metadata(body: Object, chat: Chat, warnings: Warnings) -> None:
    if chat.HasField("user"):
        body["metadata"] = {"user_id": chat.user}
    if chat.metadata:
        warnings.dropped("metadata")
    if chat.HasField("service_tier"):
        tier = _SERVICE_TIERS.get(chat.service_tier)
        if tier is None:
            warnings.dropped("service_tier", f"{chat.service_tier} is not supported by this backend")
        else:
            body["service_tier"] = tier


def _warn_of_sampling(sampling: Sampling, warnings: Warnings) -> None:
    """Warns of what the API cannot be told, unless it asks for what happens anyway."""
    for name in ("seed", "logit_bias_json"):
        if sampling.HasField(name):
            warnings.dropped(name.removesuffix("_json"))
    if sampling.presence_penalty:
        warnings.dropped("presence_penalty")
    if sampling.frequency_penalty:
        warnings.dropped("frequency_penalty")
    if sampling.n > 1:
        warnings.dropped("n")
    if sampling.logprobs:
        warnings.dropped("logprobs")
    if sampling.top_logprobs:
        warnings.dropped("top_logprobs")


def _write_tools(body: Object, chat: Chat, warnings: Warnings, names: ToolNames) -> None:
    choice_rest = body.pop("tool_choice", None)
    tools = [written for tool in chat.tools if (written := _tool(tool, warnings, names)) is not None]
    choice = _tool_choice(chat, warnings, names)
    if not tools:
        if chat.tool_choice.mode in (ToolChoice.MODE_ANY, ToolChoice.MODE_TOOL):
            warnings.dropped("tool_choice", "is not supported without tools")
        return
    body["tools"] = tools
    if isinstance(choice_rest, msgspec.Raw):
        add_missing(choice, load_fields(choice_rest))
    if choice:
        body["tool_choice"] = choice


def _tool(tool: Tool, warnings: Warnings, names: ToolNames) -> Written | None:
    if tool.WhichOneof("kind") == "opaque":
        if tool.opaque.dialect == NAME:
            return carried(tool.opaque.json)
        warnings.dropped("tools", f"of a type that only the {tool.opaque.dialect} API knows")
        return None
    function = tool.function
    written: Object = {"name": names.allowed(function.name)}
    if function.HasField("description"):
        written["description"] = function.description
    written["input_schema"] = _input_schema(function.input_schema_json)
    if function.HasField("strict"):
        written["strict"] = function.strict
    if tool.HasField("cache"):
        written["cache_control"] = cache_control(tool.cache)
    if tool.extensions:
        add_missing(written, warnings.own_extension(tool.extensions))
    return written


def _input_schema(schema: str) -> msgspec.Raw:
    """The schema with the `type` that the API requires and OpenAI does not."""
    body = schema.encode() or b"{}"
    try:
        has_type = "type" in load_fields(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest("tools: the schema of a tool's input must be a JSON object", "tools") from error
    return msgspec.Raw(body if has_type else set_top_level(body, {"type": b'"object"'}))


def _tool_choice(chat: Chat, warnings: Warnings, names: ToolNames) -> Object:
    choice = chat.tool_choice
    if choice.HasField("opaque"):
        if choice.opaque.dialect == NAME:
            return dict(load_fields(choice.opaque.json))
        warnings.dropped("tool_choice", f"of a type that only the {choice.opaque.dialect} API knows")
    written: Object = {"type": _CHOICES[choice.mode]} if choice.mode in _CHOICES else {}
    if choice.mode == ToolChoice.MODE_TOOL:
        written["name"] = names.allowed(choice.name)
    if choice.mode == ToolChoice.MODE_NONE or not chat.HasField("parallel_tool_calls"):
        return written
    if not written and not chat.parallel_tool_calls:
        written["type"] = "auto"
    if written:
        written["disable_parallel_tool_use"] = not chat.parallel_tool_calls
    return written


def _has_cache_mark(chat: Chat) -> bool:
    return any(tool.HasField("cache") for tool in chat.tools) or any(
        _is_marked(block)
        for blocks in (chat.system, *(message.blocks for message in chat.messages))
        for block in blocks
    )


def _is_marked(block: Block) -> bool:
    return block.HasField("cache") or any(inner.HasField("cache") for inner in block.tool_result.blocks)
