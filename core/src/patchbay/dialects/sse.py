"""Server-sent events, read in pieces cut anywhere.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from typing import NamedTuple

# The end of a frame: an empty line, with any of the three line endings.
_FRAME_END = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_LINE_END = re.compile(rb"\r\n|\n|\r")

# A frame larger than this is not an event of a chat but a fault or an attack.
MAX_FRAME_BYTES = 64 * 1024 * 1024


class FrameTooLarge(Exception):
    """A single frame outgrew MAX_FRAME_BYTES."""


class Frame(NamedTuple):
    """One event of the stream."""

    # The value of its `event:` line; empty when it has none.
    event: bytes
    # Its `data:` lines, joined with a newline; empty for comments and keep-alives.
    data: bytes


class FrameSplitter:
    """Cuts a byte stream into whole frames, without looking into them."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The bytes up to the end of the last whole frame; the rest waits for more."""
        buffer = self._rest + data if self._rest else data
        end = self._end_of_last_frame(buffer)
        self._rest = buffer[end:]
        if len(self._rest) > MAX_FRAME_BYTES:
            raise FrameTooLarge
        return buffer[:end]

    def close(self) -> bytes:
        """What is left after the last whole frame."""
        rest, self._rest = self._rest, b""
        return rest

    @staticmethod
    def _end_of_last_frame(buffer: bytes) -> int:
        end = buffer.rfind(b"\n\n") + 2
        if b"\r" not in buffer:
            return end if end >= 2 else 0
        # A lone CR at the very end may be half of a CRLF: it decides nothing yet.
        limit = len(buffer) - 1 if buffer.endswith(b"\r") else len(buffer)
        last = 0
        for match in _FRAME_END.finditer(buffer, 0, limit):
            last = match.end()
        return last


def parse_frames(frames: bytes) -> list[Frame]:
    """The events of a run of whole frames; comments and empty frames are left out."""
    parsed = []
    for block in frames.split(b"\n\n") if b"\r" not in frames else _FRAME_END.split(frames):
        frame = _parse_frame(block)
        if frame is not None:
            parsed.append(frame)
    return parsed


def _parse_frame(block: bytes) -> Frame | None:
    event = b""
    data: list[bytes] = []
    for line in _LINE_END.split(block):
        if line.startswith(b"data:"):
            data.append(line[6:] if line.startswith(b"data: ") else line[5:])
        elif line.startswith(b"event:"):
            event = line[7:] if line.startswith(b"event: ") else line[6:]
    if not event and not data:
        return None
    return Frame(event, data[0] if len(data) == 1 else b"\n".join(data))
