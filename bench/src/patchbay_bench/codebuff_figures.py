"""What Codebuff's clients cost: idle sockets, and prompts beside the same chat over HTTP."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from patchbay_bench.jobs import JobResult

# The stand-in itself; a chat over HTTP through the edge; a prompt in a socket that is there; one in a new socket, as
# the SDK has one for each run; one prompt in each of many sockets at once.
Way: TypeAlias = Literal["direct", "chat", "prompt", "run", "crowd"]

ROLES: Final = ("edge", "codebuff-ws", "openai-worker", "valkey")


@dataclass(slots=True, kw_only=True)
class PromptFigure:
    """One way, all rounds together. Milliseconds from the request to the end of its answer.

    Attributes:
        completed: Requests with a whole and correct answer; only they have times.
        cpu_ms: CPU milliseconds per request by role, one value a round.
    """

    way: Way
    concurrency: int = 1
    completed: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    duration_ms: list[float] = field(default_factory=list)
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)

    @property
    def median_ms(self) -> float:
        """The median time to the end; of no use without a completed request."""
        return statistics.median(self.duration_ms)

    def cpu(self, role: str) -> float | None:
        """The median CPU milliseconds per request of a role; None: not measured."""
        return statistics.median(self.cpu_ms[role]) if self.cpu_ms.get(role) else None

    def add(self, result: JobResult, *, cpu_seconds: dict[str, float]) -> None:
        """Takes a round's requests."""
        self.completed += result.completed
        self.failed += result.failed
        self.failures += [failure for failure in result.failures if failure not in self.failures]
        self.duration_ms += [seconds * 1000 for seconds in result.duration]
        if result.completed:
            for role, seconds in cpu_seconds.items():
                self.cpu_ms.setdefault(role, []).append(seconds * 1000 / result.completed)


@dataclass(slots=True, kw_only=True)
class IdleSockets:
    """Sockets in which nothing happens but the client's pings.

    Attributes:
        wanted: As many as the plan wants; more than `sockets` when the system allows no more open files.
        sockets: How many were open.
        lost: How many of them were gone, or mute, in the end.
        seconds: How long they were held.
        ping_seconds: How often each client pings.
        rest: Resident bytes by role before.
        open: The same at the end.
        rest_cpu: CPU percent of a core by role before.
        open_cpu: The same while they were open.
    """

    wanted: int
    sockets: int
    lost: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float
    ping_seconds: float
    rest: dict[str, int]
    open: dict[str, int] = field(default_factory=dict)
    rest_cpu: dict[str, float]
    open_cpu: dict[str, float] = field(default_factory=dict)

    def kilobytes(self, role: str) -> float | None:
        """Resident kilobytes (1,024 bytes) per socket; None: not measured."""
        return (self.open[role] - self.rest[role]) / 1024 / self.sockets if self.sockets and self.open else None


@dataclass(slots=True)
class CodebuffResults:
    """Everything measured of Codebuff's clients."""

    idle: IdleSockets | None = None
    figures: list[PromptFigure] = field(default_factory=list)
    # The machine's load average of the last minute, after each round.
    loads: list[float] = field(default_factory=list)
    # Bytes of a prompt's frame, and of the request to the upstream that comes of it.
    prompt_bytes: int = 0
    chat_bytes: int = 0

    def find(self, way: Way) -> PromptFigure | None:
        """The figure, if it has an answer."""
        return next((one for one in self.figures if one.way == way and one.completed), None)

    def over_ms(self, way: Way, other: Way) -> float | None:
        """By how much the median of one way is longer than another's."""
        one, base = self.find(way), self.find(other)
        return None if one is None or base is None else one.median_ms - base.median_ms
