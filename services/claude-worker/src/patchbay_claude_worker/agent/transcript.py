"""Carries an agent's transcript to the store while the agent works, in order and beside its answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from patchbay.state.connection import RedisUnavailable
from patchbay_claude_worker.agent.store import RedisSessionStore, key_of
from patchbay_claude_worker.cli.messages import Message
from patchbay_claude_worker.cli.process import CliProcess

if TYPE_CHECKING:
    from claude_agent_sdk import SessionKey, SessionStoreEntry

log = structlog.get_logger(__name__)

_TRIES = 3
_PAUSE_SECONDS = 0.2


class TranscriptWriter:
    """Writes one conversation's transcript.

    Args:
        store: Where to.
        process: Whose transcript it is; its files are to go with it.

    Attributes:
        is_whole: Whether all of it has arrived so far, so that another replica can go on with it.
        project: The project that the program files the session under; empty: it has not said.
    """

    def __init__(self, store: RedisSessionStore, process: CliProcess) -> None:
        self._store = store
        self._process = process
        self._pieces: asyncio.Queue[tuple[SessionKey, list[SessionStoreEntry]]] = asyncio.Queue()
        self._writing = asyncio.create_task(self._write(), name="transcript")
        self.is_whole = True
        self.project = ""

    def take(self, message: Message) -> None:
        """Queues a piece."""
        key = key_of(message.file_path)
        if key is None:
            return
        self._process.removes(Path(message.file_path))
        if not key.get("subpath"):
            self.project = key["project_key"]
        self._pieces.put_nowait((key, msgspec.json.decode(message.entries)))

    async def flush(self) -> bool:
        """Waits until what was taken has been written; whether all of it was."""
        await self._pieces.join()
        return self.is_whole

    async def aclose(self) -> None:
        """Writes what is left."""
        await self._pieces.join()
        self._writing.cancel()
        await asyncio.wait([self._writing])

    async def _write(self) -> None:
        while True:
            key, entries = await self._pieces.get()
            try:
                if self.is_whole:
                    await self._append(key, entries)
            finally:
                self._pieces.task_done()

    async def _append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        for tries_left in reversed(range(_TRIES)):
            try:
                await self._store.append(key, entries)
                return
            except RedisUnavailable as error:
                if not tries_left:
                    # A transcript with a gap is none.
                    self.is_whole = False
                    log.warning("transcript_lost", session_id=key["session_id"], error=str(error))
                    return
            await asyncio.sleep(_PAUSE_SECONDS)
