"""The HTTP transport to one upstream: httpx's API over aiohttp's sockets, one long-lived client.

Stock httpx costs ten times as much for a stream; see docs/architecture.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from patchbay.errors import TIMEOUT, UNAVAILABLE, UPSTREAM, PatchbayError, make_error
from patchbay.settings import Timeouts
from patchbay.upstream.silence import SilenceWatch

# More of an error body than this says nothing new.
MAX_ERROR_BYTES = 1024 * 1024
# An upstream that has finished its answer but keeps the connection open is left after this many seconds.
LINGER_SECONDS = 10.0


class UpstreamResponse:
    """An upstream's answer: status and headers are there, the body comes in pieces."""

    def __init__(self, response: httpx.Response, watch: SilenceWatch) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self._response = response
        self._watch = watch
        self._finished = False

    @property
    def content_type(self) -> str:
        """The media type without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives.

        Raises:
            PatchbayError: TIMEOUT after too long a silence, UPSTREAM when the connection breaks.
        """
        watch = self._watch
        try:
            async for data in self._response.aiter_raw():
                watch.pause()
                yield data
                watch.heard()
        except httpx.TransportError as error:
            if not self._finished:
                raise PatchbayError(make_error(UPSTREAM, "the connection to the upstream broke mid-answer")) from error

    async def read(self, limit: int) -> bytes:
        """The whole body, cut off after `limit` bytes."""
        body = bytearray()
        async for data in self.pieces():
            body += data
            if len(body) >= limit:
                break
        return bytes(body[:limit])

    def finished(self) -> None:
        """The answer is complete: from here on only the end of the connection is awaited, and not for long."""
        if not self._finished:
            self._finished = True
            self._watch.limit(LINGER_SECONDS)

    @property
    def lingering(self) -> bool:
        return self._finished


class HttpUpstream:
    """One upstream server.

    Args:
        base_url: Where paths are appended, for example `https://api.openai.com/v1`.
        timeouts: Connect, first byte (until the response head), idle (between pieces); in seconds.
    """

    def __init__(self, base_url: str, timeouts: Timeouts) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeouts = timeouts
        self._client = httpx.AsyncClient(
            transport=AiohttpTransport(client=self._session),
            timeout=httpx.Timeout(None, connect=timeouts.connect),
            headers={"user-agent": "patchbay", "accept-encoding": "identity"},
        )

    @staticmethod
    def _session() -> aiohttp.ClientSession:
        # No limit here: the worker's capacity and the fleet's leases are the limits.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    @asynccontextmanager
    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[UpstreamResponse]:
        """Sends a request and yields the answer once its head is there. Leaving the block early drops the connection.

        Raises:
            PatchbayError: UNAVAILABLE when there is no connection, TIMEOUT when the head or the next piece does not
                come in time, UPSTREAM when the connection breaks.
        """
        request = self._client.build_request(method, self._base_url + path, headers=dict(headers), content=body)
        watch = SilenceWatch(self._timeouts.first_byte)
        response: httpx.Response | None = None
        answer: UpstreamResponse | None = None
        try:
            with watch:
                response = await self._send(request)
                watch.limit(self._timeouts.idle)
                answer = UpstreamResponse(response, watch)
                yield answer
        except TimeoutError as error:
            if answer is None or not answer.lingering:
                waited = "its first byte" if answer is None else "more of its answer"
                message = f"the upstream did not send {waited} in time"
                raise PatchbayError(make_error(TIMEOUT, message)) from error
        finally:
            if response is not None:
                await response.aclose()

    async def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            message = f"no connection to the upstream {request.url.host}"
            raise PatchbayError(make_error(UNAVAILABLE, message)) from error

    async def aclose(self) -> None:
        await self._client.aclose()
        # aiohttp closes TLS connections in the background: let it.
        await asyncio.sleep(0)
