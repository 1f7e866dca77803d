"""Reads the tools of a Responses request, and which of them the model is to choose."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping

import msgspec

from patchbay.canonical import CustomTool, FunctionTool, Opaque, Tool, ToolChoice
from patchbay.dialects.json_text import Object, dump, load_object, object_text
from patchbay.dialects.openai_fields import Fields, unsupported_value, wrong_type
from patchbay.dialects.openai_responses._notes import GROUP, NAMESPACE, without_notes
from patchbay.dialects.openai_responses._quirks import NAME

_MODES = {
    "auto": ToolChoice.MODE_AUTO,
    "none": ToolChoice.MODE_NONE,
    "required": ToolChoice.MODE_ANY,
}

# The types of tools that the client runs.
_KINDS = ("function", "custom")


def read_tools(fields: Fields, name: str, namespaces: MutableMapping[str, str]) -> list[Tool]:
    """Reads an array of tools, and into `namespaces` what its groups are for.

    Raises:
        InvalidRequest: When a tool lacks a required field, or a field has the wrong type.
    """
    path = fields.at(name)
    return list(_read_all(fields.array(name) or [], path, "", namespaces))


def read_choice(raw: bytes, choice: ToolChoice) -> None:
    """Reads a `tool_choice` that is not null.

    Raises:
        InvalidRequest: When it is of an unknown kind, or a field has the wrong type.
    """
    if raw.startswith(b'"'):
        mode = msgspec.json.decode(raw, type=str)
        if mode not in _MODES:
            raise unsupported_value("tool_choice", mode, tuple(_MODES))
        choice.mode = _MODES[mode]
        return
    fields = Fields.of(raw, "tool_choice")
    kind = fields.required_string("type")
    if kind in _KINDS:
        choice.name = fields.required_string("name")
        choice.namespace = fields.string("namespace") or ""
        choice.mode = ToolChoice.MODE_TOOL
        choice.custom = kind == "custom"
    elif kind != "allowed_tools" or not _read_allowed(fields, choice):
        choice.CopyFrom(ToolChoice(opaque=Opaque(dialect=NAME, json=raw.decode())))


def _read_allowed(fields: Fields, choice: ToolChoice) -> bool:
    """Reads a choice among some tools, unless it says more than their names: some of them the provider runs."""
    mode = fields.string("mode")
    for number, raw in enumerate(fields.array("tools") or []):
        tool = Fields.of(raw, f"tool_choice.tools[{number}]")
        kind = tool.required_string("type")
        if kind not in _KINDS:
            return False
        name, namespace = tool.required_string("name"), tool.string("namespace") or ""
        choice.allowed.add(name=name, namespace=namespace, custom=kind == "custom")
        if tool.rest():
            return False
    if mode not in ("auto", "required") or not choice.allowed or fields.rest():
        return False
    choice.mode = _MODES[mode]
    return True


def _read_all(tools: Iterable[bytes], path: str, namespace: str, namespaces: MutableMapping[str, str]) -> list[Tool]:
    found: list[Tool] = []
    for number, raw in enumerate(tools):
        found += _read_tool(raw, f"{path}[{number}]", namespace, namespaces)
    return found


def _read_tool(raw: bytes, path: str, namespace: str, namespaces: MutableMapping[str, str]) -> list[Tool]:
    fields = Fields.of(raw, path)
    match fields.required_string("type"):
        case "function":
            return [_read_function(fields, namespace)]
        case "custom":
            return [_read_custom(fields, namespace)]
        case "namespace" if not namespace and (inner := fields.array("tools")):
            return _read_namespace(fields, inner, path, namespaces)
        case _:
            tool = Tool(opaque=Opaque(dialect=NAME, json=raw.decode()))
            if namespace:
                tool.extensions[NAME] = object_text({NAMESPACE: dump(namespace)})
            return [tool]


def _read_namespace(
    fields: Fields, inner: Iterable[bytes], path: str, namespaces: MutableMapping[str, str]
) -> list[Tool]:
    name = fields.required_string("name")
    if not name:
        raise wrong_type(f"{path}.name", "a non-empty string", b'""')
    namespaces[name] = fields.string("description") or ""
    tools = _read_all(inner, f"{path}.tools", name, namespaces)
    if rest := fields.rest():
        more = load_object(tools[0].extensions[NAME]) if NAME in tools[0].extensions else {}
        tools[0].extensions[NAME] = object_text({**more, GROUP: object_text(rest).encode()})
    return tools


def _read_function(fields: Fields, namespace: str) -> Tool:
    function = FunctionTool(name=fields.required_string("name"), namespace=namespace)
    # Left out, both mean something else than in the other dialects.
    unset: Object = {name: b"null" for name in ("parameters", "strict") if not fields.has(name)}
    description, schema, strict = fields.string("description"), fields.raw("parameters"), fields.boolean("strict")
    if description is not None:
        function.description = description
    if schema is not None:
        if not schema.startswith(b"{"):
            raise wrong_type(fields.at("parameters"), "an object", schema)
        function.input_schema_json = schema.decode()
    if strict is not None:
        function.strict = strict
    return _extended(Tool(function=function), {**without_notes(fields.rest()), **unset})


def _read_custom(fields: Fields, namespace: str) -> Tool:
    custom = CustomTool(name=fields.required_string("name"), namespace=namespace)
    description, wanted = fields.string("description"), fields.object("format")
    if description is not None:
        custom.description = description
    if wanted is not None:
        custom.format_json = object_text(wanted.rest())
    return _extended(Tool(custom=custom), without_notes(fields.rest()))


def _extended(tool: Tool, rest: Object) -> Tool:
    if rest:
        tool.extensions[NAME] = object_text(rest)
    return tool
