"""The calling side of gRPC; nothing else here knows how a chat travels to a worker.

    connection.chat(request, timeout) -> a ChatCall: `async for window in call`, and `call.close()`
    connection.connect() -> a SocketCall: `call.write(request)`, `call.read()`, `call.end()`, and `call.close()`

A call that fails raises `WorkerFailure` (try another replica) or `PatchbayError` (the answer's own failure).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Self

import grpc

from patchbay.canonical import ChatEvents
from patchbay.errors import INTERNAL, INVALID_REQUEST, OVERLOADED, TIMEOUT, UNAVAILABLE, PatchbayError, make_error
from patchbay_proto.v1 import codebuff_pb2_grpc, provider_pb2_grpc
from patchbay_proto.v1.codebuff_pb2 import ConnectRequest, ConnectResponse
from patchbay_proto.v1.provider_pb2 import (
    ChatRequest,
    CountTokensRequest,
    CountTokensResponse,
    ListModelsRequest,
    ListModelsResponse,
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    StatusRequest,
    StatusResponse,
)

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A restarted worker is found again quickly; what grpc calls the least backoff is how long connecting may take.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A host that vanished without a word is noticed.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
)
# For the calls of sockets, of which there are thousands that do nothing: without retries of its own and without filters
# that these calls do not need, gRPC takes 8 KB less for each.
_SOCKET_CHANNEL_OPTIONS = (*_CHANNEL_OPTIONS, ("grpc.enable_retries", 0), ("grpc.minimal_stack", 1))


class WorkerFailure(PatchbayError):
    """This replica could not serve the call; another one may.

    Args:
        full: It has no free stream, rather than being away.
    """

    def __init__(self, message: str, *, full: bool = False, retry_after: float | None = None) -> None:
        super().__init__(make_error(OVERLOADED if full else UNAVAILABLE, message, retry_after=retry_after))
        self.full = full


class ChatCall:
    """One running chat on one worker, to be iterated once: `async for window in call`.

    Iterating raises `WorkerFailure` when the worker refuses or goes away, and PatchbayError (TIMEOUT) when the deadline
    has passed.
    """

    def __init__(self, call: grpc.aio.UnaryStreamCall[ChatRequest, ChatEvents], on_close: Callable[[], None]) -> None:
        self._call = call
        self._on_close: Callable[[], None] | None = on_close

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatEvents:
        try:
            window = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error
        if window is grpc.aio.EOF:
            raise StopAsyncIteration
        return window  # type: ignore[return-value]  # EOF is the only other thing read() gives

    def close(self) -> None:
        """Cancels the call if it still runs; the worker then drops its upstream. May be called twice."""
        self._call.cancel()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None


class SocketCall:
    """One client's WebSocket at one replica of codebuff-ws. One task may read while another one writes.

    Reading and writing raise `WorkerFailure` when the replica refuses or goes away. A task that is cancelled in either
    of them cancels the call.
    """

    __slots__ = ("_call", "_on_close")

    def __init__(
        self, call: grpc.aio.StreamStreamCall[ConnectRequest, ConnectResponse], on_close: Callable[[], None]
    ) -> None:
        self._call = call
        self._on_close: Callable[[], None] | None = on_close

    async def write(self, request: ConnectRequest) -> None:
        """Sends once the replica has room for it."""
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error
        except asyncio.InvalidStateError as error:
            raise WorkerFailure("the call has ended") from error
        except asyncio.CancelledError:
            _raise_if_only_the_call_was_cancelled()
            raise

    async def read(self) -> ConnectResponse | None:
        """The next message; None: the replica has ended the call."""
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error
        except asyncio.CancelledError:
            _raise_if_only_the_call_was_cancelled()
            raise
        return None if message is grpc.aio.EOF else message  # type: ignore[return-value]

    async def end(self) -> None:
        """Says that nothing more will be written. What the replica still has to say can be read."""
        try:
            await self._call.done_writing()
        except (grpc.aio.InternalError, asyncio.InvalidStateError) as error:
            raise WorkerFailure("the call has ended") from error
        except asyncio.CancelledError:
            _raise_if_only_the_call_was_cancelled()
            raise

    def close(self) -> None:
        """Cancels the call if it still runs. May be called twice."""
        self._call.cancel()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None


class Connection:
    """The channel to one worker replica, and one more for sockets."""

    def __init__(self, address: str) -> None:
        # Calls that run, and how many of them are chats, by backend.
        self.in_flight = 0
        self.chats: Counter[str] = Counter()
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub = provider_pb2_grpc.ProviderStub(self._channel)
        self._sockets = grpc.aio.insecure_channel(address, options=_SOCKET_CHANNEL_OPTIONS)
        self._codebuff = codebuff_pb2_grpc.CodebuffStub(self._sockets)

    def chat(self, request: ChatRequest, *, timeout: float) -> ChatCall:
        """Starts a chat; `timeout` bounds the whole answer, in seconds."""
        call = self._stub.Chat(request, timeout=timeout)
        self.in_flight += 1
        self.chats[request.backend] += 1
        return ChatCall(call, partial(self._chat_ended, request.backend))

    def connect(self) -> SocketCall:
        """Starts a call for a client's WebSocket, which lasts as long as it does."""
        call = self._codebuff.Connect()
        self.in_flight += 1
        return SocketCall(call, self._ended)

    async def count_tokens(self, request: CountTokensRequest, *, timeout: float) -> CountTokensResponse:
        with self._running():
            return await self._stub.CountTokens(request, timeout=timeout)

    async def list_models(self, request: ListModelsRequest, *, timeout: float) -> ListModelsResponse:
        with self._running():
            return await self._stub.ListModels(request, timeout=timeout)

    async def status(self, *, timeout: float) -> StatusResponse:
        with self._running():
            return await self._stub.Status(StatusRequest(), timeout=timeout)

    async def login(self, request: LoginRequest, *, timeout: float) -> LoginResponse:
        """Begins or ends a sign-in; PatchbayError (INVALID_REQUEST) when the backend has none."""
        with self._running(signing_in=True):
            return await self._stub.Login(request, timeout=timeout)

    async def logout(self, request: LogoutRequest, *, timeout: float) -> LogoutResponse:
        """Forgets a sign-in; PatchbayError (INVALID_REQUEST) when the backend has none."""
        with self._running(signing_in=True):
            return await self._stub.Logout(request, timeout=timeout)

    async def aclose(self) -> None:
        await self._channel.close()
        await self._sockets.close()

    @contextmanager
    def _running(self, *, signing_in: bool = False) -> Iterator[None]:
        self.in_flight += 1
        try:
            yield
        except grpc.aio.AioRpcError as error:
            if signing_in and error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise PatchbayError(make_error(INVALID_REQUEST, error.details() or "")) from error
            raise _failure(error) from error
        finally:
            self._ended()

    def _chat_ended(self, backend: str) -> None:
        self.chats[backend] -= 1
        self._ended()

    def _ended(self) -> None:
        self.in_flight -= 1


class Connections:
    """One connection a worker address, opened when first needed."""

    def __init__(self) -> None:
        self._by_address: dict[str, Connection] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def get(self, address: str) -> Connection:
        connection = self._by_address.get(address)
        if connection is None:
            connection = self._by_address[address] = Connection(address)
        return connection

    def in_flight(self, address: str) -> int:
        """The calls that this process has running there."""
        connection = self._by_address.get(address)
        return connection.in_flight if connection else 0

    def chats(self, address: str, backend: str) -> int:
        """The chats with a backend that this process has running there."""
        connection = self._by_address.get(address)
        return connection.chats[backend] if connection else 0

    def retain(self, addresses: Iterable[str]) -> None:
        """Closes the idle connections to any other address."""
        keep = set(addresses)
        for address, connection in list(self._by_address.items()):
            if address not in keep and not connection.in_flight:
                del self._by_address[address]
                task = asyncio.create_task(connection.aclose())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        connections = list(self._by_address.values())
        self._by_address.clear()
        await asyncio.gather(*(connection.aclose() for connection in connections), *self._closing)


def _failure(error: grpc.aio.AioRpcError) -> PatchbayError:
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return PatchbayError(make_error(TIMEOUT, "the answer took longer than it may"))
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return WorkerFailure("every worker is busy", full=True, retry_after=_retry_after(error))
        case grpc.StatusCode.UNKNOWN:
            # What gRPC says of a defect in the worker's code: another replica has it as well.
            return PatchbayError(make_error(INTERNAL, "the worker serving this request failed"))
        case _:
            return WorkerFailure("the worker serving this request went away")


def _raise_if_only_the_call_was_cancelled() -> None:
    """gRPC raises the cancellation of a call in the task that uses it, as if that were cancelled."""
    task = asyncio.current_task()
    if task is not None and not task.cancelling():
        raise WorkerFailure("the call was cancelled") from None


def _retry_after(error: grpc.aio.AioRpcError) -> float:
    for key, value in error.trailing_metadata() or ():
        if key == "retry-after" and isinstance(value, str):
            return float(value)
    return 1.0
