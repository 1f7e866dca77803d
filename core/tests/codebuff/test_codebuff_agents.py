from __future__ import annotations

import re
from typing import Any

import pytest

from patchbay.codebuff.agents import AgentDefinition, builtin_agents, published, read_definition

_PLACEHOLDERS = frozenset(
    {
        "AGENT_NAME",
        "AGENTS_PROMPT",
        "CONFIG_SCHEMA",
        "FILE_TREE_PROMPT",
        "GIT_CHANGES_PROMPT",
        "INITIAL_AGENT_PROMPT",
        "KNOWLEDGE_FILES_CONTENTS",
        "PROJECT_ROOT",
        "REMAINING_STEPS",
        "SYSTEM_INFO_PROMPT",
        "TOOLS_PROMPT",
        "USER_CWD",
        "USER_INPUT_PROMPT",
    }
)
# Those that clients of both protocols run.
_TOOLS = frozenset(
    {
        "add_message",
        "add_subgoal",
        "browser_logs",
        "code_search",
        "create_plan",
        "end_turn",
        "find_files",
        "lookup_agent_info",
        "read_docs",
        "read_files",
        "run_file_change_hooks",
        "run_terminal_command",
        "set_messages",
        "set_output",
        "spawn_agent_inline",
        "spawn_agents",
        "str_replace",
        "think_deeply",
        "update_subgoal",
        "web_search",
        "write_file",
    }
)
AGENTS = list(builtin_agents().values())
_LEAST = {"id": "one", "displayName": "One", "model": "a/b"}


def test_every_agent_that_clients_ask_for_is_there() -> None:
    assert set(builtin_agents()) == {
        "ask",
        "base",
        "base-free",
        "base-lite",
        "base-max",
        "base2",
        "context-pruner",
        "file-explorer",
        "file-picker",
        "researcher",
        "reviewer",
        "thinker",
    }


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.id)
def test_a_builtin_agent_is_well_defined(agent: AgentDefinition) -> None:
    assert published(read_definition(published(agent))) == published(agent)
    prompts = agent.system_prompt + agent.instructions_prompt + agent.step_prompt
    assert set(re.findall(r"\{CODEBUFF_([A-Z_]+)\}", prompts)) <= _PLACEHOLDERS
    assert set(agent.tool_names) <= _TOOLS
    assert len(set(agent.tool_names)) == len(agent.tool_names)
    assert set(agent.spawnable_agents) <= set(builtin_agents())
    assert agent.id not in agent.spawnable_agents
    assert bool(agent.spawnable_agents) == ("spawn_agents" in agent.tool_names)
    assert agent.spawner_prompt
    assert agent.handle_steps or (agent.system_prompt and agent.instructions_prompt)


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.id)
def test_a_published_agent_has_every_prompt_and_no_null(agent: AgentDefinition) -> None:
    template = published(agent)
    prompts = [template[name] for name in ("systemPrompt", "instructionsPrompt", "stepPrompt")]
    assert all(isinstance(prompt, str) for prompt in prompts)
    # Its reader would show these to the model as they are.
    assert not set(re.findall(r"\{CODEBUFF_([A-Z_]+)\}", "".join(prompts))) & {"TOOLS_PROMPT", "AGENTS_PROMPT"}
    assert None not in template.values()
    assert template["publisher"] == "codebuff"
    assert template["version"] == "1.0.0"


def test_a_family_shares_what_its_members_do_not_say() -> None:
    agents = builtin_agents()
    assert agents["base-max"].system_prompt == agents["base"].system_prompt
    assert agents["base-max"].model != agents["base"].model
    assert agents["base-free"].spawnable_agents == agents["base-lite"].spawnable_agents


def test_what_a_definition_leaves_out_has_its_default() -> None:
    agent = read_definition({**_LEAST, "unknown": 1, "version": None, "outputMode": None})
    assert agent == AgentDefinition(id="one", display_name="One", model="a/b")
    assert agent.tool_names == []
    assert agent.output_mode == "last_message"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"id": "One"}, "`id`"),
        ({"id": None}, "`id` is missing"),
        ({"displayName": 3}, "`displayName`"),
        ({"model": " "}, "`model` is empty"),
        ({"toolNames": "read_files"}, "`toolNames`"),
        ({"spawnableAgents": ["two"]}, "`spawn_agents`"),
        ({"outputSchema": {"type": "object"}}, "`structured_output`"),
        ({"outputMode": "other"}, "`outputMode`"),
        ({"handleSteps": "() => 1"}, "`function*`"),
        ({"inheritParentSystemPrompt": True, "systemPrompt": "x"}, "`inheritParentSystemPrompt`"),
        ({"mcpServers": {"a": 1}}, "`mcpServers`"),
    ],
)
def test_a_definition_that_is_wrong_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        read_definition({**_LEAST, **changes})


def test_every_problem_is_named() -> None:
    with pytest.raises(ValueError, match="missing") as caught:
        read_definition({"id": "A B", "toolNames": 3, "outputSchema": {}})
    for problem in ("`id`", "`displayName`", "`model`", "`toolNames`", "`outputSchema`"):
        assert problem in str(caught.value)
