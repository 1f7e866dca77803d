"""The shape of a stream's events and of output items, as far as they are read.

Only what must have a type has one: a field that a server fills in its own way must not fail the answer.
Format: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

import msgspec

ABSENT = msgspec.Raw(b"null")


class Event(msgspec.Struct, gc=False):
    type: object = None
    item_id: object = None
    output_index: object = None
    content_index: object = None
    summary_index: object = None
    delta: object = None
    # What a `done` says, each kind under its own name.
    text: object = None
    refusal: object = None
    arguments: object = None
    input: object = None
    logprobs: msgspec.Raw = ABSENT
    annotation: msgspec.Raw = ABSENT
    part: msgspec.Raw = ABSENT
    item: msgspec.Raw = ABSENT
    response: msgspec.Raw = ABSENT


class Part(msgspec.Struct, gc=False):
    """A part of a message's content, or of a reasoning item's summary or content."""

    type: object = None
    text: object = None
    refusal: object = None
    annotations: msgspec.Raw = ABSENT
    logprobs: msgspec.Raw = ABSENT


class Item(msgspec.Struct, gc=False):
    type: object = None
    id: object = None
    role: object = None
    call_id: object = None
    name: object = None
    namespace: object = None
    arguments: msgspec.Raw = ABSENT
    input: object = None
    content: msgspec.Raw = ABSENT
    summary: msgspec.Raw = ABSENT
    encrypted_content: object = None


class Response(msgspec.Struct, gc=False):
    """A Response object, streamed or as a whole answer."""

    id: object = None
    kind: object = msgspec.field(default=None, name="object")
    created_at: object = None
    model: object = None
    status: object = None
    output: msgspec.Raw = ABSENT
    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    incomplete_details: msgspec.Raw = ABSENT
    end_turn: object = None


decode_event = msgspec.json.Decoder(Event).decode
decode_part = msgspec.json.Decoder(Part).decode
decode_item = msgspec.json.Decoder(Item).decode
decode_response = msgspec.json.Decoder(Response).decode

_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


def is_present(raw: msgspec.Raw) -> bool:
    return raw is not ABSENT and bytes(raw) != b"null"


def is_object(raw: msgspec.Raw) -> bool:
    return bytes(raw).startswith(b"{")


def objects_in(raw: msgspec.Raw) -> list[bytes]:
    """The objects of an array; none when it is something else."""
    text = bytes(raw)
    if not text.startswith(b"[") or text == b"[]":
        return []
    return [bytes(item) for item in _decode_list(text) if bytes(item).startswith(b"{")]


def text_of(value: object) -> str:
    return value if isinstance(value, str) else ""


def index_of(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
