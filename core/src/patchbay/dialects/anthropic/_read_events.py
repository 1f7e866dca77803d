"""Reads answers of the Messages API: https://platform.claude.com/docs/en/build-with-claude/streaming"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from patchbay.canonical import ChatEvent
from patchbay.dialects.anthropic._answer import AnswerReader, Delta
from patchbay.dialects.anthropic._errors import ERRORS, cut_off, unreadable
from patchbay.dialects.anthropic._json import NULL, Fields, is_null, load_fields, load_items
from patchbay.dialects.anthropic._read_native import NativeBodyReader, NativeStreamReader
from patchbay.dialects.base import EventReader, ReadOptions
from patchbay.dialects.sse import FrameSplitter, FrameTooLarge, parse_frames
from patchbay.dialects.surrogates import TextMender, mend_text
from patchbay.dialects.tool_names import ClientTool

_DONE = b"[DONE]"


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    delta: Delta | None = None
    content_block: msgspec.Raw = NULL
    message: msgspec.Raw = NULL
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


class _EventType(msgspec.Struct):
    type: str = ""


_KNOWN = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "ping",
        "error",
    }
)
_DELTAS = frozenset({"text_delta", "input_json_delta", "thinking_delta", "signature_delta", "citations_delta"})

_decode = msgspec.json.Decoder(_Event).decode
_decode_type = msgspec.json.Decoder(_EventType).decode


def read_events(options: ReadOptions) -> EventReader:
    """A reader for one answer."""
    streamed = options.content_type.partition(";")[0].strip().lower() == "text/event-stream"
    if options.native:
        return NativeStreamReader() if streamed else NativeBodyReader()
    return StreamReader(options.names) if streamed else BodyReader(options.names)


class StreamReader:
    """Reads a stream into canonical events."""

    def __init__(self, names: Mapping[str, ClientTool]) -> None:
        self._splitter = FrameSplitter()
        self._mender = TextMender()
        self._answer = AnswerReader(names)

    def feed(self, data: bytes) -> list[ChatEvent]:
        if self._answer.ended:
            return []
        try:
            frames = self._splitter.feed(data)
        except FrameTooLarge:
            self._answer.fail(unreadable())
            return self._answer.take()
        return self._read(frames) if frames else []

    def close(self) -> list[ChatEvent]:
        rest = self._splitter.close()
        if self._answer.ended:
            return []
        # Some servers leave out the empty line after the last event. Half an event is not read.
        events = self._read(rest) if _is_whole(rest) else []
        if not self._answer.ended:
            self._answer.fail(cut_off())
        return events + self._answer.take()

    def _read(self, frames: bytes) -> list[ChatEvent]:
        for frame in parse_frames(frames):
            if not frame.data or frame.data == _DONE:
                continue
            try:
                self._event(frame.data)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                self._event_again(self._mender.mend(frame.data))
            if self._answer.ended:
                break
        return self._answer.take()

    def _event_again(self, data: bytes) -> None:
        """Reads an event that could not be read as it came, mended. What was read of it before does not count twice."""
        try:
            self._event(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            if not _is_of_unknown_type(data):
                self._answer.fail(unreadable())

    def _event(self, data: bytes) -> None:
        answer = self._answer
        event = _decode(data)
        match event.type:
            case "content_block_delta":
                if event.delta is not None:
                    raw = None if event.delta.type in _DELTAS else _fields_in(data, "delta")
                    answer.delta(event.index, event.delta, raw)
            case "content_block_start":
                answer.block_start(event.index, event.content_block)
            case "content_block_stop":
                answer.block_stop(event.index)
            case "message_start":
                answer.start({} if is_null(event.message) else load_fields(event.message))
            case "message_delta":
                answer.usage(event.usage)
                rest = {name: raw for name, raw in load_fields(data).items() if name not in ("delta", "index")}
                answer.stop(rest | _fields_in(data, "delta"))
            case "message_stop":
                answer.finish()
            case "error":
                answer.fail(ERRORS.read(200, {}, data))
            case "ping":
                answer.ping()
            case "" if not is_null(event.error):
                answer.fail(ERRORS.read(200, {}, data))


class BodyReader:
    """Reads an answer that is one JSON body."""

    def __init__(self, names: Mapping[str, ClientTool]) -> None:
        self._names = names
        self._pieces: list[bytes] = []
        self._closed = False

    def feed(self, data: bytes) -> list[ChatEvent]:
        self._pieces.append(data)
        return []

    def close(self) -> list[ChatEvent]:
        if self._closed:
            return []
        self._closed = True
        body = mend_text(b"".join(self._pieces))
        self._pieces.clear()
        answer = AnswerReader(self._names)
        try:
            self._read(answer, body)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            answer.fail(unreadable())
        return answer.take()

    @staticmethod
    def _read(answer: AnswerReader, body: bytes) -> None:
        message = load_fields(body)
        if "content" not in message:
            answer.fail(ERRORS.read(200, {}, body))
            return
        answer.start(message)
        for number, block in enumerate(load_items(message["content"])):
            answer.block_start(number, block)
            answer.block_stop(number)
        answer.stop(message)
        answer.finish()


def _fields_in(data: bytes, name: str) -> Fields:
    raw = load_fields(data).get(name, NULL)
    return {} if is_null(raw) else load_fields(raw)


def _is_of_unknown_type(data: bytes) -> bool:
    """Whether it is a whole event of a type that is not known here, whatever else is in it."""
    try:
        return _decode_type(data).type not in _KNOWN | {""}
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False


def _is_whole(rest: bytes) -> bool:
    frames = parse_frames(rest)
    try:
        return bool(frames) and all(_decode_type(frame.data) is not None for frame in frames)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
