"""Folds a stream of events into one answer, for clients that do not stream."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from patchbay.canonical import (
    BlockStart,
    ChatEvent,
    Citation,
    Error,
    Finished,
    Started,
    TextStart,
    ThinkingStart,
    ToolUseStart,
    Usage,
)


@dataclass(slots=True)
class FoldedBlock:
    """One content block with all of its deltas."""

    start: BlockStart
    # Text, thinking or tool input, joined.
    pieces: list[str] = field(default_factory=list)
    signature: str | None = None
    citations: list[Citation] = field(default_factory=list)
    # OpenAI `logprobs` arrays, in order.
    logprobs: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The block's kind: `text`, `thinking`, `tool_use`, `redacted_thinking`, `refusal` or `opaque`."""
        return self.start.WhichOneof("kind") or "text"

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(slots=True)
class Answer:
    """Everything a stream said, in order."""

    started: Started = field(default_factory=Started)
    blocks: list[FoldedBlock] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    # By choice.
    finished: dict[int, Finished] = field(default_factory=dict)
    error: Error | None = None
    _by_index: dict[int, FoldedBlock] = field(default_factory=dict)

    def add(self, events: Iterable[ChatEvent]) -> None:
        """Takes the next events. What comes after an error is ignored."""
        for event in events:
            if self.error is None:
                self._add(event)

    def _add(self, event: ChatEvent) -> None:
        match event.WhichOneof("event"):
            case "started":
                self.started = event.started
            case "block_start":
                block = FoldedBlock(event.block_start)
                self.blocks.append(block)
                self._by_index[event.block_start.index] = block
            case "text_delta":
                block = self._block(event.text_delta.index, "text")
                block.pieces.append(event.text_delta.text)
                if event.text_delta.HasField("logprobs_json"):
                    block.logprobs.append(event.text_delta.logprobs_json)
            case "thinking_delta":
                self._block(event.thinking_delta.index, "thinking").pieces.append(event.thinking_delta.text)
            case "signature_delta":
                block = self._block(event.signature_delta.index, "thinking")
                block.signature = (block.signature or "") + event.signature_delta.signature
            case "tool_input_delta":
                self._block(event.tool_input_delta.index, "tool_use").pieces.append(event.tool_input_delta.text)
            case "citation_delta":
                citation = event.citation_delta
                citations = self._block(citation.index, "text").citations
                citations.append(Citation(dialect=citation.dialect, json=citation.json))
            case "usage":
                # Set fields replace, unset ones stay: the last value of each field wins.
                self.usage.MergeFrom(event.usage)
            case "finished":
                self.finished[event.finished.choice] = event.finished
            case "error":
                self.error = event.error
            case _:  # heads, warnings and pings say nothing of the answer's content
                return

    def _block(self, index: int, kind: str) -> FoldedBlock:
        """The block of this index; one that was never started is taken to have been, so that nothing is lost."""
        block = self._by_index.get(index)
        if block is None:
            start = BlockStart(index=index)
            match kind:
                case "text":
                    start.text.CopyFrom(TextStart())
                case "thinking":
                    start.thinking.CopyFrom(ThinkingStart())
                case _:
                    start.tool_use.CopyFrom(ToolUseStart())
            block = self._by_index[index] = FoldedBlock(start)
            self.blocks.append(block)
        return block
