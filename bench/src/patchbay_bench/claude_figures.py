"""What `claude` processes cost a request: the figures, and what they say beside the API's own path."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from patchbay_bench.claude_bodies import Body
from patchbay_bench.jobs import JobResult

# The API through Patchbay; a process that waits; the same while no other one starts in its place; one that is started
# for the request; one that knows the conversation.
Way: TypeAlias = Literal["direct", "spare", "alone", "cold", "agent"]

PLAIN: Final = Body()
WITH_TOOLS: Final = Body(tools=True)


@dataclass(slots=True, kw_only=True)
class ClaudeFigure:
    """One way with one body, all rounds together. Milliseconds from the request to what the client reads.

    Attributes:
        body: What was asked.
        history: How many messages were said before.
        completed: Requests with a whole and correct answer; only they have times.
        cpu_seconds: What the worker and its processes used for a request until all was ready for the next one, the
            start of a replacement included. One value a round.
    """

    way: Way
    body: str
    history: int = 0
    completed: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    first_byte_ms: list[float] = field(default_factory=list)
    first_content_ms: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        """The median time to first content; of no use without a completed request."""
        return statistics.median(self.first_content_ms)

    def add(self, result: JobResult, *, cpu_seconds: float) -> None:
        """Takes a round's requests."""
        self.completed += result.completed
        self.failed += result.failed
        self.failures += [failure for failure in result.failures if failure not in self.failures]
        self.first_byte_ms += [seconds * 1000 for seconds in result.first_byte]
        self.first_content_ms += [seconds * 1000 for seconds in result.first_content]
        if result.completed:
            self.cpu_seconds.append(cpu_seconds / result.completed)


@dataclass(frozen=True, slots=True)
class SpareMemory:
    """A process that waits for its chat, in megabytes: what it holds, and what of it no other process shares."""

    resident: float
    unshared: float


@dataclass(slots=True)
class ClaudeResults:
    """Everything measured of backends of kind `claude-cli`."""

    figures: list[ClaudeFigure] = field(default_factory=list)
    spare: SpareMemory | None = None
    # The machine's load average of the last minute, after each round.
    loads: list[float] = field(default_factory=list)

    def find(self, way: Way, body: str) -> ClaudeFigure | None:
        """The figure, if it has an answer."""
        return next((one for one in self.figures if (one.way, one.body) == (way, body) and one.completed), None)

    def overhead_ms(self, way: Way, body: str, *, over: str = "") -> float | None:
        """What a way adds to the direct way's median time to first content.

        Args:
            over: With which body the direct way was asked; empty: with the same.
        """
        figure, direct = self.find(way, body), self.find("direct", over or body)
        return None if figure is None or direct is None else figure.median_ms - direct.median_ms

    def growth_ms(self, way: Way) -> dict[int, float]:
        """By how much so many messages before make the first content come later, the tools being the same."""
        base = self.find(way, WITH_TOOLS.label)
        histories = [one for one in self.figures if one.way == way and one.history and one.completed]
        return {one.history: one.median_ms - base.median_ms for one in histories} if base is not None else {}
