"""Reads the messages of a Chat Completions request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from patchbay.canonical import (
    ROLE_ASSISTANT,
    ROLE_DEVELOPER,
    ROLE_SYSTEM,
    ROLE_USER,
    Audio,
    Block,
    CacheMark,
    Chat,
    Document,
    Image,
    Message,
    Opaque,
    Refusal,
    Role,
    Source,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
)
from patchbay.dialects.json_text import load_array, object_text
from patchbay.dialects.openai_chat._quirks import NAME
from patchbay.dialects.openai_chat._reasoning import read_detail
from patchbay.dialects.openai_fields import Fields, missing, unsupported_value, wrong_type
from patchbay.dialects.sources import source_of

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")

_SYSTEM_ROLES: dict[str, Role.ValueType] = {"system": ROLE_SYSTEM, "developer": ROLE_DEVELOPER}


def read_messages(messages: Iterable[bytes], chat: Chat) -> None:
    """Reads the messages into the chat's system prompt and conversation."""
    reader = _MessageReader(chat)
    for number, raw in enumerate(messages):
        reader.read(raw, f"messages[{number}]")


def read_cache_mark(fields: Fields) -> CacheMark | None:
    """Takes an Anthropic `cache_control`, which OpenRouter and others accept here too."""
    value = fields.object("cache_control")
    if value is None:
        return None
    mark = CacheMark()
    kind = value.raw("type")
    ttl = value.string("ttl")
    if ttl is not None:
        mark.ttl = ttl
    if kind is not None and kind != b'"ephemeral"':
        value.put_back("type", {})
        mark.extra_json = object_text({"type": kind, **value.rest()})
    elif value.rest():
        mark.extra_json = object_text(value.rest())
    return mark


class _MessageReader:
    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._leading = True
        # The user message that takes the tool results of the moment.
        self._results: Message | None = None
        # Calls of the deprecated `function_call` have no id: name -> the id given to its last call.
        self._function_ids: dict[str, str] = {}

    def read(self, raw: bytes, path: str) -> None:
        fields = Fields.of(raw, path)
        role = fields.required_string("role")
        if role not in ("tool", "function"):
            self._results = None
        if role not in _SYSTEM_ROLES:
            self._leading = False
        match role:
            case "system" | "developer":
                self._read_system(fields, _SYSTEM_ROLES[role])
            case "user":
                message = Message(role=ROLE_USER, blocks=_read_content(fields, required=True))
                self._add(message, fields)
            case "assistant":
                self._read_assistant(fields)
            case "tool":
                self._read_tool_result(fields, fields.required_string("tool_call_id"))
            case "function":
                name = fields.required_string("name")
                self._read_tool_result(fields, self._function_ids.get(name, f"call_{name}"))
            case _:
                raise unsupported_value(f"{path}.role", role, _ROLES)

    def _add(self, message: Message, fields: Fields) -> None:
        _mark_last(message.blocks, fields)
        name = fields.string("name")
        if name is not None:
            message.name = name
        if rest := fields.rest():
            message.extensions[NAME] = object_text(rest)
        self._chat.messages.append(message)

    def _read_system(self, fields: Fields, role: Role.ValueType) -> None:
        message = Message(role=role, blocks=_read_content(fields, required=True))
        # A named system message is an example in the conversation, not the system prompt.
        if not self._leading or fields.has("name"):
            self._leading = False
            self._add(message, fields)
            return
        _mark_last(message.blocks, fields)
        if rest := fields.rest():
            self._leading = False
            message.extensions[NAME] = object_text(rest)
            self._chat.messages.append(message)
            return
        self._chat.system.extend(message.blocks)

    def _read_assistant(self, fields: Fields) -> None:
        blocks = _read_thinking(fields)
        blocks += _read_content(fields, required=False)
        refusal = fields.string("refusal")
        if refusal:
            blocks.append(Block(refusal=Refusal(text=refusal)))
        for number, raw in enumerate(fields.array("tool_calls") or []):
            blocks.append(_read_tool_call(raw, f"{fields.at('tool_calls')}[{number}]"))
        call = fields.object("function_call")
        if call is not None:
            blocks.append(self._read_function_call(call))
        self._add(Message(role=ROLE_ASSISTANT, blocks=blocks), fields)

    def _read_function_call(self, call: Fields) -> Block:
        name = call.required_string("name")
        call_id = self._function_ids[name] = f"call_{len(self._chat.messages)}_{name}"
        return Block(tool_use=ToolUse(id=call_id, name=name, input_json=_arguments(call) or ""))

    def _read_tool_result(self, fields: Fields, call_id: str) -> None:
        result = Block(tool_result=ToolResult(tool_use_id=call_id, blocks=_read_content(fields, required=False)))
        mark = read_cache_mark(fields)
        if mark is not None:
            result.cache.CopyFrom(mark)
        if rest := fields.rest():
            result.extensions[NAME] = object_text(rest)
        if self._results is None:
            self._results = Message(role=ROLE_USER)
            self._chat.messages.append(self._results)
            self._results = self._chat.messages[-1]
        self._results.blocks.append(result)


def _mark_last(blocks: Sequence[Block], fields: Fields) -> None:
    """A mark on the whole message means the end of its last block."""
    if blocks:
        mark = read_cache_mark(fields)
        if mark is not None:
            blocks[-1].cache.CopyFrom(mark)


def _read_content(fields: Fields, *, required: bool) -> list[Block]:
    path = fields.at("content")
    value = fields.raw("content")
    if value is None:
        if required:
            raise missing(path)
        return []
    if value.startswith(b'"'):
        text = Fields({"content": value}).required_string("content")
        return [Block(text=Text(text=text))] if text else []
    if not value.startswith(b"["):
        raise wrong_type(path, "one of a string or array of objects", value)
    return [_read_part(raw, f"{path}[{number}]") for number, raw in enumerate(load_array(value))]


def _read_part(raw: bytes, path: str) -> Block:
    if raw.startswith(b'"'):
        # Not the protocol, but some clients send bare strings and servers take them.
        return Block(text=Text(text=Fields({"text": raw}).required_string("text")))
    fields = Fields.of(raw, path)
    kind = fields.required_string("type")
    match kind:
        case "text":
            block = Block(text=Text(text=fields.required_string("text")))
        case "refusal":
            block = Block(refusal=Refusal(text=fields.required_string("refusal")))
        case "image_url":
            block = _read_image(fields)
        case "input_audio":
            block = _read_audio(fields)
        case "file":
            block = _read_file(fields)
        case _:
            # Parts of one server only, such as OpenRouter's `video_url`, ride along whole.
            return Block(opaque=Opaque(dialect=NAME, json=raw.decode()))
    mark = read_cache_mark(fields)
    if mark is not None:
        block.cache.CopyFrom(mark)
    if rest := fields.rest():
        block.extensions[NAME] = object_text(rest)
    return block


def _read_image(fields: Fields) -> Block:
    path = fields.at("image_url")
    value = fields.raw("image_url")
    if value is None:
        raise missing(path)
    if value.startswith(b'"'):
        return Block(image=Image(source=source_of(Fields({"url": value}).required_string("url"))))
    options = Fields.of(value, path)
    image = Image(source=source_of(options.required_string("url")))
    detail = options.string("detail")
    if detail is not None:
        image.detail = detail
    fields.put_back("image_url", options.rest())
    return Block(image=image)


def _read_audio(fields: Fields) -> Block:
    audio = fields.required("input_audio", fields.object("input_audio"))
    block = Block(audio=Audio(base64=audio.required_string("data"), format=audio.required_string("format")))
    fields.put_back("input_audio", audio.rest())
    return block


def _read_file(fields: Fields) -> Block:
    file = fields.required("file", fields.object("file"))
    document = Document()
    file_id = file.string("file_id")
    data = file.string("file_data")
    title = file.string("filename")
    if file_id is not None:
        document.source.file_id = file_id
    elif data is not None:
        source = source_of(data)
        # OpenRouter takes the file's address here; anything else that is not a data URL is the base64 text itself.
        if source.url and not source.url.startswith(("http://", "https://")):
            source = Source(base64=data)
        document.source.CopyFrom(source)
    else:
        raise missing(f"{fields.at('file')}.file_data")
    if title is not None:
        document.title = title
    fields.put_back("file", file.rest())
    return Block(document=document)


def _read_tool_call(raw: bytes, path: str) -> Block:
    fields = Fields.of(raw, path)
    kind = fields.string("type") or "function"
    call_id = fields.required_string("id")
    if kind == "custom":
        custom = fields.required("custom", fields.object("custom"))
        use = ToolUse(id=call_id, name=custom.required_string("name"), text_input=custom.required_string("input"))
        fields.put_back("custom", custom.rest())
    elif kind == "function":
        function = fields.required("function", fields.object("function"))
        use = ToolUse(id=call_id, name=function.required_string("name"), input_json=_arguments(function) or "")
        fields.put_back("function", function.rest())
    else:
        raise unsupported_value(f"{path}.type", kind, ("function", "custom"))
    # The place of a streamed call in its list, echoed by clients that keep the pieces they were sent.
    fields.raw("index")
    block = Block(tool_use=use)
    if rest := fields.rest():
        block.extensions[NAME] = object_text(rest)
    return block


def _arguments(function: Fields) -> str | None:
    value = function.raw("arguments")
    if value is None or value.startswith(b"{"):
        # An object is not the protocol, but what it means is plain.
        return None if value is None else value.decode()
    return Fields({"arguments": value}, function.at("")).string("arguments")


def _read_thinking(fields: Fields) -> list[Block]:
    """The model's earlier reasoning, from whichever of the three fields says most."""
    details = fields.array("reasoning_details")
    texts = [fields.string("reasoning_content"), fields.string("reasoning")]
    if details:
        path = fields.at("reasoning_details")
        return [read_detail(raw, f"{path}[{number}]") for number, raw in enumerate(details)]
    return [Block(thinking=Thinking(text=text)) for text in texts[: 1 if texts[0] else 2] if text]
