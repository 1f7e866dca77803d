"""What is kept of agents' runs, to be looked at later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

Status: TypeAlias = Literal["completed", "failed", "cancelled"]


class Runs(Protocol):
    """Records runs. Nothing that an agent does depends on it: what cannot be recorded is logged and left out."""

    async def start(self, run_id: str, *, agent_id: str, ancestor_run_ids: Sequence[str], owner: str) -> None:
        """An agent begins; the nearest of its ancestors comes last."""

    async def step(
        self,
        run_id: str,
        *,
        number: int,
        model: str,
        input_tokens: int,
        output_tokens: int,
        cost: int,
        child_run_ids: Sequence[str],
        tool_calls: Sequence[tuple[str, bool]] = (),
        error: str = "",
    ) -> None:
        """A step of its model has ended.

        Args:
            number: Counts from 1.
            input_tokens: With those read from a cache.
            cost: In credits; 0 where nobody says.
            tool_calls: Each tool's name, and whether it has failed.
        """

    async def finish(
        self, run_id: str, *, status: Status, total_steps: int, direct_credits: int, total_credits: int, error: str = ""
    ) -> None:
        """It has ended; the total is with the credits of the agents that it started."""
