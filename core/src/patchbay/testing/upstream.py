"""A scripted HTTP server on a loopback socket, inside the test's event loop: it says byte by byte what a test wants.

The stand-in provider speaks protocols properly; this one is for everything that is not proper.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

Script: TypeAlias = Callable[["Visit"], Awaitable[None]]


@dataclass
class Visit:
    """One connection, with its first request read."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes = b""
    body: bytes = b""
    # When the other side closed the connection, on the loop's clock.
    left_at: float | None = None

    async def read_request(self) -> bool:
        """Reads the next request of this connection; False: there is none."""
        try:
            self.head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        length = self.header("content-length")
        self.body = await self.reader.readexactly(int(length or 0))
        return True

    def header(self, name: str) -> str | None:
        """The value of the header; several lines of one name are joined with a `|`."""
        lines = [line.partition(":") for line in self.head.decode("latin-1").split("\r\n")[1:]]
        found = [value.strip() for key, _, value in lines if key.lower() == name]
        return "|".join(found) if found else None

    async def say(self, data: bytes) -> None:
        """Sends the bytes, and waits while the other side does not read."""
        self.writer.write(data)
        await self.writer.drain()

    async def say_head(self, *headers: str, status: str = "200 OK") -> None:
        await self.say("\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode())

    async def say_chunk(self, data: bytes) -> None:
        await self.say(b"%x\r\n%s\r\n" % (len(data), data))

    async def answer(self, body: bytes, *headers: str, status: str = "200 OK") -> None:
        await self.say_head(*headers, f"content-length: {len(body)}", status=status)
        await self.say(body)

    async def wait_left(self) -> None:
        """Waits until the other side has closed the connection."""
        try:
            while await self.reader.read(65536):
                continue
        except ConnectionError:
            # A reset is a way of leaving, too.
            self.left_at = asyncio.get_running_loop().time()
            return
        self.left_at = asyncio.get_running_loop().time()


@dataclass
class Upstream:
    """Where it listens, and every connection so far."""

    url: str
    visits: list[Visit] = field(default_factory=list)


@asynccontextmanager
async def upstream(script: Script) -> AsyncIterator[Upstream]:
    """A server whose every connection plays the script after its first request."""
    served = Upstream("")

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        one = Visit(reader, writer)
        served.visits.append(one)
        try:
            if await one.read_request():
                await script(one)
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(visit, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield served
    finally:
        server.close()
        for one in served.visits:
            if not one.writer.is_closing():
                one.writer.transport.abort()
