"""The agents that are there for everybody, at work in the loop."""

from __future__ import annotations

import re

import pytest
from loop_fakes import Call, FakeClient, FakeModels, FakeRuns, session

from patchbay.codebuff.agents import builtin_agents, read_definition
from patchbay.settings.codebuff import Codebuff
from patchbay_codebuff_ws.loop.prompt_loop import AgentLoop
from patchbay_codebuff_ws.loop.sandbox import Sandbox
from patchbay_codebuff_ws.loop.tools import BUILT_IN
from patchbay_codebuff_ws.ports import Prompt, PromptResult

AGENTS = builtin_agents()


async def run(models: FakeModels, client: FakeClient, agent_id: str | None, **context: object) -> PromptResult:
    loop = AgentLoop(
        Codebuff(),
        models=models,
        runs=FakeRuns(),
        steps=Sandbox(Codebuff().steps),
        builtin=AGENTS,
        read=read_definition,
    )
    state = session(**context)
    return await loop.run(Prompt(prompt_id="p1", text="Do it", agent_id=agent_id, session_state=state), client)


@pytest.mark.parametrize("name", AGENTS)
async def test_each_one_runs_with_all_that_it_names(name: str) -> None:
    agent = AGENTS[name]
    assert set(agent.tool_names) <= set(BUILT_IN)
    assert set(agent.spawnable_agents) <= set(AGENTS)
    if agent.handle_steps is not None:
        return
    models = FakeModels(["All is done."])
    result = await run(models, FakeClient(), name)
    assert result.output["type"] in ("lastMessage", "allMessages")
    said = models.chats[0].SerializeToString().decode(errors="replace")
    assert re.findall(r"\{CODEBUFF_\w+\}", said) == []


async def test_base_starts_another_one() -> None:
    base = AGENTS["base"]
    other = next(name for name in base.spawnable_agents if AGENTS[name].handle_steps is None)
    spawn = Call("spawn_agents", {"agents": [{"agent_type": other, "prompt": "Look"}]})
    models = FakeModels([spawn], ["Looked"], ["Done"])
    client = FakeClient()
    result = await run(models, client, None)
    assert result.output == {"type": "lastMessage", "value": "Done"}
    assert client.results()[0][0]["value"] == {"type": "lastMessage", "value": "Looked"}


async def test_a_client_may_bring_its_own_with_an_input_schema() -> None:
    mine = {
        "id": "mine",
        "displayName": "Mine",
        "model": "m",
        "inputSchema": {"params": {"type": "object", "required": ["n"]}},
    }
    spawn = Call("spawn_agents", {"agents": [{"agent_type": "mine"}]})
    client = FakeClient()
    await run(FakeModels([spawn], ["Done"]), client, None, agentTemplates={"mine": mine})
    assert "'n' is a required property" in client.results()[0][0]["value"]["errorMessage"]
