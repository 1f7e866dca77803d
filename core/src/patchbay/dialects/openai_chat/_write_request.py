"""Writes a Chat Completions request. Format: https://platform.openai.com/docs/api-reference/chat/create"""

from __future__ import annotations

import msgspec

from patchbay.canonical import Chat, CustomTool, FunctionTool, Reasoning, ResponseFormat, Sampling, Tool, ToolChoice
from patchbay.dialects.base import WrittenRequest
from patchbay.dialects.custom_tools import NamespaceIntro, as_function
from patchbay.dialects.efforts import effort_of, nearest_effort
from patchbay.dialects.json_text import Object, add_missing, dump, dump_array, dump_object, load_object
from patchbay.dialects.openai_chat._formats import write_format
from patchbay.dialects.openai_chat._quirks import NAME, OpenAIChatQuirks
from patchbay.dialects.openai_chat._write_messages import MessageWriter
from patchbay.dialects.openai_chat._write_parts import cache_mark
from patchbay.dialects.request_warnings import Warnings
from patchbay.dialects.tool_names import ToolNames, fitted
from patchbay.dialects.tool_schemas import as_object_schema, is_closed
from patchbay.errors import InvalidRequest

# Anthropic's `standard_only` is what OpenAI calls `default`.
_SERVICE_TIERS = {"standard_only": "default"}

_CHOICES = {ToolChoice.MODE_AUTO: "auto", ToolChoice.MODE_NONE: "none", ToolChoice.MODE_ANY: "required"}


def write_request(chat: Chat, model: str, quirks: OpenAIChatQuirks) -> WrittenRequest:
    """Writes a chat as a body for a server, with a warning for each thing that the server has no word for.

    Raises:
        InvalidRequest: When a JSON text carried in the chat is not one.
    """
    warnings = Warnings(NAME)
    names = ToolNames(chat.tools, quirks.max_tool_name, custom=quirks.custom_tools)
    try:
        body = _write(chat, model, quirks, names, warnings)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"The request carries a malformed JSON object: {error}") from error
    return WrittenRequest(dump_object(body), warnings.all(), names.changed, warnings.notes())


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
        body["user"] = dump(fitted(chat.user, quirks.max_user))
    if chat.metadata:
        body["metadata"] = dump(dict(sorted(chat.metadata.items())))
    if chat.HasField("service_tier"):
        body["service_tier"] = dump(_SERVICE_TIERS.get(chat.service_tier, chat.service_tier))
    if chat.stream:
        body["stream"] = b"true"
        if chat.include_usage or quirks.stream_usage:
            body["stream_options"] = b'{"include_usage":true}'
    own = load_object(warnings.own_extension(chat.extensions))
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
        body["stop"] = dump(list(sampling.stop[: quirks.max_stop]))
        if quirks.max_stop is not None and len(sampling.stop) > quirks.max_stop:
            warnings.add("stop", f"only {quirks.max_stop} stop sequences are supported; the others were left out")
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
    intro = NamespaceIntro(chat.namespaces)
    written = [
        text for tool in names.allowed(chat) if (text := _tool(tool, quirks, names, intro, warnings)) is not None
    ]
    choice = chat.tool_choice
    if not written:
        # What is said about tools is refused where there are none.
        if choice.mode in (ToolChoice.MODE_ANY, ToolChoice.MODE_TOOL):
            warnings.dropped("tool_choice", "is not supported without tools")
        return body
    body["tools"] = dump_array(written)
    if choice.mode == ToolChoice.MODE_TOOL:
        if names.offers(choice.name, choice.namespace, custom=choice.custom):
            tool = names.of(choice.name, choice.namespace, custom=choice.custom)
            kind = "custom" if tool.is_custom else "function"
            body["tool_choice"] = dump({"type": kind, kind: {"name": tool.name}})
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


def _tool(
    tool: Tool, quirks: OpenAIChatQuirks, names: ToolNames, intro: NamespaceIntro, warnings: Warnings
) -> bytes | None:
    if tool.HasField("opaque"):
        if tool.opaque.dialect == NAME:
            return tool.opaque.json.encode()
        warnings.dropped_tool(tool.opaque)
        return None
    if tool.HasField("custom"):
        told = names.of(tool.custom.name, tool.custom.namespace, custom=True)
        if told.is_custom:
            fields = _custom(tool.custom, told.name, intro)
        else:
            fields = _function(as_function(tool.custom), told.name, intro, warnings)
    else:
        told = names.of(tool.function.name, tool.function.namespace)
        fields = _function(tool.function, told.name, intro, warnings)
    if tool.HasField("cache"):
        fields |= cache_mark(tool.cache, quirks)
    add_missing(fields, load_object(warnings.own_extension(tool.extensions, "tools.")))
    return dump_object(fields)


def _custom(custom: CustomTool, name: str, intro: NamespaceIntro) -> Object:
    fields: Object = {"name": dump(name)}
    description = intro.described(custom)
    if description is not None:
        fields["description"] = dump(description)
    if custom.HasField("format_json"):
        fields["format"] = write_format(custom.format_json)
    return {"type": b'"custom"', "custom": dump_object(fields)}


def _function(tool: FunctionTool, name: str, intro: NamespaceIntro, warnings: Warnings) -> Object:
    function: Object = {"name": dump(name)}
    description = intro.described(tool)
    if description is not None:
        function["description"] = dump(description)
    schema = tool.input_schema_json
    if tool.HasField("input_schema_json"):
        function["parameters"] = as_object_schema(schema, with_properties=True)
    if tool.strict and schema and not is_closed(schema):
        warnings.dropped("tools.strict", "needs a schema here that requires every property and allows no others")
    elif tool.HasField("strict"):
        function["strict"] = dump(tool.strict)
    return {"type": b'"function"', "function": dump_object(function)}


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
        if reasoning.effort and reasoning.mode != Reasoning.MODE_DISABLED:
            warnings.dropped("reasoning")
        return {}
    if quirks.reasoning_field == "reasoning":
        options = _reasoning_object(reasoning, quirks)
        return {"reasoning": dump_object(options)} if options else {}
    effort = effort_of(reasoning, quirks.efforts, quirks.disabled_effort)
    return {} if effort is None else {"reasoning_effort": dump(effort)}


def _reasoning_object(reasoning: Reasoning, quirks: OpenAIChatQuirks) -> Object:
    options: Object = {}
    if reasoning.HasField("effort"):
        options["effort"] = dump(nearest_effort(reasoning.effort, quirks.efforts))
    elif reasoning.HasField("budget_tokens"):
        options["max_tokens"] = dump(reasoning.budget_tokens)
    if reasoning.mode == Reasoning.MODE_DISABLED and reasoning.effort != "none":
        options["enabled"] = b"false"
    elif reasoning.mode in (Reasoning.MODE_ENABLED, Reasoning.MODE_ADAPTIVE) and "max_tokens" not in options:
        options["enabled"] = b"true"
    if reasoning.display == "omitted":
        options["exclude"] = b"true"
    return options
