"""Turns what an agent does in one turn into one answer.

An agent calls the model several times: each call is a message of its own in what the program says, with the results of
its tools between them. The client gets one answer whose blocks follow each other.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from patchbay.canonical import BlockStop, ChatEvent, Error, Finished
from patchbay.dialects.anthropic import DIALECT
from patchbay.dialects.base import EventReader, ReadOptions
from patchbay.errors import UPSTREAM, make_error
from patchbay.settings.claude_cli import MessageMode
from patchbay_claude_worker.agent import activity
from patchbay_claude_worker.cli.messages import NULL, Message
from patchbay_claude_worker.model.answer import AnswerStream

# The kinds of events that name a block.
_OF_BLOCKS = (
    "block_start",
    "text_delta",
    "thinking_delta",
    "signature_delta",
    "tool_input_delta",
    "citation_delta",
    "block_stop",
)


class _Delta(msgspec.Struct):
    stop_reason: str | None = None


class _EventHead(msgspec.Struct):
    type: str = ""
    delta: _Delta | None = None


class _UserMessage(msgspec.Struct):
    content: str | list[dict[str, Any]] = ""


_decode_head = msgspec.json.Decoder(_EventHead).decode
_decode_user = msgspec.json.Decoder(_UserMessage).decode


class AgentAnswer:
    """Reads the messages of one turn; `ended` is set by its last one.

    Args:
        mode: How tool activity is shown.
    """

    def __init__(self, mode: MessageMode) -> None:
        self._mode = mode
        self._reader: EventReader | None = None
        # How a failure is read off a result is the same in both modes.
        self._failures = AnswerStream(time.time)
        self._started = False
        # The client's number of the model's block in the message at hand, and of the next one.
        self._indexes: dict[int, int] = {}
        self._next_index = 0
        # The client's numbers of the blocks that are open.
        self._open: list[int] = []
        # A call of the message at hand, by its number there: its id, name, and input so far.
        self._calls: dict[int, tuple[str, str, list[str]]] = {}
        # `ignore`: the text of the message at hand, until it is known to be the last.
        self._pending: list[ChatEvent] = []
        self._finished = Finished(stop_reason=Finished.STOP_REASON_END_TURN)
        # The calls whose results are not there yet.
        self._outstanding: set[str] = set()
        self.ended = False

    @property
    def is_working(self) -> bool:
        """Whether its tools run, rather than the model."""
        return bool(self._outstanding)

    def feed(self, message: Message) -> list[ChatEvent]:
        """The events that a message is worth."""
        if message.parent_tool_use_id is not None:
            # What a subagent does is its caller's tool activity, of which the client sees call and result.
            return []
        match message.type:
            case "stream_event":
                return self._event(message.event)
            case "user" if bytes(message.message) != b"null":
                return self._results(message.message)
            case "assistant" | "rate_limit_event":
                self._failures.feed(message)
            case "result":
                return self._result(message)
        return []

    def _event(self, raw: msgspec.Raw) -> list[ChatEvent]:
        head = _decode_head(raw)
        broken: list[ChatEvent] = []
        if head.type == "message_start":
            # With one still open, that one failed, and this is the program's next try.
            broken = self._break_off()
            self._reader = DIALECT.read_events(ReadOptions())
            self._outstanding.clear()
        if head.type == "message_delta" and (head.delta is None or head.delta.stop_reason is None):
            return self._break_off()
        if self._reader is None:
            return broken
        events = self._reader.feed(b"event: %s\ndata: %s\n\n" % (head.type.encode(), bytes(raw)))
        if head.type == "message_stop":
            self._reader = None
        return [*broken, *(shown for event in events for shown in self._show(event))]

    def _break_off(self) -> list[ChatEvent]:
        """Closes what the message at hand has open, and forgets the rest of it."""
        open_blocks, self._open = self._open, []
        self._reader = None
        self._indexes, self._calls, self._pending = {}, {}, []
        return [ChatEvent(block_stop=BlockStop(index=index)) for index in open_blocks]

    def _show(self, event: ChatEvent) -> list[ChatEvent]:
        kind = event.WhichOneof("event")
        if kind == "started":
            first, self._started = not self._started, True
            # From here on tools may run: what they do is done, and nobody is to ask for it again.
            event.started.under_way = True
            return [event] if first else []
        if kind == "finished":
            return self._end_of_message(event.finished)
        if kind in _OF_BLOCKS:
            return self._of_block(kind, event)
        # The result has the whole turn's usage, and says itself what went wrong.
        return []

    def _of_block(self, kind: str, event: ChatEvent) -> list[ChatEvent]:
        part = getattr(event, kind)
        if kind == "block_start" and part.HasField("tool_use"):
            self._calls[part.index] = (part.tool_use.id, part.tool_use.name, [])
            return []
        if part.index in self._calls:
            return self._of_call(kind, event)
        if self._mode == "ignore":
            self._pending.append(event)
            return []
        return [self._renumbered(kind, event)]

    def _of_call(self, kind: str, event: ChatEvent) -> list[ChatEvent]:
        if kind == "tool_input_delta":
            self._calls[event.tool_input_delta.index][2].append(event.tool_input_delta.text)
            return []
        use_id, name, parts = self._calls.pop(event.block_stop.index)
        self._outstanding.add(use_id)
        tool_input = _value("".join(parts) or "{}")
        if self._mode == "forward":
            return activity.block_events(self._take_index(), activity.use_block(use_id, name, tool_input))
        if self._mode == "formatted":
            return activity.text_events(self._take_index(), activity.formatted_use(use_id, name, tool_input))
        return []

    def _end_of_message(self, finished: Finished) -> list[ChatEvent]:
        if finished.stop_reason == Finished.STOP_REASON_TOOL_USE:
            self._pending = []
            return []
        self._finished = finished
        shown = []
        for event in self._pending:
            kind = event.WhichOneof("event")
            assert kind is not None
            start = event.block_start
            if kind == "block_start" and start.WhichOneof("kind") != "text":
                continue
            if kind == "block_start" or getattr(event, kind).index in self._indexes:
                shown.append(self._renumbered(kind, event))
        self._pending = []
        return shown

    def _results(self, raw: msgspec.Raw) -> list[ChatEvent]:
        content = _decode_user(raw).content
        events: list[ChatEvent] = []
        for block in content if isinstance(content, list) else ():
            if block.get("type") != "tool_result":
                continue
            use_id, is_error = str(block.get("tool_use_id")), bool(block.get("is_error"))
            self._outstanding.discard(use_id)
            if self._mode == "ignore":
                continue
            index = self._take_index()
            if self._mode == "forward":
                shown = activity.result_block(use_id, block.get("content"), is_error=is_error)
                events += activity.block_events(index, shown)
            else:
                text = activity.formatted_result(use_id, block.get("content"), is_error=is_error)
                events += activity.text_events(index, text)
        return events

    def _result(self, message: Message) -> list[ChatEvent]:
        self.ended = True
        events = _usage(message.usage)
        if message.subtype == "error_max_turns":
            # It stopped in the middle of its work, and goes on when it is asked to.
            return [*events, ChatEvent(finished=Finished(stop_reason=Finished.STOP_REASON_PAUSE_TURN))]
        if message.is_error or message.subtype != "success":
            return [*events, ChatEvent(error=self._error(message))]
        return [*events, ChatEvent(finished=self._finished)]

    def _error(self, message: Message) -> Error:
        if message.subtype not in ("", "success"):
            return make_error(UPSTREAM, f"the agent stopped: {message.subtype}")
        self._failures.feed(message)
        failure = self._failures.failure
        assert failure is not None
        return DIALECT.errors.read(failure.status, {}, failure.body())

    def _renumbered(self, kind: str, event: ChatEvent) -> ChatEvent:
        part = getattr(event, kind)
        if kind == "block_start":
            self._indexes[part.index] = self._take_index()
            self._open.append(self._indexes[part.index])
        part.index = self._indexes[part.index]
        if kind == "block_stop":
            self._open.remove(part.index)
        return event

    def _take_index(self) -> int:
        self._next_index += 1
        return self._next_index - 1


def _usage(raw: msgspec.Raw) -> list[ChatEvent]:
    """The usage of the whole turn, read as the dialect reads that of an answer."""
    if bytes(raw) == bytes(NULL):
        return []
    frame = b'event: message_start\ndata: {"type":"message_start","message":{"usage":%s}}\n\n' % bytes(raw)
    events = DIALECT.read_events(ReadOptions()).feed(frame)
    return [event for event in events if event.HasField("usage")]


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
