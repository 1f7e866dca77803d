"""Finds the process that goes on with a conversation, or begins one."""

from __future__ import annotations

import asyncio
import dataclasses
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
from patchbay_claude_worker.agent.prompt import fingerprint, is_continued, story_of, system_digest
from patchbay_claude_worker.agent.store import load_files
from patchbay_claude_worker.cli.guardian import list_elsewhere
from patchbay_claude_worker.cli.pool import Pool
from patchbay_claude_worker.cli.process import CliProcess
from patchbay_claude_worker.cli.program import Command
from patchbay_claude_worker.cli.waiting import CommandFor
from patchbay_proto.v1.provider_pb2 import ChatRequest

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Place:
    """Where a request goes on.

    Attributes:
        conversation: The conversation's id; empty: the client named none, and none is kept.
        known: Where it stands, if the process knows what was said before; None: it has to be told.
        previous_turn: The turn that it had last, whatever the story.
        process: Whose turn it is.
    """

    conversation: str
    known: ConversationRecord | None
    previous_turn: int
    process: CliProcess


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
        conversations: Where conversations stand, and their transcripts, for all replicas.
        worker_id: This replica.
    """

    def __init__(self, backend: Backend, pool: Pool, conversations: Conversations, *, worker_id: str) -> None:
        assert backend.claude_cli is not None
        self._backend = backend
        self._config = backend.claude_cli
        self._pool = pool
        self._conversations = conversations
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
                backend=request.backend,
                key_id=request.caller.key_id,
                session=request.session_id,
                # A client's own session has conversations beside its main one: titles, subagents.
                story="" if request.session_named else story_of(request.chat),
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
        if record is not None and not is_continued(request.chat, record, is_named=request.session_named):
            # The client tells another story than the one that is known: it is told from the beginning.
            self._pool.drop(_kept_name(conversation, record))
            record = None
        cwd = self._directory(request.caller.key_id)
        command_for: CommandFor | None = None
        if not is_shared(self._config):
            command_for = self._command_for(cwd)
        kept = _kept_name(conversation, record) if record is not None else None
        if record is not None and not self._pool.keeps(kept):
            resumed = await self._resume(record, cwd)
            if resumed is not None:
                return Place(conversation, record, previous_turn, resumed)
            record = kept = None
        process = await self._pool.take(kept, command_for)
        if record is not None and not process.requests:
            # The kept one died at this very moment: another one knows nothing of the conversation.
            record = None
        return Place(conversation, record, previous_turn, process)

    async def _resume(self, record: ConversationRecord, cwd: Path) -> CliProcess | None:
        """A process that goes on from the transcript; None: there is none, or it cannot be gone on from."""
        files = await self._transcript(record)
        if not files:
            return None
        try:
            return await self._pool.take(None, self._command_for(cwd, session_id=record.session_id, files=files))
        except PatchbayError as error:
            if error.error.code != UNAVAILABLE:
                raise
            log.warning("conversation_not_resumed", session_id=record.session_id, error=error.error.message)
            return None

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
            return await load_files(
                self._conversations, {"project_key": record.project, "session_id": record.session_id}
            )
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
            elsewhere = []
            for path, content in (files or {}).items():
                written = place / path
                if not written.is_relative_to(home):
                    # Before it is there: nothing may stay, whatever happens next.
                    list_elsewhere(home.parent, written)
                    elsewhere.append(written)
                written.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                written.write_bytes(content)
            made = command(self._backend, home, cwd=cwd, resume=session_id)
            return dataclasses.replace(made, elsewhere=tuple(elsewhere))

        return make

    async def note_begun(self, place: Place, chat: Chat, *, session_id: str, project: str) -> None:
        """Notes the session of a conversation that begins, so that it can be gone on with after a crash."""
        if place.conversation and place.known is None:
            await self._save(
                place, self._record(chat, session_id, project, turn=place.previous_turn, is_under_way=True)
            )

    async def keep(self, place: Place, chat: Chat, *, session_id: str, project: str, is_whole: bool) -> None:
        """Notes that a turn has ended well, and keeps its process for the next one.

        Args:
            is_whole: Whether all of its transcript is in the store. Otherwise nobody is to go on from there.
        """
        if not place.conversation:
            return
        if not project and place.known is not None:
            project = place.known.project
        record = self._record(chat, session_id, project, turn=place.previous_turn + 1)
        if is_whole and await self._save(place, record):
            self._pool.give_back(place.process, keep_for=_kept_name(place.conversation, record))
        else:
            await self._forget(place)

    def _record(
        self, chat: Chat, session_id: str, project: str, *, turn: int, is_under_way: bool = False
    ) -> ConversationRecord:
        return ConversationRecord(
            session_id=session_id,
            project=project,
            turn=turn,
            messages=len(chat.messages),
            fingerprint=fingerprint(chat.messages),
            system=system_digest(chat),
            worker_id=self._worker_id,
            is_under_way=is_under_way,
        )

    async def _save(self, place: Place, record: ConversationRecord) -> bool:
        try:
            return await self._conversations.save(place.conversation, record, previous_turn=place.previous_turn)
        except RedisUnavailable as error:
            log.warning("conversation_not_noted", session_id=record.session_id, error=str(error))
            return False

    async def _forget(self, place: Place) -> None:
        """What is noted is older than what was said. Where Redis does not hear it, the next request shows as much."""
        try:
            await self._conversations.forget(place.conversation)
        except RedisUnavailable as error:
            log.warning("conversation_not_forgotten", error=str(error))


def _kept_name(conversation: str, record: ConversationRecord) -> str:
    # With the turn and the session in it: a process that missed a turn, or knows another story, is not found.
    return f"{conversation}@{record.turn}/{record.session_id}"
