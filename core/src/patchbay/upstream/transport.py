"""What carries a request to an upstream: HTTP, or whatever else can answer like a server of the dialect."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Protocol

from patchbay.canonical import Warning


class Response(Protocol):
    """An answer: status and headers (names in lower case) are there, the body comes in pieces."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def content_type(self) -> str:
        """The media type without parameters, in lower case."""

    @property
    def warnings(self) -> Sequence[Warning]:
        """What of the request this way could not carry."""

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives. Raises PatchbayError when it breaks off."""

    def finished(self) -> None:
        """Nothing more is needed: the rest may break, and is not waited for long."""


class Upstream(Protocol):
    """One upstream."""

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AbstractAsyncContextManager[Response]:
        """Sends a request and gives the answer once its head is there. Leaving the block early drops it.

        Raises:
            PatchbayError: When there is no answer.
        """

    async def aclose(self) -> None: ...


class PeekedResponse:
    """An answer whose body may have been read already.

    Args:
        body: All of it; None: it has not.
    """

    def __init__(self, response: Response, body: bytes | None = None) -> None:
        self._response = response
        self._body = body

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def content_type(self) -> str:
        return self._response.content_type

    @property
    def warnings(self) -> Sequence[Warning]:
        return self._response.warnings

    def pieces(self) -> AsyncGenerator[bytes, None]:
        return self._response.pieces() if self._body is None else _once(self._body)

    def finished(self) -> None:
        self._response.finished()


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


async def read_all(response: Response, limit: int) -> bytes:
    """The whole body of an answer, cut off after `limit` bytes. Raises PatchbayError when it breaks off."""
    body = bytearray()
    async with aclosing(response.pieces()) as pieces:
        async for data in pieces:
            body += data
            if len(body) >= limit:
                break
    return bytes(body[:limit])
