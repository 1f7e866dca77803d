"""Names and ids of tool calls, in the lengths and letters that a server takes."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

_DIGEST_LENGTH = 8
_CALL_ID_LENGTH = 24


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


class AnswerCallIds:
    """Ids for the calls of one answer: the upstream's own where it gives one, and none twice."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._answer_id = ""

    def name_answer(self, answer_id: str) -> None:
        """Tells the answer's id, from which the ids of calls without one are made."""
        self._answer_id = answer_id

    def unique(self, call_id: str, key: int, seed: str) -> str:
        """The id of a call.

        Args:
            call_id: The upstream's; empty when it gave none.
            key: Which call of the answer it is.
            seed: What tells the call from the others, for the id of one without.
        """
        if not call_id:
            digest = hashlib.sha256(f"{self._answer_id}/{seed}".encode()).hexdigest()
            call_id = f"call_{digest[:_CALL_ID_LENGTH]}"
        elif call_id in self._taken:
            call_id = f"{call_id}_{key}"
        self._taken.add(call_id)
        return call_id


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
