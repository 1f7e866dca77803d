"""What reaches the upstream and comes back: byte for byte in the same dialect, whole bodies in the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from conftest import HOUSE_KEY
from ways import PIXEL
from wire_tap import WireTap

from patchbay.testing.cluster import Cluster
from patchbay_standin import (
    ErrorEvent,
    RedactedThinking,
    Script,
    ServerToolUse,
    Text,
    Thinking,
    ToolCall,
    Usage,
    write_script,
)
from patchbay_standin.script import MODEL_PREFIX

Body = dict[str, Any]

MESSAGES = "/claude/v1/messages"
COMPLETIONS = "/v1/chat/completions"

_HELLO = b'[{"role":"user","content":"Hello"}]'

# Bodies of both dialects that no serialiser would write so again; nothing of them is to change.
_ODD = {
    "white space": b'\n {\t"messages" :[ {"content":"Hello","role" : "user"} ],\r\n"max_tokens":  100,'
    b'"model":"standin" }\r\n \n',
    "key order": b'{"z":1,"model":"standin","a":{"y":2,"b":3},"max_tokens":100,"messages":' + _HELLO + b"}",
    "escapes": b'{"model":"standin","max_tokens":100,"messages":[{"role":"user","content":'
    rb'"caf\u00e9 \/ \ud83d\ude00 \u2028 \u0041 \b\f"}]}',
    "utf-8": '{"model":"standin","max_tokens":9,"messages":[{"role":"user","content":"café 😀 \u2028 漢"}]}'.encode(),
    "escaped names": rb'{"m\u006fdel":"standin","max_tokens":100,"messages":[{"role":"user","content":"Hello"}]}',
    "numbers": b'{"model":"standin","max_tokens":100,"messages":'
    + _HELLO
    + b',"x":[1.0,1E2,-0.0,0.1000000000000000055,'
    b"123456789012345678901234567890,1e-400]}",
    "a number that is too large": b'{"model":"standin","x":1e400,"max_tokens":100,"messages":' + _HELLO + b"}",
    "repeated keys": b'{"model":"other","max_tokens":1,"x":1,"x":2,"messages":'
    + _HELLO
    + b',"max_tokens":90,"model":"standin"}',
    "model inside": b'{"tools":[],"x":{"model":"standin"},"messages":[{"role":"user","content":'
    rb'"{\"model\":\"standin\"}"}],"max_tokens":100,"model":"standin"}',
    "null": b'{"model":"standin","max_tokens":100,"stop_sequences":null,"stop":null,"stream":null,"messages":'
    + _HELLO
    + b"}",
    "unknown and deep": b'{"model":"standin","max_tokens":100,"x":'
    + b"[" * 300
    + b"]" * 300
    + b',"messages":'
    + _HELLO
    + b"}",
}


@pytest.fixture
def client(house: Cluster) -> Iterator[httpx.Client]:
    headers = {"x-api-key": HOUSE_KEY, "content-type": "application/json"}
    with httpx.Client(base_url=house.url, headers=headers, timeout=30) as open_client:
        yield open_client


def streamed(body: bytes) -> bytes:
    """The same body, asking for a stream, and for its usage, so that nothing has to be added."""
    return body.replace(b'"max_tokens"', b'"stream":true,"stream_options":{"include_usage":true},"max_tokens"', 1)


@pytest.mark.parametrize("path", [MESSAGES, COMPLETIONS])
@pytest.mark.parametrize("name", sorted(_ODD))
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_odd_body_arrives_byte_for_byte(
    client: httpx.Client, tap: WireTap, path: str, name: str, stream: bool
) -> None:
    body = streamed(_ODD[name]) if stream else _ODD[name]

    answer = client.post(path, content=body)

    exchange = tap.only()
    assert exchange.request.body == body
    assert answer.content == exchange.answer.body
    assert answer.headers["content-type"].partition(";")[0] == exchange.answer.headers["content-type"].partition(";")[0]


@pytest.mark.parametrize("path", [MESSAGES, COMPLETIONS])
@pytest.mark.parametrize("name", sorted(_ODD))
def test_an_overridden_model_changes_nothing_else(client: httpx.Client, tap: WireTap, path: str, name: str) -> None:
    backend = b"house-anthropic" if path == MESSAGES else b"house-openai"
    # The name as it is in the text: the last one counts, and those inside other fields do not.
    before, place, after = _ODD[name].rpartition(b'del":"standin"')
    body = before + b'del":"' + backend + b'/standin"' + after
    assert place

    answer = client.post(path.removeprefix("/claude"), content=body)

    exchange = tap.only()
    assert exchange.request.body == _ODD[name]
    assert answer.content == exchange.answer.body


@pytest.mark.parametrize("path", [MESSAGES, COMPLETIONS])
def test_a_cut_emoji_is_mended_and_nothing_else(client: httpx.Client, tap: WireTap, path: str) -> None:
    text = rb"cut \ud83d, whole \ud83d\ude00"
    body = b'{"model":"standin",  "max_tokens":100,"messages":[{"role":"user","content":"' + text + b'"}]}'
    assert client.post(path, content=body).status_code == 200
    assert tap.only().request.body == body.replace(rb"cut \ud83d,", rb"cut \ufffd,")


def test_a_large_body_arrives_byte_for_byte(client: httpx.Client, tap: WireTap) -> None:
    turns = ",".join(
        f'{{"role": "{role}", "content": "{index} {"text " * 2000}"}}'
        for index, role in enumerate(["user", "assistant"] * 150)
    )
    body = f'{{"model":"standin", "max_tokens":9, "messages":[{turns},{{"role":"user","content":"end"}}]}}'.encode()
    assert len(body) > 3_000_000

    answer = client.post(MESSAGES, content=body)

    assert answer.status_code == 200
    assert tap.only().request.body == body


_USAGE = Usage(input=120, cache_read=50, cache_write=20, output=33, reasoning=7)
_TEXT = 'A text of some words, with "quotes", a \\ and\na line break: 漢字 😀.'
_BLOCKS = [
    Thinking(text="First this, then that."),
    Text(text=_TEXT),
    ToolCall(name="get_weather", input={"city": "Lisbon", "nested": {"a": [1, 2.5, None]}}),
    ToolCall(name="get_time", input={"zone": "UTC"}),
]
_ANSWERS = {
    "text": Script(text=_TEXT, usage=_USAGE),
    "blocks": Script(blocks=[*_BLOCKS], usage=_USAGE),
    "interleaved": Script(blocks=[*_BLOCKS], interleave_tools=True),
    "only a tool": Script(blocks=[ToolCall(name="get_time", input={})]),
    "redacted": Script(blocks=[RedactedThinking(data="c2VjcmV0"), Text(text="Done.")]),
    "server tool": Script(
        blocks=[
            ServerToolUse(input={"query": "x"}, result=[{"type": "web_search_result", "url": "u"}]),
            Text(text="So."),
        ]
    ),
    "details": Script(blocks=[*_BLOCKS], reasoning_field="reasoning_details"),
    "one write each": Script(deltas=50, separate_sends=True),
    "pings": Script(deltas=4, delta_delay_ms=60, keepalive_ms=20),
    "usage everywhere": Script(text="One two three.", usage_on="each_chunk"),
    "usage at the end": Script(text="One two three.", usage_on="last_chunk"),
    "large": Script(huge=2),
    "large frames": Script(huge=2, delta_size=300_000),
    "error": Script(deltas=20, error_event=ErrorEvent(after=10, status=500)),
    "paused": Script(text="Wait.", stop_reason="pause_turn"),
}


def scripted(script: Script, **more: Any) -> bytes:
    model = MODEL_PREFIX + write_script(script).decode()
    messages = [{"role": "user", "content": "Hello"}]
    return json.dumps({"model": model, "max_tokens": 100, "messages": messages, **more}).encode()


@pytest.mark.parametrize("path", [MESSAGES, COMPLETIONS])
@pytest.mark.parametrize("name", sorted(_ANSWERS))
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_comes_back_byte_for_byte(
    client: httpx.Client, tap: WireTap, path: str, name: str, stream: bool
) -> None:
    more: Body = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}

    answer = client.post(path, content=scripted(_ANSWERS[name], **more))

    exchange = tap.exchanges()[-1]
    assert answer.content == exchange.answer.body
    if name == "error" and not stream:
        assert answer.status_code == 500
    else:
        assert answer.status_code == 200


@pytest.mark.parametrize("options", [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}])
def test_a_usage_report_that_nobody_asked_for_is_kept_back(client: httpx.Client, tap: WireTap, options: Body) -> None:
    answer = client.post(COMPLETIONS, content=scripted(Script(text=_TEXT, usage=_USAGE), stream=True, n=2, **options))

    exchange = tap.only()
    assert json.loads(exchange.request.body)["stream_options"] == {"include_usage": True}
    frames = exchange.answer.body.split(b"\n\n")
    report = [frame for frame in frames if b'"choices":[]' in frame]
    assert len(report) == 1
    assert answer.content == exchange.answer.body.replace(report[0] + b"\n\n", b"")


# A turn of a coding agent, as Claude Code sends it, shortened.
_SCHEMA_TEXT = (
    '{"$schema": "https://json-schema.org/draft/2020-12/schema", "type":"object","properties": '
    '{"file_path":{"type":"string","description":"The \\u2713 path"},"limit":{"type":"integer","exclusiveMinimum":0,'
    '"maximum":9007199254740991, "default": 1.0}},"required":["file_path"],"additionalProperties":false}'
)
_INPUT_TEXT = '{"file_path": "/tmp/a.txt",  "limit": 10.0}'
_AGENT_TURN = (
    '{"model":"house-openai/standin","max_tokens":32000,"stream":true,'
    '"system":[{"type":"text","text":"x-header: cc_version=2;"},'
    '{"type":"text","text":"You are an agent.","cache_control":{"type":"ephemeral"}}],'
    '"tools":[{"name":"Read","description":"Reads a file.","input_schema":' + _SCHEMA_TEXT + "},"
    '{"name":"Bash","description":"Runs a command.","input_schema":{"type":"object","properties":{}},'
    '"cache_control":{"type":"ephemeral","ttl":"1h"}}],'
    '"metadata":{"user_id":"user_1"},"thinking":{"type":"adaptive"},"output_config":{"effort":"high"},'
    '"context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]},'
    '"messages":[{"role":"user","content":[{"type":"text","text":"<system-reminder>\\nNotes\\n</system-reminder>"},'
    '{"type":"text","text":"Read the file."}]},'
    '{"role":"assistant","content":[{"type":"thinking","thinking":"I will read it.","signature":"c2ln"},'
    '{"type":"text","text":"Reading."},'
    '{"type":"tool_use","id":"toolu_1","name":"Read","input":' + _INPUT_TEXT + "},"
    '{"type":"tool_use","id":"toolu_2","name":"Bash","input":{}}]},'
    '{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":[{"type":"text","text":"1\\tone"},'
    '{"type":"text","text":"2\\ttwo"}]},'
    '{"type":"tool_result","tool_use_id":"toolu_2","is_error":true,"content":"exit 1",'
    '"cache_control":{"type":"ephemeral"}},'
    '{"type":"text","text":"Go on."}]}]}'
)
_AGENT_TURN_FOR_OPENAI: Body = {
    "model": "standin",
    "messages": [
        {
            "role": "system",
            "content": [
                {"type": "text", "text": "x-header: cc_version=2;"},
                {"type": "text", "text": "You are an agent."},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>\nNotes\n</system-reminder>"},
                {"type": "text", "text": "Read the file."},
            ],
        },
        {
            "role": "assistant",
            "content": "Reading.",
            "tool_calls": [
                {"id": "toolu_1", "type": "function", "function": {"name": "Read", "arguments": _INPUT_TEXT}},
                {"id": "toolu_2", "type": "function", "function": {"name": "Bash", "arguments": "{}"}},
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "toolu_1",
            "content": [{"type": "text", "text": "1\tone"}, {"type": "text", "text": "2\ttwo"}],
        },
        {"role": "tool", "tool_call_id": "toolu_2", "content": "exit 1"},
        {"role": "user", "content": "Go on."},
    ],
    "tools": [
        {
            "type": "function",
            "function": {"name": "Read", "description": "Reads a file.", "parameters": json.loads(_SCHEMA_TEXT)},
        },
        {
            "type": "function",
            "function": {
                "name": "Bash",
                "description": "Runs a command.",
                "parameters": {"type": "object", "properties": {}},
            },
        },
    ],
    "max_completion_tokens": 32000,
    "reasoning_effort": "high",
    "user": "user_1",
    "stream": True,
    "stream_options": {"include_usage": True},
}

# A turn of an editor's assistant, as clients of Chat Completions send it.
_EDITOR_TURN: Body = {
    "model": "house-anthropic/standin",
    "stream": True,
    "stream_options": {"include_usage": True},
    "messages": [
        {"role": "system", "content": "You edit code."},
        {"role": "developer", "content": [{"type": "text", "text": "Answer in English."}]},
        {
            "role": "user",
            "name": "ann",
            "content": [
                {"type": "text", "text": "What is on this picture?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
            ],
        },
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "picture"}'}},
                {"id": "call_2", "type": "function", "function": {"name": "look", "arguments": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "a pixel"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "nothing"}]},
        {"role": "user", "content": "Which colour?"},
    ],
    "tools": [
        {"type": "function", "function": {"name": "look", "parameters": {"properties": {"at": {"type": "string"}}}}}
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "max_tokens": 2048,
    "temperature": 0.2,
    "stop": "END",
    "user": "ann@example.com",
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "n": 1,
    "store": False,
}
_EDITOR_TURN_FOR_ANTHROPIC: Body = {
    "model": "standin",
    "max_tokens": 2048,
    "stream": True,
    "temperature": 0.2,
    "stop_sequences": ["END"],
    "metadata": {"user_id": "ann@example.com"},
    "system": [{"type": "text", "text": "You edit code."}, {"type": "text", "text": "Answer in English."}],
    "tools": [{"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": False},
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is on this picture?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": "picture"}},
                {"type": "tool_use", "id": "call_2", "name": "look", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "a pixel"}]},
                {"type": "tool_result", "tool_use_id": "call_2", "content": [{"type": "text", "text": "nothing"}]},
            ],
        },
        {"role": "user", "content": [{"type": "text", "text": "Which colour?"}]},
    ],
}


def test_an_agents_turn_for_an_openai_upstream(client: httpx.Client, tap: WireTap) -> None:
    answer = client.post("/v1/messages", content=_AGENT_TURN.encode())

    assert answer.status_code == 200
    body = tap.only().request.body
    assert json.loads(body) == _AGENT_TURN_FOR_OPENAI
    # JSON that is only carried stays the text that the client wrote.
    assert b'"parameters":' + _SCHEMA_TEXT.encode() in body
    # All of what is left out is advice, of which nothing is said.
    assert "x-patchbay-warnings" not in answer.headers


def test_an_editors_turn_for_an_anthropic_upstream(client: httpx.Client, tap: WireTap) -> None:
    answer = client.post("/v1/chat/completions", content=json.dumps(_EDITOR_TURN).encode())

    assert answer.status_code == 200
    assert json.loads(tap.only().request.body) == _EDITOR_TURN_FOR_ANTHROPIC
    # Of what asks for nothing special (`store`, the penalties, `n`), nothing is said.
    assert answer.headers["x-patchbay-warnings"] == "; ".join(
        f"{name}: {name} is not supported by this backend and was left out" for name in ("name", "detail")
    )


def test_a_growing_conversation_keeps_its_prefix(client: httpx.Client, tap: WireTap) -> None:
    """A provider's prompt cache holds only what comes again byte for byte."""
    agent = json.loads(_AGENT_TURN)
    # Where the messages of the shorter conversation end: an Anthropic body ends with them, an OpenAI one goes on.
    cases = [("/v1/messages", "anthropic", agent, b'],"tools":'), (COMPLETIONS, "openai", _EDITOR_TURN, b"]}")]
    for path, dialect, shorter, end in cases:
        tap.reset()
        longer = {**shorter, "messages": [*shorter["messages"], *_more_turns(dialect)]}
        for body in (shorter, longer):
            assert client.post(path, json=body).status_code == 200
        first, second = (exchange.request.body for exchange in tap.exchanges())
        prefix = first[: first.rindex(end)]
        assert b'"messages":[' in prefix
        assert second.startswith(prefix)
        assert len(second) > len(first)


def _more_turns(dialect: str) -> list[Body]:
    text: Any = [{"type": "text", "text": "Done."}] if dialect == "anthropic" else "Done."
    return [{"role": "assistant", "content": text}, {"role": "user", "content": "Thanks. And now?"}]
