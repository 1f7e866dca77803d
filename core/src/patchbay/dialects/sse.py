"""Server-sent events, read in pieces cut anywhere.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"
# A CRLF is one line ending, never two, hence the atomic groups.
_LINE_END = re.compile(rb"\r\n|\n|\r")
# The end of a frame: the end of a line, and of the empty line after it.
_FRAME_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
# Before a piece of a stream: as much as may be the beginning of a frame's end that the piece completes.
_OVERLAP = 3

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
        self._rest: list[bytes] = []
        self._size = 0
        # The last bytes of the rest.
        self._tail = b""

    def feed(self, data: bytes) -> bytes:
        """The bytes up to the end of the last whole frame; the rest waits for more."""
        if self._rest:
            # A large frame comes in many pieces: each byte is searched once.
            if not _end_of_last_frame(self._tail + data):
                self._keep(data)
                return b""
            data = self.close() + data
        end = _end_of_last_frame(data)
        if end < len(data):
            self._keep(data[end:])
        return data[:end]

    def close(self) -> bytes:
        """What is left after the last whole frame."""
        rest = b"".join(self._rest)
        self._rest.clear()
        self._size = 0
        self._tail = b""
        return rest

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_FRAME_BYTES:
            raise FrameTooLarge
        self._rest.append(data)
        self._tail = (self._tail + data)[-_OVERLAP:] if len(data) < _OVERLAP else data[-_OVERLAP:]


def _end_of_last_frame(buffer: bytes) -> int:
    if b"\r" not in buffer:
        end = buffer.rfind(b"\n\n")
        return end + 2 if end >= 0 else 0
    # A lone CR at the very end may be half of a CRLF: it decides nothing yet.
    limit = len(buffer) - 1 if buffer.endswith(b"\r") else len(buffer)
    last = 0
    for match in _FRAME_END.finditer(buffer, 0, limit):
        last = match.end()
    return last


def cut_frames(frames: bytes) -> list[bytes]:
    """A run of whole frames, one by one, each with the empty line that ends it: joined they are `frames` again."""
    if b"\r" not in frames:
        *whole, rest = frames.split(b"\n\n")
        cut = [frame + b"\n\n" for frame in whole]
        return [*cut, rest] if rest else cut
    cut = []
    start = 0
    for match in _FRAME_END.finditer(frames):
        cut.append(frames[start : match.end()])
        start = match.end()
    if start < len(frames):
        cut.append(frames[start:])
    return cut


def parse_frames(frames: bytes) -> list[Frame]:
    """The events of a run of whole frames; comments and empty frames are left out."""
    parsed = []
    for block in frames.split(b"\n\n") if b"\r" not in frames else _FRAME_END.split(frames):
        frame = _parse_frame(block)
        if frame is not None:
            parsed.append(frame)
    return parsed


def _parse_frame(block: bytes) -> Frame | None:
    # Nearly every frame of most streams is just this one line.
    if block.startswith(b"data: ") and b"\n" not in block and b"\r" not in block:
        return Frame(b"", block[6:])
    # And of the others just these two.
    if block.startswith(b"event: ") and block.count(b"\n") == 1 and b"\r" not in block:
        name, separator, line = block.partition(b"\ndata: ")
        if separator:
            return Frame(name[7:], line)
    event = b""
    data: list[bytes] = []
    # A byte order mark may open the stream; elsewhere it cannot begin a field that means anything.
    block = block.removeprefix(_BOM)
    for line in block.split(b"\n") if b"\r" not in block else _LINE_END.split(block):
        if line.startswith(b"data:"):
            data.append(line[6:] if line.startswith(b"data: ") else line[5:])
        elif line.startswith(b"event:"):
            event = line[7:] if line.startswith(b"event: ") else line[6:]
        elif line == b"data":
            data.append(b"")
    if not event and not data:
        return None
    return Frame(event, data[0] if len(data) == 1 else b"\n".join(data))
