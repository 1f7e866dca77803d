"""Ids for the tool calls of an upstream's answer."""

from __future__ import annotations

import hashlib

_ID_LENGTH = 24


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
            call_id = f"call_{digest[:_ID_LENGTH]}"
        elif call_id in self._taken:
            call_id = f"{call_id}_{key}"
        self._taken.add(call_id)
        return call_id
