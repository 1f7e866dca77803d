"""What an agent is told: its prompts, with the placeholders filled in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from patchbay_codebuff_ws.loop.definitions import Definition
from patchbay_codebuff_ws.loop.history import json_text
from patchbay_codebuff_ws.loop.prune import text_tokens
from patchbay_codebuff_ws.loop.state import Project
from patchbay_codebuff_ws.loop.tools import Tool
from patchbay_codebuff_ws.ports import JsonObject

_PLACEHOLDER = re.compile(r"\{CODEBUFF_([A-Z_]+)\}")
_TREE_TOKENS = 20_000
_SYMBOLS_PER_FILE = 12
_MAX_DEPTH = 8
_MAX_DIFF = 30_000
# Of what is filled into one prompt: no model reads more, and a placeholder may be written any number of times.
_MAX_FILLED = 4 * 1024 * 1024
_CONFIG_SCHEMA = json_text(
    {
        "type": "object",
        "properties": {
            "description": {"type": "string"},
            "baseAgent": {"type": "string", "description": "The agent that answers prompts."},
            "spawnableAgents": {"type": "array", "items": {"type": "string"}},
            "maxAgentSteps": {"type": "number", "description": "Steps of an agent for one prompt."},
            "startupProcesses": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "command": {"type": "string"},
                        "cwd": {"type": "string"},
                        "enabled": {"type": "boolean"},
                        "stdoutFile": {"type": "string"},
                        "stderrFile": {"type": "string"},
                    },
                    "required": ["name", "command"],
                },
            },
            "fileChangeHooks": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "command": {"type": "string"},
                        "cwd": {"type": "string"},
                        "filePattern": {"type": "string"},
                        "enabled": {"type": "boolean"},
                    },
                    "required": ["name", "command"],
                },
            },
        },
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The prompts of one agent.

    Attributes:
        spawnable: The agents that it may start, as far as they are known.
        remaining: How many steps are left.
    """

    definition: Definition
    project: Project
    tools: Mapping[str, Tool]
    spawnable: Sequence[Definition]
    prompt: str
    initial_prompt: str
    remaining: Callable[[], int]

    def system(self) -> str:
        """The system prompt: stays the same for the whole run, for the sake of the provider's cache."""
        raw = self.definition.system_prompt
        text = self.filled(raw)
        if self.spawnable and "{CODEBUFF_AGENTS_PROMPT}" not in raw:
            text = f"{text}\n\n{self._agents()}"
        return text.strip()

    def instructions(self, *, inherits: bool = False) -> str:
        """What follows the user's prompt; empty: nothing.

        Args:
            inherits: Its system prompt is its parent's, which says nothing of the agents that this one may start.
        """
        raw = self.definition.instructions_prompt
        text = self.filled(raw)
        if inherits and "{CODEBUFF_AGENTS_PROMPT}" not in raw:
            text += f"\n\n{self._agents()}"
        schema = plain(self.definition.output_schema)
        if self.definition.output_mode == "structured_output" and "set_output" in self.tools and schema:
            text += f"\n\nEnd with set_output. Your result must be JSON of this schema:\n{json_text(schema)}"
        return text.strip()

    def step(self) -> str:
        """What each step is preceded by; empty: nothing."""
        return self.filled(self.definition.step_prompt).strip()

    def mentions(self, placeholder: str) -> bool:
        """Whether the system prompt or the instructions have a placeholder."""
        return f"{{CODEBUFF_{placeholder}}}" in self.definition.system_prompt + self.definition.instructions_prompt

    def filled(self, text: str) -> str:
        """The text with its placeholders filled in, once; those that mean nothing, or too much, stay."""
        values: dict[str, str] = {}
        size = 0

        def value(found: re.Match[str]) -> str:
            nonlocal size
            as_it_is, name = found[0], found[1]
            if name not in values:
                values[name] = self._value(name, as_it_is)
            if size + len(values[name]) > _MAX_FILLED:
                return as_it_is
            size += len(values[name])
            return values[name]

        return _PLACEHOLDER.sub(value, text)

    def _value(self, name: str, as_it_is: str) -> str:
        project = self.project
        match name:
            case "AGENT_NAME":
                return self.definition.display_name
            case "AGENTS_PROMPT":
                return self._agents()
            case "CONFIG_SCHEMA":
                return _CONFIG_SCHEMA
            case "FILE_TREE_PROMPT":
                return file_tree(project)
            case "GIT_CHANGES_PROMPT":
                return git_changes(project)
            case "INITIAL_AGENT_PROMPT":
                return self.initial_prompt
            case "KNOWLEDGE_FILES_CONTENTS":
                return knowledge(project)
            case "PROJECT_ROOT":
                return project.root
            case "REMAINING_STEPS":
                return str(self.remaining())
            case "SYSTEM_INFO_PROMPT":
                return system_info(project)
            case "TOOLS_PROMPT":
                return "You have these tools: " + ", ".join(self.tools) + "." if self.tools else "You have no tools."
            case "USER_CWD":
                return project.cwd
            case "USER_INPUT_PROMPT":
                return self.prompt
            case _:
                return as_it_is

    def _agents(self) -> str:
        if not self.spawnable:
            return ""
        lines = ["# Agents that you may start"]
        lines += [f"\n{agent_text(one)}" for one in self.spawnable]
        return "\n".join(lines)


def agent_text(definition: Definition) -> str:
    """What an agent is for and what it takes, for another one to read."""
    text = f"## {definition.id}: {definition.display_name}\n{definition.spawner_prompt or ''}".rstrip()
    schema = plain(definition.input_schema)
    if prompt := plain(schema.get("prompt")):
        text += f"\nprompt: {prompt.get('description') or 'a text'}"
    if params := plain(schema.get("params")):
        text += f"\nparams: {json_text(params)}"
    return text


def plain(value: object) -> JsonObject:
    """A part of a definition as a JSON object, empty where there is none."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.to_builtins(value)
    return {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else {}


def user_prompt(prompt: str, params: JsonObject | None) -> str:
    """A prompt as the model is shown it; empty when there is none."""
    said = [text for text in (prompt, json_text(params) if params else "") if text]
    return "<user_message>" + "\n\n".join(said) + "</user_message>" if said else ""


def file_tree(project: Project) -> str:
    """The project's files, in about 20,000 tokens at most: with symbols, without, or but the upper directories."""
    if "tree" not in project.made:
        project.made["tree"] = _file_tree(project)
    return project.made["tree"]


def _file_tree(project: Project) -> str:
    if not project.tree:
        return "# Project files\nThere are none, or they are not known."
    scores = project.section("fileTokenScores")
    text = ""
    for depth, symbols in [(99, scores), *((depth, {}) for depth in (99, *range(_MAX_DEPTH, 0, -1)))]:
        # A tree may have many thousands of files: no more of it is written than it takes to see that it is too large.
        text = "\n".join(_tree_lines(project.tree, depth, symbols, most=_TREE_TOKENS * 3))
        if text_tokens(text) <= _TREE_TOKENS:
            break
    else:
        text = text[: _TREE_TOKENS * 3] + "\n..."
    return f"# Project files\n<project_file_tree>\n{text}\n</project_file_tree>"


def _tree_lines(nodes: Sequence[JsonObject], depth: int, scores: JsonObject, *, most: int) -> list[str]:
    """A line for each file and directory, until they are more than so many characters."""
    lines: list[str] = []
    size = 0
    pending = [(node, 0, "") for node in reversed(nodes)]
    while pending and size <= most:
        node, level, above = pending.pop()
        name = str(node.get("name", ""))
        path = f"{above}/{name}".removeprefix("/")
        indent = " " * level
        if node.get("type") != "directory":
            found = scores.get(path)
            symbols = _symbols(found) if isinstance(found, dict) else []
            lines.append(" ".join([indent + name, *symbols]))
        else:
            children = _nodes(node.get("children"))
            if level + 1 >= depth and children:
                lines.append(f"{indent}{name}/ ({len(children)} entries)")
            else:
                lines.append(f"{indent}{name}/")
                pending.extend((child, level + 1, path) for child in reversed(children))
        size += len(lines[-1]) + 1
    return lines


def _nodes(value: object) -> list[JsonObject]:
    return [child for child in value if isinstance(child, dict)] if isinstance(value, list) else []


def _symbols(scores: JsonObject) -> list[str]:
    """The symbols of a file with the highest scores."""
    names = sorted(scores)
    try:
        names.sort(key=scores.__getitem__, reverse=True)
    except TypeError:
        # Not all of them are numbers.
        names.sort(key=lambda one: _number(scores[one]), reverse=True)
    return names[:_SYMBOLS_PER_FILE]


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0.0


def knowledge(project: Project) -> str:
    """The knowledge files of the user and of the project's root; of the others, where they are."""
    files = project.texts("knowledgeFiles")
    own = project.texts("userKnowledgeFiles")
    shown = {**own, **{path: text for path, text in files.items() if "/" not in project.relative(path)}}
    lines = ["# Knowledge files", "What users and agents have written down about this project."]
    lines += [f'<knowledge_file path="{path}">\n{text.strip()}\n</knowledge_file>' for path, text in shown.items()]
    others = [path for path in files if path not in shown]
    if others:
        lines.append("There are more, to read when you work there: " + ", ".join(others))
    return "\n\n".join(lines) if shown or others else ""


def git_changes(project: Project) -> str:
    """What git says of the project when the prompt was sent."""
    changes = project.section("gitChanges")
    titles = {
        "status": "git status",
        "diff": "git diff",
        "diffCached": "git diff --cached",
        "lastCommitMessages": "git log",
    }
    lines = [
        f"<{name}>\n{text[:_MAX_DIFF]}{'...' if len(text) > _MAX_DIFF else ''}\n</{name}>"
        for key, name in ((key, title.replace(" ", "_").replace("--", "")) for key, title in titles.items())
        if isinstance(text := changes.get(key), str) and text.strip()
    ]
    return "\n".join(["# Git, when the prompt was sent", *lines]) if lines else ""


def system_info(project: Project) -> str:
    """The user's machine."""
    info = project.section("systemInfo")
    labels = {
        "platform": "Operating system",
        "shell": "Shell",
        "nodeVersion": "Node.js",
        "arch": "Architecture",
        "homedir": "Home directory",
        "cpus": "Processors",
    }
    lines = [f"{label}: {info[key]}" for key, label in labels.items() if info.get(key) not in (None, "")]
    if configs := list(project.texts("shellConfigFiles")):
        lines.append("Shell configuration: " + ", ".join(configs))
    return "\n".join(["# The user's machine", *lines])
