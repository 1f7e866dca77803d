"""Reads and checks the body of `POST /v1/chat/completions`, with the API's own words for what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from patchbay_standin.errors import ProviderError, invalid_request
from patchbay_standin.prompt import (
    Choice,
    OfferedTool,
    Prompt,
    ToolResult,
    estimate_tokens,
    without_reminders,
    written_texts,
)
from patchbay_standin.script import JsonObject

_ROLES: Final = ("system", "assistant", "user", "function", "tool", "developer")
_MAX_TOP_LOGPROBS: Final = 20
_PART_TYPES: Final = frozenset({"text", "image_url", "input_audio", "file", "refusal"})


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""


class _CustomCall(msgspec.Struct):
    name: str
    input: str = ""


class _ToolCall(msgspec.Struct):
    id: str
    type: str = "function"
    function: _Function | None = None
    custom: _CustomCall | None = None


class Message(msgspec.Struct):
    """One message of the conversation."""

    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None


class _FunctionTool(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw(b"{}")


class _CustomTool(msgspec.Struct):
    name: str
    description: str | None = None
    format: msgspec.Raw = msgspec.Raw(b"")


class _Tool(msgspec.Struct):
    type: str = "function"
    function: _FunctionTool | None = None
    custom: _CustomTool | None = None


class _NamedTool(msgspec.Struct):
    name: str = ""


class _ToolChoice(msgspec.Struct):
    type: str
    function: _NamedTool = msgspec.field(default_factory=_NamedTool)
    custom: _NamedTool = msgspec.field(default_factory=_NamedTool)


class _JsonSchema(msgspec.Struct):
    name: str
    schema: JsonObject = {}


class _ResponseFormat(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Request(msgspec.Struct, kw_only=True):
    """The fields that the stand-in looks at."""

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: _ResponseFormat | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


_decoder: Final = msgspec.json.Decoder(Request)


def decode(body: bytes) -> Request:
    """Reads and checks a request. Raises ProviderError."""
    try:
        request = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise explain(error) from None
    _check(request.messages)
    if request.n is not None and not 1 <= request.n <= 128:
        raise invalid_request(
            f"Invalid 'n': integer {'below minimum' if request.n < 1 else 'above maximum'} value."
            f" Expected a value between 1 and 128, but got {request.n} instead.",
            param="n",
            code="integer_below_min_value" if request.n < 1 else "integer_above_max_value",
        )
    if request.top_logprobs is not None and not 0 <= request.top_logprobs <= _MAX_TOP_LOGPROBS:
        below = request.top_logprobs < 0
        raise invalid_request(
            f"Invalid 'top_logprobs': integer {'below minimum' if below else 'above maximum'} value. Expected a value"
            f" {'>= 0' if below else f'<= {_MAX_TOP_LOGPROBS}'}, but got {request.top_logprobs} instead.",
            param="top_logprobs",
            code="integer_below_min_value" if below else "integer_above_max_value",
        )
    if request.stream_options is not None and not request.stream:
        raise invalid_request(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
        )
    return request


def to_prompt(request: Request) -> Prompt:
    """What the stand-in needs to know of a request."""
    turn = _last_turn(request.messages)
    choice, chosen = _tool_choice(request.tool_choice)
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or ()
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    return Prompt(
        model=request.model,
        stream=bool(request.stream),
        texts=tuple(text for message in turn if message.role == "user" for text in _user_text(message)),
        tool_results=tuple(
            ToolResult(without_reminders(_plain(message.content))) for message in turn if message.role == "tool"
        ),
        tools=tuple(_offered(request.tools or ())),
        choice=choice,
        chosen_tool=chosen,
        parallel=request.parallel_tool_calls is not False,
        schema=_schema(request.response_format),
        max_tokens=limit,
        stop=tuple(stop),
        tokens=_tokens(request),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        answers=request.n or 1,
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )


def explain(error: msgspec.DecodeError) -> ProviderError:
    """The API's words for a body of the wrong shape."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return invalid_request(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP"
            f" library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON: {text})"
        )
    path = ""
    if " - at `" in text:
        text, _, path = text.partition(" - at `")
        path = path.rstrip("`").removeprefix("$").removeprefix(".")
    missing = re.search(r"missing required field `(\w+)`", text)
    if missing:
        param = f"{path}.{missing.group(1)}" if path else missing.group(1)
        return invalid_request(
            f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
        )
    found = re.search(r"Expected `([^`]+)`, got `([^`]+)`", text)
    if found is None:
        return invalid_request(f"Invalid value for '{path}': {text}", param=path, code="invalid_value")
    wanted, got = (" or ".join(_TYPE_WORDS.get(name, name) for name in group.split(" | ")) for group in found.groups())
    return invalid_request(
        f"Invalid type for '{path}': expected {wanted}, but got {got} instead.", param=path, code="invalid_type"
    )


_TYPE_WORDS: Final = {
    "int": "an integer",
    "float": "a decimal number",
    "str": "a string",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise invalid_request(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            param="messages",
            code="empty_array",
        )
    waiting: list[str] = []
    for index, message in enumerate(messages):
        _check_message(message, index)
        if message.role == "tool":
            if message.tool_call_id not in waiting:
                raise invalid_request(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceding message with"
                    " 'tool_calls'.",
                    param=f"messages.[{index}].role",
                )
            waiting.remove(message.tool_call_id)
            continue
        if waiting:
            raise _unanswered(waiting, index)
        waiting = [call.id for call in message.tool_calls or ()]
    if waiting:
        raise _unanswered(waiting, len(messages))


def _unanswered(calls: Sequence[str], index: int) -> ProviderError:
    return invalid_request(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'."
        f" The following tool_call_ids did not have response messages: {', '.join(calls)}",
        param=f"messages.[{index}].role",
    )


def _check_message(message: Message, index: int) -> None:
    if message.role not in _ROLES:
        raise invalid_request(
            f"Invalid value: '{message.role}'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool',"
            " and 'developer'.",
            param=f"messages[{index}].role",
            code="invalid_value",
        )
    if message.content is None and not (message.role == "assistant" and message.tool_calls):
        raise invalid_request(
            f"Invalid value for 'content': expected a string, got null. (param: messages.[{index}].content)",
            param=f"messages.[{index}].content",
        )
    if message.role == "tool" and not message.tool_call_id:
        raise invalid_request(
            f"Missing required parameter: 'messages[{index}].tool_call_id'.",
            param=f"messages[{index}].tool_call_id",
            code="missing_required_parameter",
        )
    for position, part in enumerate(message.content if isinstance(message.content, list) else ()):
        if part.type not in _PART_TYPES:
            raise invalid_request(
                f"Invalid value: '{part.type}'. Supported values are: 'text', 'image_url', 'input_audio', 'refusal',"
                " and 'file'.",
                param=f"messages[{index}].content[{position}].type",
                code="invalid_value",
            )


def _last_turn(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages after the last one of the assistant."""
    start = len(messages)
    while start and messages[start - 1].role != "assistant":
        start -= 1
    return messages[start:]


def _user_text(message: Message) -> Iterator[str]:
    if isinstance(message.content, str):
        yield from written_texts([message.content])
    elif message.content:
        yield from written_texts(part.text for part in message.content if part.type == "text")


def _plain(content: str | list[_Part] | None) -> str:
    if isinstance(content, list):
        return "\n".join(part.text for part in content)
    return content or ""


def _offered(tools: Sequence[_Tool]) -> Iterator[OfferedTool]:
    for tool in tools:
        if tool.function is not None:
            yield OfferedTool(tool.function.name, _json_object(tool.function.parameters))
        elif tool.custom is not None:
            yield OfferedTool(tool.custom.name, {}, is_custom=True)


def _json_object(raw: msgspec.Raw) -> JsonObject:
    value = msgspec.json.decode(raw)
    return value if isinstance(value, dict) else {}


def _tool_choice(choice: str | _ToolChoice | None) -> tuple[Choice, str]:
    if isinstance(choice, _ToolChoice):
        named = {"function": choice.function, "custom": choice.custom}.get(choice.type)
        return ("tool", named.name) if named is not None else ("auto", "")
    match choice:
        case None | "auto":
            return "auto", ""
        case "none":
            return "none", ""
        case "required":
            return "any", ""
        case other:
            raise invalid_request(
                f"Invalid value: '{other}'. Supported values are: 'none', 'auto', and 'required'.",
                param="tool_choice",
                code="invalid_value",
            )


def _schema(response_format: _ResponseFormat | None) -> JsonObject | None:
    if response_format is None or response_format.type == "text":
        return None
    if response_format.json_schema is not None:
        return response_format.json_schema.schema
    return {"type": "object"}


def _tokens(request: Request) -> int:
    characters = 0
    for message in request.messages:
        characters += 16 + len(_plain(message.content))
        for call in message.tool_calls or ():
            if call.function is not None:
                characters += len(call.function.name) + len(call.function.arguments)
            elif call.custom is not None:
                characters += len(call.custom.name) + len(call.custom.input)
    for tool in request.tools or ():
        if tool.function is not None:
            characters += len(tool.function.name) + len(tool.function.description or "")
            characters += len(bytes(tool.function.parameters))
        elif tool.custom is not None:
            characters += len(tool.custom.name) + len(tool.custom.description or "") + len(bytes(tool.custom.format))
    return estimate_tokens(characters)
