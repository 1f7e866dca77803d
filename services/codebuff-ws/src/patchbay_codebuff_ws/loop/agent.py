"""One agent at work: its conversation, its steps, and what comes of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import structlog

from patchbay.canonical import Chat
from patchbay.errors import CONTEXT_LENGTH, PatchbayError
from patchbay_codebuff_ws.loop.answer import Answer
from patchbay_codebuff_ws.loop.calls import run_calls
from patchbay_codebuff_ws.loop.context import Context, Output
from patchbay_codebuff_ws.loop.definitions import Definition
from patchbay_codebuff_ws.loop.files import Files
from patchbay_codebuff_ws.loop.history import (
    assistant_message,
    json_text,
    last_answer,
    name_calls,
    system_notice,
    text_of,
    tool_calls,
    tool_message,
    user_message,
    with_session,
)
from patchbay_codebuff_ws.loop.messages import clean_history
from patchbay_codebuff_ws.loop.programs import ProgramRun
from patchbay_codebuff_ws.loop.prompts import Prompts, knowledge, plain, user_prompt
from patchbay_codebuff_ws.loop.prune import pruned, text_tokens
from patchbay_codebuff_ws.loop.record import Record
from patchbay_codebuff_ws.loop.request import Request
from patchbay_codebuff_ws.loop.runs import Status
from patchbay_codebuff_ws.loop.shortcuts import instruction_of
from patchbay_codebuff_ws.loop.state import AgentState
from patchbay_codebuff_ws.loop.steps import StepsError
from patchbay_codebuff_ws.loop.tools import mcp_tool, mcp_wanted, tool_table
from patchbay_codebuff_ws.ports import JsonObject, Part

log = structlog.get_logger(__name__)

_PAUSED = (
    "\n\nI have used all the steps that I may take for one prompt, so I pause here. Send a message, such as "
    "`continue`, and I go on.\n"
)
_PAUSED_NOTICE = "You have used all your steps: the work was paused here, and the user was told so."
# How often a conversation is shortened, each time to half, that is too long for its model.
_SHORTENED = 2
# Of the agents that a definition names and nobody knows.
_MOST_LOGGED = 20
_LONGEST_LOGGED = 500
_NO_OUTPUT = "You have not set your output yet. Call set_output now."


class Agent:
    """Runs one agent, once.

    Args:
        output: Where its words and events go.
        user_input_id: The prompt's id, or one that begins with it.
        spawnable: The agents that it may start; None: as its definition says.
        special: `init`, `export` or `compact`, when that is the prompt.
        inline: It works on its parent's conversation.

    Attributes:
        paused: Whether it has used up its steps before it was done.
        record: What is written down of its run.
        files_stale: Whether files may be others than it has seen.
        edited: Files that this step has changed, as they are now.
        added: Messages that tools of this step add to the conversation, after the results of the tools.
        inbox: Messages from the agents in `beside`, which work beside this one.
    """

    def __init__(
        self,
        context: Context,
        definition: Definition,
        state: AgentState,
        *,
        output: Output,
        user_input_id: str,
        prompt: str,
        params: JsonObject | None,
        content: Sequence[JsonObject] = (),
        parent: Agent | None = None,
        spawnable: Sequence[str] | None = None,
        special: str | None = None,
        inline: bool = False,
    ) -> None:
        self.context = context
        self.definition = definition
        self.state = state
        self.output = output
        self.user_input_id = user_input_id
        self.spawnable = list(definition.spawnable_agents if spawnable is None else spawnable)
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.inline = inline
        self.model = context.model_of(definition)
        self.files = Files(context.client, context.project, state.history)
        self.edited: dict[str, str] = {}
        self.added: list[JsonObject] = []
        self.inbox: list[JsonObject] = []
        self.beside: set[asyncio.Task[None]] = set()
        names = list(definition.tool_names)
        if definition.output_mode == "structured_output" and "set_output" not in names:
            names.append("set_output")
        schema = plain(definition.output_schema) or None
        self.tools = tool_table(names, context.project.custom_tools, output_schema=schema)
        self.prompts: Prompts = Prompts(
            definition=definition,
            project=context.project,
            tools=self.tools,
            spawnable=self._known_spawnable(),
            prompt=prompt,
            initial_prompt=prompt if parent is None else parent.prompts.initial_prompt,
            # Not through `self`: in a cycle, the whole prompt would outlive its end until it is collected.
            remaining=lambda: state.steps_remaining,
        )
        self._inherits = parent is not None and definition.inherit_parent_system_prompt
        self.system: str = parent.system if parent is not None and self._inherits else self.prompts.system()
        self._prompt, self._params, self._content, self._special = prompt, params, content, special
        self.record = Record(context.runs, state, self.model)
        self._said = ""
        self.paused = False
        self._reminded = False
        # Files may be others than agents have seen: another prompt, a command or another agent came between.
        self.files_stale = parent is None
        self._earlier = last_answer(state.history)
        # On a conversation that is its parent's, what lives as long as the parent's run is not this one's to end.
        self._parents = [message for message in state.history if "timeToLive" in message] if inline else []

    def _known_spawnable(self) -> list[Definition]:
        catalog = self.context.catalog
        known: dict[str, Definition] = {}
        unknown = []
        for agent_id in dict.fromkeys(self.spawnable):
            if (found := catalog.get(agent_id)) is not None:
                known.setdefault(found.id, found)
            else:
                unknown.append(agent_id)
        for agent_id in unknown[:_MOST_LOGGED]:
            try:
                catalog.find(agent_id)
            except PatchbayError as error:
                why = str(error)[:_LONGEST_LOGGED]
                log.info("agent_unknown", agent=self.definition.id, spawnable=agent_id[:_LONGEST_LOGGED], error=why)
        return list(known.values())

    @asynccontextmanager
    async def resting(self) -> AsyncGenerator[None, None]:
        """Gives this agent's place to others while it waits for them."""
        self.context.slots.release()
        try:
            yield
        finally:
            # Taken back in any case: whoever has given this agent its place frees it at the agent's end.
            await asyncio.shield(asyncio.ensure_future(self.context.slots.acquire()))

    async def run(self) -> JsonObject:
        """Runs it to its end; the AgentOutput. Its failure is an output of type `error`."""
        self.state.run_id = str(uuid.uuid4())
        self.record.start(self.definition.id, self.context.prompt.owner)
        status: Status = "failed"
        error = ""
        try:
            output = await self._run()
            error = output["message"] if output["type"] == "error" else ""
            status = "cancelled" if self.context.client.cancelled else "failed" if error else "completed"
        except asyncio.CancelledError:
            status = "cancelled"
            raise
        except PatchbayError as failure:
            error = failure.error.message
            output = {"type": "error", "message": error}
        except Exception:
            log.exception("agent_crashed", agent=self.definition.id, request_id=self.context.prompt.request_id)
            error = f"internal error; request id {self.context.prompt.request_id}"
            output = {"type": "error", "message": error}
        finally:
            self._expire()
            self.record.finish(status, error)
            await self.record.written()
        return output

    async def _run(self) -> JsonObject:
        await self._add_mcp_tools()
        self._begin()
        program = None
        if self.definition.handle_steps:
            program = ProgramRun(self, self.definition.handle_steps, self._prompt, self._params)
        try:
            await self._work(program)
        except StepsError as error:
            message = f"The program of the agent {self.definition.display_name} failed: {error}"
            await self.output.text(message)
            self.state.output = {**(self.state.output or {}), "error": message}
            return {"type": "error", "message": message}
        finally:
            if program is not None:
                await program.aclose()
        return self._result()

    async def _add_mcp_tools(self) -> None:
        """Asks the client for the tools of the agent's MCP servers; those that do not answer have none."""
        names = self.definition.tool_names
        servers = plain(self.definition.mcp_servers)
        listings = await asyncio.gather(
            *(self.context.mcp_tools(config, mcp_wanted(names, server)) for server, config in servers.items())
        )
        for (server, config), listing in zip(servers.items(), listings, strict=True):
            for listed in listing:
                tool = mcp_tool(server, config, listed)
                self.tools[tool.name] = tool

    def _begin(self) -> None:
        state = self.state
        if not self.depth:
            for earlier in state.history:
                earlier.pop("keepDuringTruncation", None)
        asked = user_prompt(self._prompt, self._params)
        message = user_message(asked, keep=True)
        if self._content:
            parts = [{"type": "text", "text": asked}] if asked else []
            message["content"] = [*parts, *self._content]
        if message["content"]:
            state.history += clean_history([message if self.depth else with_session(message, self.context.session_id)])
        if self._special is not None:
            text = f"<system_instructions>{instruction_of(self._special)}</system_instructions>"
            state.history.append(user_message(text, ttl="userPrompt", keep=True))
        if instructions := self.prompts.instructions(inherits=self._inherits):
            state.history.append(user_message(instructions, ttl="userPrompt", keep=True))

    def _expire(self) -> None:
        """Drops the messages that live no longer than a run."""
        self.state.history = [
            message for message in self.state.history if "timeToLive" not in message or message in self._parents
        ]

    async def _work(self, program: ProgramRun | None) -> None:
        ended = False
        while not self.context.client.cancelled and not self.paused:
            if program is not None:
                if not await program.until_step(ended=ended):
                    return
            elif ended and not await self._goes_on():
                return
            ended = await self.step()

    async def _goes_on(self) -> bool:
        """Whether there is more to do although the model has ended its turn."""
        if self.beside and not self.inbox:
            async with self.resting():
                await asyncio.wait(self.beside, return_when=asyncio.FIRST_COMPLETED)
        if self.inbox:
            return True
        lacks_output = self.definition.output_mode == "structured_output" and self.state.output is None
        if lacks_output and not self._reminded and not self.context.client.cancelled:
            self._reminded = True
            self.state.history.append(user_message(system_notice(_NO_OUTPUT)))
            return True
        return False

    def _result(self) -> JsonObject:
        match self.definition.output_mode:
            case "structured_output":
                return {"type": "structuredOutput", "value": self.state.output}
            case "all_messages":
                lasting = [message for message in self.state.history if "timeToLive" not in message]
                return {"type": "allMessages", "value": lasting[1:]}
        last = last_answer(self.state.history)
        # An answer to an earlier prompt is none to this one.
        own = {} if last is None or last is self._earlier else last
        said = self._said or text_of(own)
        if said.strip():
            return {"type": "lastMessage", "value": said}
        if self.context.client.cancelled:
            return {"type": "error", "message": "The prompt was cancelled."}
        # What works on its parent's conversation has no one to answer; of a turn that a call has ended, such as that of
        # `end_turn` or one that writes a plan, there is no more to say.
        if self.inline or tool_calls(own):
            return {"type": "lastMessage", "value": ""}
        return {"type": "error", "message": "No response from agent"}

    # One step of the model.

    async def step(self) -> bool:
        """Asks the model once and runs the tools that it calls; whether its turn has ended."""
        state = self.state
        if state.steps_remaining <= 0:
            self.paused = True
            await self.output.text(_PAUSED)
            await self.output.event({"type": "text", "text": _PAUSED})
            state.history.append(user_message(system_notice(_PAUSED_NOTICE)))
            self._said = self._said or _PAUSED.strip()
            return True
        await self._catch_up()
        answer = await self._ask()
        spent = await self.charge(answer)
        name_calls(answer.calls, state.history)
        state.steps_remaining -= 1
        self.record.steps += 1
        self.take(answer)
        self.edited.clear()
        ended = await run_calls(self, answer)
        state.history += self.added
        self.added.clear()
        self.record.step(answer, spent)
        return ended

    def take(self, answer: Answer) -> None:
        """Writes an answer into the conversation."""
        if (message := assistant_message(answer, model=self.model)) is not None:
            self.state.history.append(message)
        if answer.text.strip():
            self._said = answer.text

    async def _catch_up(self) -> None:
        """Tells the model what has happened beside it."""
        if self.inbox:
            # Whoever reports may have changed files since it was started.
            self.files_stale = True
            self.state.history += self.inbox
            self.inbox.clear()
        if not self.files_stale:
            return
        self.files_stale = False
        entries = await self.files.changes() if "read_files" in self.tools else []
        if self._lacks_knowledge():
            self.state.history.append(user_message(system_notice(knowledge(self.context.project)), keep=True))
        if entries:
            output: list[Part] = [{"type": "json", "value": entries}]
            self.state.history.append(tool_message(f"files-{uuid.uuid4().hex[:12]}", "file_updates", output))

    def _lacks_knowledge(self) -> bool:
        """Whether the model has not been shown the project's knowledge files."""
        if self.depth or "read_files" not in self.tools or self.prompts.mentions("KNOWLEDGE_FILES_CONTENTS"):
            return False
        text = knowledge(self.context.project)
        return bool(text) and not any(message.get("content") == system_notice(text) for message in self.state.history)

    async def _ask(self) -> Answer:
        limit = self.context.settings.context_tokens
        for _ in range(_SHORTENED):
            try:
                return await self._ask_within(limit)
            except PatchbayError as error:
                if error.error.code != CONTEXT_LENGTH:
                    raise
            # The model's window is smaller than we were told, or our count was off.
            size = sum(map(text_tokens, map(json_text, self.state.history)))
            limit = min(limit, self._request().overhead() + size // 2)
        return await self._ask_within(limit)

    async def _ask_within(self, limit: int) -> Answer:
        chat = self._chat(limit)
        answer = Answer()
        try:
            await self.context.ask(
                chat,
                answer,
                model=self.model,
                session_id=self.state.run_id if self.depth else self.context.session_id,
                output=self.output,
                thoughts=not plain(self.definition.reasoning_options).get("exclude"),
            )
        except PatchbayError as failure:
            if answer.text.strip():
                # What the user has seen is part of the conversation.
                self.take(Answer.of_text(answer.text))
            self.record.steps += 1
            self.record.step(answer, await self.charge(answer), failure.error.message)
            raise
        return answer

    async def generate(self, n: int) -> list[str]:
        """So many answers of the model to the conversation as it is, side by side; none of them goes into it."""
        chat = self._chat(self.context.settings.context_tokens)
        answers = [Answer() for _ in range(n)]
        try:
            async with self.resting(), asyncio.TaskGroup() as tasks:
                for number, answer in enumerate(answers):
                    tasks.create_task(self._generate_one(chat, answer, number))
        except ExceptionGroup as failures:
            # One says it as well as all of them, and is what a single call would have raised.
            raise failures.exceptions[0] from None
        return [answer.text for answer in answers]

    async def _generate_one(self, chat: Chat, answer: Answer, number: int) -> None:
        session_id = f"{self.state.run_id}-{number}"
        async with self.context.slots:
            await self.context.ask(chat, answer, model=self.model, session_id=session_id, output=None)
        await self.charge(answer)

    async def charge(self, answer: Answer) -> int:
        """Counts what a call of a model has cost and tells the client, if anyone knows; the credits."""
        cost = self.context.cost(answer)
        if cost is None:
            return 0
        self.state.direct_credits_used += cost
        # At once, and all the way up: an agent may outlive the one that has started it.
        payer: Agent | None = self
        while payer is not None:
            payer.state.credits_used += cost
            payer = payer.parent
        await self.context.client.cost(cost, agent_id=self.state.agent_id, user_input_id=self.user_input_id)
        return cost

    def _chat(self, limit: int) -> Chat:
        request = self._request()
        self.state.history = pruned(self.state.history, limit=limit, overhead=request.overhead())
        return request.chat(self.state.history, model=self.model)

    def _request(self) -> Request:
        return Request(
            system=self.system,
            step_prompt=self.prompts.step(),
            tools=[tool.canonical() for tool in self.tools.values()],
            reasoning=plain(self.definition.reasoning_options),
        )
