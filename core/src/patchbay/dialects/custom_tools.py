"""Custom tools, whose input is free text, and namespaces of tools, for upstreams that have only plain functions."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from patchbay.canonical import CustomTool, FunctionTool
from patchbay.dialects.json_text import dump
from patchbay.dialects.wrapped_input import WRAPPED_FIELD

_FREE_TEXT = f"Pass the tool's input, which is free text, as the string `{WRAPPED_FIELD}`."
_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {WRAPPED_FIELD: {"type": "string", "description": "The tool's input."}},
    "required": [WRAPPED_FIELD],
    "additionalProperties": False,
}


def as_function(tool: CustomTool) -> FunctionTool:
    """A function that takes the tool's input as its one property. What the text must look like is said in words.

    Raises:
        msgspec.DecodeError: When the tool's format is no JSON object.
    """
    said = [tool.description, _FREE_TEXT, _format(tool.format_json)]
    return FunctionTool(
        name=tool.name,
        namespace=tool.namespace,
        description="\n\n".join([text for text in said if text]),
        input_schema_json=dump(_SCHEMA).decode(),
    )


def wrapped_input(text: str) -> str:
    """The input of a custom tool as that of the function."""
    return dump({WRAPPED_FIELD: text}).decode()


class NamespaceIntro:
    """Says what a namespace is for in the description of its first tool, where there is no other place for it.

    Args:
        namespaces: Name -> description.
    """

    def __init__(self, namespaces: Mapping[str, str]) -> None:
        self._waiting = dict(namespaces)

    def described(self, tool: FunctionTool | CustomTool) -> str | None:
        """The tool's description; None: it has none."""
        description = tool.description if tool.HasField("description") else None
        purpose = self._waiting.pop(tool.namespace, "") if tool.namespace else ""
        if not purpose:
            return description
        return "\n\n".join([f"[{tool.namespace}: {purpose}]", *([description] if description else [])])


def _format(text: str) -> str:
    if not text:
        return ""
    fields = msgspec.json.decode(text, type=dict[str, object])
    if fields.get("type") == "text":
        return ""
    syntax, definition = fields.get("syntax"), fields.get("definition")
    if isinstance(definition, str):
        return f"The text must be of this grammar{f' ({syntax})' if isinstance(syntax, str) else ''}:\n{definition}"
    return f"The text must be of this format: {text}"
