"""Writes the messages of a Chat Completions request.

A message's bytes depend only on what came before it, so that a conversation that grows keeps its prefix, and with it
the provider's prompt cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from patchbay.canonical import ROLE_ASSISTANT, ROLE_DEVELOPER, ROLE_SYSTEM, Block, Chat, Message
from patchbay.dialects.call_ids import CallIds
from patchbay.dialects.call_results import paired
from patchbay.dialects.custom_tools import wrapped_input
from patchbay.dialects.json_text import Object, add_missing, dump, dump_array, dump_object, load_object
from patchbay.dialects.openai_chat._quirks import NAME, OpenAIChatQuirks
from patchbay.dialects.openai_chat._reasoning import encrypted_detail, extra_content_of, text_detail
from patchbay.dialects.openai_chat._write_parts import PartWriter, cache_mark
from patchbay.dialects.request_warnings import Warnings
from patchbay.dialects.signatures import is_openai_made
from patchbay.dialects.tool_names import ToolNames

_PARAGRAPH = "\n\n"


class MessageWriter:
    """Writes the messages of one request."""

    def __init__(self, quirks: OpenAIChatQuirks, names: ToolNames, warnings: Warnings) -> None:
        self._quirks = quirks
        self._names = names
        self._warnings = warnings
        self._parts = PartWriter(quirks, warnings)
        self._ids = CallIds(maximum=quirks.max_tool_call_id)

    def write(self, chat: Chat) -> bytes:
        """The array of messages, the system prompt first."""
        written: list[bytes] = []
        system = self._content(self._parts.of_texts(chat.system, "system"))
        if system is None and self._quirks.system_required is not None and self._lacks_system(chat):
            system = dump(self._quirks.system_required)
        if system is not None:
            written.append(dump_object({"role": dump(self._quirks.system_role), "content": system}))
        for message in paired(chat.messages):
            written.extend(self._message(message))
        return dump_array(written)

    @staticmethod
    def _lacks_system(chat: Chat) -> bool:
        # A chat without messages stays one: the server is to refuse it, not to answer the added message.
        return bool(chat.messages) and chat.messages[0].role not in (ROLE_SYSTEM, ROLE_DEVELOPER)

    def _message(self, message: Message) -> list[bytes]:
        match message.role:
            case r if r == ROLE_ASSISTANT:
                return self._assistant(message)
            case r if r in (ROLE_SYSTEM, ROLE_DEVELOPER):
                developer = r == ROLE_DEVELOPER and self._quirks.developer_role
                content = self._content(self._parts.of_texts(message.blocks, "system"))
                return self._finish(message, "developer" if developer else "system", content)
            case _:
                return self._user(message)

    def _finish(self, message: Message, role: str, content: bytes | None, more: Object | None = None) -> list[bytes]:
        """The message, unless all that it said had to be left out."""
        if content is None and not more:
            if message.blocks:
                return []
            content = b'""'
        fields: Object = {"role": dump(role)}
        if message.HasField("name"):
            fields["name"] = dump(message.name)
        fields["content"] = b"null" if content is None else content
        fields |= more or {}
        add_missing(fields, load_object(self._warnings.own_extension(message.extensions, "messages.")))
        return [dump_object(fields)]

    def _content(self, parts: Sequence[Object]) -> bytes | None:
        if not parts:
            return None
        if len(parts) == 1 and parts[0].keys() == {"type", "text"} and parts[0]["text"] != b'""':
            return parts[0]["text"]
        if self._quirks.joined_text and all(part.get("type") == b'"text"' for part in parts):
            return dump(_PARAGRAPH.join([msgspec.json.decode(part["text"], type=str) for part in parts]))
        return dump_array([dump_object(part) for part in parts])

    def _user(self, message: Message) -> list[bytes]:
        results = [block for block in message.blocks if block.HasField("tool_result")]
        others = [block for block in message.blocks if not block.HasField("tool_result")]
        written: list[bytes] = []
        # What a tool message cannot hold comes right after all of them: they must follow their calls without a gap.
        attached: list[Object] = []
        for block in results:
            tool_message, attachments = self._tool_message(block)
            written.append(tool_message)
            attached += attachments
        content = self._content(attached + self._parts.of_blocks(others, "user"))
        if content is not None or not results:
            written += self._finish(message, "user", content)
        return written

    def _tool_message(self, block: Block) -> tuple[bytes, list[Object]]:
        result = block.tool_result
        call_id = self._ids.of_result(result.tool_use_id)
        parts = self._parts.of_blocks(result.blocks, "tool")
        texts = [part for part in parts if part["type"] == b'"text"']
        attachments = [part for part in parts if part["type"] != b'"text"']
        content = self._content(texts)
        if attachments:
            label = f"Content of the result of tool call {call_id}:"
            attachments.insert(0, {"type": b'"text"', "text": dump(label)})
            if content is None:
                content = dump("The result is in the next user message.")
        elif content is None:
            # That a call failed is in its text alone here; one without any must not look like a success.
            content = b'"Error"' if result.is_error else b'""'
        fields: Object = {
            "role": b'"tool"',
            "tool_call_id": dump(call_id),
            "content": content,
        }
        if block.HasField("cache"):
            fields |= cache_mark(block.cache, self._quirks)
        add_missing(fields, load_object(self._warnings.own_extension(block.extensions, "messages.")))
        return dump_object(fields), attachments

    def _assistant(self, message: Message) -> list[bytes]:
        spoken: list[Block] = []
        thought: list[Block] = []
        calls: list[bytes] = []
        extra_content: bytes | None = None
        for block in message.blocks:
            match block.WhichOneof("kind"):
                case "tool_use":
                    if extra_content is None and not calls and self._quirks.default_extra_content is not None:
                        extra_content = self._quirks.default_extra_content.encode()
                    calls.append(self._tool_call(block, extra_content))
                    extra_content = None
                case "redacted_thinking" if (carried := extra_content_of(block.redacted_thinking.data)) is not None:
                    extra_content = carried
                case "thinking" | "redacted_thinking":
                    thought.append(block)
                case "opaque" if _is_reasoning(block):
                    thought.append(block)
                case _:
                    spoken.append(block)
        more = self._thinking(thought)
        refusal = self._only_refusal(spoken)
        if refusal is not None:
            spoken.pop()
            more["refusal"] = dump(refusal)
        if calls:
            more["tool_calls"] = dump_array(calls)
        return self._finish(message, "assistant", self._content(self._parts.of_blocks(spoken, "assistant")), more)

    @staticmethod
    def _only_refusal(spoken: Sequence[Block]) -> str | None:
        """The message's refusal, if it can go into the field of that name: the last block, and the only one such."""
        refusals = [block for block in spoken if block.HasField("refusal")]
        if len(refusals) != 1 or not spoken[-1].HasField("refusal"):
            return None
        last = spoken[-1]
        plain = last.refusal.text and not last.HasField("cache") and not last.extensions
        return last.refusal.text if plain else None

    def _tool_call(self, block: Block, extra_content: bytes | None) -> bytes:
        use = block.tool_use
        fields: Object = {"id": dump(self._ids.of_call(use.id))}
        is_text = use.HasField("text_input")
        tool = self._names.of(use.name, use.namespace, custom=is_text)
        name = dump(tool.name)
        if tool.is_custom:
            fields["type"] = b'"custom"'
            fields["custom"] = dump_object({"name": name, "input": dump(use.text_input)})
        else:
            fields["type"] = b'"function"'
            arguments = wrapped_input(use.text_input) if is_text else use.input_json
            fields["function"] = dump_object({"name": name, "arguments": dump(arguments)})
        own = load_object(self._warnings.own_extension(block.extensions, "messages.tool_calls."))
        if self._quirks.tool_extra_content and extra_content is not None:
            own.setdefault("extra_content", extra_content)
        add_missing(fields, own)
        return dump_object(fields)

    def _thinking(self, thought: Iterable[Block]) -> Object:
        field = self._quirks.echo_reasoning
        if field is None:
            return {}
        if field != "reasoning_details":
            text = _PARAGRAPH.join([block.thinking.text for block in thought if block.thinking.text])
            return {field: dump(text)} if text else {}
        # The server may pass it on to a provider that did not sign it.
        kept = [block for block in thought if not is_openai_made(block.thinking.signature)]
        entries = [self._detail(block, index) for index, block in enumerate(kept)]
        return {"reasoning_details": dump_array(entries)} if entries else {}

    def _detail(self, block: Block, index: int) -> bytes:
        match block.WhichOneof("kind"):
            case "redacted_thinking":
                return encrypted_detail(block.redacted_thinking.data, index)
            case "opaque":
                return dump_object({**load_object(block.opaque.json), "index": dump(index)})
            case _:
                signature = block.thinking.signature if block.thinking.HasField("signature") else None
                rest = load_object(self._warnings.own_extension(block.extensions, "messages.reasoning_details."))
                return text_detail(block.thinking.text, signature, index, rest)


def _is_reasoning(block: Block) -> bool:
    if block.opaque.dialect != NAME:
        return False
    return load_object(block.opaque.json).get("type", b"").startswith(b'"reasoning.')
