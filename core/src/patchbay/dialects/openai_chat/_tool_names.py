"""Tool names that are longer than a server takes."""

from __future__ import annotations

import hashlib

_HASH_LENGTH = 8


class ToolNames:
    """Shortens names the same way every time, and remembers which it shortened."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        # Short name -> the client's name.
        self.shortened: dict[str, str] = {}

    def short(self, name: str) -> str:
        if len(name) <= self._maximum:
            return name
        digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_LENGTH]
        short = f"{name[: self._maximum - _HASH_LENGTH - 1]}_{digest}"
        self.shortened[short] = name
        return short
