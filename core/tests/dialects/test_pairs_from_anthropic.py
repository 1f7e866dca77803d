"""Answers of the Messages API for every client, as its official SDK has them in the end, streamed and whole."""

from __future__ import annotations

import json

import anthropic
import openai
import pytest

from patchbay.dialects.sse import cut_frames
from patchbay.dialects.tool_names import ClientTool
from patchbay.testing.dialect_pairs import (
    DIALECTS,
    Case,
    Json,
    answer,
    expected,
    seen,
    signed,
    text,
    tool_call,
    tool_use,
)

UPSTREAM = "anthropic"
CLIENTS = tuple(DIALECTS)


def event(kind: str, **fields: object) -> bytes:
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"), ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def message(*events: bytes, stop: str = "end_turn", usage: Json | None = None, **delta: object) -> list[bytes]:
    """A stream of the Messages API."""
    start: Json = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": []}
    start |= {"stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 25, "output_tokens": 1}}
    return [
        event("message_start", message=start),
        *events,
        event(
            "message_delta",
            delta={"stop_reason": stop, "stop_sequence": None} | delta,
            usage=usage or {"output_tokens": 9},
        ),
        event("message_stop"),
    ]


def block(index: int, start: Json, *deltas: Json) -> bytes:
    return b"".join(
        [
            event("content_block_start", index=index, content_block=start),
            *[event("content_block_delta", index=index, delta=delta) for delta in deltas],
            event("content_block_stop", index=index),
        ]
    )


def said(index: int, *pieces: str, **start: object) -> bytes:
    return block(
        index, {"type": "text", "text": ""} | start, *[{"type": "text_delta", "text": text} for text in pieces]
    )


def thought(index: int, text: str, signature: str) -> bytes:
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in (text[:2], text[2:]) if piece]
    return block(
        index,
        {"type": "thinking", "thinking": "", "signature": ""},
        *deltas,
        {"type": "signature_delta", "signature": signature},
    )


def called(index: int, call_id: str, name: str, *pieces: str, kind: str = "tool_use") -> bytes:
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *pieces)]
    return block(index, {"type": kind, "id": call_id, "name": name, "input": {}}, *deltas)


SEARCH: Json = {
    "type": "web_search_result_location",
    "cited_text": "born 1916",
    "url": "https://a",
    "title": "A",
    "encrypted_index": "Eo8B",
}
FOUND: Json = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
RAN: Json = {
    "type": "code_execution_tool_result",
    "tool_use_id": "srvtoolu_2",
    "content": {"type": "code_execution_result", "stdout": "1", "stderr": "", "return_code": 0, "content": []},
}
LONG = "x" * 50_000

CASES = [
    Case(
        "text",
        message(said(0, "Hé", "llo\n"), event("ping")),
        [text("Héllo\n")],
        "end_turn",
        {"content": "Héllo\n"},
        "stop",
    ),
    Case("nothing", message(), [], "end_turn", {"content": None}, "stop"),
    Case(
        "several signed thoughts, hidden ones, text between tool calls",
        message(
            thought(0, "first", "S1"),
            block(1, {"type": "redacted_thinking", "data": "AA=="}),
            said(2, "I look."),
            thought(3, "second", "S2"),
            called(4, "toolu_1", "f", '{"a"', ": 1}"),
            thought(5, "", "S3"),
            called(6, "toolu_2", "g"),
            said(7, "Bye."),
            stop="tool_use",
            usage={"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 5}},
        ),
        [
            {"type": "thinking", "thinking": "first", "signature": "S1"},
            {"type": "redacted_thinking", "data": "AA=="},
            text("I look."),
            {"type": "thinking", "thinking": "second", "signature": "S2"},
            tool_use("toolu_1", "f", {"a": 1}),
            {"type": "thinking", "thinking": "", "signature": "S3"},
            tool_use("toolu_2", "g", {}),
            text("Bye."),
        ],
        "tool_use",
        {
            "content": "I look.Bye.",
            "reasoning_content": "firstsecond",
            "reasoning_details": [
                signed("first", "S1", 0),
                {"type": "reasoning.encrypted", "data": "AA==", "format": "anthropic-claude-v1", "index": 1},
                signed("second", "S2", 2),
                signed("", "S3", 3),
            ],
            "tool_calls": [tool_call("toolu_1", "f", '{"a": 1}'), tool_call("toolu_2", "g", "{}")],
        },
        "tool_calls",
        usage=(25, 0, 0, 9, 5),
    ),
    Case(
        "a tool first, its input at its start",
        message(block(0, {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": "é😀"}}), stop="tool_use"),
        [tool_use("toolu_1", "f", {"a": "é😀"})],
        "tool_use",
        {"content": None, "tool_calls": [tool_call("toolu_1", "f", '{"a":"é😀"}')]},
        "tool_calls",
    ),
    Case(
        "what the provider ran itself is no call for the client",
        message(
            called(0, "srvtoolu_1", "web_search", '{"query":"S"}', kind="server_tool_use"),
            block(1, FOUND),
            block(
                2,
                {"type": "text", "text": "", "citations": []},
                {"type": "citations_delta", "citation": SEARCH},
                {"type": "text_delta", "text": "In 1916."},
            ),
            called(3, "srvtoolu_2", "code_execution", '{"code":"1"}', kind="server_tool_use"),
            block(4, RAN),
            said(5, " Done."),
        ),
        [
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "S"}},
            FOUND,
            text("In 1916.") | {"citations": [SEARCH]},
            {"type": "server_tool_use", "id": "srvtoolu_2", "name": "code_execution", "input": {"code": "1"}},
            RAN,
            text(" Done."),
        ],
        "end_turn",
        {"content": "In 1916. Done."},
        "stop",
    ),
    Case(
        "a pause after a call of the provider's own",
        message(called(0, "srvtoolu_1", "web_search", '{"query":"S"}', kind="server_tool_use"), stop="pause_turn"),
        [{"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "S"}}],
        "pause_turn",
        {"content": None},
        "stop",
    ),
    Case(
        "a limit", message(said(0, "One"), stop="max_tokens"), [text("One")], "max_tokens", {"content": "One"}, "length"
    ),
    Case(
        "a full window",
        message(said(0, "One"), stop="model_context_window_exceeded"),
        [text("One")],
        "model_context_window_exceeded",
        {"content": "One"},
        "length",
    ),
    Case(
        "a refusal", message(said(0, "I"), stop="refusal"), [text("I")], "refusal", {"content": "I"}, "content_filter"
    ),
    Case(
        "a reason of tomorrow",
        message(said(0, "I"), stop="bored"),
        [text("I")],
        "end_turn",
        {"content": "I"},
        "stop",
    ),
    Case(
        "a cache, counted at the start and again at the end",
        [
            event(
                "message_start",
                message={
                    "id": "msg_1",
                    "type": "message",
                    "role": "assistant",
                    "model": "claude",
                    "content": [],
                    "usage": {"input_tokens": 3, "cache_creation_input_tokens": 7, "cache_read_input_tokens": 20},
                },
            ),
            *message(said(0, "Hi"), usage={"output_tokens": 9, "cache_read_input_tokens": 21})[1:],
        ],
        [text("Hi")],
        "end_turn",
        {"content": "Hi"},
        "stop",
        usage=(3, 7, 21, 9, 0),
    ),
    Case(
        "fields, deltas and events of tomorrow",
        message(
            event("tomorrow", index=0, delta=5),
            said(0, "Hi", future={"a": 1}),
            event("content_block_delta", index=0, delta={"type": "future_delta", "x": 1}),
            block(1, {"type": "future_block", "x": 1}, {"type": "future_delta", "y": 2}),
        ),
        [text("Hi"), {"type": "future_block", "x": 1, "y": 2}],
        "end_turn",
        {"content": "Hi"},
        "stop",
    ),
    Case(
        "a huge input, and text in surrogate pairs",
        message(
            b"event: content_block_start\ndata: "
            rb'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"\ud83d\ude00"}}'
            b"\n\n",
            rb'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\ud83d"}}' + b"\n\n",
            rb'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\ude00b"}}' + b"\n\n",
            event("content_block_stop", index=0),
            called(1, "toolu_1", "f", '{"a":"', *([LONG] * 4), '"}'),
            stop="tool_use",
        ),
        [text("😀a😀b"), tool_use("toolu_1", "f", {"a": LONG * 4})],
        "tool_use",
        {"content": "😀a😀b", "tool_calls": [tool_call("toolu_1", "f", '{"a":"' + LONG * 4 + '"}')]},
        "tool_calls",
    ),
]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_sdk_has_all_of_the_answer(case: Case, client: str, stream: bool) -> None:
    got = answer(UPSTREAM, case.stream, client, stream=stream)
    assert seen(client, got) == expected(client, case)
    # An id of the Responses API has a prefix of its own.
    assert got["id"] == ("resp_fallback" if client == "openai_responses" else "msg_1")


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_sdk_raises_for_an_answer_that_breaks_off(case: Case, client: str, stream: bool) -> None:
    frames = cut_frames(b"".join(case.stream))
    whole = len(frames)
    for at in range(whole):
        with pytest.raises((anthropic.APIError, openai.APIError)):
            answer(UPSTREAM, frames[:at], client, stream=stream)


BEGUN = message(said(0, "Hi"))[:2]
ERRORS = [
    (event("error", error={"type": "overloaded_error", "message": "Overloaded"}), 529, 529),
    (event("error", error={"type": "rate_limit_error", "message": "Slow down"}), 429, 429),
    (event("error", error={"type": "api_error", "message": "Oh"}), 500, 500),
    (event("error", error={"type": "error_of_tomorrow", "message": "Oh"}), 500, 500),
]


@pytest.mark.parametrize("begun", [False, True], ids=["at once", "after text"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("frame", "anthropic_status", "openai_status"), ERRORS)
def test_the_sdk_raises_for_an_error_inside_the_answer(
    frame: bytes, anthropic_status: int, openai_status: int, client: str, begun: bool
) -> None:
    stream = [*(BEGUN if begun else ()), frame]
    with pytest.raises((anthropic.APIError, openai.APIError)):
        answer(UPSTREAM, stream, client, stream=True)
    with pytest.raises((anthropic.APIStatusError, openai.APIStatusError)) as raised:
        answer(UPSTREAM, stream, client, stream=False)
    assert raised.value.status_code == (anthropic_status if client == "anthropic" else openai_status)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_custom_tool_that_was_wrapped_is_called_as_one(stream: bool) -> None:
    names = {"ns__exec": ClientTool("exec", "ns", is_wrapped=True)}
    events = message(called(0, "toolu_1", "ns__exec", '{"input":', '"js()"}'), stop="tool_use")
    (item,) = answer(UPSTREAM, events, "openai_responses", stream=stream, names=names)["output"]
    assert {name: item.get(name) for name in ("type", "call_id", "namespace", "name", "input")} == {
        "type": "custom_tool_call",
        "call_id": "toolu_1",
        "namespace": "ns",
        "name": "exec",
        "input": "js()",
    }
