"""Objects of the Messages API, decoded into typed structs, with the fields that no struct knows set apart."""

from __future__ import annotations

import re
from typing import Generic, TypeVar

import msgspec

from patchbay.dialects.anthropic._json import Fields, dump, load_fields, load_string
from patchbay.errors import InvalidRequest

T = TypeVar("T", bound=msgspec.Struct)

# The wording of msgspec, to be said as the API says it. Its texts end with the place: "... - at `$.source.data`".
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<place>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$")
_EXPECTED = re.compile(r"^Expected `(?P<type>[a-z]+)[^`]*`(?P<bound>[^,]*)(?:, got `(?P<got>.*)`)?$")

_TYPE_NAMES = {
    "str": "a valid string",
    "int": "a valid integer",
    "float": "a valid number",
    "bool": "a valid boolean",
    "array": "a valid list",
    "object": "a valid dictionary",
}


class Shape(Generic[T]):
    """One or more structs to decode an object into: by its `type`, where the structs have a tag.

    The structs forbid unknown fields, so the usual object costs one decoding; only an object with more in it is taken
    apart.
    """

    def __init__(self, *structs: type[T]) -> None:
        union: type[T] = structs[0]
        for struct in structs[1:]:
            union = union | struct  # type: ignore[assignment]
        self._decode = msgspec.json.Decoder(union).decode
        self._tagged = structs[0].__struct_config__.tag is not None
        self._known: dict[str, frozenset[str]] = {}
        for struct in structs:
            names = frozenset(struct.__struct_encode_fields__)
            self._known[str(struct.__struct_config__.tag or "")] = names | {"type"} if self._tagged else names

    def read(self, raw: msgspec.Raw | bytes, path: str) -> tuple[T | None, Fields]:
        """The struct and the fields it does not know; None for a `type` that no struct has, with nothing set apart.

        Raises:
            InvalidRequest: A field is missing or of the wrong type; `path` leads to the object.
        """
        try:
            return self._decode(raw), {}
        except msgspec.ValidationError:
            return self._read_unusual(raw, path)

    def _read_unusual(self, raw: msgspec.Raw | bytes, path: str) -> tuple[T | None, Fields]:
        try:
            fields = load_fields(raw)
        except msgspec.ValidationError as error:
            raise invalid(error, path) from error
        known = self._known.get(self._tag(fields, path))
        if known is None:
            return None, {}
        # A null says nothing more than an absent field does.
        mine = {name: value for name, value in fields.items() if name in known and bytes(value) != b"null"}
        rest = {name: value for name, value in fields.items() if name not in known}
        try:
            return self._decode(dump(mine)), rest
        except msgspec.ValidationError as error:
            raise invalid(error, path) from error

    def _tag(self, fields: Fields, path: str) -> str:
        if not self._tagged:
            return ""
        if "type" not in fields:
            raise InvalidRequest(f"{join(path, 'type')}: Field required", join(path, "type"))
        try:
            return load_string(fields["type"])
        except msgspec.ValidationError as error:
            raise invalid(error, join(path, "type")) from error


def invalid(error: msgspec.ValidationError, path: str) -> InvalidRequest:
    """The error as the API words it, with the field's path from the top of the body."""
    match = _PLACE.match(str(error))
    what = match["what"] if match else str(error)
    place = (match["place"] if match else None) or "$"
    path = join(path, place.removeprefix("$").replace("[", ".").replace("]", "").lstrip("."))
    missing = _MISSING.match(what)
    if missing:
        path = join(path, missing["name"])
        return InvalidRequest(f"{path}: Field required", path)
    expected = _EXPECTED.match(what)
    if expected:
        what = f"Input should be {_TYPE_NAMES.get(expected['type'], expected['type'])}"
        if expected["bound"].strip():
            what += f" {expected['bound'].strip()}"
    return InvalidRequest(f"{path or 'body'}: {what}", path or None)


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
