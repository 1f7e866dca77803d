"""A tap on the wire: hands bytes on both ways between an HTTP client and a server, and keeps them for the test."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
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

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def exchanges(self) -> list[Exchange]:
        """What went through since the last `reset`, in the order of the connections, then of the requests."""
        return [exchange for connection in self._connections for exchange in connection.exchanges()]

    def only(self) -> Exchange:
        """The one exchange since the last `reset`."""
        (exchange,) = self.exchanges()
        return exchange

    def reset(self) -> None:
        """Forgets everything; nothing may be under way."""
        for connection in self._connections:
            connection.forget()

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
            self._connections.append(_Connection(client, socket.create_connection(self._target)))


class _Connection:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._sockets = (client, server)
        self._sent = bytearray()
        self._received = bytearray()
        for source, target, kept in ((client, server, self._sent), (server, client, self._received)):
            threading.Thread(target=self._pump, args=(source, target, kept), daemon=True).start()

    def exchanges(self) -> list[Exchange]:
        requests = list(_messages(bytes(self._sent)))
        answers = list(_messages(bytes(self._received)))
        return [Exchange(request, answer) for request, answer in zip(requests, answers, strict=False)]

    def forget(self) -> None:
        self._sent.clear()
        self._received.clear()

    def close(self) -> None:
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _pump(self, source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        try:
            while data := source.recv(_CHUNK):
                # Kept before it is passed on: whoever has got it finds it here.
                kept += data
                target.sendall(data)
        except OSError:
            pass
        self.close()


def _messages(stream: bytes) -> Iterator[Message]:
    """Cuts one direction of a connection into messages (RFC 9112)."""
    while stream:
        head, separator, stream = stream.partition(b"\r\n\r\n")
        if not separator:
            return
        start, *lines = head.split(b"\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body, stream = _dechunked(stream)
        else:
            length = int(headers.get("content-length", "0"))
            body, stream = stream[:length], stream[length:]
        yield Message(start, headers, body)


def _dechunked(stream: bytes) -> tuple[bytes, bytes]:
    """The body of a chunked message, and what follows it."""
    body = bytearray()
    while stream:
        size, _, stream = stream.partition(b"\r\n")
        length = int(size.partition(b";")[0] or b"0", 16)
        if not length:
            return bytes(body), stream.removeprefix(b"\r\n")
        body += stream[:length]
        stream = stream[length + 2 :]
    return bytes(body), b""
