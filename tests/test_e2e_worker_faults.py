"""Workers that die, drain and come back, under running streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import anthropic
import openai
import pytest
from conftest import Config
from streaming import PAIRS, Seen, body_for, open_client, script, watch

from patchbay.testing.cluster import Cluster, ServiceProcess
from patchbay.testing.eventually import wait_until
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin.testing import StandinProcess

WORKER_OF = {"openai": "openai-worker", "anthropic": "claude-worker"}


@pytest.fixture(scope="module")
def fleet(shared_valkey: ValkeyProcess, config_for: Callable[..., Config]) -> Iterator[Cluster]:
    # A killed worker is off the list after two seconds.
    config = config_for(workers={"heartbeat_seconds": 0.5, "heartbeat_ttl_seconds": 2})
    with Cluster(config, redis_url=shared_valkey.url.removesuffix("0") + "2", edges=2, workers=2) as cluster:
        yield cluster


@pytest.fixture
def wide(fleet: Cluster) -> Cluster:
    """Two edges and two replicas of each worker: those that a test before this one has ended are replaced."""
    for kind, group in fleet.workers.items():
        group[:] = [worker for worker in group if worker.alive]
        backend = "anthropic" if kind == "claude-worker" else "openai"
        for edge in fleet.edges:
            # So that a dead one, which is still on the list, is not taken for its successor.
            wait_until(lambda: fleet.replicas(edge, backend) == len(group), what="the dead ones gone", log=fleet.logs)  # noqa: B023
        for _ in range(2 - len(group)):
            fleet.add_worker(kind)
    fleet.wait_ready()
    return fleet


@pytest.mark.parametrize(("path", "backend"), PAIRS[::3])
async def test_a_worker_killed_before_the_first_event_is_not_noticed(
    wide: Cluster, standin: StandinProcess, path: str, backend: str
) -> None:
    model = f"{backend}/{script(deltas=10, first_event_delay_ms=1200)}"
    standin.reset()
    async with open_client() as client:
        streams = [asyncio.create_task(watch(client, wide.url + path, body_for(model))) for _ in range(8)]
        await asyncio.to_thread(standin.wait_for, lambda process: process.stats().active == 8)
        wide.workers[WORKER_OF[backend]][0].kill()
        answers = await asyncio.gather(*streams)
    assert [answer.complete for answer in answers] == [True] * 8
    # Some of the eight were on the killed replica, and were asked for again.
    assert standin.stats().requests > 8


@pytest.mark.parametrize(("path", "backend"), PAIRS[::3])
async def test_a_worker_killed_mid_stream_makes_the_official_sdk_raise(wide: Cluster, path: str, backend: str) -> None:
    model = f"{backend}/{script(deltas=200, delta_delay_ms=50)}"
    killed_at = 0.0

    def kill_workers() -> None:
        nonlocal killed_at
        if not killed_at:
            killed_at = time.monotonic()
            for worker in wide.workers[WORKER_OF[backend]]:
                worker.kill()

    with pytest.raises((anthropic.APIError, openai.APIError)) as raised:
        await asyncio.wait_for(_stream_with_sdk(wide.url, path, model, on_text=kill_workers), timeout=10)
    assert killed_at
    assert time.monotonic() - killed_at < 2.0
    assert "went away" in str(raised.value)


async def _stream_with_sdk(url: str, path: str, model: str, *, on_text: Callable[[], None]) -> None:
    if path == "/v1/messages":
        async with (
            anthropic.AsyncAnthropic(base_url=url, api_key="made-up", max_retries=0) as client,
            client.messages.stream(
                model=model, max_tokens=1000, messages=[{"role": "user", "content": "hello"}]
            ) as stream,
        ):
            async for _ in stream.text_stream:
                on_text()
        return
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="made-up", max_retries=0) as other:
        async for chunk in await other.chat.completions.create(
            model=model, stream=True, messages=[{"role": "user", "content": "hello"}]
        ):
            if chunk.choices and chunk.choices[0].delta.content:
                on_text()


async def test_a_rolling_restart_under_fifty_streams_shows_no_error(wide: Cluster) -> None:
    stop = asyncio.Event()
    async with open_client() as client:
        clients = [asyncio.create_task(_stream_until(client, wide, number, stop)) for number in range(50)]
        try:
            for kind, replicas in wide.workers.items():
                for old in list(replicas):
                    await asyncio.to_thread(_replace, wide, kind, old)
        finally:
            stop.set()
        answers = [answer for answers in await asyncio.gather(*clients) for answer in answers]
    assert len(answers) > 100
    assert [answer for answer in answers if not answer.complete] == []


async def _stream_until(client: object, wide: Cluster, number: int, stop: asyncio.Event) -> list[Seen]:
    path, backend = PAIRS[number % len(PAIRS)]
    edge = wide.edges[number % len(wide.edges)]
    model = f"{backend}/{script(deltas=20, delta_delay_ms=20 + number)}"
    answers: list[Seen] = []
    while not stop.is_set():
        answers.append(await watch(client, edge.url + path, body_for(model)))  # type: ignore[arg-type]
    return answers


def _replace(wide: Cluster, kind: str, old: ServiceProcess) -> None:
    """Drains one replica while its successor comes up, as a rolling update does."""
    new = wide.add_worker(kind)
    backend = "anthropic" if kind == "claude-worker" else "openai"
    for edge in wide.edges:
        wait_until(lambda edge=edge: wide.replicas(edge, backend) == 3, what="the new replica", log=new.output)  # type: ignore[misc]
    old.terminate()
    assert old.wait() == 0, old.output()


async def test_a_full_worker_passes_the_request_on_and_a_full_fleet_says_when_to_come_back(
    valkey: ValkeyProcess, config_for: Callable[..., Config]
) -> None:
    config = config_for(workers={"capacity": 2})
    with Cluster(config, redis_url=valkey.url, workers=2) as cluster:
        url = cluster.url + "/v1/chat/completions"
        body = body_for(f"openai/{script(deltas=200, delta_delay_ms=50)}")
        async with open_client() as client:
            firsts = [asyncio.Event() for _ in range(4)]
            streams = [asyncio.create_task(watch(client, url, body, first=first)) for first in firsts]
            await asyncio.wait_for(asyncio.gather(*(first.wait() for first in firsts)), timeout=10)
            refused = await client.post(url, json=body)
            for stream in streams:
                stream.cancel()
            await asyncio.wait(streams)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "busy" in refused.json()["error"]["message"]
