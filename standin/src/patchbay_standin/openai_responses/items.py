"""The items of a Responses request's input: checks, with the API's own words for what is wrong."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from patchbay_standin.errors import ProviderError, invalid_request
from patchbay_standin.openai_responses.checks import (
    invalid_value,
    list_field,
    listed,
    missing,
    sized,
    text_field,
    unknown,
    wrong_type,
)
from patchbay_standin.openai_responses.tools import MAX_NAME, check_tools
from patchbay_standin.script import JsonObject

MAX_ID: Final = 64

_ROLES: Final = ("assistant", "system", "developer", "user")
_COMMON: Final = frozenset({"type", "id", "status", "internal_chat_message_metadata_passthrough"})


class _Kind(NamedTuple):
    """What an item of a type may hold: what its id begins with, the fields it must and may have."""

    prefix: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


_KINDS: Final[Mapping[str, _Kind]] = {
    "message": _Kind("msg", ("role", "content"), ("phase", "end_turn")),
    "reasoning": _Kind("rs", ("summary",), ("content", "encrypted_content")),
    "function_call": _Kind("fc", ("call_id", "name", "arguments"), ("namespace", "caller", "async")),
    "function_call_output": _Kind("fc", ("call_id", "output"), ("caller",)),
    "custom_tool_call": _Kind("ctc", ("call_id", "name", "input"), ("namespace", "caller", "async")),
    "custom_tool_call_output": _Kind("ctc", ("call_id", "output"), ("name", "caller")),
    "item_reference": _Kind("", ("id",)),
    "additional_tools": _Kind("at", ("tools",), ("role",)),
    "compaction": _Kind("cmp", ("encrypted_content",), ("created_by",)),
    "compaction_trigger": _Kind("", ()),
}
# Items of tools that the provider runs itself: taken as they are.
_OTHERS: Final = (
    "web_search_call",
    "file_search_call",
    "computer_call",
    "computer_call_output",
    "code_interpreter_call",
    "image_generation_call",
    "local_shell_call",
    "local_shell_call_output",
    "shell_call",
    "shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "tool_search_call",
    "tool_search_output",
)

_TEXT_PARTS: Final[Mapping[str, frozenset[str]]] = {
    "input_text": frozenset({"type", "text", "prompt_cache_breakpoint"}),
    "input_image": frozenset({"type", "image_url", "file_id", "detail", "prompt_cache_breakpoint"}),
    "input_file": frozenset(
        {"type", "file_id", "file_data", "file_url", "filename", "detail", "prompt_cache_breakpoint"}
    ),
    "input_audio": frozenset({"type", "input_audio", "prompt_cache_breakpoint"}),
}
_ASSISTANT_PARTS: Final[Mapping[str, frozenset[str]]] = {
    "output_text": frozenset({"type", "text", "annotations", "logprobs"}),
    "refusal": frozenset({"type", "refusal"}),
}

CALLS: Final = ("function_call", "custom_tool_call")
OUTPUTS: Final = ("function_call_output", "custom_tool_call_output")


def kind_of(item: JsonObject) -> str:
    """An item's type: one with a role and none is a message."""
    return str(item.get("type") or ("message" if "role" in item else ""))


def check_items(items: Sequence[JsonObject]) -> None:
    """Refuses items that the API would refuse, each for itself."""
    seen: set[str] = set()
    for index, item in enumerate(items):
        path = f"input[{index}]"
        _check_item(item, path)
        identity = item.get("id")
        if isinstance(identity, str):
            if identity in seen:
                raise invalid_request(
                    f"Duplicate item found with id {identity}. Remove duplicate items from your input and try again.",
                    param="input",
                )
            seen.add(identity)


def _check_item(item: JsonObject, path: str) -> None:
    name = kind_of(item)
    if not name:
        raise missing(f"{path}.type")
    if name in _OTHERS:
        return
    kind = _KINDS.get(name)
    if kind is None:
        raise invalid_value(f"{path}.type", name, [*_KINDS, *_OTHERS])
    for field in kind.required:
        if item.get(field) is None:
            raise missing(f"{path}.{field}")
    for field in item:
        if field not in _COMMON and field not in kind.required and field not in kind.optional:
            raise unknown(f"{path}.{field}")
    _check_id(item.get("id"), kind.prefix, f"{path}.id")
    if name in (*CALLS, *OUTPUTS):
        sized(f"{path}.call_id", text_field(item, "call_id", path), MAX_ID)
    if name in CALLS:
        sized(f"{path}.name", text_field(item, "name", path), MAX_NAME)
        text_field(item, "arguments" if name == "function_call" else "input", path)
    elif name in OUTPUTS:
        _check_content(item["output"], _TEXT_PARTS, f"{path}.output")
    elif name == "message":
        _check_message(item, path)
    elif name == "reasoning":
        list_field(item, "summary", path)
    elif name == "additional_tools":
        check_tools(list_field(item, "tools", path), f"{path}.tools")


def _check_id(identity: object, prefix: str, path: str) -> None:
    if identity is None:
        return
    if not isinstance(identity, str):
        raise wrong_type(path, "a string", identity)
    sized(path, identity, MAX_ID)
    if not identity.startswith(prefix):
        raise invalid_request(
            f"Invalid '{path}': '{identity}'. Expected an ID that begins with '{prefix}'.",
            param=path,
            code="invalid_value",
        )


def _check_message(item: JsonObject, path: str) -> None:
    role = text_field(item, "role", path)
    listed(f"{path}.role", role, _ROLES)
    _check_content(item["content"], _ASSISTANT_PARTS if role == "assistant" else _TEXT_PARTS, f"{path}.content")


def _check_content(content: object, parts: Mapping[str, frozenset[str]], path: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise wrong_type(path, "one of an array of objects or string", content)
    for index, part in enumerate(content):
        place = f"{path}[{index}]"
        if not isinstance(part, dict):
            raise wrong_type(place, "an object", part)
        kind = text_field(part, "type", place)
        known = parts.get(kind)
        if known is None:
            raise invalid_value(f"{place}.type", kind, tuple(parts))
        for field in part:
            if field not in known:
                raise unknown(f"{place}.{field}")
        _check_part(part, kind, place)


def _check_part(part: JsonObject, kind: str, path: str) -> None:
    match kind:
        case "input_text" | "output_text":
            text_field(part, "text", path)
        case "refusal":
            text_field(part, "refusal", path)
        case "input_image":
            url = part.get("image_url")
            if url is not None and not isinstance(url, str):
                raise wrong_type(f"{path}.image_url", "a string", url)
            if url is None and part.get("file_id") is None:
                raise missing(f"{path}.image_url")
            listed(f"{path}.detail", text_or_none(part.get("detail")), ("low", "high", "auto", "original"))
        case "input_file":
            if not any(part.get(field) for field in ("file_id", "file_data", "file_url")):
                raise missing(f"{path}.file_id")


def text_or_none(value: object) -> str | None:
    """A text, or None for anything else."""
    return value if isinstance(value, str) else None


def check_pairs(items: Sequence[JsonObject]) -> None:
    """Refuses calls without output, and outputs without call."""
    waiting: dict[str, str] = {}
    called: set[str] = set()
    for item in items:
        kind, call_id = kind_of(item), str(item.get("call_id"))
        if kind in CALLS:
            if call_id in called:
                raise invalid_request(f"Duplicate tool call id '{call_id}'.", param="input")
            called.add(call_id)
            waiting[call_id] = kind
        elif kind in OUTPUTS:
            word = _WORDS[kind.removesuffix("_output")]
            if waiting.pop(call_id, None) != kind.removesuffix("_output"):
                raise invalid_request(f"No tool call found for {word} output with call_id {call_id}.", param="input")
    for call_id, kind in waiting.items():
        raise invalid_request(f"No tool output found for {_WORDS[kind]} {call_id}.", param="input")


_WORDS: Final[Mapping[str, str]] = {"function_call": "function call", "custom_tool_call": "custom tool call"}


def check_references(items: Sequence[JsonObject], known: Container[str]) -> None:
    """Refuses items that stand for others which the provider does not have."""
    for item in items:
        kind = kind_of(item)
        stands = kind == "item_reference" or (kind == "reasoning" and not item.get("encrypted_content"))
        if not stands:
            continue
        identity = item.get("id")
        if identity is None:
            raise missing("input.id")
        if identity not in known:
            raise not_persisted(str(identity))


def not_persisted(identity: str) -> ProviderError:
    """An item that was never stored."""
    return invalid_request(
        f"Item with id '{identity}' not found. Items are not persisted when `store` is set to false. Try again with"
        " `store` set to true, or remove this item from your input.",
        param="input",
        status=404,
    )


def encrypted(items: Sequence[JsonObject]) -> Iterator[str]:
    """All encrypted content among the items."""
    for item in items:
        content = item.get("encrypted_content")
        if isinstance(content, str) and content:
            yield content
