"""Reads a Chat Completions request. Format: https://platform.openai.com/docs/api-reference/chat/create"""

from __future__ import annotations

import msgspec

from patchbay.canonical import (
    Chat,
    CustomTool,
    FunctionTool,
    Opaque,
    Reasoning,
    ResponseFormat,
    Sampling,
    Tool,
    ToolChoice,
)
from patchbay.dialects.json_text import load_object, object_text
from patchbay.dialects.openai_chat._formats import read_format
from patchbay.dialects.openai_chat._quirks import NAME
from patchbay.dialects.openai_chat._read_messages import read_cache_mark, read_messages
from patchbay.dialects.openai_fields import Fields, missing, read_body, unsupported_value, wrong_type

_MAX_UINT32 = 2**32 - 1

_MODES = {
    "auto": ToolChoice.MODE_AUTO,
    "none": ToolChoice.MODE_NONE,
    "required": ToolChoice.MODE_ANY,
}

# The types of tools.
_KINDS = ("function", "custom")


def read_request(body: bytes) -> Chat:
    """Reads a client's body into a chat.

    Raises:
        InvalidRequest: When the body is not JSON, lacks a required field, or a field has the wrong type.
    """
    return read_body(body, _read)


def _read(fields: Fields) -> Chat:
    fields.raw("model")
    chat = Chat()
    messages = fields.array("messages")
    if messages is None:
        raise missing("messages")
    read_messages(messages, chat)
    _read_tools(fields, chat)
    _read_sampling(fields, chat.sampling)
    _read_reasoning(fields, chat)
    _read_response_format(fields, chat)
    _read_stream(fields, chat)
    if (user := fields.string("user")) is not None:
        chat.user = user
    if (tier := fields.string("service_tier")) is not None:
        chat.service_tier = tier
    metadata = fields.object("metadata")
    if metadata is not None:
        for name in list(metadata.rest()):
            chat.metadata[name] = metadata.required_string(name)
    if rest := fields.rest():
        chat.extensions[NAME] = object_text(rest)
    return chat


def _read_stream(fields: Fields, chat: Chat) -> None:
    chat.stream = fields.boolean("stream") or False
    options = fields.object("stream_options")
    if options is not None:
        chat.include_usage = options.boolean("include_usage") or False
        fields.put_back("stream_options", options.rest())


def _read_sampling(fields: Fields, sampling: Sampling) -> None:
    max_tokens = fields.integer("max_tokens")
    max_completion_tokens = fields.integer("max_completion_tokens")
    _set(sampling, "max_tokens", max_tokens if max_completion_tokens is None else max_completion_tokens)
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
        _set(sampling, name, fields.number(name))
    _set(sampling, "top_k", _top_k(fields))
    _set(sampling, "seed", fields.integer("seed", minimum=-(2**63)))
    _set(sampling, "n", fields.integer("n", maximum=_MAX_UINT32))
    _set(sampling, "logprobs", fields.boolean("logprobs"))
    _set(sampling, "top_logprobs", fields.integer("top_logprobs", maximum=_MAX_UINT32))
    bias = fields.object("logit_bias")
    if bias is not None:
        sampling.logit_bias_json = object_text(bias.rest())
    stop = fields.raw("stop")
    if stop is None:
        return
    try:
        sampling.stop.extend(msgspec.json.decode(stop, type=list[str]) if stop[0] == ord("[") else [_string(stop)])
    except msgspec.ValidationError as error:
        raise wrong_type("stop", "a string or an array of strings", stop) from error


def _top_k(fields: Fields) -> int | None:
    # vLLM's -1 and 0 mean all tokens, which is the same as saying nothing.
    value = fields.integer("top_k", minimum=-1)
    return value if value is not None and value > 0 else None


def _string(value: bytes) -> str:
    return msgspec.json.decode(value, type=str)


def _set(message: Sampling | FunctionTool | CustomTool | ResponseFormat, name: str, value: float | str | None) -> None:
    if value is not None:
        setattr(message, name, value)


def _read_reasoning(fields: Fields, chat: Chat) -> None:
    effort = fields.string("reasoning_effort")
    if effort is not None:
        _set_effort(chat.reasoning, effort)
    # OpenRouter: https://openrouter.ai/docs/use-cases/reasoning-tokens
    value = fields.raw("reasoning")
    if value is None:
        return
    options = Fields.of(value, "reasoning")
    enabled = options.boolean("enabled")
    if enabled is not None:
        chat.reasoning.mode = Reasoning.MODE_ENABLED if enabled else Reasoning.MODE_DISABLED
    budget = options.integer("max_tokens")
    if budget is not None:
        chat.reasoning.mode = chat.reasoning.mode or Reasoning.MODE_ENABLED
        chat.reasoning.budget_tokens = budget
    effort = options.string("effort")
    if effort is not None:
        _set_effort(chat.reasoning, effort)
    if options.boolean("exclude"):
        chat.reasoning.display = "omitted"
    fields.put_back("reasoning", options.rest())


def _set_effort(reasoning: Reasoning, effort: str) -> None:
    reasoning.effort = effort
    if effort == "none":
        reasoning.mode = Reasoning.MODE_DISABLED


def _read_response_format(fields: Fields, chat: Chat) -> None:
    value = fields.raw("response_format")
    if value is None:
        return
    options = Fields.of(value, "response_format")
    kind = options.required_string("type")
    wanted = chat.response_format
    match kind:
        case "text":
            wanted.type = ResponseFormat.TYPE_TEXT
        case "json_object":
            wanted.type = ResponseFormat.TYPE_JSON_OBJECT
        case "json_schema":
            wanted.type = ResponseFormat.TYPE_JSON_SCHEMA
            schema = options.object("json_schema")
            if schema is None:
                raise missing("response_format.json_schema")
            wanted.name = schema.required_string("name")
            _set(wanted, "description", schema.string("description"))
            _set(wanted, "schema_json", schema.text("schema"))
            _set(wanted, "strict", schema.boolean("strict"))
            options.put_back("json_schema", schema.rest())
        case _:
            # Formats of one server only, such as vLLM's grammars, ride along whole.
            chat.ClearField("response_format")
            fields.put_back("response_format", load_object(value))
            return
    fields.put_back("response_format", options.rest())


def _read_tools(fields: Fields, chat: Chat) -> None:
    for number, raw in enumerate(fields.array("tools") or []):
        chat.tools.append(_read_tool(raw, f"tools[{number}]"))
    for number, raw in enumerate(fields.array("functions") or []):
        path = f"functions[{number}]"
        function = Fields.of(raw, path)
        tool = Tool(function=_read_function(function))
        if rest := function.rest():
            tool.extensions[NAME] = object_text({"function": object_text(rest).encode()})
        chat.tools.append(tool)
    parallel = fields.boolean("parallel_tool_calls")
    if parallel is not None:
        chat.parallel_tool_calls = parallel
    legacy_choice = fields.raw("function_call")
    if legacy_choice is not None:
        _read_legacy_choice(legacy_choice, chat.tool_choice)
    choice = fields.raw("tool_choice")
    if choice is not None:
        _read_choice(choice, chat.tool_choice)


def _read_tool(raw: bytes, path: str) -> Tool:
    fields = Fields.of(raw, path)
    kind = fields.required_string("type")
    if kind not in _KINDS:
        return Tool(opaque=Opaque(dialect=NAME, json=raw.decode()))
    definition = fields.required(kind, fields.object(kind))
    is_custom = kind == "custom"
    tool = Tool(custom=_read_custom(definition)) if is_custom else Tool(function=_read_function(definition))
    mark = read_cache_mark(fields)
    if mark is not None:
        tool.cache.CopyFrom(mark)
    fields.put_back(kind, definition.rest())
    if rest := fields.rest():
        tool.extensions[NAME] = object_text(rest)
    return tool


def _read_function(fields: Fields) -> FunctionTool:
    function = FunctionTool(name=fields.required_string("name"))
    _set(function, "description", fields.string("description"))
    schema = fields.raw("parameters")
    if schema is not None:
        if not schema.startswith(b"{"):
            raise wrong_type(fields.at("parameters"), "an object", schema)
        function.input_schema_json = schema.decode()
    _set(function, "strict", fields.boolean("strict"))
    return function


def _read_custom(fields: Fields) -> CustomTool:
    custom = CustomTool(name=fields.required_string("name"))
    _set(custom, "description", fields.string("description"))
    wanted = fields.object("format")
    if wanted is not None:
        custom.format_json = read_format(wanted)
    return custom


def _read_choice(raw: bytes, choice: ToolChoice) -> None:
    if raw.startswith(b'"'):
        choice.mode = _mode(_string(raw), "tool_choice")
        return
    fields = Fields.of(raw, "tool_choice")
    kind = fields.required_string("type")
    if kind in _KINDS:
        choice.name = fields.required(kind, fields.object(kind)).required_string("name")
        choice.mode = ToolChoice.MODE_TOOL
        choice.custom = kind == "custom"
    elif kind != "allowed_tools" or not _read_allowed(fields, choice):
        choice.CopyFrom(ToolChoice(opaque=Opaque(dialect=NAME, json=raw.decode())))


def _read_allowed(fields: Fields, choice: ToolChoice) -> bool:
    """Reads a choice among some tools, unless it says more than their names."""
    options = fields.object("allowed_tools") or Fields({})
    mode = options.string("mode")
    for number, raw in enumerate(options.array("tools") or []):
        tool = Fields.of(raw, f"{options.at('tools')}[{number}]")
        kind = tool.required_string("type")
        if kind not in _KINDS:
            return False
        named = tool.required(kind, tool.object(kind))
        choice.allowed.add(name=named.required_string("name"), custom=kind == "custom")
        if tool.rest() or named.rest():
            return False
    if mode not in ("auto", "required") or not choice.allowed or options.rest():
        return False
    choice.mode = _MODES[mode]
    return True


def _read_legacy_choice(raw: bytes, choice: ToolChoice) -> None:
    if raw.startswith(b'"'):
        choice.mode = _mode(_string(raw), "function_call")
        return
    choice.mode = ToolChoice.MODE_TOOL
    choice.name = Fields.of(raw, "function_call").required_string("name")


def _mode(value: str, path: str) -> ToolChoice.Mode.ValueType:
    if value not in _MODES:
        raise unsupported_value(path, value, tuple(_MODES))
    return _MODES[value]
