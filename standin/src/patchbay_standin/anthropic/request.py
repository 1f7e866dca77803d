"""Reads and checks the body of `POST /v1/messages`, with the API's own words for what is wrong."""

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

_BLOCK_TYPES: Final = frozenset(
    {
        "text",
        "image",
        "document",
        "search_result",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "tool_result",
        "tool_reference",
        "server_tool_use",
        "web_search_tool_result",
        "web_fetch_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "mcp_tool_use",
        "mcp_tool_result",
        "container_upload",
        "compaction",
    }
)


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")
    tool_use_id: str = ""
    content: str | list[_Block] | msgspec.UnsetType | JsonObject | None = msgspec.UNSET
    is_error: bool | None = False


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Block]


class _Tool(msgspec.Struct):
    # Provider-run tools have a type and no schema.
    name: str = ""
    description: str = ""
    input_schema: msgspec.Raw = msgspec.Raw(b"{}")


class _ToolChoice(msgspec.Struct):
    type: str
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class _Format(msgspec.Struct):
    type: str
    schema: JsonObject = {}


class _OutputConfig(msgspec.Struct):
    format: _Format | None = None


class _CountRequest(msgspec.Struct):
    model: str
    messages: list[_Message]
    system: str | list[_Block] | None = None
    tools: list[_Tool] | None = None


class _Request(_CountRequest, kw_only=True):
    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    tool_choice: _ToolChoice | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None


_request_decoder: Final = msgspec.json.Decoder(_Request)
_count_decoder: Final = msgspec.json.Decoder(_CountRequest)


def read_request(body: bytes) -> Prompt:
    """Reads and checks a request. Raises ProviderError."""
    try:
        request = _request_decoder.decode(body)
    except msgspec.DecodeError as error:
        raise _explain(error) from None
    if request.max_tokens < 1:
        raise invalid_request("max_tokens: Input should be greater than or equal to 1")
    _check(request.messages)
    turn = _last_turn(request.messages)
    choice, chosen = _tool_choice(request.tool_choice)
    output = request.output_format or (request.output_config.format if request.output_config else None)
    return Prompt(
        model=request.model,
        stream=bool(request.stream),
        texts=tuple(_texts(turn)),
        tool_results=tuple(_tool_results(turn)),
        tools=tuple(_offered(request.tools or ())),
        choice=choice,
        chosen_tool=chosen,
        parallel=not (request.tool_choice and request.tool_choice.disable_parallel_tool_use),
        schema=output.schema if output is not None and output.type == "json_schema" else None,
        max_tokens=request.max_tokens,
        stop=tuple(request.stop_sequences or ()),
        tokens=_tokens(request),
    )


def count_tokens(body: bytes) -> int:
    """The estimated length of the prompt in a body of `POST /v1/messages/count_tokens`. Raises ProviderError."""
    try:
        request = _count_decoder.decode(body)
    except msgspec.DecodeError as error:
        raise _explain(error) from None
    _check(request.messages)
    return _tokens(request)


def _offered(tools: Sequence[_Tool]) -> Iterator[OfferedTool]:
    for index, tool in enumerate(tools):
        schema = msgspec.json.decode(tool.input_schema)
        if not isinstance(schema, dict):
            raise invalid_request(f"tools.{index}.custom.input_schema: Input should be a valid dictionary")
        if tool.name:
            yield OfferedTool(tool.name, schema)


def _explain(error: msgspec.DecodeError) -> ProviderError:
    """The API's words for a body of the wrong shape."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return invalid_request(f"The request body is not valid JSON: {text}")
    path = ""
    if " - at `" in text:
        text, _, path = text.partition(" - at `")
        path = re.sub(r"\[(\d+|\.\.\.)\]", r".\1", path.rstrip("`").removeprefix("$")).lstrip(".")
    missing = re.search(r"missing required field `(\w+)`", text)
    if missing:
        return invalid_request(f"{f'{path}.' if path else ''}{missing.group(1)}: Field required")
    expected = re.search(r"Expected `([^`]+)`", text)
    wanted = _TYPE_WORDS.get(expected.group(1), text) if expected else text
    return invalid_request(f"{path or 'body'}: {wanted}")


_TYPE_WORDS: Final = {
    "int": "Input should be a valid integer",
    "str": "Input should be a valid string",
    "bool": "Input should be a valid boolean",
    "array": "Input should be a valid list",
    "object": "Input should be a valid dictionary",
    "str | array": "Input should be a valid string or list",
}


def _check(messages: Sequence[_Message]) -> None:
    if not messages:
        raise invalid_request("messages: at least one message is required")
    open_calls: list[str] = []
    for index, message in enumerate(messages):
        if message.role not in ("user", "assistant", "system"):
            raise invalid_request(f"messages.{index}.role: Input should be 'user' or 'assistant'")
        blocks = message.content if isinstance(message.content, list) else ()
        if not message.content and not (index == len(messages) - 1 and message.role == "assistant"):
            raise invalid_request(
                f"messages.{index}: all messages must have non-empty content except for the optional final"
                " assistant message"
            )
        _check_blocks(blocks, index)
        _check_results(blocks, open_calls, index)
        open_calls = [block.id for block in blocks if block.type == "tool_use"]
    if open_calls:
        raise _unanswered(open_calls, len(messages) - 1)


def _check_blocks(blocks: Sequence[_Block], index: int) -> None:
    for position, block in enumerate(blocks):
        if block.type not in _BLOCK_TYPES:
            raise invalid_request(
                f"messages.{index}.content.{position}: Input tag '{block.type}' found using 'type' does not match any"
                " of the expected tags: 'text', 'image', 'document', 'thinking', 'redacted_thinking', 'tool_use',"
                " 'tool_result'"
            )
        if block.type == "text" and not block.text:
            raise invalid_request("messages: text content blocks must be non-empty")
        if block.type == "tool_use" and not block.id:
            raise invalid_request(f"messages.{index}.content.{position}.tool_use.id: Field required")
        if block.type == "tool_use" and bytes(block.input).lstrip()[:1] != b"{":
            raise invalid_request(
                f"messages.{index}.content.{position}.tool_use.input: Input should be a valid dictionary"
            )


def _check_results(blocks: Sequence[_Block], open_calls: Sequence[str], index: int) -> None:
    """Every tool result answers a call of the message before, and every call there is answered."""
    answered = set()
    for position, block in enumerate(blocks):
        if block.type != "tool_result":
            continue
        if block.tool_use_id not in open_calls:
            raise invalid_request(
                f"messages.{index}.content.{position}: unexpected `tool_use_id` found in `tool_result` blocks:"
                f" {block.tool_use_id}. Each `tool_result` block must have a corresponding `tool_use` block in the"
                " previous message."
            )
        if block.tool_use_id in answered:
            raise invalid_request(
                f"messages.{index}.content.{position}: each tool_use must have a single result. Found multiple"
                f" `tool_result` blocks with id: {block.tool_use_id}"
            )
        answered.add(block.tool_use_id)
    missing = [identity for identity in open_calls if identity not in answered]
    if missing:
        raise _unanswered(missing, index - 1)


def _unanswered(calls: Sequence[str], index: int) -> ProviderError:
    return invalid_request(
        f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after:"
        f" {', '.join(calls)}. Each `tool_use` block must have a corresponding `tool_result` block in the next message."
    )


def _last_turn(messages: Sequence[_Message]) -> Sequence[_Message]:
    """The messages after the last one of the assistant."""
    start = len(messages)
    while start and messages[start - 1].role != "assistant":
        start -= 1
    return messages[start:]


def _texts(turn: Sequence[_Message]) -> Iterator[str]:
    for message in turn:
        if message.role != "user":
            continue
        if isinstance(message.content, str):
            yield from written_texts([message.content])
        else:
            yield from written_texts(block.text for block in message.content if block.type == "text")


def _tool_results(turn: Sequence[_Message]) -> Iterator[ToolResult]:
    for message in turn:
        if isinstance(message.content, list):
            for block in message.content:
                if block.type == "tool_result":
                    yield ToolResult(without_reminders(_plain(block.content)), bool(block.is_error))


def _plain(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(block.text if block.type == "text" else f"[{block.type}]" for block in content)
    return content if isinstance(content, str) else ""


def _tool_choice(choice: _ToolChoice | None) -> tuple[Choice, str]:
    match choice.type if choice is not None else "auto":
        case "auto":
            return "auto", ""
        case "none":
            return "none", ""
        case "any":
            return "any", ""
        case "tool":
            return "tool", choice.name if choice is not None else ""
        case other:
            raise invalid_request(
                f"tool_choice: Input tag '{other}' found using 'type' does not match any of the expected tags:"
                " 'auto', 'any', 'tool', 'none'"
            )


def _tokens(request: _CountRequest) -> int:
    characters = _characters(request.system or "")
    for message in request.messages:
        characters += 16 + _characters(message.content)
    for tool in request.tools or ():
        characters += len(tool.name) + len(tool.description) + len(bytes(tool.input_schema))
    return estimate_tokens(characters)


def _characters(content: object) -> int:
    if isinstance(content, str):
        return len(content)
    if not isinstance(content, list):
        return 0
    return sum(
        len(block.text) + len(block.thinking) + len(block.name) + len(bytes(block.input)) + _characters(block.content)
        for block in content
    )
