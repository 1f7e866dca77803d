"""Takes a client's JSON object apart, field by field, with errors that name the field as OpenAI's do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from patchbay.dialects.json_text import dump_object, load_array, load_object
from patchbay.dialects.surrogates import mend_text
from patchbay.errors import InvalidRequest

T = TypeVar("T")

_KINDS = {
    ord('"'): "a string",
    ord("{"): "an object",
    ord("["): "an array",
    ord("t"): "a boolean",
    ord("f"): "a boolean",
    ord("n"): "null",
}

_string = msgspec.json.Decoder(str).decode
_boolean = msgspec.json.Decoder(bool).decode
_number = msgspec.json.Decoder(float).decode
_integer = msgspec.json.Decoder(int).decode

_MAX_INT64 = 2**63 - 1


class Fields:
    """One JSON object. A field asked for is taken out, and null is as good as absent; `rest` is what nobody asked for.

    Args:
        fields: Name -> value as JSON text.
        path: Where the object is in the body, for example `messages[0].`; empty for the body itself.
    """

    def __init__(self, fields: dict[str, bytes], path: str = "") -> None:
        self._fields = fields
        self._path = path

    @classmethod
    def of(cls, text: bytes, path: str) -> Fields:
        """Reads the object `text`, which is the value at `path`."""
        if not text.startswith(b"{"):
            raise wrong_type(path, "an object", text)
        return cls(load_object(text), path + ".")

    def at(self, name: str) -> str:
        """The path of one of the object's fields."""
        return self._path + name

    def has(self, name: str) -> bool:
        return self._fields.get(name, b"null") != b"null"

    def raw(self, name: str) -> bytes | None:
        value = self._fields.pop(name, b"null")
        return None if value == b"null" else value

    def text(self, name: str) -> str | None:
        """A carried JSON value, as text."""
        value = self.raw(name)
        return None if value is None else value.decode()

    def string(self, name: str) -> str | None:
        value = self.raw(name)
        if value is None:
            return None
        if not value.startswith(b'"'):
            raise wrong_type(self.at(name), "a string", value)
        return _string(value)

    def required_string(self, name: str) -> str:
        return self.required(name, self.string(name))

    def required(self, name: str, value: T | None) -> T:
        if value is None:
            raise missing(self.at(name))
        return value

    def boolean(self, name: str) -> bool | None:
        value = self.raw(name)
        if value is None:
            return None
        if value not in (b"true", b"false"):
            raise wrong_type(self.at(name), "a boolean", value)
        return _boolean(value)

    def number(self, name: str) -> float | None:
        value = self.raw(name)
        if value is None:
            return None
        try:
            return _number(value)
        except msgspec.DecodeError as error:
            raise wrong_type(self.at(name), "a number", value) from error

    def integer(self, name: str, *, minimum: int = 0, maximum: int = _MAX_INT64) -> int | None:
        value = self.raw(name)
        if value is None:
            return None
        try:
            number = _integer(value)
        except msgspec.DecodeError as error:
            raise wrong_type(self.at(name), "an integer", value) from error
        if not minimum <= number <= maximum:
            raise InvalidRequest(
                f"Invalid '{self.at(name)}': expected an integer from {minimum} to {maximum}, but got {number}.",
                self.at(name),
            )
        return number

    def object(self, name: str) -> Fields | None:
        value = self.raw(name)
        return None if value is None else Fields.of(value, self.at(name))

    def array(self, name: str) -> list[bytes] | None:
        value = self.raw(name)
        if value is None:
            return None
        if not value.startswith(b"["):
            raise wrong_type(self.at(name), "an array", value)
        return load_array(value)

    def put_back(self, name: str, rest: Mapping[str, bytes]) -> None:
        """Leaves what is left of a field's object, so that it counts as unknown."""
        if rest:
            self._fields[name] = dump_object(rest)

    def rest(self) -> dict[str, bytes]:
        """The fields not asked for."""
        return self._fields


def read_body(body: bytes, read: Callable[[Fields], T]) -> T:
    """What `read` makes of a client's body.

    Raises:
        InvalidRequest: As `read` does, and when the body is no JSON object in UTF-8.
    """
    try:
        # Texts of the body are carried as they are: one that is no UTF-8 could not be.
        body.decode()
        return read(Fields(load_object(mend_text(body))))
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body of your request is not valid UTF-8: {error}") from error
    except msgspec.ValidationError as error:
        raise InvalidRequest("The body of your request must be a JSON object.") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"We could not parse the JSON body of your request: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("The body of your request is nested too deeply.") from error


def kind_of(value: bytes) -> str:
    return _KINDS.get(value[0], "a number" if b"." in value or b"e" in value else "an integer")


def wrong_type(path: str, expected: str, value: bytes) -> InvalidRequest:
    return InvalidRequest(f"Invalid type for '{path}': expected {expected}, but got {kind_of(value)} instead.", path)


def missing(path: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{path}'.", path)


def unsupported_value(path: str, value: str, supported: tuple[str, ...]) -> InvalidRequest:
    names = ", ".join(f"'{name}'" for name in supported)
    return InvalidRequest(f"Invalid value: '{value}'. Supported values are: {names}.", path)
