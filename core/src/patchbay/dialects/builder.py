"""Builds canonical events, for the decoders of upstream answers.

A decoder says "text", "thinking", "tool call"; which block is open, which must close and which must open first is
decided here, so that no decoder can open two blocks of prose at once, lose what came with a change of block, or emit a
delta that says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

from patchbay.canonical import (
    BlockStart,
    BlockStop,
    ChatEvent,
    CitationDelta,
    Error,
    Finished,
    OpaqueStart,
    RedactedThinkingStart,
    RefusalStart,
    SignatureDelta,
    Started,
    TextDelta,
    TextStart,
    ThinkingDelta,
    ThinkingStart,
    ToolInputDelta,
    ToolUseStart,
    Usage,
    Warning,
)
from patchbay.dialects.tool_names import ClientTool
from patchbay.dialects.wrapped_input import unwrapped_input

ToolKey: TypeAlias = int | str

_Prose = Literal["text", "refusal", "thinking"]


def is_whole_object(pieces: Sequence[str]) -> bool:
    """Whether the pieces of a tool's input are a whole JSON object by now."""
    if not pieces or not pieces[-1].rstrip().endswith("}"):
        return False
    try:
        msgspec.json.decode("".join(pieces))
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


@dataclass(slots=True)
class _Tool:
    """An open tool call."""

    index: int
    # Free text may look like anything at any time.
    is_text: bool = False
    # The text comes inside an object, which is taken off at the end of the call.
    is_wrapped: bool = False
    input: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Choice:
    """The open blocks of one answer."""

    # At most one block of prose is open at a time.
    prose: _Prose | None = None
    prose_index: int = 0
    # What tells one thinking block from the next, where the upstream numbers them.
    thinking_part: ToolKey | None = None
    # The open thinking block is signed: it is complete, and more thinking is another block.
    is_signed: bool = False
    tools: dict[ToolKey, _Tool] = field(default_factory=dict)
    # The open calls that had input since it was last seen whether they are complete.
    fed_tools: dict[ToolKey, _Tool] = field(default_factory=dict)
    had_block: bool = False
    had_tool: bool = False
    had_refusal: bool = False


class EventBuilder:
    """The events of one answer. Call `take` for those built since the last call."""

    def __init__(self) -> None:
        self._events: list[ChatEvent] = []
        self._choices: dict[int, _Choice] = {}
        self._next_index = 0
        self._started = False

    def take(self) -> list[ChatEvent]:
        events, self._events = self._events, []
        return events

    @property
    def has_started(self) -> bool:
        return self._started

    def has_content(self, choice: int = 0) -> bool:
        """Whether the answer has said anything."""
        state = self._choices.get(choice)
        return state is not None and state.had_block

    def has_tool(self, choice: int = 0) -> bool:
        """Whether the answer has called a tool."""
        state = self._choices.get(choice)
        return state is not None and state.had_tool

    def has_refusal(self, choice: int = 0) -> bool:
        """Whether the answer has a refusal block."""
        state = self._choices.get(choice)
        return state is not None and state.had_refusal

    def started(self, *, answer_id: str = "", model: str = "", created: int = 0) -> None:
        """Opens the answer; only the first call counts."""
        if not self._started:
            self._started = True
            self._events.append(ChatEvent(started=Started(id=answer_id, model=model, created=created)))

    def text(self, text: str, *, choice: int = 0, logprobs_json: str | None = None) -> None:
        """Adds visible text. Log probabilities without text go to the text block that is open, if one is."""
        state = self._choice(choice)
        if not text and (logprobs_json is None or state.prose != "text"):
            return
        if state.prose != "text":
            self._open_prose(state, "text", choice)
        self._events.append(
            ChatEvent(text_delta=TextDelta(index=state.prose_index, text=text, logprobs_json=logprobs_json))
        )

    def refusal(self, text: str, *, choice: int = 0, logprobs_json: str | None = None) -> None:
        """Adds text of the model's explicit refusal."""
        if not text:
            return
        state = self._choice(choice)
        if state.prose != "refusal":
            self._open_prose(state, "refusal", choice)
            state.had_refusal = True
        self._events.append(
            ChatEvent(text_delta=TextDelta(index=state.prose_index, text=text, logprobs_json=logprobs_json))
        )

    def thinking(self, text: str, *, choice: int = 0, part: ToolKey | None = None) -> None:
        """Adds thinking; a new `part` begins a new block."""
        if not text:
            return
        state = self._choice(choice)
        if state.is_signed and part is None:
            self._close_prose(state)
        self._ensure_thinking(state, choice, part)
        self._events.append(ChatEvent(thinking_delta=ThinkingDelta(index=state.prose_index, text=text)))

    def signature(self, signature: str, *, choice: int = 0, part: ToolKey | None = None) -> None:
        """Signs the open thinking block, or an empty one of its own."""
        if not signature:
            return
        state = self._choice(choice)
        self._ensure_thinking(state, choice, part)
        self._events.append(ChatEvent(signature_delta=SignatureDelta(index=state.prose_index, signature=signature)))
        state.is_signed = True

    def is_thinking(self, choice: int = 0) -> bool:
        """Whether a thinking block is open."""
        state = self._choices.get(choice)
        return state is not None and state.prose == "thinking"

    def redacted_thinking(self, data: str, *, choice: int = 0) -> None:
        """Adds a whole block of thinking that only the provider can read."""
        if data:
            self._whole_block(BlockStart(redacted_thinking=RedactedThinkingStart(data=data)), choice)

    def opaque(self, dialect: str, json: str, *, choice: int = 0) -> None:
        """Adds a whole block that only `dialect` knows."""
        self._whole_block(BlockStart(opaque=OpaqueStart(dialect=dialect, json=json)), choice)

    def tool_call(
        self, key: ToolKey, *, call_id: str, tool: ClientTool, choice: int = 0, text_input: bool = False
    ) -> None:
        """Opens a tool call; `key` names it in the calls that follow. Several may be open at once.

        Args:
            tool: The tool as the client knows it; the input of a wrapped one becomes text when the call closes.
            text_input: The upstream itself gives the input as free text.
        """
        state = self._choice(choice)
        self._close_prose(state)
        is_text = text_input or tool.is_wrapped
        index = self._open(
            BlockStart(
                choice=choice,
                tool_use=ToolUseStart(id=call_id, name=tool.name, namespace=tool.namespace, text_input=is_text),
            )
        )
        state.tools[key] = _Tool(index, text_input, tool.is_wrapped and not text_input)
        state.had_tool = True

    def close_tool(self, key: ToolKey, *, choice: int = 0) -> None:
        """Closes a tool call whose input is complete; one that is not open stays as it is."""
        state = self._choices.get(choice)
        if state is not None and key in state.tools:
            self._close_tools(state, [key])

    def close_prose(self, *, choice: int = 0) -> None:
        """Closes the open block of prose: what comes next is another."""
        state = self._choices.get(choice)
        if state is not None:
            self._close_prose(state)

    def has_open_tool(self, key: ToolKey, *, choice: int = 0) -> bool:
        return key in self._choice(choice).tools

    def tool_input(self, key: ToolKey, text: str, *, choice: int = 0) -> None:
        """Adds a piece of an open tool call's input.

        Raises:
            KeyError: When no such call is open.
        """
        state = self._choice(choice)
        tool = state.tools[key]
        if not text:
            return
        if not tool.is_text:
            tool.input.append(text)
            state.fed_tools[key] = tool
        if not tool.is_wrapped:
            self._events.append(ChatEvent(tool_input_delta=ToolInputDelta(index=tool.index, text=text)))

    def citation(self, dialect: str, json: str, *, choice: int = 0) -> None:
        """Adds a citation to the open text block, or to an empty one of its own."""
        state = self._choice(choice)
        if state.prose != "text":
            self._open_prose(state, "text", choice)
        self._events.append(
            ChatEvent(citation_delta=CitationDelta(index=state.prose_index, dialect=dialect, json=json))
        )

    def usage(self, usage: Usage) -> None:
        self._events.append(ChatEvent(usage=usage))

    def warning(self, parameter: str, message: str) -> None:
        self._events.append(ChatEvent(warning=Warning(parameter=parameter, message=message)))

    def close_blocks(self) -> None:
        """Closes every open block of every choice."""
        for state in self._choices.values():
            self._close_prose(state)
            self._close_tools(state, list(state.tools))

    def finished(self, finished: Finished) -> None:
        """Ends one choice. Its blocks must be closed first."""
        self._events.append(ChatEvent(finished=finished))

    def error(self, error: Error) -> None:
        self._events.append(ChatEvent(error=error))

    def _choice(self, choice: int) -> _Choice:
        state = self._choices.get(choice)
        if state is None:
            state = self._choices[choice] = _Choice()
            self.started()
        return state

    def _open(self, start: BlockStart) -> int:
        self._choice(start.choice).had_block = True
        index = start.index = self._next_index
        self._next_index += 1
        self._events.append(ChatEvent(block_start=start))
        return index

    def _open_prose(self, state: _Choice, kind: _Prose, choice: int) -> None:
        self._close_prose(state)
        # A call is over when the model speaks again, unless a part of it is still to come.
        fed, state.fed_tools = state.fed_tools, {}
        self._close_tools(state, [key for key, tool in fed.items() if is_whole_object(tool.input)])
        start = BlockStart(choice=choice)
        match kind:
            case "text":
                start.text.CopyFrom(TextStart())
            case "refusal":
                start.refusal.CopyFrom(RefusalStart())
            case "thinking":
                start.thinking.CopyFrom(ThinkingStart())
        state.prose, state.prose_index = kind, self._open(start)

    def _ensure_thinking(self, state: _Choice, choice: int, part: ToolKey | None) -> None:
        if state.prose != "thinking" or (part is not None and state.thinking_part not in (None, part)):
            self._open_prose(state, "thinking", choice)
            state.thinking_part = None
        if part is not None:
            state.thinking_part = part

    def _whole_block(self, start: BlockStart, choice: int) -> None:
        state = self._choice(choice)
        self._close_prose(state)
        start.choice = choice
        index = self._open(start)
        self._events.append(ChatEvent(block_stop=BlockStop(index=index)))

    def _close_prose(self, state: _Choice) -> None:
        if state.prose is not None:
            self._events.append(ChatEvent(block_stop=BlockStop(index=state.prose_index)))
            state.prose = None
            state.is_signed = False

    def _close_tools(self, state: _Choice, keys: Iterable[ToolKey]) -> None:
        for key in keys:
            state.fed_tools.pop(key, None)
            tool = state.tools.pop(key)
            text = unwrapped_input("".join(tool.input)) if tool.is_wrapped else ""
            if text:
                self._events.append(ChatEvent(tool_input_delta=ToolInputDelta(index=tool.index, text=text)))
            self._events.append(ChatEvent(block_stop=BlockStop(index=tool.index)))
