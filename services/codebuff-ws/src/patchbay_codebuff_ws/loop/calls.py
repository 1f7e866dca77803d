"""Runs the tools that an agent's model, or its program, calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patchbay.canonical import Finished
from patchbay_codebuff_ws.loop.answer import Answer, ToolCall
from patchbay_codebuff_ws.loop.execute import error_part, is_error, run_tool
from patchbay_codebuff_ws.loop.history import model_name, tool_message
from patchbay_codebuff_ws.loop.schemas import problems_of
from patchbay_codebuff_ws.loop.tools import BUILT_IN, Tool, meant
from patchbay_codebuff_ws.ports import JsonObject, Part

if TYPE_CHECKING:
    from patchbay_codebuff_ws.loop.agent import Agent


async def run_calls(agent: Agent, answer: Answer) -> bool:
    """Runs the calls of an answer in their order; whether the turn has ended."""
    goes_on = answer.stop_reason == Finished.STOP_REASON_PAUSE_TURN
    ends = False
    for call in answer.calls:
        if agent.context.client.cancelled:
            return True
        tool = _tool(agent, call.name)
        output = await _run_call(agent, call, tool)
        if tool is not None and tool.name == "end_turn":
            ends = True
        goes_on = goes_on or tool is None or tool.counts or is_error(output)
    return ends or not goes_on


async def use(agent: Agent, tool: Tool, given: JsonObject, call_id: str, *, kept: bool) -> list[Part]:
    """Runs a tool, with its events; `kept`: its result goes into the conversation."""
    about = {"toolCallId": call_id, "toolName": tool.name}
    await agent.output.event({"type": "tool_call", **about, "input": given})
    output = await run_tool(agent, tool, given)
    agent.record.called(tool.name, failed=is_error(output))
    if tool.changes_files:
        # It may have changed any of them.
        agent.files_stale = True
        agent.edited.clear()
    await agent.output.event({"type": "tool_result", **about, "output": output})
    # Of a conversation that was replaced, the call is no part.
    if kept and tool.name != "set_messages":
        agent.state.history.append(tool_message(call_id, tool.name, output))
    return output


def _tool(agent: Agent, name: str) -> Tool | None:
    return agent.tools.get(name) or next((one for one in agent.tools.values() if model_name(one.name) == name), None)


async def _run_call(agent: Agent, call: ToolCall, tool: Tool | None) -> list[Part]:
    given = call.input
    if tool is not None and given is not None:
        given = meant(tool, given)
    if tool is None:
        known = ", ".join(agent.tools) or "none"
        why = "is not available to this agent" if call.name in BUILT_IN else "does not exist"
        output = error_part(f"The tool `{call.name}` {why} (tools: {known}).")
    elif given is None:
        output = error_part(f"The input of `{tool.name}` is no JSON object: {call.text[:500]}")
    elif problems := problems_of(given, tool.schema):
        output = error_part(f"The input of `{tool.name}` is wrong: {problems}")
    else:
        return await use(agent, tool, given, call.id, kept=True)
    agent.record.called(call.name, failed=True)
    agent.state.history.append(tool_message(call.id, call.name, output))
    return output
