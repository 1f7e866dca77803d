"""Codebuff's sockets while replicas and edges die, drain and come back, and clients vanish or hardly read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack

import pytest
from codebuff_sockets import (
    KINDS,
    LONG,
    MUCH,
    Json,
    Socket,
    agent,
    answer_of,
    complaints,
    config_on,
    dial_deaf,
    knock,
    open_sockets,
    prompt_action,
    replicas,
    reset,
    rss,
    sockets_held,
    until_known,
)

from patchbay.testing.cluster import Cluster, ServiceProcess
from patchbay.testing.eventually import eventually, settled
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin.testing import StandinProcess

MIB = 1024 * 1024
DRAIN_SECONDS = 6
SHORT_DRAIN_SECONDS = 1
LEASE_SECONDS = 3
# A model that says nothing at first.
LATE = agent(text="late but whole", first_event_delay_ms=1500)
READ_A = 'use tool read_files {"paths": ["src/a.py"]}'
KEYS = [f"pb-key-{number}" for number in range(8)]


@pytest.fixture(scope="module")
def fleet(shared_valkey: ValkeyProcess, standin: StandinProcess) -> Iterator[Cluster]:
    """Two edges and two replicas of codebuff-ws, some of which the tests end: see `with_replicas`."""
    config = config_on(
        standin.url,
        server={"drain_seconds": DRAIN_SECONDS},
        workers={"heartbeat_seconds": 0.5, "heartbeat_ttl_seconds": 2, "drain_seconds": DRAIN_SECONDS},
    )
    with Cluster(config, redis_url=db(shared_valkey), edges=2, kinds=KINDS) as cluster:
        edges = list(cluster.edges)
        cluster.add_worker("codebuff-ws")
        yield cluster
        for process in [*edges, *cluster.workers["codebuff-ws"]]:
            assert complaints(process) == []


@pytest.fixture(scope="module")
def own_valkey() -> Iterator[ValkeyProcess]:
    with ValkeyProcess() as process:
        yield process


@pytest.fixture(scope="module")
def limited(own_valkey: ValkeyProcess, standin: StandinProcess) -> Iterator[Cluster]:
    """Two edges that may have 50 sockets, 10 of each key, and one replica of codebuff-ws."""
    config = config_on(
        standin.url,
        codebuff={"max_connections": 50, "max_connections_per_key": 10},
        limits={"lease_seconds": LEASE_SECONDS},
        server={"drain_seconds": SHORT_DRAIN_SECONDS},
        redis={"timeout_seconds": 1},
        security={"api_keys": [{"key": key, "id": key[3:]} for key in KEYS]},
    )
    with Cluster(config, redis_url=own_valkey.url, edges=2, kinds=KINDS) as cluster:
        yield cluster


def db(valkey: ValkeyProcess) -> str:
    return valkey.url.removesuffix("0") + "5"


async def with_replicas(cluster: Cluster, number: int) -> list[ServiceProcess]:
    """So many replicas of codebuff-ws, which every edge knows."""
    while len(replicas(cluster)) < number:
        cluster.add_worker("codebuff-ws")
    await until_known(cluster)
    return replicas(cluster)


async def until_quiet(standin: StandinProcess, url: str) -> None:
    """Waits until nothing is left of any socket: no place is taken, and no model is asked."""

    async def is_quiet() -> bool:
        return not await sockets_held(url) and not standin.stats().active

    await eventually(is_quiet, what="every place is given back, and no model is asked")


async def begin(sockets: Sequence[Socket], definition: Json) -> list[str]:
    """Has each begin a prompt, whose answer has begun as well."""
    prompts = [await one.prompt(definition=definition) for one in sockets]
    await asyncio.gather(*(one.begun(prompt_id) for one, prompt_id in zip(sockets, prompts, strict=True)))
    return prompts


async def ends_of(sockets: Sequence[Socket], prompts: Sequence[str]) -> list[Json]:
    """Waits for the end of each one's prompt, which it has once."""
    ended = (one.ended(prompt_id) for one, prompt_id in zip(sockets, prompts, strict=True))
    return list(await asyncio.gather(*ended))


async def ask_of_project(one: Socket) -> str:
    """The answer to a prompt that says nothing of the project, and asks for a file of it."""
    return answer_of(await one.ask(READ_A, sessionState={}))


async def test_a_rolling_restart_of_codebuff_ws_is_not_noticed(fleet: Cluster) -> None:
    first, second = await with_replicas(fleet, 2)
    async with open_sockets(fleet.edges, 50) as sockets:
        idle, busy = sockets[:40], sockets[40:]
        await asyncio.gather(*(one.init({"src/a.py": f"secret {number}"}) for number, one in enumerate(idle)))
        said = len(idle[0].heard)
        prompts = await begin(busy, LONG)
        first.terminate()
        fleet.add_worker("codebuff-ws")
        whole = await ends_of(busy, prompts)
        assert await asyncio.to_thread(first.wait) == 0, first.output()
        await with_replicas(fleet, 2)

        prompts = await begin(busy, LONG)
        second.terminate()
        whole += await ends_of(busy, prompts)
        assert await asyncio.to_thread(second.wait) == 0, second.output()

        assert len({answer_of(end) for end in whole}) == 1
        assert all(one.is_open for one in sockets)
        assert [len(one.heard) for one in idle] == [said] * 40
        assert not any(one.of_type("request-reconnect") for one in busy)
        await asyncio.gather(*(one.ping() for one in idle))
        answers = await asyncio.gather(*(ask_of_project(one) for one in idle[:8]))
        assert all(f"secret {number}" in answer for number, answer in enumerate(answers))


async def test_kill_9_of_a_replica_drops_no_socket_and_ends_every_prompt_once(
    fleet: Cluster, standin: StandinProcess
) -> None:
    victim, _ = await with_replicas(fleet, 2)
    standin.reset()
    async with open_sockets(fleet.edges, 220) as sockets:
        idle, early, late = sockets[:200], sockets[200:210], sockets[210:]
        await asyncio.gather(*(one.init({"src/a.py": f"secret {number}"}) for number, one in enumerate(idle)))
        said = await begin(late, LONG)
        silent = [await one.prompt(definition=LATE) for one in early]
        await asyncio.to_thread(standin.wait_for, lambda process: process.stats().requests == 20)
        victim.kill()
        killed_at = time.monotonic()
        answers = await ends_of(early, silent)
        ends = await ends_of(late, said)
        assert time.monotonic() - killed_at < 5

        # Both kinds were on the killed replica: the silent ones were asked again, the others say what happened.
        assert [answer_of(answer) for answer in answers] == ["late but whole"] * 10
        assert standin.stats().requests > 20
        errors = [end for end in ends if end["type"] == "prompt-error"]
        assert 0 < len(errors) < 10
        assert all("restarted" in error["message"] for error in errors)
        assert len({answer_of(end) for end in ends if end not in errors}) == 1

        await asyncio.gather(*(one.ping() for one in idle))
        projects = await asyncio.gather(*(ask_of_project(one) for one in idle[:20]))
        assert all(f"secret {number}" in answer for number, answer in enumerate(projects))
        assert all(one.is_open for one in sockets)
        # There is no second end either.
        assert (await ends_of(early, silent), await ends_of(late, said)) == (answers, ends)


async def test_a_client_that_does_not_read_and_one_that_vanishes(
    fleet: Cluster, standin: StandinProcess, shared_valkey: ValkeyProcess
) -> None:
    await with_replicas(fleet, 1)
    edge = fleet.edges[1]
    processes = [edge, *replicas(fleet)]
    standin.reset()
    async with open_sockets([edge], 2) as (vanishing, other):
        await other.ask()
        before = [rss(process) for process in processes]
        deaf = await dial_deaf(edge)
        await Socket(deaf, listens=False).act(prompt_action("much", definition=MUCH))
        await eventually(lambda: standin.stats().active == 1, what="the model is asked")
        await settled(lambda: [rss(process) // MIB for process in processes], quiet=0.5)
        after = [rss(process) for process in processes]
        assert all(now - was < 24 * MIB for now, was in zip(after, before, strict=True)), (before, after)
        assert standin.stats().active == 1
        started = time.monotonic()
        assert "hi" in answer_of(await other.ask())
        assert time.monotonic() - started < 2

        await vanishing.begun(await vanishing.prompt(definition=LONG))
        reset(vanishing.connection)
        reset(deaf)
        await eventually(lambda: not standin.stats().active, what="no model is asked any more")
        await other.ping()
    await until_quiet(standin, db(shared_valkey))


async def test_a_drain_of_an_edge_lets_prompts_end_and_sends_the_idle_elsewhere(
    fleet: Cluster, standin: StandinProcess, shared_valkey: ValkeyProcess
) -> None:
    await with_replicas(fleet, 1)
    edge, other = fleet.edges
    async with open_sockets([edge], 30) as sockets, open_sockets([other], 2) as (elsewhere, _):
        idle, busy = sockets[:25], sockets[25:]
        await asyncio.gather(*(one.ping() for one in sockets))
        prompts = await begin(busy, LONG)
        edge.terminate()
        started = time.monotonic()
        assert await asyncio.gather(*(one.closed() for one in idle)) == [1001] * 25
        assert all(one.is_open for one in busy)
        assert await knock(edge, key="any") == 503
        ends = await ends_of(busy, prompts)
        assert await asyncio.gather(*(one.closed() for one in busy)) == [1001] * 5
        assert await asyncio.to_thread(edge.wait) == 0, edge.output()
        assert time.monotonic() - started < DRAIN_SECONDS
        assert len({answer_of(end) for end in ends}) == 1
        assert [len(one.of_type("request-reconnect")) for one in sockets] == [1] * 30
        await elsewhere.ping()
        assert not elsewhere.of_type("request-reconnect")
    fleet.edges.remove(edge)
    await until_quiet(standin, db(shared_valkey))


class Callers:
    """Clients that want in; those that are let in stay until they are dismissed."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.served: list[Socket] = []

    async def come(self, edges: Sequence[ServiceProcess], number: int, *, key: str = "") -> list[int]:
        """So many at once: the statuses that they were refused with."""
        knocks = (knock(edges[n % len(edges)], key=key or KEYS[n % len(KEYS)]) for n in range(number))
        statuses = []
        for answer in await asyncio.gather(*knocks):
            if isinstance(answer, int):
                statuses.append(answer)
            else:
                self.served.append(answer)
                self._stack.push_async_callback(answer.aclose)
        return statuses

    async def go(self) -> None:
        await self._stack.aclose()
        self.served.clear()


async def test_limits_are_exact_over_two_edges(limited: Cluster, own_valkey: ValkeyProcess) -> None:
    async with AsyncExitStack() as stack:
        callers = Callers(stack)
        assert await callers.come(limited.edges, 80) == [503] * 30
        await asyncio.gather(*(one.ping() for one in callers.served))
        assert await sockets_held(own_valkey.url) == 50

        await callers.served[0].aclose()
        await eventually(lambda: _are_held(own_valkey, 49), what="the place is given back")
        assert await callers.come(limited.edges, 5) == [503] * 4
        await callers.go()
        await eventually(lambda: _are_held(own_valkey, 0), what="the places are given back")

        assert await callers.come(limited.edges, 16, key=KEYS[0]) == [503] * 6
        assert await callers.come(limited.edges, 2, key=KEYS[1]) == []
    await eventually(lambda: _are_held(own_valkey, 0), what="the places are given back")


async def _are_held(valkey: ValkeyProcess, number: int) -> bool:
    return await sockets_held(valkey.url) == number


async def test_while_redis_stands_still_sockets_live_on_and_each_edge_has_its_share(
    limited: Cluster, own_valkey: ValkeyProcess, standin: StandinProcess
) -> None:
    strict = config_on(standin.url, limits={"on_redis_down": "deny"}, redis={"timeout_seconds": 1})
    url = own_valkey.url.removesuffix("0") + "1"
    with Cluster(strict, redis_url=url, workers=0, kinds=()) as denying:
        async with AsyncExitStack() as stack:
            callers = Callers(stack)
            assert await callers.come(limited.edges[:1], 5) == []
            assert await callers.come(denying.edges, 1) == []
            kept = callers.served[:5]
            await asyncio.gather(*(one.ping() for one in kept))
            own_valkey.pause()
            try:
                started = time.monotonic()
                assert await callers.come(denying.edges, 3) == [503] * 3
                # Half of 50, of which five were there.
                assert await callers.come(limited.edges[:1], 30) == [503] * 10
                await asyncio.gather(*(one.ping() for one in callers.served[:5] + callers.served[6:]))
                assert "hi" in answer_of(await kept[0].ask())
                await kept[1].aclose()
                assert time.monotonic() - started < 8
            finally:
                own_valkey.resume()
            assert callers.served[5].is_open
            await eventually(lambda: _are_held(own_valkey, 24), seconds=10, what="Redis knows every socket again")
    await eventually(lambda: _are_held(own_valkey, 0), what="the places are given back")


async def test_the_places_of_a_killed_edge_come_back_within_the_lease(
    limited: Cluster, own_valkey: ValkeyProcess, standin: StandinProcess
) -> None:
    first, second = limited.edges
    standin.reset()
    async with AsyncExitStack() as stack:
        callers = Callers(stack)
        assert await callers.come([first, second], 60) == [503] * 10
        on_first = sum(one.connection.remote_address[1] == first.port for one in callers.served)
        busy = next(one for one in callers.served if one.connection.remote_address[1] == first.port)
        await busy.begun(await busy.prompt(definition=LONG))
        first.kill()
        killed_at = time.monotonic()
        await eventually(lambda: not standin.stats().active, seconds=1, what="no model is asked any more")

        async def are_back() -> bool:
            return await sockets_held(own_valkey.url) == 50 - on_first

        await eventually(are_back, seconds=LEASE_SECONDS + 1, what="the places come back")
        assert time.monotonic() - killed_at > LEASE_SECONDS / 3
        refused = await callers.come([second], on_first + 3)
        assert len(refused) == 3


async def test_a_client_that_does_not_read_does_not_hold_up_a_drain(limited: Cluster, standin: StandinProcess) -> None:
    edge = limited.edges[1]
    standin.reset()
    deaf = await dial_deaf(edge)
    await Socket(deaf, listens=False).act(prompt_action("much", definition=MUCH))
    await eventually(lambda: standin.stats().active == 1, what="the model is asked")
    await settled(lambda: rss(edge) // MIB)
    edge.terminate()
    started = time.monotonic()
    assert await asyncio.to_thread(edge.wait) == 0, edge.output()
    assert time.monotonic() - started < SHORT_DRAIN_SECONDS + 4
    reset(deaf)
