"""What a client keeps of its agents between prompts: the state of the main agent, and the project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from patchbay_codebuff_ws.loop.messages import clean_history
from patchbay_codebuff_ws.ports import JsonObject

DEFAULT_STEPS = 25


@dataclass(slots=True)
class AgentState:
    """The state of one agent."""

    agent_id: str
    agent_type: str | None = None
    context: dict[str, JsonObject] = field(default_factory=dict)
    subagents: list[JsonObject] = field(default_factory=list)
    history: list[JsonObject] = field(default_factory=list)
    steps_remaining: int = DEFAULT_STEPS
    credits_used: int = 0
    direct_credits_used: int = 0
    ancestor_run_ids: list[str] = field(default_factory=list)
    child_run_ids: list[str] = field(default_factory=list)
    run_id: str = ""
    parent_id: str = ""
    output: JsonObject | None = None

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> AgentState:
        """Reads the main agent's state as a client sends it, tolerating what is missing; a prompt counts anew."""
        steps = raw.get("stepsRemaining")
        return cls(
            agent_id=_text(raw.get("agentId")) or "main-agent",
            agent_type=_text(raw.get("agentType")) or None,
            context={
                key: {**value, "logs": _texts(value.get("logs"))}
                for key, value in _object(raw.get("agentContext")).items()
                if isinstance(value, dict)
            },
            subagents=_objects(raw.get("subagents")),
            history=clean_history(raw.get("messageHistory")),
            steps_remaining=int(steps) if isinstance(steps, int | float) else DEFAULT_STEPS,
        )

    def write(self) -> JsonObject:
        """As clients take it: what is not there is absent, never null, but for the type."""
        state: JsonObject = {
            "agentId": self.agent_id,
            "agentType": self.agent_type,
            "agentContext": self.context,
            "subagents": self.subagents,
            "messageHistory": self.history,
            "stepsRemaining": self.steps_remaining,
            "creditsUsed": self.credits_used,
            "directCreditsUsed": self.direct_credits_used,
            "ancestorRunIds": self.ancestor_run_ids,
            "childRunIds": self.child_run_ids,
        }
        if self.run_id:
            state["runId"] = self.run_id
        if self.parent_id:
            state["parentId"] = self.parent_id
        if self.output is not None:
            state["output"] = self.output
        return state


@dataclass(frozen=True, slots=True)
class Project:
    """What a client says of its project (`fileContext`), and texts made of it once for all agents of a prompt."""

    raw: Mapping[str, Any]
    made: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def root(self) -> str:
        return _text(self.raw.get("projectRoot"))

    @property
    def cwd(self) -> str:
        return _text(self.raw.get("cwd")) or self.root

    @property
    def tree(self) -> list[JsonObject]:
        return _objects(self.raw.get("fileTree"))

    @property
    def config(self) -> JsonObject:
        return _object(self.raw.get("codebuffConfig"))

    @property
    def templates(self) -> dict[str, JsonObject]:
        return {key: one for key, one in _object(self.raw.get("agentTemplates")).items() if isinstance(one, dict)}

    @property
    def custom_tools(self) -> dict[str, JsonObject]:
        return {
            key: one for key, one in _object(self.raw.get("customToolDefinitions")).items() if isinstance(one, dict)
        }

    @property
    def max_steps(self) -> int:
        steps = self.config.get("maxAgentSteps")
        return int(steps) if isinstance(steps, int | float) and steps > 0 else DEFAULT_STEPS

    def texts(self, name: str) -> dict[str, str]:
        """One of the maps of paths to texts, such as `knowledgeFiles`."""
        return {key: text for key, text in _object(self.raw.get(name)).items() if isinstance(text, str)}

    def section(self, name: str) -> JsonObject:
        """One of the objects, such as `gitChanges`."""
        return _object(self.raw.get(name))

    def callers(self, path: str) -> JsonObject:
        """Who uses the symbols of a file."""
        return _object(_object(self.raw.get("tokenCallers")).get(path))

    def relative(self, path: str) -> str:
        """A path as clients take it: relative to the project where it is in it."""
        root = self.root.rstrip("/")
        if root and path.startswith(root + "/"):
            path = path[len(root) + 1 :]
        while path.startswith("./"):
            path = path[2:]
        return path

    def paths(self) -> list[str]:
        """All files of the tree."""
        found: list[str] = []
        pending = [(node, "") for node in reversed(self.tree)]
        while pending:
            node, above = pending.pop()
            path = f"{above}/{_text(node.get('name'))}".removeprefix("/")
            if node.get("type") == "directory":
                pending.extend((child, path) for child in reversed(_objects(node.get("children"))))
            else:
                found.append(path)
        return found


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[JsonObject]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
