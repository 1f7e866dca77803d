"""Ids of tool calls as a provider takes them: in its lengths and letters, and no two calls with the same."""

from __future__ import annotations

import re
from collections import deque

from patchbay.dialects.tool_names import fitted

# What an id may not be: empty.
NOTHING = re.compile(r"(?!)")


class CallIds:
    """The ids of one conversation, which depend on what came before them only.

    Some servers number the calls of each answer anew, so that a conversation has many called `call_0`.

    Args:
        maximum, forbidden: As for `patchbay.dialects.tool_names.fitted`.
    """

    def __init__(self, forbidden: re.Pattern[str] = NOTHING, maximum: int | None = None) -> None:
        self._forbidden = forbidden
        self._maximum = maximum
        # Id as allowed -> how many calls had it.
        self._counts: dict[str, int] = {}
        # The client's id -> the ids of its calls that have no result yet.
        self._open: dict[str, deque[str]] = {}

    def of_call(self, call_id: str) -> str:
        written = self._fitted(call_id)
        count = self._counts[written] = self._counts.get(written, 0) + 1
        if count > 1:
            written = self._fitted(f"{written}.{count}")
        self._open.setdefault(call_id, deque()).append(written)
        return written

    def of_result(self, call_id: str) -> str:
        waiting = self._open.get(call_id)
        return waiting.popleft() if waiting else self._fitted(call_id)

    def is_open(self, call_id: str) -> bool:
        """Whether a call of this id has no result yet."""
        return bool(self._open.get(call_id))

    def _fitted(self, call_id: str) -> str:
        return fitted(call_id, self._maximum, self._forbidden)
