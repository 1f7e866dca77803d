from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import pytest

from patchbay.dispatch import picking
from patchbay.dispatch.picking import Picker
from patchbay.dispatch.transport import Connections
from patchbay.errors import UNAVAILABLE, Error, PatchbayError
from patchbay.state.registry import BackendRecord, PoolRecord, WorkerRecord
from patchbay.testing import virtual_time
from patchbay.testing.worker import ScriptedWorker


class KnownWorkers:
    """A directory that knows what the test says."""

    def __init__(self, *workers: WorkerRecord) -> None:
        self.workers: Sequence[WorkerRecord] = workers
        self._callbacks: list[Callable[[], None]] = []

    def for_backend(self, backend: str) -> list[WorkerRecord]:
        return [worker for worker in self.workers if any(record.name == backend for record in worker.backends)]

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def change(self, *workers: WorkerRecord) -> None:
        self.workers = workers
        for callback in self._callbacks:
            callback()


def worker(name: str, *, in_flight: int = 0, capacity: int = 100, backend: str = "a") -> WorkerRecord:
    scripted = ScriptedWorker([], id=name, capacity=capacity, backends=[(backend, "")], address=f"{name}.test:1")
    return scripted.record(in_flight=in_flight)


def picker(*workers: WorkerRecord) -> tuple[Picker, KnownWorkers]:
    directory = KnownWorkers(*workers)
    return Picker(directory, Connections()), directory  # type: ignore[arg-type]


async def picks(chosen: Picker, times: int = 200, *, avoid: Sequence[str] = ()) -> Counter[str]:
    return Counter([(await chosen.pick("a", avoid=avoid)).id for _ in range(times)])


async def test_the_less_loaded_of_two() -> None:
    chosen, _ = picker(worker("idle", in_flight=1), worker("busy", in_flight=50))
    assert await picks(chosen) == {"idle": 200}


async def test_load_is_a_share_of_the_capacity() -> None:
    chosen, _ = picker(worker("small", in_flight=5, capacity=10), worker("large", in_flight=40, capacity=100))
    assert await picks(chosen) == {"large": 200}


async def test_equal_workers_share_and_the_busiest_of_many_gets_nothing() -> None:
    chosen, _ = picker(*(worker(f"w{number}", in_flight=number // 4) for number in range(5)))
    seen = await picks(chosen, 1000)
    assert seen.keys() == {"w0", "w1", "w2", "w3"}
    assert min(seen.values()) > 100


async def test_this_edges_own_calls_count_at_once() -> None:
    directory = KnownWorkers(worker("one"), worker("two"))
    connections = Connections()
    chosen = Picker(directory, connections)  # type: ignore[arg-type]
    connections.get("one.test:1").in_flight = 3
    assert await picks(chosen) == {"two": 200}
    await connections.aclose()


async def test_only_workers_that_serve_the_backend() -> None:
    chosen, _ = picker(worker("other", backend="b"), worker("mine", in_flight=90))
    assert await picks(chosen) == {"mine": 200}


async def test_avoids_what_was_tried_unless_there_is_nothing_else() -> None:
    chosen, _ = picker(worker("one"), worker("two", in_flight=50))
    assert await picks(chosen, avoid=["one"]) == {"two": 200}
    assert (await picks(chosen, avoid=["one", "two"])) == {"one": 200}
    assert chosen.has_other("a", ["one"])
    assert not chosen.has_other("a", ["one", "two"])


async def test_a_worker_that_went_away_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(picking.time, "monotonic", lambda: now)
    one, two = worker("one"), worker("two", in_flight=50)
    chosen, _ = picker(one, two)
    chosen.quarantine(one)
    assert await picks(chosen) == {"two": 200}
    chosen.quarantine(two)
    # Rather one of those than none.
    assert await picks(chosen) == {"one": 200}
    now += 10
    assert await picks(chosen) == {"one": 200}


def test_waits_for_a_worker_to_come() -> None:
    async def work() -> tuple[str, float]:
        chosen, directory = picker()
        waiting = [asyncio.create_task(chosen.pick("a")) for _ in range(3)]
        await virtual_time.pass_time(1)
        directory.change(worker("other", backend="b"))
        await virtual_time.pass_time(1)
        assert not any(task.done() for task in waiting)
        directory.change(worker("new"))
        found = await asyncio.gather(*waiting)
        assert {one.id for one in found} == {"new"}
        return found[0].id, asyncio.get_running_loop().time()

    assert virtual_time.run(work()) == ("new", 2.0)


async def test_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picking, "_WAIT_SECONDS", 0.05)
    chosen, _ = picker()

    async def fails() -> Error:
        with pytest.raises(PatchbayError) as caught:
            await chosen.pick("a")
        return caught.value.error

    error = await fails()
    assert (error.code, error.retryable, error.retry_after) == (UNAVAILABLE, True, 2)
    assert error.message == "no live worker serves the backend `a`"


async def test_connections_to_workers_that_are_gone_are_closed() -> None:
    one, two = worker("one"), worker("two")
    directory = KnownWorkers(one, two)
    connections = Connections()
    Picker(directory, connections)  # type: ignore[arg-type]
    kept, busy = connections.get(one.address), connections.get(two.address)
    busy.in_flight = 1
    directory.change(msgspec.structs.replace(one, in_flight=5))
    assert connections.get(one.address) is kept
    # One with a running call stays until the call has ended.
    assert connections.get(two.address) is busy
    busy.in_flight = 0
    directory.change(one)
    assert connections.get(two.address) is not busy
    await connections.aclose()


# -- processes --------------------------------------------------------------------------------------------------------


def pooled(
    name: str,
    *,
    spare: int = 0,
    busy: int = 0,
    waiting: int = 0,
    most: int = 10,
    mode: str = "model",
    signed_in: bool = True,
) -> WorkerRecord:
    pool = PoolRecord(spare=spare, busy=busy, max=most, waiting=waiting)
    record = BackendRecord("a", "claude-cli", "", signed_in, mode=mode, pool=pool)
    return ScriptedWorker([], id=name, address=f"{name}.test:1", records=[record]).record()


async def test_a_replica_with_a_process_to_spare() -> None:
    chosen, _ = picker(pooled("spare", spare=1, busy=9), pooled("none", busy=1), pooled("neither"))
    assert await picks(chosen) == {"spare": 200}


async def test_without_spares_where_the_fewest_run_and_wait_for_their_number() -> None:
    full, small = pooled("full", busy=10, waiting=5), pooled("small", busy=3, most=4)
    chosen, directory = picker(full, small, pooled("large", busy=6))
    assert await picks(chosen) == {"large": 200}
    directory.change(full, small)
    assert await picks(chosen) == {"small": 200}
    directory.change(full, pooled("as-full", busy=10, waiting=5))
    assert min((await picks(chosen)).values()) > 50


async def test_of_many_spares_not_always_the_same() -> None:
    chosen, _ = picker(*(pooled(f"w{number}", spare=1, busy=number // 4) for number in range(5)), pooled("none"))
    assert (await picks(chosen)).keys() == {"w0", "w1", "w2", "w3"}


async def test_a_burst_takes_each_spare_once_though_no_heartbeat_tells_of_it() -> None:
    directory = KnownWorkers(pooled("one", spare=3), pooled("two", spare=2, busy=1), pooled("none", busy=2))
    connections = Connections()
    chosen = Picker(directory, connections)  # type: ignore[arg-type]

    async def burst(size: int) -> Counter[str]:
        seen: Counter[str] = Counter()
        for _ in range(size):
            found = await chosen.pick("a")
            connections.get(found.address).chats["a"] += 1
            seen[found.id] += 1
        return seen

    assert await burst(5) == {"one": 3, "two": 2}
    # The next heartbeat counts them, and they are not counted twice.
    directory.change(pooled("one", spare=1, busy=3), pooled("two", busy=3), pooled("none", busy=3))
    assert await burst(1) == {"one": 1}
    # Chats of another backend take none of these processes.
    connections.get("one.test:1").chats["b"] += 50
    directory.change(pooled("one", spare=1, busy=4), pooled("two", busy=3), pooled("none", busy=3))
    assert await burst(1) == {"one": 1}
    await connections.aclose()


async def test_a_replica_that_cannot_answer_only_when_none_can() -> None:
    out, able = pooled("out", spare=9, signed_in=False), pooled("able", busy=10, waiting=9)
    chosen, directory = picker(out, able)
    assert await picks(chosen) == {"able": 200}
    assert not chosen.has_other("a", ["able"])
    # Rather once more where an answer is possible than where it is not.
    assert await picks(chosen, avoid=["able"]) == {"able": 200}
    directory.change(out)
    assert await picks(chosen) == {"out": 200}


async def meeting(chosen: Picker, conversation: str, *, avoid: Sequence[str] = ()) -> str:
    """The one replica of a conversation."""
    found = {(await chosen.pick("a", conversation=conversation, avoid=avoid)).id for _ in range(20)}
    assert len(found) == 1
    return found.pop()


def agents(*names: str) -> list[WorkerRecord]:
    # Spares and load say nothing against the place where a conversation's process is.
    return [pooled(name, spare=number, busy=3 * number, mode="agent") for number, name in enumerate(names)]


async def test_an_agents_conversation_stays_at_one_replica_through_any_edge() -> None:
    one, directory = picker(*agents("w0", "w1", "w2"))
    other, _ = picker(*agents("w2", "w1", "w0"))
    conversations = [f"2:k1{number}" for number in range(60)]
    before = {name: await meeting(one, name) for name in conversations}
    assert {name: await meeting(other, name) for name in conversations} == before
    assert min(Counter(before.values()).values()) > 8
    # When a replica goes, only its own conversations move.
    directory.change(*agents("w0", "w2"))
    after = {name: await meeting(one, name) for name in conversations}
    assert {name for name in conversations if after[name] != before[name]} == {
        name for name in conversations if before[name] == "w1"
    }


async def test_an_agents_conversation_goes_where_it_can() -> None:
    records = agents("w0", "w1", "w2")
    chosen, directory = picker(*records)
    first = await meeting(chosen, "c")
    second = await meeting(chosen, "c", avoid=[first])
    assert second != first
    chosen.quarantine(next(record for record in records if record.id == first))
    assert await meeting(chosen, "c") == second
    directory.change(*(record for record in records if record.id != second), pooled(second, mode="agent"))
    assert await meeting(chosen, "c") == second
    directory.change(*records[:2], pooled("w2", mode="agent", signed_in=False))
    assert {await meeting(chosen, f"c{number}") for number in range(20)} <= {"w0", "w1"}


@pytest.mark.parametrize("mode", ["model", "agent"])
async def test_only_an_agents_named_conversation_has_a_place(mode: str) -> None:
    chosen, _ = picker(pooled("one", spare=1, mode=mode), pooled("two", spare=1, mode=mode))
    conversation = "" if mode == "agent" else "c"
    found = Counter([(await chosen.pick("a", conversation=conversation)).id for _ in range(200)])
    assert min(found.values()) > 50


def caching(name: str, *, in_flight: int = 0) -> WorkerRecord:
    record = BackendRecord(name="a", kind="codex", dialect="openai_responses", signed_in=True)
    return msgspec.structs.replace(worker(name, in_flight=in_flight), backends=(record,))


async def test_a_conversation_stays_where_its_upstream_has_it_cached() -> None:
    names = ("one", "two", "three")
    chosen, _ = picker(*map(caching, names))
    other, _ = picker(*map(caching, reversed(names)))
    homes = [await meeting(chosen, f"c{number}") for number in range(60)]
    assert homes == [await meeting(other, f"c{number}") for number in range(60)]
    assert min(Counter(homes).values()) >= 8
    # It is a preference: not for a replica that is gone, or much busier than another.
    assert await meeting(chosen, "c0", avoid=[homes[0]]) != homes[0]
    busy, _ = picker(*(caching(name, in_flight=30 if name == homes[0] else 0) for name in names))
    assert (await busy.pick("a", conversation="c0")).id != homes[0]
    a_little, _ = picker(*(caching(name, in_flight=20 if name == homes[0] else 0) for name in names))
    assert await meeting(a_little, "c0") == homes[0]


async def test_a_conversation_is_nothing_to_other_kinds() -> None:
    chosen, _ = picker(worker("one"), worker("two"))
    found = Counter([(await chosen.pick("a", conversation="c")).id for _ in range(200)])
    assert min(found.values()) > 50
