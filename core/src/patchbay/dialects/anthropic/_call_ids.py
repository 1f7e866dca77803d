"""Ids of tool calls as the Messages API takes them: in the letters it allows, and no two calls with the same."""

from __future__ import annotations

import re
from collections import deque

from patchbay.dialects.tool_names import fitted

# What the API allows in the names and ids of tools is the rest.
FORBIDDEN = re.compile(r"[^a-zA-Z0-9_-]")


class CallIds:
    """The ids of one conversation, which depend on what came before them only.

    Some servers number the calls of each answer anew, so that a conversation has many called `call_0`.
    """

    def __init__(self) -> None:
        # Id as allowed -> how many calls had it.
        self._counts: dict[str, int] = {}
        # The client's id -> the ids of its calls that have no result yet.
        self._open: dict[str, deque[str]] = {}

    def of_call(self, call_id: str) -> str:
        written = fitted(call_id, forbidden=FORBIDDEN)
        count = self._counts[written] = self._counts.get(written, 0) + 1
        if count > 1:
            written = fitted(f"{written}.{count}", forbidden=FORBIDDEN)
        self._open.setdefault(call_id, deque()).append(written)
        return written

    def of_result(self, call_id: str) -> str:
        waiting = self._open.get(call_id)
        return waiting.popleft() if waiting else fitted(call_id, forbidden=FORBIDDEN)
