"""What a request could not say, collected while it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from patchbay.canonical import Warning
from patchbay.dialects.openai_chat._json import Object, load_object
from patchbay.dialects.openai_chat._quirks import NAME


class Warnings:
    """Each distinct warning once, in order."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], None] = {}

    def add(self, parameter: str, message: str) -> None:
        self._found[(parameter, message)] = None

    def dropped(self, parameter: str) -> None:
        self.add(parameter, f"{parameter} is not supported by this backend and was left out")

    def all(self) -> tuple[Warning, ...]:
        return tuple(Warning(parameter=parameter, message=message) for parameter, message in self._found)

    def own_extension(self, extensions: Mapping[str, str], place: str = "") -> Object:
        """The fields that this dialect left in `extensions`; every field of another dialect is warned of."""
        own: Object = {}
        for dialect in sorted(extensions):
            fields = load_object(extensions[dialect])
            if dialect == NAME:
                own = fields
            else:
                self._foreign(fields, place)
        return own

    def _foreign(self, names: Iterable[str], place: str) -> None:
        for name in names:
            self.dropped(f"{place}{name}")
