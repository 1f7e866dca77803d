"""Names and ids of tool calls, in the lengths and letters that a server takes."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

_DIGEST_LENGTH = 8


def fitted(text: str, maximum: int | None = None, forbidden: re.Pattern[str] | None = None) -> str:
    """The text as it is, if it may be; else cut and cleaned, and told apart by a digest. The same every time.

    Args:
        maximum: The longest allowed; None: any length.
        forbidden: What no character may be; with it, the text may not be empty either.
    """
    fits = maximum is None or len(text) <= maximum
    if fits and (forbidden is None or (text and not forbidden.search(text))):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]
    if forbidden is not None:
        text = forbidden.sub("_", text)
    if maximum is not None:
        text = text[: maximum - _DIGEST_LENGTH - 1]
    return f"{text}_{digest}"


class ClientTool(NamedTuple):
    """A tool as the client knows it."""

    name: str
    namespace: str = ""
    # Its input is free text, which the upstream is asked for as an object with that text as `input`.
    is_wrapped: bool = False


class ToolNames:
    """Fits the names of tools, and remembers which it changed.

    Args:
        maximum, forbidden: As for `fitted`.
    """

    def __init__(self, maximum: int, forbidden: re.Pattern[str] | None = None) -> None:
        self._maximum = maximum
        self._forbidden = forbidden
        # Name upstream -> the client's tool.
        self.changed: dict[str, ClientTool] = {}

    def fitted(self, name: str) -> str:
        fit = fitted(name, self._maximum, self._forbidden)
        if fit != name:
            self.changed[fit] = ClientTool(name)
        return fit
