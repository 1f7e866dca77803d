"""Tells a streamed answer from a whole one by how it begins, whatever it is called."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from patchbay.canonical import ChatEvent
from patchbay.dialects.base import EventReader


class SniffingReader:
    """Chooses a reader by the first byte.

    Some servers answer a streaming request with a plain body and call it a stream; others name no media type at all.

    Args:
        content_type: The answer's media type, which decides where its first byte does not.
        stream, body: Make the reader of a streamed answer, and of a whole one.
    """

    def __init__(self, content_type: str, stream: Callable[[], EventReader], body: Callable[[], EventReader]) -> None:
        self._content_type = content_type
        self._make_stream = stream
        self._make_body = body
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
        streamed = "event-stream" in self._content_type
        if first in (b"{", b"["):
            streamed = False
        elif first in (b"d", b"e", b":", b"i", b"r"):
            streamed = True
        return self._make_stream() if streamed else self._make_body()


def is_whole_json(data: bytes) -> bool:
    """Whether the data of a frame, which may have been cut, is a whole JSON text."""
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True
