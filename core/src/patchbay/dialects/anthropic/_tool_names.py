"""Names and ids of tool calls, in the letters that the API allows."""

from __future__ import annotations

import hashlib
import re

_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST_NAME = 128
_DIGEST_LENGTH = 8


class ToolNames:
    """Replaces the names that the API refuses, the same way every time, and remembers which it replaced."""

    def __init__(self) -> None:
        # Name upstream -> the client's name.
        self.replaced: dict[str, str] = {}

    def allowed(self, name: str) -> str:
        if name and len(name) <= _LONGEST_NAME and not _FORBIDDEN.search(name):
            return name
        allowed = _replace(name, _LONGEST_NAME)
        self.replaced[allowed] = name
        return allowed


def allowed_id(identifier: str) -> str:
    """The id of a tool call as the API takes it; the same id always gives the same."""
    if identifier and not _FORBIDDEN.search(identifier):
        return identifier
    return _replace(identifier, len(identifier) + _DIGEST_LENGTH + 1)


def _replace(text: str, longest: int) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{_FORBIDDEN.sub('_', text)[: longest - _DIGEST_LENGTH - 1]}_{digest}"
