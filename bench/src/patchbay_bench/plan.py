"""How much is measured: the full run, and the quick one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The sizes of one run.

    Attributes:
        rounds: How often each figure is taken, in turn with all others; the report has the medians.
        seconds: How long new streams are started in one sample; a slow path just ends what it has begun.
        budget: Seconds after which no further round begins.
        prompt_sizes: Bytes; the slope of the cost is taken over them.
        flat_rounds: Rounds of the samples at 1, 64 and 1,000 open streams.
        flat_slow: Whether they are also taken with slow streams, 250 ms between deltas.
        held: Streams open while Patchbay's memory is read.
        peers_held: The same for a peer; 0: its memory under load is not read.
        claude_rounds: How often each request through a `claude` process is sent.
        claude_budget: Seconds that all of those may take, starts included: no round begins that would end later.
        codebuff_sockets: Idle WebSockets of Codebuff's while Patchbay's memory is read.
        codebuff_idle_seconds: How long they are idle.
        codebuff_rounds: How often a prompt of Codebuff's, and what it is compared with, is asked in turn.
        codebuff_crowd: Prompts at once, each in a socket of its own.
    """

    rounds: int
    seconds: float
    budget: float
    prompt_sizes: tuple[int, ...]
    flat_rounds: int
    flat_slow: bool
    held: int
    peers_held: int
    claude_rounds: int
    claude_budget: float
    codebuff_sockets: int
    codebuff_idle_seconds: float
    codebuff_rounds: int
    codebuff_crowd: int


FULL: Final = Plan(
    rounds=3,
    seconds=3.0,
    budget=840.0,
    prompt_sizes=(0, 100_000, 200_000, 400_000),
    flat_rounds=2,
    flat_slow=True,
    held=1000,
    peers_held=200,
    claude_rounds=8,
    claude_budget=105.0,
    codebuff_sockets=5000,
    codebuff_idle_seconds=40.0,
    codebuff_rounds=8,
    codebuff_crowd=500,
)
QUICK: Final = Plan(
    rounds=1,
    seconds=1.5,
    budget=150.0,
    prompt_sizes=(0, 200_000, 400_000),
    flat_rounds=1,
    flat_slow=False,
    held=1000,
    peers_held=0,
    claude_rounds=3,
    claude_budget=50.0,
    codebuff_sockets=1000,
    codebuff_idle_seconds=10.0,
    codebuff_rounds=3,
    codebuff_crowd=500,
)
