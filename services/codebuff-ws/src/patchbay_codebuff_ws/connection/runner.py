"""Runs a socket's prompts, each in a task of its own, from the frame that asks to the one frame that is its end."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from patchbay.dispatch.callers import Identity
from patchbay.errors import OVERLOADED, RATE_LIMITED, PatchbayError
from patchbay.state.admission import Lease
from patchbay.state.connection import RedisUnavailable
from patchbay_codebuff_ws.connection.memory import Memory
from patchbay_codebuff_ws.connection.outbox import Outbox
from patchbay_codebuff_ws.connection.parts import Parts
from patchbay_codebuff_ws.connection.project import Project
from patchbay_codebuff_ws.connection.prompt_client import Stop
from patchbay_codebuff_ws.connection.prompts import SHUTTING_DOWN, RunningClient, identify, run_to_end
from patchbay_codebuff_ws.ports import Prompt
from patchbay_proto.v1.codebuff_pb2 import ClientFrame, ConnectResponse, PromptBegun, PromptEnded

log = structlog.get_logger(__name__)

_MOST_PROMPTS = 50
_LONGEST_NAME = 200


class Ask(Protocol):
    """A prompt, as a frame asks it."""

    @property
    def prompt_id(self) -> str: ...

    @property
    def token(self) -> object:
        """The client's key."""

    def open(
        self, run: Run, *, kept: Project | None, identity: Identity, request_id: str
    ) -> tuple[Prompt, RunningClient]:
        """What it asks, and who is told of it. Raises InvalidRequest."""

    def refused(self, prompt_id: str, message: str) -> str:
        """The frame that ends it when it cannot be run."""

    def usage(self, used: int) -> str | None:
        """The frame that says what the caller has used this month, in credits; None: there is none."""


class Run:
    """One prompt that is under way.

    Attributes:
        prompt_id: What the client calls it; another one, once it goes on after its client's turn.
        has_ended: Whether it has, in whatever way.
        used: Its credits so far.
        total: Those that its caller has used this month, as far as that is known.
    """

    def __init__(self, runner: Runner, prompt_id: str) -> None:
        self._runner = runner
        self.prompt_id = prompt_id
        self.has_ended = False
        self.used = 0
        self.total = runner.used
        self.client: RunningClient | None = None
        self.stop: Stop | None = None

    def cancel(self, why: Stop = Stop.CANCELLED) -> None:
        self.stop = why
        if self.client is not None:
            self.client.cancel(why)

    def spend(self, amount: int) -> None:
        """Notes credits that were used."""
        self.used += amount
        self._runner.used += amount

    def suspend(self, text: str) -> None:
        """Gives the turn to the client with this frame: for the edge that is the prompt's end."""
        self._runner.suspend(self, text)


class Runner:
    """The prompts of one socket.

    Args:
        headers: Of the socket's upgrade.
        on_idle: Called whenever the last prompt has ended.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        headers: Mapping[str, str],
        outbox: Outbox,
        memory: Memory,
        on_idle: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._headers = headers
        self._outbox = outbox
        self._memory = memory
        self._on_idle = on_idle
        self._running: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.used = 0
        """Credits, of all prompts of the socket so far."""
        self.draining = False
        """Whether new prompts are for another replica."""

    @property
    def running(self) -> int:
        """How many prompts are under way, but for those that wait for their client's turn."""
        return len(self._running)

    @property
    def tasks(self) -> frozenset[asyncio.Task[None]]:
        """What ends with the socket."""
        return frozenset(self._tasks)

    def identify(self, token: object) -> Identity:
        """Who asks. Raises PatchbayError."""
        return identify(self._parts.callers, self._headers, token)

    async def usage(self, identity: Identity, *, more: int = 0) -> int:
        """The credits that a caller has used this month; those of this socket alone, if Redis cannot say.

        Args:
            more: Counted first.
        """
        try:
            counted = self._parts.usage
            return await (counted.add(identity.owner, more) if more else counted.total(identity.owner))
        except RedisUnavailable as error:
            log.warning("codebuff_usage_unknown", not_counted=more, error=str(error))
            return self.used

    def begin(self, ask: Ask, frame: ClientFrame) -> None:
        """Begins a prompt. Said twice, it is still one, with one end."""
        prompt_id = ask.prompt_id
        if prompt_id in self._running or not self._taken(prompt_id, frame):
            return
        if len(self._running) >= _MOST_PROMPTS:
            message = f"A connection may have {_MOST_PROMPTS} prompts under way at a time."
            self.end(prompt_id, ask.refused(prompt_id, message))
            return
        run = self._running[prompt_id] = Run(self, prompt_id)
        task = asyncio.create_task(self._run(ask, run, again=frame.again), name="codebuff-prompt")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def resume(self, run: Run, prompt_id: str, frame: ClientFrame) -> bool:
        """Has the turn again after `suspend`. False: another replica is to go on with it, or a prompt has that id."""
        if prompt_id in self._running:
            run.cancel(Stop.SHUTDOWN)
            return False
        if not self._taken(prompt_id, frame):
            return False
        run.prompt_id = prompt_id
        self._running[prompt_id] = run
        return True

    def suspend(self, run: Run, text: str) -> None:
        """See `Run.suspend`."""
        self._running.pop(run.prompt_id, None)
        self.end(run.prompt_id, text)
        self._idle_or_not()

    def cancel(self, prompt_id: str) -> None:
        """Has a prompt end soon; an unknown one does not matter."""
        if (run := self._running.get(prompt_id)) is not None:
            run.cancel()

    def break_off(self) -> None:
        """Ends all prompts with an error, now."""
        for run in tuple(self._running.values()):
            run.cancel(Stop.SHUTDOWN)

    def end(self, prompt_id: str, ending: str) -> None:
        """Says a prompt's end."""
        self._outbox.put_frame(ending, prompt_id=prompt_id, ends_prompt=True)
        self._outbox.put(ConnectResponse(prompt_ended=PromptEnded(prompt_id=prompt_id)))

    def _taken(self, prompt_id: str, frame: ClientFrame) -> bool:
        """Has the edge keep a prompt's frame. False: for another replica."""
        self._outbox.put(ConnectResponse(prompt_begun=PromptBegun(number=frame.number, prompt_id=prompt_id)))
        if self.draining:
            self._idle_or_not()
        return not self.draining

    def _idle_or_not(self) -> None:
        if not self._running:
            self._on_idle()

    async def _run(self, ask: Ask, run: Run, *, again: bool) -> None:
        request_id = f"req_{uuid.uuid4().hex}"
        started = time.monotonic()
        outcome = "gone"
        try:
            outcome, ending = await self._answer(ask, run, request_id, again=again)
            if self._running.get(run.prompt_id) is run:
                self.end(run.prompt_id, ending)
                self._say_usage(ask, run)
        finally:
            run.has_ended = True
            log.info(
                "prompt",
                request_id=request_id,
                prompt_id=run.prompt_id[:_LONGEST_NAME],
                outcome=outcome,
                seconds=round(time.monotonic() - started, 4),
            )
            if self._running.get(run.prompt_id) is run:
                del self._running[run.prompt_id]
                self._idle_or_not()

    async def _answer(self, ask: Ask, run: Run, request_id: str, *, again: bool) -> tuple[str, str]:
        """Runs a prompt: how it ended, in a word, and the frame that ends it."""
        load = self._parts.load
        try:
            identity = self.identify(ask.token)
            load.begin()
        except PatchbayError as error:
            return "refused", ask.refused(run.prompt_id, error.error.message)
        try:
            lease = await self._admit(identity, request_id, again=again)
            # Given back before the end is said: the next prompt may come at once.
            try:
                run.total = await self.usage(identity)
                self._say_usage(ask, run)
                return await self._run_admitted(ask, run, identity, request_id)
            finally:
                await lease.release()
        except PatchbayError as error:
            return "refused", ask.refused(run.prompt_id, error.error.message)
        except Exception:
            log.exception("prompt_crashed", request_id=request_id)
            message = f"The service failed; its log has the details under {request_id}."
            return "crashed", ask.refused(run.prompt_id, message)
        finally:
            load.end()

    async def _run_admitted(self, ask: Ask, run: Run, identity: Identity, request_id: str) -> tuple[str, str]:
        kept = await self._memory.project(identity)
        prompt, client = ask.open(run, kept=kept, identity=identity, request_id=request_id)
        if run.stop is Stop.SHUTDOWN:
            return "shutdown", ask.refused(run.prompt_id, SHUTTING_DOWN)
        run.client = client
        if run.stop is not None:
            client.cancel(run.stop)
        try:
            outcome, ending = await run_to_end(self._parts.loop, prompt, client)
        finally:
            # Also of a prompt whose socket is gone.
            if run.used:
                run.total = await self.usage(identity, more=run.used)
        if self._running.get(run.prompt_id) is run:
            client.before_end()
        return outcome, ending

    async def _admit(self, identity: Identity, request_id: str, *, again: bool) -> Lease:
        """Admits a prompt. One that another replica had begun waits until the place it held there is free."""
        key_id = identity.caller.key_id
        give_up_at = time.monotonic() + self._parts.settings.limits.lease_seconds
        while True:
            try:
                return await self._parts.admission.admit(request_id=request_id, key_id=key_id, limits=identity.limits)
            except PatchbayError as error:
                held_elsewhere = again and error.error.code in (RATE_LIMITED, OVERLOADED)
                if not held_elsewhere or time.monotonic() > give_up_at:
                    raise
                await asyncio.sleep(error.error.retry_after or 1.0)

    def _say_usage(self, ask: Ask, run: Run) -> None:
        if (text := ask.usage(run.total)) is not None:
            self._outbox.put_frame(text)
