"""Waiting in tests: for what happens by itself, for what must not happen, and for time that the scenario wants.

No test sleeps in the hope that something has happened by then. What runs on the loop's clock alone is better tested in
virtual time: see `patchbay.testing.virtual_time`.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

_POLL_SECONDS = 0.002
_POLL_BLOCKING_SECONDS = 0.02

Value = TypeVar("Value")


async def eventually(
    condition: Callable[[], Value | Awaitable[Value]], *, seconds: float = 5.0, what: str = "the condition"
) -> Value:
    """Polls until `condition` gives, or its awaitable gives, something true, which is returned.

    Raises:
        AssertionError: When it does not in time.
    """
    try:
        async with asyncio.timeout(seconds):
            while not (value := await _value(condition)):  # noqa: ASYNC110  what is waited for has no event to give
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError as error:
        raise AssertionError(f"not in {seconds:g} s: {what}") from error
    return value


async def stays(condition: Callable[[], object | Awaitable[object]], *, seconds: float) -> None:
    """Polls that `condition` holds all of the time.

    Raises:
        AssertionError: The moment it does not.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    while (passed := loop.time() - started) < seconds:
        assert await _value(condition), f"no longer so after {passed:.3f} s"
        await asyncio.sleep(_POLL_SECONDS)
    assert await _value(condition), f"no longer so after {seconds:g} s"


async def settled(probe: Callable[[], Value | Awaitable[Value]], *, quiet: float = 0.3, seconds: float = 20.0) -> Value:
    """Waits until what `probe` gives has not changed for `quiet` seconds, and returns it.

    Raises:
        AssertionError: When it still changes after `seconds`.
    """
    loop = asyncio.get_running_loop()
    started = since = loop.time()
    last = await _value(probe)
    while loop.time() - since < quiet:
        assert loop.time() - started < seconds, f"still changes after {seconds:g} s: {last!r}"
        await asyncio.sleep(_POLL_SECONDS)
        value = await _value(probe)
        if value != last:
            last, since = value, loop.time()
    return last


async def hold(seconds: float) -> None:
    """Lets time pass because the scenario says so: a slow peer, the length of a request, a moment drawn by chance."""
    await asyncio.sleep(seconds)


def block_loop(seconds: float) -> None:
    """Keeps the event loop from running anything, as a busy machine does, so that timers are late."""
    time.sleep(seconds)


def wait_until(
    condition: Callable[[], object], *, what: str, seconds: float = 30.0, log: Callable[[], str] | None = None
) -> None:
    """Polls, and blocks, until `condition` holds.

    Raises:
        AssertionError: When it does not in time, naming `what`, with the logs.
    """
    give_up_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not in {seconds:g} s: {what}\n{log() if log else ''}")
        time.sleep(_POLL_BLOCKING_SECONDS)


async def _value(probe: Callable[[], Value | Awaitable[Value]]) -> Value:
    found = probe()
    return await cast("Awaitable[Value]", found) if inspect.isawaitable(found) else found
