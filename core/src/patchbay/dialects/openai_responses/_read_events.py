"""Reads an upstream's answer, streamed or whole, into events."""

from __future__ import annotations

from patchbay.canonical import ChatEvent
from patchbay.dialects.base import EventReader, ReadOptions
from patchbay.dialects.openai_responses._answer import AnswerReader
from patchbay.dialects.openai_responses._errors import too_large
from patchbay.dialects.openai_responses._native_answers import NativeStreamReader, native_body_reader
from patchbay.dialects.sniffing import SniffingReader, is_whole_json
from patchbay.dialects.sse import MAX_FRAME_BYTES, FrameSplitter, FrameTooLarge, parse_frames

_DONE = b"[DONE]"


def read_events(options: ReadOptions) -> EventReader:
    """A reader for one answer of an upstream. The ChatGPT backend names no media type: the first byte tells."""
    if options.native:
        return SniffingReader(options.content_type, NativeStreamReader, native_body_reader)
    return SniffingReader(options.content_type, lambda: _StreamReader(options), lambda: _BodyReader(options))


class _StreamReader:
    def __init__(self, options: ReadOptions) -> None:
        self._answer = AnswerReader(options.names)
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
        if any(is_whole_json(frame.data) for frame in parse_frames(rest)):
            self._read(rest)
        self._answer.end()
        return self._answer.take()

    def _read(self, frames: bytes) -> None:
        for event, data in parse_frames(frames):
            # Not of this protocol, but some servers close every stream with it.
            if data and data != _DONE:
                self._answer.read(event, data)


class _BodyReader:
    def __init__(self, options: ReadOptions) -> None:
        self._answer = AnswerReader(options.names, whole=True)
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
