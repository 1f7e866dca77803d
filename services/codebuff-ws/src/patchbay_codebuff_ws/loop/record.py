"""The record of one agent's run, which is written beside what the agent does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from patchbay_codebuff_ws.loop.answer import Answer
from patchbay_codebuff_ws.loop.runs import Runs, Status
from patchbay_codebuff_ws.loop.state import AgentState


class Record:
    """Writes what happens into `runs`, under the id that the state has when it happens.

    Args:
        state: The agent's, of which the run's id, its ancestors and its credits are written.
        model: Whom the agent asks.

    Attributes:
        steps: How many there were so far, which may not have come to their end.
    """

    def __init__(self, runs: Runs, state: AgentState, model: str) -> None:
        self._runs = runs
        self._state = state
        self._model = model
        self.steps = 0
        # So many agents that this one has started are in earlier steps.
        self._children = len(state.child_run_ids)
        # Since the last step: each tool's name, and whether it has failed.
        self._calls: list[tuple[str, bool]] = []
        self._writes: list[asyncio.Task[None]] = []

    def start(self, agent_id: str, owner: str) -> None:
        """The agent begins, for this owner."""
        state = self._state
        self._write(
            self._runs.start(state.run_id, agent_id=agent_id, ancestor_run_ids=state.ancestor_run_ids, owner=owner)
        )

    def called(self, name: str, *, failed: bool) -> None:
        """A tool was called; it belongs to the step that ends next."""
        self._calls.append((name, failed))

    def step(self, answer: Answer, spent: int, error: str = "") -> None:
        """A step has ended, with this answer of the model. The agents that have ended since the last step are its
        children: also those that a program has started before it, and those beside it."""
        children = self._state.child_run_ids[self._children :]
        self._children += len(children)
        self._write(
            self._runs.step(
                self._state.run_id,
                number=self.steps,
                model=self._model,
                input_tokens=answer.input_tokens,
                output_tokens=answer.usage.output_tokens,
                cost=spent,
                child_run_ids=children,
                tool_calls=self._calls,
                error=error,
            )
        )
        self._calls = []

    def finish(self, status: Status, error: str) -> None:
        """The agent has ended."""
        self._write(
            self._runs.finish(
                self._state.run_id,
                status=status,
                total_steps=self.steps,
                direct_credits=self._state.direct_credits_used,
                total_credits=self._state.credits_used,
                error=error,
            )
        )

    async def written(self) -> None:
        """Waits until all of it is written, which goes on when the wait for it is cancelled."""
        await asyncio.shield(asyncio.gather(*self._writes))

    def _write(self, writing: Coroutine[Any, Any, None]) -> None:
        self._writes.append(asyncio.create_task(writing, name="codebuff-record"))
