"""An edge's permission requests, as this command reads and answers them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal, Self, TypeAlias, TypeVar

import httpx
import msgspec

from patchbay.dialects.sse import FrameSplitter, FrameTooLarge, parse_frames
from patchbay.settings import is_loopback
from patchbay_cli.printable import printable
from patchbay_cli.problems import CommandFailed

_TIMEOUT = httpx.Timeout(10.0)
# The edge sends a ping every ten seconds unless it is configured otherwise: a stream that is silent for longer is dead.
_SILENCE_SECONDS = 60.0
_RETRY_SECONDS = (0.5, 5.0)

Shape = TypeVar("Shape")


class Request(msgspec.Struct, frozen=True):
    """A question whether a tool may be used; `expires_at` in Unix seconds."""

    id: str
    backend: str
    session: str
    tool_name: str
    input: msgspec.Raw
    created_at: float
    expires_at: float


class Resolution(msgspec.Struct, frozen=True):
    """The answer that a request has."""

    id: str
    decision: Literal["allow", "deny"]
    reason: str = ""
    by: str = ""

    def __str__(self) -> str:
        said = "allowed" if self.decision == "allow" else "denied"
        by = f" by {printable(self.by)}" if self.by else ""
        return f"{said}{by}{f': {printable(self.reason)}' if self.reason else ''}"


class Shown(Request, frozen=True):
    """A request with the answer that it may have."""

    decision: Literal["allow", "deny"] | None = None
    reason: str = ""
    by: str = ""
    updated_input: msgspec.Raw = msgspec.Raw(b"null")


class Pending(msgspec.Struct, frozen=True):
    """The body of the list."""

    data: list[Request]


class Connected(msgspec.Struct, frozen=True):
    """The stream has begun: all that is pending follows."""


class Away(msgspec.Struct, frozen=True):
    """The stream has ended, or cannot be had; it is tried again."""

    why: str


Event: TypeAlias = Connected | Away | Request | Resolution


class NotAnswered(Exception):
    """The answer was not taken; `final`: nor will it be, since the request is no longer pending."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


class PermissionClient:
    """Speaks with one edge.

    Args:
        url: The edge.
        key: The caller's Patchbay key; None: none.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url
        try:
            parsed = httpx.URL(url)
            if parsed.scheme not in ("http", "https") or not parsed.host:
                raise CommandFailed(f"{printable(url)} is no URL: it should be like http://127.0.0.1:8000")
            self._client = httpx.AsyncClient(
                base_url=parsed,
                headers={b"x-patchbay-key": key.encode()} if key else None,
                timeout=_TIMEOUT,
                # No proxy stands between this machine and itself.
                trust_env=not is_loopback(parsed.host),
            )
        except httpx.InvalidURL as error:
            raise CommandFailed(f"{printable(url)} is no URL: {error}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def pending(self) -> list[Request]:
        """What waits for an answer. Raises CommandFailed."""
        return _read(await self._get("/permissions"), Pending).data

    async def show(self, request_id: str) -> Shown:
        """One request. Raises CommandFailed."""
        return _read(await self._get(f"/permissions/{_segment(request_id)}"), Shown)

    async def answer(
        self, request_id: str, *, allow: bool, updated_input: msgspec.Raw | None = None, reason: str = ""
    ) -> Resolution:
        """Answers a request.

        Raises:
            NotAnswered: The edge did not take it.
        """
        body: dict[str, object] = {"decision": "allow" if allow else "deny", "reason": reason}
        if updated_input is not None:
            body["updated_input"] = updated_input
        try:
            response = await self._client.post(
                f"/permissions/{_segment(request_id)}/respond",
                content=msgspec.json.encode(body),
                headers={"content-type": "application/json"},
            )
        except httpx.TransportError as error:
            raise NotAnswered(f"the edge does not answer ({_why(error)})", final=False) from error
        if response.status_code != 200:
            raise NotAnswered(_message(response), final=response.status_code in (404, 409))
        return _read(response, Resolution)

    async def follow(self) -> AsyncGenerator[Event, None]:
        """What happens, through restarts of the edge. Raises CommandFailed when the edge does not let us."""
        delay = _RETRY_SECONDS[0]
        while True:
            why = "it has ended the stream"
            try:
                async with aclosing(self._stream()) as events:
                    async for event in events:
                        delay = _RETRY_SECONDS[0]
                        yield event
            except httpx.TransportError as error:
                why = _why(error)
            except FrameTooLarge:
                why = "it sends what is no event"
            yield Away(why)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_SECONDS[1])

    async def _stream(self) -> AsyncGenerator[Event, None]:
        timeout = httpx.Timeout(_TIMEOUT.connect, read=_SILENCE_SECONDS)
        async with self._client.stream("GET", "/permissions/stream", timeout=timeout) as response:
            if response.status_code != 200:
                await response.aread()
                if response.status_code < 500:
                    raise CommandFailed(_message(response))
                raise httpx.RemoteProtocolError(_message(response))
            yield Connected()
            splitter = FrameSplitter()
            async for data in response.aiter_bytes():
                for frame in parse_frames(splitter.feed(data)):
                    if frame.event == b"permission_request":
                        yield msgspec.json.decode(frame.data, type=Request)
                    elif frame.event == b"permission_resolved":
                        yield msgspec.json.decode(frame.data, type=Resolution)

    async def _get(self, path: str) -> httpx.Response:
        try:
            response = await self._client.get(path)
        except httpx.TransportError as error:
            raise CommandFailed(f"{self.url} does not answer ({_why(error)})") from error
        if response.status_code != 200:
            raise CommandFailed(_message(response))
        return response


class _Error(msgspec.Struct):
    message: str


class _ErrorBody(msgspec.Struct):
    error: _Error


def _message(response: httpx.Response) -> str:
    try:
        return printable(msgspec.json.decode(response.content, type=_ErrorBody).error.message)
    except msgspec.DecodeError:
        return f"{response.url} answers {response.status_code}: is it a Patchbay edge?"


def _read(response: httpx.Response, shape: type[Shape]) -> Shape:
    try:
        return msgspec.json.decode(response.content, type=shape)
    except msgspec.DecodeError as error:
        raise CommandFailed(f"{response.url} is not answered by a Patchbay edge of this release") from error


def _segment(request_id: str) -> str:
    if not request_id.replace("_", "").isalnum() or not request_id.isascii():
        raise CommandFailed(f"{printable(request_id)!r} is no id of a permission request")
    return request_id


def _why(error: Exception) -> str:
    return printable(str(error)) or type(error).__name__
