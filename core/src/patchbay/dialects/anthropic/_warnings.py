"""What a request could not say, collected while it is written."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from patchbay.canonical import Warning
from patchbay.dialects.anthropic._json import Fields, load_fields
from patchbay.dialects.anthropic._quirks import NAME


class Warnings:
    """Each distinct warning once, in order."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], None] = {}

    def add(self, parameter: str, message: str) -> None:
        self._found[(parameter, message)] = None

    def dropped(self, parameter: str, reason: str = "is not supported by this backend") -> None:
        self.add(parameter, f"{parameter} {reason} and was left out")

    def all(self) -> tuple[Warning, ...]:
        return tuple(Warning(parameter=parameter, message=message) for parameter, message in self._found)

    def own_extension(self, extensions: Mapping[str, str]) -> Fields:
        """The fields that this dialect left in `extensions`; every field of another dialect is warned of."""
        own: Fields = {}
        for dialect in sorted(extensions):
            try:
                fields = load_fields(extensions[dialect])
            except msgspec.DecodeError:
                self.dropped(dialect)
                continue
            if dialect == NAME:
                own = fields
            else:
                for name in fields:
                    self.dropped(name)
        return own
