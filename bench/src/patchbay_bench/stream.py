"""A client for one streamed answer at a time over one kept-alive connection, as cheap as Python has it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Self

import httptools

from patchbay_bench.jobs import ClientDialect
from patchbay_bench.wire import has_content


class StreamBroken(Exception):
    """The connection ended before the answer did, or carried something that is no HTTP."""


@dataclass(slots=True)
class RawAnswer:
    """One answer as it came. Times on `time.perf_counter`."""

    sent_at: float
    status: int = 0
    first_byte_at: float | None = None
    first_content_at: float | None = None
    ended_at: float = 0.0
    pieces: list[bytes] = field(default_factory=list)


class StreamClient(asyncio.Protocol):
    """One connection."""

    def __init__(self, dialect: ClientDialect) -> None:
        self._dialect = dialect
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: RawAnswer | None = None
        self._ended: asyncio.Future[RawAnswer] | None = None
        self._content: asyncio.Future[None] | None = None
        self.open = False

    @classmethod
    async def connect(cls, host: str, port: int, dialect: ClientDialect) -> Self:
        """Opens a connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: cls(dialect), host, port)
        return client

    def start(self, request: bytes) -> asyncio.Future[RawAnswer]:
        """Sends a request; the future has its answer once it has ended, or StreamBroken."""
        if self._transport is None:
            raise StreamBroken("not connected")
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        self._content = loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._answer = RawAnswer(time.perf_counter())
        self._transport.write(request)
        return self._ended

    async def first_content(self) -> None:
        """Waits for the running answer's first content. Raises StreamBroken."""
        if self._content is not None:
            await self._content

    def close(self) -> None:
        """Drops the connection, and with it the running answer."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self.open = True

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        self._fail(StreamBroken(f"the connection ended early: {error or 'closed'}"))

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return
        if self._answer is not None and self._answer.first_byte_at is None:
            self._answer.first_byte_at = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(StreamBroken(f"no HTTP: {error}"))
            self.close()

    def on_headers_complete(self) -> None:
        if self._parser is not None and self._answer is not None:
            self._answer.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        answer = self._answer
        if answer is None:
            return
        answer.pieces.append(body)
        if answer.first_content_at is None:
            # A marker may be cut in two, so what came before is looked at again; until the content there is little.
            seen = body if len(answer.pieces) == 1 else b"".join(answer.pieces)
            if has_content(self._dialect, seen):
                answer.first_content_at = time.perf_counter()
                if self._content is not None and not self._content.done():
                    self._content.set_result(None)

    def on_message_complete(self) -> None:
        answer, ended = self._answer, self._ended
        if answer is None or ended is None or self._parser is None:
            return
        answer.ended_at = time.perf_counter()
        if not self._parser.should_keep_alive():
            self.close()
            self.open = False
        self._answer = self._ended = None
        if not ended.done():
            ended.set_result(answer)

    def _fail(self, error: StreamBroken) -> None:
        for waiter in (self._content, self._ended):
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
                # Whoever does not wait for it does not want to hear of it.
                waiter.exception()
        self._answer = self._ended = None
