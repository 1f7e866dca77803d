"""A tap on the wire: hands bytes on both ways between an HTTP client and a server, and keeps them for the test."""

from __future__ import annotations

import contextlib
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_CHUNK = 65536


@dataclass(frozen=True)
class Message:
    """A request or an answer as it went over the wire, without its transfer coding."""

    start: bytes
    # Names in lower case; the last of a repeated one.
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Exchange:
    """A request and its answer; an answer that broke off has the body that came."""

    request: Message
    answer: Message

    def frames(self) -> list[bytes]:
        """The texts that the client of a WebSocket (RFC 6455) sent, each in one frame; empty for another exchange."""
        if not self.answer.start.startswith(b"HTTP/1.1 101 "):
            return []
        extension = self.answer.headers.get("sec-websocket-extensions", "")
        # RFC 7692: each message goes on with the compression of the one before, unless that was agreed otherwise.
        inflate, alone = zlib.decompressobj(-zlib.MAX_WBITS), "client_no_context_takeover" in extension
        texts = []
        for head, payload in _client_frames(self.request.body):
            if head & 0x0F != 1:
                continue
            if head & 0x40:
                payload = inflate.decompress(payload + b"\x00\x00\xff\xff")
                inflate = zlib.decompressobj(-zlib.MAX_WBITS) if alone else inflate
            texts.append(payload)
        return texts


class WireTap:
    """Listens on a free port of the loopback and passes everything on to `target`, while the context is open.

    Args:
        target: An `http://` URL.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[_Connection] = []
        self._recordings: list[_Recording] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def exchanges(self) -> list[Exchange]:
        """What went through since the last `reset`, in the order of the requests."""
        return [exchange for recording in self._recordings if (exchange := recording.exchange()) is not None]

    def only(self) -> Exchange:
        """The one exchange since the last `reset`."""
        (exchange,) = self.exchanges()
        return exchange

    def reset(self) -> None:
        """Forgets everything. What still comes of an earlier exchange, such as its last chunk, stays with that one."""
        self._recordings = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Wakes the accepting thread, which close alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                # As the client of a server that is down would see it.
                client.close()
                continue
            self._connections.append(_Connection(client, server, self._record))

    def _record(self) -> _Recording:
        recording = _Recording()
        self._recordings.append(recording)
        return recording


class _Recording:
    """The bytes of one exchange."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.received = bytearray()

    @property
    def is_socket(self) -> bool:
        """Whether the connection is a WebSocket now: what follows is no further request."""
        return self.received.startswith(b"HTTP/1.1 101 ")

    def exchange(self) -> Exchange | None:
        """None while either side has not said the head of its message."""
        request, answer = _message(bytes(self.sent)), _message(bytes(self.received))
        return None if request is None or answer is None else Exchange(request, answer)


class _Connection:
    def __init__(self, client: socket.socket, server: socket.socket, record: Callable[[], _Recording]) -> None:
        self._sockets = (client, server)
        self._record = record
        self._current: _Recording | None = None
        for source, target, keep in ((client, server, self._keep_sent), (server, client, self._keep_received)):
            threading.Thread(target=self._pump, args=(source, target, keep), daemon=True).start()

    def _keep_sent(self, data: bytes) -> None:
        # Requests are not pipelined: what is sent after an answer is the next one.
        if self._current is None or (self._current.received and not self._current.is_socket):
            self._current = self._record()
        self._current.sent += data

    def _keep_received(self, data: bytes) -> None:
        if self._current is not None:
            self._current.received += data

    def close(self) -> None:
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _pump(self, source: socket.socket, target: socket.socket, keep: Callable[[bytes], None]) -> None:
        # Either side may break the connection off, and `close` breaks off both.
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                # Kept before it is passed on: whoever has got it finds it here.
                keep(data)
                target.sendall(data)
        self.close()


def _message(stream: bytes) -> Message | None:
    """Reads a message (RFC 9112) as far as it came; None without a whole head."""
    head, separator, body = stream.partition(b"\r\n\r\n")
    if not separator:
        return None
    start, *lines = head.split(b"\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _dechunked(body)
    return Message(start, headers, body)


def _client_frames(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """The first byte and the unmasked payload of each whole frame."""
    while len(stream) >= 6:
        length, start = stream[1] & 0x7F, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(stream[2:start], "big")
        mask, payload = stream[start : start + 4], stream[start + 4 : start + 4 + length]
        if len(payload) < length:
            return
        yield stream[0], bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
        stream = stream[start + 4 + length :]


def _dechunked(stream: bytes) -> bytes:
    """The body of a chunked message."""
    body = bytearray()
    while stream:
        size, _, stream = stream.partition(b"\r\n")
        length = int(size.partition(b";")[0] or b"0", 16)
        if not length:
            break
        body += stream[:length]
        stream = stream[length + 2 :]
    return bytes(body)
