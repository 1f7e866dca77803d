"""One HTTP request and its answer, over raw ASGI.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import zstandard

from patchbay.errors import INVALID_REQUEST, REQUEST_TOO_LARGE, PatchbayError, make_error

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientGone(Exception):
    """The client closed its connection before its answer was complete."""


class Exchange:
    """Reads a request's body, watches for the client's leaving, and writes the answer.

    Args:
        request_id: Sent back with the answer.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, request_id: str) -> None:
        self.request_id = request_id
        self.headers: Mapping[str, str] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
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
                unknown compression.
            ClientGone: When the client left while sending.
        """
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > max_bytes:
            raise _too_large(max_bytes)
        body = bytearray()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message.get("body", b"")
            if len(body) > max_bytes:
                raise _too_large(max_bytes)
            if not message.get("more_body", False):
                break
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        return bytes(body) if encoding in ("", "identity") else _decompress(bytes(body), encoding, max_bytes)

    def watch_disconnect(self) -> DisconnectWatch:
        """Cancels the block when the client leaves, and turns that into ClientGone."""
        return DisconnectWatch(self._receive)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Sends the answer's head, with the request id unless the upstream's own is among `headers`."""
        self.started = True
        self.status = status
        ids = {"request-id": self.request_id, "x-request-id": self.request_id, "x-patchbay-request-id": self.request_id}
        raw = [(name.encode("latin-1"), _header_value(value)) for name, value in (ids | dict(headers)).items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, data: bytes) -> None:
        """Sends a piece of the answer's body; waits while the client is slow to read."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Sends the last piece."""
        self.ended = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Sends a whole answer."""
        await self.start(status, {**headers, "content-length": str(len(body))})
        await self.end(body)


class DisconnectWatch:
    """An async context whose block is cancelled when the client leaves; see `Exchange.watch_disconnect`."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        self._block = asyncio.current_task()
        self._watcher = asyncio.create_task(self._watch(), name="disconnect-watch")

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._watcher.cancel()
        ours = self._gone and self._block is not None and self._block.uncancel() == 0
        if ours and isinstance(error, asyncio.CancelledError):
            raise ClientGone from None

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self._gone = True
        if self._block is not None:
            self._block.cancel()


def _decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decompresses with the output bounded, so that a small body cannot become a huge one."""
    try:
        match encoding:
            case "gzip" | "x-gzip":
                plain, whole = _inflate(body, zlib.MAX_WBITS | 16, max_bytes)
            case "deflate":
                plain, whole = _inflate(body, zlib.MAX_WBITS, max_bytes)
            case "zstd":
                plain, whole = _unzstd(body, max_bytes)
            case _:
                raise PatchbayError(
                    make_error(INVALID_REQUEST, f"content-encoding `{encoding}` is not supported", http_status=415)
                )
    except (zlib.error, zstandard.ZstdError) as error:
        raise PatchbayError(make_error(INVALID_REQUEST, f"the body is not valid {encoding}")) from error
    if len(plain) > max_bytes:
        raise _too_large(max_bytes)
    if not whole:
        raise PatchbayError(make_error(INVALID_REQUEST, f"the {encoding} body is cut off"))
    return plain


def _inflate(body: bytes, window_bits: int, max_bytes: int) -> tuple[bytes, bool]:
    inflater = zlib.decompressobj(window_bits)
    plain = inflater.decompress(body, max_bytes + 1)
    return plain, inflater.eof


def _unzstd(body: bytes, max_bytes: int) -> tuple[bytes, bool]:
    with zstandard.ZstdDecompressor().stream_reader(body) as reader:
        plain = reader.read(max_bytes + 1)
    if len(plain) > max_bytes:
        return plain, True
    # The bounded reader takes a cut frame for a short one; only this object knows, and now its output is bounded too.
    frame = zstandard.ZstdDecompressor().decompressobj()
    frame.decompress(body)
    return plain, frame.eof


def _too_large(max_bytes: int) -> PatchbayError:
    return PatchbayError(make_error(REQUEST_TOO_LARGE, f"the request body is larger than {max_bytes} bytes"))


def _header_value(value: str) -> bytes:
    # A line break in a header would end it: upstream text and warnings may hold anything.
    return value.replace("\r", " ").replace("\n", " ").encode("latin-1", "replace")
