"""What a coding agent's client asks of a model through a `claude` process: bodies with tools, and with a history."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, TypeAlias

Json: TypeAlias = dict[str, object]

_PROMPT: Final = "Say something."
# What a tool's result holds in such a history: some lines of a file.
_RESULT_BYTES: Final = 3072
_LINE: Final = '    raise FrameTooLarge(f"{size} bytes, at most {limit}")  # naïve: callers "treat that as a fault"\n'

_PATH: Final = "The absolute path; a relative one is refused, as the working directory may change between two calls."
_TIMEOUT: Final = "Milliseconds after which it is given up; left out: two minutes. At most ten minutes."
_CONTEXT: Final = "How many lines before and after each place to show as well."
# Name, and parameters with their types: what coding agents commonly have.
_TOOLS: Final[tuple[tuple[str, dict[str, str]], ...]] = (
    ("read_file", {"path": "string", "offset": "integer", "limit": "integer"}),
    ("write_file", {"path": "string", "content": "string", "create_folders": "boolean"}),
    ("edit_file", {"path": "string", "old_text": "string", "new_text": "string", "replace_all": "boolean"}),
    ("multi_edit", {"path": "string", "edits": "array", "dry_run": "boolean"}),
    ("list_folder", {"path": "string", "ignore": "array", "depth": "integer"}),
    ("find_files", {"pattern": "string", "path": "string", "limit": "integer"}),
    ("search_text", {"pattern": "string", "path": "string", "context": "integer", "multiline": "boolean"}),
    ("run_command", {"command": "string", "timeout": "integer", "background": "boolean"}),
    ("command_output", {"id": "string", "filter": "string", "wait": "boolean"}),
    ("kill_command", {"id": "string", "signal": "string"}),
    ("fetch_page", {"url": "string", "prompt": "string", "timeout": "integer"}),
    ("search_web", {"query": "string", "allowed_domains": "array", "blocked_domains": "array"}),
    ("edit_notebook", {"path": "string", "cell": "string", "source": "string", "mode": "string"}),
    ("write_todos", {"todos": "array"}),
    ("ask_user", {"question": "string", "options": "array", "multiple": "boolean"}),
    ("start_agent", {"description": "string", "prompt": "string", "kind": "string"}),
    ("git_diff", {"path": "string", "base": "string", "context": "integer"}),
    ("run_tests", {"path": "string", "filter": "string", "timeout": "integer"}),
    ("diagnostics", {"path": "string", "severity": "string"}),
    ("rename_symbol", {"path": "string", "symbol": "string", "new_name": "string", "dry_run": "boolean"}),
)


@dataclass(frozen=True, slots=True)
class Body:
    """What a request holds beside its last message.

    Attributes:
        tools: Whether it has the tools.
        history: How many messages were said before: calls of the tools and their results. Only with tools.
    """

    tools: bool = False
    history: int = 0

    @property
    def label(self) -> str:
        """What the report calls it."""
        if not self.tools:
            return "no tools"
        return f"{len(_TOOLS)} tools" + (f", history of {self.history}" if self.history else "")

    def messages(self) -> list[Json]:
        """The history, then the last message."""
        said: list[Json] = []
        content: list[Json] = [{"type": "text", "text": _PROMPT}]
        for number in range(self.history // 2):
            said.append({"role": "user", "content": content})
            call = f"toolu_bench{number:04}"
            said.append(
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "I look at the next part of the file."},
                        {
                            "type": "tool_use",
                            "id": call,
                            "name": "read_file",
                            "input": {"path": "/work/frames.py", "offset": number * 40, "limit": 40},
                        },
                    ],
                }
            )
            content = [{"type": "tool_result", "tool_use_id": call, "content": _result(number)}]
        return [*said, {"role": "user", "content": content}]

    def write(self, model: str) -> str:
        """The whole body of a streaming request of the Messages API."""
        tools = {"tools": [_tool(name, parameters) for name, parameters in _TOOLS]} if self.tools else {}
        return write_body(model, self.messages(), **tools)


def write_body(model: str, messages: list[Json], **fields: object) -> str:
    """A body of the Messages API that asks for a stream."""
    body = {"model": model, "max_tokens": 4096, "stream": True, **fields, "messages": messages}
    return json.dumps(body, ensure_ascii=False)


def _result(number: int) -> str:
    """Text as long as what a tool found, and every time another one."""
    return f"part {number}\n" + (_LINE * (_RESULT_BYTES // len(_LINE) + 1))[:_RESULT_BYTES]


def _tool(name: str, parameters: dict[str, str]) -> Json:
    """A tool with as many words as tools have: about a kilobyte."""
    words = name.replace("_", " ")
    description = (
        f"Use this tool to {words}, and prefer it to a shell command that does the same. It returns what it found as "
        "text with line numbers, or says what went wrong. Long results are cut off and say where they go on.\n\n"
        "- Never call it for files outside of the project.\n- Several calls may be made in one answer."
    )
    first = next(iter(parameters))
    return {
        "name": name,
        "description": description,
        "input_schema": {
            "type": "object",
            "properties": {each: _parameter(each, kind) for each, kind in parameters.items()},
            "required": [first],
            "additionalProperties": False,
        },
    }


def _parameter(name: str, kind: str) -> Json:
    known = {"path": _PATH, "timeout": _TIMEOUT, "context": _CONTEXT}
    words = name.replace("_", " ")
    described: Json = {"type": kind, "description": known.get(name, f"The {words} that this call is about.")}
    if kind == "array":
        described["items"] = {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "value": {"type": "string", "description": f"One of the {words}."},
            },
            "required": ["name"],
        }
    return described
