from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from patchbay.canonical import ChatEvent, Finished, TextDelta
from patchbay.settings import load
from patchbay.state.connection import connect
from patchbay.state.registry import Announcer, Directory, WorkerRecord
from patchbay.testing.eventually import eventually, stays
from patchbay.testing.valkey import ValkeyProcess
from patchbay.worker.runtime import Worker, of_providers, run
from patchbay_proto.v1 import provider_pb2_grpc
from patchbay_proto.v1.provider_pb2 import (
    BackendStatus,
    ChatRequest,
    CountTokensRequest,
    CountTokensResponse,
    Credential,
    Model,
)

HEALTHY = health_pb2.HealthCheckResponse.SERVING
SICK = health_pb2.HealthCheckResponse.NOT_SERVING


class Gated:
    """A backend whose answers end when its gate opens."""

    name = "a"
    max_concurrency = None
    sign_in = None

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.closed = False

    async def start(self) -> None:
        return None

    def status(self) -> BackendStatus:
        return BackendStatus(name="a", kind="openai", dialect="openai_chat", signed_in=True, detail="d")

    async def chat(self, request: ChatRequest) -> AsyncGenerator[list[ChatEvent], None]:
        yield [ChatEvent(text_delta=TextDelta(text="hello"))]
        await self.gate.wait()
        yield [ChatEvent(finished=Finished())]

    async def count_tokens(self, request: CountTokensRequest) -> CountTokensResponse:
        return CountTokensResponse(input_tokens=1)

    async def list_models(self, caller: Credential | None) -> list[Model]:
        return []

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class Running:
    task: asyncio.Task[None]
    provider: Gated
    record: WorkerRecord
    directory: Directory
    channel: grpc.aio.Channel

    def health(self) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        return health_pb2_grpc.HealthStub(self.channel).Watch(
            health_pb2.HealthCheckRequest(service="patchbay.v1.Provider")
        )

    def chat(self) -> grpc.aio.UnaryStreamCall:
        return provider_pb2_grpc.ProviderStub(self.channel).Chat(ChatRequest(backend="a"))


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyProcess]:
    with ValkeyProcess() as process:
        yield process


@asynccontextmanager
async def worker(valkey: ValkeyProcess, *flags: str) -> AsyncIterator[Running]:
    """A worker inside this process; SIGTERM to this process is for it."""
    valkey.command("FLUSHALL")
    settings = load([f"--redis.url={valkey.url}", "--workers.heartbeat_seconds=0.2", *flags], {})
    provider = Gated()
    redis = connect(valkey.url, timeout=1)
    directory = Directory(redis, interval=0.02)
    described = Worker(
        service="openai-worker", port=lambda _: 0, metrics_port=lambda _: 0, make=of_providers(lambda *_: [provider])
    )
    task = asyncio.create_task(run(described, settings))
    watching = asyncio.create_task(directory.run())
    await eventually(lambda: directory.workers or task.done())
    record = directory.workers[0]
    async with grpc.aio.insecure_channel(record.address) as channel:
        yield Running(task, provider, record, directory, channel)
    watching.cancel()
    await asyncio.wait([watching])
    if not task.done():
        os.kill(os.getpid(), signal.SIGTERM)
        provider.gate.set()
        await task
    await redis.aclose()


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def test_announces_itself_and_is_healthy(valkey: ValkeyProcess) -> None:
    async with worker(valkey, "--workers.capacity=7") as running:
        record = running.record
        assert (record.service, record.capacity, record.in_flight, record.draining) == ("openai-worker", 7, 0, False)
        assert record.address.startswith("127.0.0.1:")
        assert [(b.name, b.kind, b.dialect, b.signed_in, b.detail) for b in record.backends] == [
            ("a", "openai", "openai_chat", True, "d")
        ]
        health = health_pb2_grpc.HealthStub(running.channel)
        for service in ("", "patchbay.v1.Provider"):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=service))).status == HEALTHY


async def test_answers_reflection(valkey: ValkeyProcess) -> None:
    async with worker(valkey) as running:
        stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([ask]))]
        services = {service.name for service in answers[0].list_services_response.service}
        assert {"patchbay.v1.Provider", "grpc.health.v1.Health"} <= services


async def test_heartbeats_say_how_much_runs(valkey: ValkeyProcess) -> None:
    async with worker(valkey) as running:
        call = running.chat()
        await call.read()
        assert await eventually(lambda: [w.in_flight for w in running.directory.workers] == [1])
        running.provider.gate.set()
        await call.read()
        assert await eventually(lambda: [w.in_flight for w in running.directory.workers] == [0])


async def test_sigterm_drains(valkey: ValkeyProcess) -> None:
    async with worker(valkey) as running:
        statuses = running.health()
        assert (await anext(aiter(statuses))).status == HEALTHY
        call = running.chat()
        await call.read()
        terminate()
        assert (await anext(aiter(statuses))).status == SICK
        # Edges see it at once and send nothing more, while it is still in the registry.
        await eventually(lambda: [w.draining for w in running.directory.workers] == [True])
        assert running.directory.for_backend("a") == []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.chat().read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        # A second signal changes nothing.
        terminate()
        await stays(lambda: not running.task.done(), seconds=0.3)
        running.provider.gate.set()
        assert (await call.read()).events[0].HasField("finished")
        assert await call.read() is grpc.aio.EOF
        await asyncio.wait_for(running.task, 5)
        assert running.provider.closed
        await eventually(lambda: not running.directory.workers)


async def test_what_still_runs_at_the_deadline_is_ended(valkey: ValkeyProcess) -> None:
    async with worker(valkey, "--workers.drain_seconds=0.1") as running:
        call = running.chat()
        await call.read()
        terminate()
        with pytest.raises(grpc.aio.AioRpcError):
            await asyncio.wait_for(call.read(), 5)
        await asyncio.wait_for(running.task, 5)


async def test_it_serves_while_redis_is_away(valkey: ValkeyProcess) -> None:
    async with worker(valkey, "--workers.heartbeat_ttl_seconds=1", "--redis.timeout_seconds=0.1") as running:
        valkey.pause()
        try:
            call = running.chat()
            await call.read()
            running.provider.gate.set()
            assert (await call.read()).events[0].HasField("finished")
            terminate()
            await asyncio.wait_for(running.task, 10)
        finally:
            valkey.resume()


async def test_a_worker_that_can_no_longer_announce_itself_ends_with_the_reason(
    valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with worker(valkey) as running:

        async def broken(self: Announcer) -> bool:
            raise ValueError("a defect")

        monkeypatch.setattr(Announcer, "_beat", broken)
        with capture_logs(), pytest.raises(ValueError, match="a defect"):
            await asyncio.wait_for(running.task, 5)
        assert running.provider.closed
