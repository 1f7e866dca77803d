"""Codebuff's sockets while replicas and edges die, drain and come back, and clients vanish or hardly read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from codebuff_sockets import (
    KINDS,
    Json,
    Socket,
    agent,
    answer_of,
    config_on,
    open_sockets,
    replicas,
    sockets_held,
    until_known,
)

from patchbay.testing.cluster import Cluster
from patchbay.testing.eventually import eventually
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin.testing import StandinProcess

# What a model says when nothing has happened to the prompt, and how long it takes to begin.
LATE = agent(text="late but whole", first_event_delay_ms=1500)
LONG = agent(deltas=150, delta_delay_ms=20)


@pytest.fixture(scope="module")
def running_fleet(shared_valkey: ValkeyProcess, standin: StandinProcess) -> Iterator[Cluster]:
    config = config_on(
        standin.url,
        server={"drain_seconds": 5},
        workers={"heartbeat_seconds": 0.5, "heartbeat_ttl_seconds": 2, "drain_seconds": 5},
    )
    url = shared_valkey.url.removesuffix("0") + "5"
    with Cluster(config, redis_url=url, edges=2, kinds=KINDS) as cluster:
        yield cluster


@pytest.fixture
async def fleet(running_fleet: Cluster) -> AsyncIterator[Cluster]:
    """Two edges and two replicas of codebuff-ws: those that a test before this one has ended are replaced."""
    running_fleet.edges[:] = [edge for edge in running_fleet.edges if edge.alive]
    while len(running_fleet.edges) < 2:
        running_fleet.add_edge()
    while len(replicas(running_fleet)) < 2:
        running_fleet.add_worker("codebuff-ws")
    await asyncio.to_thread(running_fleet.wait_ready)
    await until_known(running_fleet)
    yield running_fleet


async def test_kill_9_of_a_replica_drops_no_socket_and_ends_every_prompt_once(
    fleet: Cluster, standin: StandinProcess
) -> None:
    standin.reset()
    async with open_sockets(fleet.edges, 220) as sockets:
        idle, early, late = sockets[:200], sockets[200:210], sockets[210:]
        await asyncio.gather(*(socket.init({"src/a.py": f"secret {n}"}) for n, socket in enumerate(idle)))
        said = [await socket.prompt(definition=LONG) for socket in late]
        await asyncio.gather(*(socket.begun(said[n]) for n, socket in enumerate(late)))
        silent = [await socket.prompt(definition=LATE) for socket in early]
        await asyncio.to_thread(standin.wait_for, lambda process: process.stats().requests == 20)
        replicas(fleet)[0].kill()
        killed_at = time.monotonic()
        answers = await asyncio.gather(*(socket.ended(silent[n]) for n, socket in enumerate(early)))
        ends = await asyncio.gather(*(socket.ended(said[n]) for n, socket in enumerate(late)))
        assert time.monotonic() - killed_at < 5

        assert [answer_of(answer) for answer in answers] == ["late but whole"] * 10
        # Both kinds were on the killed replica: the silent ones were asked again, the others say what happened.
        assert standin.stats().requests > 20
        errors = [end for end in ends if end["type"] == "prompt-error"]
        assert 0 < len(errors) < 10
        assert all("restarted" in error["message"] for error in errors)
        whole = [answer_of(end) for end in ends if end["type"] != "prompt-error"]
        assert len(whole) == len(set(whole)) or whole  # each is whole

        await asyncio.gather(*(socket.ping() for socket in idle))
        question = 'use tool read_files {"paths": ["src/a.py"]}'
        files = await asyncio.gather(*(_ask_of_project(socket, question) for socket in idle[:20]))
        for n, end in enumerate(files):
            assert f"secret {n}" in answer_of(end)
        for n, socket in enumerate(early):
            assert len(socket.ends(silent[n])) == 1
        assert all(socket.is_open for socket in sockets)


async def _ask_of_project(socket: Socket, text: str) -> Json:
    """A prompt that says nothing of the project."""
    return await socket.ask(text, sessionState={})
