"""Names and ids that are longer than a server takes."""

from __future__ import annotations

import hashlib

_HASH_LENGTH = 8


def shortened(text: str, maximum: int) -> str:
    """The text, cut to the length and told apart by a hash when it is longer; the same every time."""
    if len(text) <= maximum:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{text[: maximum - _HASH_LENGTH - 1]}_{digest}"


class ToolNames:
    """Shortens tool names, and remembers which it shortened."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        # Short name -> the client's name.
        self.shortened: dict[str, str] = {}

    def short(self, name: str) -> str:
        short = shortened(name, self._maximum)
        if short != name:
            self.shortened[short] = name
        return short
