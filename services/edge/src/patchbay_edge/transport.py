"""The edge's side of gRPC; nothing else here knows how a chat travels to a worker.

    connection.chat(request, timeout) -> a ChatCall: `async for window in call`, and `call.close()`

A call that fails raises `WorkerFailure` (try another replica) or `PatchbayError` (the answer's own failure).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

import grpc

from patchbay.canonical import ChatEvents
from patchbay.errors import OVERLOADED, TIMEOUT, UNAVAILABLE, PatchbayError, make_error
from patchbay_proto.v1 import provider_pb2_grpc
from patchbay_proto.v1.provider_pb2 import (
    ChatRequest,
    CountTokensRequest,
    CountTokensResponse,
    ListModelsRequest,
    ListModelsResponse,
)

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A restarted worker is found again quickly.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A host that vanished without a word is noticed.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
)


class WorkerFailure(PatchbayError):
    """This replica could not serve the call; another one may.

    Args:
        full: It has no free stream, rather than being away.
    """

    def __init__(self, message: str, *, full: bool = False, retry_after: float | None = None) -> None:
        super().__init__(make_error(OVERLOADED if full else UNAVAILABLE, message, retry_after=retry_after))
        self.full = full


class ChatCall:
    """One running chat on one worker."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[ChatRequest, ChatEvents], on_close: Callable[[], None]) -> None:
        self._call = call
        self._on_close: Callable[[], None] | None = on_close

    async def __aiter__(self) -> AsyncIterator[ChatEvents]:
        """The answer's windows.

        Raises:
            WorkerFailure: When the worker refuses, or goes away.
            PatchbayError: TIMEOUT when the deadline has passed.
        """
        read = self._call.read
        try:
            while (window := await read()) is not grpc.aio.EOF:
                yield window  # type: ignore[misc]  # EOF is the only other thing read() gives
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error
        status = await self._call.code()
        if status is not grpc.StatusCode.OK:
            raise WorkerFailure("the worker ended the call early")

    def close(self) -> None:
        """Cancels the call if it still runs; the worker then drops its upstream. May be called twice."""
        self._call.cancel()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None


class Connection:
    """The channel to one worker replica."""

    def __init__(self, address: str) -> None:
        self.in_flight = 0
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub = provider_pb2_grpc.ProviderStub(self._channel)

    def chat(self, request: ChatRequest, *, timeout: float) -> ChatCall:
        """Starts a chat; `timeout` bounds the whole answer, in seconds."""
        self.in_flight += 1
        return ChatCall(self._stub.Chat(request, timeout=timeout), self._ended)

    async def count_tokens(self, request: CountTokensRequest, *, timeout: float) -> CountTokensResponse:
        try:
            return await self._stub.CountTokens(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error

    async def list_models(self, request: ListModelsRequest, *, timeout: float) -> ListModelsResponse:
        try:
            return await self._stub.ListModels(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error

    async def aclose(self) -> None:
        await self._channel.close()

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
        """The chats that this edge has running there."""
        connection = self._by_address.get(address)
        return connection.in_flight if connection else 0

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
        case _:
            return WorkerFailure("the worker serving this request went away")


def _retry_after(error: grpc.aio.AioRpcError) -> float:
    for key, value in error.trailing_metadata() or ():
        if key == "retry-after" and isinstance(value, str):
            return float(value)
    return 1.0
