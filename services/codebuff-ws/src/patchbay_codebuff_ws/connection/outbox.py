"""What waits to be sent on one call: in order, and no more of it than there is room for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

from patchbay_proto.v1.codebuff_pb2 import ConnectResponse, ServerFrame

# What may wait for a slow socket before those who say more have to wait as well.
_ROOM_BYTES = 256 * 1024
# Acknowledgements and the like do not wait, so that a client whose socket is slow can still cancel; but a client that
# reads nothing is not read from for ever.
_MOST_WAITING = 10_000
_MOST_BYTES = 64 * 1024 * 1024
# So much of a frame's text is sent at a time: gRPC copies and sends a message in one go, and all others wait for it.
_PIECE_CHARACTERS = 256 * 1024
# What one message takes beside its text.
_OVERHEAD_BYTES = 64


class Outbox:
    """The messages to one edge about one socket."""

    def __init__(self, *, observer: Callable[[str], None] | None = None) -> None:
        self._waiting: deque[tuple[ConnectResponse, int]] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._observer = observer

    def put(self, message: ConnectResponse) -> None:
        """Sends without waiting: for what is small, or must not be held up."""
        size = len(message.frame.text) + _OVERHEAD_BYTES
        self._waiting.append((message, size))
        self._bytes += size
        self._arrived.set()
        self._empty.clear()
        self._room_or_not()

    def put_frame(self, text: str, *, prompt_id: str = "", ends_prompt: bool = False) -> None:
        """Sends a frame without waiting."""
        if self._observer is not None:
            self._observer(text)
        self.put(ConnectResponse(frame=ServerFrame(text=text, prompt_id=prompt_id, ends_prompt=ends_prompt)))

    async def send_frame(self, text: str, *, prompt_id: str = "") -> None:
        """Sends a frame once there is room for it."""
        while not self._room.is_set():
            await self._room.wait()
        self.put_frame(text, prompt_id=prompt_id)

    @property
    def is_full(self) -> bool:
        """Whether so much waits that what nobody can wait for has to be left out."""
        return len(self._waiting) >= _MOST_WAITING or self._bytes >= _MOST_BYTES

    async def readable(self) -> None:
        """Waits while so much waits to be sent that no more should be read."""
        while self.is_full:
            await self._room.wait()

    async def flushed(self) -> None:
        """Waits until all has been sent."""
        await self._empty.wait()

    async def run(self, write: Callable[[ConnectResponse], Awaitable[None]]) -> None:
        """Sends what comes until cancelled, or until `write` fails."""
        while True:
            await self._arrived.wait()
            while self._waiting:
                message, size = self._waiting[0]
                for piece in _pieces(message, size):
                    await write(piece)
                self._waiting.popleft()
                self._bytes -= size
                self._room_or_not()
            self._arrived.clear()
            self._empty.set()

    def _room_or_not(self) -> None:
        if self._bytes < _ROOM_BYTES and len(self._waiting) < _MOST_WAITING:
            self._room.set()
        else:
            self._room.clear()


def _pieces(message: ConnectResponse, size: int) -> Iterator[ConnectResponse]:
    if size > _PIECE_CHARACTERS:
        text = message.frame.text
        end = 0
        while len(text) - end > _PIECE_CHARACTERS:
            start, end = end, end + _PIECE_CHARACTERS
            yield ConnectResponse(frame=ServerFrame(text=text[start:end], continued=True))
        frame = message.frame
        last = ServerFrame(text=text[end:], prompt_id=frame.prompt_id, ends_prompt=frame.ends_prompt)
        message = ConnectResponse(frame=last)
    yield message
