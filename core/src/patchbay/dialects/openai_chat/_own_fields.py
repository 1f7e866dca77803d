"""Message fields that only this dialect knows, put together from the pieces of an answer."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from patchbay.dialects.json_text import Object, dump, dump_array, dump_object, load_array, load_object

# The fields of a streamed audio answer that come in pieces.
_PIECEWISE = ("data", "transcript")


class OwnFields:
    """Collects fields: the items of lists, the fields of objects, else the first value."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[bytes]] = {}

    def add(self, text: str) -> None:
        """Adds the fields of a JSON object."""
        for name, value in load_object(text).items():
            self._pieces.setdefault(name, []).append(value)

    def add_annotation(self, text: str) -> None:
        """Adds one JSON object to the list of `annotations`."""
        self._pieces.setdefault("annotations", []).append(dump_array([text.encode()]))

    def add_to(self, message: Object) -> None:
        """Adds what was collected to the fields of a message, after those that are there."""
        for name, pieces in self._pieces.items():
            message[name] = _join([message[name], *pieces] if name in message else pieces)


def _join(pieces: Sequence[bytes]) -> bytes:
    first = pieces[0]
    alike = [piece for piece in pieces if piece[:1] == first[:1]]
    if len(alike) == 1:
        return first
    if first.startswith(b"["):
        return dump_array([item for piece in alike for item in load_array(piece)])
    return dump_object(_join_objects(alike)) if first.startswith(b"{") else first


def _join_objects(pieces: Sequence[bytes]) -> Object:
    joined: Object = {}
    texts: dict[str, list[str]] = {}
    for piece in pieces:
        for name, value in load_object(piece).items():
            joined[name] = value
            if name in _PIECEWISE and value.startswith(b'"'):
                texts.setdefault(name, []).append(msgspec.json.decode(value, type=str))
    return joined | {name: dump("".join(found)) for name, found in texts.items()}
