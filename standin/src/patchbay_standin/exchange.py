"""One request and its answer on an ASGI connection.

Watches the client from the moment the stand-in first waits for anything, so that a client that leaves is noticed at
once, also in the middle of a silence.
"""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import Awaitable, Callable, Generator, MutableMapping, Sequence
from typing import Any, Protocol, TypeAlias

from patchbay_standin.records import Entry, Stats
from patchbay_standin.timers import TimerWheel

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client closed its connection before the answer's end."""


class _Transport(Protocol):
    def close(self) -> None: ...


class Exchange:
    """A request being answered.

    Args:
        connection: The scope, receive and send of ASGI. `scope["state"]["transport"]` is the connection's transport
            where the server gives it (ours does); without it, a connection is cut by ending the response early.
        entry: The request's record.
        stats: Where a wait for a slow reader is counted.
        wheel: The timers of the event loop.
    """

    __slots__ = ("_gone", "_receive", "_send", "_stats", "_waiter", "_watcher", "_wheel", "entry", "headers", "scope")

    def __init__(
        self, connection: tuple[Scope, Receive, Send], entry: Entry, *, stats: Stats, wheel: TimerWheel
    ) -> None:
        self.scope, self._receive, self._send = connection
        self.entry = entry
        self.headers: dict[bytes, bytes] = dict(self.scope["headers"])
        self._stats = stats
        self._wheel = wheel
        self._gone = False
        self._waiter: asyncio.Future[None] | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def read_body(self) -> bytes:
        """The whole request body.

        Raises:
            ClientGone: When the client leaves before its end.
        """
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            return bytes(message.get("body", b""))
        pieces = []
        while message["type"] == "http.request":
            pieces.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(pieces)
            message = await self._receive()
        raise ClientGone

    async def start(self, status: int, headers: Headers) -> None:
        """Sends the response head."""
        self.entry.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Sends a piece of the body; waits while the client reads too slowly.

        Raises:
            ClientGone: When the client has left.
        """
        if self._gone:
            raise ClientGone
        await _watched(self._send({"type": "http.response.body", "body": data, "more_body": not last}), self._on_pause)
        if self._gone:
            raise ClientGone

    async def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole response."""
        await self.start(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def sleep_until(self, when: float) -> None:
        """Waits until the event loop's time `when`, in seconds.

        Raises:
            ClientGone: As soon as the client leaves.
        """
        waiter = self._new_waiter()
        self._wheel.wake_at(when, waiter)
        await waiter

    async def hold(self) -> None:
        """Waits for the client to leave.

        Raises:
            ClientGone: When it does.
        """
        await self._new_waiter()

    async def cut(self) -> None:
        """Closes the connection after what has been written, in the middle of the response."""
        transport: _Transport | None = self.scope.get("state", {}).get("transport")
        if transport is None:
            return
        transport.close()
        try:
            await self.hold()
        except ClientGone:
            return

    async def close(self) -> None:
        """Stops watching the client."""
        if self._watcher is not None and not self._watcher.done():
            self._watcher.cancel()
            await asyncio.wait([self._watcher])

    def _new_waiter(self) -> asyncio.Future[None]:
        if self._gone:
            raise ClientGone
        self._watch()
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        return waiter

    def _on_pause(self) -> None:
        self._stats.paused += 1
        self.entry.paused += 1
        self._watch()

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = asyncio.get_running_loop().create_task(self._watch_client())

    async def _watch_client(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self._gone = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ClientGone())


@types.coroutine
def _watched(awaitable: Awaitable[None], on_pause: Callable[[], None]) -> Generator[Any, Any, None]:
    """Awaits, and says so if that cannot be done at once: a server's `send` only ever waits for a slow reader."""
    steps = awaitable.__await__()
    try:
        waiting = next(steps)
    except StopIteration:
        return
    on_pause()
    while True:
        try:
            yield waiting
        except BaseException as error:  # noqa: BLE001 - a cancellation too belongs to the awaited
            step = functools.partial(steps.throw, error)
        else:
            step = functools.partial(steps.send, None)
        try:
            waiting = step()
        except StopIteration:
            return
