"""What a client is asked while a prompt runs, and its answers, which come in any order or not at all."""

from __future__ import annotations

import asyncio
import uuid

from patchbay_codebuff_ws.connection.wire import text_of
from patchbay_codebuff_ws.ports import JsonObject


class Requests:
    """The questions to one client that it has not answered."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[JsonObject | None]] = {}

    def open(self, request_id: str | None = None) -> Request:
        """A new question.

        Args:
            request_id: None: one that is no other question's, at this replica or another one.
        """
        request = Request(self, uuid.uuid4().hex if request_id is None else request_id)
        self._waiting[request.id] = request.answer
        return request

    def answer(self, action: JsonObject) -> bool:
        """Takes an answer. False: nobody waits for it, or not any more."""
        waiting = self._waiting.pop(text_of(action.get("requestId")), None)
        if waiting is None or waiting.done():
            return False
        waiting.set_result(action)
        return True

    def forget(self, request_id: str) -> None:
        self._waiting.pop(request_id, None)


class Request:
    """One question."""

    def __init__(self, requests: Requests, request_id: str) -> None:
        self._requests = requests
        self.id = request_id
        self.answer: asyncio.Future[JsonObject | None] = asyncio.get_running_loop().create_future()

    async def wait(self, seconds: float | None) -> JsonObject | None:
        """The answer; None: the question was taken back.

        Raises:
            TimeoutError: There is none in time.
        """
        async with asyncio.timeout(seconds):
            return await self.answer

    def take_back(self) -> None:
        """Whoever waits need not any more."""
        if not self.answer.done():
            self.answer.set_result(None)

    def close(self) -> None:
        """An answer that comes now is nobody's."""
        self._requests.forget(self.id)
        self.answer.cancel()
