"""One HTTP request and its answer, over raw ASGI.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Protocol

import zstandard

from patchbay.errors import INVALID_REQUEST, REQUEST_TOO_LARGE, PatchbayError, make_error
from patchbay_edge.responses.turns import Memory

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# A client that sends nothing for so long in the middle of its request holds a place for nothing.
_UPLOAD_SILENCE_SECONDS = 30
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class ClientGone(Exception):
    """The client closed its connection before its answer was complete."""


class Exchange:
    """Reads a request's body, watches for the client's leaving, and writes the answer.

    Args:
        request_id: Sent back with the answer.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, request_id: str) -> None:
        self.request_id = request_id
        self.path: str = scope.get("path", "")
        # What the client's connection can go on from, where it has one for several requests.
        self.memory: Memory | None = None
        self.headers = _read_headers(scope["headers"])
        # Whether the server has taken the answer's head, and its last piece.
        self.started = False
        self.ended = False
        self.status = 0
        # What the request log says beside the usual.
        self.notes: dict[str, str | int] = {}
        self._receive = receive
        self._send = send

    async def read_body(self, max_bytes: int) -> bytes:
        """The request's body, decompressed (gzip, deflate or zstd).

        Raises:
            PatchbayError: REQUEST_TOO_LARGE over `max_bytes` (compressed or not), INVALID_REQUEST for a broken or
                unknown compression, or when the client falls silent (408).
            ClientGone: When the client left while sending.
        """
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > max_bytes:
            raise _too_large(max_bytes)
        pieces: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._receive_soon()
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece = message.get("body", b"")
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                raise _too_large(max_bytes)
            more = message.get("more_body", False)
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding in ("", "identity"):
            return body
        # In a thread, since a small body can be a lot of work and every other stream would wait for it.
        return await asyncio.to_thread(_decompress, body, encoding, max_bytes)

    async def _receive_soon(self) -> MutableMapping[str, Any]:
        try:
            async with asyncio.timeout(_UPLOAD_SILENCE_SECONDS):
                return await self._receive()
        except TimeoutError as error:
            message = f"nothing of the request body came for {_UPLOAD_SILENCE_SECONDS} seconds"
            raise PatchbayError(make_error(INVALID_REQUEST, message, http_status=408)) from error

    def watch_disconnect(self) -> DisconnectWatch:
        """Cancels the block when the client leaves, and turns that into ClientGone."""
        return DisconnectWatch(self, self._receive)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Sends the answer's head, with the request id unless the upstream's own is among `headers`."""
        self.status = status
        ids = {"request-id": self.request_id, "x-request-id": self.request_id, "x-patchbay-request-id": self.request_id}
        raw = [(name.encode("latin-1"), _header_value(value)) for name, value in (ids | dict(headers)).items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
        self.started = True

    async def write(self, data: bytes) -> None:
        """Sends a piece of the answer's body; waits while the client is slow to read."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Sends the last piece."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})
        self.ended = True

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Sends a whole answer."""
        await self.start(status, {**headers, "content-length": str(len(body))})
        await self.end(body)


class DisconnectWatch:
    """An async context whose block is cancelled when the client leaves; see `Exchange.watch_disconnect`."""

    def __init__(self, exchange: Exchange, receive: Receive) -> None:
        self._exchange = exchange
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        self._block = asyncio.current_task()
        self._cancelling = self._block.cancelling() if self._block is not None else 0
        self._watcher = asyncio.create_task(self._watch(), name="disconnect-watch")

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._watcher.cancel()
        ours = self._gone and self._block is not None and self._block.uncancel() <= self._cancelling
        if ours and isinstance(error, asyncio.CancelledError):
            raise ClientGone from None

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        # Servers say the same once the answer is complete.
        if self._block is not None and not self._exchange.ended:
            self._gone = True
            self._block.cancel()


def _decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decompresses with the output bounded, so that a small body cannot become a huge one."""
    try:
        match encoding:
            case "gzip" | "x-gzip":
                plain, inflater = _inflate(body, zlib.MAX_WBITS | 16, max_bytes)
            case "deflate":
                plain, inflater = _inflate(body, zlib.MAX_WBITS, max_bytes)
            case "zstd":
                plain, inflater = _unzstd(body, max_bytes)
            case _:
                raise PatchbayError(
                    make_error(INVALID_REQUEST, f"content-encoding `{encoding}` is not supported", http_status=415)
                )
    except (zlib.error, zstandard.ZstdError) as error:
        raise PatchbayError(make_error(INVALID_REQUEST, f"the body is not valid {encoding}")) from error
    if len(plain) > max_bytes:
        raise _too_large(max_bytes)
    if not inflater.eof:
        raise PatchbayError(make_error(INVALID_REQUEST, f"the {encoding} body is cut off"))
    if inflater.unused_data:
        # A second member would be lost; thousands of them would cost the square of their number.
        raise PatchbayError(make_error(INVALID_REQUEST, f"the {encoding} body goes on after its end"))
    return plain


class _Inflater(Protocol):
    """What both libraries' decompressors know at the end."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


def _inflate(body: bytes, window_bits: int, max_bytes: int) -> tuple[bytes, _Inflater]:
    inflater = zlib.decompressobj(window_bits)
    return inflater.decompress(body, max_bytes + 1), inflater


def _unzstd(body: bytes, max_bytes: int) -> tuple[bytes, _Inflater]:
    # Only this object knows where the frame ends, and only the reader bounds its output. A frame that says its size,
    # as most do, is held to it by the library.
    frame = zstandard.ZstdDecompressor().decompressobj()
    said = zstandard.get_frame_parameters(body).content_size
    if said == zstandard.CONTENTSIZE_UNKNOWN:
        with zstandard.ZstdDecompressor().stream_reader(body) as reader:
            said = len(reader.read(max_bytes + 1))
    if said > max_bytes:
        raise _too_large(max_bytes)
    return frame.decompress(body), frame


def _too_large(max_bytes: int) -> PatchbayError:
    return PatchbayError(make_error(REQUEST_TOO_LARGE, f"the request body is larger than {max_bytes} bytes"))


def _read_headers(raw: Iterable[tuple[bytes, bytes]]) -> Mapping[str, str]:
    """Header values by lower-case name; lines of one name are one list, as RFC 9110 has it."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _header_value(value: str) -> bytes:
    # A line break in a header would end it: upstream text and warnings may hold anything.
    if not value.isprintable():
        value = _CONTROLS.sub(" ", value)
    return value.encode("latin-1", "replace")
