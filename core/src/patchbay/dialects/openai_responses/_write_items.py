"""Writes the conversation of a chat as the input items of a Responses request.

An item's bytes depend only on what came before it, so that a conversation that grows keeps its prefix, and with it the
provider's prompt cache. A call and its output belong together here: an output without its call becomes a text, and a
call that the conversation leaves unanswered gets an output that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from patchbay.canonical import ROLE_ASSISTANT, ROLE_DEVELOPER, ROLE_SYSTEM, Block, Chat, Message
from patchbay.dialects.call_ids import CallIds
from patchbay.dialects.call_results import NO_RESULT, without_call
from patchbay.dialects.json_text import Object, add_missing, dump, dump_array, dump_object, load_object
from patchbay.dialects.openai_responses._item_rules import fit_fields
from patchbay.dialects.openai_responses._notes import INSTRUCTIONS, ITEM
from patchbay.dialects.openai_responses._quirks import NAME, OpenAIResponsesQuirks
from patchbay.dialects.openai_responses._write_content import PartWriter, is_part, note_of, rest_of
from patchbay.dialects.request_warnings import Warnings
from patchbay.dialects.signatures import is_openai_made
from patchbay.dialects.tool_names import ToolNames

_PARAGRAPH = "\n\n"
_SYSTEM_ROLES = (ROLE_SYSTEM, ROLE_DEVELOPER)


class ItemWriter:
    """Writes the items of one request.

    Args:
        keeps_items: Whether the server may know items that the request only names, or does not repeat.
    """

    def __init__(
        self, quirks: OpenAIResponsesQuirks, names: ToolNames, warnings: Warnings, *, keeps_items: bool
    ) -> None:
        self._quirks = quirks
        self._names = names
        self._warnings = warnings
        self._keeps_items = keeps_items
        self._parts = PartWriter(quirks, warnings)
        self._ids = CallIds(maximum=quirks.max_call_id)
        # Calls without an output: id -> the client's id, and whether of a custom tool.
        self._unanswered: dict[str, tuple[str, bool]] = {}
        # Whether the client has said something since the model did.
        self._has_heard = False
        self._items: list[bytes] = []

    def write(self, chat: Chat) -> list[bytes]:
        """The items of the system prompt, as far as it is none of the instructions, and of the messages."""
        for item in self._system(chat)[1]:
            parts = self._parts.parts(item, "system")
            rest = rest_of(item[0]) or {}
            if parts:
                self._add_message(rest.pop("role", b'"developer"'), parts, rest)
        for message in chat.messages:
            self._message(message)
        self._answer_the_rest()
        return self._items

    def instructions(self, chat: Chat) -> str | None:
        """What of the system prompt goes into `instructions`; None: nothing."""
        texts = self._parts.texts(self._system(chat)[0], "instructions")
        return _PARAGRAPH.join(texts) if texts else None

    def _system(self, chat: Chat) -> tuple[list[Block], list[list[Block]]]:
        """The blocks of the system prompt that are instructions, and those of each item."""
        instructions: list[Block] = []
        others: list[Block] = []
        for block in chat.system:
            begun = bool(others) or rest_of(block) is not None
            if note_of(block, INSTRUCTIONS) or (self._quirks.system_place == "instructions" and not begun):
                instructions.append(block)
            else:
                others.append(block)
        return instructions, _split(others)

    def _message(self, message: Message) -> None:
        if message.HasField("name"):
            self._warnings.dropped("name")
        rest = load_object(self._warnings.own_extension(message.extensions, "input."))
        rest = load_object(rest[ITEM]) if ITEM in rest else {}
        if message.role == ROLE_ASSISTANT:
            if self._has_heard:
                self._answer_the_rest()
            self._has_heard = False
            self._assistant(message)
        elif message.role in _SYSTEM_ROLES:
            parts = self._parts.parts(message.blocks, "system")
            if parts or not message.blocks:
                self._add_message(b'"system"' if message.role == ROLE_SYSTEM else b'"developer"', parts, rest)
        else:
            self._has_heard = True
            self._user(message, rest)

    def _user(self, message: Message, rest: Object) -> None:
        said: list[Block] = []
        has_item = False
        for block in message.blocks:
            if block.HasField("tool_result"):
                has_item = True
                said += self._output(block)
            elif self._is_item(block):
                has_item = True
                self._opaque_item(block)
            else:
                said.append(block)
        if said or not has_item:
            self._answer_the_rest()
            parts = self._parts.parts(said, "user")
            if parts or not message.blocks:
                self._add_message(b'"user"', parts, rest)

    def _assistant(self, message: Message) -> None:
        spoken: list[Block] = []
        for block in message.blocks:
            match block.WhichOneof("kind"):
                case "thinking":
                    self._speak(spoken)
                    self._reasoning(block)
                case "tool_use":
                    self._speak(spoken)
                    self._call(block)
                case "opaque" if self._is_item(block):
                    self._speak(spoken)
                    self._opaque_item(block)
                case _:
                    spoken.append(block)
        self._speak(spoken)

    def _speak(self, spoken: list[Block]) -> None:
        for item in _split(spoken):
            parts = self._parts.parts(item, "assistant")
            if parts:
                self._add_message(b'"assistant"', parts, rest_of(item[0]) or {})
        spoken.clear()

    def _add_message(self, role: bytes, parts: Sequence[Object], rest: Object) -> None:
        content = dump_array([dump_object(part) for part in parts]) if parts else b'""'
        self._add("message", {"role": role, "content": content}, rest)

    def _add(self, kind: str, fields: Object, rest: Object) -> None:
        fields = {"type": dump(kind), **fields}
        add_missing(fields, rest)
        fit_fields(fields, kind, self._quirks)
        self._items.append(dump_object(fields))

    def _is_item(self, block: Block) -> bool:
        return block.HasField("opaque") and block.opaque.dialect == NAME and not is_part(block)

    def _opaque_item(self, block: Block) -> None:
        fields = load_object(block.opaque.json)
        if fields.get("type", b"null") in (b"null", b'"item_reference"') and not self._quirks.keeps_answers:
            self._warnings.dropped("input.item_reference")
            return
        if fit_fields(fields, "", self._quirks):
            self._items.append(dump_object(fields))
        else:
            self._items.append(block.opaque.json.encode())

    def _reasoning(self, block: Block) -> None:
        """Reasoning that the server can read, or has itself; what another provider thought says nothing here."""
        rest = rest_of(block) or {}
        is_readable = is_openai_made(block.thinking.signature)
        if not is_readable and not (self._keeps_items and "id" in rest):
            return
        fields: Object = {"id": rest.pop("id")} if "id" in rest else {}
        fields["summary"] = rest.pop("summary", b"[]")
        if is_readable:
            fields["encrypted_content"] = dump(block.thinking.signature)
        self._add("reasoning", fields, rest)

    def _call(self, block: Block) -> None:
        use = block.tool_use
        is_text = use.HasField("text_input")
        tool = self._names.of(use.name, use.namespace, custom=is_text)
        call_id = self._ids.of_call(use.id)
        rest = self._rest(block, "input.")
        fields: Object = {"call_id": dump(call_id), "name": dump(tool.name)}
        if tool.namespace:
            fields["namespace"] = dump(tool.namespace)
        if is_text:
            fields["input"] = dump(use.text_input)
        else:
            fields["arguments"] = dump(use.input_json or "{}")
        if "async" not in rest:
            self._unanswered[call_id] = (use.id, is_text)
        self._add("custom_tool_call" if is_text else "function_call", fields, rest)

    def _output(self, block: Block) -> list[Block]:
        """Writes a tool's result; one without its call is returned as what the user says instead."""
        result = block.tool_result
        if not self._keeps_items and not self._ids.is_open(result.tool_use_id):
            return without_call(result)
        rest = self._rest(block, "input.")
        call_id = self._ids.of_result(result.tool_use_id)
        is_custom = rest.pop("type", None) == b'"custom_tool_call_output"'
        _, is_custom = self._unanswered.pop(call_id, ("", is_custom))
        kind = "custom_tool_call_output" if is_custom else "function_call_output"
        as_array = rest.pop("output", None) is not None
        output = self._parts.output(result.blocks, is_error=result.is_error, as_array=as_array)
        self._add(kind, {"call_id": dump(call_id), "output": output}, rest)
        return []

    def _answer_the_rest(self) -> None:
        """Ends the calls that are still open: the server refuses to go on without an output."""
        for call_id, (client_id, is_custom) in self._unanswered.items():
            self._ids.of_result(client_id)
            kind = "custom_tool_call_output" if is_custom else "function_call_output"
            self._add(kind, {"call_id": dump(call_id), "output": dump(NO_RESULT)}, {})
        self._unanswered.clear()

    def _rest(self, block: Block, place: str) -> Object:
        own = load_object(self._warnings.own_extension(block.extensions, place))
        return load_object(own[ITEM]) if ITEM in own else {}


def _split(blocks: Iterable[Block]) -> list[list[Block]]:
    """The blocks of each item: one begins where a note says so."""
    items: list[list[Block]] = []
    for block in blocks:
        if not items or rest_of(block) is not None:
            items.append([])
        items[-1].append(block)
    return items
