"""Writes a client's answer: the events of its stream, and the Response object that they amount to.

Format: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from patchbay.canonical import BlockStart, ChatEvent, Error, Finished, Started, TextDelta, ToolUseStart, Usage
from patchbay.dialects.base import AnswerOptions
from patchbay.dialects.json_text import Object, dump, dump_array, dump_object, load_array, load_object, one_line
from patchbay.dialects.openai_responses._echo import echoed
from patchbay.dialects.openai_responses._errors import failed_error
from patchbay.dialects.openai_responses._quirks import NAME
from patchbay.dialects.openai_responses._stop_reasons import write_ending
from patchbay.dialects.openai_responses._usage import write_usage
from patchbay.dialects.openai_responses._write_native import Passed, response_id
from patchbay.dialects.openai_responses._write_output import (
    NO_ARGUMENTS,
    ItemPart,
    ItemType,
    OutputItem,
    Status,
    call_fields,
    item_id,
)
from patchbay.dialects.sequencer import Sequencer, Step
from patchbay.dialects.signatures import carried_redacted, carried_signature

_NULL = b"null"
_ID_LENGTH = 40


def is_written(start: BlockStart) -> bool:
    """Whether a block has a place in an answer: there is one choice only, and no API knows another's blocks."""
    if start.choice:
        return False
    return not start.HasField("opaque") or start.opaque.dialect == NAME


class ResponseWriter:
    """One answer. What it says is kept until `take`; its object is there in the end.

    Args:
        streams: Whether events are written at all. What the upstream said itself passes in any case.
    """

    def __init__(self, options: AnswerOptions, *, streams: bool) -> None:
        self._options = options
        self._streams = streams
        self._sequencer = Sequencer(is_written)
        self._out: list[bytes] = []
        self._sequence = 0
        self._head: Object = {}
        self._id_seed = ""
        self._usage = Usage()
        # The items of the output as written; an open one has its place.
        self._output: list[bytes] = []
        # The message or the reasoning that is open, and its part.
        self._item: OutputItem | None = None
        self._part: ItemPart | None = None
        # A call that is being written, or that waits to be told complete: an answer may be cut off behind it.
        self._call: OutputItem | None = None
        self._signature: list[str] = []
        self._has_tool = False
        self._has_refusal = False
        # What the upstream said itself, in this dialect.
        self._passed = Passed(options)
        # The block on the wire whose deltas need nothing but their text: what they are called, its canonical index,
        # where the text is kept, and the bytes before it and behind it, up to the number of the event.
        self._delta_name = ""
        self._delta_index = -1
        self._pieces: list[str] = []
        self._before = b""
        self._after = b""
        # The Response, once the answer has come to its end.
        self.response: bytes | None = None
        self.ended = False

    def feed(self, events: Iterable[ChatEvent]) -> None:
        for event in events:
            which = event.WhichOneof("event")
            if which == self._delta_name:
                delta = getattr(event, which)
                if delta.index == self._delta_index:
                    if which == "text_delta" and delta.HasField("logprobs_json"):
                        self._text(delta)
                        continue
                    text = delta.text
                    if text:
                        self._say(text)
                    continue
            if self.ended:
                return
            self._event(which, event)

    def take(self) -> bytes:
        written = b"".join(self._out)
        self._out.clear()
        return written

    def fail(self, error: Error) -> None:
        """Ends the answer in an error."""
        if self._passed.has_begun:
            self._out.append(self._passed.failure(error))
            self.ended = True
            return
        self._begin(Started())
        self._abandon()
        self._end("failed", {"error": failed_error(error)})

    def _event(self, which: str | None, event: ChatEvent) -> None:
        match which:
            case "started":
                self._begin(event.started)
            case "usage":
                self._usage.MergeFrom(event.usage)
            case "native":
                self._out.append(self._passed.take(event.native.data))
            case "finished" if self._passed.has_begun:
                self.ended = True
            case "finished":
                if not event.finished.choice:
                    self._finish(event.finished)
            case "error":
                self.fail(event.error)
            case "citation_delta" if event.citation_delta.dialect != NAME:
                return
            case _:
                self._steps(self._sequencer.push(event))

    def _steps(self, steps: list[Step]) -> None:
        for _, event in steps:
            match event.WhichOneof("event"):
                case "block_start":
                    self._start(event.block_start)
                case "block_stop":
                    self._stop()
                case "text_delta":
                    self._text(event.text_delta)
                case "thinking_delta":
                    self._think(event.thinking_delta.index, event.thinking_delta.text)
                case "signature_delta":
                    self._signature.append(event.signature_delta.signature)
                case "tool_input_delta" if self._call is not None:
                    self._say(event.tool_input_delta.text)
                case "citation_delta":
                    self._cite(event.citation_delta.json.encode())

    def _begin(self, started: Started) -> None:
        if self._head:
            return
        answer_id = response_id(started.id, self._options.fallback_id)
        self._id_seed = hashlib.sha256(answer_id.encode()).hexdigest()[:_ID_LENGTH]
        self._head = {
            "id": dump(answer_id),
            "object": b'"response"',
            "created_at": dump(started.created or self._options.created),
            "status": b'"in_progress"',
            "completed_at": _NULL,
            "error": _NULL,
            "incomplete_details": _NULL,
            "model": dump(started.model or self._options.model),
            "output": b"[]",
            "usage": _NULL,
        } | echoed(self._options.echo)
        response = dump_object(self._head)
        self._frame("response.created", {"response": response})
        self._frame("response.in_progress", {"response": response})

    def _frame(self, name: str, fields: Object) -> None:
        if self._streams:
            data = dump_object({"type": dump(name), "sequence_number": dump(self._sequence), **fields})
            self._out.append(b"event: " + name.encode() + b"\ndata: " + data + b"\n\n")
            self._sequence += 1

    def _say(self, text: str) -> None:
        """Writes a delta of the open block."""
        self._pieces.append(text)
        if self._streams:
            self._out += (self._before, dump(text), self._after, dump(self._sequence), b"}\n\n")
            self._sequence += 1

    def _open_deltas(self, name: str, index: int, event: str, place: Object, pieces: list[str]) -> None:
        """Makes ready for the deltas of a block, all of whose frames but number and text is made once."""
        self._delta_name, self._delta_index, self._pieces = name, index, pieces
        head = dump_object({"type": dump(event), **place})[:-1]
        more = b',"logprobs":[]' if event == "response.output_text.delta" else b""
        self._before = b"event: " + event.encode() + b"\ndata: " + head + b',"delta":'
        self._after = more + b',"sequence_number":'

    def _open_item(self, type_: ItemType, call: Object | None = None) -> OutputItem:
        self._begin(Started())
        index = len(self._output)
        self._output.append(_NULL)
        item = OutputItem(type_, item_id(type_, self._id_seed, index), index, call or {})
        self._frame("response.output_item.added", {"output_index": dump(index), "item": item.write("in_progress")})
        return item

    def _close_item(self, item: OutputItem, status: Status) -> None:
        written = self._output[item.index] = item.write(status)
        self._frame("response.output_item.done", {"output_index": dump(item.index), "item": written})

    def _start(self, start: BlockStart) -> None:
        self._settle_call()
        kind = start.WhichOneof("kind") or "text"
        if kind not in ("text", "refusal"):
            self._close_message("completed")
        match kind:
            case "text" | "refusal":
                self._start_message_part(kind, start.index)
            case "thinking":
                self._signature.clear()
            case "tool_use":
                self._start_call(start.tool_use, start.index)
            case "redacted_thinking":
                item = self._open_item("reasoning")
                item.encrypted_content = carried_redacted(start.redacted_thinking.data)
                self._close_item(item, "completed")
            case "opaque":
                self._whole_item(one_line(start.opaque.json.encode()))

    def _stop(self) -> None:
        self._delta_name, self._delta_index = "", -1
        if self._call is not None:
            # It waits to be told complete, and may still get `{}` as its input.
            return
        if self._item is not None and self._item.type == "message":
            self._close_part()
        else:
            self._stop_thinking()

    def _start_message_part(self, kind: str, index: int) -> None:
        if self._item is None:
            self._item = self._open_item("message")
        self._part = ItemPart(kind, [])
        self._has_refusal |= kind == "refusal"
        self._frame("response.content_part.added", {**self._place(), "part": self._part.write()})
        event = "response.refusal.delta" if kind == "refusal" else "response.output_text.delta"
        self._open_deltas("text_delta", index, event, self._place(), self._part.pieces)

    def _place(self) -> Object:
        """Where the open part is."""
        item = self._item
        assert item is not None
        number = "summary_index" if item.type == "reasoning" else "content_index"
        return {"item_id": dump(item.id), "output_index": dump(item.index), number: dump(len(item.parts))}

    def _text(self, delta: TextDelta) -> None:
        part = self._part
        if part is None:
            return
        if part.kind == "refusal" or not delta.HasField("logprobs_json"):
            if delta.text:
                self._say(delta.text)
            return
        logprobs = load_array(one_line(delta.logprobs_json.encode()))
        part.logprobs += logprobs
        part.pieces.append(delta.text)
        fields = {**self._place(), "delta": dump(delta.text), "logprobs": dump_array(logprobs)}
        self._frame("response.output_text.delta", fields)

    def _cite(self, annotation: bytes) -> None:
        part = self._part
        if part is None or part.kind != "text":
            return
        annotation = one_line(annotation)
        fields = {**self._place(), "annotation_index": dump(len(part.annotations)), "annotation": annotation}
        part.annotations.append(annotation)
        self._frame("response.output_text.annotation.added", fields)

    def _close_part(self) -> None:
        item, part = self._item, self._part
        if item is None or part is None:
            return
        self._part = None
        place = self._place()
        text = dump("".join(part.pieces))
        written = part.write()
        match part.kind:
            case "refusal":
                self._frame("response.refusal.done", {**place, "refusal": text})
                self._frame("response.content_part.done", {**place, "part": written})
            case "thinking":
                self._frame("response.reasoning_summary_text.done", {**place, "text": text})
                self._frame("response.reasoning_summary_part.done", {**place, "part": written})
            case _:
                done = {**place, "text": text, "logprobs": dump_array(part.logprobs)}
                self._frame("response.output_text.done", done)
                self._frame("response.content_part.done", {**place, "part": written})
        item.parts.append(written)

    def _close_message(self, status: Status) -> None:
        item = self._item
        if item is not None and item.type == "message":
            self._close_part()
            self._item = None
            self._close_item(item, status)

    def _think(self, index: int, text: str) -> None:
        if self._item is None:
            self._item = self._open_item("reasoning")
            self._part = ItemPart("thinking", [])
            self._frame("response.reasoning_summary_part.added", {**self._place(), "part": self._part.write()})
            event = "response.reasoning_summary_text.delta"
            self._open_deltas("thinking_delta", index, event, self._place(), self._part.pieces)
        self._say(text)

    def _stop_thinking(self) -> None:
        """Ends reasoning. Whoever has signed it: the client brings it back, and only its provider gets it."""
        signature = "".join(self._signature)
        self._signature.clear()
        if self._item is None and signature:
            self._item = self._open_item("reasoning")
        item = self._item
        if item is not None:
            self._close_part()
            self._item = None
            item.encrypted_content = carried_signature(signature) if signature else ""
            self._close_item(item, "completed")

    def _start_call(self, use: ToolUseStart, index: int) -> None:
        self._has_tool = True
        type_: ItemType = "custom_tool_call" if use.text_input else "function_call"
        call = self._call = self._open_item(type_, call_fields(use))
        place: Object = {"item_id": dump(call.id), "output_index": dump(call.index)}
        event = f"response.{type_}_{call.input_name}.delta"
        self._open_deltas("tool_input_delta", index, event, place, call.pieces)

    def _settle_call(self) -> None:
        """Tells that a call is complete, once the answer has gone on or come to its proper end."""
        call, self._call = self._call, None
        if call is None:
            return
        if call.type == "function_call" and not "".join(call.pieces).strip():
            self._say(NO_ARGUMENTS)
        done: Object = {
            "item_id": dump(call.id),
            "output_index": dump(call.index),
            call.input_name: dump("".join(call.pieces)),
        }
        self._frame(f"response.{call.type}_{call.input_name}.done", done)
        self._close_item(call, "completed")

    def _whole_item(self, item: bytes) -> None:
        self._begin(Started())
        fields: Object = {"output_index": dump(len(self._output)), "item": item}
        self._output.append(item)
        self._frame("response.output_item.added", fields)
        self._frame("response.output_item.done", fields)

    def _abandon(self) -> None:
        """Leaves the open items as far as they have come, without telling that they are done."""
        item, part = self._item, self._part
        if item is not None:
            if part is not None:
                item.parts.append(part.write())
            self._output[item.index] = item.write("incomplete")
        if self._call is not None:
            self._output[self._call.index] = self._call.write("incomplete")
        self._item = self._part = self._call = None

    def _finish(self, finished: Finished) -> None:
        self._begin(Started())
        self._steps(self._sequencer.finish())
        ending = write_ending(finished, has_tool=self._has_tool, has_refusal=self._has_refusal)
        if ending.incomplete is None or (self._call is not None and not self._call.is_partial_call):
            self._settle_call()
        self._close_message("completed" if ending.incomplete is None else "incomplete")
        self._abandon()
        more: Object = load_object(one_line(finished.extensions[NAME].encode())) if NAME in finished.extensions else {}
        if ending.goes_on:
            more["end_turn"] = b"false"
        if ending.incomplete is None:
            self._end("completed", more)
        else:
            self._end("incomplete", more | {"incomplete_details": dump_object({"reason": dump(ending.incomplete)})})

    def _end(self, status: str, more: Object) -> None:
        fields: Object = {**self._head, **more, "status": dump(status), "output": dump_array(self._output)}
        fields["usage"] = write_usage(self._usage) if self._usage.ByteSize() else _NULL
        self.response = dump_object(fields)
        self._delta_name, self._delta_index = "", -1
        self._frame(f"response.{status}", {"response": self.response})
        self.ended = True
