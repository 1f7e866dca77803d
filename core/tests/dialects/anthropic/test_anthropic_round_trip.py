"""What the dialect can say, it reads back as it was."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchbay.canonical import (
    ROLE_ASSISTANT,
    ROLE_SYSTEM,
    ROLE_USER,
    Block,
    BlockList,
    CacheMark,
    Chat,
    Citation,
    Document,
    FunctionTool,
    Image,
    Message,
    Opaque,
    Reasoning,
    RedactedThinking,
    ResponseFormat,
    Sampling,
    Source,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)
from patchbay.dialects.anthropic import DIALECT, AnthropicQuirks
from patchbay.dialects.anthropic._quirks import ModelFeatures
from patchbay.dialects.call_results import paired

# Takes everything that some model takes.
EVERYTHING = AnthropicQuirks(
    features=lambda model: ModelFeatures(
        adaptive_thinking=True,
        thinks_by_default=True,
        efforts=("low", "medium", "high", "xhigh", "max"),
        system_messages=True,
    )
)

_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda text: text.strip() != ""
)
_names = st.text("abcXYZ019_-", min_size=1, max_size=8)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(allow_nan=False, allow_infinity=False) | _texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_names, inner, max_size=2),
    max_leaves=4,
)


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


_objects = st.dictionaries(_names, _json, max_size=2).map(_dump)
_unknown = st.dictionaries(_names.map(lambda name: f"x_{name}"), _json, min_size=1, max_size=2)
_extensions = st.just({}) | _unknown.map(lambda fields: {"anthropic": json.dumps(fields, separators=(",", ":"))})


@st.composite
def _cache(draw: st.DrawFn) -> CacheMark | None:
    if draw(st.integers(0, 3)):
        return None
    mark = CacheMark()
    if draw(st.booleans()):
        mark.ttl = draw(st.sampled_from(["5m", "1h"]))
    if draw(st.booleans()):
        mark.extra_json = json.dumps(draw(_unknown), separators=(",", ":"))
    return mark


@st.composite
def _decorated(draw: st.DrawFn, kinds: st.SearchStrategy[Block]) -> Block:
    block = Block()
    block.CopyFrom(draw(kinds))
    if block.HasField("opaque"):
        return block
    mark = draw(_cache())
    if mark is not None:
        block.cache.CopyFrom(mark)
    block.extensions.update(draw(_extensions))
    return block


_citations = st.lists(_objects.map(lambda text: Citation(dialect="anthropic", json=text)), max_size=2)
_text_blocks = st.builds(lambda text, citations: Block(text=Text(text=text, citations=citations)), _texts, _citations)
_sources = st.one_of(
    st.builds(lambda data: Source(base64=data, media_type="image/png"), st.text("abc/+=", max_size=6)),
    _texts.map(lambda url: Source(url=url)),
    _texts.map(lambda name: Source(file_id=name)),
)
_images = _sources.map(lambda source: Block(image=Image(source=source)))
_opaque = st.builds(
    lambda kind, fields: Block(
        opaque=Opaque(dialect="anthropic", json=json.dumps({"type": f"x_{kind}", **fields}, separators=(",", ":")))
    ),
    _names,
    _unknown,
)


@st.composite
def _documents(draw: st.DrawFn) -> Block:
    document = Document()
    match draw(st.integers(0, 4)):
        case 0:
            document.source.CopyFrom(Source(base64="JVBE", media_type="application/pdf"))
        case 1:
            document.source.CopyFrom(Source(text=draw(_texts), media_type="text/plain"))
        case 2:
            document.source.CopyFrom(Source(url=draw(_texts)))
        case 3:
            document.source.CopyFrom(Source(file_id=draw(_texts)))
        case _:
            inner = draw(st.lists(_decorated(_text_blocks | _images), max_size=2))
            document.content.CopyFrom(BlockList(blocks=inner))
    for name in ("title", "context"):
        if draw(st.booleans()):
            setattr(document, name, draw(_texts))
    if draw(st.booleans()):
        document.citations = draw(st.booleans())
    return Block(document=document)


_results = st.builds(
    lambda name, blocks, failed: Block(tool_result=ToolResult(tool_use_id=name, blocks=blocks, is_error=failed)),
    _names,
    st.lists(_decorated(_text_blocks | _images | _documents() | _opaque), max_size=2),
    st.booleans(),
)
_tool_uses = st.builds(lambda i, n, j: Block(tool_use=ToolUse(id=i, name=n, input_json=j)), _names, _names, _objects)
_thoughts = st.one_of(
    st.builds(
        lambda text, signature: Block(thinking=Thinking(text=text, signature=signature)),
        st.text("ab", max_size=3),
        _names,
    ),
    _names.map(lambda data: Block(redacted_thinking=RedactedThinking(data=data))),
)
_user_blocks = _decorated(_text_blocks | _images | _documents() | _results | _opaque)
_assistant_blocks = _decorated(_text_blocks | _tool_uses | _opaque)


@st.composite
def _messages(draw: st.DrawFn) -> list[Message]:
    """User and assistant in turn, every assistant message begun with thinking, the rest where it may stand."""
    messages = []
    for _ in range(draw(st.integers(1, 3))):
        blocks = draw(st.lists(_user_blocks, min_size=1, max_size=3))
        messages.append(Message(role=ROLE_USER, blocks=blocks, extensions=draw(_extensions)))
        if draw(st.booleans()):
            messages.append(Message(role=ROLE_SYSTEM, blocks=[draw(_decorated(_text_blocks))]))
        blocks = [draw(_decorated(_thoughts)), *draw(st.lists(_assistant_blocks, max_size=3))]
        messages.append(Message(role=ROLE_ASSISTANT, blocks=blocks, extensions=draw(_extensions)))
    calls = [block.tool_use for message in messages for block in message.blocks if block.HasField("tool_use")]
    for number, call in enumerate(calls):
        call.id = f"{call.id}-{number}"
    return list(paired(messages[: -1 if draw(st.booleans()) else None]))


@st.composite
def _tools(draw: st.DrawFn) -> Tool:
    if draw(st.integers(0, 3)) == 0:
        text = json.dumps({"type": "bash_20250124", "name": draw(_names)}, separators=(",", ":"))
        return Tool(opaque=Opaque(dialect="anthropic", json=text))
    schema = {"type": "object", **draw(st.dictionaries(_names, _json, max_size=2)), "additionalProperties": False}
    tool = Tool(function=FunctionTool(name=draw(_names), input_schema_json=_dump(schema)), extensions=draw(_extensions))
    if draw(st.booleans()):
        tool.function.description = draw(_texts)
    if draw(st.booleans()):
        tool.function.strict = draw(st.booleans())
    mark = draw(_cache())
    if mark is not None:
        tool.cache.CopyFrom(mark)
    return tool


@st.composite
def _reasoning(draw: st.DrawFn) -> Reasoning | None:
    """Without thinking when a tool is forced; see `_chats`."""
    match draw(st.integers(0, 4)):
        case 0:
            return None
        case 1:
            reasoning = Reasoning(mode=Reasoning.MODE_ENABLED, budget_tokens=draw(st.integers(1024, 9999)))
        case 2:
            reasoning = Reasoning(mode=Reasoning.MODE_ADAPTIVE)
        case 3:
            reasoning = Reasoning(mode=Reasoning.MODE_DISABLED)
        case _:
            return Reasoning(effort=draw(st.sampled_from(["low", "max"])))
    if reasoning.mode != Reasoning.MODE_DISABLED and draw(st.booleans()):
        reasoning.display = "omitted"
    if draw(st.booleans()):
        reasoning.effort = "high"
    return reasoning


@st.composite
def _chats(draw: st.DrawFn) -> Chat:
    chat = Chat(
        system=draw(st.lists(_decorated(_text_blocks), max_size=2)),
        messages=draw(_messages()),
        tools=draw(st.lists(_tools(), max_size=2)),
        sampling=Sampling(max_tokens=draw(st.integers(0, 99_999)), stop=draw(st.lists(_texts, max_size=2))),
        reasoning=draw(_reasoning()),
        stream=draw(st.booleans()),
        extensions=draw(_extensions),
    )
    thinks = chat.reasoning.mode in (Reasoning.MODE_ENABLED, Reasoning.MODE_ADAPTIVE)
    if not thinks and draw(st.booleans()):
        chat.sampling.temperature = draw(st.floats(0, 1))
        chat.sampling.top_p = draw(st.floats(0, 1))
        chat.sampling.top_k = draw(st.integers(0, 99))
    if chat.tools and draw(st.booleans()):
        modes = [ToolChoice.MODE_AUTO, ToolChoice.MODE_NONE]
        modes += [] if thinks else [ToolChoice.MODE_ANY, ToolChoice.MODE_TOOL]
        chat.tool_choice.mode = draw(st.sampled_from(modes))
        if chat.tool_choice.mode == ToolChoice.MODE_TOOL:
            chat.tool_choice.name = draw(_names)
        if chat.tool_choice.mode != ToolChoice.MODE_NONE and draw(st.booleans()):
            chat.parallel_tool_calls = draw(st.booleans())
    if draw(st.booleans()):
        chat.response_format.CopyFrom(ResponseFormat(type=ResponseFormat.TYPE_JSON_SCHEMA, schema_json=draw(_objects)))
    if draw(st.booleans()):
        chat.user = draw(_texts)
    if draw(st.booleans()):
        chat.service_tier = draw(st.sampled_from(["auto", "standard_only"]))
    return chat


@given(_chats())
def test_chat_written_and_read(chat: Chat) -> None:
    written = DIALECT.write_request(chat, "any", EVERYTHING)
    assert DIALECT.read_request(written.body) == chat
    assert written.warnings == ()


BODY = json.loads((Path(__file__).parent / "request.json").read_text())


@pytest.mark.parametrize("model", ["claude-opus-4-6", "claude-sonnet-4-6"])
def test_realistic_body(model: str) -> None:
    body = json.dumps(BODY).encode()
    chat = DIALECT.read_request(body)
    written = DIALECT.write_request(chat, model, DIALECT.quirks)
    assert written.warnings == ()
    assert DIALECT.read_request(written.body) == chat
    again = json.loads(written.body)
    # Strings that stand for a list of one text are written as that list.
    assert {name: value for name, value in again.items() if name not in ("model", "messages", "system")} == {
        name: value for name, value in BODY.items() if name not in ("model", "messages", "system")
    }
    assert [item["content"] for item in again["messages"] if isinstance(item["content"], list)][1:] == [
        item["content"] for item in BODY["messages"] if isinstance(item["content"], list)
    ]
