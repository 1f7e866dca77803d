"""Agents that start agents: side by side, beside themselves, or on their own conversation."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

from patchbay.errors import PatchbayError
from patchbay_codebuff_ws.loop.context import ChildOutput
from patchbay_codebuff_ws.loop.definitions import Definition, listed, may_spawn
from patchbay_codebuff_ws.loop.history import json_text, readable_message, system_notice, user_message
from patchbay_codebuff_ws.loop.prompts import plain
from patchbay_codebuff_ws.loop.prune import pruned
from patchbay_codebuff_ws.loop.schemas import problems_of
from patchbay_codebuff_ws.loop.state import AgentState
from patchbay_codebuff_ws.ports import JsonObject, Part

if TYPE_CHECKING:
    from patchbay_codebuff_ws.loop.agent import Agent


# Agents that wait for their place take memory, and one call may ask for any number of them.
_STARTED_PER_PLACE = 10


class _Refused(Exception):
    """An agent may not be started as asked; the message is for the model."""


async def spawn_agents(agent: Agent, given: JsonObject) -> list[Part]:
    """Starts agents side by side and waits for all of them."""
    requests = given["agents"]
    only = len(requests) == 1
    # Who waits is not at work: else agents that wait for agents could take every place.
    async with agent.resting(), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_report(agent, request, only_child=only)) for request in requests]
    return [{"type": "json", "value": [task.result() for task in running]}]


async def spawn_agents_async(agent: Agent, given: JsonObject) -> list[Part]:
    """Starts agents that work beside their parent, which gets a message from each at its end."""
    reports: list[JsonObject] = []
    for request in given["agents"]:
        try:
            child = _child(agent, request, only_child=False)
        except _Refused as refused:
            reports.append({"agentType": request["agent_type"], "success": False, "errorMessage": str(refused)})
            continue
        task = agent.context.tasks.create_task(_beside(agent, child), name=f"agent-{child.definition.id}")
        agent.beside.add(task)
        task.add_done_callback(agent.beside.discard)
        reports.append({"agentType": request["agent_type"], "success": True, "agentId": child.state.agent_id})
    return [{"type": "json", "value": reports}]


async def _beside(agent: Agent, child: Agent) -> None:
    output = await _run(agent, child, only_child=False)
    result = {"agentId": child.state.agent_id, "agentType": child.definition.id, "value": output}
    agent.inbox.append(user_message(system_notice(f"An agent that you started is done:\n{json_text(result)}")))


async def spawn_agent_inline(agent: Agent, given: JsonObject) -> list[Part]:
    """Runs an agent on the conversation of its parent, which goes on with what it has made of it."""
    try:
        child = _child(agent, given, only_child=True, inline=True)
    except _Refused as refused:
        return [{"type": "json", "value": {"errorMessage": str(refused)}}]
    async with agent.resting():
        output = await _run(agent, child, only_child=True)
    agent.state.history = child.state.history
    if output.get("type") == "error":
        return [{"type": "json", "value": {"errorMessage": output["message"]}}]
    return []


async def _report(agent: Agent, request: JsonObject, *, only_child: bool) -> JsonObject:
    try:
        child = _child(agent, request, only_child=only_child)
    except _Refused as refused:
        return {
            "agentName": request["agent_type"],
            "agentType": request["agent_type"],
            "value": {"errorMessage": str(refused)},
        }
    value = await _run(agent, child, only_child=only_child)
    if value.get("type") == "error":
        value = {"errorMessage": value["message"]}
    return {"agentName": child.definition.display_name, "agentType": child.definition.id, "value": value}


async def _run(agent: Agent, child: Agent, *, only_child: bool) -> JsonObject:
    try:
        async with agent.context.slots:
            return await _run_in_its_place(agent, child, only_child=only_child)
    finally:
        agent.context.started.discard(child.state.agent_id)


async def _run_in_its_place(agent: Agent, child: Agent, *, only_child: bool) -> JsonObject:
    about: JsonObject = {
        "agentId": child.state.agent_id,
        "agentType": child.definition.id,
        "displayName": child.definition.display_name,
        "onlyChild": only_child,
        "parentAgentId": agent.state.agent_id,
    }
    await agent.output.event({"type": "subagent_start", **about})
    if only_child and not child.inline:
        await agent.output.text(f"\n\n[{child.definition.display_name}]\n\n")
    try:
        return await child.run()
    finally:
        agent.state.child_run_ids.append(child.state.run_id)
        await agent.output.event({"type": "subagent_finish", **about})


def _child(agent: Agent, request: JsonObject, *, only_child: bool, inline: bool = False) -> Agent:
    """The agent to run.

    Raises:
        _Refused: It may not be started, or not so.
    """
    context = agent.context
    definition = _definition(agent, request)
    prompt, params = request.get("prompt"), request.get("params")
    state = AgentState(
        agent_id=uuid.uuid4().hex[:12],
        agent_type=definition.id,
        steps_remaining=context.project.max_steps,
        parent_id=agent.state.agent_id,
        ancestor_run_ids=[*agent.state.ancestor_run_ids, agent.state.run_id],
    )
    if inline:
        state.history = list(agent.state.history)
        state.context = agent.state.context
    elif definition.include_message_history:
        state.history = [user_message(_conversation(agent), keep=True)]
    context.started.add(state.agent_id)
    return type(agent)(
        context,
        definition,
        state,
        output=ChildOutput(
            client=context.client,
            parent=agent.output if only_child else None,
            agent_id=state.agent_id,
            agent_type=definition.id,
            prompt=prompt,
        ),
        user_input_id=f"{agent.user_input_id}-{definition.id}{state.agent_id}",
        prompt=prompt or "",
        params=params,
        parent=agent,
        inline=inline,
    )


def _conversation(agent: Agent) -> str:
    """What the agent and others have said so far, for one that it starts."""
    said = [message for message in agent.state.history if message.get("role") != "system"]
    # It is one message there, which is kept whole: with what the agent has to do, it has to fit into the window.
    said = pruned(said, limit=agent.context.settings.context_tokens // 2, overhead=0)
    text = json_text([readable_message(message) for message in said])
    return f"This is the conversation so far, of the agent that has started you:\n\n{text}"


def _definition(agent: Agent, request: JsonObject) -> Definition:
    asked = request["agent_type"]
    limit = agent.context.settings.max_agent_depth
    if agent.depth >= limit:
        raise _Refused(f"Agents may not be started more than {limit} deep: do it yourself.")
    most = _STARTED_PER_PLACE * agent.context.settings.max_running_agents
    if len(agent.context.started) >= most:
        raise _Refused(f"There are as many agents as may be at a time ({most}): start fewer.")
    if not may_spawn(agent.spawnable, asked):
        raise _Refused(f"The agent `{asked}` may not be started here (agents: {listed(agent.spawnable)}).")
    try:
        definition = agent.context.catalog.find(asked)
    except PatchbayError as error:
        raise _Refused(str(error)) from error
    schema = plain(plain(definition.input_schema).get("params"))
    if schema and (problems := problems_of(request.get("params") or {}, schema)):
        raise _Refused(f"The params for `{asked}` are wrong: {problems}")
    return definition
