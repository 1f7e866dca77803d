"""A request that came in a WebSocket frame, and its answer in frames."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec

from patchbay.dialects.base import ErrorBody
from patchbay.dialects.sse import FrameSplitter, parse_frames
from patchbay.errors import REQUEST_TOO_LARGE, PatchbayError, make_error
from patchbay_edge.exchange import DisconnectWatch, Exchange, Scope
from patchbay_edge.responses.turns import Memory

_DONE = b"[DONE]"
_WINDOWS = ("primary", "secondary")
# The name in the frame -> the end of the header's.
_WINDOW_FIELDS = {"used_percent": "used-percent", "window_minutes": "window-minutes", "reset_at": "reset-at"}


# What Codex would send as headers of this one request, in the fields of `client_metadata`.
_HEADER_FIELD = "ws_request_header_"
# What a header may be; whatever else a frame holds would be sent on as one.
_HEADER_NAME = re.compile(r"[a-z0-9-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class _Request(msgspec.Struct, frozen=True):
    client_metadata: dict[str, object] | None = None


class _Response(msgspec.Struct, frozen=True):
    id: str = ""


class _Named(msgspec.Struct, frozen=True):
    response: _Response = _Response()


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_named = msgspec.json.Decoder(_Named).decode


class FrameExchange(Exchange):
    """Looks like one HTTP request to what answers it.

    Args:
        scope: Of the socket.
        body: The request.
        say: Sends a text frame.
        gone: Set when the client has left.
        memory: What the connection can go on from.
    """

    def __init__(
        self,
        scope: Scope,
        body: bytes,
        say: Callable[[str], Awaitable[None]],
        gone: asyncio.Event,
        *,
        request_id: str,
        memory: Memory,
    ) -> None:
        super().__init__(scope, self._leaves, _never, request_id=request_id)
        self.headers = {**self.headers, **_headers_in(body)}
        self.memory = memory
        # Of the response that was answered last.
        self.response_id = ""
        self._body = body
        self._say = say
        self._gone = gone
        self._splitter = FrameSplitter()

    async def read_body(self, max_bytes: int) -> bytes:
        """The request in the frame.

        Raises:
            PatchbayError: REQUEST_TOO_LARGE over `max_bytes`.
        """
        if len(self._body) > max_bytes:
            message = f"the request is larger than {max_bytes} bytes"
            raise PatchbayError(make_error(REQUEST_TOO_LARGE, message))
        return self._body

    def watch_disconnect(self) -> DisconnectWatch:
        """Cancels the block when the client leaves."""
        return DisconnectWatch(self, self._leaves)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Notes the status; what the head says of the account's limits becomes a frame."""
        self.status = status
        self.started = True
        limits = rate_limits_frame(headers)
        if limits is not None:
            await self._say(limits)

    async def write(self, data: bytes) -> None:
        for frame in self.frames(data):
            await self._say(frame)

    async def end(self, data: bytes = b"") -> None:
        await self.write(data)
        self.ended = True

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Sends an error: nothing else is answered whole here."""
        self.status = status
        self.started = True
        await self._say(error_frame(ErrorBody(status, body, headers)))
        self.ended = True

    def frames(self, data: bytes) -> list[str]:
        """The frames for a piece of an event stream. Comments are none: the socket has pings of its own."""
        said = []
        for frame in parse_frames(self._splitter.feed(data)):
            if not frame.data or frame.data == _DONE:
                continue
            if not self.response_id:
                self.response_id = _response_id(frame.data)
            # No text frame may hold what is no UTF-8, and no answer fails for what an upstream says in it.
            said.append(frame.data.decode(errors="replace"))
        return said

    async def _leaves(self) -> MutableMapping[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}


async def _never(_: MutableMapping[str, Any]) -> None:
    raise AssertionError("a frame's answer is not sent as HTTP")


def _headers_in(body: bytes) -> dict[str, str]:
    if _HEADER_FIELD.encode() not in body:
        return {}
    try:
        metadata = _decode_request(body).client_metadata or {}
    except msgspec.DecodeError:
        return {}
    named = {
        name.removeprefix(_HEADER_FIELD).replace("_", "-").lower(): value
        for name, value in metadata.items()
        if name.startswith(_HEADER_FIELD) and isinstance(value, str) and _HEADER_VALUE.fullmatch(value)
    }
    return {name: value for name, value in named.items() if _HEADER_NAME.fullmatch(name)}


def error_frame(error: ErrorBody) -> str:
    """An error in place of an answer. A client takes it as it would the HTTP status."""
    fields = msgspec.json.decode(error.body, type=dict[str, msgspec.Raw])
    headers = {name: value for name, value in error.headers.items() if name not in ("content-type", "content-length")}
    frame = {"type": "error", "status": error.status, "error": fields.get("error"), "headers": headers}
    return msgspec.json.encode(frame).decode()


def rate_limits_frame(headers: Mapping[str, str]) -> str | None:
    """The `codex.rate_limits` frame for the limits that an answer's head tells; None: it tells none."""
    limits = {window: _window(headers, window) for window in _WINDOWS}
    if not any(limits.values()):
        return None
    frame = {
        "type": "codex.rate_limits",
        "plan_type": headers.get("x-codex-plan-type"),
        "rate_limits": limits,
        "credits": _credits(headers),
    }
    return msgspec.json.encode(frame).decode()


def _credits(headers: Mapping[str, str]) -> dict[str, bool | str] | None:
    found: dict[str, bool | str] = {
        name: headers[f"x-codex-credits-{end}"].lower() == "true"
        for name, end in (("has_credits", "has-credits"), ("unlimited", "unlimited"))
        if f"x-codex-credits-{end}" in headers
    }
    if "x-codex-credits-balance" in headers:
        found["balance"] = headers["x-codex-credits-balance"]
    return found or None


def _window(headers: Mapping[str, str], window: str) -> dict[str, float] | None:
    found: dict[str, float] = {}
    for name, end in _WINDOW_FIELDS.items():
        try:
            found[name] = float(headers[f"x-codex-{window}-{end}"])
        except (KeyError, ValueError):
            continue
    return {name: int(value) if value == int(value) else value for name, value in found.items()} or None


def _response_id(data: bytes) -> str:
    try:
        return _decode_named(data).response.id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
