"""Passes a plain answer of OpenAI's dialects on piece by piece, unless it is an error."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from patchbay.canonical import ChatEvent, Error, Native

# The fields of a plain error body, when they come first.
_ERROR_BODY = re.compile(rb'\s*\[?\s*\{\s*"(?:error|code|msg|message|detail)"')
_ERROR_BODY_PREFIX = 64

# A plain answer is kept up to this size, to read its usage at the end.
MAX_KEPT_BYTES = 8 * 1024 * 1024


class BodyEnd(NamedTuple):
    """What a whole body says beside its content."""

    usage: list[ChatEvent]
    finished: list[ChatEvent]


class NativeBodyReader:
    """Passes a plain answer on, and reads its usage at the end.

    Args:
        read: Reads the whole body; None stands for one that cannot be read.
        read_error: Reads a body that is no answer, or none at all.
        unread: What ends an answer that is too large to be read.
    """

    def __init__(
        self,
        read: Callable[[bytes], BodyEnd | Error | None],
        read_error: Callable[[bytes], Error],
        cut_short: Callable[[], Error],
        unread: ChatEvent,
    ) -> None:
        self._read = read
        self._read_error = read_error
        self._cut_short = cut_short
        self._unread = unread
        # Pieces not passed on yet: until it is clear that this is no error.
        self._held: list[bytes] | None = []
        self._looks_wrong: bool | None = None
        self._kept: list[bytes] = []
        self._size = 0
        self._closed = False

    def feed(self, data: bytes) -> list[ChatEvent]:
        self._size += len(data)
        if self._size <= MAX_KEPT_BYTES:
            self._kept.append(data)
        if self._held is None:
            return [ChatEvent(native=Native(data=data))]
        self._held.append(data)
        if self._looks_wrong is None and self._size >= _ERROR_BODY_PREFIX:
            self._looks_wrong = _ERROR_BODY.match(b"".join(self._held)) is not None
        if self._looks_wrong is None or (self._looks_wrong and self._size <= MAX_KEPT_BYTES):
            return []
        head = b"".join(self._held)
        self._held = None
        return [ChatEvent(native=Native(data=head))]

    def close(self) -> list[ChatEvent]:
        if self._closed:
            return []
        self._closed = True
        held = b"".join(self._held or [])
        passed = [ChatEvent(native=Native(data=held))] if held else []
        if self._size > MAX_KEPT_BYTES:
            # Too large to be read; it has been passed on all the same.
            return [*passed, self._unread]
        body = b"".join(self._kept)
        end = self._read(body)
        if end is None:
            is_error = self._held is not None and body.strip()
            end = self._read_error(body) if is_error else self._cut_short()
        if isinstance(end, Error):
            return [ChatEvent(error=end)]
        return [*end.usage, *passed, *end.finished]
