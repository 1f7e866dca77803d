"""Keeps the answer of a turn, for the turns that go on from it."""

from __future__ import annotations

from patchbay.dialects.openai_responses import ResponseRecorder
from patchbay.settings import Backend
from patchbay_edge.responses.turns import Turn


class Keeper:
    """Sees the bytes of one answer before the client does, and keeps the Response in them.

    It is kept when the client learns of its end, and not later: the next turn may reach another edge at once.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._recorder = ResponseRecorder()
        self._backend: Backend | None = None
        self._native = False
        self._kept = False

    def answered_by(self, backend: Backend, *, native: bool) -> None:
        """Says whose answer it is; `native`: its bytes are the backend's own."""
        self._backend, self._native = backend, native

    async def see(self, data: bytes) -> None:
        """Takes the next bytes of the answer."""
        if self._kept or self._backend is None:
            return
        self._recorder.feed(data)
        recorded = self._recorder.close()
        if recorded is not None:
            self._kept = True
            await self._turn.keep(recorded, backend=self._backend, native=self._native)
