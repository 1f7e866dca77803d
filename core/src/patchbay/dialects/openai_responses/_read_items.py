"""Reads the input items of a Responses request into the messages of a chat.

What the model said in a row (messages, reasoning, calls) is one message, and so is what the client answers to its calls
in a row. Each item's first block tells what of the item it does not hold (`_notes`).
"""

from __future__ import annotations

from collections.abc import Iterable

from patchbay.canonical import (
    ROLE_ASSISTANT,
    ROLE_DEVELOPER,
    ROLE_SYSTEM,
    ROLE_USER,
    Block,
    Chat,
    Message,
    Opaque,
    Role,
    Text,
    Tool,
    ToolResult,
    ToolUse,
)
from patchbay.dialects.json_text import Object, dump, load_array, load_object, object_text
from patchbay.dialects.openai_fields import Fields, unsupported_value, wrong_type
from patchbay.dialects.openai_responses._notes import ADDITIONAL_TOOLS, ITEM, PLACE
from patchbay.dialects.openai_responses._quirks import NAME
from patchbay.dialects.openai_responses._read_content import read_content
from patchbay.dialects.openai_responses._read_tools import read_tools
from patchbay.dialects.signatures import carried_thinking

_ROLES = ("user", "assistant", "system", "developer")
_SYSTEM_ROLES: dict[str, Role.ValueType] = {"system": ROLE_SYSTEM, "developer": ROLE_DEVELOPER}
# What a client says, of the items that are known by their type only; besides all `..._output`.
_CLIENT_TYPES = ("compaction_trigger", "mcp_approval_response")
_PARAGRAPH = "\n\n"


def read_items(items: Iterable[bytes], chat: Chat) -> None:
    """Reads the items into the chat's system prompt, conversation and tools.

    Raises:
        InvalidRequest: When an item lacks a required field, or a field has the wrong type.
    """
    reader = _ItemReader(chat)
    for number, raw in enumerate(items):
        reader.read(raw, number)


def read_text(text: str, chat: Chat) -> None:
    """Reads an input that is one string: a message of the user's."""
    blocks = [Block(text=Text(text=text))] if text else []
    chat.messages.add(role=ROLE_USER, blocks=blocks)


class _ItemReader:
    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._leading = True
        # The message that goes on with the next item of its side.
        self._open: Message | None = None

    def read(self, raw: bytes, number: int) -> None:
        path = f"input[{number}]"
        fields = Fields.of(raw, path)
        kind = fields.string("type") or ("message" if fields.has("role") else "item_reference")
        if kind == "additional_tools":
            self._read_additional_tools(fields, number)
            return
        if kind == "message":
            self._read_message(fields, path)
            return
        self._leading = False
        match kind:
            case "reasoning":
                self._add(ROLE_ASSISTANT, _read_reasoning(raw, path))
            case "function_call":
                self._add(ROLE_ASSISTANT, _read_function_call(fields))
            case "custom_tool_call":
                self._add(ROLE_ASSISTANT, _read_custom_call(fields))
            case "function_call_output" | "custom_tool_call_output":
                self._add(ROLE_USER, _read_output(raw, path))
            case _:
                is_client = kind.endswith("_output") or kind in _CLIENT_TYPES
                block = Block(opaque=Opaque(dialect=NAME, json=raw.decode()))
                self._add(ROLE_USER if is_client else ROLE_ASSISTANT, block)

    def _add(self, role: Role.ValueType, *blocks: Block) -> None:
        """Adds what an item says to the message of its side, which may be a new one."""
        if self._open is None or self._open.role != role:
            self._open = self._chat.messages.add(role=role)
        self._open.blocks.extend(blocks)

    def _read_message(self, fields: Fields, path: str) -> None:
        role = fields.required_string("role")
        if role not in _ROLES:
            raise unsupported_value(f"{path}.role", role, _ROLES)
        blocks = read_content(fields, "content")
        rest = fields.rest()
        if role in _SYSTEM_ROLES and self._leading:
            if blocks:
                _note(blocks[0], {"role": dump(role), **rest})
                self._chat.system.extend(blocks)
            return
        self._leading = False
        if role == "assistant":
            if blocks:
                _note(blocks[0], rest)
                self._add(ROLE_ASSISTANT, *blocks)
            return
        self._open = None
        message = self._chat.messages.add(role=_SYSTEM_ROLES.get(role, ROLE_USER), blocks=blocks)
        if rest:
            message.extensions[NAME] = object_text({ITEM: object_text(rest).encode()})

    def _read_additional_tools(self, fields: Fields, number: int) -> None:
        tools: list[Tool] = read_tools(fields, "tools", self._chat.namespaces)
        rest = {name: value for name, value in fields.rest().items() if name != PLACE}
        note = object_text({PLACE: dump(number), **rest}).encode()
        for tool in tools:
            more = load_object(tool.extensions[NAME]) if NAME in tool.extensions else {}
            tool.extensions[NAME] = object_text({**more, ADDITIONAL_TOOLS: note})
        self._chat.tools.extend(tools)


def _note(block: Block, rest: Object) -> None:
    """Marks the first block of an item with what of the item no block holds."""
    more = load_object(block.extensions[NAME]) if NAME in block.extensions else {}
    block.extensions[NAME] = object_text({ITEM: object_text(rest).encode(), **more})


def _with_note(block: Block, rest: Object) -> Block:
    if rest:
        _note(block, rest)
    return block


def _read_reasoning(raw: bytes, path: str) -> Block:
    fields = Fields.of(raw, path)
    summary, content = fields.array("summary") or [], fields.array("content") or []
    text = _PARAGRAPH.join(_texts(summary, f"{path}.summary") or _texts(content, f"{path}.content"))
    block = carried_thinking(fields.string("encrypted_content") or "", text)
    covered = {"type", "encrypted_content"} | ({"summary"} if not summary else set())
    rest = {name: value for name, value in load_object(raw).items() if name not in covered}
    return _with_note(block, rest)


def _texts(parts: Iterable[bytes], path: str) -> list[str]:
    found = [Fields.of(raw, f"{path}[{number}]").string("text") for number, raw in enumerate(parts)]
    return [text for text in found if text]


def _read_function_call(fields: Fields) -> Block:
    use = ToolUse(
        id=fields.required_string("call_id"),
        name=fields.required_string("name"),
        namespace=fields.string("namespace") or "",
    )
    arguments = fields.raw("arguments")
    if arguments is not None and arguments.startswith(b"{"):
        # An object is not the protocol, but what it means is plain.
        use.input_json = arguments.decode()
    else:
        text = None if arguments is None else Fields({"arguments": arguments}, fields.at("")).string("arguments")
        use.input_json = fields.required("arguments", text) or "{}"
    return _with_note(Block(tool_use=use), fields.rest())


def _read_custom_call(fields: Fields) -> Block:
    use = ToolUse(
        id=fields.required_string("call_id"),
        name=fields.required_string("name"),
        namespace=fields.string("namespace") or "",
        text_input=fields.required_string("input"),
    )
    return _with_note(Block(tool_use=use), fields.rest())


def _read_output(raw: bytes, path: str) -> Block:
    fields = Fields.of(raw, path)
    given = load_object(raw).get("output", b"null")
    kind = fields.raw("type")
    # Without an id it is of the first call that has none.
    result = ToolResult(tool_use_id=fields.string("call_id") or "")
    if given.startswith(b"{"):
        raise wrong_type(f"{path}.output", "one of a string or array of objects", given)
    result.blocks.extend(read_content(fields, "output"))
    rest = fields.rest()
    if kind != b'"function_call_output"' and kind is not None:
        rest["type"] = kind
    if given.startswith(b"[") and len(load_array(given)) < 2:
        # Else one text is written as a string.
        rest["output"] = b"[]"
    return _with_note(Block(tool_result=result), rest)
