"""The client of one running prompt, in the protocol's first generation."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from patchbay_codebuff_ws.connection import legacy_wire, wire
from patchbay_codebuff_ws.connection.outbox import Outbox
from patchbay_codebuff_ws.connection.prompt_client import PromptClient, Stop
from patchbay_codebuff_ws.connection.requests import Request, Requests
from patchbay_codebuff_ws.connection.tool_inputs import EDITS, problem_of
from patchbay_codebuff_ws.connection.wire import text_of
from patchbay_codebuff_ws.ports import JsonObject, Part, PromptResult

# A client that does not come back with a tool's result has given up, and so do its agents.
_LONGEST_TURN_SECONDS = 900.0


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
            if tool_input["type"] == "file":
                # It is told what a file is at last: of each change it says that it has updated the file.
                self._changes = [change for change in self._changes if change["filePath"] != path]
                self._files[path] = content
            else:
                self._files.pop(path, None)
            self._changes.append({"type": tool_input["type"], "filePath": path, "content": content})
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
        return legacy_wire.complete(
            self.prompt_id, response, changes=self._changes, applied=self._applied, usage=self._usage()
        )

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

    def _content(self, files: JsonObject, path: str) -> str | None:
        if path in files:
            return super()._content(files, path)
        # It names each file that it is asked for: this is the late answer to an earlier question.
        return "[FILE_READ_ERROR] The client has answered something else."

    def _open_request(self) -> Request:
        return self._requests.open("")

    def _files_question(self, request: Request, paths: Sequence[str]) -> str:
        return wire.action({"type": "read-files", "filePaths": list(paths)})


class CommitClient(LegacyClient):
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


def _value(value: JsonObject) -> list[Part]:
    return [{"type": "json", "value": value}]
