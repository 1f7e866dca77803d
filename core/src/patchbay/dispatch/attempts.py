"""Retries and fallbacks, until the first meaningful event; after it never.

Another replica is asked when a worker is away or full, the same one again after a while if there is no other. The
upstream's own passing failure (overload, 5xx) is tried once more at the same backend if a short wait may help, then at
the next fallback; a timeout, which has taken its time already, and a used-up quota at the next fallback only.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from patchbay.canonical import ChatEvent, Error
from patchbay.dispatch.picking import Picker
from patchbay.dispatch.routing import Target
from patchbay.dispatch.transport import ChatCall, Connections, WorkerFailure
from patchbay.errors import QUOTA_EXCEEDED, TIMEOUT, UNAVAILABLE, UPSTREAM, PatchbayError, make_error
from patchbay.state.registry import WorkerRecord
from patchbay.telemetry import metrics
from patchbay_proto.v1.provider_pb2 import ChatRequest

# Seconds to wait before each further attempt when workers are away: together about what a restart takes.
_AWAY_WAITS = (0.0, 0.1, 0.4, 1.5)
_FULL_REPLICAS_PER_TARGET = 3
_UPSTREAM_TRIES_PER_TARGET = 2
# An upstream that asks for a longer wait than this is not waited for: the client is told instead.
_LONGEST_WAIT_SECONDS = 1.0
# The start of a text or a thought holds nothing yet: a provider may still say that it is overloaded.
_EMPTY_STARTS = frozenset({"text", "thinking", "refusal"})
_DECISIVE = frozenset(
    {
        "text_delta",
        "thinking_delta",
        "tool_input_delta",
        "signature_delta",
        "block_stop",
        "finished",
    }
)


class RetryBudget:
    """Keeps retries a small share of the traffic, so that they never feed an overload.

    Every request earns a fifth of a retry, up to twenty.
    """

    def __init__(self) -> None:
        self._left = 20.0

    def earn(self) -> None:
        self._left = min(20.0, self._left + 0.2)

    def spend(self) -> bool:
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class OpenAnswer:
    """An answer whose first meaningful event is there."""

    target: Target
    call: ChatCall
    # What came until then.
    first: list[ChatEvent]

    @property
    def is_native(self) -> bool:
        """Whether it is in the upstream's own bytes."""
        return any(event.HasField("native") for event in self.first)

    async def windows(self) -> AsyncGenerator[Sequence[ChatEvent], None]:
        """All events, the first ones included. A worker that goes away becomes an Error event."""
        yield self.first
        try:
            async for window in self.call:
                yield window.events
        except PatchbayError as error:
            yield [ChatEvent(error=error.error)]


@dataclass(slots=True)
class _Target:
    """How one target has fared so far."""

    target: Target
    conversation: str
    avoid: set[str] = field(default_factory=set)
    away: int = 0
    full: int = 0
    upstream_tries: int = 0


class Attempts:
    """Opens answers."""

    def __init__(self, picker: Picker, connections: Connections) -> None:
        self._picker = picker
        self._connections = connections
        self._budget = RetryBudget()

    async def open(
        self,
        targets: Sequence[Target],
        request_for: Callable[[Target, WorkerRecord], ChatRequest],
        *,
        is_committed: Callable[[], bool],
        conversation: str = "",
    ) -> OpenAnswer:
        """The first answer that begins well, in the order of `targets`.

        Args:
            request_for: Builds the request for a target on a worker.
            is_committed: Whether the client has seen a part of the answer, so that no other may be tried.
            conversation: The client's, for backends that keep one at one replica; see `Picker.pick`.

        Raises:
            PatchbayError: The last attempt's error.
        """
        self._budget.earn()
        failure = PatchbayError(make_error(UNAVAILABLE, "no backend to ask"))
        for target in targets:
            state = _Target(target, conversation)
            again = True
            while again:
                answer = await self._attempt(state, request_for)
                if isinstance(answer, OpenAnswer):
                    return answer
                failure = answer
                if is_committed() or not _may_do_elsewhere(failure.error):
                    raise failure
                again = await self._try_again(state, failure)
                if is_committed():
                    raise failure
        raise failure

    async def _attempt(
        self, state: _Target, request_for: Callable[[Target, WorkerRecord], ChatRequest]
    ) -> OpenAnswer | PatchbayError:
        target = state.target
        try:
            worker = await self._picker.pick(target.backend.name, avoid=state.avoid, conversation=state.conversation)
        except PatchbayError as error:
            return error
        request = request_for(target, worker)
        call = self._connections.get(worker.address).chat(request, timeout=target.backend.timeouts.total)
        opened = False
        try:
            first: list[ChatEvent] = []
            async for window in call:
                first += window.events
                verdict = judge(window.events)
                if isinstance(verdict, Error):
                    return UpstreamFailure(verdict, first)
                if verdict:
                    opened = True
                    return OpenAnswer(target, call, first)
            return PatchbayError(make_error(UPSTREAM, "the upstream's answer was empty"))
        except WorkerFailure as error:
            state.avoid.add(worker.id)
            if not error.full:
                self._picker.quarantine(worker)
            return error
        except PatchbayError as error:
            return error
        finally:
            if not opened:
                call.close()

    async def _try_again(self, state: _Target, failure: PatchbayError) -> bool:
        """Whether this target is worth another attempt; waits a little where that helps."""
        backend = state.target.backend.name
        error = failure.error
        if isinstance(failure, WorkerFailure):
            return await self._try_replica(state, full=failure.full)
        state.upstream_tries += 1
        if error.code == TIMEOUT or not error.retryable:
            return False
        wait = error.retry_after if error.HasField("retry_after") else random.uniform(0.05, 0.25)
        tried_out = state.upstream_tries >= _UPSTREAM_TRIES_PER_TARGET
        if tried_out or wait > _LONGEST_WAIT_SECONDS or not self._budget.spend():
            return False
        metrics.EDGE_RETRIES.labels(backend, "upstream").inc()
        await asyncio.sleep(wait)
        return True

    async def _try_replica(self, state: _Target, *, full: bool) -> bool:
        backend = state.target.backend.name
        if full:
            state.full += 1
            if state.full >= _FULL_REPLICAS_PER_TARGET or not self._picker.has_other(backend, state.avoid):
                return False
            metrics.EDGE_RETRIES.labels(backend, "worker_full").inc()
            return True
        if state.away >= len(_AWAY_WAITS):
            return False
        metrics.EDGE_RETRIES.labels(backend, "worker_away").inc()
        await asyncio.sleep(_AWAY_WAITS[state.away])
        state.away += 1
        return True


class UpstreamFailure(PatchbayError):
    """An error event before any content; `events` came with it (the upstream's headers)."""

    def __init__(self, error: Error, events: list[ChatEvent]) -> None:
        super().__init__(error)
        self.events = events


def _may_do_elsewhere(error: Error) -> bool:
    return error.retryable or error.code == QUOTA_EXCEEDED


def judge(events: Sequence[ChatEvent]) -> Error | bool:
    """An error, or whether something meaningful has come: from there on no other answer may take its place."""
    for event in events:
        kind = event.WhichOneof("event")
        if kind == "error":
            return event.error
        if kind == "started" and event.started.under_way:
            return True
        if kind in _DECISIVE or (kind == "native" and not event.native.preamble):
            return True
        if kind == "block_start" and event.block_start.WhichOneof("kind") not in _EMPTY_STARTS:
            return True
    return False
