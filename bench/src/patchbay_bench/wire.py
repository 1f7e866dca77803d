"""The client dialects as the load generator speaks them: bodies to send, and answers to check."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from patchbay_bench.jobs import ClientDialect

PATHS: Final[Mapping[ClientDialect, str]] = {
    "anthropic": "/v1/messages",
    "openai": "/v1/chat/completions",
    "responses": "/v1/responses",
    "codebuff": "/ws",
}
# The events that end a Response.
ENDS: Final = ("response.completed", "response.incomplete", "response.failed", "error")
# The actions that end a prompt.
CODEBUFF_ENDS: Final = ("prompt-response", "prompt-error")
VERSION_HEADER: Final = {"anthropic-version": "2023-06-01"}

# The first byte of content: a text delta that is not empty.
_FIRST_CONTENT: Final[Mapping[ClientDialect, re.Pattern[bytes]]] = {
    "anthropic": re.compile(rb'"text_delta"'),
    "openai": re.compile(rb'"content":\s*"[^"]'),
    "responses": re.compile(rb'"type":\s*"response.output_text.delta"'),
    "codebuff": re.compile(rb'"chunk":\s*"[^"]'),
}
_PARAGRAPH: Final = (
    "The function `read_frames` keeps what is left of a frame until its end has come.\n"
    'It says "frame too large" past 64 MiB; callers treat that as a fault.\n\n'
    "    for frame in read_frames(stream):\n\t\thandle(frame)  # naïve: one at a time\n"
)
# About what a tool result or a longer message of an agent's conversation holds.
_MESSAGE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """What a streamed answer said."""

    text: str
    deltas: int
    # What it lacks; empty: nothing.
    problem: str = ""


_NO_ERROR: Final = msgspec.Raw(b"null")


class _Delta(msgspec.Struct):
    type: str = ""
    text: str | None = None
    content: str | None = None
    stop_reason: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    type: str = ""
    delta: _Delta | None = None
    choices: list[_Choice] = []
    error: msgspec.Raw = _NO_ERROR


class _ResponseEvent(msgspec.Struct):
    type: str = ""
    delta: object = None


class _Agent(msgspec.Struct, rename="camel", frozen=True):
    message_history: tuple[msgspec.Raw, ...] = ()


class _Session(msgspec.Struct, rename="camel", frozen=True):
    main_agent_state: _Agent = _Agent()


class _Output(msgspec.Struct, frozen=True):
    type: str = ""
    value: object = None


class _Action(msgspec.Struct, rename="camel", frozen=True):
    type: str = ""
    chunk: object = None
    message: str = ""
    session_state: _Session = _Session()
    output: _Output = _Output()


class _Message(msgspec.Struct, frozen=True):
    data: _Action = _Action()


_decode = msgspec.json.Decoder(_Event).decode
_decode_message = msgspec.json.Decoder(_Message).decode
_decode_response_event = msgspec.json.Decoder(_ResponseEvent).decode


def request_body(dialect: ClientDialect, model: str, *, prompt_bytes: int = 0) -> str:
    """A streaming request as an agent would send it.

    Args:
        prompt_bytes: About how long the body is to be; 0: one short message.
    """
    messages = [{"role": "user", "content": "Say something."}]
    text = (_PARAGRAPH * (_MESSAGE_BYTES // len(_PARAGRAPH) + 1))[:_MESSAGE_BYTES]
    pairs, size = [], 0
    while size < prompt_bytes:
        pair = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
        size += len(json.dumps(pair, ensure_ascii=False).encode())
        pairs += pair
    if dialect == "responses":
        # Nothing is stored: what that costs is Redis' affair.
        said = {"model": model, "max_output_tokens": 4096, "stream": True, "store": False}
        return json.dumps({**said, "input": [*pairs, *messages]}, ensure_ascii=False)
    body: dict[str, object] = {"model": model, "max_tokens": 4096, "stream": True, "messages": [*pairs, *messages]}
    if dialect == "openai":
        body["stream_options"] = {"include_usage": True}
    return json.dumps(body, ensure_ascii=False)


def has_content(dialect: ClientDialect, data: bytes) -> bool:
    """Whether the first content is somewhere in `data`."""
    return _FIRST_CONTENT[dialect].search(data) is not None


def read_answer(dialect: ClientDialect, body: bytes) -> ReadAnswer:
    """Reads a whole streamed answer, and says what it lacks of a proper one. Never raises."""
    try:
        return _READERS[dialect](body)
    except msgspec.DecodeError as error:
        return ReadAnswer("", 0, f"cannot be read: {error}")


def _data_lines(body: bytes) -> list[bytes]:
    return [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]


def _read_anthropic(body: bytes) -> ReadAnswer:
    pieces: list[str] = []
    stop_reason = None
    ended = False
    for line in _data_lines(body):
        if line == b"[DONE]":  # a peer ends this dialect's streams so as well
            continue
        event = _decode(line)
        if event.error != _NO_ERROR:
            return ReadAnswer("", 0, f"error event: {bytes(event.error)[:200]!r}")
        if event.type == "content_block_delta" and event.delta is not None:
            pieces.append(event.delta.text or "")
        elif event.type == "message_delta" and event.delta is not None:
            stop_reason = event.delta.stop_reason
        elif event.type == "message_stop":
            ended = True
    return _answer(pieces, stop_reason, ended)


def _read_openai(body: bytes) -> ReadAnswer:
    pieces: list[str] = []
    finish_reason = None
    ended = False
    for line in _data_lines(body):
        if line == b"[DONE]":
            ended = True
            continue
        event = _decode(line)
        if event.error != _NO_ERROR:
            return ReadAnswer("", 0, f"error event: {bytes(event.error)[:200]!r}")
        for choice in event.choices:
            if choice.delta is not None and choice.delta.content:
                pieces.append(choice.delta.content)
            finish_reason = choice.finish_reason or finish_reason
    return _answer(pieces, finish_reason, ended)


def _read_responses(body: bytes) -> ReadAnswer:
    pieces: list[str] = []
    end = ""
    for line in _data_lines(body):
        event = _decode_response_event(line)
        if event.type == "response.output_text.delta":
            pieces.append(str(event.delta))
        elif event.type in ENDS:
            end = event.type
    if end in ("response.failed", "error"):
        return ReadAnswer("", 0, f"ends in {end}")
    return _answer(pieces, end, ended=bool(end))


def _read_codebuff(body: bytes) -> ReadAnswer:
    pieces: list[str] = []
    end = _Action()
    for line in _data_lines(body):
        said = _decode_message(line).data
        if said.type == "response-chunk" and isinstance(said.chunk, str):
            pieces.append(said.chunk)
        elif said.type in CODEBUFF_ENDS:
            end = said
    if end.type == "prompt-error":
        return ReadAnswer("", 0, f"ends in prompt-error: {end.message}")
    if end.type and end.output.value != "".join(pieces):
        return ReadAnswer("", 0, f"has another output than its text: {end.output}")
    if end.type and not end.session_state.main_agent_state.message_history:
        return ReadAnswer("", 0, "has a session without a history")
    return _answer(pieces, end.type, ended=bool(end.type))


_READERS: Final[Mapping[ClientDialect, Callable[[bytes], ReadAnswer]]] = {
    "anthropic": _read_anthropic,
    "openai": _read_openai,
    "responses": _read_responses,
    "codebuff": _read_codebuff,
}


def _answer(pieces: list[str], stop_reason: str | None, ended: bool) -> ReadAnswer:
    problem = "" if ended and stop_reason else "has no end" if not ended else "has no stop reason"
    return ReadAnswer("".join(pieces), len(pieces), problem)
