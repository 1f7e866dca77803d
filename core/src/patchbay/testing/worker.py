"""A scripted worker for tests of the edge: real gRPC on loopback, inside the test's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc

from patchbay.canonical import BlockStart, ChatEvent, ChatEvents, Error, Finished, Native, Started, TextDelta, TextStart
from patchbay.state.registry import BackendRecord, WorkerRecord
from patchbay.testing.eventually import hold
from patchbay_proto.v1 import provider_pb2_grpc
from patchbay_proto.v1.provider_pb2 import (
    BackendStatus,
    ChatRequest,
    CountTokensRequest,
    CountTokensResponse,
    ListModelsRequest,
    ListModelsResponse,
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    Model,
    StatusRequest,
    StatusResponse,
)

STARTED = ChatEvent(started=Started(id="answer-1", model="upstream-model"))
BLOCK = ChatEvent(block_start=BlockStart(index=0, text=TextStart()))
FINISHED = ChatEvent(finished=Finished(stop_reason=Finished.STOP_REASON_END_TURN))
HANG = "hang"
"""A step that never ends."""

Step: TypeAlias = "Sequence[ChatEvent] | float | grpc.StatusCode | str | asyncio.Event"
"""Events of one window, seconds to wait, a status to end with, HANG, or an event to wait for."""

Context: TypeAlias = "grpc.aio.ServicerContext[object, object]"


def text(words: str) -> ChatEvent:
    """A text delta of the first block."""
    return ChatEvent(text_delta=TextDelta(index=0, text=words))


def native(data: bytes, *, preamble: bool = False) -> ChatEvent:
    """A piece of a native answer."""
    return ChatEvent(native=Native(data=data, preamble=preamble))


def failed(error: Error) -> list[ChatEvent]:
    """A window with nothing but an error."""
    return [ChatEvent(error=error)]


def answer(words: str) -> list[Step]:
    """A whole answer of one text."""
    return [[STARTED, BLOCK, text(words)], [FINISHED]]


@dataclass
class ScriptedWorker(provider_pb2_grpc.ProviderServicer):
    """Plays a script for each chat: the next one, and the last one for ever.

    Attributes:
        requests: The chats so far.
        running: How many of them run.
        cancelled: How many the edge gave up.
        played: The steps so far, of all of them.
        counts: The answer to token counts; a status refuses them.
        records: What it says of its backends in the registry, where `backends` does not say enough.
        statuses: What it says of them when it is asked; a status refuses, an event holds the answer up.
        logins: Its answers to logins, the next one for each; a status refuses.
    """

    scripts: list[Sequence[Step]]
    id: str = "w1"
    backends: Sequence[tuple[str, str]] = (("a", ""),)
    capacity: int = 100
    counts: CountTokensResponse | grpc.StatusCode = field(default_factory=lambda: CountTokensResponse(input_tokens=7))
    models: Sequence[Model] = ()
    records: Sequence[BackendRecord] = ()
    statuses: Sequence[BackendStatus] | grpc.StatusCode | asyncio.Event = ()
    logins: list[LoginResponse | grpc.StatusCode] = field(default_factory=list)
    logout: LogoutResponse | grpc.StatusCode = field(default_factory=LogoutResponse)
    draining: bool = False
    address: str = ""
    requests: list[ChatRequest] = field(default_factory=list)
    count_requests: list[CountTokensRequest] = field(default_factory=list)
    list_requests: list[ListModelsRequest] = field(default_factory=list)
    login_requests: list[LoginRequest] = field(default_factory=list)
    logout_requests: list[LogoutRequest] = field(default_factory=list)
    running: int = 0
    cancelled: int = 0
    played: int = 0

    def record(self, *, in_flight: int = 0) -> WorkerRecord:
        """What the worker would say of itself in the registry."""
        return WorkerRecord(
            id=self.id,
            service="scripted",
            address=self.address,
            version="0",
            started_at=0.0,
            capacity=self.capacity,
            in_flight=in_flight,
            draining=self.draining,
            backends=tuple(self.records)
            or tuple(
                BackendRecord(name=name, kind="openai-compatible", dialect=dialect, signed_in=True)
                for name, dialect in self.backends
            ),
        )

    async def Chat(self, request: ChatRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        self.requests.append(request)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        self.running += 1
        try:
            for step in script:
                await self._play(step, context)
                self.played += 1
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _play(self, step: Step, context: Context) -> None:
        if isinstance(step, float):
            await hold(step)
        elif isinstance(step, grpc.StatusCode):
            await context.abort(step, "refused", (("retry-after", "3"),))
        elif isinstance(step, asyncio.Event):
            await step.wait()
        elif isinstance(step, str):
            await asyncio.Event().wait()
        else:
            await context.write(ChatEvents(events=step))

    async def CountTokens(self, request: CountTokensRequest, context: Context) -> CountTokensResponse:  # noqa: N802
        self.count_requests.append(request)
        if isinstance(self.counts, grpc.StatusCode):
            await context.abort(self.counts, "refused")
        return self.counts

    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:  # noqa: N802
        self.list_requests.append(request)
        return ListModelsResponse(models=[model for model in self.models if model.backend == request.backend])

    async def Status(self, request: StatusRequest, context: Context) -> StatusResponse:  # noqa: N802
        if isinstance(self.statuses, grpc.StatusCode):
            await context.abort(self.statuses, "refused")
            raise AssertionError("abort raises")
        if isinstance(self.statuses, asyncio.Event):
            await self.statuses.wait()
            return StatusResponse(worker_id=self.id)
        return StatusResponse(
            worker_id=self.id,
            version="0",
            backends=self.statuses,
            capacity=self.capacity,
            in_flight=self.running,
            draining=self.draining,
        )

    async def Login(self, request: LoginRequest, context: Context) -> LoginResponse:  # noqa: N802
        self.login_requests.append(request)
        response = self.logins.pop(0)
        if isinstance(response, grpc.StatusCode):
            await context.abort(response, "there is nothing to sign in to")
            raise AssertionError("abort raises")
        return response

    async def Logout(self, request: LogoutRequest, context: Context) -> LogoutResponse:  # noqa: N802
        self.logout_requests.append(request)
        if isinstance(self.logout, grpc.StatusCode):
            await context.abort(self.logout, "there is nothing to sign out of")
            raise AssertionError("abort raises")
        return self.logout

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[grpc.aio.Server]:
        """Runs while the context is open; `address` is set. Stopping the server given is the worker's death."""
        server = grpc.aio.server()
        provider_pb2_grpc.add_ProviderServicer_to_server(self, server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield server
        finally:
            await server.stop(None)
