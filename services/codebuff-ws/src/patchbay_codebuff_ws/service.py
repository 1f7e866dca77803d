"""The gRPC service of Codebuff's clients: a call for each socket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import grpc
import structlog

from patchbay.codebuff.login import login_sealer
from patchbay.dispatch.callers import Callers
from patchbay.errors import OVERLOADED, PatchbayError, make_error
from patchbay.settings import Settings
from patchbay.state.admission import Admission, Limits
from patchbay.state.codebuff_logins import CodebuffLogins
from patchbay.state.codebuff_sessions import CodebuffSessions
from patchbay.state.codebuff_topics import Topics
from patchbay.state.codebuff_usage import CodebuffUsage
from patchbay.state.registry import Directory
from patchbay.state.sealing import make_sealer
from patchbay.telemetry import metrics
from patchbay.worker.runtime import Shared
from patchbay_codebuff_ws.connection.capture import Captures
from patchbay_codebuff_ws.connection.connection import Connection
from patchbay_codebuff_ws.connection.memory import Room
from patchbay_codebuff_ws.connection.parts import Parts
from patchbay_codebuff_ws.loop import make_loop
from patchbay_codebuff_ws.ports import Loop
from patchbay_proto.v1 import codebuff_pb2, codebuff_pb2_grpc
from patchbay_proto.v1.codebuff_pb2 import ConnectRequest, ConnectResponse
from patchbay_proto.v1.provider_pb2 import BackendStatus

log = structlog.get_logger(__name__)

# What prompts that were broken off have to say so.
_LAST_WORDS_SECONDS = 2.0
_SERVICE = "codebuff-ws"
# Of its sockets' projects, of all together; what has no room is in Redis.
_PROJECT_BYTES = 512 * 1024 * 1024

Context = grpc.aio.ServicerContext[ConnectRequest, ConnectResponse]


class CodebuffService(codebuff_pb2_grpc.CodebuffServicer):
    """Serves sockets until it drains: then those without a prompt go to another replica at once, others at its end.

    Args:
        loop: Runs the prompts; started and closed with the service.
    """

    full_name = codebuff_pb2.DESCRIPTOR.services_by_name["Codebuff"].full_name

    def __init__(self, settings: Settings, shared: Shared, loop: Loop) -> None:
        timeout = settings.redis.timeout_seconds
        limits = Limits(
            requests_per_minute=settings.limits.requests_per_minute,
            concurrent_requests=settings.limits.concurrent_requests,
            max_connections=settings.limits.max_connections,
        )
        self.redis = shared.redis
        self.draining = False
        self.in_flight = 0
        self._capacity = settings.workers.capacity
        self._loop = loop
        self._directory = Directory(shared.redis, timeout=timeout)
        self.admission = Admission(
            shared.redis,
            replica_id=shared.worker_id,
            limits=limits,
            lease_seconds=settings.limits.lease_seconds,
            on_redis_down=settings.limits.on_redis_down,
            # Edges admit as well, each for itself while Redis is away.
            live_replicas=lambda: self._directory.edges + len(self._directory.of_service(_SERVICE)),
            timeout=timeout,
        )
        captures = None
        if settings.codebuff.capture:
            captures = Captures(Path(settings.codebuff.capture_directory), worker_id=shared.worker_id)
        self.topics = Topics(shared.redis, replica_id=shared.worker_id, timeout=timeout)
        self.room = Room(_PROJECT_BYTES)
        self._parts = Parts(
            settings=settings,
            loop=loop,
            callers=Callers(settings.security, limits),
            admission=self.admission,
            sessions=CodebuffSessions(
                shared.redis,
                sealer=make_sealer(settings.security.sealing_keys()),
                ttl_seconds=settings.codebuff.session_ttl_seconds,
                timeout=timeout,
            ),
            room=self.room,
            topics=self.topics,
            logins=CodebuffLogins(shared.redis, sealer=login_sealer(settings.security), timeout=timeout),
            usage=CodebuffUsage(shared.redis, timeout=timeout),
            load=self,
            worker_id=shared.worker_id,
            capture=captures.open if captures is not None else lambda _, __: None,
        )
        self._connections: set[Connection] = set()
        self._gone = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers its handlers."""
        codebuff_pb2_grpc.add_CodebuffServicer_to_server(self, server)

    def backends(self) -> Sequence[BackendStatus]:
        """It serves no backend."""
        return []

    async def start(self) -> None:
        """Starts the loop, and what goes on beside the sockets."""
        await self._directory.refresh()
        await self._loop.start()
        self._background = [
            asyncio.create_task(work, name=name)
            for name, work in (
                ("directory", self._directory.run()),
                ("admission", self.admission.run()),
                ("topics", self.topics.run()),
            )
        ]
        for task in self._background:
            task.add_done_callback(_on_background_end)

    async def aclose(self) -> None:
        """Ends what `start` began."""
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)
        await self._loop.aclose()

    async def drain(self, seconds: float) -> bool:
        """Lets running prompts end, and all sockets go elsewhere. False: some prompts were broken off."""
        self.draining = True
        for connection in tuple(self._connections):
            connection.drain()
        try:
            async with asyncio.timeout(seconds):
                await self._all_gone()
        except TimeoutError:
            pass
        else:
            return True
        for connection in tuple(self._connections):
            connection.break_off()
        try:
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await self._all_gone()
        except TimeoutError:
            log.warning("codebuff_sockets_cut", connections=len(self._connections))
        return False

    async def _all_gone(self) -> None:
        while self._connections:
            self._gone.clear()
            await self._gone.wait()

    def begin(self) -> None:
        """See `Load.begin`."""
        if self.in_flight >= self._capacity:
            message = "This service runs as many prompts as it can; try again shortly."
            raise PatchbayError(make_error(OVERLOADED, message))
        self.in_flight += 1
        metrics.WORKER_IN_FLIGHT.inc()

    def end(self) -> None:
        """See `Load.end`."""
        self.in_flight -= 1
        metrics.WORKER_IN_FLIGHT.dec()

    async def Connect(  # type: ignore[override]  # noqa: N802
        self, requests: object, context: Context
    ) -> None:
        first: object = await context.read()
        if self.draining:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this worker is draining")
        if not isinstance(first, ConnectRequest) or not first.HasField("attach"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message is `attach`")
            raise AssertionError("abort raises")
        connection = Connection(first.attach, self._parts)
        self._connections.add(connection)
        try:
            moved = await connection.run(context)
        finally:
            self._connections.discard(connection)
            self._gone.set()
        if moved:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this worker is draining")


def _on_background_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        # None of them ends by itself.
        log.critical("background_work_failed", work=task.get_name(), exc_info=task.exception())


def make(settings: Settings, shared: Shared) -> CodebuffService:
    """What `patchbay-codebuff-ws` offers."""
    return CodebuffService(settings, shared, make_loop(settings, shared))
