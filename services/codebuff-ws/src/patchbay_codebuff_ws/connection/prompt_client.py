"""The client of one running prompt, in the protocol's second generation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any

from patchbay_codebuff_ws.connection import wire
from patchbay_codebuff_ws.connection.outbox import Outbox
from patchbay_codebuff_ws.connection.requests import Request, Requests
from patchbay_codebuff_ws.connection.tool_inputs import EDITS, problem_of
from patchbay_codebuff_ws.ports import JsonObject, Part, PromptResult

# Not every client knows the question, and one that does asks a program on its own machine.
_MCP_SECONDS = 10.0


class Stop(Enum):
    """Why a prompt does not run to its own end."""

    CANCELLED = "cancelled"
    SHUTDOWN = "shutdown"


class PromptClient:
    """The `Client` of `ports`. Also says how the prompt's end looks on the wire.

    Until something is said that cannot be said twice, frames do not name the prompt: another replica can still begin it
    anew. The first event, `start`, waits for what comes after it for the same reason.

    Args:
        timeout_seconds: How long the client may take to read files, and over a command's own time.
        custom_tools: The names of the tools that it brings along.
        files: Contents that it has sent along, by path.
        on_cost: Told of credits that were used.
    """

    def __init__(
        self,
        prompt_id: str,
        *,
        outbox: Outbox,
        requests: Requests,
        timeout_seconds: float,
        custom_tools: Collection[str],
        files: Mapping[str, str],
        on_cost: Callable[[int], None],
    ) -> None:
        self.prompt_id = prompt_id
        self.stopping = asyncio.Event()
        self.stop: Stop | None = None
        self._outbox = outbox
        self._requests = requests
        self._timeout_seconds = timeout_seconds
        self._custom_tools = custom_tools
        self._files = dict(files)
        self._on_cost = on_cost
        self._open: set[Request] = set()
        self._held: JsonObject | None = None
        self._committed = False

    @property
    def cancelled(self) -> bool:
        return self.stop is not None

    def cancel(self, why: Stop = Stop.CANCELLED) -> None:
        """Has the prompt end soon: nobody waits for the client any more, and no more text goes there."""
        if self.stop is None or why is Stop.SHUTDOWN:
            self.stop = why
        self.stopping.set()
        for request in self._open:
            request.take_back()

    async def chunk(self, chunk: str | JsonObject) -> None:
        if isinstance(chunk, str):
            if self.cancelled or not chunk:
                return
        elif not self._committed and self._held is None and chunk.get("type") == "start":
            self._held = chunk
            return
        await self._say(wire.response_chunk(self.prompt_id, chunk))

    async def subagent_chunk(self, agent_id: str, agent_type: str, chunk: str, *, prompt: str | None) -> None:
        if not self.cancelled:
            await self._say(wire.subagent_chunk(self.prompt_id, agent_id, agent_type, chunk, prompt))

    async def cost(self, amount: int, *, agent_id: str, user_input_id: str) -> None:
        self._on_cost(amount)
        await self._say(wire.cost_response(user_input_id, amount, agent_id))

    async def log(self, level: str, data: object, *, message: str | None, agent_id: str, user_input_id: str) -> None:
        if not self.cancelled:
            text = wire.steps_log(user_input_id, agent_id, level, data, message)
            # It may well be said twice, so it commits to nothing.
            await self._outbox.send_frame(text, prompt_id=self.prompt_id if self._committed else "")

    async def read_files(self, paths: Sequence[str]) -> Mapping[str, str | None]:
        found: dict[str, str | None] = {path: self._files.get(path) for path in paths}
        wanted = [path for path in found if path not in self._files]
        if not wanted or self.cancelled:
            return found
        async with self._asking() as request:
            # Reading changes nothing: the prompt can still be begun anew elsewhere.
            text = self._files_question(request, wanted)
            await self._outbox.send_frame(text, prompt_id=self.prompt_id if self._committed else "")
            try:
                answer = await request.wait(self._timeout_seconds)
            except TimeoutError:
                # No word of a file is no word that there is none: what is edited by it could be lost.
                status = f"[FILE_READ_ERROR] The client has not answered within {self._timeout_seconds:g} s."
                return found | dict.fromkeys(wanted, status)
        files = answer.get("files") if answer is not None else None
        if isinstance(files, dict):
            found |= {path: self._content(files, path) for path in wanted}
        return found

    def _content(self, files: JsonObject, path: str) -> str | None:
        """What the client's answer says of a file, of which it leaves some out that are not there."""
        content = files.get(path)
        return content if isinstance(content, str) else None

    async def call_tool(
        self,
        name: str,
        tool_input: JsonObject,
        *,
        user_input_id: str,
        timeout_seconds: float | None,
        mcp_config: JsonObject | None = None,
    ) -> list[Part]:
        # A server of MCP has names of its own, which may be those of the client's tools.
        is_clients = mcp_config is None
        if is_clients and (problem := problem_of(name, tool_input, custom=self._custom_tools)):
            return _error(problem)
        if self.cancelled:
            return []
        milliseconds = None if timeout_seconds is None else round(timeout_seconds * 1000)
        patience = None if timeout_seconds is None else timeout_seconds + self._timeout_seconds
        async with self._asking() as request:
            await self._say(
                wire.tool_call_request(
                    user_input_id, request.id, name, tool_input, timeout_ms=milliseconds, mcp_config=mcp_config
                )
            )
            try:
                answer = await request.wait(patience)
            except TimeoutError:
                return _error(f"The client has not answered the call of `{name}` within {patience:g} s.")
        if answer is None:
            return []
        output = parts_of(answer.get("output"))
        if is_clients and name in EDITS:
            self._note_edit(tool_input, output)
        return output

    async def mcp_tools(self, config: JsonObject, names: Sequence[str] | None) -> Sequence[JsonObject]:
        if self.cancelled:
            return []
        async with self._asking() as request:
            text = wire.mcp_tools_request(request.id, config, names)
            await self._outbox.send_frame(text, prompt_id=self.prompt_id if self._committed else "")
            try:
                answer = await request.wait(min(_MCP_SECONDS, self._timeout_seconds))
            except TimeoutError:
                return []
        tools = answer.get("tools") if answer is not None else None
        return [
            tool
            for tool in (tools if isinstance(tools, list) else ())
            if isinstance(tool, dict)
            and isinstance(tool.get("name"), str)
            and isinstance(tool.get("inputSchema"), dict)
        ]

    def before_end(self) -> None:
        """Says what still waits to be said, before the prompt's end is."""
        self._commit()

    def finished(self, result: PromptResult) -> str:
        """The frame that ends the prompt well."""
        return wire.prompt_response(self.prompt_id, result.session_state, result.output)

    def failed(self, message: str) -> str:
        """The frame that ends it otherwise."""
        return wire.prompt_error(self.prompt_id, message)

    def given_up(self, session_state: JsonObject) -> str:
        """The frame that ends it when it was cancelled and its agents did not end by themselves."""
        output = {"type": "error", "message": "The prompt was cancelled."}
        return wire.prompt_response(self.prompt_id, session_state, output)

    async def _say(self, text: str) -> None:
        self._commit()
        await self._outbox.send_frame(text, prompt_id=self.prompt_id)

    def _commit(self) -> None:
        self._committed = True
        if self._held is not None:
            held, self._held = self._held, None
            self._outbox.put_frame(wire.response_chunk(self.prompt_id, held), prompt_id=self.prompt_id)

    def _note_edit(self, change: JsonObject, output: Sequence[Part]) -> None:
        path = change["path"]
        if path not in self._files or any("errorMessage" in _value(part) for part in output):
            return
        if change["type"] == "file":
            self._files[path] = change["content"]
        else:
            del self._files[path]

    def _open_request(self) -> Request:
        return self._requests.open()

    def _files_question(self, request: Request, paths: Sequence[str]) -> str:
        return wire.read_files(request.id, paths)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[Request]:
        request = self._open_request()
        self._open.add(request)
        try:
            yield request
        finally:
            self._open.discard(request)
            request.close()


def parts_of(output: object) -> list[Part]:
    """A tool's output as parts, whatever the client has made of it."""
    if not isinstance(output, list):
        return [{"type": "json", "value": output}] if output is not None else _error("The tool has given no output.")
    return [part if _is_part(part) else {"type": "json", "value": part} for part in output]


def _is_part(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    if part.get("type") == "media":
        return isinstance(part.get("data"), str) and isinstance(part.get("mediaType"), str)
    return part.get("type") == "json" and "value" in part


def _value(part: Part) -> JsonObject:
    value = part.get("value")
    return value if isinstance(value, dict) else {}


def _error(message: str) -> list[Part]:
    return [{"type": "json", "value": {"errorMessage": message}}]
