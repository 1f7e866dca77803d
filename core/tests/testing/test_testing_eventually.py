from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from patchbay.testing.eventually import eventually, settled, stays, wait_until
from patchbay.testing.virtual_time import in_virtual_time, pass_time


def from_time(seconds: float) -> Callable[[], bool]:
    """True from this time of the loop's clock on."""
    return lambda: asyncio.get_running_loop().time() >= seconds


async def answered(value: object) -> object:
    return value


@in_virtual_time
async def test_eventually_gives_what_came_true() -> None:
    values = iter([0, None, "", "here"])
    assert await eventually(lambda: next(values)) == "here"
    assert await eventually(lambda: answered(7)) == 7


@in_virtual_time
async def test_eventually_fails_where_it_does_not_come_true_in_time() -> None:
    await eventually(from_time(4))
    with pytest.raises(AssertionError, match="not in 5 s: the tenth second"):
        await eventually(from_time(10), what="the tenth second")
    with pytest.raises(AssertionError):
        await eventually(lambda: answered(0), seconds=1)
    with pytest.raises(AssertionError):
        await eventually(asyncio.Event().wait, seconds=1)


@in_virtual_time
async def test_stays_fails_at_the_moment_it_is_no_longer_so() -> None:
    broken = from_time(2)
    await stays(lambda: not broken(), seconds=1)
    with pytest.raises(AssertionError, match="no longer so"):
        await stays(lambda: not broken(), seconds=60)
    assert asyncio.get_running_loop().time() == pytest.approx(2, abs=0.01)
    with pytest.raises(AssertionError):
        await stays(lambda: answered(False), seconds=0)


@in_virtual_time
async def test_settled_gives_the_value_that_no_longer_changes() -> None:
    loop = asyncio.get_running_loop()
    assert await settled(lambda: min(int(loop.time() * 10), 50)) == 50
    assert loop.time() == pytest.approx(5.3, abs=0.05)
    with pytest.raises(AssertionError, match="still changes after 20 s"):
        await settled(loop.time)


def test_wait_until_fails_with_the_name_and_the_logs() -> None:
    with pytest.raises(AssertionError, match="not in 0 s: a miracle\nnothing happened"):
        wait_until(lambda: False, what="a miracle", seconds=0, log=lambda: "nothing happened")


async def test_virtual_time_passes_nowhere_else() -> None:
    with pytest.raises(RuntimeError, match="time is real"):
        await pass_time(1)
