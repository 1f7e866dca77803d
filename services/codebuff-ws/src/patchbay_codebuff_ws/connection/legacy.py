"""The protocol's first generation, of February 2025, where it is spoken (`codebuff.legacy_protocol`).

Its client runs a tool in a turn of its own: it is told of the call, its changes of files with it, and comes back with
a new `user-input` whose last message is the tool's result. The agents wait for that here; at a replica where they do
not, they begin anew with the conversation that the client has sent. So for the edge, each such turn is a prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from patchbay.dispatch.callers import Identity
from patchbay.errors import InvalidRequest, PatchbayError
from patchbay_codebuff_ws.connection import legacy_wire, wire
from patchbay_codebuff_ws.connection.legacy_client import CommitClient, LegacyClient
from patchbay_codebuff_ws.connection.legacy_login import LegacyLogin
from patchbay_codebuff_ws.connection.memory import Memory
from patchbay_codebuff_ws.connection.outbox import Outbox
from patchbay_codebuff_ws.connection.parts import Parts
from patchbay_codebuff_ws.connection.project import Project, read_project
from patchbay_codebuff_ws.connection.prompt_client import Stop
from patchbay_codebuff_ws.connection.requests import Requests
from patchbay_codebuff_ws.connection.runner import Run, Runner
from patchbay_codebuff_ws.connection.wire import text_of
from patchbay_codebuff_ws.ports import JsonObject, Prompt
from patchbay_proto.v1.codebuff_pb2 import Attach, ClientFrame

_COMMIT_ID = "commit-message-"
_COMMIT = "Write a commit message for these changes: one line of at most 72 characters, and nothing else.\n\n"


class LegacyProtocol:
    """The first generation on one socket."""

    def __init__(
        self, parts: Parts, attach: Attach, *, outbox: Outbox, requests: Requests, memory: Memory, runner: Runner
    ) -> None:
        self._parts = parts
        self._outbox = outbox
        self._requests = requests
        self._memory = memory
        self._runner = runner
        self._login = LegacyLogin(attach, parts)
        # Its client's answers do not say to which question.
        self._reading = asyncio.Lock()
        self._waiting: tuple[Run, LegacyClient] | None = None
        # Its client has one at a time.
        self._prompt_id = ""

    def speaks(self, kind: str, action: JsonObject) -> bool:
        """Whether an action is one of this generation's."""
        if kind == "init":
            context = action.get("fileContext")
            is_its_own = isinstance(context, dict) and "currentWorkingDirectory" in context
            return is_its_own and self._parts.settings.codebuff.legacy_protocol
        return kind in ("user-input", "usage", "generate-commit-message", "login-code-request", "login-status-request")

    async def act(self, kind: str, action: JsonObject, frame: ClientFrame) -> None:
        """Does what an action asks."""
        if not self._parts.settings.codebuff.legacy_protocol:
            message = "This service does not speak the protocol of this old client; update it."
            self._outbox.put_frame(wire.action({"type": "action-error", "message": message}))
            return
        await self._memory.remember(msgspec.structs.replace(self._memory.record, legacy=True))
        if kind == "init":
            project = read_project(legacy_wire.context_of(action))
            if project is not None and self.knows(action.get("authToken")):
                await self._memory.keep(project, None)
            self._outbox.put_frame(wire.action({"type": "init-response", **await self._used(action)}))
        elif kind == "usage":
            self._outbox.put_frame(wire.action({"type": "usage-response", **await self._used(action)}))
        elif kind == "user-input":
            self._user_input(action, frame)
        elif kind == "generate-commit-message":
            self._runner.begin(_CommitAsk(action, self, frame.number), frame)
        elif (answer := await self._login.answer(kind, action)) is not None:
            self._outbox.put_frame(wire.action(answer))

    def prompt_error(self, prompt_id: str, message: str) -> str:
        """Tells of an error; the frame that ends the prompt with it."""
        if prompt_id.startswith(_COMMIT_ID):
            return wire.action({"type": "action-error", "message": message})
        # What does not come as a chunk is not shown.
        self._outbox.put_frame(wire.response_chunk(prompt_id, f"\n{message}\n"), prompt_id=prompt_id)
        return legacy_wire.complete(prompt_id, message)

    async def _used(self, action: JsonObject) -> JsonObject:
        """What whoever asks has used."""
        session = self._runner.used
        try:
            identity = self._runner.identify(action.get("authToken"))
        except PatchbayError:
            # That is said when a prompt comes.
            return legacy_wire.usage(session, session=session)
        return legacy_wire.usage(await self._runner.usage(identity), session=session)

    def knows(self, token: object) -> bool:
        """Whether a client may ask for anything."""
        try:
            self._runner.identify(token)
        except PatchbayError:
            return False
        return True

    def _user_input(self, action: JsonObject, frame: ClientFrame) -> None:
        prompt_id = text_of(action.get("userInputId"))
        if not wire.is_id(prompt_id):
            message = f"A user input needs a `userInputId` of at most {wire.LONGEST_ID} characters."
            self._outbox.put_frame(wire.action({"type": "action-error", "message": message}))
            return
        last, self._prompt_id = self._prompt_id, prompt_id
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting[0].has_ended:
            run, client = waiting
            result = legacy_wire.tool_result(action.get("messages")) if run.prompt_id == prompt_id else None
            if result is not None:
                if self._runner.resume(run, prompt_id, frame):
                    client.resume(prompt_id, result, applied=legacy_wire.objects(action.get("changesAlreadyApplied")))
                return
            # The user has said something else instead.
            run.cancel(Stop.SHUTDOWN)
        elif last != prompt_id:
            # The user has stopped it, if it runs still: that is all that its client says of it.
            self._runner.cancel(last)
        self._runner.begin(_Ask(action, self), frame)

    def client(
        self,
        run: Run,
        *,
        files: Mapping[str, str],
        applied: Sequence[JsonObject],
        kind: type[LegacyClient] | None = None,
    ) -> LegacyClient:
        """Whom a prompt's agents talk to."""

        def give_turn(client: LegacyClient, text: str) -> None:
            self._waiting = (run, client)
            run.suspend(text)

        def report() -> JsonObject:
            return legacy_wire.usage(run.total + run.used, session=self._runner.used)

        return (kind or LegacyClient)(
            run.prompt_id,
            outbox=self._outbox,
            requests=self._requests,
            timeout_seconds=self._parts.settings.codebuff.request_timeout_seconds,
            files=files,
            on_cost=run.spend,
            reading=self._reading,
            applied=applied,
            give_turn=give_turn,
            usage=report,
        )


class _Ask:
    """A `user-input`."""

    def __init__(self, action: JsonObject, protocol: LegacyProtocol) -> None:
        self._action = action
        self._protocol = protocol
        self.prompt_id = text_of(action.get("userInputId"))
        self.token = action.get("authToken")

    def open(
        self, run: Run, *, kept: Project | None, identity: Identity, request_id: str
    ) -> tuple[Prompt, LegacyClient]:
        """See `Ask.open`."""
        messages = legacy_wire.objects(self._action.get("messages"))
        history = [
            {"role": message["role"], "content": text}
            for message in messages
            if message.get("role") in ("user", "assistant") and (text := legacy_wire.said(message.get("content")))
        ]
        if not history or history[-1]["role"] != "user":
            raise InvalidRequest("`messages` must end with what the user says")
        project = read_project(legacy_wire.context_of(self._action)) or kept
        session: JsonObject = {"mainAgentState": {"agentId": "main-agent", "messageHistory": history[:-1]}}
        if project is not None:
            session["fileContext"] = project.context
        prompt = Prompt(
            prompt_id=self.prompt_id,
            text=history[-1]["content"],
            session_state=session,
            caller=identity.caller,
            owner=identity.owner,
            credential=identity.credential,
            request_id=request_id,
        )
        applied = legacy_wire.objects(self._action.get("changesAlreadyApplied"))
        return prompt, self._protocol.client(run, files=project.files if project else {}, applied=applied)

    def refused(self, prompt_id: str, message: str) -> str:
        """See `Ask.refused`."""
        if not self._protocol.knows(self.token):
            message = f'{message}. Type "login" to sign in.'
        return self._protocol.prompt_error(prompt_id, message)

    def usage(self, used: int) -> str | None:
        """Its client asks for it."""
        return None


class _CommitAsk(_Ask):
    """A `generate-commit-message`, answered as a prompt to the agent that only answers."""

    def __init__(self, action: JsonObject, protocol: LegacyProtocol, number: int) -> None:
        super().__init__(action, protocol)
        self.prompt_id = f"{_COMMIT_ID}{number}"

    def open(
        self, run: Run, *, kept: Project | None, identity: Identity, request_id: str
    ) -> tuple[Prompt, LegacyClient]:
        prompt = Prompt(
            prompt_id=self.prompt_id,
            text=_COMMIT + text_of(self._action.get("stagedChanges")),
            agent_id="ask",
            session_state={"fileContext": kept.context} if kept is not None else {},
            caller=identity.caller,
            owner=identity.owner,
            credential=identity.credential,
            request_id=request_id,
        )
        return prompt, self._protocol.client(run, files={}, applied=(), kind=CommitClient)
