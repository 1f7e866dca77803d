"""Drives an agent by its `handleSteps` program."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

from patchbay_codebuff_ws.loop.answer import Answer, ToolCall
from patchbay_codebuff_ws.loop.calls import use
from patchbay_codebuff_ws.loop.context import unless_cancelled
from patchbay_codebuff_ws.loop.history import json_text
from patchbay_codebuff_ws.loop.schemas import problems_of
from patchbay_codebuff_ws.loop.steps import (
    CallTool,
    Ended,
    Generate,
    LogEntry,
    Program,
    Step,
    StepAll,
    StepsError,
    StepText,
    Yield,
)
from patchbay_codebuff_ws.loop.tools import meant
from patchbay_codebuff_ws.ports import JsonObject, Part

if TYPE_CHECKING:
    from patchbay_codebuff_ws.loop.agent import Agent

# A program that calls tools for ever is no use to anyone.
_MAX_YIELDS_BETWEEN_STEPS = 500
# So many share a replica's programs: one that starts agent after agent leaves some to others.
_PROMPTS_AT_LEAST = 4


class ProgramRun:
    """One program of one run of an agent."""

    def __init__(self, agent: Agent, source: str, prompt: str, params: JsonObject | None) -> None:
        self._agent = agent
        self._source = source
        self._prompt = prompt
        self._params = params
        self._program: Program | None = None
        self._all = False
        self._result: list[Part] = []
        self._responses: list[str] | None = None

    async def until_step(self, *, ended: bool) -> bool:
        """Runs the program until it wants a step of the model; False: it has returned, or the user has cancelled.

        Args:
            ended: Whether the model ended its turn with the last step.

        Raises:
            StepsError: See `Program.advance`.
        """
        if self._all and not ended:
            return True
        self._all = False
        agent = self._agent
        for _ in range(_MAX_YIELDS_BETWEEN_STEPS):
            if agent.context.client.cancelled:
                return False
            match await self._advance(ended):
                case Ended() | None:
                    return False
                case Step():
                    return True
                case StepAll():
                    self._all = True
                    return True
                case StepText(text=text):
                    await agent.output.text(text)
                    await agent.output.event({"type": "text", "text": text})
                    agent.take(Answer.of_text(text))
                case Generate(n=n):
                    if agent.state.steps_remaining <= 0:
                        raise StepsError("it has used all its steps, of which GENERATE_N takes one")
                    agent.state.steps_remaining -= 1
                    self._responses = await agent.generate(n)
                case CallTool() as call:
                    self._result = await self._call(call)
                    if call.name == "end_turn":
                        return False
        raise StepsError(f"more than {_MAX_YIELDS_BETWEEN_STEPS} tool calls without a step of the model")

    async def _advance(self, ended: bool) -> Yield | None:
        """What the program yields next; None: the user has cancelled, and it has no next."""
        context, state = self._agent.context, self._state()
        if self._program is None:
            argument: JsonObject = {"agentState": state, "prompt": self._prompt}
            if self._params is not None:
                argument["params"] = self._params
            limits = context.settings.steps
            if len(context.programs) >= max(1, limits.max_programs // _PROMPTS_AT_LEAST):
                raise StepsError("as many programs run for this prompt as may run at a time")
            context.programs.add(self._agent.state.agent_id)
            self._program = await context.steps.start(self._source, argument, log=self._log)
            return await unless_cancelled(context.client, self._program.advance(None))
        result: JsonObject = {"agentState": state, "toolResult": self._result, "stepsComplete": ended}
        if self._responses is not None:
            result["nResponses"] = self._responses
        self._result, self._responses = [], None
        return await unless_cancelled(context.client, self._program.advance(result))

    async def _log(self, entry: LogEntry) -> None:
        await self._agent.context.client.log(
            entry.level,
            entry.data,
            message=entry.message,
            agent_id=self._agent.state.agent_id,
            user_input_id=self._agent.user_input_id,
        )

    def _state(self) -> JsonObject:
        state = self._agent.state
        shown: JsonObject = {
            "agentId": state.agent_id,
            "runId": state.run_id,
            "messageHistory": list(state.history),
            "stepsRemaining": state.steps_remaining,
        }
        if state.parent_id:
            shown["parentId"] = state.parent_id
        if state.output is not None:
            shown["output"] = state.output
        return shown

    async def _call(self, call: CallTool) -> list[Part]:
        agent = self._agent
        tool = agent.tools.get(call.name)
        if tool is None:
            raise StepsError(f"the tool `{call.name}` is not among the agent's toolNames")
        given = meant(tool, call.input)
        if problems := problems_of(given, tool.schema):
            raise StepsError(f"the input of `{call.name}` is wrong: {problems}")
        call_id = f"call_{uuid.uuid4().hex[:20]}"
        if call.shown:
            agent.take(Answer.of_call(ToolCall(call_id, tool.name, json_text(given))))
        agent.edited.clear()
        output = await use(agent, tool, given, call_id, kept=call.shown)
        agent.state.history += agent.added
        agent.added.clear()
        return output

    async def aclose(self) -> None:
        self._agent.context.programs.discard(self._agent.state.agent_id)
        if self._program is not None:
            await asyncio.shield(asyncio.ensure_future(self._program.aclose()))
