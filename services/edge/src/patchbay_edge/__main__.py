"""The command `patchbay-edge`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
import uvloop
from prometheus_client import start_http_server

from patchbay.settings import Settings, load_or_exit
from patchbay.telemetry import logs
from patchbay_edge.app import Application, Edge
from patchbay_edge.server_sockets import LeanWebSocket

log = structlog.get_logger(__name__)

# After the drain deadline, what a broken-off answer needs to say so.
_LAST_WORDS_SECONDS = 2
# What uvicorn itself exits with when the port is taken.
_NOT_STARTED = 3


class DrainingServer(uvicorn.Server):
    """A uvicorn server that turns the edge's readiness red before it stops, and whose process then ends with 0."""

    def __init__(self, config: uvicorn.Config, edge: Edge) -> None:
        super().__init__(config)
        self._edge = edge
        edge.on_failure = self._drain

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Replaces uvicorn's own, which raises the signal again once it has stopped."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        yield

    def _drain(self) -> None:
        if not self._edge.gateway.draining:
            log.info("draining", seconds=self._edge.settings.server.drain_seconds)
            self._edge.gateway.drain(self._edge.settings.server.drain_seconds)
            self._draining = asyncio.create_task(self._stop_when_drained(), name="drain")

    async def _stop_when_drained(self) -> None:
        """Uvicorn, told to stop, cuts WebSockets off at once: first they end by themselves, as far as the time goes."""
        try:
            async with asyncio.timeout(self._edge.settings.server.drain_seconds + _LAST_WORDS_SECONDS):
                await self._edge.drain_sockets()
        except TimeoutError:
            log.warning("sockets_cut_off")
        self.should_exit = True


def main() -> None:
    settings = load_or_exit("patchbay-edge")
    logs.configure(settings.telemetry, service="edge")
    for notice in settings.notices:
        log.warning("notice", notice=notice)
    uvloop.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then lets running answers end; a second signal changes nothing.

    Raises:
        SystemExit: With 3 when it could not start (the port is taken), with 1 when it could not go on.
    """
    edge = Edge(settings)
    if settings.server.metrics_port:
        start_http_server(settings.server.metrics_port, addr=settings.server.host)
    server = server_of(edge)
    await server.serve()
    if edge.failure is not None:
        raise SystemExit(1)
    if not server.started:
        raise SystemExit(_NOT_STARTED)


def server_of(edge: Edge) -> DrainingServer:
    """The HTTP server of an edge."""
    server = edge.settings.server
    config = uvicorn.Config(
        Application(edge),
        host=server.host,
        port=server.port,
        http="httptools",
        ws=LeanWebSocket,
        # Both are for every socket; each endpoint has a look at the size itself.
        ws_max_size=max(edge.settings.limits.max_request_bytes, edge.settings.codebuff.max_frame_bytes),
        ws_per_message_deflate=edge.settings.codebuff.compression,
        lifespan="on",
        access_log=False,
        # Nothing here asks for the client's address.
        proxy_headers=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(server.drain_seconds) + _LAST_WORDS_SECONDS,
        backlog=4096,
    )
    return DrainingServer(config, edge)


if __name__ == "__main__":
    main()
