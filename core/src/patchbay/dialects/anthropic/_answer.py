"""Turns what an answer of the Messages API says into canonical events, streamed or whole."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from patchbay.canonical import (
    BlockStart,
    BlockStop,
    ChatEvent,
    CitationDelta,
    Error,
    OpaqueStart,
    Ping,
    RedactedThinkingStart,
    SignatureDelta,
    Started,
    TextDelta,
    ThinkingDelta,
    ToolInputDelta,
    ToolUseStart,
)
from patchbay.dialects.anthropic._errors import no_tool_call
from patchbay.dialects.anthropic._json import (
    NULL,
    Fields,
    is_null,
    load_fields,
    load_items,
    load_string,
    object_text,
    text_of,
)
from patchbay.dialects.anthropic._quirks import NAME
from patchbay.dialects.anthropic._stop_reasons import read_stop_reason
from patchbay.dialects.anthropic._usage import UsageReader
from patchbay.dialects.tool_names import ClientTool
from patchbay.dialects.wrapped_input import unwrapped_input

# What of a message is read elsewhere or says nothing; the rest rides along with the end of the answer.
_MESSAGE_FIELDS = ("type", "id", "role", "content", "model", "stop_reason", "stop_sequence", "usage")


class _BlockFields(msgspec.Struct):
    """A block's start. What a provider fills in its own way must not fail the answer, hence the loose types."""

    type: str = ""
    text: object = None
    citations: msgspec.Raw = NULL
    thinking: object = None
    signature: object = None
    data: object = None
    id: object = None
    name: object = None
    input: msgspec.Raw = NULL


class Delta(msgspec.Struct):
    """A delta of any type: the fields of its own are set."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    citation: msgspec.Raw = NULL


# The input at the start of a call whose input comes in deltas, or of one without any.
_NO_INPUT = (b"null", b"{}", b'""')

_decode_block = msgspec.json.Decoder(_BlockFields).decode


class _Open:
    """A block that the provider has started and not yet stopped."""

    __slots__ = ("held", "index", "kind", "late_input", "wrapped")

    def __init__(self, index: int, kind: str) -> None:
        self.index = index
        self.kind = kind
        # The whole input of a tool call, given at its start: it counts only when no deltas bring it.
        self.late_input = ""
        # The input so far of a call whose free text comes inside an object.
        self.wrapped: list[str] | None = None
        # The fields of an opaque block whose start waits for deltas that have no canonical form.
        self.held: Fields | None = None


class AnswerReader:
    """Builds the events of one answer. Call `take` for those built since the last call.

    The provider's own block numbers are not relied on: a delta of another kind than its block, or of no block, gets a
    block of its own.

    Args:
        names: Tools by the provider's names for them, where the client knows them as something else.
    """

    def __init__(self, names: Mapping[str, ClientTool]) -> None:
        self._names = names
        self._events: list[ChatEvent] = []
        self._open: dict[int, _Open] = {}
        self._next_index = 0
        self._started = False
        self._has_tool = False
        # A call of a kind that only this API knows, by the server or by the client.
        self._has_own_tool = False
        self._usage = UsageReader()
        self._stop_reason: str | None = None
        self._stop_sequence: str | None = None
        self._rest: Fields = {}
        # Finished, or ended by an error: nothing more may come.
        self.ended = False

    def take(self) -> list[ChatEvent]:
        events, self._events = self._events, []
        return events

    def start(self, message: Fields) -> None:
        """Opens the answer with the fields of its `message`; only the first call counts."""
        if not self._started:
            self._started = True
            started = Started(id=_string(message, "id") or "", model=_string(message, "model") or "")
            self._events.append(ChatEvent(started=started))
        self.usage(message.get("usage", NULL))
        self._keep_rest({name: value for name, value in message.items() if name not in _MESSAGE_FIELDS})

    def usage(self, raw: msgspec.Raw) -> None:
        if is_null(raw):
            return
        usage = self._usage.read(raw)
        if usage is not None:
            self._events.append(ChatEvent(usage=usage))

    def block_start(self, number: int, raw: msgspec.Raw) -> None:
        """Opens a block with what its start already holds."""
        block = _decode_block(raw)
        text_of(raw)  # Raises for what is no text, before anything is said.
        self._ensure_started()
        self.block_stop(number)
        match block.type:
            case "text":
                self._open_block(number, "text")
                self.text(number, _text(block.text))
                for citation in load_items(block.citations) if bytes(block.citations).startswith(b"[") else ():
                    self.citation(number, citation)
            case "thinking":
                self._open_block(number, "thinking")
                self.thinking(number, _text(block.thinking))
                self.signature(number, _text(block.signature))
            case "redacted_thinking":
                self._open_block(
                    number,
                    "redacted_thinking",
                    BlockStart(redacted_thinking=RedactedThinkingStart(data=_text(block.data))),
                )
            case "tool_use":
                name = _text(block.name)
                tool = self._names.get(name) or ClientTool(name)
                use = ToolUseStart(
                    id=_text(block.id), name=tool.name, namespace=tool.namespace, text_input=tool.is_wrapped
                )
                opened = self._open_block(number, "tool_use", BlockStart(tool_use=use))
                opened.wrapped = [] if tool.is_wrapped else None
                if bytes(block.input) not in _NO_INPUT:
                    opened.late_input = text_of(block.input)
                self._has_tool = True
            case _:
                opened = self._open[number] = _Open(self._take_index(), "opaque")
                opened.held = load_fields(raw)
                self._has_own_tool |= block.type.endswith("tool_use")

    def delta(self, number: int, delta: Delta, raw: Fields | None = None) -> None:
        """Adds a delta. `raw` holds its fields, for a type that is not known here."""
        match delta.type:
            case "text_delta":
                self.text(number, delta.text or "")
            case "input_json_delta":
                self.tool_input(number, delta.partial_json or "")
            case "thinking_delta":
                self.thinking(number, delta.thinking or "")
            case "signature_delta":
                self.signature(number, delta.signature or "")
            case "citations_delta":
                self.citation(number, delta.citation)
            case _:
                opened = self._open.get(number)
                if opened is not None and opened.held is not None and raw:
                    opened.held.update((name, value) for name, value in raw.items() if name != "type")

    def text(self, number: int, text: str) -> None:
        if text:
            index = self._ensure(number, "text").index
            self._events.append(ChatEvent(text_delta=TextDelta(index=index, text=text)))

    def thinking(self, number: int, text: str) -> None:
        if text:
            index = self._ensure(number, "thinking").index
            self._events.append(ChatEvent(thinking_delta=ThinkingDelta(index=index, text=text)))

    def signature(self, number: int, signature: str) -> None:
        if signature:
            index = self._ensure(number, "thinking").index
            self._events.append(ChatEvent(signature_delta=SignatureDelta(index=index, signature=signature)))

    def citation(self, number: int, raw: msgspec.Raw) -> None:
        if not is_null(raw):
            index = self._ensure(number, "text").index
            citation = CitationDelta(index=index, dialect=NAME, json=text_of(raw))
            self._events.append(ChatEvent(citation_delta=citation))

    def tool_input(self, number: int, text: str) -> None:
        opened = self._open.get(number)
        if not text or opened is None or opened.kind not in ("tool_use", "opaque"):
            return
        opened.late_input = ""
        if opened.wrapped is not None:
            opened.wrapped.append(text)
            return
        self._release(opened)
        self._events.append(ChatEvent(tool_input_delta=ToolInputDelta(index=opened.index, text=text)))

    def block_stop(self, number: int) -> None:
        opened = self._open.pop(number, None)
        if opened is None:
            return
        self._release(opened)
        late = opened.late_input
        if opened.wrapped is not None:
            late = unwrapped_input("".join(opened.wrapped) or late)
        if late:
            self._events.append(ChatEvent(tool_input_delta=ToolInputDelta(index=opened.index, text=late)))
        self._events.append(ChatEvent(block_stop=BlockStop(index=opened.index)))

    def stop(self, delta: Fields) -> None:
        """Takes the fields that say why the answer ends; the last value of each counts."""
        self._stop_reason = _string(delta, "stop_reason") or self._stop_reason
        self._stop_sequence = _string(delta, "stop_sequence") or self._stop_sequence
        self._keep_rest({name: value for name, value in delta.items() if name not in _MESSAGE_FIELDS})

    def finish(self) -> None:
        """Ends the answer."""
        self._ensure_started()
        for number in list(self._open):
            self.block_stop(number)
        finished = read_stop_reason(self._stop_reason, has_tool=self._has_tool)
        if finished.stop_reason == finished.STOP_REASON_TOOL_USE and not (self._has_tool or self._has_own_tool):
            self.fail(no_tool_call())
            return
        if self._stop_sequence is not None:
            finished.stop_sequence = self._stop_sequence
        if self._rest:
            finished.extensions[NAME] = object_text(self._rest)
        self._events.append(ChatEvent(finished=finished))
        self.ended = True

    def fail(self, error: Error) -> None:
        self._events.append(ChatEvent(error=error))
        self.ended = True

    def ping(self) -> None:
        self._events.append(ChatEvent(ping=Ping()))

    def _keep_rest(self, fields: Fields) -> None:
        self._rest.update((name, value) for name, value in fields.items() if bytes(value) != b"null")

    def _ensure_started(self) -> None:
        if not self._started:
            self._started = True
            self._events.append(ChatEvent(started=Started()))

    def _ensure(self, number: int, kind: str) -> _Open:
        opened = self._open.get(number)
        if opened is not None and opened.kind == kind:
            return opened
        self._ensure_started()
        self.block_stop(number)
        return self._open_block(number, kind)

    def _open_block(self, number: int, kind: str, start: BlockStart | None = None) -> _Open:
        opened = self._open[number] = _Open(self._take_index(), kind)
        if start is None:
            start = BlockStart()
            getattr(start, kind).SetInParent()
        start.index = opened.index
        self._events.append(ChatEvent(block_start=start))
        return opened

    def _take_index(self) -> int:
        self._next_index += 1
        return self._next_index - 1

    def _release(self, opened: _Open) -> None:
        """Lets the start of an opaque block out, once it is known to be complete."""
        if opened.held is None:
            return
        start = BlockStart(index=opened.index, opaque=OpaqueStart(dialect=NAME, json=object_text(opened.held)))
        opened.held = None
        self._events.append(ChatEvent(block_start=start))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _string(fields: Fields, name: str) -> str | None:
    raw = fields.get(name, NULL)
    try:
        return None if is_null(raw) else load_string(raw)
    except msgspec.ValidationError:
        return None
