"""Writes answers of the Messages API: https://platform.claude.com/docs/en/build-with-claude/streaming"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from patchbay.canonical import BlockStart, ChatEvent, Error, Finished, Started, Usage
from patchbay.dialects.anthropic._call_ids import FORBIDDEN
from patchbay.dialects.anthropic._errors import ERRORS, cut_off, no_tool_call
from patchbay.dialects.anthropic._json import Fields, Object, carried, dump, load_fields
from patchbay.dialects.anthropic._quirks import NAME
from patchbay.dialects.anthropic._stop_reasons import stop_reason_name
from patchbay.dialects.anthropic._tool_input import ToolInputWriter
from patchbay.dialects.anthropic._usage import usage_object
from patchbay.dialects.anthropic._write_body import is_tool_use, message_body
from patchbay.dialects.base import AnswerOptions, EventWriter
from patchbay.dialects.fold import Answer
from patchbay.dialects.sequencer import Sequencer, Step
from patchbay.dialects.tool_names import fitted
from patchbay.errors import PatchbayError

_PING = b'event: ping\ndata: {"type": "ping"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_DELTA_END = b"}}\n\n"

# What of the end of an answer belongs into the `delta` of `message_delta`; the rest stands beside it.
_IN_DELTA = ("container", "stop_details")


def write_events(options: AnswerOptions) -> EventWriter:
    """A writer for one answer."""
    return StreamWriter(options) if options.stream else BodyWriter(options)


def is_written(start: BlockStart) -> bool:
    """Whether a block has a place in an answer: there is one choice only, and no API knows another's blocks."""
    return start.choice == 0 and (start.WhichOneof("kind") != "opaque" or start.opaque.dialect == NAME)


class StreamWriter:
    """Writes a stream: one message, its blocks one after the other, its end."""

    content_type = "text/event-stream"

    def __init__(self, options: AnswerOptions) -> None:
        self._options = options
        self._sequencer = Sequencer(is_written)
        self._out: list[bytes] = []
        self._started: Started | None = None
        self._start_written = False
        self._usage = Usage()
        self._usage_rest: Fields = {}
        self._has_tool = False
        # A call of a kind that only this API knows, by the server or by the client.
        self._has_own_tool = False
        self._has_refusal = False
        self._native = False
        self._ended = False
        # The block that is open on the wire, when it takes text: its canonical index, and how its deltas begin.
        self._text_index = -1
        self._text_prefix = b""
        # The input of the open tool call.
        self._tool_input: ToolInputWriter | None = None

    def feed(self, events: Iterable[ChatEvent]) -> bytes:
        out = self._out
        for event in events:
            if self._ended:
                break
            which = event.WhichOneof("event")
            if which == "text_delta":
                delta = event.text_delta
                if delta.index == self._text_index:
                    if delta.text:
                        out.append(self._text_prefix + dump(delta.text) + _DELTA_END)
                    continue
            self._event(which, event)
        if self._started is not None and not self._start_written and not self._ended:
            self._write_start()
        written = b"".join(out)
        out.clear()
        return written

    def close(self) -> bytes:
        if self._ended:
            return b""
        self._ended = True
        return ERRORS.write_frame(cut_off())

    def ping(self) -> bytes:
        return b"" if self._ended else _PING

    def _event(self, which: str | None, event: ChatEvent) -> None:
        match which:
            case "native":
                self._native = True
                self._out.append(event.native.data)
            case "error":
                self._fail(event.error)
            case "finished" if event.finished.choice == 0:
                self._finish(event.finished)
            case "started" if self._started is None:
                self._started = event.started
            case "usage":
                self._usage.MergeFrom(event.usage)
            case "ping" if not self._native:
                if self._started is not None and not self._start_written:
                    self._write_start()
                self._out.append(_PING)
            case "citation_delta" if event.citation_delta.dialect != NAME:
                return
            case _:
                self._write_steps(self._sequencer.push(event))

    def _write_steps(self, steps: list[Step]) -> None:
        for position, event in steps:
            which = event.WhichOneof("event")
            if which == "block_start":
                self._block_start(position, event.block_start)
            elif which == "block_stop":
                self._block_stop(position)
            else:
                self._delta(position, event, which)

    def _write_start(self) -> None:
        self._start_written = True
        started = self._started or Started()
        usage = usage_object(self._usage)
        if NAME in self._usage.extensions:
            self._usage_rest = load_fields(self._usage.extensions[NAME])
        message: Object = {
            "id": started.id or self._options.fallback_id,
            "type": "message",
            "role": "assistant",
            "model": started.model or self._options.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        self._frame("message_start", {"type": "message_start", "message": message})

    def _block_start(self, position: int, start: BlockStart) -> None:
        if not self._start_written:
            self._write_start()
        block: object
        kind = start.WhichOneof("kind")
        match kind:
            case "thinking":
                block = {"type": "thinking", "thinking": "", "signature": ""}
            case "redacted_thinking":
                block = {"type": "redacted_thinking", "data": start.redacted_thinking.data}
            case "tool_use":
                use = start.tool_use
                call_id = fitted(use.id, forbidden=FORBIDDEN)
                block = {"type": "tool_use", "id": call_id, "name": use.name, "input": {}}
                self._has_tool = True
                self._tool_input = ToolInputWriter(is_free=start.tool_use.text_input)
            case "opaque":
                block = carried(start.opaque.json)
                self._has_own_tool |= is_tool_use(start.opaque.json)
            case _:
                block = {"type": "text", "text": ""}
                self._text_index = start.index
                self._text_prefix = _delta_prefix(position, "text_delta", "text")
                self._has_refusal |= kind == "refusal"
        self._frame("content_block_start", {"type": "content_block_start", "index": position, "content_block": block})
        if self._tool_input is not None:
            self._input(position, self._tool_input.start())

    def _block_stop(self, position: int) -> None:
        if self._tool_input is not None:
            self._input(position, self._tool_input.stop())
            self._tool_input = None
        self._text_index = -1
        self._out.append(b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % position)

    def _delta(self, position: int, event: ChatEvent, which: str | None) -> None:
        match which:
            case "text_delta":
                self._out.append(self._text_prefix + dump(event.text_delta.text) + _DELTA_END)
            case "thinking_delta":
                prefix = _delta_prefix(position, "thinking_delta", "thinking")
                self._out.append(prefix + dump(event.thinking_delta.text) + _DELTA_END)
            case "signature_delta":
                prefix = _delta_prefix(position, "signature_delta", "signature")
                self._out.append(prefix + dump(event.signature_delta.signature) + _DELTA_END)
            case "tool_input_delta":
                text = event.tool_input_delta.text
                self._input(position, text if self._tool_input is None else self._tool_input.feed(text))
            case "citation_delta":
                citation = carried(event.citation_delta.json)
                self._frame(
                    "content_block_delta",
                    {
                        "type": "content_block_delta",
                        "index": position,
                        "delta": {"type": "citations_delta", "citation": citation},
                    },
                )

    def _input(self, position: int, text: str) -> None:
        if not text:
            return
        prefix = _delta_prefix(position, "input_json_delta", "partial_json")
        self._out.append(prefix + dump(text) + _DELTA_END)

    def _finish(self, finished: Finished) -> None:
        if not self._native:
            self._write_steps(self._sequencer.finish())
            if finished.stop_reason == Finished.STOP_REASON_TOOL_USE and not (self._has_tool or self._has_own_tool):
                self._fail(no_tool_call())
                return
            if not self._start_written:
                self._write_start()
            self._write_end(finished)
        self._ended = True

    def _write_end(self, finished: Finished) -> None:
        delta: Object = {
            "stop_reason": stop_reason_name(finished, has_tool=self._has_tool, has_refusal=self._has_refusal),
            "stop_sequence": finished.stop_sequence if finished.HasField("stop_sequence") else None,
        }
        usage = usage_object(self._usage)
        for name, value in self._usage_rest.items():
            # Reported at the start, and unchanged.
            if bytes(value) == dump(usage.get(name)):
                del usage[name]
        event: Object = {"type": "message_delta", "delta": delta, "usage": usage}
        if NAME in finished.extensions:
            for name, value in load_fields(finished.extensions[NAME]).items():
                (delta if name in _IN_DELTA else event).setdefault(name, value)
        self._frame("message_delta", event)
        self._out.append(_STOP)

    def _fail(self, error: Error) -> None:
        self._out.append(ERRORS.write_frame(error))
        self._ended = True

    def _frame(self, name: str, event: Object) -> None:
        data = dump(event)
        if b"\n" in data or b"\r" in data:  # in JSON that is only carried
            data = msgspec.json.format(data, indent=-1)
        self._out.append(b"event: " + name.encode() + b"\ndata: " + data + b"\n\n")


class BodyWriter:
    """Collects an answer and writes it as one body, with the same blocks in the same order as the stream."""

    content_type = "application/json"

    def __init__(self, options: AnswerOptions) -> None:
        self._options = options
        self._sequencer = Sequencer(is_written)
        self._answer = Answer()
        self._native: list[bytes] = []

    def feed(self, events: Iterable[ChatEvent]) -> bytes:
        for event in events:
            which = event.WhichOneof("event") or ""
            if which == "native":
                self._native.append(event.native.data)
            elif which in ("started", "usage", "finished", "error"):
                self._answer.add([event])
            elif which == "citation_delta" and event.citation_delta.dialect != NAME:
                continue
            elif self._answer.error is None and 0 not in self._answer.finished:
                self._answer.add(step.event for step in self._sequencer.push(event))
        return b""

    def close(self) -> bytes:
        if self._answer.error is not None:
            raise PatchbayError(self._answer.error)
        finished = self._answer.finished.get(0)
        if finished is None:
            raise PatchbayError(cut_off())
        if self._native:
            return b"".join(self._native)
        self._answer.add(step.event for step in self._sequencer.finish())
        return message_body(self._answer, finished, self._options)

    def ping(self) -> bytes:
        return b""


def _delta_prefix(position: int, kind: str, name: str) -> bytes:
    data = f'{{"type":"content_block_delta","index":{position},"delta":{{"type":"{kind}","{name}":'
    return b"event: content_block_delta\ndata: " + data.encode()
