"""Takes the answers of OpenAI's dialects apart: a stream into its events, and a body that comes in pieces."""

from __future__ import annotations

from typing import Protocol

from patchbay.canonical import ChatEvent, Error
from patchbay.dialects.answer_errors import too_large
from patchbay.dialects.sniffing import is_whole_json
from patchbay.dialects.sse import MAX_FRAME_BYTES, FrameSplitter, FrameTooLarge, parse_frames

# The end of a stream of Chat Completions, with which some servers close every stream.
DONE = b"[DONE]"


class AnswerReader(Protocol):
    """Turns what one answer says into canonical events; never raises."""

    def read(self, name: bytes, data: bytes) -> None:
        """Reads one event of a stream, or DONE; `name` is the value of its `event:` line, empty without one."""

    def read_body(self, data: bytes) -> None:
        """Reads an answer that is one body."""

    def end(self) -> None:
        """The upstream has ended; an answer that has not is cut short."""

    def fail(self, error: Error) -> None:
        """Ends the answer in an error, unless it has ended."""

    def take(self) -> list[ChatEvent]:
        """The events since the last call."""


class StreamReader:
    """Reads a streamed answer."""

    def __init__(self, answer: AnswerReader) -> None:
        self._answer = answer
        self._splitter = FrameSplitter()

    def feed(self, data: bytes) -> list[ChatEvent]:
        try:
            frames = self._splitter.feed(data)
        except FrameTooLarge:
            self._answer.fail(too_large())
            return self._answer.take()
        if frames:
            self._read(frames)
        return self._answer.take()

    def close(self) -> list[ChatEvent]:
        rest = self._splitter.close()
        # The last frame may lack its empty line; a part of one is not JSON, and the missing end says the rest.
        if any(frame.data == DONE or is_whole_json(frame.data) for frame in parse_frames(rest)):
            self._read(rest)
        self._answer.end()
        return self._answer.take()

    def _read(self, frames: bytes) -> None:
        for name, data in parse_frames(frames):
            if data:
                self._answer.read(name, data)


class BodyReader:
    """Reads an answer that is one body."""

    def __init__(self, answer: AnswerReader) -> None:
        self._answer = answer
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[ChatEvent]:
        self._size += len(data)
        if self._size > MAX_FRAME_BYTES:
            self._answer.fail(too_large())
            return self._answer.take()
        self._pieces.append(data)
        return []

    def close(self) -> list[ChatEvent]:
        body = b"".join(self._pieces)
        self._pieces.clear()
        if body.strip():
            self._answer.read_body(body)
        self._answer.end()
        return self._answer.take()
