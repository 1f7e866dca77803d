"""JSON texts put together and taken apart without touching the values inside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import msgspec

# A JSON object: name -> value as a JSON text.
Object: TypeAlias = dict[str, bytes]

dump = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def load_object(text: bytes | str) -> Object:
    """The fields of a JSON object, each value as its exact text.

    Raises:
        msgspec.DecodeError: When it is not a JSON object.
    """
    return {name: bytes(value) for name, value in _decode_object(text).items()}


def load_array(text: bytes | str) -> list[bytes]:
    """The items of a JSON array, each as its exact text.

    Raises:
        msgspec.DecodeError: When it is not a JSON array.
    """
    return [bytes(item) for item in _decode_array(text)]


def dump_object(fields: Mapping[str, bytes]) -> bytes:
    return b"{" + b",".join([dump(name) + b":" + value for name, value in fields.items()]) + b"}"


def dump_array(items: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def object_text(fields: Mapping[str, bytes]) -> str:
    return dump_object(fields).decode()


def add_missing(fields: Object, more: Mapping[str, bytes]) -> None:
    """Adds the fields of `more` that `fields` lacks, inside objects that both have too."""
    for name, value in more.items():
        if name not in fields:
            fields[name] = value
        elif value.startswith(b"{") and fields[name].startswith(b"{"):
            inner = load_object(fields[name])
            add_missing(inner, load_object(value))
            fields[name] = dump_object(inner)


def one_line(text: bytes) -> bytes:
    """A JSON text without line ends, which a frame of a stream may not hold; one that has none as it is."""
    return msgspec.json.format(text, indent=-1) if b"\n" in text or b"\r" in text else text
