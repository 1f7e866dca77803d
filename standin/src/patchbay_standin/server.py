"""Runs the stand-in on uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from patchbay_standin.app import Standin

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8010

# A frame may hold a whole conversation.
_MAX_FRAME_BYTES: Final = 256 * 1024 * 1024
_BACKLOG: Final = 2048
# Longer than any client keeps an idle connection, so that none is closed under a request on its way.
_KEEP_ALIVE_SECONDS: Final = 300
# How long running answers may go on after a stop; silent ones never end by themselves.
_STOP_SECONDS: Final = 1


class _Protocol(HttpToolsProtocol):
    """Lets the application see its connection, so that a script can cut it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class _Server(uvicorn.Server):
    """Leaves signals to its caller, and says when it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Answers cancelled by a stop are not a fault."""
    stopped = record.exc_info is not None and record.exc_info[0] is asyncio.CancelledError
    return not stopped and "graceful shutdown exceeded" not in record.msg


@contextlib.asynccontextmanager
async def running(app: Standin, *, host: str = DEFAULT_HOST, port: int = 0) -> AsyncIterator[str]:
    """Serves the stand-in on the running event loop.

    Args:
        app: The stand-in.
        host: The address to listen on.
        port: The port to listen on; 0: a free one.

    Yields:
        The base URL, for example `http://127.0.0.1:8010`.

    Raises:
        OSError: When the address cannot be listened on.
    """
    listener = _listen(host, port)
    logging.getLogger("uvicorn.error").addFilter(_is_worth_saying)
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="websockets-sansio",
        ws_max_size=_MAX_FRAME_BYTES,
        ws_per_message_deflate=True,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    server = _Server(config)
    address, bound = listener.getsockname()[:2]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    serving.add_done_callback(lambda _: server.ready.set())
    try:
        await server.ready.wait()
        if serving.done():
            serving.result()
        yield f"http://[{address}]:{bound}" if ":" in address else f"http://{address}:{bound}"
    finally:
        server.should_exit = True
        await serving


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
