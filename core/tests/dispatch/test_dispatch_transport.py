from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from patchbay.canonical import ChatEvent
from patchbay.dispatch.transport import ChatCall, Connection, Connections, WorkerFailure
from patchbay.errors import INTERNAL, OVERLOADED, TIMEOUT, UNAVAILABLE, Code, PatchbayError
from patchbay.testing.eventually import eventually, stays
from patchbay.testing.ports import free_port
from patchbay.testing.worker import BLOCK, FINISHED, HANG, STARTED, ScriptedWorker, Step, answer, text
from patchbay_proto.v1.provider_pb2 import ChatRequest, CountTokensRequest, ListModelsRequest, Model


@asynccontextmanager
async def connected(worker: ScriptedWorker) -> AsyncIterator[Connection]:
    async with worker.serving():
        connection = Connection(worker.address)
        yield connection
        await connection.aclose()


async def read(call: ChatCall) -> list[ChatEvent]:
    return [event async for window in call for event in window.events]


async def failure(call: ChatCall) -> PatchbayError:
    with pytest.raises(PatchbayError) as caught:
        await asyncio.wait_for(read(call), 5)
    call.close()
    return caught.value


async def test_reads_an_answer() -> None:
    async with connected(ScriptedWorker([answer("hello")])) as connection:
        call = connection.chat(ChatRequest(), timeout=5)
        assert connection.in_flight == 1
        assert await read(call) == [STARTED, BLOCK, text("hello"), FINISHED]
        call.close()
        call.close()
        assert connection.in_flight == 0


@pytest.mark.parametrize(
    ("status", "code", "is_workers"),
    [
        (grpc.StatusCode.UNAVAILABLE, UNAVAILABLE, True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, OVERLOADED, True),
        (grpc.StatusCode.CANCELLED, UNAVAILABLE, True),
        (grpc.StatusCode.INTERNAL, UNAVAILABLE, True),
        (grpc.StatusCode.UNIMPLEMENTED, UNAVAILABLE, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, TIMEOUT, False),
        (grpc.StatusCode.UNKNOWN, INTERNAL, False),
    ],
)
@pytest.mark.parametrize("before", [[], [[STARTED]]], ids=["at once", "after an event"])
async def test_a_status_is_an_error_and_never_a_cancellation(
    status: grpc.StatusCode, code: Code, is_workers: bool, before: list[Step]
) -> None:
    async with connected(ScriptedWorker([[*before, status]])) as connection:
        error = await failure(connection.chat(ChatRequest(), timeout=5))
        assert (error.error.code, isinstance(error, WorkerFailure)) == (code, is_workers)
        if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
            assert isinstance(error, WorkerFailure)
            assert (error.full, error.error.retry_after) == (True, 3)
        assert connection.in_flight == 0


async def test_nobody_listens() -> None:
    connection = Connection(f"127.0.0.1:{free_port()}")
    assert isinstance(await failure(connection.chat(ChatRequest(), timeout=5)), WorkerFailure)
    await connection.aclose()


async def test_a_worker_that_dies_in_the_middle() -> None:
    worker = ScriptedWorker([[[STARTED], HANG]])
    async with worker.serving() as server:
        connection = Connection(worker.address)
        call = connection.chat(ChatRequest(), timeout=5)
        assert list((await anext(call)).events) == [STARTED]
        reading = asyncio.create_task(failure(call))
        await asyncio.sleep(0)
        assert not reading.done()
        await server.stop(None)
        assert isinstance(await reading, WorkerFailure)
        await connection.aclose()


async def test_the_deadline() -> None:
    worker = ScriptedWorker([[[STARTED], HANG]])
    async with connected(worker) as connection:
        error = await failure(connection.chat(ChatRequest(), timeout=0.1))
        assert (error.error.code, isinstance(error, WorkerFailure)) == (TIMEOUT, False)
        await eventually(lambda: worker.running == 0)


@pytest.mark.parametrize("moment", ["before it is sent", "before an event", "after an event"])
async def test_closing_stops_the_worker(moment: str) -> None:
    worker = ScriptedWorker([[HANG] if moment != "after an event" else [[STARTED], HANG]])
    async with connected(worker) as connection:
        call = connection.chat(ChatRequest(), timeout=5)
        if moment == "before an event":
            reading = asyncio.create_task(anext(call))
            await eventually(lambda: worker.running == 1)
            reading.cancel()
            await asyncio.wait([reading])
            assert reading.cancelled()
        elif moment == "after an event":
            await anext(call)
        call.close()
        assert connection.in_flight == 0
        await eventually(lambda: worker.running == 0)
        # One that was not sent yet does not come after all.
        await stays(lambda: worker.running == 0, seconds=0.05)


async def test_a_request_that_cannot_be_sent_leaves_no_count() -> None:
    async with connected(ScriptedWorker([answer("x")])) as connection:
        await connection.aclose()
        with pytest.raises(grpc.aio.UsageError):
            connection.chat(ChatRequest(), timeout=5)
        assert connection.in_flight == 0


async def test_short_calls_count_as_running() -> None:
    worker = ScriptedWorker([answer("x")], models=[Model(id="m", backend="a")])
    async with connected(worker) as connection:
        counting = asyncio.create_task(connection.count_tokens(CountTokensRequest(), timeout=5))
        await asyncio.sleep(0)
        assert connection.in_flight == 1
        assert (await counting).input_tokens == 7
        listed = await connection.list_models(ListModelsRequest(backend="a"), timeout=5)
        assert [model.id for model in listed.models] == ["m"]
        assert connection.in_flight == 0
        worker.counts = grpc.StatusCode.UNAVAILABLE
        with pytest.raises(WorkerFailure):
            await connection.count_tokens(CountTokensRequest(), timeout=5)
        assert connection.in_flight == 0


async def test_a_connection_is_opened_once_and_found_again() -> None:
    connections = Connections()
    one = connections.get("127.0.0.1:1")
    assert connections.get("127.0.0.1:1") is one
    assert connections.in_flight("127.0.0.1:1") == connections.in_flight("127.0.0.1:2") == 0
    connections.retain([])
    assert connections.get("127.0.0.1:1") is not one
    await connections.aclose()
