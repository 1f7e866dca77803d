"""Timers that many streams share.

A stream paced at 5 ms needs 200 timers a second. Here they are rounded up to whole milliseconds and share one event
loop timer per millisecond, so that sixty streams wake in a few groups instead of one by one.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from typing import Final

RESOLUTION_SECONDS: Final = 0.001


class TimerWheel:
    """Wakes futures at their time, on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, list[asyncio.Future[None]]] = {}
        self._ticks: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_tick = 0

    def wake_at(self, when: float, waiter: asyncio.Future[None]) -> None:
        """Sets `waiter`'s result at the loop's time `when` (seconds), up to a millisecond late."""
        tick = math.ceil(when / RESOLUTION_SECONDS)
        slot = self._slots.get(tick)
        if slot is not None:
            slot.append(waiter)
            return
        self._slots[tick] = [waiter]
        heapq.heappush(self._ticks, tick)
        if self._timer is None or tick < self._timer_tick:
            self._arm(tick)

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_tick = tick
        self._timer = self._loop.call_at(tick * RESOLUTION_SECONDS, self._fire)

    def _fire(self) -> None:
        self._timer = None
        # Half a tick of tolerance: the loop's own clock is in whole milliseconds.
        now = self._loop.time() + RESOLUTION_SECONDS / 2
        while self._ticks and self._ticks[0] * RESOLUTION_SECONDS <= now:
            for waiter in self._slots.pop(heapq.heappop(self._ticks)):
                if not waiter.done():
                    waiter.set_result(None)
        if self._ticks:
            self._arm(self._ticks[0])
