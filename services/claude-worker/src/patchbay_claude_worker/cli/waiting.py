"""The chats that wait for a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from patchbay_claude_worker.cli.process import CliProcess
from patchbay_claude_worker.cli.program import Command

CommandFor = Callable[[Path], Command]
"""Gives the command of a process, knowing its home."""


class Waiter:
    """A chat that waits: for any spare, or for a process that is started for it alone."""

    def __init__(self, command_for: CommandFor | None) -> None:
        self.future: asyncio.Future[CliProcess] = asyncio.get_running_loop().create_future()
        self.command_for = command_for
        # Its own process is being started.
        self.is_served = False

    @property
    def takes_any(self) -> bool:
        return self.command_for is None


class WaitingChats(list[Waiter]):
    """Those that wait, in the order in which they came."""

    @property
    def for_any(self) -> int:
        """How many of them wait for any spare."""
        return sum(waiter.takes_any for waiter in self)

    def first_for_any(self) -> Waiter | None:
        return next((waiter for waiter in self if waiter.takes_any), None)

    def refuse(self, error: Exception) -> None:
        """Refuses all of them."""
        for waiter in self:
            waiter.future.set_exception(error)
        self.clear()
