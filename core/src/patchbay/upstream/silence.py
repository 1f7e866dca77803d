"""A watch on how long nothing has happened."""

from __future__ import annotations

import asyncio
from typing import Self


class SilenceWatch:
    """Cancels its task when nothing was heard for too long, and turns that into TimeoutError.

    One timer a watch and one clock reading a sign of life: cheap enough for every read of a stream, where
    `asyncio.timeout` would set and clear a timer each time.

        watch = SilenceWatch(limit=30.0)
        with watch:
            async for data in stream:
                watch.heard()

    Args:
        limit: Seconds without a sign of life.
    """

    def __init__(self, limit: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._heard_at: float | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._timer: asyncio.TimerHandle | None = None
        self._expired = False

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task is not None else 0
        self.heard()
        self._timer = self._loop.call_later(self._limit, self._check)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Only our own cancellation becomes a timeout: another one that came as well must go on.
        ours = self._expired and self._task is not None and self._task.uncancel() <= self._cancelling
        if ours and isinstance(error, asyncio.CancelledError):
            raise TimeoutError(f"nothing heard for {self._limit:g} s") from error

    def heard(self) -> None:
        """Notes a sign of life, and ends a pause."""
        self._heard_at = self._loop.time()

    def pause(self) -> None:
        """Stops watching until something is heard: the silence is ours (back-pressure), not the upstream's."""
        self._heard_at = None

    def limit(self, seconds: float) -> None:
        """Changes how much silence is too much, from now on. A pause goes on."""
        self._limit = seconds
        if self._heard_at is not None:
            self.heard()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop.call_later(seconds, self._check)

    def _check(self) -> None:
        left = self._limit if self._heard_at is None else self._heard_at + self._limit - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
        elif self._task is not None:
            self._expired = True
            self._task.cancel()
