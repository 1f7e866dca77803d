"""JSON objects whose parts keep their exact text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

# An object being written: strings, numbers, nested objects, and msgspec.Raw for JSON that is only carried.
Object: TypeAlias = dict[str, object]
# An object read one level deep.
Fields: TypeAlias = dict[str, msgspec.Raw]

NULL = msgspec.Raw(b"null")

dump = msgspec.json.Encoder().encode
load_fields = msgspec.json.Decoder(Fields).decode
load_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
load_string = msgspec.json.Decoder(str).decode


def is_null(raw: msgspec.Raw) -> bool:
    return raw is NULL or bytes(raw) == b"null"


def text_of(raw: msgspec.Raw) -> str:
    """The JSON text itself."""
    return bytes(raw).decode()


def object_text(fields: Mapping[str, msgspec.Raw]) -> str:
    """One JSON object of fields whose values keep their text."""
    return dump(fields).decode()


def carried(text: str) -> msgspec.Raw:
    """A JSON text to be embedded as it is."""
    return msgspec.Raw(text.encode())


def one_line(text: str) -> str:
    """The same JSON without line breaks, as a frame of a stream needs it."""
    return msgspec.json.format(text, indent=-1) if "\n" in text or "\r" in text else text


def add_missing(target: Object, more: Fields) -> None:
    """Adds the fields that `target` lacks, also inside the objects that both have."""
    for name, value in more.items():
        mine = target.get(name)
        if name not in target:
            target[name] = value
        elif isinstance(mine, dict) and bytes(value).startswith(b"{"):
            add_missing(mine, load_fields(value))
