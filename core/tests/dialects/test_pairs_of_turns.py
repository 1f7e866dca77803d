"""Conversations that grow, of clients that send back what their SDK gave them, for each pair of dialects.

A provider caches by prefix: what was sent in turn N is sent again, byte for byte, in turn N+1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from patchbay.dialects import openai_chat
from patchbay.testing.dialect_pairs import DIALECTS, Json, answer
from patchbay.testing.request_pairs import check_request, write_request

GEMINI = replace(openai_chat.DIALECT.quirks, tool_extra_content=True, default_extra_content="{}")
PAIRS = [(client, upstream) for client in DIALECTS for upstream in DIALECTS]
LONG_NAME = "mcp__server__" + "tool_" * 20


def anthropic_stream(name: str, call_id: str) -> bytes:
    blocks: list[tuple[Json, Sequence[Json]]] = [
        (
            {"type": "thinking", "thinking": "", "signature": ""},
            [{"type": "thinking_delta", "thinking": "hm"}, {"type": "signature_delta", "signature": "EqQB"}],
        ),
        ({"type": "redacted_thinking", "data": "EmwK"}, []),
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": "I look.\n"}]),
        (
            {"type": "tool_use", "id": call_id, "name": name, "input": {}},
            [{"type": "input_json_delta", "partial_json": '{"a": [1.50, "é"]}'}],
        ),
        ({"type": "tool_use", "id": f"{call_id}b", "name": "f", "input": {}}, []),
    ]
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [], "usage": {}}
    events: list[Json] = [{"type": "message_start", "message": message}]
    for index, (start, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    events.append({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}})
    events.append({"type": "message_stop"})
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def openai_stream(name: str, call_id: str) -> bytes:
    def call(index: int, called: str, arguments: str) -> Json:
        function = {"name": called, "arguments": arguments}
        return {"index": index, "id": f"{call_id}{index}", "type": "function", "function": function}

    deltas: list[Json] = [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"content": "I look.\n"},
        {"tool_calls": [call(0, name, '{"a": [1.50, "é"]}')]},
        {"tool_calls": [call(1, "f", "")]},
    ]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    return b"".join(f"data: {json.dumps({'id': 'c', **chunk})}\n\n".encode() for chunk in chunks)


def responses_stream(name: str, call_id: str) -> bytes:
    def call(number: int, called: str, arguments: str) -> Json:
        item = {"type": "function_call", "id": f"fc_{call_id}{number}", "call_id": f"{call_id}{number}"}
        return item | {"name": called, "arguments": arguments, "status": "completed"}

    summary = [{"type": "summary_text", "text": "hm"}]
    text = {"type": "output_text", "text": "I look.\n", "annotations": []}
    output: list[Json] = [
        {"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": "gAAAAB"},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [text]},
        call(0, name, '{"a": [1.50, "é"]}'),
        call(1, "f", "{}"),
    ]
    events: list[Json] = [{"type": "response.created", "response": {"id": "resp_1", "model": "gpt", "output": []}}]
    events += [
        {"type": "response.output_item.done", "output_index": index, "item": item} for index, item in enumerate(output)
    ]
    usage = {"input_tokens": 5, "output_tokens": 9, "total_tokens": 14}
    response = {"id": "resp_1", "model": "gpt", "status": "completed", "output": output, "usage": usage}
    events.append({"type": "response.completed", "response": response})
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


STREAMS = {"anthropic": anthropic_stream, "openai_chat": openai_stream, "openai_responses": responses_stream}


def first_turn(client: str) -> Json:
    schema = {"type": "object", "properties": {"a": {"type": "array"}}}
    if client == "anthropic":
        return {
            "model": "m",
            "max_tokens": 4000,
            "system": [
                {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.329.abc; cch=0;"},
                {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}},
            ],
            "tools": [{"name": name, "input_schema": schema} for name in (LONG_NAME, "f")],
            "thinking": {"type": "enabled", "budget_tokens": 2000},
            "messages": [{"role": "user", "content": "hi"}],
        }
    if client == "openai_responses":
        tools = [{"type": "function", "name": name, "strict": False, "parameters": schema} for name in (LONG_NAME, "f")]
        return {
            "model": "m",
            "max_output_tokens": 4000,
            "reasoning": {"effort": "low", "summary": "auto"},
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "tools": tools,
            "input": [
                {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}
                for role, text in (("developer", "Be kind."), ("user", "hi"))
            ],
        }
    return {
        "model": "m",
        "max_tokens": 4000,
        "reasoning_effort": "low",
        "tools": [{"type": "function", "function": {"name": name, "parameters": schema}} for name in (LONG_NAME, "f")],
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
    }


def next_turn(client: str, body: Json, said: Json, number: int) -> Json:
    """The next request of a client that keeps what it was given, as the SDKs' own examples do."""
    if client == "anthropic":
        results = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": "r"}
            for block in said["content"]
            if block["type"] == "tool_use"
        ]
        # The line of attribution differs from request to request, and the mark is on the last message.
        system = [{"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.329.abc; cch={number};"}]
        results[-1] |= {"cache_control": {"type": "ephemeral"}}
        old = json.loads(json.dumps(body["messages"]).replace(', "cache_control": {"type": "ephemeral"}', ""))
        messages = [*old, {"role": "assistant", "content": said["content"]}, {"role": "user", "content": results}]
        return body | {"messages": messages, "system": [*system, *body["system"][1:]]}
    if client == "openai_responses":
        outputs = [
            {"type": "function_call_output", "call_id": item["call_id"], "output": "r"}
            for item in said["output"]
            if item["type"] == "function_call"
        ]
        return body | {"input": [*body["input"], *said["output"], *outputs]}
    message = said["choices"][0]["message"]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "r"} for call in message["tool_calls"]]
    return body | {"messages": [*body["messages"], message, *results]}


def prompt(upstream: str, body: bytes) -> bytes:
    """What the provider reads, in its order, up to the end of the last message."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    parts = [bytes(fields[name]) for name in ("tools", "system", "instructions", "messages", "input") if name in fields]
    # Marks move, and are no part of the text; nor to Anthropic is the line of attribution.
    text = b"".join(parts).removesuffix(b"]").replace(b',"cache_control":{"type":"ephemeral"}', b"")
    return re.sub(rb"cch=\d;", b"", text) if upstream == "anthropic" else text


@pytest.mark.parametrize("call_id", ["call_", "functions.bash:", "x" * 60], ids=["plain", "odd", "long"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_a_turn_begins_with_the_one_before(client: str, upstream: str, stream: bool, call_id: str) -> None:
    speak = STREAMS[upstream]
    body = first_turn(client)
    before = b""
    for number in range(4):
        written = write_request(client, upstream, body)
        tools = check_request(upstream, written)["tools"]
        assert written.warnings == ()
        now = prompt(upstream, written.body)
        assert now[: len(before)] == before
        assert len(now) > len(before)
        before = now
        # The upstream calls the tool by the name it was told; the client knows it by its own.
        told = tools[0].get("name") or tools[0]["function"]["name"]
        # As servers do that number the calls of each answer anew.
        said = answer(upstream, [speak(told, call_id)], client, stream=stream, names=written.names)
        assert LONG_NAME in json.dumps(said)
        body = next_turn(client, body, said, number)


@pytest.mark.parametrize(("client", "upstream"), [(client, "anthropic") for client in DIALECTS])
def test_signed_thinking_comes_back(client: str, upstream: str) -> None:
    """Signed and hidden thinking survive a client that echoes them, and keep the next step thinking."""
    body = first_turn(client)
    said = answer(upstream, [anthropic_stream("f", "toolu_1")], client, stream=True)
    sent = check_request(upstream, write_request(client, upstream, next_turn(client, body, said, 1)))
    assert sent["thinking"]["type"] == "enabled"
    thinking, hidden = sent["messages"][1]["content"][:2]
    assert thinking == {"type": "thinking", "thinking": "hm", "signature": "EqQB"}
    assert hidden == {"type": "redacted_thinking", "data": "EmwK"}


@pytest.mark.parametrize("client", DIALECTS)
def test_the_signature_of_a_call_comes_back(client: str) -> None:
    """Gemini signs its calls, and refuses one that comes back without."""
    signed: Json = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}, **signed}
    choices: list[Json] = [
        {"index": 0, "delta": {"role": "assistant", "tool_calls": [call]}},
        {"index": 0, "delta": {}, "finish_reason": "tool_calls"},
    ]
    stream = [f"data: {json.dumps({'id': 'c', 'choices': [choice]})}\n\n".encode() for choice in choices]
    said = answer("openai_chat", stream, client, stream=True)
    body = next_turn(client, first_turn(client), said, 1)
    chat = DIALECTS[client].read_request(json.dumps(body).encode())
    sent = json.loads(openai_chat.DIALECT.write_request(chat, "m", GEMINI).body)
    (called,) = (one for message in sent["messages"] for one in message.get("tool_calls", []))
    assert called["extra_content"] == signed["extra_content"]
