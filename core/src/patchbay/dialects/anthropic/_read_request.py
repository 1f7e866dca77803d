"""Reads a request body of the Messages API: https://platform.claude.com/docs/en/api/messages/create"""

from __future__ import annotations

from typing import Annotated

import msgspec

from patchbay.canonical import (
    ROLE_ASSISTANT,
    ROLE_SYSTEM,
    ROLE_USER,
    Chat,
    Message,
    Reasoning,
    ResponseFormat,
    Role,
    Tool,
    ToolChoice,
)
from patchbay.dialects.anthropic._json import NULL, Fields, dump, is_null, object_text, text_of
from patchbay.dialects.anthropic._quirks import NAME
from patchbay.dialects.anthropic._read_blocks import read_cache, read_content
from patchbay.dialects.anthropic._shapes import Shape
from patchbay.dialects.surrogates import mend_text
from patchbay.errors import InvalidRequest

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    messages: list[msgspec.Raw]
    # The API requires it. It does not when tokens are only counted, and a backend has its own default.
    max_tokens: _Count | None = None
    system: msgspec.Raw = NULL
    tools: list[msgspec.Raw] | None = None
    tool_choice: msgspec.Raw = NULL
    temperature: float | None = None
    top_p: float | None = None
    top_k: _Count | None = None
    stop_sequences: list[str] | None = None
    thinking: msgspec.Raw = NULL
    output_config: msgspec.Raw = NULL
    output_format: msgspec.Raw = NULL
    metadata: msgspec.Raw = NULL
    service_tier: str | None = None
    stream: bool | None = None


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: str
    content: msgspec.Raw


class _ToolType(msgspec.Struct):
    type: str | None = None


class _Tool(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    input_schema: msgspec.Raw
    description: str | None = None
    strict: bool | None = None
    type: str | None = None
    cache_control: msgspec.Raw = NULL


class _Choice(msgspec.Struct, tag_field="type", tag="", forbid_unknown_fields=True):
    pass


class _Auto(_Choice, tag="auto"):
    disable_parallel_tool_use: bool | None = None


class _Any(_Choice, tag="any"):
    disable_parallel_tool_use: bool | None = None


class _Named(_Choice, tag="tool"):
    name: str
    disable_parallel_tool_use: bool | None = None


class _None(_Choice, tag="none"):
    pass


class _Thinking(msgspec.Struct, tag_field="type", tag="", forbid_unknown_fields=True):
    pass


class _Enabled(_Thinking, tag="enabled"):
    budget_tokens: _Count
    display: str | None = None


class _Adaptive(_Thinking, tag="adaptive"):
    display: str | None = None


class _Disabled(_Thinking, tag="disabled"):
    pass


class _OutputConfig(msgspec.Struct, forbid_unknown_fields=True):
    effort: str | None = None
    format: msgspec.Raw = NULL


class _Format(msgspec.Struct, tag_field="type", tag="json_schema", forbid_unknown_fields=True):
    schema: msgspec.Raw


class _Metadata(msgspec.Struct, forbid_unknown_fields=True):
    user_id: str | None = None


_BODY = Shape(_Body)
_MESSAGE = Shape(_Message)
_TOOL = Shape(_Tool)
_TOOL_TYPE = Shape(_ToolType)
_CHOICE: Shape[_Choice] = Shape(_Auto, _Any, _Named, _None)
_THINKING: Shape[_Thinking] = Shape(_Enabled, _Adaptive, _Disabled)
_OUTPUT_CONFIG = Shape(_OutputConfig)
_FORMAT = Shape(_Format)
_METADATA = Shape(_Metadata)

_ROLES: dict[str, Role.ValueType] = {"user": ROLE_USER, "assistant": ROLE_ASSISTANT, "system": ROLE_SYSTEM}


def read_request(body: bytes) -> Chat:
    """Reads a client's body; its `model` is the caller's to read.

    Raises:
        InvalidRequest: It is not JSON, or a field is missing or of the wrong type.
    """
    try:
        # Texts of the body are carried as they are: one that is no UTF-8 could not be.
        body.decode()
        return _read(mend_text(body))
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The request body cannot be read: {error}") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("The request body is nested too deeply.") from error


def _read(raw: bytes) -> Chat:
    body, rest = _BODY.read(raw, "")
    assert body is not None  # only a tagged shape may be of no known type
    if not body.messages:
        raise InvalidRequest("messages: at least one message is required", "messages")
    chat = Chat(stream=bool(body.stream))
    if not is_null(body.system):
        read_content(body.system, chat.system, "system")
    for index, item in enumerate(body.messages):
        _read_message(item, chat.messages.add(), f"messages.{index}")
    for index, item in enumerate(body.tools or ()):
        _read_tool(item, chat.tools.add(), f"tools.{index}")
    _read_sampling(chat, body)
    _read_tool_choice(chat, body.tool_choice, rest)
    _read_thinking(chat, body.thinking, rest)
    _read_output(chat, body, rest)
    _read_metadata(chat, body.metadata, rest)
    if body.service_tier is not None:
        chat.service_tier = body.service_tier
    if rest:
        chat.extensions[NAME] = object_text(rest)
    return chat


def _read_message(raw: msgspec.Raw, message: Message, path: str) -> None:
    read, rest = _MESSAGE.read(raw, path)
    assert read is not None
    role = _ROLES.get(read.role)
    if role is None:
        raise InvalidRequest(f"{path}.role: Input should be 'user', 'assistant' or 'system'", f"{path}.role")
    message.role = role
    read_content(read.content, message.blocks, f"{path}.content")
    if rest:
        message.extensions[NAME] = object_text(rest)


def _read_tool(raw: msgspec.Raw, tool: Tool, path: str) -> None:
    kind, _ = _TOOL_TYPE.read(raw, path)
    if kind is not None and kind.type not in (None, "custom"):
        tool.opaque.dialect = NAME
        tool.opaque.json = text_of(raw)
        return
    read, rest = _TOOL.read(raw, path)
    assert read is not None
    function = tool.function
    function.name = read.name
    if memoryview(read.input_schema)[0] != ord("{"):
        raise InvalidRequest(f"{path}.input_schema: Input should be a valid dictionary", f"{path}.input_schema")
    function.input_schema_json = text_of(read.input_schema)
    if read.description is not None:
        function.description = read.description
    if read.strict is not None:
        function.strict = read.strict
    if not is_null(read.cache_control):
        read_cache(read.cache_control, tool.cache, f"{path}.cache_control")
    if rest:
        tool.extensions[NAME] = object_text(rest)


def _read_sampling(chat: Chat, body: _Body) -> None:
    sampling = chat.sampling  # unset until a field of it is
    if body.max_tokens is not None:
        sampling.max_tokens = body.max_tokens
    if body.temperature is not None:
        sampling.temperature = body.temperature
    if body.top_p is not None:
        sampling.top_p = body.top_p
    if body.top_k is not None:
        sampling.top_k = body.top_k
    if body.stop_sequences:
        sampling.stop.extend(body.stop_sequences)


def _read_tool_choice(chat: Chat, raw: msgspec.Raw, rest: Fields) -> None:
    if is_null(raw):
        return
    choice, more = _CHOICE.read(raw, "tool_choice")
    match choice:
        case _Auto():
            chat.tool_choice.mode = ToolChoice.MODE_AUTO
        case _Any():
            chat.tool_choice.mode = ToolChoice.MODE_ANY
        case _Named():
            chat.tool_choice.mode = ToolChoice.MODE_TOOL
            chat.tool_choice.name = choice.name
        case _None():
            chat.tool_choice.mode = ToolChoice.MODE_NONE
        case _:
            chat.tool_choice.opaque.dialect = NAME
            chat.tool_choice.opaque.json = text_of(raw)
    if isinstance(choice, _Auto | _Any | _Named) and choice.disable_parallel_tool_use is not None:
        chat.parallel_tool_calls = not choice.disable_parallel_tool_use
    if more:
        rest["tool_choice"] = msgspec.Raw(dump(more))


def _read_thinking(chat: Chat, raw: msgspec.Raw, rest: Fields) -> None:
    if is_null(raw):
        return
    thinking, more = _THINKING.read(raw, "thinking")
    match thinking:
        case _Enabled():
            chat.reasoning.mode = Reasoning.MODE_ENABLED
            chat.reasoning.budget_tokens = thinking.budget_tokens
        case _Adaptive():
            chat.reasoning.mode = Reasoning.MODE_ADAPTIVE
        case _Disabled():
            chat.reasoning.mode = Reasoning.MODE_DISABLED
        case _:
            rest["thinking"] = raw
    if isinstance(thinking, _Enabled | _Adaptive) and thinking.display is not None:
        chat.reasoning.display = thinking.display
    if more:
        rest["thinking"] = msgspec.Raw(dump(more))


def _read_output(chat: Chat, body: _Body, rest: Fields) -> None:
    if not is_null(body.output_config):
        config, more = _OUTPUT_CONFIG.read(body.output_config, "output_config")
        assert config is not None
        if config.effort is not None:
            chat.reasoning.effort = config.effort
        if not is_null(config.format) and not _read_format(chat, config.format, "output_config.format"):
            more["format"] = config.format
        if more:
            rest["output_config"] = msgspec.Raw(dump(more))
    # The name that the format had while it was in beta.
    if not is_null(body.output_format) and not _read_format(chat, body.output_format, "output_format"):
        rest["output_format"] = body.output_format


def _read_format(chat: Chat, raw: msgspec.Raw, path: str) -> bool:
    """Reads a format of a known type that holds nothing unknown."""
    read, rest = _FORMAT.read(raw, path)
    if read is None or rest:
        return False
    chat.response_format.type = ResponseFormat.TYPE_JSON_SCHEMA
    chat.response_format.schema_json = text_of(read.schema)
    return True


def _read_metadata(chat: Chat, raw: msgspec.Raw, rest: Fields) -> None:
    if is_null(raw):
        return
    metadata, more = _METADATA.read(raw, "metadata")
    if metadata is not None and metadata.user_id is not None:
        chat.user = metadata.user_id
    if more:
        rest["metadata"] = msgspec.Raw(dump(more))
