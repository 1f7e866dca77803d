"""Writes the tools of a Responses request, and which of them the model is to choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from patchbay.canonical import Chat, CustomTool, FunctionTool, Opaque, Tool, ToolChoice, ToolName
from patchbay.dialects.json_text import Object, add_missing, dump, dump_array, dump_object, load_array, load_object
from patchbay.dialects.openai_responses._item_rules import fit_schema, fit_tool_type
from patchbay.dialects.openai_responses._notes import ADDITIONAL_TOOLS, GROUP, NAMESPACE, PLACE
from patchbay.dialects.openai_responses._quirks import NAME, OpenAIResponsesQuirks
from patchbay.dialects.request_warnings import Warnings
from patchbay.dialects.tool_names import ToolNames
from patchbay.dialects.tool_schemas import as_object_schema, is_closed

_CHOICES = {ToolChoice.MODE_AUTO: "auto", ToolChoice.MODE_NONE: "none", ToolChoice.MODE_ANY: "required"}
_NO_PARAMETERS = b'{"type":"object","properties":{}}'


@dataclass(slots=True)
class _List:
    """Tools that stand together: those of the request, or of one input item."""

    # Of the input item; None: they are the request's.
    note: bytes | None
    tools: list[bytes] = field(default_factory=list)
    # The namespace of the last tools, and these, which make one group.
    namespace: str = ""
    group: list[bytes] = field(default_factory=list)
    group_rest: Object = field(default_factory=dict)


class ToolWriter:
    """Writes the tools of one request."""

    def __init__(self, chat: Chat, quirks: OpenAIResponsesQuirks, names: ToolNames, warnings: Warnings) -> None:
        self._chat = chat
        self._quirks = quirks
        self._names = names
        self._warnings = warnings
        self._lists: list[_List] = [_List(None)]
        # What Anthropic's clients call their web searches.
        self._searches: set[bytes] = set()
        for tool in chat.tools:
            self._add(tool)
        for some in self._lists:
            self._end_group(some)

    def fields(self) -> Object:
        """The fields of the request that are about tools."""
        tools = self._lists[0].tools
        body: Object = {"tools": dump_array(tools)} if tools else {}
        choice = self._chat.tool_choice
        has_any = any(some.tools for some in self._lists)
        if not has_any:
            # What is said about tools is refused where there are none.
            if choice.mode in (ToolChoice.MODE_ANY, ToolChoice.MODE_TOOL):
                self._warnings.dropped("tool_choice", "is not supported without tools")
            return body
        if choice.mode or choice.HasField("opaque"):
            self._write_choice(body, choice)
        if self._chat.HasField("parallel_tool_calls"):
            body["parallel_tool_calls"] = dump(self._chat.parallel_tool_calls)
        return body

    def add_items(self, items: list[bytes]) -> None:
        """Puts the tools that came in input items back where these stood."""
        for some in self._lists[1:]:
            fields = load_object(some.note or b"{}")
            place = msgspec.json.decode(fields.pop(PLACE, b"0"), type=int)
            item: Object = {"type": dump(ADDITIONAL_TOOLS), **fields, "tools": dump_array(some.tools)}
            items.insert(place, dump_object(item))

    def _write_choice(self, body: Object, choice: ToolChoice) -> None:
        allowed = [self._choice(one) for one in choice.allowed if self._offers(one)]
        if allowed:
            chosen: Object = {"type": b'"allowed_tools"', "mode": dump(_CHOICES[choice.mode])}
            body["tool_choice"] = dump_object({**chosen, "tools": dump_array(allowed)})
        elif choice.mode in _CHOICES and not choice.allowed:
            body["tool_choice"] = dump(_CHOICES[choice.mode])
        elif choice.HasField("opaque") and choice.opaque.dialect == NAME:
            body["tool_choice"] = self._fit_type(choice.opaque.json)
        elif choice.mode == ToolChoice.MODE_TOOL and self._offers(choice):
            body["tool_choice"] = self._choice(choice)
        elif dump(choice.name) in self._searches and sum(len(some.tools) for some in self._lists) == 1:
            # Not every server takes a choice of a hosted tool, but the only tool is the one.
            body["tool_choice"] = b'"required"'
        else:
            self._warnings.dropped("tool_choice")

    def _offers(self, named: ToolChoice | ToolName) -> bool:
        return self._names.offers(named.name, named.namespace, custom=named.custom)

    def _choice(self, named: ToolChoice | ToolName) -> bytes:
        tool = self._names.of(named.name, named.namespace, custom=named.custom)
        written: Object = {"type": b'"custom"' if tool.is_custom else b'"function"', "name": dump(tool.name)}
        if tool.namespace:
            written["namespace"] = dump(tool.namespace)
        return dump_object(written)

    def _add(self, tool: Tool) -> None:
        own = load_object(self._warnings.own_extension(tool.extensions, "tools."))
        note = own.pop(ADDITIONAL_TOOLS, None)
        group_rest = own.pop(GROUP, None)
        namespace = tool.function.namespace or tool.custom.namespace
        if NAMESPACE in own:
            namespace = msgspec.json.decode(own.pop(NAMESPACE), type=str)
        written = self._tool(tool, own)
        if written is None:
            return
        some = self._lists[-1] if note is not None else self._lists[0]
        if some.note != note:
            some = _List(note)
            self._lists.append(some)
        if namespace != some.namespace or group_rest is not None:
            self._end_group(some)
            some.namespace = namespace
            some.group_rest = load_object(group_rest) if group_rest is not None else {}
        (some.group if namespace else some.tools).append(written)

    def _end_group(self, some: _List) -> None:
        if some.group:
            fields: Object = {
                "type": b'"namespace"',
                "name": dump(some.namespace),
                "description": dump(self._chat.namespaces.get(some.namespace, "")),
                "tools": dump_array(some.group),
            }
            add_missing(fields, some.group_rest)
            some.tools.append(dump_object(fields))
        some.group = []

    def _tool(self, tool: Tool, own: Object) -> bytes | None:
        match tool.WhichOneof("kind"):
            case "function":
                fields = self._function(tool.function, own)
            case "custom":
                fields = self._custom(tool.custom)
            case "opaque":
                return self._opaque(tool.opaque)
            case _:
                return None
        add_missing(fields, own)
        return dump_object(fields)

    def _function(self, function: FunctionTool, own: Object) -> Object:
        name = self._names.of(function.name, function.namespace).name
        fields: Object = {"type": b'"function"', "name": dump(name)}
        if function.HasField("description"):
            fields["description"] = dump(function.description)
        # Both must be said, and what is left out by a client of this dialect is null.
        fields["strict"] = own.pop("strict", b"false")
        fields["parameters"] = own.pop("parameters", _NO_PARAMETERS)
        schema = function.input_schema_json
        if function.HasField("input_schema_json"):
            fields["parameters"] = self._schema(schema)
        if function.strict and schema and not is_closed(schema):
            self._warnings.dropped(
                "tools.strict", "needs a schema here that requires every property and allows no others"
            )
            fields["strict"] = b"false"
        elif function.HasField("strict"):
            fields["strict"] = dump(function.strict)
        return fields

    def _schema(self, text: str) -> bytes:
        schema = as_object_schema(text, with_properties=True)
        if self._quirks.unsupported_schema_fields:
            fields = load_object(schema)
            if fit_schema(fields, self._quirks):
                return dump_object(fields)
        return schema

    def _custom(self, custom: CustomTool) -> Object:
        name = self._names.of(custom.name, custom.namespace, custom=True).name
        fields: Object = {"type": b'"custom"', "name": dump(name)}
        if custom.HasField("description"):
            fields["description"] = dump(custom.description)
        if custom.HasField("format_json"):
            fields["format"] = custom.format_json.encode()
        return fields

    def _opaque(self, tool: Opaque) -> bytes | None:
        if tool.dialect == NAME:
            return self._fit_type(tool.json)
        fields = load_object(tool.json)
        if tool.dialect == "anthropic" and fields.get("type", b"").startswith(b'"web_search_'):
            self._searches.add(fields.get("name", b'""'))
            return self._web_search(fields)
        self._warnings.dropped_tool(tool)
        return None

    def _fit_type(self, text: str) -> bytes:
        fields = load_object(text)
        kind = fields.get("type", b"null")
        fit = fit_tool_type(kind, self._quirks)
        return text.encode() if fit == kind else dump_object({**fields, "type": fit})

    def _web_search(self, fields: Object) -> bytes:
        """Anthropic's web search: https://platform.claude.com/docs/en/agents-and-tools/tool-use/web-search-tool"""
        written: Object = {"type": b'"web_search"'}
        if _items(fields.get("allowed_domains")):
            written["filters"] = dump_object({"allowed_domains": fields["allowed_domains"]})
        if fields.get("user_location", b"null") != b"null":
            written["user_location"] = fields["user_location"]
        if _items(fields.get("blocked_domains")):
            self._warnings.dropped("tools.blocked_domains")
        return dump_object(written)


def _items(value: bytes | None) -> Sequence[bytes]:
    return load_array(value) if value is not None and value.startswith(b"[") else ()
