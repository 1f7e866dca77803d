"""Agents: how their definitions are read and checked, and those that are there for every client."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal

import msgspec

PUBLISHER = "codebuff"
"""Under whose name clients ask for the agents that are there for everybody."""
VERSION = "1.0.0"

_ID = re.compile(r"[a-z0-9-]+")
_HANDLE_STEPS = re.compile(r"\s*function\s*\*")
# Where a prompt describes tools to models that write their calls as text.
_WRITTEN_TOOLS = re.compile(r"\n*\{CODEBUFF_(?:TOOLS|AGENTS)_PROMPT\}")


class InputSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an agent is given: a prompt, and parameters, each described with JSON schema."""

    prompt: dict[str, Any] | None = None
    params: dict[str, Any] | None = None


class AgentDefinition(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """An agent, as clients define it. Its prompts may have placeholders (`{CODEBUFF_…}`)."""

    id: str
    display_name: str
    model: str
    version: str | None = None
    publisher: str | None = None
    reasoning_options: dict[str, Any] | None = None
    provider_options: dict[str, Any] | None = None
    mcp_servers: dict[str, dict[str, Any]] | None = None
    tool_names: list[str] = []
    spawnable_agents: list[str] = []
    input_schema: InputSchema | None = None
    include_message_history: bool = False
    inherit_parent_system_prompt: bool = False
    output_mode: Literal["last_message", "all_messages", "structured_output"] = "last_message"
    output_schema: dict[str, Any] | None = None
    spawner_prompt: str | None = None
    system_prompt: str = ""
    instructions_prompt: str = ""
    step_prompt: str = ""
    handle_steps: str | None = None


_FIELDS = msgspec.structs.fields(AgentDefinition)


def read_definition(raw: Mapping[str, Any]) -> AgentDefinition:
    """A definition, checked. Fields that are not known are passed over, and an optional one that is null is absent.

    Raises:
        ValueError: It names every problem of the definition.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in _FIELDS:
        value = raw.get(field.encode_name)
        if value is None:
            if field.required:
                problems.append(f"`{field.encode_name}` is missing")
            continue
        try:
            values[field.name] = msgspec.convert(value, field.type)
        except msgspec.ValidationError as error:
            problems.append(f"`{field.encode_name}`: {error}")
    problems += _problems(values)
    if problems:
        raise ValueError("; ".join(problems))
    return AgentDefinition(**values)


def _problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong of fields that have the right types."""
    problems = []
    if "id" in values and not _ID.fullmatch(values["id"]):
        problems.append("`id`: only lower-case letters, digits and hyphens")
    for name in ("display_name", "model"):
        if name in values and not values[name].strip():
            problems.append(f"`{_encoded(name)}` is empty")
    if values.get("spawnable_agents") and "spawn_agents" not in values.get("tool_names", ()):
        problems.append("`spawnableAgents`: needs `spawn_agents` in `toolNames`")
    if "output_schema" in values and values.get("output_mode") != "structured_output":
        problems.append("`outputSchema`: needs `outputMode` to be `structured_output`")
    if "handle_steps" in values and not _HANDLE_STEPS.match(values["handle_steps"]):
        problems.append("`handleSteps`: must be the source of a generator, beginning with `function*`")
    if values.get("inherit_parent_system_prompt") and values.get("system_prompt"):
        problems.append("`inheritParentSystemPrompt`: leaves no place for a `systemPrompt`")
    return problems


def _encoded(name: str) -> str:
    return next(field.encode_name for field in _FIELDS if field.name == name)


@cache
def builtin_agents() -> Mapping[str, AgentDefinition]:
    """The agents that are there for every client, by id."""
    files = resources.files(__package__) / "templates"
    raw: dict[str, dict[str, Any]] = {}
    for file in files.iterdir():
        name, dot, kind = file.name.rpartition(".")
        if dot and kind == "yaml":
            raw[name] = msgspec.yaml.decode(file.read_bytes(), type=dict[str, Any])
    return MappingProxyType({name: read_definition({**_whole(raw, name), "id": name}) for name in sorted(raw)})


def _whole(raw: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """A template with what it has of the one that it extends: what one family shares is written once."""
    own = raw[name]
    return {**_whole(raw, own["extends"]), **own} if "extends" in own else own


def published(definition: AgentDefinition) -> dict[str, Any]:
    """A definition as clients that run agents themselves fetch it: with its publisher, and every prompt there.

    They offer tools to a model as the provider's API has it, and know no placeholders for their descriptions.
    """
    template: dict[str, Any] = msgspec.to_builtins(definition)
    for name in ("systemPrompt", "instructionsPrompt", "stepPrompt"):
        template[name] = _WRITTEN_TOOLS.sub("", template.get(name, ""))
    return {
        "toolNames": [],
        "spawnableAgents": [],
        "outputMode": "last_message",
        "includeMessageHistory": False,
        "publisher": PUBLISHER,
        "version": VERSION,
        **template,
    }
