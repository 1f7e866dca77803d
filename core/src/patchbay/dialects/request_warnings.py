"""What a request could not say, collected while it is written."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from patchbay.canonical import Warning
from patchbay.dialects.hints import is_hint

_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Warnings:
    """Each distinct warning once, in order.

    Args:
        dialect: The dialect that is written.
    """

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self._found: dict[tuple[str, str], None] = {}

    def add(self, parameter: str, message: str) -> None:
        self._found[(parameter, message)] = None

    def dropped(self, parameter: str, reason: str = "is not supported by this backend") -> None:
        self.add(parameter, f"{parameter} {reason} and was left out")

    def all(self) -> tuple[Warning, ...]:
        return tuple(Warning(parameter=parameter, message=message) for parameter, message in self._found)

    def own_extension(self, extensions: Mapping[str, str], place: str = "") -> str:
        """The JSON object that this dialect left in `extensions`; the fields of other dialects are warned of.

        Args:
            place: Where the fields are in the body, for the warnings: `messages.`.

        Raises:
            msgspec.DecodeError: When another dialect's is no JSON object.
        """
        for dialect in sorted(extensions.keys() - {self._dialect}):
            for name, value in _fields_of(extensions[dialect]).items():
                if not is_hint(dialect, name, bytes(value)):
                    self.dropped(place + name)
        return extensions.get(self._dialect, "{}")
