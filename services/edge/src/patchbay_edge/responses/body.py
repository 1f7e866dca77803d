"""The body of a request of the Responses API, as far as turns need it: its input, item by item.

Format: https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import msgspec

from patchbay.dialects.json_text import dump_object
from patchbay.dialects.native import set_top_level
from patchbay.errors import InvalidRequest

T = TypeVar("T")

_NULL = msgspec.Raw(b"null")
_NO_FIELDS: Mapping[str, bytes] = MappingProxyType({})

# What only a model says. A request that holds any of it was written by a client that keeps the conversation itself.
_MODELS_OWN = frozenset({"function_call", "custom_tool_call", "reasoning", "compaction", "item_reference"})


class _Head(msgspec.Struct):
    input: msgspec.Raw = _NULL
    messages: msgspec.Raw = _NULL
    previous_response_id: msgspec.Raw = _NULL
    store: msgspec.Raw = _NULL


class _Part(msgspec.Struct):
    text: object = None


class _Item(msgspec.Struct):
    """What tells items apart that different clients write in different ways."""

    type: object = "message"
    role: object = None
    content: msgspec.Raw = _NULL
    call_id: object = None
    encrypted_content: object = None
    id: object = None


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_item = msgspec.json.Decoder(_Item).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_parts = msgspec.json.Decoder(list[_Part]).decode
_decode_string = msgspec.json.Decoder(str).decode


@dataclass(frozen=True, slots=True)
class ResponsesBody:
    """A client's request.

    Attributes:
        body: The request as it came, but for `messages` in place of `input`.
        items: Its input, each item as JSON.
        previous_response_id: The response to go on from; None: none.
        store: Whether the client wants the response kept; None: it does not say.
    """

    body: bytes
    items: list[bytes]
    previous_response_id: str | None
    store: bool | None

    def written(self, items: Sequence[bytes], *, goes_on: bool, fields: Mapping[str, bytes] = _NO_FIELDS) -> bytes:
        """The body with other items; the very one that came where that changes nothing.

        Args:
            goes_on: Whether it still goes on from `previous_response_id`.
            fields: More fields to set, each as JSON.
        """
        changed = dict(fields)
        if self.previous_response_id is not None and not goes_on:
            changed["previous_response_id"] = b"null"
        if items == self.items:
            return set_top_level(self.body, changed) if changed else self.body
        # The client's own body is short, what comes before it may be long: that is put in last, and not read again.
        whole = {name: bytes(value) for name, value in _decode_fields(self.body).items()} | changed
        whole["input"] = b"[" + b",".join(items) + b"]"
        return dump_object(whole)

    def repeated(self, kept: Sequence[bytes]) -> int:
        """How many of the first items only repeat what is kept: all of it, or else none is said to."""
        # Mostly the first item tells that nothing is repeated, and then a long conversation need not be read.
        signs = map(_sign_of, kept)
        # Reasoning is often left out of what is sent back.
        thought = set()
        position = 0
        for said in signs:
            if said[0] == "reasoning":
                thought.add(said)
                continue
            while (own := self._sign_at(position)) in thought:
                position += 1
            if own != said:
                return 0
            position += 1
        while self._sign_at(position) in thought:
            position += 1
        return position

    def _sign_at(self, position: int) -> tuple[object, ...] | None:
        return _sign_of(self.items[position]) if position < len(self.items) else None

    def is_whole_conversation(self, kept: Sequence[bytes]) -> bool:
        """Whether the client keeps the conversation itself, though it no longer begins with what is kept of it.

        That is what a client sends that has shortened it, and then nothing of what is kept is to come back.
        """
        own = [_sign_of(item) for item in self.items]
        return any(map(_is_models_own, own)) or (len(own) > 1 and own[0] in [_sign_of(item) for item in kept[:1]])


def read_body(body: bytes, *, takes_messages: bool = False) -> ResponsesBody:
    """Reads a request.

    Args:
        takes_messages: Whether `messages` may stand in place of `input`.

    Raises:
        InvalidRequest: It is no JSON object, or a field that matters here is of another type than it should be.
    """
    try:
        head = _decode_head(body)
        if takes_messages and bytes(head.input) == b"null" and bytes(head.messages) != b"null":
            body = _renamed(body)
            head = _decode_head(body)
        items = _items(bytes(head.input))
        previous = _optional(head.previous_response_id, str, "previous_response_id", "a string")
        store = _optional(head.store, bool, "store", "a boolean")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"We could not parse the JSON body of your request: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("The body of your request is nested too deeply.") from error
    return ResponsesBody(body, items, previous, store)


def _renamed(body: bytes) -> bytes:
    fields = _decode_fields(body)
    renamed = {"input" if name == "messages" else name: value for name, value in fields.items() if name != "input"}
    return msgspec.json.encode(renamed)


def _items(value: bytes) -> list[bytes]:
    if value == b"null":
        return []
    if value.startswith(b'"'):
        return [b'{"type":"message","role":"user","content":' + value + b"}"]
    if not value.startswith(b"["):
        raise InvalidRequest("Invalid type for 'input': expected a string or an array of items.", "input")
    return [bytes(item) for item in _decode_items(value)]


def _optional(raw: msgspec.Raw, kind: type[T], name: str, expected: str) -> T | None:
    if bytes(raw) == b"null":
        return None
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"Invalid type for '{name}': expected {expected}.", name) from error


def _sign_of(item: bytes) -> tuple[object, ...]:
    """What stays the same of an item when a client sends it back: ids, states and empty fields do not."""
    try:
        return _read_sign(item)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ("unreadable", item)


def _read_sign(item: bytes) -> tuple[object, ...]:
    fields = _decode_item(item)
    kind = fields.type if isinstance(fields.type, str) else "message"
    if kind == "message":
        return (kind, _word(fields.role), _text_of(fields.content))
    own = _word(fields.encrypted_content) or _word(fields.id)
    if kind == "reasoning":
        return (kind, own)
    return (kind, _word(fields.call_id) or own or item)


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _text_of(content: msgspec.Raw) -> object:
    raw = bytes(content)
    if raw.startswith(b'"'):
        return _decode_string(raw)
    try:
        texts = [part.text for part in _decode_parts(raw)]
    except msgspec.DecodeError:
        return raw
    # Parts without text, such as images, are told apart by their number and place.
    return "".join(text if isinstance(text, str) else "\0" for text in texts)


def _is_models_own(sign: tuple[object, ...]) -> bool:
    return sign[0] in _MODELS_OWN or sign[:2] == ("message", "assistant")
