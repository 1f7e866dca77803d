"""Finds the process that goes on with a conversation, or begins one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from patchbay.canonical import Chat
from patchbay.errors import RATE_LIMITED, UNAVAILABLE, PatchbayError, make_error
from patchbay.settings import Backend
from patchbay.state.connection import RedisUnavailable
from patchbay.state.conversations import ConversationRecord, Conversations, conversation_id
from patchbay_claude_worker.agent.command import command, config_directory, is_shared, working_directory
from patchbay_claude_worker.agent.prompt import fingerprint, is_continued
from patchbay_claude_worker.agent.store import RedisSessionStore, load_files
from patchbay_claude_worker.cli.pool import CommandFor, Pool
from patchbay_claude_worker.cli.process import CliProcess
from patchbay_claude_worker.cli.program import Command
from patchbay_proto.v1.provider_pb2 import ChatRequest

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Place:
    """Where a request goes on.

    Attributes:
        conversation: The conversation's id; empty: the client named none, and none is kept.
        record: Where it stands; None: it begins here.
        process: Whose turn it is.
        knows: Whether the process knows what was said before.
    """

    conversation: str
    record: ConversationRecord | None
    previous_turn: int
    process: CliProcess
    knows: bool


class ConversationBusy(PatchbayError):
    """A turn of the same conversation is still going on."""

    def __init__(self) -> None:
        message = "another request of this session is still being answered; one session has one turn at a time"
        super().__init__(make_error(RATE_LIMITED, message, retry_after=1))


class ConversationPlaces:
    """The conversations of one backend on this worker.

    Args:
        backend: The backend.
        pool: Its processes.
        conversations: Where conversations stand, for all replicas.
        store: Their transcripts.
        worker_id: This replica.
    """

    def __init__(
        self, backend: Backend, pool: Pool, conversations: Conversations, store: RedisSessionStore, *, worker_id: str
    ) -> None:
        assert backend.claude_cli is not None
        self._backend = backend
        self._config = backend.claude_cli
        self._pool = pool
        self._conversations = conversations
        self._store = store
        self._worker_id = worker_id
        # The turn that is going on, of each conversation that has one.
        self._running: dict[str, asyncio.Event] = {}

    @asynccontextmanager
    async def place(self, request: ChatRequest) -> AsyncIterator[Place]:
        """The place of a request; its process is retired at the end unless `keep` has it kept.

        Raises:
            ConversationBusy: The conversation's turn before does not end in time.
            PatchbayError: No process can be had.
        """
        conversation = ""
        if request.session_id:
            conversation = conversation_id(
                backend=request.backend, key_id=request.caller.key_id, session=request.session_id
            )
        async with self._turn_of(conversation):
            place = await self._find(conversation, request)
            try:
                yield place
            finally:
                # After `keep` this finds nothing to end.
                self._pool.give_back(place.process, reason="done")

    @asynccontextmanager
    async def _turn_of(self, conversation: str) -> AsyncIterator[None]:
        if not conversation:
            yield
            return
        try:
            async with asyncio.timeout(self._config.pool.acquire_timeout):
                while (running := self._running.get(conversation)) is not None:
                    await running.wait()
        except TimeoutError:
            raise ConversationBusy from None
        done = self._running[conversation] = asyncio.Event()
        try:
            yield
        finally:
            del self._running[conversation]
            done.set()

    async def _find(self, conversation: str, request: ChatRequest) -> Place:
        record = await self._load(conversation)
        previous_turn = record.turn if record is not None else 0
        if record is not None and not is_continued(request.chat, record):
            # The client tells another story than the one that is known: it is told from the beginning.
            record = None
        cwd = self._directory(request.caller.key_id)
        kept = _kept_name(conversation, record.turn) if record is not None else None
        command_for: CommandFor | None = None
        if not is_shared(self._config):
            command_for = self._command_for(cwd)
        if record is not None and not self._pool.keeps(kept):
            files = await self._transcript(record)
            if files:
                command_for = self._command_for(cwd, session_id=record.session_id, files=files)
            else:
                record = None
        process = await self._pool.take(kept if record is not None else None, command_for)
        return Place(conversation, record, previous_turn, process, knows=record is not None)

    async def _load(self, conversation: str) -> ConversationRecord | None:
        if not conversation:
            return None
        try:
            return await self._conversations.load(conversation)
        except RedisUnavailable as error:
            log.warning("conversation_unknown", error=str(error))
            return None

    async def _transcript(self, record: ConversationRecord) -> dict[Path, bytes]:
        try:
            return await load_files(self._store, {"project_key": record.project, "session_id": record.session_id})
        except RedisUnavailable as error:
            log.warning("transcript_unavailable", session_id=record.session_id, error=str(error))
            return {}

    def _directory(self, key_id: str) -> Path:
        try:
            directory = working_directory(self._config, key_id)
        except OSError as error:
            message = f"the agent's working directory cannot be made: {error.strerror}"
            raise PatchbayError(make_error(UNAVAILABLE, message)) from error
        if not directory.is_dir():
            message = f"the agent's working directory {directory} is not there: make it, or change cwd"
            raise PatchbayError(make_error(UNAVAILABLE, message))
        return directory

    def _command_for(
        self, cwd: Path, *, session_id: str | None = None, files: dict[Path, bytes] | None = None
    ) -> CommandFor:
        def make(home: Path) -> Command:
            place = config_directory(self._backend, home)
            for path, content in (files or {}).items():
                (place / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                (place / path).write_bytes(content)
            return command(self._backend, home, cwd=cwd, resume=session_id)

        return make

    async def note_begun(self, place: Place, *, session_id: str, project: str) -> None:
        """Notes the session of a conversation that begins, so that it can be gone on with after a crash."""
        if place.conversation and place.record is None:
            record = ConversationRecord(session_id, project, place.previous_turn, 0, fingerprint(()), self._worker_id)
            await self._save(place, record)

    async def keep(self, place: Place, chat: Chat, *, session_id: str, project: str, is_whole: bool) -> None:
        """Notes that a turn has ended well, and keeps its process for the next one.

        Args:
            is_whole: Whether all of its transcript is in the store.
        """
        if not place.conversation:
            return
        turn = place.previous_turn + 1
        said = chat.messages
        record = ConversationRecord(session_id, project, turn, len(said), fingerprint(said), self._worker_id)
        if is_whole and await self._save(place, record):
            self._pool.give_back(place.process, keep_for=_kept_name(place.conversation, turn))

    async def _save(self, place: Place, record: ConversationRecord) -> bool:
        try:
            return await self._conversations.save(place.conversation, record, previous_turn=place.previous_turn)
        except RedisUnavailable as error:
            log.warning("conversation_not_noted", session_id=record.session_id, error=str(error))
            return False


def _kept_name(conversation: str, turn: int) -> str:
    # With the turn in it: a process that missed a turn, which another replica had, is not found.
    return f"{conversation}@{turn}"
