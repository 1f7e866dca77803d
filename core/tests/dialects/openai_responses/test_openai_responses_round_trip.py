"""What is written is read back as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from patchbay.canonical import (
    ROLE_ASSISTANT,
    ROLE_DEVELOPER,
    ROLE_SYSTEM,
    ROLE_USER,
    Audio,
    Block,
    Chat,
    CustomTool,
    Document,
    FunctionTool,
    Image,
    Message,
    Opaque,
    Reasoning,
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
from patchbay.dialects.openai_responses._quirks import CHATGPT, OpenAIResponsesQuirks
from patchbay.dialects.openai_responses._read_request import read_request
from patchbay.dialects.openai_responses._write_request import write_request
from patchbay.errors import InvalidRequest

QUIRKS = OpenAIResponsesQuirks()

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
words = st.text("abcdefgh_-", min_size=1, max_size=8)
objects = st.dictionaries(words.map("x_".__add__), st.integers() | texts | st.lists(st.booleans()), max_size=2)


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def maybe(strategy: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.none() | strategy


def extended(value: Any, extension: object) -> Any:
    if extension:
        value.extensions["openai_responses"] = compact(extension)
    return value


def noted(block: Block, item: object, more: dict[str, Any]) -> Block:
    """The first block of an item."""
    return extended(block, {"item": item, **more})


text_blocks = st.builds(lambda text, rest: extended(Block(text=Text(text=text)), rest), texts, objects)
sources = st.builds(Source, base64=st.sampled_from(["AA==", "Zm9v"]), media_type=st.just("image/png"))
urls = st.builds(Source, url=words.map("https://x/".__add__))
files = st.builds(Source, file_id=words)
media = st.one_of(
    st.builds(lambda s, d: Block(image=Image(source=s, detail=d)), sources | urls | files, maybe(st.just("low"))),
    st.builds(lambda f: Block(audio=Audio(base64="AA==", format=f)), st.sampled_from(["wav", "mp3"])),
    st.builds(lambda s, t: Block(document=Document(source=s, title=t)), sources | urls | files, words),
)
parts = words.map(
    lambda word: extended(
        Block(opaque=Opaque(dialect="openai_responses", json=compact({"type": "x_" + word}))), {"part": True}
    )
)
user_parts = st.lists(text_blocks | media | parts, max_size=3)


@st.composite
def assistant_message(draw: st.DrawFn) -> Message:
    """Items in a row: reasoning, text, and calls; opaque ones between them."""
    message = Message(role=ROLE_ASSISTANT)
    for kind in draw(st.lists(st.sampled_from(["thinking", "text", "refusal", "opaque"]), max_size=4)):
        match kind:
            case "thinking":
                text, rest = draw(texts.map(str.strip)), {"id": "rs_1", **draw(objects)}
                summary = [{"type": "summary_text", "text": text}]
                block = Block(thinking=Thinking(text=text, signature="gAAAA" + draw(words)))
                message.blocks.append(noted(block, {**rest, "summary": summary} if text else rest, {}))
            case "opaque":
                opaque = Opaque(dialect="openai_responses", json=compact({"type": "x_call", **draw(objects)}))
                message.blocks.append(Block(opaque=opaque))
            case _:
                text = draw(texts)
                block = Block(refusal=Refusal(text=text)) if kind == "refusal" else Block(text=Text(text=text))
                rest = draw(st.fixed_dictionaries({}, optional={"id": words.map("msg_".__add__), "phase": words}))
                message.blocks.extend([noted(block, rest, draw(objects)), *draw(st.lists(text_blocks, max_size=1))])
    return message


def call(number: int, is_text: bool, namespace: str, name: str, text: str, rest: dict[str, Any]) -> Block:
    use = ToolUse(id=f"call_{number}", name=name, namespace=namespace)
    if is_text:
        use.text_input = text
    else:
        use.input_json = text or "{}"
    block = Block(tool_use=use)
    return noted(block, rest, {}) if rest else block


@st.composite
def results(draw: st.DrawFn, calls: list[Block]) -> Message:
    message = Message(role=ROLE_USER)
    for block in calls:
        said = draw(st.lists(text_blocks | media.filter(lambda b: not b.HasField("audio")), max_size=2))
        rest: dict[str, Any] = {}
        if block.tool_use.HasField("text_input"):
            rest["type"] = "custom_tool_call_output"
        is_string = not said or (len(said) == 1 and said[0].text.text and not said[0].extensions)
        if len(said) < 2 and not is_string:
            rest["output"] = []
        result = Block(tool_result=ToolResult(tool_use_id=block.tool_use.id, blocks=said))
        message.blocks.append(noted(result, rest, {}) if rest else result)
    return message


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    found: list[Message] = []
    number = 0
    for kind in draw(st.lists(st.sampled_from(["user", "assistant", "system"]), max_size=4)):
        match kind:
            case "user":
                message = Message(role=ROLE_USER, blocks=draw(user_parts))
                found.append(extended(message, draw(st.sampled_from([None, {"item": {"id": "msg_1"}}]))))
            case "system" if found:
                role = draw(st.sampled_from([ROLE_SYSTEM, ROLE_DEVELOPER]))
                found.append(Message(role=role, blocks=draw(st.lists(text_blocks, min_size=1, max_size=2))))
            case "assistant" if not found or found[-1].role != ROLE_ASSISTANT:
                message = draw(assistant_message())
                rest = st.sampled_from([{}, {"status": "completed"}])
                calls = [
                    draw(st.builds(call, st.just(number + n), st.booleans(), st.just("ns"), words, texts, rest))
                    for n in range(draw(st.integers(0, 2)))
                ]
                number += len(calls)
                message.blocks.extend(calls)
                found += [message] if message.blocks else []
                found += [draw(results(calls))] if calls else []
    return found


functions = st.builds(
    lambda n, d, rest: extended(
        Tool(function=FunctionTool(name=n, description=d, input_schema_json='{"type":"object", "properties":{}}')),
        {**rest, "strict": None},
    ),
    words,
    maybe(texts),
    objects,
)
bare_functions = st.builds(
    lambda n, s: extended(Tool(function=FunctionTool(name=n, strict=s)), {"parameters": None}), words, st.booleans()
)
customs = st.builds(
    lambda n, d, f: Tool(custom=CustomTool(name=n, description=d, format_json=f)),
    words,
    maybe(texts),
    maybe(st.just('{"type":"text"}')),
)
opaques = words.map(
    lambda word: Tool(opaque=Opaque(dialect="openai_responses", json=compact({"type": "x_" + word, "a": 1.5})))
)


@st.composite
def tools(draw: st.DrawFn) -> tuple[list[Tool], dict[str, str]]:
    found = draw(st.lists(functions | bare_functions | customs | opaques, max_size=3))
    namespaces = {}
    for name in draw(st.lists(words, max_size=2, unique=True)):
        namespaces[name] = draw(texts)
        for tool in draw(st.lists(functions | customs, min_size=1, max_size=2)):
            (tool.function if tool.HasField("function") else tool.custom).namespace = name
            found.append(tool)
    return found, namespaces


@st.composite
def chats(draw: st.DrawFn) -> Chat:
    offered, namespaces = draw(tools())
    numbers = st.floats(-2, 2).filter(lambda number: number != 1)
    chat = Chat(
        messages=draw(conversations()),
        tools=offered,
        namespaces=namespaces,
        sampling=Sampling(
            max_tokens=draw(maybe(st.integers(16, 2**63 - 1))),
            temperature=draw(maybe(numbers)),
            top_p=draw(maybe(numbers)),
        ),
        user=draw(maybe(texts)),
        metadata=draw(st.dictionaries(words, texts, max_size=2)),
        service_tier=draw(maybe(words)),
        stream=draw(st.booleans()),
    )
    chat.include_usage = chat.stream
    if draw(st.booleans()):
        chat.sampling.MergeFrom(Sampling(logprobs=True, top_logprobs=draw(maybe(st.integers(0, 20)))))
    if draw(st.booleans()):
        chat.system.append(extended(Block(text=Text(text=draw(texts.filter(bool)))), {"instructions": True}))
    for role in draw(st.lists(st.sampled_from(["system", "developer"]), max_size=2)):
        chat.system.append(noted(draw(st.builds(lambda t: Block(text=Text(text=t)), texts)), {"role": role}, {}))
        chat.system.extend(draw(st.lists(text_blocks, max_size=1)))
    extension: dict[str, Any] = {"store": draw(st.booleans()), **draw(objects)}
    _add_choices(draw, chat, extension)
    return extended(chat, extension)


def _add_choices(draw: st.DrawFn, chat: Chat, extension: dict[str, Any]) -> None:
    own = [tool.function for tool in chat.tools if tool.HasField("function")]
    choices = [
        ToolChoice(mode=ToolChoice.MODE_AUTO),
        ToolChoice(mode=ToolChoice.MODE_NONE),
        ToolChoice(mode=ToolChoice.MODE_ANY),
        ToolChoice(opaque=Opaque(dialect="openai_responses", json='{"type":"allowed_tools","mode":"auto"}')),
        *[ToolChoice(mode=ToolChoice.MODE_TOOL, name=tool.name, namespace=tool.namespace) for tool in own],
    ]
    formats = [
        ResponseFormat(type=ResponseFormat.TYPE_TEXT),
        ResponseFormat(type=ResponseFormat.TYPE_JSON_OBJECT),
        ResponseFormat(type=ResponseFormat.TYPE_JSON_SCHEMA, name="s", schema_json='{ "a":1}', strict=True),
        ResponseFormat(type=ResponseFormat.TYPE_JSON_SCHEMA, name="s", schema_json="{}", description="d"),
    ]
    reasonings = [
        Reasoning(effort="high", display="summarized"),
        Reasoning(effort="minimal", display="omitted"),
        Reasoning(display="summarized"),
        Reasoning(mode=Reasoning.MODE_DISABLED, effort="none"),
    ]
    for field, values in (("tool_choice", choices), ("response_format", formats), ("reasoning", reasonings)):
        value = draw(maybe(st.sampled_from(values)))
        if value is not None and (chat.tools or field != "tool_choice"):
            getattr(chat, field).CopyFrom(value)
    if chat.tools:
        parallel = draw(maybe(st.booleans()))
        if parallel is not None:
            chat.parallel_tool_calls = parallel
    # Reasoning is asked for in the form that can be sent back.
    reasons = chat.HasField("reasoning") and chat.reasoning.effort != "none"
    if reasons or any(block.HasField("thinking") for message in chat.messages for block in message.blocks):
        extension["include"] = ["reasoning.encrypted_content"]
    if chat.reasoning.display == "summarized" and draw(st.booleans()):
        extension["reasoning"] = {"summary": "detailed"}


def normal(chat: Chat) -> Chat:
    """Presence of an empty `sampling` says nothing, nor the order of a JSON object's fields."""
    if not chat.sampling.ByteSize():
        chat.ClearField("sampling")
    holders = [chat, *chat.system, *chat.messages, *chat.tools]
    for message in chat.messages:
        for block in message.blocks:
            holders += [block, *block.tool_result.blocks]
    for holder in holders:
        for dialect, text in list(holder.extensions.items()):
            holder.extensions[dialect] = json.dumps(json.loads(text), sort_keys=True)
    return chat


# The first text drawn has hypothesis make its table of all characters.
SLOW_AT_FIRST = [HealthCheck.too_slow]


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW_AT_FIRST)
@given(chats())
def test_a_chat_survives(chat: Chat) -> None:
    written = write_request(chat, "m", QUIRKS)
    assert written.warnings == ()
    assert normal(read_request(written.body)) == normal(chat)


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW_AT_FIRST)
@given(chats(), st.sampled_from([QUIRKS, CHATGPT]))
def test_a_growing_conversation_keeps_its_prefix(chat: Chat, quirks: OpenAIResponsesQuirks) -> None:
    """A provider caches by prefix: what was sent in turn N is sent again, byte for byte, in turn N+1."""
    before = b""
    for end, message in enumerate(chat.messages, start=1):
        if message.role != ROLE_USER:
            continue
        turn = Chat(system=chat.system, tools=chat.tools, messages=chat.messages[:end])
        turn.reasoning.effort = "high"
        body = write_request(turn, "m", quirks).body
        assert body.startswith(before)
        before = body.removesuffix(b"]}")


CODEX: dict[str, Any] = json.loads(Path(__file__).with_name("codex.json").read_text())
BODIES: dict[str, dict[str, Any]] = {
    "codex": CODEX,
    "an SDK's": {
        "model": "gpt-5",
        "instructions": "Be kind.",
        "input": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "id": "msg_1", "type": "message"},
            {"role": "user", "content": []},
            {
                "type": "web_search_call",
                "id": "ws_1",
                "status": "completed",
                "action": {"type": "search", "query": "q", "n": 1.50},
            },
            {"type": "item_reference", "id": "msg_2"},
            {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot"}},
            {"type": "function_call_output", "call_id": "kept", "output": ""},
            {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAAC"},
            {"type": "compaction_trigger"},
        ],
        "tools": [
            {"type": "function", "name": "f", "parameters": None},
            {"type": "web_search_preview", "search_context_size": "low"},
            {"type": "mcp", "server_label": "l", "server_url": "https://x"},
            {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "x", "a": 1}], "y": 1},
            {"type": "namespace", "name": "empty", "description": "d", "tools": []},
        ],
        "tool_choice": {"type": "web_search_preview"},
        "previous_response_id": "resp_1",
        "truncation": "auto",
        "max_output_tokens": 100,
        "max_tool_calls": 3,
        "include": ["message.output_text.logprobs", "file_search_call.results"],
        "metadata": {"a": "b"},
        "text": {"format": {"type": "grammar", "definition": "g"}},
    },
    "a string": {"model": "m", "input": "hi", "store": True, "reasoning": {"effort": "none"}},
    "a stored prompt": {"model": "m", "prompt": {"id": "pmpt_1", "variables": {"a": "b"}}},
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_survives(name: str) -> None:
    chat = read_request(json.dumps(BODIES[name]).encode())
    written = write_request(chat, "m", QUIRKS)
    again = read_request(written.body)
    # That nothing is to be stored is said aloud.
    for one in (chat, again):
        one.extensions["openai_responses"] = json.dumps(
            {"store": False} | json.loads(one.extensions["openai_responses"])
        )
    assert normal(again) == normal(chat)
    assert written.warnings == ()


def test_every_item_and_field_of_codex_comes_back() -> None:
    body = json.loads(write_request(read_request(json.dumps(CODEX).encode()), CODEX["model"], QUIRKS).body)
    assert body == CODEX


def test_every_item_of_an_sdk_comes_back() -> None:
    before = BODIES["an SDK's"]
    body = json.loads(write_request(read_request(json.dumps(before).encode()), "gpt-5", QUIRKS).body)
    assert body["input"][1:] == [
        {**before["input"][1]},
        {"type": "message", "role": "user", "content": ""},
        *before["input"][3:],
    ]
    assert [tool["type"] for tool in body["tools"]] == [tool["type"] for tool in before["tools"]]
    assert body["tools"][1:] == before["tools"][1:]
    same = before.keys() - {"input", "tools", "include"}
    assert {name: body[name] for name in same} == {name: before[name] for name in same}


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(BODIES)), st.data())
def test_a_damaged_body_is_refused_or_written(name: str, data: st.DataObject) -> None:
    """A client's mistake is never more than that: what can be read can be written."""
    body = json.dumps(BODIES[name]).encode()
    start = data.draw(st.integers(0, len(body) - 1))
    end = data.draw(st.integers(start, min(len(body), start + 8)))
    piece = data.draw(st.binary(max_size=4) | st.sampled_from([b"null", b"{}", b"[]", b"1e999", b'"', rb"\ud800"]))
    try:
        chat = read_request(body[:start] + piece + body[end:])
    except InvalidRequest:
        return
    for quirks in (QUIRKS, CHATGPT):
        written = write_request(chat, "m", quirks).body
        assert json.loads(written)["model"] == "m"
        assert read_request(written).stream == (chat.stream or quirks.stream_only)
