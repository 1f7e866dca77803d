"""Redis refuses, freezes, crawls, comes back empty: every request is answered in time, and nothing needs a restart."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Self

import pytest
from structlog.testing import capture_logs

from patchbay.errors import OVERLOADED, RATE_LIMITED, UNAVAILABLE, PatchbayError
from patchbay.state.admission import Admission, Limits
from patchbay.testing.eventually import eventually, hold, stays

TIMEOUT = 0.5


def make(redis, **options) -> Admission:
    return Admission(redis, replica_id="edge-1", **{"limits": Limits(), "timeout": TIMEOUT, **options})


async def outcome(admission: Admission, key_id: str = "k") -> int:
    """0 when admitted, else the code of the error."""
    try:
        await admission.admit(request_id="r", key_id=key_id)
    except PatchbayError as error:
        return error.error.code
    return 0


async def test_a_paused_redis_costs_one_timeout(valkey, redis):
    admission = make(redis)
    await outcome(admission)
    valkey.pause()
    started = time.monotonic()
    assert await asyncio.gather(*(outcome(admission) for _ in range(700))) == [0] * 700
    assert TIMEOUT <= time.monotonic() - started < 2 * TIMEOUT
    assert admission.degraded
    started = time.monotonic()
    for _ in range(1000):
        await outcome(admission)
    # Each on its own would cost a timeout.
    assert time.monotonic() - started < 5


async def test_requests_that_wait_behind_one_that_hangs_do_not_wait_anew(valkey, redis):
    admission = make(redis)
    await outcome(admission)
    valkey.pause()
    first = asyncio.ensure_future(outcome(admission))
    await hold(TIMEOUT / 2)
    started = time.monotonic()
    assert await outcome(admission) == 0
    assert time.monotonic() - started < TIMEOUT
    assert await first == 0


@pytest.mark.parametrize("how", ["pause", "kill"])
async def test_recovers_without_restart(valkey, redis, background, how):
    admission = make(redis, limits=Limits(max_connections=8))
    background(admission.run())
    before = [await admission.admit(request_id=str(n), key_id="k") for n in range(3)]
    with capture_logs() as logs:
        getattr(valkey, how)()
        during = [await admission.admit(request_id=str(n), key_id="k") for n in range(3)]
        await before.pop().release()
        assert [await outcome(admission, f"k{n}") for n in range(5)] == [0, 0, 0, OVERLOADED, OVERLOADED]
        await stays(lambda: admission.degraded, seconds=1.5)  # a probe fails meanwhile
        valkey.resume() if how == "pause" else valkey.start()
        await eventually(lambda: not admission.degraded)
    states = [entry["event"] for entry in logs if entry["log_level"] != "debug"]
    assert [event for event in states if event.startswith("redis")] == ["redis is away", "redis is back"]

    async def counts(expected: dict[str, int]) -> bool:
        return await admission.gauges() == expected

    everyone = {"connections": 8, "concurrency:k": 5, "concurrency:k0": 1, "concurrency:k1": 1, "concurrency:k2": 1}
    await eventually(lambda: counts(everyone))
    assert await outcome(admission) == OVERLOADED
    for lease in (*before, *during):
        await lease.release()
    assert (await admission.gauges())["connections"] == 3


async def test_deny_refuses_and_recovers(valkey, redis, background):
    admission = make(redis, on_redis_down="deny")
    background(admission.run())
    lease = await admission.admit(request_id="1", key_id="k")
    valkey.kill()
    started = time.monotonic()
    with pytest.raises(PatchbayError) as refused:
        await admission.admit(request_id="1", key_id="k")
    error = refused.value.error
    assert (error.code, error.http_status, error.retryable, error.retry_after) == (UNAVAILABLE, 503, True, 1)
    assert await outcome(admission) == UNAVAILABLE
    assert time.monotonic() - started < TIMEOUT
    await lease.release()
    valkey.start()
    await eventually(lambda: not admission.degraded)
    assert await outcome(admission) == 0


async def test_what_was_denied_in_an_outage_holds_no_place_after_it(valkey, redis, background):
    """The server may still run what it was sent before the timeout."""
    admission = make(redis, on_redis_down="deny")
    background(admission.run())
    lease = await admission.admit(request_id="1", key_id="k")
    valkey.pause()
    assert await outcome(admission) == UNAVAILABLE
    await lease.release()
    valkey.resume()
    await eventually(lambda: not admission.degraded)

    async def is_empty() -> bool:
        return await admission.gauges() == {"connections": 0}

    await eventually(is_empty)


async def test_alone_each_limit_is_this_replicas_share(valkey, redis):
    replicas = 4
    limits = Limits(requests_per_minute=40, concurrent_requests=100, max_connections=200)
    admission = make(redis, limits=limits, live_replicas=lambda: replicas)
    valkey.kill()
    assert [await outcome(admission, "rate") for _ in range(11)] == [0] * 10 + [RATE_LIMITED]
    own = Limits(concurrent_requests=9)
    held = [await admission.admit(request_id="r", key_id="own", limits=own) for _ in range(2)]
    with pytest.raises(PatchbayError, match="9 requests under way"):
        await admission.admit(request_id="r", key_id="own", limits=own)
    await held[0].release()
    held[0] = await admission.admit(request_id="r", key_id="own", limits=own)
    unlimited = Limits()
    for _ in range(50 - 12):
        await admission.admit(request_id="r", key_id="any", limits=unlimited)
    with pytest.raises(PatchbayError, match="at most 200 requests at a time"):
        await admission.admit(request_id="r", key_id="any", limits=unlimited)
    # More replicas: a smaller share at once. Fewer: not before they have been gone for a while.
    replicas = 1
    assert await outcome(admission, "rate") == RATE_LIMITED
    replicas = 1_000
    assert [await outcome(admission, "crowd") for _ in range(2)] == [OVERLOADED, OVERLOADED]


async def test_the_share_is_at_least_one(valkey, redis):
    limits = Limits(requests_per_minute=2, concurrent_requests=1, max_connections=1)
    admission = make(redis, limits=limits, live_replicas=lambda: 50)
    valkey.kill()
    lease = await admission.admit(request_id="r", key_id="k")
    await lease.release()
    with pytest.raises(PatchbayError) as refused:
        await admission.admit(request_id="r", key_id="k")
    assert 59 < refused.value.error.retry_after <= 60


async def test_a_restart_between_requests_is_not_an_outage(valkey, redis):
    admission = make(redis)
    with capture_logs() as logs:
        for _ in range(3):
            assert await outcome(admission) == 0
            valkey.restart()
    assert await outcome(admission) == 0
    assert not admission.degraded
    assert logs == []


async def test_a_redis_that_takes_no_writes_is_away(valkey, redis, background):
    admission = make(redis, on_redis_down="deny")
    background(admission.run())
    assert await outcome(admission) == 0
    await redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert await outcome(admission) == UNAVAILABLE
    # A probe that only asked for PONG would bring it back.
    await stays(lambda: admission.degraded, seconds=1.5)
    await redis.execute_command("REPLICAOF", "NO", "ONE")
    await eventually(lambda: not admission.degraded)
    assert await outcome(admission) == 0


async def test_a_full_redis_still_admits(redis):
    admission = make(redis, on_redis_down="deny")
    await redis.config_set("maxmemory", 1)
    lease = await admission.admit(request_id="r", key_id="k")
    assert await admission.gauges() == {"connections": 1, "concurrency:k": 1}
    await lease.release()
    assert await admission.gauges() == {"connections": 0}


class SlowProxy:
    """A TCP relay before the server which holds back every reply for `delay` seconds."""

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self._target = port
        self._relays: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for relay in self._relays:
            relay.cancel()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target)
        for source, target, slow in ((reader, upstream_writer, False), (upstream_reader, writer, True)):
            task = asyncio.ensure_future(self._pump(source, target, slow=slow))
            self._relays.add(task)
            task.add_done_callback(self._relays.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, slow: bool) -> None:
        try:
            # Either side may cut the connection.
            with suppress(ConnectionError):
                while data := await source.read(65536):
                    await hold(self.delay if slow else 0)
                    target.write(data)
                    await target.drain()
        finally:
            target.close()


async def test_latency(valkey, connected, background):
    async with SlowProxy(valkey.port) as proxy:
        client = connected(f"redis://127.0.0.1:{proxy.port}/0")
        admission = make(client, limits=Limits(max_connections=500))
        background(admission.run())
        await (await admission.admit(request_id="r", key_id="k")).release()
        proxy.delay = 0.05
        started = time.monotonic()
        leases = await asyncio.gather(*(admission.admit(request_id="r", key_id="k") for _ in range(200)))
        assert time.monotonic() - started < 200 * proxy.delay / 10
        assert not admission.degraded
        await asyncio.gather(*(lease.release() for lease in leases))
        proxy.delay = 2.0
        started = time.monotonic()
        assert await outcome(admission) == 0
        assert TIMEOUT <= time.monotonic() - started < 2 * TIMEOUT
        assert admission.degraded
        proxy.delay = 0.0
        await eventually(lambda: not admission.degraded)
