"""The tools that agents have: what a model is told of them, and what it may give them.

What goes over the wire to a client looks different for some of them: see `execute`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from patchbay.canonical import FunctionTool
from patchbay.canonical import Tool as CanonicalTool
from patchbay_codebuff_ws.loop.history import json_text, model_name
from patchbay_codebuff_ws.loop.schemas import problems_of
from patchbay_codebuff_ws.ports import JsonObject

_TEXT = {"type": "string", "minLength": 1}
_STRING = {"type": "string"}
_STATUS = {"type": "string", "enum": ["NOT_STARTED", "IN_PROGRESS", "COMPLETE", "ABORTED"]}


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool.

    Attributes:
        schema: JSON schema of its input.
        counts: Whether calling it means that the turn goes on. A model that notes a thought or a subgoal stops there
            only to get the call's result.
        changes_files: Whether files may be others after it.
        custom: Whether the client has defined it.
        mcp: The MCP server whose tool it is, as the agent's definition has it; None: of none.
    """

    name: str
    description: str
    schema: JsonObject
    counts: bool = True
    changes_files: bool = False
    custom: bool = False
    mcp: JsonObject | None = None

    def canonical(self) -> CanonicalTool:
        function = FunctionTool(
            name=model_name(self.name), description=self.description, input_schema_json=json_text(self.schema)
        )
        return CanonicalTool(function=function)


def _object(required: Mapping[str, JsonObject], optional: Mapping[str, JsonObject] | None = None) -> JsonObject:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


def _said(schema: JsonObject, description: str) -> JsonObject:
    return {**schema, "description": description}


_AGENT = _object(
    {"agent_type": _said(_TEXT, "The id of the agent.")},
    {
        "prompt": _said(_STRING, "What it is to do: it sees nothing else of this conversation unless it says so."),
        "params": {"type": "object", "description": "Its parameters, as its description says."},
    },
)
# Such lists may be empty: programs make them of what they have found.
_AGENTS = _object({"agents": {"type": "array", "items": _AGENT}})
_SUBGOAL = {
    "status": _STATUS,
    "plan": _said(_STRING, "How to reach it."),
    "log": _said(_STRING, "What was done, or found out."),
}
_ID = _said(_TEXT, "A short id of the subgoal.")

_TOOLS = (
    Tool(
        "read_files",
        "Reads files of the project. Ask for all that you need at once.",
        _object({"paths": {"type": "array", "items": _TEXT, "description": "Relative to the project."}}),
    ),
    Tool(
        "write_file",
        "Creates a file, or replaces all that it holds. For a change of a part, str_replace is the better choice.",
        _object(
            {
                "path": _said(_TEXT, "Relative to the project."),
                "instructions": _said(_STRING, "What the change is for, in one sentence."),
                "content": _said(_STRING, "All that the file is to hold: nothing may be left out."),
            }
        ),
    ),
    Tool(
        "str_replace",
        "Replaces texts in a file. Each old text must be in the file exactly once, unless allowMultiple is set.",
        _object(
            {
                "path": _said(_TEXT, "Relative to the project."),
                "replacements": {
                    "type": "array",
                    "minItems": 1,
                    "items": _object(
                        {
                            "old": _said(_STRING, "The text to replace, with its white space, as it is in the file."),
                            "new": _said(_STRING, "The text in its place; empty to remove it."),
                        },
                        {"allowMultiple": {"type": "boolean", "description": "Replace every occurrence."}},
                    ),
                },
            }
        ),
    ),
    Tool(
        "create_plan",
        "Writes a plan into a Markdown file, for the user to read before a larger change.",
        _object({"path": _said(_TEXT, "A Markdown file."), "plan": _said(_TEXT, "The plan, in Markdown.")}),
        counts=False,
    ),
    Tool(
        "run_terminal_command",
        "Runs a command in the user's shell.",
        _object(
            {"command": _TEXT},
            {
                "process_type": {"type": "string", "enum": ["SYNC", "BACKGROUND"], "description": "Default: SYNC."},
                "cwd": _said(_STRING, "Where to run it; default: the project's root."),
                "timeout_seconds": {"type": "number", "description": "Default: 30; -1: none."},
            },
        ),
        changes_files=True,
    ),
    Tool(
        "code_search",
        "Searches the project's files with ripgrep.",
        _object(
            {"pattern": _said(_TEXT, "A regular expression.")},
            {
                "flags": _said(_STRING, "Of ripgrep, such as `-i -g *.ts`."),
                "cwd": _said(_STRING, "The directory to search; default: the project's root."),
                "maxResults": {"type": "integer", "minimum": 1, "description": "Default: 30."},
            },
        ),
    ),
    Tool(
        "run_file_change_hooks",
        "Runs the checks that the project has for changed files.",
        _object({"files": {"type": "array", "items": _TEXT, "description": "The changed files."}}),
        changes_files=True,
    ),
    Tool(
        "browser_logs",
        "Opens a page in a browser and gives what its console and network said.",
        _object(
            {"type": _said(_TEXT, "`navigate`, `start` or `stop`."), "url": _TEXT},
            {"waitUntil": {"type": "string", "enum": ["load", "domcontentloaded", "networkidle0"]}},
        ),
    ),
    Tool(
        "find_files",
        "Finds the files of the project that have to do with something, and reads them.",
        _object({"prompt": _said(_TEXT, "What to look for, in a few words.")}),
    ),
    Tool(
        "web_search",
        "Searches the web.",
        _object({"query": _TEXT}, {"depth": {"type": "string", "enum": ["standard", "deep"]}}),
    ),
    Tool(
        "read_docs",
        "Reads the documentation of a library.",
        _object(
            {"libraryTitle": _said(_TEXT, "Its name, such as `Next.js`.")},
            {
                "topic": _said(_STRING, "What to read of."),
                "max_tokens": {"type": "integer", "minimum": 1, "description": "Default: 20000."},
            },
        ),
    ),
    Tool(
        "lookup_agent_info",
        "Says what an agent is for and what it takes.",
        _object({"agentId": _TEXT}),
    ),
    Tool("spawn_agents", "Starts agents side by side and waits for what they give.", _AGENTS, changes_files=True),
    Tool(
        "spawn_agents_async",
        "Starts agents that work beside you; what they give comes as a message when they are done.",
        _AGENTS,
        changes_files=True,
    ),
    Tool("spawn_agent_inline", "Starts an agent that works on this conversation itself.", _AGENT, changes_files=True),
    Tool(
        "think_deeply",
        "A place to think a hard question through, step by step, before you act.",
        _object({"thought": _TEXT}),
    ),
    Tool("end_turn", "Ends your turn: all is done, or only the user can go on.", _object({})),
    Tool("set_output", "Sets your result.", {"type": "object"}, counts=False),
    Tool(
        "set_messages",
        "Replaces the whole conversation.",
        _object({"messages": {"type": "array", "items": {"type": "object", "required": ["role", "content"]}}}),
        counts=False,
    ),
    Tool(
        "add_message",
        "Adds a message to the conversation.",
        _object({"role": {"type": "string", "enum": ["user", "assistant"]}, "content": _STRING}),
        counts=False,
    ),
    Tool(
        "add_subgoal",
        "Notes a subgoal of a larger task.",
        _object({"id": _ID, "objective": _said(_TEXT, "What is to be reached."), "status": _STATUS}, _SUBGOAL),
    ),
    Tool(
        "update_subgoal",
        "Notes how far a subgoal is.",
        _object({"id": _ID}, _SUBGOAL),
    ),
)
BUILT_IN: Mapping[str, Tool] = {tool.name: tool for tool in _TOOLS}


def tool_table(
    names: Iterable[str], custom: Mapping[str, JsonObject], *, output_schema: JsonObject | None
) -> dict[str, Tool]:
    """The tools of an agent, in the order of their names there; names that mean nothing are left out."""
    table: dict[str, Tool] = {}
    for name in names:
        if name in BUILT_IN:
            table[name] = BUILT_IN[name]
        elif name in custom:
            table[name] = custom_tool(name, custom[name])
    if "set_output" in table and output_schema is not None:
        table["set_output"] = Tool(
            "set_output",
            BUILT_IN["set_output"].description,
            {**output_schema, "type": "object"},
            counts=False,
        )
    return table


def meant(tool: Tool, given: JsonObject) -> JsonObject:
    """What the input of a call is meant to be: some put an output into a field of its own, as newer clients want it,
    and some say null for what they leave out."""
    required = tool.schema.get("required")
    needed = required if isinstance(required, list) else []
    nulls = [name for name, value in given.items() if value is None and name not in needed]
    is_wrapped = tool.name == "set_output" and isinstance(given.get("data"), dict)
    if not (nulls or is_wrapped) or not problems_of(given, tool.schema):
        return given
    if is_wrapped:
        return dict(given["data"])
    return {name: value for name, value in given.items() if name not in nulls}


def custom_tool(name: str, definition: Mapping[str, Any]) -> Tool:
    """A tool that the client has defined and runs."""
    description = str(definition.get("description") or "")
    examples = definition.get("exampleInputs")
    if isinstance(examples, list) and examples:
        shown = "\n".join(json_text(example) for example in examples)
        description = f"{description}\nExamples of its input:\n{shown}".strip()
    schema = definition.get("inputJsonSchema")
    schema = {key: value for key, value in schema.items() if key != "$schema"} if isinstance(schema, dict) else {}
    return Tool(
        name,
        description,
        {**schema, "type": "object"},
        changes_files=True,
        custom=True,
    )


def mcp_wanted(names: Iterable[str], server: str) -> list[str] | None:
    """Which of a server's tools an agent names, as `server/tool`; None: none of them by name, so all."""
    prefix = f"{server}/"
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)] or None


def mcp_tool(server: str, config: JsonObject, listed: Mapping[str, Any]) -> Tool:
    """A tool of an MCP server that the client reaches."""
    return Tool(
        f"{server}/{listed['name']}",
        str(listed.get("description") or ""),
        {**listed["inputSchema"], "type": "object"},
        changes_files=True,
        mcp=config,
    )
