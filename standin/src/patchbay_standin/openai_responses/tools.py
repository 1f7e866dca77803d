"""Tools offered by a Responses request: on top, in groups, and in `additional_tools` items."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from patchbay_standin.errors import invalid_request
from patchbay_standin.openai_responses.checks import invalid_value, list_field, sized, text_field, unknown
from patchbay_standin.openai_responses.schemas import check_parameters
from patchbay_standin.prompt import Choice, OfferedTool
from patchbay_standin.script import JsonObject

MAX_NAME: Final = 64

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]+")
_COMMON: Final = frozenset({"type", "name", "description", "defer_loading", "async", "allowed_callers"})
_KNOWN: Final[Mapping[str, frozenset[str]]] = {
    "function": _COMMON | {"parameters", "strict", "output_schema"},
    "custom": _COMMON | {"format"},
    "namespace": frozenset({"type", "name", "description", "tools"}),
}
# Tools that the provider runs itself, or that clients run without a definition.
_HOSTED: Final = (
    "web_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
    "file_search",
    "code_interpreter",
    "image_generation",
    "mcp",
    "local_shell",
    "shell",
    "apply_patch",
    "computer",
    "computer_use_preview",
    "tool_search",
    "programmatic_tool_calling",
)
_MODES: Final = ("none", "auto", "required")


def check_tools(tools: Sequence[JsonObject], path: str) -> None:
    """Refuses definitions that the API would refuse."""
    for index, tool in enumerate(tools):
        _check_tool(tool, f"{path}[{index}]")


def _check_tool(tool: JsonObject, path: str) -> None:
    kind = text_field(tool, "type", path)
    if kind in _HOSTED:
        return
    known = _KNOWN.get(kind)
    if known is None:
        raise invalid_value(f"{path}.type", kind, [*_KNOWN, *_HOSTED])
    name = text_field(tool, "name", path)
    for field in tool:
        if field not in known:
            raise unknown(f"{path}.{field}")
    sized(f"{path}.name", name, MAX_NAME)
    if not _NAME.fullmatch(name):
        raise invalid_request(
            f"Invalid '{path}.name': string does not match pattern. Expected a string that matches the pattern"
            " '^[a-zA-Z0-9_-]+$'.",
            param=f"{path}.name",
            code="invalid_value",
        )
    if kind == "function":
        check_parameters(tool, f"{path}.parameters")
    elif kind == "namespace":
        check_tools(list_field(tool, "tools", path), f"{path}.tools")


def offered(tools: Sequence[JsonObject], namespace: str = "") -> Iterator[OfferedTool]:
    """The tools that can be called by name."""
    for tool in tools:
        name = str(tool.get("name", ""))
        match tool.get("type"):
            case "function":
                schema = tool.get("parameters")
                yield OfferedTool(name, schema if isinstance(schema, dict) else {}, namespace)
            case "custom":
                yield OfferedTool(name, {}, namespace, is_custom=True)
            case "namespace":
                yield from offered(list_field(tool, "tools", "tools"), name)


def choose(choice: str | JsonObject | None, tools: Sequence[OfferedTool]) -> tuple[Choice, str, list[OfferedTool]]:
    """What must be called, and which tools may be. Raises ProviderError."""
    usable = list(tools)
    if choice is None:
        return "auto", "", usable
    if isinstance(choice, str):
        return _mode(choice), "", usable
    kind = text_field(choice, "type", "tool_choice")
    if kind == "allowed_tools":
        mode = _mode(text_field(choice, "mode", "tool_choice"))
        names = [str(entry.get("name", "")) for entry in list_field(choice, "tools", "tool_choice")]
        return mode, "", [tool for tool in usable if any(tool.is_called(name) for name in names)]
    if kind in ("function", "custom"):
        name = text_field(choice, "name", "tool_choice")
        if not any(tool.is_called(name) and tool.is_custom == (kind == "custom") for tool in usable):
            raise invalid_request(f"Tool choice '{name}' not found in 'tools' parameter.", param="tool_choice")
        return "tool", name, [tool for tool in usable if tool.is_custom == (kind == "custom")]
    if kind not in _HOSTED:
        raise invalid_value("tool_choice.type", kind, ("allowed_tools", "function", "custom", *_HOSTED))
    return "auto", "", usable


def _mode(mode: str) -> Choice:
    if mode not in _MODES:
        raise invalid_value("tool_choice", mode, _MODES)
    return "any" if mode == "required" else "auto" if mode == "auto" else "none"
