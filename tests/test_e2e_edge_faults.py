"""Edges that die and drain, clients that vanish or hardly read, and Redis that stops."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest
from conftest import Config
from streaming import PAIRS, body_for, open_client, script, watch

from patchbay.state.admission import Admission, Limits
from patchbay.state.connection import connect
from patchbay.testing.cluster import Cluster, ServiceProcess
from patchbay.testing.eventually import eventually, settled, wait_until
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin.testing import StandinProcess

CHAT = "/v1/chat/completions"

# For each timeout, all of a backend: that one is short.
TIMEOUTS = {
    "first-byte": {"connect": 5, "first_byte": 0.5, "idle": 30, "total": 60},
    "idle": {"connect": 5, "first_byte": 30, "idle": 0.5, "total": 60},
    "total": {"connect": 5, "first_byte": 30, "idle": 30, "total": 0.8},
}


@pytest.fixture(scope="module")
def hurried(shared_valkey: ValkeyProcess, config_for: Callable[..., Config]) -> Iterator[Cluster]:
    """A short drain, and backends such as `openai-idle`, whose timeout of that name is short."""
    config: Any = config_for(server={"drain_seconds": 0.5})
    for name in ("openai", "anthropic"):
        for timeout, seconds in TIMEOUTS.items():
            config["backends"][f"{name}-{timeout}"] = {**config["backends"][name], "kind": name, "timeout": seconds}
    with Cluster(config, redis_url=shared_valkey.url.removesuffix("0") + "2") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def chatty(shared_valkey: ValkeyProcess, config_for: Callable[..., Config]) -> Iterator[Cluster]:
    """Heads are held briefly, and pings come often."""
    config = config_for(server={"head_hold_seconds": 0.5, "keep_alive_ping_seconds": 0.3})
    with Cluster(config, redis_url=shared_valkey.url.removesuffix("0") + "3") as cluster:
        yield cluster


async def connections(url: str) -> int:
    """The connections that the whole cluster holds leases for."""
    # Patient: whoever counts runs in a process that may be busy with hundreds of clients.
    redis = connect(url, timeout=5)
    try:
        observer = Admission(redis, replica_id="observer", limits=Limits(), timeout=5)
        return (await observer.gauges())["connections"]
    finally:
        await redis.aclose()


async def until_released(url: str) -> None:
    async def is_released() -> bool:
        return await connections(url) == 0

    await eventually(is_released, what="every lease is given back")


async def test_a_killed_edges_slots_come_back_within_the_lease(
    valkey: ValkeyProcess, config_for: Callable[..., Config]
) -> None:
    config = config_for(
        security={"api_keys": [{"key": "team-key", "id": "team"}], "require_api_key": True},
        limits={"concurrent_requests": 3, "lease_seconds": 3},
    )
    slow = body_for(f"openai/{script(deltas=1000, delta_delay_ms=50)}")
    short = body_for("openai/standin-echo", stream=False)
    headers = {"x-api-key": "team-key"}
    with Cluster(config, redis_url=valkey.url, edges=2) as cluster:
        first, second = cluster.edges
        async with open_client() as client:
            begun = [asyncio.Event() for _ in range(3)]
            streams = [
                asyncio.create_task(watch(client, first.url + CHAT, slow, first=event, headers=headers))
                for event in begun
            ]
            await asyncio.wait_for(asyncio.gather(*(event.wait() for event in begun)), timeout=10)
            refused = await client.post(second.url + CHAT, json=short, headers=headers)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            assert int(refused.headers["retry-after"]) >= 1

            async def is_admitted() -> bool:
                return (await client.post(second.url + CHAT, json=short, headers=headers)).status_code == 200

            first.kill()
            await asyncio.wait(streams)
            assert await eventually(is_admitted, seconds=5, what="the slots come back")


async def test_requests_per_minute_are_exact_over_two_edges(
    valkey: ValkeyProcess, config_for: Callable[..., Config]
) -> None:
    config = config_for(limits={"requests_per_minute": 12})
    with Cluster(config, redis_url=valkey.url, edges=2) as cluster:
        async with open_client() as client:
            answers = await asyncio.gather(
                *(
                    client.post(cluster.edges[number % 2].url + CHAT, json=body_for("standin-echo", stream=False))
                    for number in range(30)
                )
            )
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) == 12
    assert statuses.count(429) == 18
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in answers if answer.status_code == 429)


async def test_connections_are_limited_over_the_whole_cluster(
    valkey: ValkeyProcess, config_for: Callable[..., Config]
) -> None:
    with Cluster(config_for(limits={"max_connections": 5}), redis_url=valkey.url, edges=2) as cluster:
        body = body_for(script(deltas=40, delta_delay_ms=50))
        async with open_client() as client:
            answers = await asyncio.gather(
                *(watch(client, cluster.edges[number % 2].url + CHAT, body) for number in range(12))
            )
        await until_released(valkey.url)
    assert sorted(answer.status for answer in answers) == [200] * 5 + [503] * 7
    assert all(answer.complete for answer in answers if answer.status == 200)


async def test_vanished_clients_stop_their_upstreams_and_free_every_slot(
    valkey: ValkeyProcess, config_for: Callable[..., Config], standin: StandinProcess
) -> None:
    with Cluster(config_for(), redis_url=valkey.url, edges=2, workers=2) as cluster:
        standin.reset()
        async with open_client() as client:
            begun = [asyncio.Event() for _ in range(100)]
            streams = []
            for number, event in enumerate(begun):
                path, backend = PAIRS[number % 4]
                model = f"{backend}/{script(deltas=2000, delta_delay_ms=50)}"
                url = cluster.edges[number % 2].url + path
                streams.append(asyncio.create_task(watch(client, url, body_for(model), first=event)))
            await asyncio.wait_for(asyncio.gather(*(event.wait() for event in begun)), timeout=20)
            assert await connections(valkey.url) == 100
            left_at = time.monotonic()
            for stream in streams:
                stream.cancel()
            await asyncio.wait(streams)
        await asyncio.to_thread(standin.wait_for, lambda process: process.stats().aborted == 100, seconds=5)
        assert time.monotonic() - left_at < 3.0
        await until_released(valkey.url)

        def told() -> int:
            return sum(edge.output().count('"complete": false') for edge in cluster.edges)

        # The slot is free a moment before its line is in the log.
        await asyncio.to_thread(wait_until, lambda: told() == 100, what="a line of each in the log", seconds=5)


async def test_a_client_that_leaves_a_silent_upstream_is_noticed_within_a_second(
    cluster: Cluster, standin: StandinProcess
) -> None:
    standin.reset()
    async with open_client() as client:
        stream = asyncio.create_task(watch(client, cluster.url + CHAT, body_for("openai/standin-silence-at-once")))
        await asyncio.to_thread(standin.wait_for, lambda process: process.stats().active == 1)
        left_at = time.monotonic()
        stream.cancel()
        await asyncio.wait([stream])
        await asyncio.to_thread(standin.wait_for, lambda process: process.stats().aborted == 1)
    assert time.monotonic() - left_at < 1.0


async def test_sigterm_lets_fifty_streams_end_and_takes_no_new_ones(
    valkey: ValkeyProcess, config_for: Callable[..., Config]
) -> None:
    with Cluster(config_for(), redis_url=valkey.url) as cluster:
        edge = cluster.edges[0]
        async with open_client() as client:
            begun = [asyncio.Event() for _ in range(50)]
            streams = []
            for number, event in enumerate(begun):
                path, backend = PAIRS[number % 4]
                body = body_for(f"{backend}/{script(deltas=40, delta_delay_ms=50)}")
                streams.append(asyncio.create_task(watch(client, edge.url + path, body, first=event)))
            await asyncio.wait_for(asyncio.gather(*(event.wait() for event in begun)), timeout=20)
            edge.terminate()
            await asyncio.to_thread(wait_until, lambda: _refuses(edge), what="a refusal", seconds=5)
            answers = await asyncio.gather(*streams)
        assert await asyncio.to_thread(edge.wait) == 0
    assert [answer.complete for answer in answers] == [True] * 50


def _refuses(edge: ServiceProcess) -> bool:
    try:
        return httpx.get(edge.url + "/ready", timeout=2).status_code == 503
    except httpx.ConnectError:
        return True


@pytest.mark.parametrize(("path", "backend"), PAIRS[1:3])
async def test_a_stream_longer_than_the_drain_ends_with_an_error_of_its_dialect(
    hurried: Cluster, path: str, backend: str
) -> None:
    edge = hurried.add_edge()
    await asyncio.to_thread(hurried.wait_ready)
    async with open_client() as client:
        begun = asyncio.Event()
        body = body_for(f"{backend}/{script(deltas=1000, delta_delay_ms=50)}")
        stream = asyncio.create_task(watch(client, edge.url + path, body, first=begun))
        await asyncio.wait_for(begun.wait(), timeout=10)
        edge.terminate()
        answer = await stream
    assert await asyncio.to_thread(edge.wait) == 0
    assert answer.error is not None
    assert "shut down" in str(answer.error["message"])


@pytest.mark.parametrize("policy", ["allow", "deny"])
async def test_a_paused_redis_stops_no_stream_and_needs_no_restart(
    valkey: ValkeyProcess, config_for: Callable[..., Config], policy: str
) -> None:
    config = config_for(limits={"on_redis_down": policy}, redis={"timeout_seconds": 0.5})
    with Cluster(config, redis_url=valkey.url) as cluster:
        url = cluster.url + CHAT
        short = body_for("openai/standin-echo", stream=False)
        async with open_client() as client:
            begun = asyncio.Event()
            running = asyncio.create_task(
                watch(client, url, body_for(script(deltas=60, delta_delay_ms=50)), first=begun)
            )
            await asyncio.wait_for(begun.wait(), timeout=10)
            valkey.pause()
            try:
                await client.post(url, json=short)  # learns of it, at the price of one timeout
                asked_at = time.monotonic()
                during = await client.post(url, json=short)
                assert time.monotonic() - asked_at < 0.4
                assert (await client.get(cluster.url + "/health")).status_code == 200
                ready = await client.get(cluster.url + "/ready")
                assert (ready.status_code, ready.json()["redis"]) == (200, "away")
                assert not running.done(), "the stream outlives the first requests without Redis"
                assert (await running).complete
            finally:
                valkey.resume()
            assert during.status_code == (200 if policy == "allow" else 503)
            await asyncio.to_thread(
                wait_until, lambda: cluster.ready(cluster.edges[0]).get("redis") == "ok", what="Redis seen again"
            )
            assert (await client.post(url, json=short)).status_code == 200
        await until_released(valkey.url)


async def test_interleaved_sessions_never_see_each_other(
    valkey: ValkeyProcess, config_for: Callable[..., Config]
) -> None:
    with Cluster(config_for(), redis_url=valkey.url, edges=2, workers=2) as cluster:
        # What a cancelled request does to its client's pool is not what this is about.
        async with open_client() as client, open_client() as leaving:

            async def session(number: int) -> None:
                path, backend = PAIRS[number % 4]
                for turn in range(3):
                    marker = f"marker-{number}-{turn}-{number * 7919 % 104729}"
                    model = f"{backend}/{script(echo=True, text='the marker is', delta_delay_ms=number * 13 % 40)}"
                    body = body_for(model, marker, stream=(number + turn) % 3 != 0)
                    url = cluster.edges[(number + turn) % 2].url + path
                    if number % 10 == 9 and turn == 1:
                        begun = asyncio.Event()
                        leaver = asyncio.create_task(watch(leaving, url, {**body, "stream": True}, first=begun))
                        await begun.wait()
                        leaver.cancel()
                        await asyncio.wait([leaver])
                        continue
                    text = await _text_of(client, url, body)
                    assert marker in text
                    assert text.count("marker-") == 1, text

            await asyncio.gather(*(session(number) for number in range(200)))


async def _text_of(client: httpx.AsyncClient, url: str, body: dict[str, object]) -> str:
    if body["stream"]:
        seen = await watch(client, url, body)
        assert seen.complete, seen
        return seen.text
    answer = await client.post(url, json=body)
    assert answer.status_code == 200, answer.text
    parsed: Any = answer.json()
    if "content" in parsed:
        return "".join(block["text"] for block in parsed["content"])
    return str(parsed["choices"][0]["message"]["content"])


async def test_a_slow_reader_slows_the_upstream_and_costs_no_memory(
    valkey: ValkeyProcess, config_for: Callable[..., Config], standin: StandinProcess
) -> None:
    with Cluster(config_for(), redis_url=valkey.url) as cluster:
        edge, worker = cluster.edges[0], cluster.workers["openai-worker"][0]
        processes = [psutil.Process(edge.pid), psutil.Process(worker.pid)]
        for path, backend in PAIRS[1:3]:
            standin.reset()
            before = [process.memory_info().rss for process in processes]
            with socket.create_connection(("127.0.0.1", edge.port)) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                request = httpx.Request(
                    "POST", edge.url + path, json=body_for(f"{backend}/{script(huge=50)}"), headers={"x-api-key": "k"}
                )
                head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
                connection.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + request.content)
                connection.recv(1024)
                await asyncio.to_thread(standin.wait_for, lambda process: process.stats().paused > 0, seconds=20)
                await settled(lambda: asyncio.to_thread(_deltas_of_the_last, standin), quiet=0.5)
                grown = [process.memory_info().rss - rss for process, rss in zip(processes, before, strict=True)]
            assert standin.stats().completed == 0
            assert max(grown) < 24 * 1024 * 1024, (path, backend, grown)
            await asyncio.to_thread(standin.wait_for, lambda process: process.stats().aborted == 1)


def _deltas_of_the_last(standin: StandinProcess) -> int:
    return standin.requests()[-1].deltas


@pytest.mark.parametrize(("path", "backend"), PAIRS[1:3])
async def test_a_long_silence_is_filled_with_pings_and_then_answered(chatty: Cluster, path: str, backend: str) -> None:
    async with open_client() as client:
        body = body_for(f"{backend}/{script(deltas=3, first_byte_delay_ms=1600)}")
        answer = await watch(client, chatty.url + path, body)
    assert answer.complete
    # At 0.5 s and then each 0.3 s: four, and fewer on a busy machine.
    assert answer.pings >= 3


@pytest.mark.parametrize(("path", "backend"), PAIRS[1:3])
@pytest.mark.parametrize(
    ("timeout", "scenario"),
    [
        ("first-byte", {"first_byte_delay_ms": 60_000}),
        ("idle", {"first_event_delay_ms": 60_000}),
        ("total", {"deltas": 1000, "first_event_delay_ms": 60_000}),
    ],
)
async def test_each_timeout_is_a_clear_error_and_ends_the_upstreams_work(
    hurried: Cluster, standin: StandinProcess, *, path: str, backend: str, timeout: str, scenario: dict[str, int]
) -> None:
    standin.reset()
    async with open_client() as client:
        asked_at = time.monotonic()
        answer = await watch(client, hurried.url + path, body_for(f"{backend}-{timeout}/{script(**scenario)}"))
        took = time.monotonic() - asked_at
    assert answer.status == 504
    # Two attempts at most, each no longer than the timeout; every other timeout is much longer.
    assert took < 5
    await asyncio.to_thread(standin.wait_for, lambda process: process.stats().active == 0)
