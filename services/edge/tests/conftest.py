"""A whole edge inside the test's event loop: real HTTP, real Valkey, real gRPC to scripted workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from patchbay.settings import load
from patchbay.state.connection import connect
from patchbay.state.registry import Announcer
from patchbay.testing.eventually import eventually
from patchbay.testing.valkey import ValkeyProcess
from patchbay.testing.worker import ScriptedWorker
from patchbay_edge.__main__ import DrainingServer, server_of
from patchbay_edge.app import Edge


@dataclass
class RunningEdge:
    """An edge that serves."""

    edge: Edge
    server: DrainingServer
    serving: asyncio.Task[None]
    client: httpx.AsyncClient
    port: int
    workers: Mapping[str, grpc.aio.Server]

    async def stop_worker(self, worker: ScriptedWorker) -> None:
        """Ends a worker as its death would, with all its calls."""
        await self.workers[worker.id].stop(None)

    async def announce(self, worker: ScriptedWorker) -> None:
        """Has a worker say anew what it is, and this edge hear it."""
        await Announcer(self.edge.redis, worker.record, ttl=60, timeout=2).announce_now()
        await self.edge.directory.refresh()

    @asynccontextmanager
    async def another(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client of one more edge before the same workers."""
        server = server_of(Edge(self.edge.settings))
        serving = asyncio.create_task(server.serve())
        await eventually(lambda: server.started or serving.done())
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
                yield client
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, 10)

    async def idle(self) -> None:
        """Waits until no request runs and every lease and call is given back."""
        admission = self.edge.admission
        await eventually(lambda: not self.edge.gateway.running and not admission.held and not admission.degraded)

        async def all_given_back() -> bool:
            return await admission.gauges() == {"connections": 0}

        # What Redis was told while it was away is given back once it is back, beside this.
        await eventually(all_given_back, what="every lease given back")

        async def all_closed() -> bool:
            return await self.edge.codebuff_admission.gauges() == {"connections": 0}

        await eventually(all_closed, what="every place of a socket given back")
        connections = self.edge.connections
        assert not any(connections.in_flight(worker.address) for worker in self.edge.directory.workers)


StartEdge = Callable[..., AbstractAsyncContextManager[RunningEdge]]


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyProcess]:
    with ValkeyProcess() as process:
        yield process


@pytest.fixture
def start_edge(valkey: ValkeyProcess, tmp_path: Path) -> StartEdge:
    """Starts an edge before the given workers; afterwards nothing may run or be held."""

    @asynccontextmanager
    async def start(
        *workers: ScriptedWorker, flags: tuple[str, ...] = (), **config: object
    ) -> AsyncIterator[RunningEdge]:
        valkey.command("FLUSHALL")
        backends = {"a": {"kind": "openai-compatible", "base_url": "http://a.test"}, "default_backend": "a"}
        # A stalled machine is no outage of Redis: a test that wants one waits less.
        merged = {"backends": backends, "redis": {"timeout_seconds": 5}, **config}
        path = tmp_path / "patchbay.json"
        path.write_text(json.dumps(merged))
        settings = load([f"--config={path}", f"--redis.url={valkey.url}", "--server.port=0", *flags], {})
        async with AsyncExitStack() as stack:
            redis = connect(valkey.url, timeout=2)
            stack.push_async_callback(redis.aclose)
            servers: dict[str, grpc.aio.Server] = {}
            for number, worker in enumerate(workers):
                worker.id = f"w{number}"
                servers[worker.id] = await stack.enter_async_context(worker.serving())
                await Announcer(redis, worker.record, ttl=60, timeout=2).announce_now()
            edge = Edge(settings)
            server = server_of(edge)
            serving = asyncio.create_task(server.serve())
            await eventually(lambda: server.started or serving.done())
            port = server.servers[0].sockets[0].getsockname()[1]
            client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10)
            stack.push_async_callback(client.aclose)
            running = RunningEdge(edge, server, serving, client, port, servers)
            try:
                yield running
                if not serving.done():
                    await running.idle()
            finally:
                server.should_exit = True
                await client.aclose()
                await asyncio.wait_for(serving, 10)
            assert not any(worker.running for worker in workers)

    return start
