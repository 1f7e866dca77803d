"""The HTTP transport to one upstream: httpx's transport API over aiohttp's sockets, one long-lived pool.

Stock httpx costs ten times as much for a stream; see docs/architecture.md. Its client is left out as well: redirects,
cookies and authentication flows are nothing that a provider's API needs, and each request would pay for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import cast
from urllib.parse import urlsplit

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from patchbay.canonical import Warning
from patchbay.errors import INVALID_REQUEST, TIMEOUT, UNAVAILABLE, UPSTREAM, Code, PatchbayError, make_error
from patchbay.settings import Timeouts
from patchbay.upstream.silence import SilenceWatch

# More of an error body than this says nothing new.
MAX_ERROR_BYTES = 1024 * 1024
# An upstream that has finished its answer but keeps the connection open is left after this many seconds.
LINGER_SECONDS = 10.0
# What httpx's transport lets through of aiohttp's own is as much a broken connection as what it translates.
_TRANSPORT_ERRORS = (httpx.TransportError, aiohttp.ClientError)
_HEADERS = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "patchbay"}


class UpstreamResponse:
    """An upstream's answer: status and headers are there, the body comes in pieces.

    Args:
        idle: The longest silence between pieces, in seconds.
    """

    # HTTP carries everything.
    warnings: Sequence[Warning] = ()

    def __init__(self, response: httpx.Response, idle: float) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self._response = response
        self._watch = SilenceWatch(idle)
        self._finished = False

    @property
    def content_type(self) -> str:
        """The media type without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives; the time that the caller takes for a piece is no silence.

        Raises:
            PatchbayError: TIMEOUT after too long a silence, UPSTREAM when the connection breaks.
        """
        watch = self._watch
        try:
            with watch:
                # What httpx calls an iterator is a generator, and is to be closed.
                stream = cast("httpx.AsyncByteStream", self._response.stream)
                async with aclosing(cast("AsyncGenerator[bytes, None]", aiter(stream))) as body:
                    async for data in body:
                        watch.pause()
                        yield data
                        watch.heard()
        except TimeoutError as error:
            if not self._finished:
                raise _error(TIMEOUT, "the upstream did not send more of its answer in time") from error
        except _TRANSPORT_ERRORS as error:
            if not self._finished:
                raise _error(UPSTREAM, "the connection to the upstream broke mid-answer") from error

    def finished(self) -> None:
        """Nothing more is needed: the rest may break, and is waited for no longer than LINGER_SECONDS."""
        if not self._finished:
            self._finished = True
            self._watch.limit(LINGER_SECONDS)


class HttpUpstream:
    """One upstream server.

    Args:
        base_url: Where paths are appended, for example `https://api.openai.com/v1`.
        timeouts: Connect, first byte (until the response head), idle (between pieces); in seconds.
    """

    def __init__(self, base_url: str, timeouts: Timeouts) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeouts = timeouts
        self._transport = AiohttpTransport(client=self._session)
        self._extensions = {"timeout": httpx.Timeout(None, connect=timeouts.connect).as_dict()}
        self._urls: dict[str, httpx.URL] = {}

    def at(self, origin: str) -> HttpUpstream:
        """The same paths at another origin, such as `https://us.example.com`: a server of its own, to be closed."""
        return HttpUpstream(origin + urlsplit(self._base_url).path, self._timeouts)

    @staticmethod
    def _session() -> aiohttp.ClientSession:
        # No limit here: the worker's capacity and the fleet's leases are the limits. No cookies: one caller's are not
        # for the next one.
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
        response = await self._send(self._build(method, path, headers=headers, body=body))
        try:
            yield UpstreamResponse(response, self._timeouts.idle)
        finally:
            await response.aclose()

    def _build(self, method: str, path: str, *, headers: Mapping[str, str], body: bytes | None) -> httpx.Request:
        try:
            return httpx.Request(
                method, self._url(path), headers={**_HEADERS, **headers}, content=body, extensions=self._extensions
            )
        except UnicodeEncodeError:
            # The error's own text would show the header, which may be a credential.
            raise _error(INVALID_REQUEST, "a header for the upstream holds characters that are not ASCII") from None

    async def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            async with asyncio.timeout(self._timeouts.first_byte):
                return await self._transport.handle_async_request(request)
        except TimeoutError as error:
            raise _error(TIMEOUT, "the upstream did not send its first byte in time") from error
        except aiohttp.ClientResponseError as error:
            raise _error(UPSTREAM, f"the upstream {request.url.host} does not answer in HTTP") from error
        except _TRANSPORT_ERRORS as error:
            raise _error(UNAVAILABLE, f"no connection to the upstream {request.url.host}") from error

    def _url(self, path: str) -> httpx.URL:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = httpx.URL(self._base_url + path)
        return url

    async def aclose(self) -> None:
        await self._transport.aclose()
        # aiohttp closes TLS connections in the background: let it.
        await asyncio.sleep(0)


def _error(code: Code, message: str) -> PatchbayError:
    return PatchbayError(make_error(code, message))
