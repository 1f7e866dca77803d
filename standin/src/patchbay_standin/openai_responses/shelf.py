"""What is kept of responses, for those that go on from them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from dataclasses import dataclass
from typing import Final, Protocol

from patchbay_standin.script import JsonObject

MAX_RESPONSES: Final = 1_000
MAX_CHARACTERS: Final = 32_000_000


@dataclass(frozen=True, slots=True)
class Kept:
    """One response."""

    id: str
    response: JsonObject
    # What the request brought, each item with an id.
    input: list[JsonObject]
    # The whole conversation: what came before, the input, and the output.
    items: list[JsonObject]
    # An estimate of its size.
    characters: int


class Memory(Protocol):
    """Where a request finds the response that it goes on from, and its own is kept."""

    @property
    def item_ids(self) -> Container[str]:
        """The ids of the items that may be referred to."""

    def find(self, identity: str) -> Kept | None:
        """A response that was kept."""

    def keep(self, kept: Kept, *, store: bool) -> None:
        """Keeps a response; `store`: beyond the connection."""


class Shelf:
    """The stored responses of all clients, bounded in number and size: the oldest go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._characters = 0
        self._item_ids: dict[str, int] = {}

    @property
    def item_ids(self) -> Container[str]:
        """The ids of all stored output items."""
        return self._item_ids

    def find(self, identity: str) -> Kept | None:
        """A stored response."""
        return self._kept.get(identity)

    def keep(self, kept: Kept, *, store: bool) -> None:
        """Stores a response, if it is to be stored."""
        if not store:
            return
        self._kept[kept.id] = kept
        self._characters += kept.characters
        for identity in _output_ids(kept):
            self._item_ids[identity] = self._item_ids.get(identity, 0) + 1
        while len(self._kept) > MAX_RESPONSES or (self._characters > MAX_CHARACTERS and len(self._kept) > 1):
            self.remove(next(iter(self._kept)))

    def remove(self, identity: str) -> bool:
        """Forgets a response; whether it was there."""
        kept = self._kept.pop(identity, None)
        if kept is None:
            return False
        self._characters -= kept.characters
        for item_id in _output_ids(kept):
            self._item_ids[item_id] -= 1
            if not self._item_ids[item_id]:
                del self._item_ids[item_id]
        return True

    def clear(self) -> None:
        """Forgets all."""
        self._kept.clear()
        self._item_ids.clear()
        self._characters = 0


class ConnectionMemory:
    """What one WebSocket connection remembers: its last response, stored or not; and what is stored.

    Args:
        shelf: The stored responses; None where nothing is ever stored.
    """

    def __init__(self, shelf: Shelf | None) -> None:
        self._shelf = shelf
        self._last: Kept | None = None

    @property
    def item_ids(self) -> Container[str]:
        """The ids of all stored output items."""
        return self._shelf.item_ids if self._shelf is not None else ()

    def find(self, identity: str) -> Kept | None:
        """The last response, or a stored one."""
        if self._last is not None and self._last.id == identity:
            return self._last
        return self._shelf.find(identity) if self._shelf is not None else None

    def keep(self, kept: Kept, *, store: bool) -> None:
        """Remembers the last response, and stores it if it is to be."""
        self._last = kept
        if self._shelf is not None:
            self._shelf.keep(kept, store=store)


def _output_ids(kept: Kept) -> list[str]:
    output = kept.response["output"]
    return [str(item["id"]) for item in output if "id" in item] if isinstance(output, list) else []
