"""What the agents of one prompt share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import structlog

from patchbay.canonical import Chat, ChatEvent
from patchbay.codebuff.models import choose_model
from patchbay.codebuff.usage import credits_of
from patchbay.errors import PatchbayError
from patchbay.settings.codebuff import Codebuff
from patchbay_codebuff_ws.loop.answer import Answer
from patchbay_codebuff_ws.loop.definitions import Catalog, Definition
from patchbay_codebuff_ws.loop.history import json_text
from patchbay_codebuff_ws.loop.runs import Runs
from patchbay_codebuff_ws.loop.state import Project
from patchbay_codebuff_ws.loop.steps import Steps
from patchbay_codebuff_ws.ports import Client, JsonObject, Models, Prompt

log = structlog.get_logger(__name__)

# How often a silent model, or a search, is left for a look at whether the user has cancelled.
_LOOK_SECONDS = 0.2

Value = TypeVar("Value")


class Output(Protocol):
    """Where an agent's words and events go."""

    async def text(self, chunk: str) -> None:
        """Text as it comes."""

    async def event(self, event: JsonObject) -> None:
        """A print-mode event."""


@dataclass(frozen=True, slots=True)
class PromptOutput:
    """Of the prompt's own agent: to the client."""

    client: Client

    async def text(self, chunk: str) -> None:
        if not self.client.cancelled:
            await self.client.chunk(chunk)

    async def event(self, event: JsonObject) -> None:
        await self.client.chunk(event)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildOutput:
    """Of another agent: to the client as its own, and to `parent` if it is the only one at work there."""

    client: Client
    parent: Output | None
    agent_id: str
    agent_type: str
    prompt: str | None

    async def text(self, chunk: str) -> None:
        if self.client.cancelled:
            return
        await self.client.subagent_chunk(self.agent_id, self.agent_type, chunk, prompt=self.prompt)
        if self.parent is not None:
            await self.parent.text(chunk)

    async def event(self, event: JsonObject) -> None:
        if self.parent is not None:
            await self.parent.event({"agentId": self.agent_id, **event})


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One prompt, and what its agents work with.

    Attributes:
        session_id: The conversation's name with backends, the same for all prompts of the client's session.
        slots: Who has one is at work; who waits for its own agents gives it away.
        tasks: Owns the agents that work beside others.
        started: The ids of the agents that others have started and that have not ended.
        programs: The ids of the agents whose programs run.
        mcp_listings: What the client has said of servers of MCP, by question.
    """

    prompt: Prompt
    client: Client
    settings: Codebuff
    models: Models
    runs: Runs
    steps: Steps
    project: Project
    catalog: Catalog
    slots: asyncio.Semaphore
    tasks: asyncio.TaskGroup
    session_id: str
    started: set[str] = field(default_factory=set)
    programs: set[str] = field(default_factory=set)
    mcp_listings: dict[str, Sequence[JsonObject]] = field(default_factory=dict)

    async def mcp_tools(self, config: JsonObject, names: Sequence[str] | None) -> Sequence[JsonObject]:
        """See `Client.mcp_tools`. Asked once for a prompt: not every client answers, and each question waits for it."""
        question = json_text([config, names])
        if question not in self.mcp_listings:
            self.mcp_listings[question] = await self.client.mcp_tools(config, names)
        return self.mcp_listings[question]

    def model_of(self, definition: Definition) -> str:
        """The model that answers an agent here."""
        return choose_model(
            self.settings.models, agent_id=definition.id, cost_mode=self.prompt.cost_mode, own=definition.model
        )

    async def ask(
        self, chat: Chat, answer: Answer, *, model: str, session_id: str, output: Output | None, thoughts: bool = True
    ) -> None:
        """Asks a model, until its answer ends or the user cancels.

        Raises:
            PatchbayError: See `Models.stream`.
        """
        stream = self.models.stream(
            chat,
            model=model,
            caller=self.prompt.caller,
            request_id=self.prompt.request_id,
            session_id=session_id,
            credential=self.prompt.credential,
        )
        try:
            async with aclosing(_until_cancelled(stream, self.client)) as windows:
                async for events in windows:
                    for event in events:
                        answer.feed(event)
                    if output is not None:
                        await _show(answer, output, thoughts=thoughts)
        except PatchbayError:
            # A text that broke off is over as well.
            if output is not None:
                await _show(answer, output, thoughts=thoughts, over=True)
            raise
        if output is not None:
            await _show(answer, output, thoughts=thoughts, over=True)

    def cost(self, answer: Answer) -> int | None:
        """What an answer has cost, in credits of a US cent; None when nobody says."""
        return credits_of(answer.usage, self.settings.cost_margin)


async def _show(answer: Answer, output: Output, *, thoughts: bool, over: bool = False) -> None:
    said, thought = answer.taken()
    if thought and thoughts:
        await output.event({"type": "reasoning_delta", "text": thought})
    if said:
        await output.text(said)
    for text in answer.complete_texts(all_of_them=over):
        await output.event({"type": "text", "text": text})


async def _until_cancelled(
    stream: AsyncGenerator[Sequence[ChatEvent], None], client: Client
) -> AsyncGenerator[Sequence[ChatEvent], None]:
    """The windows of a stream, which is closed when the user cancels, also while it is silent."""
    async with aclosing(stream):
        while (events := await unless_cancelled(client, anext(stream, None))) is not None and not client.cancelled:
            yield events


async def unless_cancelled(client: Client, work: Awaitable[Value]) -> Value | None:
    """What the work gives; None, and the work is stopped, when the user cancels."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done() and not client.cancelled:
            await asyncio.wait((task,), timeout=_LOOK_SECONDS)
        return task.result() if task.done() else None
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled() and (error := task.exception()) is not None:
                log.info("stopped_work_failed", error=repr(error))
