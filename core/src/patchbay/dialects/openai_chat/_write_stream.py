"""Writes a client's answer as a stream of chunks.

Format: https://platform.openai.com/docs/api-reference/chat-streaming/streaming
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from patchbay.canonical import BlockStart, ChatEvent, CitationDelta, Finished, TextDelta, Usage
from patchbay.dialects.answer_errors import unfinished
from patchbay.dialects.base import AnswerOptions
from patchbay.dialects.json_text import Object, dump, dump_array, dump_object, load_object
from patchbay.dialects.openai_chat._errors import error_frame
from patchbay.dialects.openai_chat._message import NO_ARGUMENTS, REASONING_END, REASONING_START
from patchbay.dialects.openai_chat._own_fields import OwnFields
from patchbay.dialects.openai_chat._quirks import NAME
from patchbay.dialects.openai_chat._reasoning import encrypted_detail, text_detail
from patchbay.dialects.openai_chat._stop_reasons import write_finish_reason
from patchbay.dialects.openai_chat._usage import write_usage

_ROLE_DELTA = b'{"role":"assistant","content":null}'


@dataclass(slots=True)
class _Choice:
    tools: int = 0
    details: int = 0
    has_refusal: bool = False
    finished: bool = False
    # Message fields that come with the finish reason: clients that put chunks together fail on two lists whose entries
    # have no `index`, so a list comes once.
    held: OwnFields = field(default_factory=OwnFields)


@dataclass(slots=True)
class _Block:
    choice: int
    kind: str
    # The bytes before and after a delta's JSON string.
    before: bytes = b""
    after: bytes = b""
    # A call whose arguments have not begun.
    is_bare: bool = False
    # Thinking, kept for the entry that carries its signature.
    text: list[str] = field(default_factory=list)
    signature: list[str] = field(default_factory=list)


class StreamWriter:
    """The frames of one answer."""

    content_type = "text/event-stream"

    def __init__(self, options: AnswerOptions) -> None:
        self._options = options
        self._is_xml = options.reasoning_format == "xml"
        self._choices: dict[int, _Choice] = {}
        self._blocks: dict[int, _Block] = {}
        self._usage = Usage()
        self._other: Object = {}
        self._is_native = False
        self._native_finished = False
        self._ended = False
        self._name_answer("", "", 0)

    def feed(self, events: Iterable[ChatEvent]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if self._ended:
                break
            match event.WhichOneof("event"):
                case "text_delta":
                    self._text(event.text_delta, out)
                case "tool_input_delta":
                    self._tool_input(event.tool_input_delta.index, event.tool_input_delta.text, out)
                case "thinking_delta":
                    self._thinking(event.thinking_delta.index, event.thinking_delta.text, out)
                case "native":
                    self._is_native = True
                    out.append(event.native.data)
                case _:
                    self._rare(event, out)
        return b"".join(out)

    def close(self) -> bytes:
        if self._ended:
            return b""
        self._ended = True
        if self._is_native:
            return b"" if self._native_finished else error_frame(unfinished())
        if not self._choices or not all(choice.finished for choice in self._choices.values()):
            return error_frame(unfinished())
        out = []
        if self._options.include_usage:
            out.append(self._frame(b"[]", write_usage(self._usage)))
        out.append(b"data: [DONE]\n\n")
        return b"".join(out)

    def ping(self) -> bytes:
        return b": ping\n\n"

    def _rare(self, event: ChatEvent, out: list[bytes]) -> None:
        match event.WhichOneof("event"):
            case "started":
                started = event.started
                self._name_answer(started.id, started.model, started.created)
                self._choice(0, out)
            case "block_start":
                self._start(event.block_start, out)
            case "block_stop":
                self._stop(event.block_stop.index, out)
            case "signature_delta":
                block = self._blocks.get(event.signature_delta.index)
                if block is not None:
                    block.signature.append(event.signature_delta.signature)
            case "citation_delta":
                self._citation(event.citation_delta)
            case "usage":
                self._usage.MergeFrom(event.usage)
            case "finished":
                self._finish(event.finished, out)
            case "error":
                out.append(error_frame(event.error))
                self._ended = True
            case _:  # heads, warnings and pings are the edge's to tell
                return

    def _name_answer(self, answer_id: str, model: str, created: int) -> None:
        head: Object = {
            "id": dump(answer_id or self._options.fallback_id),
            "object": b'"chat.completion.chunk"',
            "created": dump(created or self._options.created),
            "model": dump(model or self._options.model),
        }
        self._head = b"data: " + dump_object(head)[:-1] + b',"choices":'
        # By the protocol every chunk has the field when a report is to come.
        self._tail = b',"usage":null}\n\n' if self._options.include_usage else b"}\n\n"

    def _frame(self, choices: bytes, usage: bytes | None = None) -> bytes:
        other = b"".join([b"," + dump(name) + b":" + value for name, value in self._other.items()])
        tail = self._tail if usage is None else b',"usage":' + usage + b"}\n\n"
        return self._head + choices + other + tail

    def _chunk(self, choice: int, delta: bytes, *, logprobs: bytes = b"", finish: bytes = b"null") -> bytes:
        return self._frame(
            b'[{"index":%d,"delta":%b%b,"finish_reason":%b}]' % (choice, delta, logprobs, finish),
        )

    def _choice(self, number: int, out: list[bytes]) -> _Choice:
        """The choice, opened; clients want a choice's first chunk before those of the choices after it."""
        for missing in range(len(self._choices), number + 1):
            self._choices[missing] = _Choice()
            out.append(self._chunk(missing, _ROLE_DELTA))
        return self._choices[number]

    def _start(self, start: BlockStart, out: list[bytes]) -> None:
        choice = self._choice(start.choice, out)
        kind = start.WhichOneof("kind") or "text"
        match kind:
            case "text":
                self._open(start, kind, b'{"content":', b"}")
            case "refusal":
                choice.has_refusal = True
                self._open(start, kind, b'{"refusal":', b"}")
            case "thinking":
                self._open(start, kind, b'{"content":' if self._is_xml else b'{"reasoning_content":', b"}")
            case "tool_use":
                out.append(self._start_tool(start, choice))
            case "redacted_thinking" if not self._is_xml:
                entry = encrypted_detail(start.redacted_thinking.data, choice.details)
                choice.details += 1
                out.append(self._chunk(start.choice, dump_object({"reasoning_details": dump_array([entry])})))
            case "opaque" if start.opaque.dialect == NAME:
                choice.held.add(start.opaque.json)
            case _:  # what another provider ran itself is no call for this client
                return

    def _open(self, start: BlockStart, kind: str, before: bytes, after: bytes) -> None:
        # Everything of a delta's frame but its text: made once, since deltas are many.
        mark = b"\0"
        frame = self._chunk(start.choice, before + mark + after)
        head, _, tail = frame.partition(mark)
        self._blocks[start.index] = _Block(start.choice, kind, head, tail)

    def _start_tool(self, start: BlockStart, choice: _Choice) -> bytes:
        use = start.tool_use
        kind, text = (b"custom", b"input") if use.text_input else (b"function", b"arguments")
        position = choice.tools
        choice.tools += 1
        self._open(start, "tool_use", b'{"tool_calls":[{"index":%d,"%b":{"%b":' % (position, kind, text), b"}}]}")
        self._blocks[start.index].is_bare = not use.text_input
        first = b'{"tool_calls":[{"index":%d,"id":%b,"type":"%b","%b":{"name":%b,"%b":""}}]}'
        return self._chunk(start.choice, first % (position, dump(use.id), kind, kind, dump(use.name), text))

    def _text(self, delta: TextDelta, out: list[bytes]) -> None:
        block = self._blocks.get(delta.index)
        if block is None:
            return
        if not delta.HasField("logprobs_json"):
            if delta.text:
                out.append(block.before + dump(delta.text) + block.after)
            return
        name = "refusal" if block.kind == "refusal" else "content"
        other = "content" if block.kind == "refusal" else "refusal"
        logprobs = dump_object({name: delta.logprobs_json.encode(), other: b"null"})
        text = dump_object({name: dump(delta.text)})
        out.append(self._chunk(block.choice, text, logprobs=b',"logprobs":' + logprobs))

    def _thinking(self, index: int, text: str, out: list[bytes]) -> None:
        block = self._blocks.get(index)
        if block is not None and text:
            if self._is_xml and not block.text:
                out.append(block.before + dump(REASONING_START) + block.after)
            block.text.append(text)
            out.append(block.before + dump(text) + block.after)

    def _tool_input(self, index: int, text: str, out: list[bytes]) -> None:
        block = self._blocks.get(index)
        if block is not None and text:
            block.is_bare = False
            out.append(block.before + dump(text) + block.after)

    def _stop(self, index: int, out: list[bytes]) -> None:
        block = self._blocks.pop(index, None)
        if block is None:
            return
        if block.is_bare:
            out.append(block.before + dump(NO_ARGUMENTS) + block.after)
        if self._is_xml and block.text:
            out.append(block.before + dump(REASONING_END) + block.after)
        if self._is_xml or not block.signature:
            return
        choice = self._choices[block.choice]
        entry = text_detail("".join(block.text), "".join(block.signature), choice.details)
        choice.details += 1
        out.append(self._chunk(block.choice, dump_object({"reasoning_details": dump_array([entry])})))

    def _citation(self, citation: CitationDelta) -> None:
        block = self._blocks.get(citation.index)
        if block is not None and citation.dialect == NAME:
            self._choices[block.choice].held.add_annotation(citation.json)

    def _finish(self, finished: Finished, out: list[bytes]) -> None:
        if self._is_native:
            self._native_finished = True
            return
        choice = self._choice(finished.choice, out)
        choice.finished = True
        for index in [index for index, block in self._blocks.items() if block.choice == finished.choice]:
            self._stop(index, out)
        if NAME in finished.extensions:
            self._other |= load_object(finished.extensions[NAME])
        reason = write_finish_reason(finished.stop_reason, has_tool=choice.tools > 0, has_refusal=choice.has_refusal)
        delta: Object = {}
        choice.held.add_to(delta)
        out.append(self._chunk(finished.choice, dump_object(delta), finish=dump(reason)))
