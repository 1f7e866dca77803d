"""Programmatic agents: what runs a `handleSteps` generator, and what such a generator may ask for.

The loop starts a program once for each run of an agent and resumes it until it ends; a JavaScript engine does the rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from patchbay_codebuff_ws.ports import JsonObject


class StepsError(Exception):
    """A program cannot be started, threw, yielded what nothing means, or used up its time or memory."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the model."""


@dataclass(frozen=True, slots=True)
class StepAll:
    """Steps of the model until its turn ends."""


@dataclass(frozen=True, slots=True)
class StepText:
    """A text taken for the model's answer of one step."""

    text: str


@dataclass(frozen=True, slots=True)
class Generate:
    """So many answers of the model, side by side."""

    n: int


@dataclass(frozen=True, slots=True)
class CallTool:
    """A tool to run now. `shown`: the call is written into the conversation, as if the model had made it."""

    name: str
    input: JsonObject
    shown: bool = True


@dataclass(frozen=True, slots=True)
class Ended:
    """The program returned: the agent's turn is over."""


Yield: TypeAlias = Step | StepAll | StepText | Generate | CallTool | Ended


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What a program has logged, for whoever wrote it.

    Attributes:
        data: Any JSON.
        message: What a `logger` was told beside it.
    """

    level: Literal["debug", "info", "warn", "error"]
    data: object = None
    message: str | None = None


Log: TypeAlias = Callable[[LogEntry], Awaitable[None]]


class Program(Protocol):
    """One running generator."""

    async def advance(self, result: JsonObject | None) -> Yield:
        """Resumes it until it yields again.

        Args:
            result: What its `yield` gives: `agentState`, `toolResult` (parts), `stepsComplete`, and `nResponses` after
                `Generate`; None the first time. Messages in it are those of the conversation: nothing may change them.

        Raises:
            StepsError: It failed and cannot go on.
        """

    async def aclose(self) -> None:
        """Frees what it holds. May be called twice."""


class Steps(Protocol):
    """Starts programs."""

    async def start(self, source: str, state: JsonObject, *, log: Log) -> Program:
        """Makes ready to run a generator, of its source text; the first `advance` begins it.

        Args:
            source: `function* (...) {...}`.
            state: Its argument: `agentState`, `prompt`, `params`; it gets a `logger` beside them.
            log: Told what it logs, before `advance` returns.

        Raises:
            StepsError: It is no generator function, or there is no room for another program.
        """


def read_yield(value: object) -> Yield:
    """Reads what a generator yielded, as JSON.

    Raises:
        StepsError: It is nothing that a program may yield.
    """
    if value == "STEP":
        return Step()
    if value == "STEP_ALL":
        return StepAll()
    if isinstance(value, Mapping):
        if value.get("type") == "STEP_TEXT" and isinstance(value.get("text"), str):
            return StepText(value["text"])
        n = value.get("n")
        if value.get("type") == "GENERATE_N" and isinstance(n, int | float) and 1 <= n <= 100:
            return Generate(int(n))
        name, given = value.get("toolName"), value.get("input", {})
        if isinstance(name, str) and isinstance(given, Mapping):
            return CallTool(name, dict(given), value.get("includeToolCall") is not False)
    raise StepsError(f"handleSteps yielded what is neither a step nor a tool call: {str(value)[:200]}")
