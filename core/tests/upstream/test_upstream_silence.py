from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from patchbay.testing.eventually import block_loop
from patchbay.testing.virtual_time import in_virtual_time, pass_time
from patchbay.upstream.silence import SilenceWatch


async def sleep_forever() -> None:
    await asyncio.Event().wait()


@in_virtual_time
async def test_silence_becomes_a_timeout_error() -> None:
    with pytest.raises(TimeoutError, match=r"nothing heard for 0\.05 s"), SilenceWatch(0.05):
        await sleep_forever()
    assert asyncio.current_task().cancelling() == 0


@in_virtual_time
async def test_signs_of_life_keep_it_quiet_for_longer_than_the_limit() -> None:
    started = asyncio.get_running_loop().time()
    with SilenceWatch(10) as watch:
        for _ in range(8):
            await pass_time(9)
            watch.heard()
    assert asyncio.get_running_loop().time() - started == 8 * 9


@in_virtual_time
async def test_the_limit_counts_from_the_last_sign_of_life() -> None:
    loop = asyncio.get_running_loop()
    heard_at = 0.0

    async def work() -> None:
        nonlocal heard_at
        with SilenceWatch(10) as watch:
            await pass_time(7)
            watch.heard()
            heard_at = loop.time()
            await sleep_forever()

    with pytest.raises(TimeoutError):
        await work()
    assert loop.time() - heard_at == 10


@in_virtual_time
async def test_a_pause_is_no_silence_and_ends_with_the_next_sign_of_life() -> None:
    heard = False

    async def work() -> None:
        nonlocal heard
        with SilenceWatch(10) as watch:
            watch.pause()
            await pass_time(100)
            watch.heard()
            heard = True
            await sleep_forever()

    with pytest.raises(TimeoutError):
        await work()
    assert heard
    assert asyncio.get_running_loop().time() == 100 + 10


@in_virtual_time
async def test_changing_the_limit_does_not_end_a_pause() -> None:
    with SilenceWatch(5) as watch:
        watch.pause()
        watch.limit(3)
        await pass_time(100)
        watch.heard()
        await pass_time(2)
    assert asyncio.get_running_loop().time() == 100 + 2


@in_virtual_time
async def test_a_shorter_limit_holds_at_once() -> None:
    async def work() -> None:
        with SilenceWatch(30) as watch:
            watch.limit(5)
            await sleep_forever()

    with pytest.raises(TimeoutError):
        await work()
    assert asyncio.get_running_loop().time() == 5


@in_virtual_time
async def test_a_cancellation_from_outside_stays_one() -> None:
    async def work() -> None:
        with SilenceWatch(30):
            await sleep_forever()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@pytest.mark.parametrize("first", [0.02, 0.03])
async def test_a_cancellation_at_the_moment_of_expiry_is_not_swallowed(first: float) -> None:
    async def work() -> None:
        with SilenceWatch(0.025):
            await sleep_forever()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(first, task.cancel)
    # Both timers are late then and run in one step of the loop, in either order, before the task does.
    block_loop(0.06)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@in_virtual_time
async def test_it_works_in_the_cleanup_of_a_cancelled_task() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await sleep_forever()
        except asyncio.CancelledError:
            try:
                with SilenceWatch(0.02):
                    await sleep_forever()
            except TimeoutError:
                seen.append("timeout")
            raise

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["timeout"]


@pytest.mark.parametrize(("inner", "outer"), [(0.03, 5.0), (5.0, 0.03)])
@in_virtual_time
async def test_nested_with_asyncio_timeout_each_gets_its_own(inner: float, outer: float) -> None:
    seen: list[str] = []
    try:
        async with asyncio.timeout(outer):
            try:
                with SilenceWatch(inner):
                    await sleep_forever()
            except TimeoutError:
                seen.append("inner")
    except TimeoutError:
        seen.append("outer")
    assert seen == (["inner"] if inner < outer else ["outer"])
    assert asyncio.current_task().cancelling() == 0


@in_virtual_time
async def test_other_errors_of_the_block_come_out_as_they_are() -> None:
    with pytest.raises(ValueError, match="mine"), SilenceWatch(5):
        raise ValueError("mine")


@in_virtual_time
async def test_no_timer_outlives_the_block() -> None:
    watch = SilenceWatch(3600)
    with watch:
        watch.limit(3600)
        await asyncio.sleep(0)
    gone = weakref.ref(watch)
    del watch
    gc.collect()
    # A timer that still ran would keep the watch alive in the loop for an hour.
    assert gone() is None
