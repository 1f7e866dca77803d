"""The protocol's first generation, of February 2025, where it is spoken (`codebuff.legacy_protocol`).

Its client runs a tool in a turn of its own: it is told of the call, its changes of files with it, and comes back with
a new `user-input` whose last message is the tool's result. The agents wait for that here; at a replica where they do
not, they begin anew with the conversation that the client has sent. So for the edge, each such turn is a prompt.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec

from patchbay.dispatch.callers import Identity
from patchbay.errors import InvalidRequest, PatchbayError
from patchbay_codebuff_ws.connection import wire
from patchbay_codebuff_ws.connection.memory import Memory
from patchbay_codebuff_ws.connection.outbox import Outbox
from patchbay_codebuff_ws.connection.parts import Parts
from patchbay_codebuff_ws.connection.project import Project, read_project
from patchbay_codebuff_ws.connection.prompt_client import PromptClient, Stop
from patchbay_codebuff_ws.connection.requests import Request, Requests
from patchbay_codebuff_ws.connection.runner import Run, Runner
from patchbay_codebuff_ws.connection.sign_in import SignIn
from patchbay_codebuff_ws.connection.tool_inputs import EDITS, problem_of
from patchbay_codebuff_ws.connection.wire import text_of
from patchbay_codebuff_ws.ports import JsonObject, Part, Prompt, PromptResult
from patchbay_proto.v1.codebuff_pb2 import Attach, ClientFrame

_RESULT = "[TOOL_RESULT]"
_QUOTA = 1_000_000
# A client that does not come back with a tool's result has given up, and so do its agents.
_LONGEST_TURN_SECONDS = 900.0

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
        self._sign_in = SignIn(attach, parts)
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
            project = read_project(_context(action))
            if project is not None:
                await self._memory.keep(project, None)
            self._outbox.put_frame(wire.action({"type": "init-response", **await self._used(action)}))
        elif kind == "usage":
            self._outbox.put_frame(wire.action({"type": "usage-response", **await self._used(action)}))
        elif kind == "user-input":
            self._user_input(action, frame)
        elif kind == "generate-commit-message":
            self._runner.begin(_CommitAsk(action, self, frame.number), frame)
        elif (answer := await self._sign_in.answer(kind, action)) is not None:
            self._outbox.put_frame(wire.action(answer))

    def prompt_error(self, prompt_id: str, message: str) -> str:
        """Tells of an error; the frame that ends the prompt with it."""
        if prompt_id.startswith(_COMMIT_ID):
            return wire.action({"type": "action-error", "message": message})
        # What does not come as a chunk is not shown.
        self._outbox.put_frame(wire.response_chunk(prompt_id, f"{message}\n"), prompt_id=prompt_id)
        return _complete(prompt_id, message)

    async def _used(self, action: JsonObject) -> JsonObject:
        """What whoever asks has used."""
        session = self._runner.used
        try:
            identity = self._runner.identify(action.get("authToken"))
        except PatchbayError:
            # That is said when a prompt comes.
            return _usage(session, session=session)
        return _usage(await self._runner.usage(identity), session=session)

    def knows(self, token: object) -> bool:
        """Whether a client may ask for anything."""
        try:
            self._runner.identify(token)
        except PatchbayError:
            return False
        return True

    def _user_input(self, action: JsonObject, frame: ClientFrame) -> None:
        prompt_id = text_of(action.get("userInputId"))
        if not prompt_id:
            message = "A user input needs a `userInputId`."
            self._outbox.put_frame(wire.action({"type": "action-error", "message": message}))
            return
        last, self._prompt_id = self._prompt_id, prompt_id
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting[0].has_ended:
            run, client = waiting
            result = _tool_result(action.get("messages")) if run.prompt_id == prompt_id else None
            if result is not None:
                if self._runner.resume(run, prompt_id, frame):
                    client.resume(prompt_id, result, applied=_objects(action.get("changesAlreadyApplied")))
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

        def usage() -> JsonObject:
            return _usage(run.total + run.used, session=self._runner.used)

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
            usage=usage,
        )


class LegacyClient(PromptClient):
    """The client of one running prompt: it is told text and changes, and of no events.

    Args:
        reading: Held while the client reads files.
        applied: The changes that it has made already.
        give_turn: Has it run a tool: called with this client and the frame that says so.
        usage: What its user has used so far.
    """

    def __init__(
        self,
        prompt_id: str,
        *,
        outbox: Outbox,
        requests: Requests,
        timeout_seconds: float,
        files: Mapping[str, str],
        on_cost: Callable[[int], None],
        reading: asyncio.Lock,
        applied: Sequence[JsonObject],
        give_turn: Callable[[LegacyClient, str], None],
        usage: Callable[[], JsonObject],
    ) -> None:
        super().__init__(
            prompt_id,
            outbox=outbox,
            requests=requests,
            timeout_seconds=timeout_seconds,
            custom_tools=(),
            files=files,
            on_cost=on_cost,
        )
        self._reading = reading
        self._give_turn = give_turn
        self._usage = usage
        self._calling = asyncio.Lock()
        self._result: asyncio.Future[str] | None = None
        self._response = ""
        self._last_words = ""
        self._changes: list[JsonObject] = []
        self._applied = list(applied)

    def resume(self, prompt_id: str, result: str, *, applied: Sequence[JsonObject]) -> None:
        """The client comes back with a tool's result."""
        self.prompt_id = prompt_id
        self._response = ""
        self._applied = list(applied)
        if self._result is not None and not self._result.done():
            self._result.set_result(result)

    def cancel(self, why: Stop = Stop.CANCELLED) -> None:
        super().cancel(why)
        if self._result is not None and not self._result.done():
            self._result.cancel()

    async def chunk(self, chunk: str | JsonObject) -> None:
        if isinstance(chunk, str) and chunk and not self.cancelled:
            self._response += chunk
            await self._say(wire.response_chunk(self.prompt_id, chunk))

    async def subagent_chunk(self, agent_id: str, agent_type: str, chunk: str, *, prompt: str | None) -> None:
        return

    async def cost(self, amount: int, *, agent_id: str, user_input_id: str) -> None:
        self._on_cost(amount)

    async def log(self, level: str, data: object, *, message: str | None, agent_id: str, user_input_id: str) -> None:
        return

    async def call_tool(
        self,
        name: str,
        tool_input: JsonObject,
        *,
        user_input_id: str,
        timeout_seconds: float | None,
        mcp_config: JsonObject | None = None,
    ) -> list[Part]:
        if problem := problem_of(name, tool_input, custom=()):
            return _value({"errorMessage": problem})
        if name in EDITS:
            path, content = tool_input["path"], tool_input["content"]
            self._changes.append({"type": tool_input["type"], "filePath": path, "content": content})
            if tool_input["type"] == "file":
                self._files[path] = content
            else:
                self._files.pop(path, None)
            return _value({"file": path, "message": "Updated file", "unifiedDiff": content})
        if name != "run_terminal_command":
            return _value({"errorMessage": f"This client has no tool `{name}`."})
        async with self._calling:
            if self.cancelled:
                return []
            return await self._in_terminal(tool_input["command"])

    async def mcp_tools(self, config: JsonObject, names: Sequence[str] | None) -> Sequence[JsonObject]:
        return []

    def finished(self, result: PromptResult) -> str:
        if result.output.get("type") == "error":
            return self.failed(text_of(result.output.get("message")))
        return self._complete(self._response)

    def failed(self, message: str) -> str:
        # What does not come as a chunk is not shown.
        self._last_words = f"\n{message}\n"
        return self._complete(self._response + self._last_words)

    def before_end(self) -> None:
        if self._last_words:
            text = wire.response_chunk(self.prompt_id, self._last_words)
            self._outbox.put_frame(text, prompt_id=self.prompt_id)

    def given_up(self, session_state: JsonObject) -> str:
        return self._complete(self._response)

    def _complete(self, response: str) -> str:
        return _complete(self.prompt_id, response, changes=self._changes, applied=self._applied, usage=self._usage())

    async def _in_terminal(self, command: str) -> list[Part]:
        data = {"id": f"call_{uuid.uuid4().hex}", "name": "run_terminal_command", "input": {"command": command}}
        call: JsonObject = {
            "type": "tool-call",
            "userInputId": self.prompt_id,
            "response": self._response,
            "data": data,
            "changes": self._changes,
            "changesAlreadyApplied": self._applied,
            "addedFileVersions": [],
            "resetFileVersions": False,
        }
        self._changes = []
        # From now on these are the client's files, and the command may change them.
        self._files.clear()
        self._commit()
        self._result = asyncio.get_running_loop().create_future()
        self._give_turn(self, wire.action(call))
        try:
            async with asyncio.timeout(_LONGEST_TURN_SECONDS):
                stdout = await asyncio.shield(self._result)
        except TimeoutError:
            self.cancel(Stop.SHUTDOWN)
            return []
        except asyncio.CancelledError:
            if self._result.cancelled() and self.cancelled:
                return []
            raise
        return _value({"command": command, "stdout": stdout})

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[Request]:
        async with self._reading, super()._asking() as request:
            yield request

    def _open_request(self) -> Request:
        return self._requests.open("")

    def _files_question(self, request: Request, paths: Sequence[str]) -> str:
        return wire.action({"type": "read-files", "filePaths": list(paths)})


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
        messages = _objects(self._action.get("messages"))
        history = [
            {"role": message["role"], "content": text}
            for message in messages
            if message.get("role") in ("user", "assistant") and (text := _text(message.get("content")))
        ]
        if not history or history[-1]["role"] != "user":
            raise InvalidRequest("`messages` must end with what the user says")
        project = read_project(_context(self._action)) or kept
        session: JsonObject = {"mainAgentState": {"agentId": "main-agent", "messageHistory": history[:-1]}}
        if project is not None:
            session["fileContext"] = project.context
        prompt = Prompt(
            prompt_id=self.prompt_id,
            text=history[-1]["content"],
            session_state=session,
            caller=identity.caller,
            credential=identity.credential,
            request_id=request_id,
        )
        applied = _objects(self._action.get("changesAlreadyApplied"))
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
            credential=identity.credential,
            request_id=request_id,
        )
        return prompt, self._protocol.client(run, files={}, applied=(), kind=_CommitClient)


class _CommitClient(LegacyClient):
    """Is told nothing but the message, at the end."""

    async def chunk(self, chunk: str | JsonObject) -> None:
        if isinstance(chunk, str):
            self._response += chunk

    async def call_tool(
        self,
        name: str,
        tool_input: JsonObject,
        *,
        user_input_id: str,
        timeout_seconds: float | None,
        mcp_config: JsonObject | None = None,
    ) -> list[Part]:
        return _value({"errorMessage": "There are no tools here: answer with the message."})

    def finished(self, result: PromptResult) -> str:
        if result.output.get("type") == "error":
            return self.failed(text_of(result.output.get("message")))
        return wire.action({"type": "commit-message-response", "commitMessage": self._response.strip()})

    def failed(self, message: str) -> str:
        return wire.action({"type": "action-error", "message": message})

    def given_up(self, session_state: JsonObject) -> str:
        return self.failed("It was cancelled.")


def _complete(
    prompt_id: str,
    response: str,
    *,
    changes: Sequence[JsonObject] = (),
    applied: Sequence[JsonObject] = (),
    usage: JsonObject | None = None,
) -> str:
    return wire.action(
        {
            "type": "response-complete",
            "userInputId": prompt_id,
            "response": response,
            "changes": list(changes),
            "changesAlreadyApplied": list(applied),
            "addedFileVersions": [],
            "resetFileVersions": False,
            **(usage or {}),
        }
    )


def _usage(used: int, *, session: int) -> JsonObject:
    """What a caller has used this month, and the socket so far, in credits."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    next_month = (today.replace(day=28) + timedelta(days=4)).replace(day=1)
    return {
        "usage": used,
        "limit": _QUOTA,
        "subscription_active": True,
        "next_quota_reset": next_month.isoformat(),
        "session_credits_used": session,
    }


def _context(action: JsonObject) -> JsonObject | None:
    """The project as the second generation tells of it."""
    context = action.get("fileContext")
    if not isinstance(context, dict):
        return None
    here = text_of(context.get("currentWorkingDirectory"))
    rest = {name: value for name, value in context.items() if name not in ("currentWorkingDirectory", "fileVersions")}
    return {"projectRoot": here, "cwd": here, **rest}


def _tool_result(messages: object) -> str | None:
    """What a tool has given, if that is what was said last."""
    last = next(reversed(_objects(messages)), None)
    if last is None or last.get("role") != "user":
        return None
    content = last.get("content")
    blocks = _objects(content)
    if any(block.get("type") == "tool_result" for block in blocks):
        return _text(content)
    text = _text(content)
    return text.partition(_RESULT)[2].strip() if _RESULT in text else None


def _text(content: object) -> str:
    """The text of a message, with that of its blocks."""
    if isinstance(content, str):
        return content
    texts = []
    for block in _objects(content):
        if block.get("type") == "text":
            texts.append(text_of(block.get("text")))
        elif block.get("type") == "tool_use":
            texts.append(
                f"[Called {text_of(block.get('name'))} with {msgspec.json.encode(block.get('input')).decode()}]"
            )
        elif block.get("type") == "tool_result":
            texts.append(_text(block.get("content")))
    return "\n".join(texts)


def _objects(value: object) -> list[JsonObject]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _value(value: JsonObject) -> list[Part]:
    return [{"type": "json", "value": value}]
