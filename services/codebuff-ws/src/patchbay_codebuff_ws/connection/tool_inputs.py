"""The tools that clients run, and the input that each takes on the wire.

A client checks its input before anything else and, where it is wrong, says nothing at all, or dies of it: so what is
wrong never gets there.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from patchbay_codebuff_ws.ports import JsonObject


class _FileChange(msgspec.Struct):
    type: Literal["file", "patch"]
    path: Annotated[str, msgspec.Meta(min_length=1)]
    content: str


class _TerminalCommand(msgspec.Struct):
    command: str
    mode: Literal["assistant", "user"]
    process_type: Literal["SYNC", "BACKGROUND"] | UnsetType = UNSET
    cwd: str | UnsetType = UNSET
    timeout_seconds: int | float | UnsetType = UNSET


class _CodeSearch(msgspec.Struct, rename="camel"):
    pattern: str
    flags: str | UnsetType = UNSET
    cwd: str | UnsetType = UNSET
    max_results: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)] | UnsetType = UNSET


class _FileChangeHooks(msgspec.Struct):
    files: list[str]


class _BrowserLogs(msgspec.Struct, rename="camel"):
    type: str
    url: str
    wait_until: Literal["load", "domcontentloaded", "networkidle0"] | UnsetType = UNSET


_INPUTS: Mapping[str, type[msgspec.Struct]] = {
    "write_file": _FileChange,
    "str_replace": _FileChange,
    "create_plan": _FileChange,
    "run_terminal_command": _TerminalCommand,
    "code_search": _CodeSearch,
    "run_file_change_hooks": _FileChangeHooks,
    "browser_logs": _BrowserLogs,
}
EDITS = frozenset({"write_file", "str_replace", "create_plan"})
"""The tools that change a file."""

# A client takes these names for its own and refuses them.
_SERVERS_OWN = frozenset(
    {
        "add_message",
        "add_subgoal",
        "end_turn",
        "find_files",
        "lookup_agent_info",
        "read_docs",
        "read_files",
        "set_messages",
        "set_output",
        "spawn_agent_inline",
        "spawn_agents",
        "spawn_agents_async",
        "think_deeply",
        "update_subgoal",
        "web_search",
    }
)


def problem_of(name: str, tool_input: JsonObject, *, custom: Container[str]) -> str:
    """Why a tool call must not go out; empty: it may.

    Args:
        custom: The names of the tools that the client brings along.
    """
    wanted = _INPUTS.get(name)
    if wanted is None:
        if name in _SERVERS_OWN or name not in custom:
            return f"The client has no tool `{name}`."
        return ""
    try:
        msgspec.convert(tool_input, wanted)
    except msgspec.ValidationError as error:
        return f"The input of `{name}` is not what the client takes: {error}"
    return ""
