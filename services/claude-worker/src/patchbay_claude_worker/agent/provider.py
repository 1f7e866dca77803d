"""A backend of kind `claude-cli` in agent mode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import msgspec

from patchbay.canonical import ChatEvent, Warning
from patchbay.errors import INVALID_REQUEST, UPSTREAM, PatchbayError, make_error
from patchbay.settings import Backend
from patchbay.settings.claude_cli import MessageMode
from patchbay.state.conversations import Conversations
from patchbay.state.permissions import Decision, Permissions
from patchbay.upstream.estimate import estimate_tokens
from patchbay.worker.runtime import Shared
from patchbay.worker.service import SignIn
from patchbay_claude_worker.agent.command import command, is_shared, working_directory
from patchbay_claude_worker.agent.conversation import ConversationPlaces, Place
from patchbay_claude_worker.agent.prompt import Prompt, read_prompt
from patchbay_claude_worker.agent.store import RedisSessionStore
from patchbay_claude_worker.agent.transcript import TranscriptWriter
from patchbay_claude_worker.agent.turn import AgentTurn
from patchbay_claude_worker.cli.pool import Pool
from patchbay_claude_worker.cli.process import ProcessDied, ProcessHangs
from patchbay_claude_worker.cli.program import Command
from patchbay_claude_worker.cli.sign_in import CliSignIn
from patchbay_claude_worker.profiles import CLI_MODELS
from patchbay_proto.v1.provider_pb2 import (
    BackendStatus,
    ChatRequest,
    CountTokensRequest,
    CountTokensResponse,
    Credential,
    Model,
)


class AgentProvider:
    """Serves one backend: each conversation has a process of its own while it lives."""

    def __init__(self, backend: Backend, shared: Shared) -> None:
        config = backend.claude_cli
        assert config is not None
        self.name = backend.name
        self.max_concurrency = backend.max_concurrency
        self._account = CliSignIn(backend) if backend.credentials == "signed_in" else None
        self.sign_in: SignIn | None = self._account
        self._backend = backend
        self._config = config
        self._worker_id = shared.worker_id
        options = config.pool
        if not is_shared(config):
            # Nobody knows yet in whose directory a spare would have to work.
            options = options.model_copy(update={"min_spare": 0})
        self._pool = Pool(backend.name, options, self._spare)
        self._permissions = Permissions(shared.redis)
        conversations = Conversations(shared.redis)
        self._store = RedisSessionStore(conversations)
        self._places = ConversationPlaces(backend, self._pool, conversations, worker_id=shared.worker_id)

    def _spare(self, home: Path) -> Command:
        return command(self._backend, home, cwd=working_directory(self._config, ""))

    async def start(self) -> None:
        """Starts the spares, and asks whether somebody is signed in."""
        await self._pool.start()
        if self._account is not None:
            await self._account.start(self._pool.guardian)

    def status(self) -> BackendStatus:
        status = BackendStatus(
            name=self.name,
            kind=self._backend.kind,
            mode="agent",
            credentials=self._backend.credentials,
            signed_in=self._backend.signed_in,
            detail=self._backend.detail,
            pool=self._pool.status(),
        )
        if self._account is not None:
            status.signed_in, status.detail = self._account.signed_in, self._account.detail
        if self._pool.trouble:
            status.signed_in = False
            status.detail = self._pool.trouble
        return status

    async def chat(self, request: ChatRequest) -> AsyncGenerator[list[ChatEvent], None]:
        """The events of one turn. Errors are events, the last ones."""
        try:
            if request.WhichOneof("payload") != "chat":
                raise PatchbayError(make_error(INVALID_REQUEST, f"the backend `{self.name}` takes no native bodies"))
            if self._account is not None:
                await self._account.require()
            async with self._places.place(request) as place, aclosing(self._turn(request, place)) as events:
                async for some in events:
                    yield some
        except PatchbayError as error:
            yield [ChatEvent(error=error.error)]

    async def _turn(self, request: ChatRequest, place: Place) -> AsyncGenerator[list[ChatEvent], None]:
        prompt = read_prompt(request.chat, request.model, known=place.known)
        yield self._warnings(prompt)
        transcript = TranscriptWriter(self._store, place.process)

        async def ask(tool_name: str, tool_input: msgspec.Raw) -> Decision:
            return await self._permissions.ask(
                backend=self.name,
                session=request.session_id or turn.session_id,
                key_id=request.caller.key_id,
                worker_id=self._worker_id,
                tool_name=tool_name,
                input=tool_input,
                timeout_seconds=self._config.permission_timeout_seconds,
            )

        turn = AgentTurn(
            place.process,
            ask=ask,
            mirror=transcript.take,
            timeouts=self._backend.timeouts,
            silence=self._config.pool.silence_seconds,
        )
        begun = ended = False
        try:
            await turn.prepare(prompt, model=request.model)
            async with aclosing(turn.answer(prompt, self._mode(request))) as events:
                async for some in events:
                    if not begun and turn.session_id and transcript.project:
                        begun = True
                        await self._places.note_begun(
                            place, request.chat, session_id=turn.session_id, project=transcript.project
                        )
                    is_last = bool(some) and some[-1].WhichOneof("event") == "finished"
                    if is_last:
                        # Before the client hears of the end: its next turn may come at once, to another replica.
                        await self._keep(request, place, turn=turn, transcript=transcript)
                        ended = True
                    if some:
                        yield some
        except (ProcessDied, ProcessHangs) as error:
            # Whether anybody may try again, the edge knows by what it has heard so far.
            raise PatchbayError(make_error(UPSTREAM, f"the agent's process failed: {error}")) from error
        finally:
            if not ended:
                # Before all else: the upstream and the tools are to stop.
                place.process.kill()
            await asyncio.shield(asyncio.ensure_future(transcript.aclose()))

    async def _keep(self, request: ChatRequest, place: Place, *, turn: AgentTurn, transcript: TranscriptWriter) -> None:
        is_whole = await transcript.flush()
        await self._places.keep(
            place, request.chat, session_id=turn.session_id, project=transcript.project, is_whole=is_whole
        )

    def _warnings(self, prompt: Prompt) -> list[ChatEvent]:
        if prompt.warnings and self._backend.strict_parameters:
            first: Warning = prompt.warnings[0]
            message = f"{first.parameter}: {first.message}"
            raise PatchbayError(make_error(INVALID_REQUEST, message, parameter=first.parameter))
        return [ChatEvent(warning=warning) for warning in prompt.warnings]

    def _mode(self, request: ChatRequest) -> MessageMode:
        """How tool activity is shown: as blocks only to a client whose dialect has some."""
        if self._config.message_mode == "forward" and request.client_dialect != "anthropic":
            return "formatted"
        return self._config.message_mode

    async def count_tokens(self, request: CountTokensRequest) -> CountTokensResponse:
        """An estimate: what the agent adds to a request is the agent's to know."""
        return CountTokensResponse(input_tokens=estimate_tokens(request.chat), estimated=True)

    async def list_models(self, caller: Credential | None) -> list[Model]:
        """The configured models, else the names that the program knows."""
        names = self._backend.models or ((self._backend.model,) if self._backend.model else CLI_MODELS)
        return [Model(id=name, backend=self.name, owned_by="anthropic") for name in names]

    async def aclose(self) -> None:
        if self._account is not None:
            await self._account.aclose()
        await self._pool.aclose()
