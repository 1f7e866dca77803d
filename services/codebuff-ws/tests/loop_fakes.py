"""A client, models and agents for tests of the loop: scripted, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from patchbay.canonical import (
    BlockStart,
    BlockStop,
    Chat,
    ChatEvent,
    Finished,
    SignatureDelta,
    TextDelta,
    TextStart,
    ThinkingDelta,
    ThinkingStart,
    ToolInputDelta,
    ToolUseStart,
    Usage,
)
from patchbay.errors import PatchbayError
from patchbay.settings.codebuff import Codebuff, CodebuffSteps
from patchbay_codebuff_ws.loop.prompt_loop import AgentLoop
from patchbay_codebuff_ws.loop.runs import Status
from patchbay_codebuff_ws.loop.sandbox import Sandbox
from patchbay_codebuff_ws.loop.steps import Steps
from patchbay_codebuff_ws.ports import JsonObject, Part, Prompt, PromptResult
from patchbay_proto.v1.provider_pb2 import Caller, Credential

Json: TypeAlias = dict[str, Any]


class Definition(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """An agent's definition, unchecked."""

    id: str
    display_name: str = "An agent"
    model: str = "own-model"
    reasoning_options: Json | None = None
    mcp_servers: Json | None = None
    tool_names: Sequence[str] = ()
    spawnable_agents: Sequence[str] = ()
    input_schema: Json | None = None
    include_message_history: bool = False
    output_mode: str = "last_message"
    output_schema: Json | None = None
    spawner_prompt: str | None = None
    system_prompt: str = ""
    instructions_prompt: str = ""
    step_prompt: str = ""
    inherit_parent_system_prompt: bool = False
    handle_steps: str | None = None


def read(raw: Json) -> Definition:
    return msgspec.convert(raw, Definition)


@dataclass
class Call:
    """A tool call that a model makes; a text is its input as it is written."""

    name: str
    input: Json | str = field(default_factory=dict)
    id: str = ""


@dataclass
class Thought:
    text: str
    signature: str = ""


# Texts and calls of one answer; an error; or what waits before the answer is over.
Turn: TypeAlias = "Sequence[str | Call | Thought | Usage | PatchbayError | Callable[[], Awaitable[object]]]"


class FakeModels:
    """Plays answers: by the model asked for, else in turn; the last one for ever.

    Attributes:
        asked: The chats so far, with the model and the session.
    """

    def __init__(self, *turns: Turn, by_model: Mapping[str, list[Turn]] | None = None) -> None:
        self.turns = list(turns)
        self.by_model = dict(by_model or {})
        self.asked: list[tuple[str, Chat, str]] = []
        self.running = 0
        self.most_running = 0
        self.closed = 0

    @property
    def chats(self) -> list[Chat]:
        return [chat for _, chat, _ in self.asked]

    async def stream(
        self,
        chat: Chat,
        *,
        model: str,
        caller: Caller,
        request_id: str,
        session_id: str,
        credential: Credential | None = None,
    ) -> AsyncGenerator[Sequence[ChatEvent], None]:
        kept = Chat()
        kept.CopyFrom(chat)
        self.asked.append((model, kept, session_id))
        turns = self.by_model.get(model, self.turns)
        turn = turns.pop(0) if len(turns) > 1 else turns[0]
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            for index, piece in enumerate(turn):
                if isinstance(piece, PatchbayError):
                    raise piece
                if callable(piece):
                    await piece()
                    continue
                for window in _windows(index, piece, len(self.asked)):
                    yield window
                    await asyncio.sleep(0)
            yield [ChatEvent(finished=Finished(stop_reason=Finished.STOP_REASON_END_TURN))]
        finally:
            self.running -= 1
            self.closed += 1


def _windows(index: int, piece: str | Call | Thought | Usage, number: int) -> list[list[ChatEvent]]:
    if isinstance(piece, Usage):
        return [[ChatEvent(usage=piece)]]
    stop = [ChatEvent(block_stop=BlockStop(index=index))]
    if isinstance(piece, Thought):
        start = ChatEvent(block_start=BlockStart(index=index, thinking=ThinkingStart()))
        signed = ChatEvent(signature_delta=SignatureDelta(index=index, signature=piece.signature))
        return [[start, ChatEvent(thinking_delta=ThinkingDelta(index=index, text=piece.text)), signed], stop]
    if isinstance(piece, Call):
        written = piece.input if isinstance(piece.input, str) else msgspec.json.encode(piece.input).decode()
        use = ToolUseStart(id=piece.id or f"t{number}-{index}", name=piece.name)
        start = ChatEvent(block_start=BlockStart(index=index, tool_use=use))
        return [[start], [ChatEvent(tool_input_delta=ToolInputDelta(index=index, text=written))], stop]
    start = ChatEvent(block_start=BlockStart(index=index, text=TextStart()))
    middle = len(piece) // 2
    halves = [piece[:middle], piece[middle:]]
    return [[start], *([ChatEvent(text_delta=TextDelta(index=index, text=half))] for half in halves), stop]


class FakeClient:
    """A client with files; `tools` answers the tools it runs."""

    def __init__(self, files: Mapping[str, str] | None = None) -> None:
        self.files: dict[str, str] = dict(files or {})
        self.cancelled = False
        self.chunks: list[str | Json] = []
        self.subagent_chunks: list[tuple[str, str]] = []
        self.costs: list[tuple[int, str, str]] = []
        self.logs: list[tuple[str, object, str | None]] = []
        self.reads: list[list[str]] = []
        self.tool_requests: list[tuple[str, Json, str, float | None]] = []
        self.tools: dict[str, Callable[[Json], list[Part]]] = {}
        self.mcp: dict[str, list[Json]] = {}
        self.mcp_requests: list[tuple[Json, Sequence[str] | None]] = []
        self.mcp_configs: list[Json] = []

    @property
    def text(self) -> str:
        return "".join(chunk for chunk in self.chunks if isinstance(chunk, str))

    def events(self, *kinds: str) -> list[Json]:
        return [chunk for chunk in self.chunks if isinstance(chunk, dict) and chunk["type"] in kinds]

    def results(self) -> list[Any]:
        """The values that tools gave."""
        return [part["value"] for event in self.events("tool_result") for part in event["output"]]

    async def chunk(self, chunk: str | JsonObject) -> None:
        self.chunks.append(chunk)

    async def subagent_chunk(self, agent_id: str, agent_type: str, chunk: str, *, prompt: str | None) -> None:
        self.subagent_chunks.append((agent_type, chunk))

    async def cost(self, amount: int, *, agent_id: str, user_input_id: str) -> None:
        self.costs.append((amount, agent_id, user_input_id))

    async def log(self, level: str, data: object, *, message: str | None, agent_id: str, user_input_id: str) -> None:
        self.logs.append((level, data, message))

    async def read_files(self, paths: Sequence[str]) -> Mapping[str, str | None]:
        self.reads.append(list(paths))
        return {path: self.files.get(path, "[FILE_DOES_NOT_EXIST]") for path in paths}

    async def call_tool(
        self,
        name: str,
        tool_input: JsonObject,
        *,
        user_input_id: str,
        timeout_seconds: float | None,
        mcp_config: JsonObject | None = None,
    ) -> list[Part]:
        if mcp_config is not None:
            self.mcp_configs.append(mcp_config)
        self.tool_requests.append((name, tool_input, user_input_id, timeout_seconds))
        await asyncio.sleep(0)
        if name in self.tools:
            return self.tools[name](tool_input)
        if name in ("write_file", "str_replace"):
            message = "Updated file" if tool_input["path"] in self.files else "Created new file"
            self.files[tool_input["path"]] = tool_input["content"]
            value = {"file": tool_input["path"], "message": message, "unifiedDiff": tool_input["content"]}
            return [{"type": "json", "value": value}]
        return [{"type": "json", "value": {"stdout": f"{name} ran"}}]

    async def mcp_tools(self, config: JsonObject, names: Sequence[str] | None) -> Sequence[JsonObject]:
        self.mcp_requests.append((config, names))
        return self.mcp.get(config["command"], [])


class FakeRuns:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str, list[str]]] = []
        self.steps: list[Json] = []
        self.finished: list[tuple[str, Status, int, int, int, str]] = []

    async def start(self, run_id: str, *, agent_id: str, ancestor_run_ids: Sequence[str], owner: str) -> None:
        self.started.append((run_id, agent_id, list(ancestor_run_ids)))

    async def step(self, run_id: str, **step: Any) -> None:
        self.steps.append({"run_id": run_id, **step})

    async def finish(
        self, run_id: str, *, status: Status, total_steps: int, direct_credits: int, total_credits: int, error: str = ""
    ) -> None:
        self.finished.append((run_id, status, total_steps, direct_credits, total_credits, error))


def session(history: Sequence[Json] = (), *, steps: int = 25, **context: Any) -> Json:
    """A session's state as a client sends it."""
    return {
        "mainAgentState": {
            "agentId": "main-agent",
            "agentType": None,
            "agentContext": {},
            "subagents": [],
            "messageHistory": list(history),
            "stepsRemaining": steps,
        },
        "fileContext": {"projectRoot": "/p", "cwd": "/p", "fileTree": [], "fileTokenScores": {}, **context},
    }


@dataclass
class World:
    """A loop with its surroundings."""

    models: FakeModels
    client: FakeClient = field(default_factory=FakeClient)
    agents: Sequence[Definition] = ()
    settings: Codebuff = field(default_factory=Codebuff)
    runs: FakeRuns = field(default_factory=FakeRuns)
    steps: Steps = field(default_factory=lambda: Sandbox(CodebuffSteps()))

    async def run(self, text: str = "Do it", *, state: Json | None = None, **prompt: Any) -> PromptResult:
        loop = AgentLoop(
            self.settings,
            models=self.models,
            runs=self.runs,
            steps=self.steps,
            builtin={one.id: one for one in self.agents},
            read=read,
        )
        prompt.setdefault("agent_id", self.agents[0].id if self.agents else None)
        result = await loop.run(
            Prompt(prompt_id="p1", text=text, session_state=state or session(), request_id="r1", **prompt), self.client
        )
        # What a client gets can be written, and read again.
        decoded = msgspec.json.decode(msgspec.json.encode(result.session_state))
        return PromptResult(session_state=decoded, output=result.output)


def history_of(result: PromptResult) -> list[Json]:
    history: list[Json] = result.session_state["mainAgentState"]["messageHistory"]
    return history
