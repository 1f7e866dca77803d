"""Puts the blocks of an answer in a row, for writers of dialects whose blocks may not overlap.

Canonical blocks may interleave, as OpenAI's parallel tool calls do. Here the events of one block come together: start,
deltas, stop; then those of the next. Events of a block whose turn has not come wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from patchbay.canonical import BlockStart, BlockStop, ChatEvent

_DELTAS = frozenset({"text_delta", "thinking_delta", "signature_delta", "tool_input_delta", "citation_delta"})

# Kinds that say something by their mere start; the others begin with their first content.
_WHOLE = frozenset({"tool_use", "redacted_thinking", "opaque"})

# The deltas that each kind of block may hold.
_DELTAS_OF = {
    "text": frozenset({"text_delta", "citation_delta"}),
    "refusal": frozenset({"text_delta"}),
    "thinking": frozenset({"thinking_delta", "signature_delta"}),
    "tool_use": frozenset({"tool_input_delta"}),
    "opaque": frozenset({"tool_input_delta"}),
    "redacted_thinking": frozenset[str](),
}

# The kind of block that a delta opens when its own was never started.
_KIND_OF_DELTA = {
    "text_delta": "text",
    "citation_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "thinking",
}


class Step(NamedTuple):
    """One event of the block at `position`, counted from 0 in the order the blocks are written."""

    position: int
    event: ChatEvent


@dataclass(slots=True, order=True)
class _Block:
    # Its place in the order of the starts.
    rank: int
    index: int = field(compare=False)
    kind: str = field(compare=False)
    start: ChatEvent = field(compare=False)
    waiting: list[ChatEvent] = field(default_factory=list, compare=False)
    stopped: bool = field(default=False, compare=False)


class Sequencer:
    """Orders the block events of one answer.

    - A block is started, filled and stopped before the next one starts; positions count up from 0.
    - A delta that says nothing is left out, and so is a block of text or thinking that holds nothing.
    - A delta for a block of another kind, or for none, opens a block of its own kind: nothing is lost.

    Args:
        accept: Whether a block is to be written at all.
    """

    def __init__(self, accept: Callable[[BlockStart], bool] = lambda start: start.choice == 0) -> None:
        self._accept = accept
        # A heap of the blocks that have content and whose turn has not come; the first that was started comes first. A
        # block that says nothing yet is not among them, and so holds up no other.
        self._ready: list[_Block] = []
        self._starts = 0
        # The block that is being written.
        self._open: _Block | None = None
        self._position = -1
        # The blocks that deltas may name; None: one that is not to be written.
        self._named: dict[int, _Block | None] = {}

    def push(self, event: ChatEvent) -> list[Step]:
        """The steps that an event makes possible; events that are not of a block make none."""
        which = event.WhichOneof("event") or ""
        if which in _DELTAS:
            return self._delta(event, which)
        if which == "block_start":
            return self._start(event)
        if which == "block_stop":
            return self._stop(event.block_stop.index)
        return []

    def finish(self) -> list[Step]:
        """The steps that remain; blocks left open are stopped."""
        for block in self._named.values():
            if block is not None:
                block.stopped = True
        self._named.clear()
        return self._advance()

    def _start(self, event: ChatEvent) -> list[Step]:
        start = event.block_start
        # An index that is used again means a new block: the old one is complete.
        steps = self._stop(start.index)
        if not self._accept(start):
            self._named[start.index] = None
            return steps
        self._starts += 1
        block = _Block(self._starts, start.index, start.WhichOneof("kind") or "text", event)
        self._named[start.index] = block
        if block.kind not in _WHOLE:
            return steps
        heappush(self._ready, block)
        return steps + self._advance()

    def _stop(self, index: int) -> list[Step]:
        block = self._named.pop(index, None)
        if block is None:
            return []
        block.stopped = True
        return self._advance()

    def _delta(self, event: ChatEvent, which: str) -> list[Step]:
        delta = getattr(event, which)
        index: int = delta.index
        block = self._named.get(index)
        if _is_empty(which, delta) or (block is None and index in self._named):
            return []
        if block is None or which not in _DELTAS_OF[block.kind]:
            kind = _KIND_OF_DELTA.get(which)
            if kind is None:
                return []
            return self._start(_start_of(kind, index)) + self._delta(event, which)
        if block is self._open:
            return [Step(self._position, event)]
        if not block.waiting and block.kind not in _WHOLE:
            heappush(self._ready, block)
        block.waiting.append(event)
        return self._advance()

    def _advance(self) -> list[Step]:
        """Writes what may be written: the open block's end, and the blocks whose turn has come."""
        steps: list[Step] = []
        while True:
            if self._open is not None:
                if not self._open.stopped:
                    return steps
                steps.append(Step(self._position, ChatEvent(block_stop=BlockStop(index=self._open.index))))
                self._open = None
            if not self._ready:
                return steps
            block = self._open = heappop(self._ready)
            self._position += 1
            steps.append(Step(self._position, block.start))
            steps.extend(Step(self._position, event) for event in block.waiting)
            block.waiting.clear()


def _is_empty(which: str, delta: object) -> bool:
    if which == "citation_delta":
        return False
    if which == "signature_delta":
        return not getattr(delta, "signature", "")
    return not getattr(delta, "text", "")


def _start_of(kind: str, index: int) -> ChatEvent:
    start = BlockStart(index=index)
    getattr(start, kind).SetInParent()
    return ChatEvent(block_start=start)
