"""Uvicorn's WebSockets with less kept of each one, for there may be thousands in which nothing happens."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from patchbay_edge.websocket_protocol import WebSocketProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent

# An application that has a heartbeat of its own puts this into a scope's extensions, with what is to be told of each
# part of a message that comes, while its rest does not: how many bytes of the message are there.
OWN_HEARTBEAT = "patchbay.own_heartbeat"
# What has come and is no larger may be a ping or a pong, which are no messages.
_LARGEST_CONTROL_FRAME = 131

# A WebSocket is said to be there as little as a request is: that it is, metrics tell.
_log = logging.getLogger("uvicorn.error.websockets")
_log.setLevel(logging.WARNING)


class LeanWebSocket(WebSocketProtocol):
    """One WebSocket. Only one task at a time may receive from it."""

    _on_part: Callable[[int], None] | None = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = self.conn.logger = _log
        self.queue = cast("asyncio.Queue[ASGIReceiveEvent]", _Queue())
        self.writable = cast(asyncio.Event, _Gate())

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.accept":
            # Nobody reads them any more, and they are large.
            self.request.headers.clear()
            self.response.headers.clear()

    def start_keepalive(self) -> None:
        self._on_part = cast("dict[str, Any]", self.scope["extensions"]).get(OWN_HEARTBEAT)
        if self._on_part is None:
            super().start_keepalive()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._on_part is not None and (size := self._size_of_part()):
            self._on_part(size)

    def _size_of_part(self) -> int:
        size = len(self.conn.reader.buffer)
        if not self.frames and size <= _LARGEST_CONTROL_FRAME:
            return 0
        return size + sum(map(len, self.frames))


class _Queue:
    """What uvicorn uses of `asyncio.Queue`, of which an empty one takes 3 KB."""

    __slots__ = ("_items", "_waiter")

    def __init__(self) -> None:
        # None: empty.
        self._items: deque[ASGIReceiveEvent] | None = None
        self._waiter: asyncio.Future[None] | None = None

    def empty(self) -> bool:
        return self._items is None

    def put_nowait(self, item: ASGIReceiveEvent) -> None:
        if self._items is None:
            self._items = deque()
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> ASGIReceiveEvent:
        while self._items is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        item = self._items.popleft()
        if not self._items:
            self._items = None
        return item


class _Gate:
    """What uvicorn uses of `asyncio.Event`, set at first. There is one only while it is not set."""

    __slots__ = ("_closed",)

    def __init__(self) -> None:
        self._closed: asyncio.Event | None = None

    def is_set(self) -> bool:
        return self._closed is None

    def set(self) -> None:
        if self._closed is not None:
            self._closed.set()
            self._closed = None

    def clear(self) -> None:
        if self._closed is None:
            self._closed = asyncio.Event()

    async def wait(self) -> None:
        if self._closed is not None:
            await self._closed.wait()
