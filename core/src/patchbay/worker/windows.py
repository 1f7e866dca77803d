"""Groups events into small time windows: one gRPC message each.

A gRPC message costs about 75 microseconds on each side, whatever its size, so a message per token would cost more than
all the rest. What somebody waits for (the first content, a tool call, a stop, an error) is never held back.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing

from patchbay.canonical import ChatEvent, ChatEvents

# What may wait for its window; everything else is sent at once, with all that came before it.
_PATIENT = frozenset(
    {
        "text_delta",
        "thinking_delta",
        "signature_delta",
        "tool_input_delta",
        "citation_delta",
        "native",
        "ping",
        "head",
        "warning",
        "started",
        "usage",
    }
)
_CONTENT = frozenset({"text_delta", "thinking_delta", "tool_input_delta", "native"})
_PROSE = frozenset({"text", "thinking", "refusal"})
# Upstream pieces (64 KiB each at most) that may wait for a slow edge before the upstream is no longer read.
_MAX_WAITING = 16
# The event loop itself keeps no task alive.
_filling: set[asyncio.Task[None]] = set()


class _Window:
    """What waits to be sent, between the task that reads the upstream and the one that writes to the edge."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._waiting: list[ChatEvent] = []
        self._pieces = 0
        self._sent_at = -math.inf
        self._has_content = False
        self._has_tools = False
        self._timer: asyncio.TimerHandle | None = None
        self._due = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._ended = False
        self._failure: BaseException | None = None

    async def fill(self, source: AsyncGenerator[list[ChatEvent], None]) -> None:
        try:
            # Closed here and not by the reader of the windows: gRPC may cancel a call more than once, and a second
            # cancellation would interrupt the reader's clean-up.
            async with aclosing(source):
                async for events in source:
                    if not events:
                        continue
                    self._put(events)
                    if not self._room.is_set():
                        await self._room.wait()
        except Exception as error:  # noqa: BLE001  raised again by the task that reads the windows
            self._failure = error
        finally:
            self._ended = True
            self._due.set()

    def _put(self, events: list[ChatEvent]) -> None:
        self._waiting += events
        self._pieces += 1
        if self._pieces >= _MAX_WAITING:
            self._room.clear()
            self._due.set()
        elif self._is_urgent(events):
            self._due.set()
        elif self._timer is None and not self._due.is_set():
            self._timer = self._loop.call_at(max(self._loop.time(), self._sent_at + self._seconds), self._due.set)

    def _is_urgent(self, events: list[ChatEvent]) -> bool:
        for event in events:
            kind = event.WhichOneof("event")
            if kind == "block_start" and event.block_start.WhichOneof("kind") not in _PROSE:
                self._has_tools = True
            elif kind == "block_start" or (kind == "block_stop" and not self._has_tools):
                # Prose begins with its first delta, and what follows its end is urgent itself.
                continue
            elif kind in _PATIENT and (self._has_content or kind not in _CONTENT or event.native.preamble):
                continue
            self._has_content = True
            return True
        return False

    async def take(self) -> ChatEvents | None:
        """The next window, or None after the last one."""
        while True:
            await self._due.wait()
            self._due.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._waiting:
                window = ChatEvents(events=self._waiting)
                self._waiting = []
                self._pieces = 0
                self._room.set()
                self._sent_at = self._loop.time()
                if self._ended:
                    self._due.set()
                return window
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


async def windows(source: AsyncGenerator[list[ChatEvent], None], seconds: float) -> AsyncGenerator[ChatEvents, None]:
    """The events of `source`, grouped into windows of at most `seconds`.

    At most a megabyte waits for a slow reader; then `source` is not read any more. Closing this closes `source`.
    """
    window = _Window(seconds)
    task = asyncio.create_task(window.fill(source), name="upstream")
    _filling.add(task)
    task.add_done_callback(_filling.discard)
    try:
        while (events := await window.take()) is not None:
            yield events
    finally:
        window.close()
        task.cancel()
        await asyncio.wait([task])
