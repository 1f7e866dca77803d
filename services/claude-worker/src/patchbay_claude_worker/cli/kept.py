"""The processes that wait for the next turn of their conversation."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator

from patchbay_claude_worker.cli.process import CliProcess


class KeptProcesses:
    """One process to a conversation, in the order in which they began to wait."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, tuple[CliProcess, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[CliProcess]:
        return iter([process for process, _ in self._waiting.values()])

    def has(self, conversation: str) -> bool:
        """Whether a living process waits for this conversation."""
        kept = self._waiting.get(conversation)
        return kept is not None and kept[0].alive

    def put(self, conversation: str, process: CliProcess) -> None:
        """Lets a process wait from now on. One that waits for the same conversation has to be taken before."""
        self._waiting[conversation] = (process, time.monotonic())

    def take(self, conversation: str) -> CliProcess | None:
        """The conversation's process, which waits no longer; None: there is none."""
        kept = self._waiting.pop(conversation, None)
        return None if kept is None else kept[0]

    def take_oldest(self) -> CliProcess:
        """The process that has waited for longest. Raises KeyError when there is none."""
        return self._waiting.popitem(last=False)[1][0]

    def take_if(self, unfit: dict[CliProcess, str], *, idle_seconds: float) -> list[tuple[CliProcess, str]]:
        """Those that are unfit, with the reason given, and those that have waited for too long (`idle`)."""
        now = time.monotonic()
        taken = []
        for conversation, (process, since) in list(self._waiting.items()):
            reason = unfit.get(process, "idle" if now - since > idle_seconds else "")
            if reason:
                del self._waiting[conversation]
                taken.append((process, reason))
        return taken

    def clear(self) -> None:
        self._waiting.clear()
