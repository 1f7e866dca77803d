"""Reads the chunks of one answer. A whole answer is one chunk whose choices have a `message` instead of a `delta`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from patchbay import errors
from patchbay.canonical import ChatEvent, Error, Finished
from patchbay.dialects.answer_errors import cut_short, unreadable
from patchbay.dialects.answer_readers import DONE
from patchbay.dialects.builder import EventBuilder
from patchbay.dialects.json_text import Object, load_array, load_object, object_text
from patchbay.dialects.openai_chat._chunks import Choice, Chunk, Delta, decode_chunk, is_present, other_fields
from patchbay.dialects.openai_chat._errors import read_error
from patchbay.dialects.openai_chat._quirks import NAME
from patchbay.dialects.openai_chat._reasoning import encrypted_data
from patchbay.dialects.openai_chat._stop_reasons import TOOL_REASONS, StopReason, read_finish_reason
from patchbay.dialects.openai_chat._tool_calls import BrokenToolCall, ToolCalls
from patchbay.dialects.openai_chat._usage import read_usage
from patchbay.dialects.surrogates import TextMender
from patchbay.dialects.tool_names import ClientTool
from patchbay.errors import make_error

_NO_DELTA = Delta()


class AnswerReader:
    """Turns chunks into events; never raises."""

    def __init__(self, names: Mapping[str, ClientTool], *, whole: bool = False) -> None:
        self._builder = EventBuilder()
        self._tools = ToolCalls(self._builder, names)
        self._whole = whole
        self._mend = TextMender(is_piecewise=not whole).mend
        self._done = False
        # Choice -> its finish reason and stop sequence; None until it has one.
        self._finish: dict[int, tuple[str, str | None] | None] = {}
        self._usage = b""
        self._other: Object = {}
        # Choice -> reasoning that came as a plain field since the last entry of `reasoning_details`.
        self._plain: dict[int, list[str]] = {}

    def take(self) -> list[ChatEvent]:
        return self._builder.take()

    def fail(self, error: Error) -> None:
        if not self._done:
            self._done = True
            self._builder.error(error)

    def read(self, name: bytes, data: bytes) -> None:
        """Reads one chunk; an error of the upstream's may be told by its name."""
        if data == DONE:
            self.end()
        if self._done:
            return
        if name == b"error":
            self._read_error(data)
            return
        data = self._mend(data)
        try:
            chunk = decode_chunk(data)
            if chunk.is_error:
                self._read_error(data)
            else:
                self._read(chunk, data)
        except BrokenToolCall:
            self.fail(make_error(errors.UPSTREAM, "The upstream went on with a tool call that it had left."))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._fail_unreadable(data, error)

    def read_body(self, data: bytes) -> None:
        """Reads an answer that is one body."""
        self.read(b"", data)

    def end(self) -> None:
        """The upstream has ended, by word or by silence."""
        if self._done:
            return
        if not self._finish or None in self._finish.values():
            self.fail(cut_short())
            return
        self._tools.flush()
        if any(self._calls_nothing(choice) for choice in self._finish):
            self.fail(make_error(errors.UPSTREAM, "The upstream announced a tool call but sent nothing."))
            return
        self._done = True
        self._builder.close_blocks()
        for choice in sorted(self._finish):
            self._builder.finished(self._finished(choice))

    def _calls_nothing(self, choice: int) -> bool:
        """Whether a choice ends for a tool call and is empty: a client would take it for a turn with nothing to do."""
        reason, _ = self._finish[choice] or ("", None)
        return reason in TOOL_REASONS and not self._builder.has_content(choice)

    def _fail_unreadable(self, data: bytes, error: Exception) -> None:
        is_cut = data.lstrip().startswith(b"{") and not isinstance(error, msgspec.ValidationError)
        if self._whole and is_cut:
            self.fail(cut_short())
        elif not self._builder.has_started and (self._whole or data.startswith(b"[")):
            # What is no answer at all is an error page; Google puts its errors in a list.
            self._read_error(data)
        else:
            self.fail(unreadable(error))

    def _read_error(self, data: bytes) -> None:
        self.fail(read_error(200, {}, data))

    def _read(self, chunk: Chunk, data: bytes) -> None:
        if chunk.choices and not self._builder.has_started:
            self._start(chunk, data)
        if is_present(chunk.usage) and bytes(chunk.usage) != self._usage:
            self._read_usage(bytes(chunk.usage))
        if not chunk.choices:
            self._other |= other_fields(data)
            return
        for choice in chunk.choices:
            self._read_choice(choice)
            if choice.finish_reason:
                self._other |= other_fields(data)

    def _start(self, chunk: Chunk, data: bytes) -> None:
        answer_id = chunk.id if isinstance(chunk.id, str) else ""
        self._tools.name_answer(answer_id)
        self._builder.started(
            answer_id=answer_id,
            model=chunk.model if isinstance(chunk.model, str) else "",
            created=_seconds(chunk.created),
        )
        self._other |= other_fields(data)

    def _read_usage(self, raw: bytes) -> None:
        usage = read_usage(raw)
        if usage is not None:
            self._usage = raw
            self._builder.started()
            self._builder.usage(usage)

    def _read_choice(self, choice: Choice) -> None:
        number = choice.number
        self._finish.setdefault(number, None)
        delta = choice.message or choice.delta or _NO_DELTA
        if is_present(delta.reasoning_details) or delta.reasoning_content or delta.reasoning:
            self._read_reasoning(delta, number)
        content = delta.content
        logprobs = choice.logprobs
        if logprobs:
            self._read_with_logprobs(logprobs if isinstance(logprobs, dict) else {}, delta, number)
        elif isinstance(content, str):
            self._builder.text(content, choice=number)
        if content and not isinstance(content, str):
            self._read_parts(content, number)
        if is_present(delta.annotations):
            for citation in _objects(delta.annotations):
                self._builder.citation(NAME, citation.decode(), choice=number)
        if isinstance(delta.refusal, str) and not logprobs:
            self._builder.refusal(delta.refusal, choice=number)
        if is_present(delta.audio):
            self._builder.opaque(NAME, object_text({"audio": bytes(delta.audio)}), choice=number)
        if is_present(delta.images) and bytes(delta.images) != b"[]":
            self._builder.opaque(NAME, object_text({"images": bytes(delta.images)}), choice=number)
        for call in delta.tool_calls or ():
            self._tools.read(call, choice=number, whole=self._whole)
        if delta.function_call is not None:
            self._tools.read_function_call(delta.function_call, choice=number)
        reason = choice.finish_reason or ("stop" if self._whole else None)
        if reason:
            stop = choice.stop_reason if isinstance(choice.stop_reason, str) else None
            self._finish[number] = (str(reason), stop)

    def _read_with_logprobs(self, logprobs: Mapping[str, msgspec.Raw], delta: Delta, number: int) -> None:
        for spoken, raw, add in (
            (delta.content, bytes(logprobs.get("content", b"")), self._builder.text),
            (delta.refusal, bytes(logprobs.get("refusal", b"")), self._builder.refusal),
        ):
            text = raw.decode() if raw.startswith(b"[") else None
            add(spoken if isinstance(spoken, str) else "", choice=number, logprobs_json=text)

    def _read_parts(self, content: object, number: int) -> None:
        """Content as a list of parts, as Mistral's reasoning models send it."""
        for part in content if isinstance(content, list) else [content]:
            fields = part if isinstance(part, dict) else {}
            match fields.get("type"):
                case "text":
                    self._builder.text(_joined(fields.get("text")), choice=number)
                case "thinking":
                    self._builder.thinking(_joined(fields.get("thinking")), choice=number)
                case _:
                    self._builder.opaque(NAME, msgspec.json.encode({"content_parts": [part]}).decode(), choice=number)

    def _read_reasoning(self, delta: Delta, number: int) -> None:
        details = [(raw, load_object(raw)) for raw in _objects(delta.reasoning_details)]
        # OpenRouter sends the same text twice: in the entries and beside them.
        if not any(_text_of(fields) for _, fields in details):
            text = delta.reasoning_content or delta.reasoning
            if isinstance(text, str):
                self._builder.thinking(text, choice=number)
                self._plain.setdefault(number, []).append(text)
        for raw, fields in details:
            if fields.get("type") == b'"reasoning.encrypted"':
                self._builder.redacted_thinking(encrypted_data(raw), choice=number)
            else:
                self._read_text_detail(fields, number)

    def _read_text_detail(self, fields: Object, number: int) -> None:
        part = fields.get("index", b"null").decode()
        text = _text_of(fields)
        signature = _string_of(fields, "signature")
        plain = self._plain.pop(number, None)
        # An entry may sum up what has been streamed, to sign it.
        is_summary = plain is not None and text == "".join(plain)
        if not is_summary or (signature and not self._builder.is_thinking(number)):
            self._builder.thinking(text, choice=number, part=part)
        self._builder.signature(signature, choice=number, part=part)

    def _finished(self, choice: int) -> Finished:
        reason, stop_sequence = self._finish[choice] or ("", None)
        read: StopReason = read_finish_reason(
            reason, has_tool=self._builder.has_tool(choice), has_refusal=self._builder.has_refusal(choice)
        )
        finished = Finished(stop_reason=read, choice=choice)
        if read == Finished.STOP_REASON_OTHER:
            finished.raw = reason
        if stop_sequence is not None and read == Finished.STOP_REASON_END_TURN:
            finished.stop_reason = Finished.STOP_REASON_STOP_SEQUENCE
            finished.stop_sequence = stop_sequence
        if self._other:
            finished.extensions[NAME] = object_text(self._other)
        return finished


def _objects(raw: msgspec.Raw) -> list[bytes]:
    """The objects of an array; none when it is something else."""
    text = bytes(raw)
    return [item for item in load_array(text) if item.startswith(b"{")] if text.startswith(b"[") else []


def _seconds(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**63 else 0


def _text_of(fields: Object) -> str:
    return _string_of(fields, "text") or _string_of(fields, "summary")


def _string_of(fields: Object, name: str) -> str:
    value = fields.get(name, b"")
    return msgspec.json.decode(value, type=str) if value.startswith(b'"') else ""


def _joined(value: object) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else []
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
