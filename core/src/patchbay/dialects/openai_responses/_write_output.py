"""Output items as an answer writes them.

Format: https://platform.openai.com/docs/api-reference/responses/object#responses/object-output
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from patchbay.canonical import ToolUseStart
from patchbay.dialects.builder import is_whole_object
from patchbay.dialects.json_text import Object, dump, dump_array, dump_object

ItemType: TypeAlias = Literal["message", "reasoning", "function_call", "custom_tool_call"]
Status: TypeAlias = Literal["in_progress", "completed", "incomplete"]

# How the ids of items begin.
_PREFIXES: dict[ItemType, str] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
}

# The arguments of a call without any: clients parse them as JSON.
NO_ARGUMENTS = "{}"


@dataclass(slots=True)
class OutputItem:
    """One output item, as far as it has been said."""

    type: ItemType
    id: str
    # Its place in the output.
    index: int
    # Of a call: its `call_id`, `name` and `namespace`.
    call: Object = field(default_factory=dict)
    # Of a call: the pieces of its input.
    pieces: list[str] = field(default_factory=list)
    # Of a message its content, of reasoning its summary: the parts that are done.
    parts: list[bytes] = field(default_factory=list)
    # Of reasoning; empty for none.
    encrypted_content: str = ""

    @property
    def input_name(self) -> str:
        """The field that has a call's input."""
        return "input" if self.type == "custom_tool_call" else "arguments"

    @property
    def is_partial_call(self) -> bool:
        """Whether a call may lack the end of its input, in an answer that was cut off behind it."""
        return self.type == "custom_tool_call" or not is_whole_object(self.pieces)

    def write(self, status: Status) -> bytes:
        fields: Object = {"id": dump(self.id), "type": dump(self.type)}
        match self.type:
            case "message":
                fields["status"] = dump(status)
                fields["role"] = b'"assistant"'
                fields["content"] = dump_array(self.parts)
            case "reasoning":
                fields["summary"] = dump_array(self.parts)
                if self.encrypted_content:
                    fields["encrypted_content"] = dump(self.encrypted_content)
            case _:
                fields["status"] = dump(status)
                fields.update(self.call)
                fields[self.input_name] = dump("".join(self.pieces))
        return dump_object(fields)


def item_id(type_: ItemType, answer: str, index: int) -> str:
    """The id of the item at a place of an answer, which `answer` tells from others in hexadecimal digits."""
    return f"{_PREFIXES[type_]}_{answer}{index:04x}"


def call_fields(use: ToolUseStart) -> Object:
    fields: Object = {"call_id": dump(use.id), "name": dump(use.name)}
    if use.namespace:
        fields["namespace"] = dump(use.namespace)
    return fields


@dataclass(slots=True)
class ItemPart:
    """A part of a message or of reasoning, as far as it has been said."""

    kind: str
    pieces: list[str]
    annotations: list[bytes] = field(default_factory=list)
    logprobs: list[bytes] = field(default_factory=list)

    def write(self) -> bytes:
        text = dump("".join(self.pieces))
        match self.kind:
            case "refusal":
                fields: Object = {"type": b'"refusal"', "refusal": text}
            case "thinking":
                fields = {"type": b'"summary_text"', "text": text}
            case _:
                fields = {"type": b'"output_text"', "annotations": dump_array(self.annotations)}
                fields["logprobs"] = dump_array(self.logprobs)
                fields["text"] = text
        return dump_object(fields)
