"""What a request could not say, collected while it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from patchbay.canonical import Opaque, Sampling, Warning
from patchbay.dialects.hints import is_always_offered, is_hint

_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Warnings:
    """Each distinct warning once, in order.

    Args:
        dialect: The dialect that is written.
    """

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self._found: dict[tuple[str, str], None] = {}
        self._noted: dict[tuple[str, str], None] = {}

    def add(self, parameter: str, message: str) -> None:
        self._found[(parameter, message)] = None

    def dropped(self, parameter: str, reason: str = "is not supported by this backend") -> None:
        self.add(parameter, f"{parameter} {reason} and was left out")

    def dropped_tool(self, tool: Opaque) -> None:
        """Warns of a tool that only another provider has, and that is never offered as one for the client to run."""
        fields = msgspec.json.decode(tool.json)
        kind = fields.get("type") if isinstance(fields, dict) else None
        message = f"the tool {kind or tool.dialect} exists at another provider only and was left out"
        found = self._noted if is_always_offered(tool.dialect, kind) else self._found
        found[("tools", message)] = None

    def of_sampling(self, sampling: Sampling) -> None:
        """Warns of what only Chat Completions has a word for, unless it asks for what happens anyway."""
        if sampling.HasField("seed"):
            self.dropped("seed")
        if sampling.logit_bias_json not in ("", "{}"):
            self.dropped("logit_bias")
        if sampling.presence_penalty:
            self.dropped("presence_penalty")
        if sampling.frequency_penalty:
            self.dropped("frequency_penalty")
        if sampling.n > 1:
            self.dropped("n")

    def all(self) -> tuple[Warning, ...]:
        """What a backend with `strict_parameters` refuses."""
        return _warnings(self._found)

    def notes(self) -> tuple[Warning, ...]:
        """What is only told."""
        return _warnings(self._noted)

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


def _warnings(found: Iterable[tuple[str, str]]) -> tuple[Warning, ...]:
    return tuple(Warning(parameter=parameter, message=message) for parameter, message in found)
