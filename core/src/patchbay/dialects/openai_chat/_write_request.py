"""Writes a Chat Completions request. Format: https://platform.openai.com/docs/api-reference/chat/create"""

from __future__ import annotations

import msgspec

from patchbay.canonical import Chat, Reasoning, ResponseFormat, Sampling, Tool, ToolChoice
from patchbay.dialects.base import WrittenRequest
from patchbay.dialects.openai_chat._json import Object, add_missing, dump, dump_array, dump_object
from patchbay.dialects.openai_chat._quirks import NAME, OpenAIChatQuirks
from patchbay.dialects.openai_chat._tool_names import ToolNames, shortened
from patchbay.dialects.openai_chat._warnings import Warnings
from patchbay.dialects.openai_chat._write_messages import MessageWriter
from patchbay.dialects.openai_chat._write_parts import cache_mark
from patchbay.errors import InvalidRequest

# Every effort there is, weakest first.
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

# Thinking budgets in tokens, up to and including -> the effort that comes closest.
_EFFORT_OF_BUDGET = ((4_096, "low"), (16_384, "medium"))
_EFFORT_OF_LARGER_BUDGET = "high"

_CHOICES = {ToolChoice.MODE_AUTO: "auto", ToolChoice.MODE_NONE: "none", ToolChoice.MODE_ANY: "required"}


def write_request(chat: Chat, model: str, quirks: OpenAIChatQuirks) -> WrittenRequest:
    """Writes a chat as a body for a server, with a warning for each thing that the server has no word for.

    Raises:
        InvalidRequest: When a JSON text carried in the chat is not one.
    """
    warnings = Warnings()
    names = ToolNames(quirks.max_tool_name)
    try:
        body = _write(chat, model, quirks, names, warnings)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The request carries a malformed JSON object: {error}") from error
    return WrittenRequest(dump_object(body), warnings.all(), names.shortened)


def _write(chat: Chat, model: str, quirks: OpenAIChatQuirks, names: ToolNames, warnings: Warnings) -> Object:
    body: Object = {"model": dump(model)}
    body["messages"] = MessageWriter(quirks, names, warnings).write(chat)
    body |= _tools(chat, quirks, names, warnings)
    body |= _sampling(chat.sampling, quirks, warnings)
    if chat.HasField("reasoning"):
        body |= _reasoning(chat.reasoning, quirks, warnings)
    if chat.response_format.type:
        body["response_format"] = _response_format(chat.response_format)
    if chat.HasField("user"):
        body["user"] = dump(shortened(chat.user, quirks.max_user))
    if chat.metadata:
        body["metadata"] = dump(dict(sorted(chat.metadata.items())))
    if chat.HasField("service_tier"):
        body["service_tier"] = dump(chat.service_tier)
    if chat.stream:
        body["stream"] = b"true"
        if chat.include_usage or quirks.stream_usage:
            body["stream_options"] = b'{"include_usage":true}'
    own = warnings.own_extension(chat.extensions)
    if quirks.reasoning_field != "reasoning" and own.pop("reasoning", None) is not None:
        warnings.dropped("reasoning")
    add_missing(body, own)
    for name in sorted(quirks.unsupported & body.keys()):
        del body[name]
        warnings.dropped(name)
    return body


def _sampling(sampling: Sampling, quirks: OpenAIChatQuirks, warnings: Warnings) -> Object:
    body: Object = {}
    if sampling.HasField("max_tokens"):
        body[quirks.max_tokens_field] = dump(sampling.max_tokens)
    if sampling.HasField("temperature"):
        body["temperature"] = dump(sampling.temperature)
    if sampling.HasField("top_p"):
        body["top_p"] = dump(sampling.top_p)
    if sampling.HasField("top_k"):
        if quirks.top_k:
            body["top_k"] = dump(sampling.top_k)
        else:
            warnings.dropped("top_k")
    if sampling.stop:
        body["stop"] = dump(list(sampling.stop))
    if sampling.HasField("seed"):
        body["seed"] = dump(sampling.seed)
    if sampling.HasField("presence_penalty"):
        body["presence_penalty"] = dump(sampling.presence_penalty)
    if sampling.HasField("frequency_penalty"):
        body["frequency_penalty"] = dump(sampling.frequency_penalty)
    if sampling.HasField("logit_bias_json"):
        body["logit_bias"] = sampling.logit_bias_json.encode()
    if sampling.HasField("n"):
        body["n"] = dump(sampling.n)
    if sampling.HasField("logprobs"):
        body["logprobs"] = dump(sampling.logprobs)
    if sampling.HasField("top_logprobs"):
        body["top_logprobs"] = dump(sampling.top_logprobs)
    return body


def _tools(chat: Chat, quirks: OpenAIChatQuirks, names: ToolNames, warnings: Warnings) -> Object:
    body: Object = {}
    written = [text for tool in chat.tools if (text := _tool(tool, quirks, names, warnings)) is not None]
    if written:
        body["tools"] = dump_array(written)
    elif chat.tools:
        # A choice among tools, none of which is left, would be refused.
        return body
    choice = chat.tool_choice
    if choice.mode == ToolChoice.MODE_TOOL:
        if not chat.tools or any(tool.function.name == choice.name for tool in chat.tools):
            body["tool_choice"] = dump({"type": "function", "function": {"name": names.short(choice.name)}})
        else:
            warnings.dropped("tool_choice")
    elif choice.mode in _CHOICES:
        body["tool_choice"] = dump(_CHOICES[choice.mode])
    elif choice.HasField("opaque"):
        if choice.opaque.dialect == NAME:
            body["tool_choice"] = choice.opaque.json.encode()
        else:
            warnings.dropped("tool_choice")
    if chat.HasField("parallel_tool_calls"):
        body["parallel_tool_calls"] = dump(chat.parallel_tool_calls)
    return body


def _tool(tool: Tool, quirks: OpenAIChatQuirks, names: ToolNames, warnings: Warnings) -> bytes | None:
    if tool.HasField("opaque"):
        if tool.opaque.dialect == NAME:
            return tool.opaque.json.encode()
        kind = msgspec.json.decode(tool.opaque.json)
        label = (kind.get("type") if isinstance(kind, dict) else None) or tool.opaque.dialect
        # A tool that its provider runs is never offered as one that the client would have to run.
        warnings.add("tools", f"the tool {label} exists at another provider only and was left out")
        return None
    function: Object = {"name": dump(names.short(tool.function.name))}
    if tool.function.HasField("description"):
        function["description"] = dump(tool.function.description)
    if tool.function.HasField("input_schema_json"):
        function["parameters"] = tool.function.input_schema_json.encode()
    if tool.function.HasField("strict"):
        function["strict"] = dump(tool.function.strict)
    fields: Object = {"type": b'"function"', "function": dump_object(function)}
    if tool.HasField("cache"):
        fields |= cache_mark(tool.cache, quirks, warnings)
    add_missing(fields, warnings.own_extension(tool.extensions, "tools."))
    return dump_object(fields)


def _response_format(wanted: ResponseFormat) -> bytes:
    if wanted.type == ResponseFormat.TYPE_TEXT:
        return b'{"type":"text"}'
    if wanted.type == ResponseFormat.TYPE_JSON_OBJECT:
        return b'{"type":"json_object"}'
    # The name is required here and means nothing to other dialects.
    schema: Object = {"name": dump(wanted.name or "response")}
    if wanted.HasField("description"):
        schema["description"] = dump(wanted.description)
    if wanted.HasField("schema_json"):
        schema["schema"] = wanted.schema_json.encode()
    if wanted.HasField("strict"):
        schema["strict"] = dump(wanted.strict)
    return dump_object({"type": b'"json_schema"', "json_schema": dump_object(schema)})


def _reasoning(reasoning: Reasoning, quirks: OpenAIChatQuirks, warnings: Warnings) -> Object:
    if quirks.reasoning_field is None:
        if reasoning.mode != Reasoning.MODE_DISABLED:
            warnings.dropped("reasoning")
        return {}
    if quirks.reasoning_field == "reasoning":
        options = _reasoning_object(reasoning, quirks, warnings)
        return {"reasoning": dump_object(options)} if options else {}
    effort = _effort(reasoning, quirks, warnings)
    return {} if effort is None else {"reasoning_effort": dump(effort)}


def _reasoning_object(reasoning: Reasoning, quirks: OpenAIChatQuirks, warnings: Warnings) -> Object:
    options: Object = {}
    if reasoning.HasField("effort"):
        options["effort"] = dump(_nearest_effort(reasoning.effort, quirks, warnings))
    elif reasoning.HasField("budget_tokens"):
        options["max_tokens"] = dump(reasoning.budget_tokens)
    if reasoning.mode == Reasoning.MODE_DISABLED and reasoning.effort != "none":
        options["enabled"] = b"false"
    elif reasoning.mode in (Reasoning.MODE_ENABLED, Reasoning.MODE_ADAPTIVE) and "max_tokens" not in options:
        options["enabled"] = b"true"
    if reasoning.display == "omitted":
        options["exclude"] = b"true"
    return options


def _effort(reasoning: Reasoning, quirks: OpenAIChatQuirks, warnings: Warnings) -> str | None:
    if reasoning.HasField("effort"):
        return _nearest_effort(reasoning.effort, quirks, warnings)
    if reasoning.mode == Reasoning.MODE_DISABLED:
        if quirks.disabled_effort is None:
            warnings.add("reasoning", "reasoning cannot be switched off for this backend")
        return quirks.disabled_effort
    if reasoning.HasField("budget_tokens"):
        wanted = _effort_of_budget(reasoning.budget_tokens)
        effort = _nearest_effort(wanted, quirks, warnings)
        warnings.add("reasoning", f"a budget of {reasoning.budget_tokens} tokens was sent as the effort {effort}")
        return effort
    # How much to think is the model's own choice where nobody says more than that it should.
    return None


def _effort_of_budget(tokens: int) -> str:
    for limit, effort in _EFFORT_OF_BUDGET:
        if tokens <= limit:
            return effort
    return _EFFORT_OF_LARGER_BUDGET


def _nearest_effort(effort: str, quirks: OpenAIChatQuirks, warnings: Warnings) -> str:
    if effort in quirks.efforts or effort not in _EFFORTS or not quirks.efforts:
        return effort
    rank = _EFFORTS.index(effort)
    # Reasoning that was asked for is not switched off.
    known = [name for name in quirks.efforts if name in _EFFORTS and name != "none"] or list(quirks.efforts)
    nearest = min(known, key=lambda name: abs(_EFFORTS.index(name) - rank) if name in _EFFORTS else len(_EFFORTS))
    warnings.add("reasoning_effort", f"the effort {effort} is not known to this backend and was sent as {nearest}")
    return nearest
