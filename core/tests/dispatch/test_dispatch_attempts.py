from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest
from prometheus_client import REGISTRY

from patchbay.canonical import ChatEvent, Head, Ping, Started, Usage
from patchbay.dispatch import attempts as module
from patchbay.dispatch.attempts import Attempts, OpenAnswer, RetryBudget, UpstreamFailure
from patchbay.dispatch.picking import Picker
from patchbay.dispatch.routing import Target
from patchbay.dispatch.transport import Connections
from patchbay.errors import (
    AUTHENTICATION,
    CONTEXT_LENGTH,
    INTERNAL,
    INVALID_REQUEST,
    OVERLOADED,
    QUOTA_EXCEEDED,
    RATE_LIMITED,
    TIMEOUT,
    UNAVAILABLE,
    UPSTREAM,
    Code,
    PatchbayError,
    make_error,
)
from patchbay.settings import Backend, Timeouts
from patchbay.state.registry import WorkerRecord
from patchbay.testing.eventually import eventually, hold
from patchbay.testing.worker import (
    BLOCK,
    FINISHED,
    HANG,
    STARTED,
    ScriptedWorker,
    Step,
    answer,
    failed,
    native,
    text,
)
from patchbay_proto.v1.provider_pb2 import ChatRequest

HEAD = ChatEvent(head=Head(status=429, headers={"retry-after": "0"}))
AWAY = grpc.StatusCode.UNAVAILABLE
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


def error(code: Code, **more: float) -> list[ChatEvent]:
    return failed(make_error(code, "no", **more))  # type: ignore[arg-type]


class KnownWorkers:
    """A directory that knows what the test says."""

    def __init__(self) -> None:
        self.workers: list[WorkerRecord] = []

    def for_backend(self, backend: str) -> list[WorkerRecord]:
        return [worker for worker in self.workers if any(record.name == backend for record in worker.backends)]

    def on_change(self, callback: Callable[[], None]) -> None:
        return


@dataclass
class Opened:
    attempts: Attempts
    connections: Connections
    workers: list[ScriptedWorker]
    directory: KnownWorkers
    tried: list[str] = field(default_factory=list)
    committed: bool = False

    async def open(self, *backends: str) -> OpenAnswer:
        targets = [Target(backend(name), "m") for name in backends or ("a",)]
        return await self.attempts.open(targets, self._request, is_committed=lambda: self.committed)

    async def answer(self, *backends: str) -> list[ChatEvent]:
        opened = await self.open(*backends)
        try:
            return [event async for window in opened.windows() for event in window]
        finally:
            opened.call.close()

    async def failure(self, *backends: str) -> PatchbayError:
        with pytest.raises(PatchbayError) as caught:
            await self.open(*backends)
        return caught.value

    @property
    def in_flight(self) -> int:
        return sum(self.connections.in_flight(worker.address) for worker in self.workers)

    def _request(self, target: Target, worker: WorkerRecord) -> ChatRequest:
        self.tried.append(f"{target.backend.name}@{worker.id}")
        return ChatRequest(backend=target.backend.name)


def backend(name: str) -> Backend:
    timeouts = Timeouts(total=1)
    return Backend(name, "openai-compatible", f"http://{name}.test", "openai-worker", timeouts)


@asynccontextmanager
async def opening(*workers: ScriptedWorker) -> AsyncIterator[Opened]:
    """Attempts on these workers; nothing may run afterwards."""
    async with AsyncExitStack() as stack:
        directory = KnownWorkers()
        connections = Connections()
        for number, worker in enumerate(workers):
            worker.id = f"w{number}"
            await stack.enter_async_context(worker.serving())
            directory.workers.append(worker.record())
        attempts = Attempts(Picker(directory, connections), connections)  # type: ignore[arg-type]
        opened = Opened(attempts, connections, list(workers), directory)
        yield opened
        assert opened.in_flight == 0
        await eventually(lambda: not any(worker.running for worker in workers))
        await connections.aclose()


def serves(name: str, *scripts: Sequence[Step]) -> ScriptedWorker:
    return ScriptedWorker(list(scripts), backends=[(name, "")])


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AWAY_WAITS", (0.0, 0.01, 0.01, 0.01))
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.01)


WELL = answer("well")
ALL = [STARTED, BLOCK, text("well"), FINISHED]
# What the only replica of backend a does, one call after another; what the client gets; the calls made to a and to its
# fallback b, which always answers well.
SCHEDULES: dict[str, tuple[list[Sequence[Step]], list[ChatEvent] | Code, int, int]] = {
    "answers": ([WELL], ALL, 1, 0),
    "away once": ([[AWAY], WELL], ALL, 2, 0),
    "away four times": ([[AWAY]] * 4 + [WELL], ALL, 5, 0),
    "away for long": ([[AWAY]], ALL, 5, 1),
    "full": ([[FULL]], ALL, 1, 1),
    "away after its first events": ([[[STARTED], AWAY], WELL], ALL, 2, 0),
    "429, try again at once": ([error(RATE_LIMITED, retry_after=0), WELL], ALL, 2, 0),
    "429, try again later": ([error(RATE_LIMITED, retry_after=30), WELL], ALL, 1, 1),
    "429 without a time": ([error(RATE_LIMITED), WELL], ALL, 2, 0),
    "429 again and again": ([error(RATE_LIMITED)], ALL, 2, 1),
    "500": ([error(UPSTREAM), WELL], ALL, 2, 0),
    "500 again and again": ([error(UPSTREAM)], ALL, 2, 1),
    "529": ([error(OVERLOADED, http_status=529), WELL], ALL, 2, 0),
    "error within a 200": ([[[HEAD, STARTED], [BLOCK], *[error(OVERLOADED)]], WELL], ALL, 2, 0),
    "a timeout": ([error(TIMEOUT), WELL], ALL, 1, 1),
    "the deadline": ([[HANG], WELL], ALL, 1, 1),
    "nothing at all": ([[], WELL], ALL, 2, 0),
    "only signs of life": ([[[ChatEvent(ping=Ping())], [ChatEvent(usage=Usage(input_tokens=1))]], WELL], ALL, 2, 0),
    "quota used up": ([error(QUOTA_EXCEEDED)], ALL, 1, 1),
    "a bad request": ([error(INVALID_REQUEST)], INVALID_REQUEST, 1, 0),
    "a bad key": ([error(AUTHENTICATION)], AUTHENTICATION, 1, 0),
    "too long a prompt": ([error(CONTEXT_LENGTH)], CONTEXT_LENGTH, 1, 0),
    "a defect": ([error(INTERNAL)], INTERNAL, 1, 0),
    "a defect in the worker": ([[grpc.StatusCode.UNKNOWN]], INTERNAL, 1, 0),
}


def flat(script: Sequence[Step] | list[ChatEvent]) -> Sequence[Step]:
    """A script; a plain window of events is one of one step."""
    return [script] if script and isinstance(script[0], ChatEvent) else script


@pytest.mark.parametrize(("scripts", "outcome", "calls", "fallback_calls"), SCHEDULES.values(), ids=SCHEDULES.keys())
async def test_before_the_first_content(
    scripts: list[Sequence[Step]], outcome: list[ChatEvent] | Code, calls: int, fallback_calls: int
) -> None:
    first, second = serves("a", *map(flat, scripts)), serves("b", WELL)
    async with opening(first, second) as opened:
        if isinstance(outcome, list):
            got = await opened.answer("a", "b")
            assert [event for event in got if event.WhichOneof("event") not in ("head", "ping", "usage")] == outcome
        else:
            assert (await opened.failure("a", "b")).error.code == outcome
        assert (len(first.requests), len(second.requests)) == (calls, fallback_calls)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ([AWAY], UNAVAILABLE),
        ([FULL], OVERLOADED),
        ([error(RATE_LIMITED, retry_after=30)], RATE_LIMITED),
        ([error(QUOTA_EXCEEDED)], QUOTA_EXCEEDED),
        ([HANG], TIMEOUT),
    ],
)
async def test_without_another_to_ask_the_last_error_is_the_answer(script: list[Step], code: Code) -> None:
    async with opening(serves("a", script), serves("b", script)) as opened:
        assert (await opened.failure("a", "b")).error.code == code


async def test_the_upstreams_headers_come_with_its_error() -> None:
    async with opening(serves("a", [[HEAD], error(QUOTA_EXCEEDED)])) as opened:
        failure = await opened.failure("a")
        assert isinstance(failure, UpstreamFailure)
        assert failure.events[0] == HEAD


async def test_another_replica_is_asked_before_the_same_again() -> None:
    async with opening(*(serves("a", [AWAY]) for _ in range(3)), serves("a", WELL)) as opened:
        assert await opened.answer() == ALL
        assert len(set(opened.tried)) == len(opened.tried)
        assert opened.tried[-1] == "a@w3"


@pytest.mark.parametrize("replicas", [1, 2, 5])
async def test_full_replicas_are_asked_once_each_and_three_at_most(replicas: int) -> None:
    async with opening(*(serves("a", [FULL]) for _ in range(replicas))) as opened:
        failure = await opened.failure()
        assert (failure.error.code, failure.error.retry_after) == (OVERLOADED, 3)
        assert len(opened.tried) == len(set(opened.tried)) == min(replicas, 3)


CONTENT: dict[str, list[ChatEvent]] = {
    "text": [STARTED, BLOCK, text("half")],
    "native": [native(b"event: message_start", preamble=True), native(b"data")],
    "finished": [STARTED, FINISHED],
}
BREAKS: dict[str, Step] = {
    "the worker goes away": AWAY,
    "overload": error(OVERLOADED),
    "a broken upstream": error(UPSTREAM),
    "the deadline": HANG,
}


@pytest.mark.parametrize("content", CONTENT.values(), ids=CONTENT.keys())
@pytest.mark.parametrize("break_", BREAKS.values(), ids=BREAKS.keys())
async def test_after_content_nothing_is_tried_again(content: list[ChatEvent], break_: Step) -> None:
    first, second = serves("a", [content, break_]), serves("b", WELL)
    async with opening(first, second) as opened:
        got = await opened.answer("a", "b")
        assert got[: len(content)] == content
        assert got[-1].HasField("error")
        assert len(got) == len(content) + 1
        assert (len(first.requests), len(second.requests)) == (1, 0)


async def test_content_and_an_error_in_one_window_is_content() -> None:
    async with opening(serves("a", [[STARTED, BLOCK, text("x"), *error(OVERLOADED)]])) as opened:
        got = await opened.answer()
        assert [event.WhichOneof("event") for event in got] == ["started", "block_start", "text_delta", "error"]


@pytest.mark.parametrize("script", [[AWAY], error(OVERLOADED)])
async def test_after_the_commit_nothing_is_tried_again(script: Sequence[Step]) -> None:
    first, second = serves("a", flat(script)), serves("b", WELL)
    async with opening(first, second) as opened:
        opened.committed = True
        await opened.failure("a", "b")
        assert (len(first.requests), len(second.requests)) == (1, 0)


async def test_a_commit_during_the_wait_for_a_retry_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first = serves("a", error(RATE_LIMITED, retry_after=0.2), WELL)
    first.scripts = [flat(script) for script in first.scripts]
    async with opening(first) as opened:
        asyncio.get_running_loop().call_later(0.05, lambda: setattr(opened, "committed", True))
        assert (await opened.failure()).error.code == RATE_LIMITED
        assert len(first.requests) == 1


async def test_retries_of_the_upstream_have_a_budget() -> None:
    async with opening(serves("a", [error(UPSTREAM)])) as opened:
        for _ in range(200):
            await opened.failure()
        # Twenty to begin with, and one for five requests.
        assert 200 + 20 <= len(opened.tried) <= 200 + 20 + 40


def test_the_budget_is_earned_slowly_and_up_to_twenty() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.earn()
    assert [budget.spend() for _ in range(21)] == [True] * 20 + [False]
    for _ in range(6):
        budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]


async def test_retries_are_counted_by_why() -> None:
    def count(reason: str) -> float:
        labels = {"backend": "counted", "reason": reason}
        return REGISTRY.get_sample_value("patchbay_edge_retries_total", labels) or 0.0

    scripts = [flat(script) for script in ([AWAY], error(UPSTREAM), WELL)]
    async with opening(serves("counted", *scripts)) as opened:
        assert await opened.answer("counted") == ALL
    assert (count("worker_away"), count("upstream"), count("worker_full")) == (1, 1, 0)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.005, 0.02, 0.05])
@pytest.mark.parametrize(
    "scripts",
    [[[HANG]], [[AWAY]], [error(UPSTREAM, retry_after=0.02)], [[[STARTED], 0.02, [BLOCK, text("x")], HANG]]],
    ids=["no answer", "away", "retrying", "answering"],
)
async def test_a_cancellation_at_any_moment_leaves_nothing(scripts: list[Sequence[Step]], seconds: float) -> None:
    async with opening(serves("a", *map(flat, scripts)), serves("b", [HANG])) as opened:
        task = asyncio.create_task(opened.answer("a", "b"))
        await hold(seconds)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_a_request_that_cannot_be_made_is_not_sent() -> None:
    def refuse(target: Target, worker: WorkerRecord) -> ChatRequest:
        raise PatchbayError(make_error(INVALID_REQUEST, "no"))

    worker = serves("a", WELL)
    async with opening(worker) as opened:
        with pytest.raises(PatchbayError):
            await opened.attempts.open([Target(backend("a"), "m")], refuse, is_committed=lambda: False)
        assert worker.requests == []


async def test_an_answer_that_is_under_way_is_asked_for_once() -> None:
    """An agent's tools may have run, though it has said nothing yet."""
    under_way = ChatEvent(started=Started(id="answer-1", under_way=True))
    worker = ScriptedWorker([[[under_way], error(OVERLOADED)]], backends=[("a", ""), ("b", "")])
    async with opening(worker) as opened:
        events = await opened.answer("a", "b")
        assert [event.WhichOneof("event") for event in events] == ["started", "error"]
        assert opened.tried == ["a@w0"]
