"""Turns what an answer of the Responses API says into canonical events, streamed or whole."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from patchbay.canonical import ChatEvent, Error
from patchbay.dialects.answer_errors import cut_short, unreadable
from patchbay.dialects.answer_readers import DONE
from patchbay.dialects.builder import EventBuilder
from patchbay.dialects.json_text import Object, load_object, object_text
from patchbay.dialects.openai_responses._errors import is_error_event, read_error, read_failure
from patchbay.dialects.openai_responses._events import (
    Event,
    Response,
    decode_event,
    decode_response,
    is_object,
    is_present,
    objects_in,
    text_of,
)
from patchbay.dialects.openai_responses._quirks import NAME
from patchbay.dialects.openai_responses._read_output import OutputItems, json_or_text
from patchbay.dialects.openai_responses._stop_reasons import read_ending
from patchbay.dialects.openai_responses._usage import read_usage
from patchbay.dialects.surrogates import TextMender
from patchbay.dialects.tool_names import ClientTool

# The statuses in which an answer has not come to its end.
UNENDED = frozenset({"queued", "in_progress"})
FAILED = frozenset({"failed", "cancelled"})

# What of a Response says something of the answer that is read nowhere else; the rest repeats the request.
_OTHER = frozenset({"service_tier", "moderation", "tool_usage", "input_transformations", "prompt_cache_diagnostics"})


class AnswerReader:
    """Turns events into canonical ones; never raises.

    Args:
        names: Tools by the upstream's names for them, where the client knows them as something else.
        whole: Whether the answer is one body, not a stream.
    """

    def __init__(self, names: Mapping[str, ClientTool], *, whole: bool = False) -> None:
        self._builder = EventBuilder()
        self._items = OutputItems(self._builder, names)
        self._mend = TextMender(is_piecewise=not whole).mend
        self._done = False

    def take(self) -> list[ChatEvent]:
        return self._builder.take()

    def fail(self, error: Error) -> None:
        if not self._done:
            self._done = True
            self._builder.error(error)

    def end(self) -> None:
        """The upstream has ended; an answer that has not is cut short."""
        self.fail(cut_short())

    def read(self, name: bytes, data: bytes) -> None:
        """Reads one event of a stream.

        Args:
            name: The value of its `event:` line, which some servers give in place of a type.
        """
        if self._done or data == DONE:
            return
        data = self._mend(data)
        try:
            event = decode_event(data)
            self._read(event, text_of(event.type) or name.decode(errors="replace"), data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._fail_unreadable(data, error)

    def read_body(self, data: bytes) -> None:
        """Reads an answer that is one body."""
        data = self._mend(data)
        try:
            response = decode_response(data)
            if is_answer(response):
                self._end_with(response, data, text_of(response.status) or "completed")
            else:
                self.fail(read_error(200, {}, data))
        except msgspec.ValidationError as error:
            # What is no object is an error page.
            self.fail(unreadable(error) if data.lstrip().startswith(b"{") else read_error(200, {}, data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.fail(cut_short() if data.lstrip().startswith(b"{") else read_error(200, {}, data))

    def _fail_unreadable(self, data: bytes, error: Exception) -> None:
        # What is not JSON, clients pass over; only what was meant to be an event is missed.
        if data.lstrip().startswith(b"{"):
            self.fail(unreadable(error))

    def _read(self, event: Event, type_: str, data: bytes) -> None:
        items = self._items
        match type_:
            case "response.output_text.delta":
                items.delta(event, "text", "message")
            case "response.function_call_arguments.delta":
                items.delta(event, "input", "function_call")
            case "response.custom_tool_call_input.delta":
                items.delta(event, "input", "custom_tool_call")
            case "response.reasoning_summary_text.delta":
                items.delta(event, "summary", "reasoning")
            case "response.reasoning_text.delta":
                items.delta(event, "reasoning", "reasoning")
            case "response.refusal.delta":
                items.delta(event, "refusal", "message")
            case "response.output_item.added" if is_object(event.item):
                items.item_added(event)
            case "response.output_item.done" if is_object(event.item):
                index = event.output_index
                items.item_done(bytes(event.item), index if isinstance(index, int) else None)
            case _:
                self._read_rare(event, type_, data)

    def _read_rare(self, event: Event, type_: str, data: bytes) -> None:
        items = self._items
        match type_:
            case "response.output_text.done":
                items.done(event, "text", "message", text_of(event.text))
            case "response.refusal.done":
                items.done(event, "refusal", "message", text_of(event.refusal))
            case "response.function_call_arguments.done":
                items.done(event, "input", "function_call", json_or_text(event.arguments))
            case "response.custom_tool_call_input.done":
                items.done(event, "input", "custom_tool_call", text_of(event.input))
            case "response.reasoning_summary_text.done":
                items.done(event, "summary", "reasoning", text_of(event.text))
            case "response.reasoning_text.done":
                items.done(event, "reasoning", "reasoning", text_of(event.text))
            case "response.content_part.done" | "response.reasoning_summary_part.done" if is_object(event.part):
                items.part_done(event)
            case "response.output_text.annotation.added":
                items.annotation(event)
            case "response.created" | "response.in_progress" | "response.queued" if is_object(event.response):
                self._start(decode_response(event.response))
            case "error":
                self.fail(read_error(200, {}, data))
            case "" if is_error_event(data):
                self.fail(read_error(200, {}, data))
            case _:
                self._read_end(event, type_)

    def _read_end(self, event: Event, type_: str) -> None:
        status = type_.removeprefix("response.")
        if status not in ("completed", "incomplete", "failed", "cancelled", "done"):
            return
        raw = bytes(event.response)
        response = decode_response(raw) if is_present(event.response) else Response()
        if status == "done":
            status = text_of(response.status) or "completed"
        self._end_with(response, raw, status)

    def _start(self, response: Response) -> None:
        answer_id = text_of(response.id)
        self._items.name_answer(answer_id)
        self._builder.started(
            answer_id=answer_id, model=text_of(response.model), created=seconds_of(response.created_at)
        )

    def _end_with(self, response: Response, raw: bytes, status: str) -> None:
        """Ends the answer with its final object."""
        usage = read_usage(bytes(response.usage)) if is_present(response.usage) else None
        if status in FAILED or status in UNENDED:
            if usage is not None:
                self._builder.usage(usage)
            self.fail(cut_short() if status in UNENDED else read_failure(bytes(response.error)))
            return
        if not self._builder.has_started:
            self._start(response)
        self._items.finish(objects_in(response.output))
        self._done = True
        self._builder.close_blocks()
        if usage is not None:
            self._builder.usage(usage)
        finished = read_ending(
            incomplete_reason(response) if status == "incomplete" else None,
            has_tool=self._builder.has_tool(),
            has_refusal=self._builder.has_refusal(),
            goes_on=response.end_turn is False,
        )
        other = _other_fields(raw)
        if other:
            finished.extensions[NAME] = object_text(other)
        self._builder.finished(finished)


def is_answer(response: Response) -> bool:
    """Whether a body is a Response, and not an error."""
    return is_present(response.output) or (response.kind == "response" and isinstance(response.status, str))


def incomplete_reason(response: Response) -> str:
    """Why a Response is incomplete; empty when it does not say."""
    details = bytes(response.incomplete_details)
    reason = load_object(details).get("reason", b"") if details.startswith(b"{") else b""
    return msgspec.json.decode(reason, type=str) if reason.startswith(b'"') else ""


def seconds_of(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**63 else 0


def _other_fields(raw: bytes) -> Object:
    if not raw.startswith(b"{"):
        return {}
    return {name: value for name, value in load_object(raw).items() if name in _OTHER and value != b"null"}
