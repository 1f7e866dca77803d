"""What the parts of this service know of each other.

    socket frames -> connection (protocol, sessions) -> loop (agents) -> models (other workers)
                                <- Client: chunks, file reads, tools

The loop knows no socket and no JSON of the protocol's envelope; the connection knows nothing of agents.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from patchbay.canonical import Chat, ChatEvent
from patchbay_proto.v1.provider_pb2 import Caller, Credential

JsonObject = dict[str, Any]
# One part of a tool's output: `{"type": "json", "value"}` or `{"type": "media", "data": base64, "mediaType"}`.
Part = JsonObject


class Client(Protocol):
    """The client of one running prompt."""

    @property
    def cancelled(self) -> bool:
        """Whether the user has cancelled the prompt: the loop stops at its next look."""

    async def chunk(self, chunk: str | JsonObject) -> None:
        """Sends text of the prompt's own agent, or a print-mode event."""

    async def subagent_chunk(self, agent_id: str, agent_type: str, chunk: str, *, prompt: str | None) -> None:
        """Sends text of another agent of the prompt."""

    async def cost(self, amount: int, *, agent_id: str, user_input_id: str) -> None:
        """Says what a model call has cost, in credits."""

    async def log(self, level: str, data: object, *, message: str | None, agent_id: str, user_input_id: str) -> None:
        """Passes on what an agent's program has logged: any JSON, and a text beside it."""

    async def read_files(self, paths: Sequence[str]) -> Mapping[str, str | None]:
        """The contents of files; None, or a status in brackets, for one that cannot be read or did not come in time."""

    async def call_tool(
        self,
        name: str,
        tool_input: JsonObject,
        *,
        user_input_id: str,
        timeout_seconds: float | None,
        mcp_config: JsonObject | None = None,
    ) -> list[Part]:
        """Has the client run a tool. What goes wrong, a timeout too, is a part with an `errorMessage`.

        Args:
            tool_input: As the wire has it (see the protocol), already checked.
            user_input_id: The prompt's id, or that of one of its agents, which begins with it.
            timeout_seconds: None: as long as it takes.
            mcp_config: The MCP server whose tool it is; None: it is a tool of the client's own.
        """

    async def mcp_tools(self, config: JsonObject, names: Sequence[str] | None) -> Sequence[JsonObject]:
        """The tools of an MCP server that the client can reach, each with `name`, `inputSchema` and a `description`.

        Args:
            config: The server, as an agent's definition has it.
            names: Those that are wanted; None: all.

        Returns:
            None of them, when the client does not answer: not every client can.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a client asks."""

    prompt_id: str
    text: str
    # Text and image parts beside it.
    content: Sequence[JsonObject] = ()
    params: JsonObject | None = None
    agent_id: str | None = None
    cost_mode: str = "normal"
    # As the client sent it, with the project it has told of before where it sends none.
    session_state: JsonObject = field(default_factory=dict)
    caller: Caller = field(default_factory=Caller)
    # Whose its runs are: the caller's, or those of whoever has the credential in place of a key.
    owner: str = ""
    # What the caller brought as a provider credential, for `credentials: pass_through`.
    credential: Credential | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptResult:
    """How a prompt ended."""

    session_state: JsonObject
    # An AgentOutput: `lastMessage`, `allMessages`, `structuredOutput` or `error`.
    output: JsonObject


class Loop(Protocol):
    """Runs the agents of a prompt."""

    async def start(self) -> None:
        """Begins what goes on beside the prompts, until `aclose`."""

    async def aclose(self) -> None: ...

    async def run(self, prompt: Prompt, client: Client) -> PromptResult:
        """Runs a prompt to its end, with all its events but the ending one.

        Raises:
            PatchbayError: The prompt cannot be run at all: no such agent, not signed in.
        """


class Models(Protocol):
    """Asks models, through the workers of their backends."""

    def stream(
        self,
        chat: Chat,
        *,
        model: str,
        caller: Caller,
        request_id: str,
        session_id: str,
        credential: Credential | None = None,
    ) -> AsyncGenerator[Sequence[ChatEvent], None]:
        """The events of an answer, in groups. Closing it stops the upstream.

        Args:
            model: As a client would ask for it: the routes decide who answers.
            session_id: The conversation, the same for all steps of an agent.

        Raises:
            PatchbayError: The answer failed, before or within it.
        """
