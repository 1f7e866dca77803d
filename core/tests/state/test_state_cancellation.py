"""Cancelled at every point, an admission or a release leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from patchbay.errors import PatchbayError
from patchbay.state.admission import Admission, Limits
from patchbay.testing.eventually import eventually, hold

_PATIENT = 5.0
"""Seconds that Redis may take where it is never away: on a busy machine it waits for its turn as well."""


@pytest.fixture
def redis(valkey, connected):
    return connected(valkey.url, _PATIENT)


async def is_empty(admission: Admission) -> bool:
    return admission.held == 0 and await admission.gauges() == {"connections": 0}


class Steps:
    """Runs a coroutine one step of the loop at a time and cancels it after `count` of them.

    A step ends where the coroutine waits for something, so that every await point is met by some count.
    """

    def __init__(self, count: int) -> None:
        self.left = count
        self.cancelled = False

    async def run(self, work) -> bool:
        task = asyncio.ensure_future(work)
        while not task.done():
            if self.left == 0 and not self.cancelled:
                self.cancelled = True
                task.cancel()
            self.left -= 1
            await asyncio.sleep(0)
        if task.cancelled():
            return False
        task.result()
        return True


async def request(admission: Admission, work: float = 0.0) -> None:
    lease = await admission.admit(request_id="r", key_id="k")
    try:
        await hold(work)
    finally:
        await lease.release()


async def test_at_every_step(redis):
    limits = Limits(concurrent_requests=1, requests_per_minute=10_000)
    admission = Admission(redis, replica_id="edge-1", limits=limits, timeout=_PATIENT)
    await request(admission)
    steps = finished = 0
    # The last counts are past the end of the request: until then, each cancels it one step later.
    while finished < 20:
        finished += await Steps(steps).run(request(admission))
        await eventually(lambda: is_empty(admission))
        steps += 1
    assert steps > 25
    assert not admission.degraded
    await request(admission)


@pytest.mark.parametrize("seed", range(3))
async def test_a_crowd_cancelled_anywhere(redis, seed):
    """Concurrent requests share round trips: some are cancelled before, some in, some after the one they are in."""
    chance = random.Random(seed)
    limits = Limits(concurrent_requests=20, max_connections=30)
    admission = Admission(redis, replica_id="edge-1", limits=limits, timeout=_PATIENT)
    done = denied = cancelled = 0

    async def one() -> None:
        nonlocal done, denied, cancelled
        task = asyncio.ensure_future(request(admission, chance.choice([0, 0.001])))
        for _ in range(chance.randrange(3)):
            await hold(chance.choice([0, 0, 0.0003, 0.001, 0.003]))
            task.cancel()
        try:
            await task
            done += 1
        except PatchbayError:
            denied += 1
        except asyncio.CancelledError:
            cancelled += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(800):
            tasks.create_task(one())
            if chance.random() < 0.05:
                await hold(0.001)
    await eventually(lambda: is_empty(admission))
    assert min(done, denied, cancelled) > 20


async def test_cancelled_before_it_is_sent_is_never_charged(redis):
    admission = Admission(redis, replica_id="edge-1", limits=Limits(requests_per_minute=1), timeout=_PATIENT)
    task = asyncio.ensure_future(admission.admit(request_id="1", key_id="k"))
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    await (await admission.admit(request_id="2", key_id="k")).release()
    assert await is_empty(admission)


async def test_release_by_a_cancelled_task(redis):
    """A task that is cancelled again while it releases: the release goes on without it."""
    admission = Admission(redis, replica_id="edge-1", limits=Limits(), timeout=_PATIENT)
    started = asyncio.Event()

    async def work() -> None:
        lease = await admission.admit(request_id="1", key_id="k")
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            await lease.release()

    task = asyncio.ensure_future(work())
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: is_empty(admission))


async def test_cancelled_while_redis_is_paused(valkey, redis, background):
    """What the server was told before it was paused, it does when it goes on; nothing of it stays."""
    admission = Admission(redis, replica_id="edge-1", limits=Limits(max_connections=5), timeout=0.2)
    background(admission.run())
    await request(admission)
    valkey.pause()
    waiting = [asyncio.ensure_future(admission.admit(request_id=str(n), key_id="k")) for n in range(5)]
    # They are on their way to a server that stands still, where nothing can be seen of them.
    await hold(0.05)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert all(task.cancelled() for task in waiting)
    await eventually(lambda: admission.degraded)
    valkey.resume()
    await eventually(lambda: not admission.degraded)
    await eventually(lambda: is_empty(admission))
