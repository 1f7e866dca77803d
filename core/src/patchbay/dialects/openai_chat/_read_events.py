"""Reads an upstream's answer, streamed or whole, into events."""

from __future__ import annotations

import msgspec

from patchbay.canonical import ChatEvent
from patchbay.dialects.base import EventReader, ReadOptions
from patchbay.dialects.openai_chat._answer import AnswerReader, too_large
from patchbay.dialects.openai_chat._native import NativeBodyReader, NativeStreamReader
from patchbay.dialects.sse import MAX_FRAME_BYTES, FrameSplitter, FrameTooLarge, parse_frames

_DONE = b"[DONE]"


def read_events(options: ReadOptions) -> EventReader:
    """A reader for one answer of an upstream."""
    return _SniffingReader(options)


class _SniffingReader:
    """Chooses by the first byte: some servers answer a streaming request with a plain body, and call it a stream."""

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._reader: EventReader | None = None
        # White space so far, as some servers send to show that they are alive.
        self._blank: list[bytes] = []

    def feed(self, data: bytes) -> list[ChatEvent]:
        if self._reader is None:
            first = data.lstrip()[:1]
            self._blank.append(data)
            if not first:
                return []
            self._reader = self._choose(first)
            data = b"".join(self._blank)
            self._blank.clear()
        return self._reader.feed(data)

    def close(self) -> list[ChatEvent]:
        if self._reader is None:
            self._reader = self._choose(b"")
        return self._reader.close()

    def _choose(self, first: bytes) -> EventReader:
        streamed = "event-stream" in self._options.content_type
        if first in (b"{", b"["):
            streamed = False
        elif first in (b"d", b"e", b":", b"i", b"r"):
            streamed = True
        if self._options.native:
            return NativeStreamReader(self._options) if streamed else NativeBodyReader()
        return _StreamReader(self._options) if streamed else _BodyReader(self._options)


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
        for frame in parse_frames(rest):
            if frame.data == _DONE or _is_whole(frame.data):
                self._read(rest)
        self._answer.end()
        return self._answer.take()

    def _read(self, frames: bytes) -> None:
        for event, data in parse_frames(frames):
            if data == _DONE:
                self._answer.end()
            elif event == b"error":
                self._answer.read_error(data)
            elif data:
                self._answer.read(data)


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
        if body.strip():
            self._answer.read(body)
        self._answer.end()
        return self._answer.take()


def _is_whole(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True
