"""The client's answer: when its head goes out, what keeps it alive, how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Self

from patchbay.canonical import ChatEvent, Error, Head, Warning
from patchbay.dialects.base import EventWriter
from patchbay_edge.exchange import Exchange
from patchbay_edge.responses.keeper import Keeper

# All warnings together, so that no header outgrows what HTTP servers and clients take.
_MAX_WARNINGS = 4096


class Reply:
    """Writes one answer through a dialect's event writer.

    The head is held until the answer has begun, so that an overload reported inside a 200 can still become a real
    status or be tried elsewhere. A streaming client gets it after `hold_seconds` at the latest, and a ping whenever
    nothing was sent for `ping_seconds`: proxies between us cut silent connections.
    """

    def __init__(
        self,
        exchange: Exchange,
        writer: EventWriter,
        *,
        stream: bool,
        hold_seconds: float,
        ping_seconds: float,
        keeper: Keeper | None = None,
    ) -> None:
        self._exchange = exchange
        self._writer = writer
        self._stream = stream
        self._hold_seconds = hold_seconds
        self._ping_seconds = ping_seconds
        self._keeper = keeper
        self._headers: dict[str, str] = {}
        self._warnings: list[str] = []
        self._body = bytearray()
        self._loop = asyncio.get_running_loop()
        self._quiet_since = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._writing = False
        self._sign_of_life: asyncio.Task[None] | None = None
        self.committed = False
        self.first_byte_at: float | None = None

    def __enter__(self) -> Self:
        if self._stream:
            first_look = min(self._hold_seconds, self._ping_seconds)
            self._timer = self._loop.call_later(first_look, self._on_silence)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._sign_of_life is not None:
            self._sign_of_life.cancel()

    def describe(self, headers: Mapping[str, str], events: Iterable[ChatEvent]) -> None:
        """Sets the head's headers: `headers`, and what the events before the content say of the upstream's."""
        self._headers |= headers
        for event in events:
            kind = event.WhichOneof("event")
            if kind == "head":
                self._headers |= upstream_headers(event.head)
            elif kind == "warning":
                self._warnings.append(_in_words(event.warning))

    def written_by(self, writer: EventWriter) -> None:
        """Has another writer write the answer, of which none has been written."""
        self._writer = writer

    @property
    def warnings(self) -> str:
        """What was dropped of the request, in one line; empty: nothing."""
        return "; ".join(self._warnings)[:_MAX_WARNINGS]

    async def write(self, events: Iterable[ChatEvent]) -> None:
        """Sends what these events mean to the client."""
        if self._sign_of_life is not None:
            # The writer is asked in the order in which the client gets its words.
            await self._sign_of_life
        data = self._writer.feed(events)
        if not data:
            return
        if self._stream:
            await self._send(data)
        else:
            self._body += data

    async def end(self) -> None:
        """Sends the end of the answer.

        Raises:
            PatchbayError: When not streaming and the answer ended in an error.
        """
        if self._stream:
            await self._finish(self._writer.close)
        else:
            data = self._writer.close()
            body = bytes(self._body) + data
            if self._keeper is not None:
                await self._keeper.see(body)
            self.first_byte_at = time.monotonic()
            await self._exchange.answer(200, body, self._head())

    async def fail(self, error: Error) -> None:
        """Ends an answer whose head is out, with the dialect's in-stream error."""
        await self._finish(lambda: self._writer.feed([ChatEvent(error=error)]))

    async def _send(self, data: bytes) -> None:
        # A client that is slow to take this is not silent: no ping may come between.
        self._writing = True
        if self._keeper is not None:
            await self._keeper.see(data)
        await self._commit()
        if self.first_byte_at is None:
            self.first_byte_at = time.monotonic()
        await self._exchange.write(data)
        self._writing = False
        self._quiet_since = self._loop.time()

    async def _finish(self, last_words: Callable[[], bytes]) -> None:
        self._writing = True
        await self._commit()
        data = last_words()
        if self._keeper is not None:
            await self._keeper.see(data)
        await self._exchange.end(data)

    async def _commit(self) -> None:
        if self._sign_of_life is not None:
            # The timer is sending: after it, not into it.
            await self._sign_of_life
        self.committed = True
        if not self._exchange.started:
            await self._exchange.start(200, self._head())

    def _head(self) -> dict[str, str]:
        headers = {"content-type": self._writer.content_type, **self._headers}
        if self._stream:
            headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        if self._warnings:
            headers["x-patchbay-warnings"] = self.warnings
        return headers

    def _on_silence(self) -> None:
        """Runs when nothing may have been sent for a while; one timer for the whole answer."""
        if self._writing or self._sign_of_life is not None:
            self._timer = self._loop.call_later(self._ping_seconds, self._on_silence)
            return
        limit = self._ping_seconds if self.committed else self._hold_seconds
        left = self._quiet_since + limit - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._on_silence)
            return
        self.committed = True
        self._sign_of_life = asyncio.create_task(self._show_life(self._writer.ping()), name="sign-of-life")
        self._timer = self._loop.call_later(self._ping_seconds, self._on_silence)

    async def _show_life(self, ping: bytes) -> None:
        try:
            if not self._exchange.started:
                await self._exchange.start(200, self._head())
            await self._exchange.write(ping)
            self._quiet_since = self._loop.time()
        finally:
            self._sign_of_life = None


def upstream_headers(head: Head) -> dict[str, str]:
    """The upstream's headers that the client gets; its request id stands under both names clients look for."""
    headers = dict(head.headers)
    upstream_id = headers.get("request-id") or headers.get("x-request-id")
    if upstream_id:
        headers |= {"request-id": upstream_id, "x-request-id": upstream_id}
    return headers


def _in_words(warning: Warning) -> str:
    return f"{warning.parameter}: {warning.message}" if warning.parameter else warning.message
