"""The gRPC service that every worker offers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Protocol

import grpc
import structlog

from patchbay.canonical import ChatEvent, ChatEvents, Error
from patchbay.errors import INTERNAL, PatchbayError, make_error
from patchbay.telemetry import metrics
from patchbay.worker.windows import windows
from patchbay_proto.v1 import provider_pb2, provider_pb2_grpc
from patchbay_proto.v1.provider_pb2 import (
    BackendStatus,
    ChatRequest,
    CountTokensRequest,
    CountTokensResponse,
    Credential,
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

log = structlog.get_logger(__name__)

# How long a client should wait when every stream of this worker is taken.
_FULL_RETRY_SECONDS = 1

Context = grpc.aio.ServicerContext[object, object]


class SignIn(Protocol):
    """An operator's own account at a backend's provider."""

    async def begin(self, *, device: bool = False, account: str = "") -> LoginResponse:
        """Starts a login: its id, and the page to visit.

        Args:
            device: Give a code to type at the page.
            account: What the account is to be called; empty: after its mail address.

        Raises:
            PatchbayError: It cannot be started, or the provider has no such login.
        """

    async def finish(self, login_id: str, code: str) -> LoginResponse:
        """Ends a login with the code that the page showed, or with a device asks how it is. Raises PatchbayError."""

    async def take(self, sign_in: bytes, *, account: str = "") -> LoginResponse:
        """Takes a sign-in as the provider's own program keeps it. Raises PatchbayError."""

    async def forget(self, account: str = "") -> LogoutResponse:
        """Signs an account out; empty: all. Raises PatchbayError."""


class Provider(Protocol):
    """One backend, whatever is behind it."""

    name: str
    # Chats at once; None: the worker's capacity.
    max_concurrency: int | None
    # None: its credential is configured.
    sign_in: SignIn | None

    async def start(self) -> None:
        """Begins what goes on beside the requests, until `aclose`."""

    def status(self) -> BackendStatus: ...

    def chat(self, request: ChatRequest) -> AsyncGenerator[list[ChatEvent], None]:
        """The events of one answer, in the groups they came in. Upstream errors are events, not exceptions."""

    async def count_tokens(self, request: CountTokensRequest) -> CountTokensResponse: ...

    async def list_models(self, caller: Credential | None) -> list[Model]: ...

    async def aclose(self) -> None: ...


class ProviderService(provider_pb2_grpc.ProviderServicer):
    """Serves a worker's backends, up to its capacity, until it drains.

    Args:
        worker_id: This replica's id.
        version: This worker's version.
        providers: The backends served here.
        capacity: How many chats may run at once.
        window_seconds: How long a small event may wait for others.
    """

    full_name = provider_pb2.DESCRIPTOR.services_by_name["Provider"].full_name

    def __init__(
        self,
        *,
        worker_id: str,
        version: str,
        providers: Sequence[Provider],
        capacity: int,
        window_seconds: float,
    ) -> None:
        self._worker_id = worker_id
        self._version = version
        self._providers: Mapping[str, Provider] = {provider.name: provider for provider in providers}
        self._capacity = capacity
        self._window_seconds = window_seconds
        self._running: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()
        self.in_flight = 0
        self.draining = False

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers its handlers."""
        provider_pb2_grpc.add_ProviderServicer_to_server(self, server)

    async def start(self) -> None:
        """Starts the providers."""
        for provider in self._providers.values():
            await provider.start()

    async def aclose(self) -> None:
        """Closes the providers."""
        for provider in self._providers.values():
            await provider.aclose()

    def backends(self) -> list[BackendStatus]:
        return [provider.status() for provider in self._providers.values()]

    async def drain(self, seconds: float) -> bool:
        """Refuses new chats and waits for the running ones. False: some still ran after `seconds`."""
        self.draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def Chat(self, request: ChatRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        provider = await self._provider(request.backend, context)
        limit = provider.max_concurrency
        if self.in_flight >= self._capacity or (limit is not None and self._running[provider.name] >= limit):
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"every stream of this worker for the backend `{provider.name}` is taken",
                (("retry-after", str(_FULL_RETRY_SECONDS)),),
            )
        self.in_flight += 1
        self._running[provider.name] += 1
        self._idle.clear()
        metrics.WORKER_IN_FLIGHT.inc()
        try:
            await self._stream(provider, request, context)
        finally:
            self.in_flight -= 1
            self._running[provider.name] -= 1
            metrics.WORKER_IN_FLIGHT.dec()
            if not self.in_flight:
                self._idle.set()

    async def _stream(self, provider: Provider, request: ChatRequest, context: Context) -> None:
        started = time.monotonic()
        outcome = "cancelled"
        try:
            async with aclosing(windows(provider.chat(request), self._window_seconds)) as stream:
                async for window in stream:
                    outcome = _outcome(window, outcome)
                    await context.write(window)
        except (grpc.aio.UsageError, grpc.aio.InternalError):
            # The call ended under our hands: the client is gone, and so is whom to tell.
            outcome = "cancelled"
        except Exception:
            outcome = "crashed"
            log.exception("chat_crashed", backend=provider.name, request_id=request.request_id)
            await context.write(ChatEvents(events=[ChatEvent(error=_crash())]))
        finally:
            metrics.WORKER_CHATS.labels(provider.name, outcome).inc()
            metrics.WORKER_CHAT_SECONDS.labels(provider.name).observe(time.monotonic() - started)

    async def CountTokens(self, request: CountTokensRequest, context: Context) -> CountTokensResponse:  # noqa: N802
        provider = await self._provider(request.backend, context)
        try:
            return await provider.count_tokens(request)
        except Exception:
            log.exception("count_tokens_crashed", backend=provider.name, request_id=request.request_id)
            return CountTokensResponse(error=_crash())

    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:  # noqa: N802
        if request.backend:
            providers: Sequence[Provider] = [await self._provider(request.backend, context)]
        else:
            providers = list(self._providers.values())
        credential = request.credential if request.HasField("credential") else None
        response = ListModelsResponse()
        for provider, result in zip(
            providers, await asyncio.gather(*(_list(provider, credential) for provider in providers)), strict=True
        ):
            if isinstance(result, str):
                response.failures[provider.name] = result
            else:
                response.models.extend(result)
        return response

    async def Login(self, request: LoginRequest, context: Context) -> LoginResponse:  # noqa: N802
        sign_in = await self._sign_in(request.backend, context)
        try:
            if request.sign_in:
                return await sign_in.take(request.sign_in, account=request.account)
            if request.login_id:
                return await sign_in.finish(request.login_id, request.code)
            return await sign_in.begin(device=request.device, account=request.account)
        except PatchbayError as error:
            return LoginResponse(error=error.error)

    async def Logout(self, request: LogoutRequest, context: Context) -> LogoutResponse:  # noqa: N802
        sign_in = await self._sign_in(request.backend, context)
        try:
            return await sign_in.forget(request.account)
        except PatchbayError as error:
            return LogoutResponse(error=error.error)

    async def _sign_in(self, backend: str, context: Context) -> SignIn:
        provider = await self._provider(backend, context)
        if provider.sign_in is None:
            message = f"the backend `{backend}` has its credential in the configuration: there is nothing to sign in to"
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, message)
            raise AssertionError("abort raises")
        return provider.sign_in

    async def Status(self, request: StatusRequest, context: Context) -> StatusResponse:  # noqa: N802
        return StatusResponse(
            worker_id=self._worker_id,
            version=self._version,
            backends=self.backends(),
            capacity=self._capacity,
            in_flight=self.in_flight,
            draining=self.draining,
        )

    async def _provider(self, backend: str, context: Context) -> Provider:
        if self.draining:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this worker is draining")
        provider = self._providers.get(backend)
        if provider is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"this worker does not serve the backend `{backend}`")
            raise AssertionError("abort raises")
        return provider


async def _list(provider: Provider, credential: Credential | None) -> list[Model] | str:
    try:
        return await provider.list_models(credential)
    except PatchbayError as error:
        return error.error.message
    except Exception:
        log.exception("list_models_crashed", backend=provider.name)
        return "the worker failed; its log has the details"


def _crash() -> Error:
    return make_error(INTERNAL, "the worker failed; its log has the details under this request's id")


def _outcome(window: ChatEvents, before: str) -> str:
    last = window.events[-1].WhichOneof("event")
    if last == "error":
        return "error"
    return "finished" if any(event.HasField("finished") for event in window.events) else before
