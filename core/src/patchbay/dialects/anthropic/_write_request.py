"""Writes a request body of the Messages API: https://platform.claude.com/docs/en/api/messages/create"""

from __future__ import annotations

import msgspec

from patchbay.canonical import Block, Chat, FunctionTool, ResponseFormat, Tool, ToolChoice
from patchbay.dialects.anthropic._call_ids import FORBIDDEN
from patchbay.dialects.anthropic._json import Object, add_missing, carried, dump, load_fields
from patchbay.dialects.anthropic._output_schemas import enforceable
from patchbay.dialects.anthropic._quirks import NAME, AnthropicQuirks, ModelFeatures
from patchbay.dialects.anthropic._write_blocks import Written, cache_control
from patchbay.dialects.anthropic._write_messages import MessageWriter
from patchbay.dialects.anthropic._write_thinking import ThinkingWriter
from patchbay.dialects.base import WrittenRequest
from patchbay.dialects.custom_tools import NamespaceIntro, as_function
from patchbay.dialects.request_warnings import Warnings
from patchbay.dialects.tool_names import ToolNames
from patchbay.dialects.tool_schemas import as_object_schema
from patchbay.errors import InvalidRequest

_CHOICES = {
    ToolChoice.MODE_AUTO: "auto",
    ToolChoice.MODE_ANY: "any",
    ToolChoice.MODE_TOOL: "tool",
    ToolChoice.MODE_NONE: "none",
}
_LONGEST_NAME = 128
# OpenAI's `default` asks for what Anthropic calls `standard_only`.
_SERVICE_TIERS = {"auto": "auto", "standard_only": "standard_only", "default": "standard_only"}


def write_request(chat: Chat, model: str, quirks: AnthropicQuirks) -> WrittenRequest:
    """Writes a body for an upstream.

    The messages come last, so that the bytes of one turn, up to the end of its last message, begin those of the next.

    Raises:
        InvalidRequest: There are no messages, or JSON carried in the chat, such as a tool's schema, is no object.
    """
    try:
        return _write(chat, model, quirks)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"The request carries JSON that is not an object: {error}") from error


def _write(chat: Chat, model: str, quirks: AnthropicQuirks) -> WrittenRequest:
    warnings = Warnings(NAME)
    names = ToolNames(chat.tools, _LONGEST_NAME, FORBIDDEN)
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
    _write_output_config(body, chat, thinking_writer.effort(), features, warnings)
    _write_metadata(body, chat, warnings)
    warnings.of_sampling(chat.sampling)
    if chat.sampling.logprobs:
        warnings.dropped("logprobs")
    if chat.sampling.top_logprobs:
        warnings.dropped("top_logprobs")
    rest = load_fields(warnings.own_extension(chat.extensions))
    if chat.reasoning.mode and not thinking:
        # What is left of a `thinking` that was dropped.
        rest.pop("thinking", None)
    add_missing(body, rest)
    if quirks.automatic_caching and not _has_cache_mark(chat):
        body.setdefault("cache_control", {"type": "ephemeral"})
    # After the extensions, which hold what is left of these fields but never all of them.
    _write_tools(body, chat, features, warnings, names)
    if system:
        body["system"] = system
    body["messages"] = messages
    return WrittenRequest(dump(body), warnings.all(), names.changed, warnings.notes())


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


def _write_output_config(
    body: Object, chat: Chat, effort: str | None, features: ModelFeatures, warnings: Warnings
) -> None:
    config: Object = {}
    if effort is not None:
        config["effort"] = effort
    wanted = chat.response_format
    if wanted.type == ResponseFormat.TYPE_JSON_SCHEMA and wanted.schema_json:
        if features.structured_outputs:
            schema = _enforceable(wanted.schema_json, "response_format", warnings)
            config["format"] = {"type": "json_schema", "schema": carried(schema)}
        else:
            warnings.dropped("response_format", "is not supported by this model")
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


def _enforceable(schema: str, parameter: str, warnings: Warnings) -> str:
    fit, dropped = enforceable(schema)
    if dropped:
        warnings.add(parameter, f"this backend cannot enforce {', '.join(dropped)}; the schema is sent without")
    return fit


def _write_tools(body: Object, chat: Chat, features: ModelFeatures, warnings: Warnings, names: ToolNames) -> None:
    choice_rest = body.pop("tool_choice", None)
    intro = NamespaceIntro(chat.namespaces)
    offered = names.allowed(chat)
    tools = [written for tool in offered if (written := _tool(tool, features, warnings, names, intro)) is not None]
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


def _tool(
    tool: Tool, features: ModelFeatures, warnings: Warnings, names: ToolNames, intro: NamespaceIntro
) -> Written | None:
    if tool.WhichOneof("kind") == "opaque":
        if tool.opaque.dialect == NAME:
            return carried(tool.opaque.json)
        warnings.dropped_tool(tool.opaque)
        return None
    is_custom = tool.HasField("custom")
    function: FunctionTool = as_function(tool.custom) if is_custom else tool.function
    written: Object = {"name": names.of(function.name, function.namespace, custom=is_custom).name}
    description = intro.described(function)
    if description is not None:
        written["description"] = description
    is_strict = function.strict and features.structured_outputs
    written["input_schema"] = _input_schema(function.input_schema_json, warnings, is_strict=is_strict)
    if function.HasField("strict") and features.structured_outputs:
        written["strict"] = function.strict
    elif function.strict:
        warnings.dropped("tools.function.strict", "is not supported by this model")
    if tool.HasField("cache"):
        written["cache_control"] = cache_control(tool.cache)
    if tool.extensions:
        add_missing(written, load_fields(warnings.own_extension(tool.extensions)))
    return written


def _input_schema(schema: str, warnings: Warnings, *, is_strict: bool) -> msgspec.Raw:
    try:
        if is_strict and schema:
            schema = _enforceable(schema, "tools", warnings)
        return msgspec.Raw(as_object_schema(schema, with_properties=False))
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest("tools: the schema of a tool's input must be a JSON object", "tools") from error


def _tool_choice(chat: Chat, warnings: Warnings, names: ToolNames) -> Object:
    choice = chat.tool_choice
    if choice.HasField("opaque"):
        if choice.opaque.dialect == NAME:
            return dict(load_fields(choice.opaque.json))
        warnings.dropped("tool_choice", f"of a type that only the {choice.opaque.dialect} API knows")
    written: Object = {"type": _CHOICES[choice.mode]} if choice.mode in _CHOICES else {}
    if choice.mode == ToolChoice.MODE_TOOL:
        written["name"] = names.of(choice.name, choice.namespace, custom=choice.custom).name
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
