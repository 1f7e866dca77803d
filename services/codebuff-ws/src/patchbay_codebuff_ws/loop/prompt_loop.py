"""Runs a prompt: chooses its agent, or runs it in the user's shell, and writes the session's state at its end."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping

from patchbay.settings.codebuff import Codebuff
from patchbay_codebuff_ws.loop.agent import Agent
from patchbay_codebuff_ws.loop.context import Context, PromptOutput
from patchbay_codebuff_ws.loop.definitions import Catalog, Definition
from patchbay_codebuff_ws.loop.execute import readable
from patchbay_codebuff_ws.loop.history import (
    session_of,
    system_notice,
    tool_message,
    user_message,
    with_session,
)
from patchbay_codebuff_ws.loop.prompts import user_prompt
from patchbay_codebuff_ws.loop.runs import Runs
from patchbay_codebuff_ws.loop.shortcuts import COMPACT, shell_command, special_prompt
from patchbay_codebuff_ws.loop.state import AgentState, Project
from patchbay_codebuff_ws.loop.steps import Steps
from patchbay_codebuff_ws.models import Dispatch
from patchbay_codebuff_ws.ports import Client, JsonObject, Models, Prompt, PromptResult


class AgentLoop:
    """The `Loop` of `ports`.

    Args:
        models: Asked for every step; started and closed with the loop if it is a `Dispatch`.
        builtin: The agents that are there for every client, by id.
        read: Reads an agent's definition that a client brings; ValueError for one that is wrong.
    """

    def __init__(
        self,
        settings: Codebuff,
        *,
        models: Models,
        runs: Runs,
        steps: Steps,
        builtin: Mapping[str, Definition],
        read: Callable[[JsonObject], Definition],
    ) -> None:
        self._settings = settings
        self._models = models
        self._runs = runs
        self._steps = steps
        self._builtin = builtin
        self._read = read

    async def start(self) -> None:
        if isinstance(self._models, Dispatch):
            await self._models.start()

    async def aclose(self) -> None:
        if isinstance(self._models, Dispatch):
            await self._models.aclose()

    async def run(self, prompt: Prompt, client: Client) -> PromptResult:
        """See `Loop.run`."""
        session = prompt.session_state
        project = Project(_part(session, "fileContext"))
        state = AgentState.read(_part(session, "mainAgentState"))
        catalog = Catalog(project, self._builtin, self._read)
        command = shell_command(prompt.text) if not prompt.content else None
        definition = None if command else catalog.choose(prompt.agent_id, prompt.cost_mode, project)
        agent_id = definition.id if definition else prompt.agent_id or "base"
        await client.chunk({"type": "start", "agentId": agent_id, "messageHistoryLength": len(state.history)})
        if definition is None:
            output = await _in_shell(command or "", prompt, state, client)
        else:
            output = await self._with_agent(definition, prompt, client, project, state, catalog)
        await client.chunk({"type": "finish", "agentId": agent_id, "totalCost": state.credits_used})
        return PromptResult(session_state={**session, "mainAgentState": state.write()}, output=output)

    async def _with_agent(
        self,
        definition: Definition,
        prompt: Prompt,
        client: Client,
        project: Project,
        state: AgentState,
        catalog: Catalog,
    ) -> JsonObject:
        state.agent_type = definition.id
        spawnable = None if prompt.agent_id else _spawnable(definition, project, catalog)
        special = special_prompt(prompt.text)
        async with asyncio.TaskGroup() as tasks:
            context = Context(
                prompt=prompt,
                client=client,
                settings=self._settings,
                models=self._models,
                runs=self._runs,
                steps=self._steps,
                project=project,
                catalog=catalog,
                slots=asyncio.Semaphore(self._settings.max_running_agents),
                tasks=tasks,
                session_id=session_of(state.history) or str(uuid.uuid4()),
            )
            agent = Agent(
                context,
                definition,
                state,
                output=PromptOutput(client),
                user_input_id=prompt.prompt_id,
                prompt=prompt.text,
                params=prompt.params,
                content=prompt.content,
                spawnable=spawnable,
                special=special,
            )
            async with context.slots:
                output = await agent.run()
        said = output.get("value")
        whole = output["type"] == "lastMessage" and not agent.paused and not client.cancelled
        if special == COMPACT and whole and said:
            summary = user_message(system_notice(f"The conversation so far, summarized:\n\n{said}"))
            state.history = [with_session(summary, context.session_id)]
        return output


def _spawnable(definition: Definition, project: Project, catalog: Catalog) -> list[str]:
    """Whom the agent may start when the client has not asked for it by its id."""
    configured = project.config.get("spawnableAgents")
    if isinstance(configured, list):
        return [one for one in configured if isinstance(one, str)]
    return list(dict.fromkeys([*definition.spawnable_agents, *catalog.local_ids]))


async def _in_shell(command: str, prompt: Prompt, state: AgentState, client: Client) -> JsonObject:
    """Runs the prompt as a command of the user's own, with no model."""
    call_id = f"call_{uuid.uuid4().hex[:20]}"
    name = "run_terminal_command"
    wire: JsonObject = {"command": command, "mode": "user", "process_type": "SYNC", "timeout_seconds": -1}
    state.history.append(user_message(user_prompt(prompt.text, prompt.params)))
    await client.chunk({"type": "tool_call", "toolCallId": call_id, "toolName": name, "input": wire})
    output = await client.call_tool(name, wire, user_input_id=prompt.prompt_id, timeout_seconds=None)
    await client.chunk({"type": "tool_result", "toolCallId": call_id, "toolName": name, "output": output})
    state.history.append(tool_message(call_id, name, readable(output)))
    return {"type": "lastMessage", "value": output}


def _part(session: JsonObject, name: str) -> JsonObject:
    value = session.get(name)
    return value if isinstance(value, dict) else {}
