"""Puts the output items of one answer together, from deltas, from what says they are done, or from both.

By the protocol an item is added, grows by deltas and is done, and every event names it by `item_id` and
`output_index`. Servers leave steps out, give an item another id in every event, or give every item the index 0; each
is understood here. Of what comes several times, the first counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

from patchbay.dialects.answer_call_ids import AnswerCallIds
from patchbay.dialects.builder import EventBuilder
from patchbay.dialects.json_text import dump_array, object_text
from patchbay.dialects.openai_responses._events import (
    Event,
    Item,
    Part,
    decode_item,
    decode_part,
    index_of,
    is_present,
    objects_in,
    text_of,
)
from patchbay.dialects.openai_responses._quirks import NAME
from patchbay.dialects.tool_names import ClientTool

CALLS = ("function_call", "custom_tool_call")
_KNOWN = frozenset({"message", "reasoning", *CALLS})

# What a piece of an item is: visible text, a refusal, a summary of reasoning or the reasoning itself, a call's input.
Kind: TypeAlias = Literal["text", "refusal", "summary", "reasoning", "input"]

_BLANK_LINE = "\n\n"


@dataclass(slots=True)
class _Piece:
    """One part of an item, or a call's input."""

    said: list[str] = field(default_factory=list)
    has_logprobs: bool = False
    citations: int = 0

    def rest_of(self, text: str) -> str:
        """What of the whole text has not been said. Another text than what was said adds nothing."""
        said = "".join(self.said)
        return text[len(said) :] if text.startswith(said) else ""


@dataclass(slots=True, eq=False)
class _Item:
    key: int
    type: str
    id: str = ""
    call_id: str = ""
    name: str = ""
    namespace: str = ""
    is_open: bool = False
    is_done: bool = False
    pieces: dict[tuple[Kind, int], _Piece] = field(default_factory=dict)
    # Of reasoning: the kind that is being read, and the part that was last.
    thinking: Kind | None = None
    last_part: int = -1
    # The item as it was added, of a type that is not known here.
    json: str = ""

    def piece(self, kind: Kind, index: int) -> _Piece:
        if kind == "input":
            index = 0
        piece = self.pieces.get((kind, index))
        if piece is None:
            piece = self.pieces[kind, index] = _Piece()
        return piece


class OutputItems:
    """The output items of one answer.

    Args:
        names: Tools by the upstream's names for them, where the client knows them as something else.
    """

    def __init__(self, builder: EventBuilder, names: Mapping[str, ClientTool]) -> None:
        self._builder = builder
        self._names = names
        self._ids = AnswerCallIds()
        self._all: list[_Item] = []
        self._by_id: dict[str, _Item] = {}
        self._by_call_id: dict[str, _Item] = {}
        self._by_index: dict[int, _Item] = {}
        # By type: those that are not done, by key, and the last of all.
        self._undone: dict[str, dict[int, _Item]] = {}
        self._last: dict[str, _Item] = {}
        # The part of a message that is being said.
        self._saying: tuple[int, int] | None = None

    def name_answer(self, answer_id: str) -> None:
        self._ids.name_answer(answer_id)

    def delta(self, event: Event, kind: Kind, type_: str) -> None:
        """Adds a piece to an item of this type."""
        self._say(
            self._named(event, type_), kind, _part_index(event), text_of(event.delta), _logprobs_of(event.logprobs)
        )

    def done(self, event: Event, kind: Kind, type_: str, text: str) -> None:
        """Adds what is missing of a piece, now that all of it is told."""
        item = self._named(event, type_, may_be_done=True)
        self._complete(item, kind, _part_index(event), text, _logprobs_of(event.logprobs))

    def part_done(self, event: Event) -> None:
        """Reads a whole part of a message or of reasoning."""
        part = decode_part(event.part)
        match part.type:
            case "output_text" | "refusal":
                item = self._named(event, "message", may_be_done=True)
                self._message_part(item, _part_index(event), part)
            case "summary_text":
                self.done(event, "summary", "reasoning", text_of(part.text))
            case "reasoning_text":
                self.done(event, "reasoning", "reasoning", text_of(part.text))

    def annotation(self, event: Event) -> None:
        if is_present(event.annotation):
            item = self._named(event, "message", may_be_done=True)
            self._cite(item, _part_index(event), [bytes(event.annotation)])

    def item_added(self, event: Event) -> None:
        """Opens an item; what it says already is said again when it is done."""
        fields = decode_item(event.item)
        type_ = text_of(fields.type)
        index = index_of(event.output_index)
        item = self._by_name(fields, type_)
        if item is None:
            item = self._of_index(index, type_, fields)
            if item is None or (item.id and item.id != fields.id):
                item = self._add(type_, index)
        self._name(item, fields)
        if type_ not in _KNOWN:
            item.json = bytes(event.item).decode()
        elif type_ in CALLS and item.name and not item.is_open:
            self._open(item)

    def item_done(self, raw: bytes, index: int | None) -> None:
        """Reads a whole item, and adds what has not been said of it."""
        fields = decode_item(raw)
        type_ = text_of(fields.type)
        item = self._by_name(fields, type_) or self._of_index(index, type_, fields)
        if item is None and index is None:
            item = self._last_undone(type_, text_of(fields.call_id))
        self._finish_item(item or self._add(type_, index), fields, raw)

    def finish(self, output: Iterable[bytes]) -> None:
        """Ends the answer: what its final object has and the stream did not say is added, and open items end.

        Servers give an item another id here, or leave some out: what has no counterpart by its id has one by its place
        among the items of its type.
        """
        whole = [(raw, decode_item(raw)) for raw in output]
        named = [self._by_name(fields, text_of(fields.type)) for _, fields in whole]
        by_name = {item.key for item in named if item is not None}
        unmatched: dict[str, deque[_Item]] = {}
        for item in self._all:
            if item.key not in by_name:
                unmatched.setdefault(item.type, deque()).append(item)
        for (raw, fields), found in zip(whole, named, strict=True):
            type_ = text_of(fields.type)
            if found is None:
                of_type = unmatched.get(type_)
                found = of_type.popleft() if of_type else self._add(type_, None)
            self._finish_item(found, fields, raw)
        for item in self._all:
            if item.type in CALLS and not item.is_open:
                self._open(item)
            elif item.json and not item.is_done:
                self._builder.opaque(NAME, item.json)

    def _finish_item(self, item: _Item, fields: Item, raw: bytes) -> None:
        if item.is_done:
            return
        self._name(item, fields)
        item.is_done = True
        del self._undone[item.type][item.key]
        match item.type:
            case "message":
                for number, part in enumerate(objects_in(fields.content)):
                    self._message_part(item, number, decode_part(part), part)
            case "reasoning":
                self._reasoning_done(item, fields)
            case "function_call":
                self._call_done(item, json_or_text(fields.arguments))
            case "custom_tool_call":
                self._call_done(item, text_of(fields.input))
            case _:
                self._builder.opaque(NAME, raw.decode())

    def _message_part(self, item: _Item, number: int, part: Part, raw: bytes = b"") -> None:
        """Adds what is missing of a whole part; `raw` is given where the part comes for the last time."""
        match part.type:
            case "output_text":
                self._complete(item, "text", number, text_of(part.text), _logprobs_of(part.logprobs))
                cited = item.piece("text", number).citations
                self._cite(item, number, objects_in(part.annotations)[cited:])
            case "refusal":
                self._complete(item, "refusal", number, text_of(part.refusal), None)
            case _ if raw:
                whole = {"type": b'"message"', "role": b'"assistant"', "content": dump_array([raw])}
                self._builder.opaque(NAME, object_text(whole))

    def _reasoning_done(self, item: _Item, fields: Item) -> None:
        whole: tuple[tuple[Kind, msgspec.Raw], ...] = (("summary", fields.summary), ("reasoning", fields.content))
        for kind, parts in whole:
            for number, part in enumerate(objects_in(parts)):
                self._complete(item, kind, number, text_of(decode_part(part).text), None)
        self._builder.signature(text_of(fields.encrypted_content), part=item.key)
        if self._builder.is_thinking():
            self._builder.close_prose()

    def _call_done(self, item: _Item, text: str) -> None:
        if not item.is_open:
            self._open(item)
        self._complete(item, "input", 0, text, None)
        self._builder.close_tool(item.key)

    def _complete(self, item: _Item, kind: Kind, index: int, text: str, logprobs: str | None) -> None:
        piece = item.piece(kind, index)
        rest = piece.rest_of(text)
        self._say(item, kind, index, rest, None if piece.has_logprobs else logprobs)

    def _say(self, item: _Item, kind: Kind, index: int, text: str, logprobs: str | None) -> None:
        if not text and logprobs is None:
            return
        if kind in ("summary", "reasoning"):
            self._think(item, kind, index, text)
            return
        piece = item.piece(kind, index)
        piece.said.append(text)
        if kind == "input":
            if item.is_open and self._builder.has_open_tool(item.key):
                self._builder.tool_input(item.key, text)
            return
        self._enter(item, index)
        if kind == "text":
            piece.has_logprobs = piece.has_logprobs or logprobs is not None
            self._builder.text(text, logprobs_json=logprobs)
        else:
            self._builder.refusal(text)

    def _think(self, item: _Item, kind: Kind, index: int, text: str) -> None:
        """Adds to an item's thinking: its summary, or the reasoning itself where that came first."""
        item.thinking = item.thinking or kind
        if item.thinking != kind or not text:
            return
        item.piece(kind, index).said.append(text)
        if item.last_part not in (-1, index):
            text = _BLANK_LINE + text
        item.last_part = index
        self._builder.thinking(text, part=item.key)

    def _cite(self, item: _Item, index: int, annotations: list[bytes]) -> None:
        for annotation in annotations:
            self._enter(item, index)
            item.piece("text", index).citations += 1
            self._builder.citation(NAME, annotation.decode())

    def _enter(self, item: _Item, index: int) -> None:
        """Begins a block for each part of a message."""
        if self._saying != (item.key, index):
            self._saying = (item.key, index)
            self._builder.close_prose()

    def _open(self, item: _Item) -> None:
        item.is_open = True
        tool = self._names.get(item.name) or ClientTool(item.name)
        if item.namespace and not tool.namespace:
            tool = tool._replace(namespace=item.namespace)
        self._builder.tool_call(
            item.key,
            call_id=self._ids.unique(item.call_id, item.key, f"{item.key}/{item.name}"),
            tool=tool,
            text_input=item.type == "custom_tool_call",
        )
        self._builder.tool_input(item.key, "".join(item.piece("input", 0).said))

    def _named(self, event: Event, type_: str, *, may_be_done: bool = False) -> _Item:
        """The item of this type that an event names, else the last that may be meant; a new one if there is none."""
        item = self._by_id.get(event.item_id) if isinstance(event.item_id, str) else None
        if item is not None and item.type == type_:
            return item
        index = index_of(event.output_index)
        item = self._by_index.get(index) if index is not None else None
        if item is None or item.type != type_ or (item.is_done and not may_be_done):
            item = None
            if index is None or index in self._by_index:
                item = self._last.get(type_) if may_be_done else self._last_undone(type_)
        if item is None:
            item = self._add(type_, index)
            self._name(item, Item(id=event.item_id))
        return item

    def _by_name(self, fields: Item, type_: str) -> _Item | None:
        for name, table in ((fields.id, self._by_id), (fields.call_id, self._by_call_id)):
            item = table.get(name) if isinstance(name, str) else None
            if item is not None and item.type == type_:
                return item
        return None

    def _of_index(self, index: int | None, type_: str, fields: Item) -> _Item | None:
        """The item that is open at this place, unless it is plainly another one."""
        item = self._by_index.get(index) if index is not None else None
        if item is None or item.type != type_ or item.is_done:
            return None
        return None if item.call_id and text_of(fields.call_id) not in ("", item.call_id) else item

    def _last_undone(self, type_: str, call_id: str = "") -> _Item | None:
        """The last item of this type that is not done, unless it is plainly another call."""
        for item in reversed(self._undone.get(type_, {}).values()):
            if not call_id or item.call_id in ("", call_id):
                return item
        return None

    def _add(self, type_: str, index: int | None) -> _Item:
        item = _Item(len(self._all), type_)
        self._all.append(item)
        self._undone.setdefault(type_, {})[item.key] = item
        self._last[type_] = item
        if index is not None:
            self._by_index[index] = item
        return item

    def _name(self, item: _Item, fields: Item) -> None:
        """Takes what an item is called; the first name of each kind counts."""
        item.id = item.id or text_of(fields.id)
        item.call_id = item.call_id or text_of(fields.call_id)
        item.name = item.name or text_of(fields.name)
        item.namespace = item.namespace or text_of(fields.namespace)
        if item.id:
            self._by_id.setdefault(item.id, item)
        if item.call_id:
            self._by_call_id.setdefault(item.call_id, item)


def json_or_text(value: object) -> str:
    """A call's arguments; some servers send an object in place of its text."""
    if isinstance(value, str):
        return value
    raw = bytes(value) if isinstance(value, msgspec.Raw) else msgspec.json.encode(value)
    if raw.startswith(b'"'):
        return msgspec.json.decode(raw, type=str)
    return "" if raw == b"null" else raw.decode()


def _part_index(event: Event) -> int:
    index = index_of(event.content_index)
    if index is None:
        index = index_of(event.summary_index)
    return index or 0


def _logprobs_of(raw: msgspec.Raw) -> str | None:
    text = bytes(raw)
    return text.decode() if text.startswith(b"[") and text != b"[]" else None
