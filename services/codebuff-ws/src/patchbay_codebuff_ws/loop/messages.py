"""Messages as clients take them back: for a single one that is otherwise, they refuse the whole session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from patchbay_codebuff_ws.ports import JsonObject

_Options: TypeAlias = dict[str, dict[str, Any]]
_Optional: TypeAlias = str | UnsetType


class _Part(msgspec.Struct, tag_field="type", rename="camel", kw_only=True):
    provider_options: _Options | UnsetType = UNSET


class _Text(_Part, tag="text"):
    text: str


class _Image(_Part, tag="image"):
    image: str
    media_type: _Optional = UNSET


class _File(_Part, tag="file"):
    data: str
    media_type: str
    filename: _Optional = UNSET


class _Thought(_Part, tag="reasoning"):
    text: str


class _Call(_Part, tag="tool-call"):
    tool_call_id: str
    tool_name: str
    input: dict[str, Any]
    provider_executed: bool | UnsetType = UNSET


class _Json(msgspec.Struct, tag_field="type", tag="json"):
    value: Any


class _Media(msgspec.Struct, tag_field="type", tag="media", rename="camel"):
    data: str
    media_type: str


_PARTS: Mapping[str, Any] = {
    "system": _Text,
    "user": _Text | _Image | _File,
    "assistant": _Text | _Thought | _Call,
}
_OUTPUT = _Json | _Media
# What a message may have beside its role and content, and a part beside its own.
_EXTRAS: Mapping[str, Any] = {
    "providerOptions": _Options,
    "timeToLive": Literal["agentStep", "userPrompt"],
    "keepDuringTruncation": bool,
}


def clean_history(value: object) -> list[JsonObject]:
    """The messages of a conversation, without what is none, and without what is wrong of them."""
    cleaned: list[JsonObject] = []
    for message in value if isinstance(value, list) else ():
        if not isinstance(message, dict):
            continue
        content = _tool_result(message) if message.get("role") == "tool" else _content(message)
        if content is not None:
            cleaned.append({**_without_wrong_extras(message), "content": content})
    return cleaned


def _content(message: JsonObject) -> str | list[JsonObject] | None:
    """What a message says; None: nothing that can be kept."""
    content, kind = message.get("content"), _PARTS.get(_text(message.get("role")))
    if kind is None:
        return None
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [_without_wrong_extras(part) for part in content if isinstance(part, dict)]
    parts = [{name: value for name, value in part.items() if value is not None} for part in parts]
    parts = [part for part in parts if _is(part, kind)]
    if kind is _Text:
        return "".join(part["text"] for part in parts)
    return parts or None


def _tool_result(message: JsonObject) -> JsonObject | None:
    """The one result of a tool message, which other servers and clients write in other ways."""
    content = message.get("content")
    if isinstance(content, list):
        content = {**message, "output": content} if "toolCallId" in message else next(iter(content), None)
    if not isinstance(content, dict):
        return None
    output = content.get("output")
    return {
        "type": "tool-result",
        "toolCallId": _text(content.get("toolCallId")),
        "toolName": _text(content.get("toolName")),
        "output": [part for part in output if _is(part, _OUTPUT)] if isinstance(output, list) else [],
    }


def _without_wrong_extras(fields: JsonObject) -> JsonObject:
    return {name: value for name, value in fields.items() if name not in _EXTRAS or _is(value, _EXTRAS[name])}


def _is(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
