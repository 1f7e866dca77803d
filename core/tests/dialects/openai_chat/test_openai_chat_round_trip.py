"""What is written is read back as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

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
    FunctionTool,
    Image,
    Message,
    Opaque,
    Reasoning,
    RedactedThinking,
    Refusal,
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
from patchbay.dialects.openai_chat import DIALECT, OpenAIChatQuirks
from patchbay.errors import InvalidRequest

# A server that understands all there is.
QUIRKS = replace(
    OpenAIChatQuirks(),
    reasoning_field="reasoning",
    echo_reasoning="reasoning_details",
    cache_control=True,
    top_k=True,
    document_urls=True,
    stream_usage=False,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
words = st.text("abcdefgh_-", min_size=1, max_size=8)
objects = st.dictionaries(words.map("x_".__add__), st.integers() | texts | st.lists(st.booleans()), max_size=2).map(
    lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False)
)
schemas = st.dictionaries(words, st.integers() | texts, max_size=2).map(
    lambda value: json.dumps({"type": "object", "properties": {}, **value, "additionalProperties": False}, indent=1)
)


def maybe(strategy: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.none() | strategy


def extended(value: Any, extension: str) -> Any:
    if extension != "{}":
        value.extensions["openai_chat"] = extension
    return value


def marked(block: Block, mark: CacheMark | None, extension: str) -> Block:
    if mark is not None:
        block.cache.CopyFrom(mark)
    return extended(block, extension)


marks = maybe(
    st.builds(CacheMark, ttl=maybe(st.sampled_from(["5m", "1h"])), extra_json=objects.filter(lambda o: o != "{}"))
)


def finish(blocks: SearchStrategy[Block]) -> SearchStrategy[Block]:
    return st.builds(marked, blocks, marks, objects)


base64 = st.sampled_from(["", "AA==", "Zm9v"])
sources = st.builds(Source, base64=base64, media_type=st.sampled_from(["image/png", "application/pdf"]))
urls = st.builds(Source, url=words.map("https://x/".__add__))
text_blocks = finish(st.builds(lambda text: Block(text=Text(text=text)), texts))
opaque_parts = words.map(
    lambda word: Block(
        opaque=Opaque(dialect="openai_chat", json=json.dumps({"type": "x_" + word}, separators=(",", ":")))
    )
)
media = finish(
    st.one_of(
        st.builds(lambda s, d: Block(image=Image(source=s, detail=d)), sources | urls, maybe(st.just("low"))),
        st.builds(lambda b, f: Block(audio=Audio(base64=b, format=f)), base64, st.sampled_from(["wav", "mp3"])),
        st.builds(lambda s, t: Block(document=Document(source=s, title=t)), sources | urls, words),
        st.builds(lambda i: Block(document=Document(source=Source(file_id=i))), words),
    )
)
function_calls = st.builds(
    lambda i, n, a, e: extended(Block(tool_use=ToolUse(id=i, name=n, input_json=a)), e), words, words, texts, objects
)
custom_calls = st.builds(lambda i, n, t: Block(tool_use=ToolUse(id=i, name=n, text_input=t)), words, words, texts)
thoughts = st.one_of(
    st.builds(lambda t, s: Block(thinking=Thinking(text=t, signature=s)), texts, maybe(words)),
    words.map(lambda data: Block(redacted_thinking=RedactedThinking(data=data))),
)
# An empty refusal says nothing.
refusals = st.builds(lambda t: Block(refusal=Refusal(text=t)), texts.filter(bool))


def result(call_id: str) -> SearchStrategy[Block]:
    return st.builds(
        lambda blocks, mark: marked(Block(tool_result=ToolResult(tool_use_id=call_id, blocks=blocks)), mark, "{}"),
        st.lists(text_blocks, max_size=2),
        marks,
    )


@st.composite
def messages(draw: st.DrawFn) -> list[Message]:
    """A conversation as this dialect has it: each call has an id and a result, and no system message comes first unless
    named.
    """
    found: list[Message] = []
    calls = 0
    for kind in draw(st.lists(st.sampled_from(["user", "assistant", "system"]), max_size=4)):
        name = draw(maybe(words))
        match kind:
            case "user":
                blocks = draw(st.lists(text_blocks | media | opaque_parts, max_size=3))
                message = Message(role=ROLE_USER, blocks=blocks, name=name)
            case "assistant":
                blocks = draw(st.lists(thoughts, max_size=2)) + draw(st.lists(text_blocks, max_size=2))
                blocks += draw(st.lists(refusals, max_size=1)) + draw(
                    st.lists(function_calls | custom_calls, max_size=2)
                )
                message = Message(role=ROLE_ASSISTANT, blocks=blocks, name=name)
            case _:
                role = draw(st.sampled_from([ROLE_SYSTEM, ROLE_DEVELOPER]))
                blocks = draw(st.lists(text_blocks, max_size=2))
                is_first = not any(m.role in (ROLE_USER, ROLE_ASSISTANT) for m in found)
                message = Message(role=role, blocks=blocks, name=name or ("n" if is_first else None))
        found.append(extended(message, draw(objects)))
        results = []
        for block in message.blocks:
            if block.HasField("tool_use"):
                calls += 1
                block.tool_use.id += str(calls)
                results.append(draw(result(block.tool_use.id)))
        if results:
            found.append(Message(role=ROLE_USER, blocks=results))
    return found


tools = st.lists(
    st.builds(
        lambda n, d, s, strict, mark, e: marked(  # type: ignore[arg-type, return-value]
            Tool(function=FunctionTool(name=n, description=d, input_schema_json=s, strict=strict)), mark, e
        ),
        words,
        maybe(texts),
        maybe(schemas),
        maybe(st.booleans()),
        marks,
        objects,
    ),
    max_size=2,
)


@st.composite
def chats(draw: st.DrawFn) -> Chat:
    numbers = st.floats(-2, 2)
    chat = Chat(
        system=draw(st.lists(text_blocks, max_size=2)),
        messages=draw(messages()),
        tools=draw(tools),
        sampling=Sampling(
            max_tokens=draw(maybe(st.integers(0, 2**63 - 1))),
            temperature=draw(maybe(numbers)),
            top_p=draw(maybe(numbers)),
            top_k=draw(maybe(st.integers(1, 100))),
            stop=draw(st.lists(texts, max_size=2)),
            seed=draw(maybe(st.integers(-(2**63), 2**63 - 1))),
            presence_penalty=draw(maybe(numbers)),
            frequency_penalty=draw(maybe(numbers)),
            n=draw(maybe(st.integers(0, 9))),
            logprobs=draw(maybe(st.booleans())),
            top_logprobs=draw(maybe(st.integers(0, 20))),
        ),
        user=draw(maybe(texts)),
        metadata=draw(st.dictionaries(words, texts, max_size=2)),
        service_tier=draw(maybe(words)),
        parallel_tool_calls=draw(maybe(st.booleans())),
        stream=draw(st.booleans()),
    )
    # A usage report is a matter of streams.
    chat.include_usage = chat.stream and draw(st.booleans())
    _add_choices(draw, chat)
    if not chat.tools:
        # What is said about tools is refused where there are none.
        chat.ClearField("tool_choice")
        chat.ClearField("parallel_tool_calls")
    return extended(chat, draw(objects))


def _add_choices(draw: st.DrawFn, chat: Chat) -> None:
    choices = [
        ToolChoice(mode=ToolChoice.MODE_AUTO),
        ToolChoice(mode=ToolChoice.MODE_NONE),
        ToolChoice(mode=ToolChoice.MODE_ANY),
        ToolChoice(opaque=Opaque(dialect="openai_chat", json='{"type": "allowed_tools"}')),
        *[ToolChoice(mode=ToolChoice.MODE_TOOL, name=tool.function.name) for tool in chat.tools],
    ]
    formats = [
        ResponseFormat(type=ResponseFormat.TYPE_TEXT),
        ResponseFormat(type=ResponseFormat.TYPE_JSON_OBJECT),
        ResponseFormat(type=ResponseFormat.TYPE_JSON_SCHEMA, name="s", schema_json='{ "a":1}', strict=True),
        ResponseFormat(type=ResponseFormat.TYPE_JSON_SCHEMA, name="s", description="d"),
    ]
    reasonings = [
        Reasoning(mode=Reasoning.MODE_ENABLED, budget_tokens=100, display="omitted"),
        Reasoning(mode=Reasoning.MODE_ENABLED, effort="high"),
        Reasoning(mode=Reasoning.MODE_DISABLED),
        Reasoning(mode=Reasoning.MODE_DISABLED, effort="none"),
        Reasoning(effort="minimal"),
    ]
    for field, values in (("tool_choice", choices), ("response_format", formats), ("reasoning", reasonings)):
        value = draw(maybe(st.sampled_from(values)))
        if value is not None:
            getattr(chat, field).CopyFrom(value)


def without_empty(chat: Chat) -> Chat:
    """Presence of an empty `sampling` says nothing."""
    if not chat.sampling.ByteSize():
        chat.ClearField("sampling")
    return chat


@settings(max_examples=150, deadline=None)
@given(chats())
def test_a_chat_survives(chat: Chat) -> None:
    written = DIALECT.write_request(chat, "m", QUIRKS)
    assert without_empty(DIALECT.read_request(written.body)) == without_empty(chat)
    assert written.warnings == ()


@settings(max_examples=100, deadline=None)
@given(chats())
def test_a_growing_conversation_keeps_its_prefix(chat: Chat) -> None:
    """A provider caches by prefix: what was sent in turn N is sent again, byte for byte, in turn N+1."""
    before = b""
    for end, message in enumerate(chat.messages, start=1):
        # Calls are asked about with their results.
        if message.role == ROLE_ASSISTANT:
            continue
        turn = Chat(system=chat.system, messages=chat.messages[:end])
        body = DIALECT.write_request(turn, "m", QUIRKS).body
        assert body.startswith(before)
        before = body.removesuffix(b"]}")


BODIES: dict[str, dict[str, Any]] = {
    "a coding agent's turn": {
        "model": "gpt-5",
        "messages": [
            {"role": "developer", "content": "You are a coding agent."},
            {"role": "user", "content": [{"type": "text", "text": "Fix it.\n\u2603"}]},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "read", "arguments": '{"path": "a.py"}'}},
                    {"id": "call_2", "type": "function", "function": {"name": "read", "arguments": "{broken"}},
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "print(1)"},
            {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "no such file"}]},
            {"role": "user", "content": "go on"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "read",
                    "description": "Reads a file",
                    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
                    "strict": False,
                },
            },
            {"type": "custom", "custom": {"name": "patch", "format": {"type": "text"}}},
        ],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        "parallel_tool_calls": True,
        "reasoning_effort": "high",
        "max_completion_tokens": 1000,
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "store": False,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "verbosity": "low",
    },
    "an OpenRouter client": {
        "model": "anthropic/claude",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]},
            {"role": "user", "content": "hi", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            {
                "role": "assistant",
                "content": "a",
                "reasoning": "hm",
                "reasoning_details": [
                    {
                        "type": "reasoning.text",
                        "text": "hm",
                        "signature": "S",
                        "format": "anthropic-claude-v1",
                        "index": 0,
                    },
                    {"type": "reasoning.summary", "summary": "sum", "format": "openai-responses-v1", "index": 1},
                    {"type": "reasoning.encrypted", "data": "AA==", "id": "rs_1", "format": "openai-responses-v1"},
                    {"type": "reasoning.server_tool_call", "x": 1, "index": 3},
                ],
                "annotations": [{"type": "url_citation"}],
            },
            {"role": "user", "content": "more"},
        ],
        "reasoning": {"max_tokens": 100, "exclude": False},
        "provider": {"order": ["x"]},
        "usage": {"include": True},
        "top_k": 5,
        "transforms": [],
    },
    "a vLLM client": {
        "model": "q",
        "messages": [
            {"role": "system", "content": ""},
            {"role": "user", "content": ["bare", {"type": "text", "text": ""}]},
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1}, "x": 2}, "y": 3},
        "logit_bias": {"1": -1},
        "stop": "x",
        "seed": 1,
        "guided_regex": "a|b",
        "min_p": 0.1,
    },
    "the deprecated functions": {
        "model": "gpt-4",
        "messages": [
            {"role": "user", "content": "hi", "name": "ann"},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"},
        ],
        "functions": [{"name": "f", "parameters": {"type": "object", "properties": {}}, "x": 1}],
        "function_call": "auto",
    },
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_survives(name: str) -> None:
    chat = DIALECT.read_request(json.dumps(BODIES[name]).encode())
    quirks = QUIRKS if "reasoning" in BODIES[name] else replace(QUIRKS, reasoning_field="reasoning_effort")
    written = DIALECT.write_request(chat, "m", quirks)
    assert DIALECT.read_request(written.body) == chat
    assert written.warnings == ()


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(BODIES)), st.data())
def test_a_damaged_body_is_refused_or_written(name: str, data: st.DataObject) -> None:
    """A client's mistake is never more than that: what can be read can be written."""
    body = json.dumps(BODIES[name]).encode()
    start = data.draw(st.integers(0, len(body) - 1))
    end = data.draw(st.integers(start, min(len(body), start + 8)))
    piece = data.draw(st.binary(max_size=4) | st.sampled_from([b"null", b"{}", b"[]", b"1e999", b'"', rb"\ud800"]))
    try:
        chat = DIALECT.read_request(body[:start] + piece + body[end:])
    except InvalidRequest:
        return
    for quirks in (QUIRKS, OpenAIChatQuirks()):
        written = DIALECT.write_request(chat, "m", quirks).body
        assert json.loads(written)["model"] == "m"
        assert DIALECT.read_request(written).stream == chat.stream
