"""An event loop whose clock jumps to the next timer, so that tests of timing take no time and always give the same."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Deadlock(Exception):
    """Nothing is ready, no timer runs: every task would wait forever."""


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: the time that it should wait has passed when it returns."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Deadlock
        self.now += max(timeout, 0.0)
        return []


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs `work`, which does no I/O, to its end; the loop's clock starts at 0. Raises Deadlock."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(work)


def in_virtual_time(
    test: Callable[Parameters, Coroutine[Any, Any, Result]],
) -> Callable[Parameters, Result]:
    """Makes an asynchronous test, which does no I/O, one that `run` runs."""

    @functools.wraps(test)
    def runs(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return run(test(*args, **kwargs))

    return runs


async def pass_time(seconds: float) -> None:
    """Lets so much of the loop's clock pass, in no time. Raises RuntimeError where time is real."""
    if not isinstance(asyncio.get_running_loop(), _VirtualLoop):
        raise RuntimeError("time is real here: wait for a condition (patchbay.testing.eventually)")
    await asyncio.sleep(seconds)
