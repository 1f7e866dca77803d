"""The services that search: whatever one of them answers, a tool has a result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from patchbay.codebuff.search import search
from patchbay.settings.codebuff import CodebuffSearch


@asynccontextmanager
async def answering(body: bytes, *, length: int | None = None, status: str = "200 OK") -> AsyncIterator[CodebuffSearch]:
    """A service that answers everything with this body, of which it may say that there is more."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body) if length is None else length}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield CodebuffSearch(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    finally:
        server.close()


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"result": "this"}', {"answer": "this"}),
        (b'{"answer": "that"}', {"answer": "that"}),
        (b'{"error": "no"}', {"errorMessage": "no"}),
        (b"", {"errorMessage": "The search service gave no result."}),
        (b'{"result": "\xff"}', {"errorMessage": "The search service gave no result."}),
        (b"[" * 100_000, {"errorMessage": "The search service gave no result."}),
        (b" " * 4_200_000, {"errorMessage": "The search gave too much."}),
    ],
)
async def test_what_a_service_answers(body: bytes, found: dict[str, str]) -> None:
    async with answering(body) as service:
        assert await search(service, {"query": "q"}, answer="answer") == found


async def test_a_service_that_fails_or_takes_too_long() -> None:
    async with answering(b"", status="500 Oh") as service:
        found = await search(service, {}, answer="answer")
        assert found == {"errorMessage": "The search service answered with status 500."}
    async with answering(b'{"res', length=100) as service:
        assert "errorMessage" in await search(service, {}, answer="answer", seconds=0.2)
