"""Runs a worker: serves gRPC, keeps itself in the registry, drains when told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Protocol

import grpc
import msgspec
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from patchbay.settings import Settings, load_or_exit
from patchbay.state.connection import Client, connect
from patchbay.state.registry import Announcer, BackendRecord, PoolRecord, WorkerRecord
from patchbay.telemetry import logs
from patchbay.worker.service import Provider, ProviderService
from patchbay_proto.v1.provider_pb2 import BackendStatus, PoolStatus

log = structlog.get_logger(__name__)

_SERVER_OPTIONS = (
    # The edge bounds a request's size; an answer's size is the provider's business.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    # The edge pings idle connections to notice a dead host; do not take that for abuse.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
# Edges learn of a drain at once through Redis; those that cannot hear it have this long to read the health status.
_DRAIN_GRACE_SECONDS = 0.2
# After the drain deadline, what a broken-off answer has to end.
_LAST_WORDS_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the parts of a worker share with each other and with other replicas."""

    redis: Client
    # This replica's id in the registry.
    worker_id: str
    version: str = ""


class Service(Protocol):
    """What a worker offers over gRPC."""

    # The full name of its gRPC service.
    full_name: str
    # Whether new work is refused.
    draining: bool
    # What runs now.
    in_flight: int

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers its handlers."""

    def backends(self) -> Sequence[BackendStatus]:
        """The backends it serves, for the registry."""

    async def start(self) -> None:
        """Begins what goes on beside the requests, until `aclose`."""

    async def drain(self, seconds: float) -> bool:
        """Refuses new work and waits for what runs. False: some still ran after `seconds`."""

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """What makes one worker different from another.

    Attributes:
        service: Its name, for example `openai-worker`.
        port: The port it listens on; 0 for any free one.
        metrics_port: The port of its Prometheus metrics; 0 for none.
        make: Makes what it offers.
    """

    service: str
    port: Callable[[Settings], int]
    metrics_port: Callable[[Settings], int]
    make: Callable[[Settings, Shared], Service]


def of_providers(build: Callable[[Settings, Shared], Sequence[Provider]]) -> Callable[[Settings, Shared], Service]:
    """For `Worker.make`: offers the providers that `build` makes of the backends this worker serves."""

    def make(settings: Settings, shared: Shared) -> Service:
        return ProviderService(
            worker_id=shared.worker_id,
            version=shared.version,
            providers=build(settings, shared),
            capacity=settings.workers.capacity,
            window_seconds=settings.workers.batch_window_ms / 1000,
        )

    return make


def main(worker: Worker) -> None:
    """The entry point of a worker's command. Exits 0 after a drain, 2 when the configuration is wrong."""
    settings = load_or_exit(f"patchbay-{worker.service}")
    logs.configure(settings.telemetry, service=worker.service)
    uvloop.run(run(worker, settings))


async def run(worker: Worker, settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal changes nothing."""
    stop = _stop_signal()
    options = settings.workers
    version = metadata.version(f"patchbay-{worker.service}")
    worker_id = f"{worker.service}-{uuid.uuid4().hex[:12]}"
    redis = connect(settings.redis.connect_url(), timeout=settings.redis.timeout_seconds)
    service = worker.make(settings, Shared(redis=redis, worker_id=worker_id, version=version))
    server = grpc.aio.server(options=_SERVER_OPTIONS)
    service.add_to(server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection((service.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    port = server.add_insecure_port(f"{options.host}:{worker.port(settings)}")
    await service.start()
    await server.start()
    await _set_health(health_servicer, service, health_pb2.HealthCheckResponse.SERVING)
    if worker.metrics_port(settings):
        start_http_server(worker.metrics_port(settings), addr=options.host)

    record = WorkerRecord(
        id=worker_id,
        service=worker.service,
        address=f"{options.advertise_host or _reachable(options.host)}:{port}",
        version=version,
        started_at=time.time(),
        capacity=options.capacity,
        in_flight=0,
        draining=False,
        backends=_backends(service),
    )
    announcer = Announcer(
        redis,
        lambda: msgspec.structs.replace(
            record, in_flight=service.in_flight, draining=service.draining, backends=_backends(service)
        ),
        interval=options.heartbeat_seconds,
        ttl=options.heartbeat_ttl_seconds,
        timeout=settings.redis.timeout_seconds,
    )
    announcing = asyncio.create_task(announcer.run(), name="announcer")
    backends = [status.name for status in service.backends()]
    log.info("serving", address=record.address, backends=backends, worker_id=worker_id)
    await _stopped(stop, announcing)

    log.info("draining", in_flight=service.in_flight, seconds=options.drain_seconds)
    service.draining = True
    await _set_health(health_servicer, service, health_pb2.HealthCheckResponse.NOT_SERVING)
    if not announcing.done():
        await announcer.announce_now()
    await asyncio.sleep(_DRAIN_GRACE_SECONDS)
    if not await service.drain(options.drain_seconds):
        log.warning("drain_deadline", in_flight=service.in_flight)
    announcing.cancel()
    await asyncio.wait([announcing])
    await server.stop(_LAST_WORDS_SECONDS)
    await service.aclose()
    await redis.aclose()
    log.info("stopped")
    if not announcing.cancelled():
        # It ends by itself only by failing: a worker that no edge can find is to be restarted.
        announcing.result()


async def _stopped(stop: asyncio.Event, announcing: asyncio.Task[None]) -> None:
    """Waits for the signal, or for the announcer to fail."""
    signalled = asyncio.create_task(stop.wait(), name="stop-signal")
    await asyncio.wait([signalled, announcing], return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()


def _backends(service: Service) -> tuple[BackendRecord, ...]:
    return tuple(
        BackendRecord(
            name=status.name,
            kind=status.kind,
            dialect=status.dialect,
            signed_in=status.signed_in,
            detail=status.detail,
            mode=status.mode,
            pool=_pool(status.pool) if status.HasField("pool") else None,
        )
        for status in service.backends()
    )


def _pool(status: PoolStatus) -> PoolRecord:
    return PoolRecord(spare=status.spare, busy=status.busy, max=status.max, waiting=status.waiting)


async def _set_health(servicer: health.aio.HealthServicer, service: Service, status: int) -> None:
    for name in ("", service.full_name):
        await servicer.set(name, status)


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _reachable(host: str) -> str:
    """The address that others use for a bind address, as far as one machine can tell."""
    return socket.gethostbyname(socket.gethostname()) if host in ("0.0.0.0", "::", "") else host
