"""Runs of Codebuff's agents: what ran for whom, its steps and their cost, and word that a run is cancelled."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Literal, TypeAlias, cast

import msgspec
import structlog

from patchbay.state import keys, scripts
from patchbay.state.connection import Client, RedisUnavailable, deadline
from patchbay.state.notices import messages

log = structlog.get_logger(__name__)

Status: TypeAlias = Literal["completed", "failed", "cancelled"]

_RETRY_SECONDS = 0.5
_MAX_ERROR = 2000
# Of the tools that a step has called: a model may call any number, by any name.
_MAX_CALLS = 100
_MAX_NAME = 200


class RunStart(msgspec.Struct, frozen=True, kw_only=True):
    """How a run began. The nearest of its ancestors comes last."""

    agent_id: str
    owner: str
    ancestor_run_ids: tuple[str, ...]
    started_at: float


class RunCall(msgspec.Struct, frozen=True):
    """A tool that a step has called."""

    name: str
    failed: bool


class RunStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a run's model."""

    number: int
    ended_at: float
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    credits: int = 0
    child_run_ids: tuple[str, ...] = ()
    tool_calls: tuple[RunCall, ...] = ()
    error: str = ""


class RunChat(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of a model to a run whose client says nothing of tokens: part of the first step after `after`."""

    after: int
    model: str
    input_tokens: int
    output_tokens: int


class RunEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended; the total is with the credits of the agents that it started."""

    status: Status
    ended_at: float
    total_steps: int
    direct_credits: int
    total_credits: int
    error: str = ""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a run; `chats` are the answers of a step that has not been told of."""

    run_id: str
    start: RunStart
    steps: tuple[RunStep, ...]
    chats: tuple[RunChat, ...]
    end: RunEnd | None

    @property
    def last_step(self) -> int:
        """The number of the last step that was told of; 0: none."""
        return self.steps[-1].number if self.steps else 0

    @property
    def parent_run_id(self) -> str | None:
        """The run that started it; None: a prompt did."""
        return self.start.ancestor_run_ids[-1] if self.start.ancestor_run_ids else None

    def described(self) -> dict[str, Any]:
        """The run as the API shows it."""
        end = self.end
        parts: list[RunStep | RunChat] = [*self.steps, *self.chats]
        return {
            "id": self.run_id,
            "agent_id": self.start.agent_id,
            "parent_run_id": self.parent_run_id,
            "ancestor_run_ids": list(self.start.ancestor_run_ids),
            "status": "running" if end is None else end.status,
            "started_at": self.start.started_at,
            "ended_at": None if end is None else end.ended_at,
            "error": "" if end is None else end.error,
            "total_steps": len(self.steps) if end is None else end.total_steps,
            "input_tokens": sum(part.input_tokens for part in parts),
            "output_tokens": sum(part.output_tokens for part in parts),
            "direct_credits": sum(step.credits for step in self.steps) if end is None else end.direct_credits,
            "total_credits": None if end is None else end.total_credits,
            "steps": msgspec.to_builtins(self.steps),
        }


class CodebuffRuns:
    """Keeps runs. What cannot be kept is logged and left out: nothing that an agent does depends on it.

    Args:
        redis: The client, from `connect`.
        ttl_seconds: How long a run is kept after its last step.
        timeout: Seconds that Redis may take for one call.
    """

    def __init__(self, redis: Client, *, ttl_seconds: float, timeout: float = 0.5) -> None:
        self._redis = redis
        self._ttl_ms = max(1, round(ttl_seconds * 1000))
        self._timeout = timeout

    async def start(self, run_id: str, *, agent_id: str, ancestor_run_ids: Sequence[str], owner: str) -> None:
        """An agent begins; the nearest of its ancestors comes last.

        Args:
            owner: Whose it is (see `Identity.owner`).
        """
        start = RunStart(
            agent_id=agent_id,
            owner=owner,
            ancestor_run_ids=tuple(ancestor_run_ids),
            started_at=time.time(),
        )
        await self._set(run_id, "start", start)

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
        """A step of its model has ended. One that is told again replaces what was told before.

        Args:
            number: Counts from 1.
            input_tokens: With those read from a cache.
            cost: In credits; 0 where nobody says.
            tool_calls: Each tool's name, and whether it has failed; the first hundred are kept.
        """
        step = RunStep(
            number=number,
            ended_at=time.time(),
            model=model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            credits=cost,
            child_run_ids=tuple(child_run_ids),
            tool_calls=tuple(RunCall(name[:_MAX_NAME], failed) for name, failed in tool_calls[:_MAX_CALLS]),
            error=error[:_MAX_ERROR],
        )
        await self._set(run_id, f"step:{number}", step)

    async def chat(
        self, run_id: str, request_id: str, *, after: int, model: str, input_tokens: int, output_tokens: int
    ) -> None:
        """A model has answered a run whose client says nothing of tokens.

        Args:
            request_id: What makes the answer one of its own.
            after: The last step that was told of when the model was asked (see `Run.last_step`).
            input_tokens: With those read from a cache.
        """
        chat = RunChat(after=after, model=model, input_tokens=input_tokens, output_tokens=output_tokens)
        await self._set(run_id, f"chat:{request_id}", chat)

    async def finish(
        self, run_id: str, *, status: Status, total_steps: int, direct_credits: int, total_credits: int, error: str = ""
    ) -> None:
        """It has ended; the total is with the credits of the agents that it started."""
        end = RunEnd(
            status=status,
            ended_at=time.time(),
            total_steps=total_steps,
            direct_credits=direct_credits,
            total_credits=total_credits,
            error=error[:_MAX_ERROR],
        )
        await self._set(run_id, "end", end)

    async def is_first_to_count(self, run_id: str) -> bool:
        """Whether nobody has asked so before: a client may tell of a run's end more than once, and at once.

        Raises:
            RedisUnavailable: Nobody can say.
        """
        name = keys.codebuff_run(_digest("", run_id))
        arguments = (self._ttl_ms, uuid.uuid4().hex)
        return bool(
            await scripts.run(self._redis, scripts.CODEBUFF_RUN_COUNT, (name,), arguments, timeout=self._timeout)
        )

    async def find(self, run_id: str) -> Run | None:
        """A run; None: it is not known, or not any more.

        Raises:
            RedisUnavailable: Redis does not answer in time.
        """
        async with deadline(self._timeout):
            kept = await self._redis.execute_command("HGETALL", keys.codebuff_run(_digest("", run_id)))
        fields = _fields(kept)
        if "start" not in fields:
            return None
        told = [msgspec.json.decode(value, type=RunStep) for name, value in fields.items() if name.startswith("step:")]
        chats = [msgspec.json.decode(value, type=RunChat) for name, value in fields.items() if name.startswith("chat:")]
        steps = []
        for step in sorted(told, key=lambda step: step.number):
            steps.append(_with_chats(step, [chat for chat in chats if chat.after < step.number]))
            chats = [chat for chat in chats if chat.after >= step.number]
        return Run(
            run_id=run_id,
            start=msgspec.json.decode(fields["start"], type=RunStart),
            steps=tuple(steps),
            chats=tuple(chats),
            end=msgspec.json.decode(fields["end"], type=RunEnd) if "end" in fields else None,
        )

    async def cancel(self, owner: str, run_id: str) -> None:
        """Tells every replica that a run of this owner's is cancelled.

        Raises:
            RedisUnavailable: It is not told.
        """
        async with deadline(self._timeout):
            await self._redis.execute_command("PUBLISH", keys.CODEBUFF_CANCELLED, cancellation(owner, run_id))

    async def cancellations(self) -> AsyncGenerator[str, None]:
        """What `cancellation` names for each run that is cancelled, through outages of Redis."""
        heard = messages(self._redis, keys.CODEBUFF_CANCELLED, timeout=self._timeout, retry_seconds=_RETRY_SECONDS)
        async with aclosing(heard):
            async for message in heard:
                if message is not None:
                    yield message

    async def _set(self, run_id: str, field: str, value: msgspec.Struct) -> None:
        name = keys.codebuff_run(_digest("", run_id))
        arguments = (field, msgspec.json.encode(value), self._ttl_ms)
        try:
            await scripts.run(self._redis, scripts.CODEBUFF_RUN_SET, (name,), arguments, timeout=self._timeout)
        except RedisUnavailable as error:
            log.warning("codebuff_run_not_kept", run_id=run_id, field=field, error=str(error))


def cancellation(owner: str, run_id: str) -> str:
    """A name for a run of an owner's, as other replicas hear it."""
    return _digest(owner, run_id)


def _with_chats(step: RunStep, chats: Sequence[RunChat]) -> RunStep:
    if not chats:
        return step
    return msgspec.structs.replace(
        step,
        model=step.model or chats[0].model,
        input_tokens=step.input_tokens + sum(chat.input_tokens for chat in chats),
        output_tokens=step.output_tokens + sum(chat.output_tokens for chat in chats),
    )


def _digest(owner: str, name: str) -> str:
    return hashlib.sha256(f"{len(owner)}:{owner}{name}".encode(errors="surrogatepass")).hexdigest()[:32]


def _fields(kept: object) -> dict[str, bytes]:
    """A hash, whichever way the protocol's version gives it."""
    if isinstance(kept, dict):
        return {cast(bytes, name).decode(): value for name, value in kept.items()}
    flat = cast("list[bytes]", kept or [])
    return {flat[at].decode(): flat[at + 1] for at in range(0, len(flat), 2)}
