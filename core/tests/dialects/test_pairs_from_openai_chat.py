"""Answers of Chat Completions for every client, as its official SDK has them in the end, streamed and whole."""

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

UPSTREAM = "openai_chat"
CLIENTS = tuple(DIALECTS)


def chunk(delta: Json | None = None, finish: str | None = None, choice: int = 0, **more: object) -> bytes:
    entry: Json = {"index": choice, "delta": delta or {}, "finish_reason": finish}
    if "logprobs" in more:
        entry["logprobs"] = more.pop("logprobs")
    return raw_chunk({"choices": [entry]} | more)


def raw_chunk(fields: Json) -> bytes:
    head: Json = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "gpt"}
    return f"data: {json.dumps(head | fields, separators=(',', ':'))}\n\n".encode()


USAGE_CHUNK = raw_chunk({"choices": [], "usage": {"prompt_tokens": 25, "completion_tokens": 9, "total_tokens": 34}})
DONE = b"data: [DONE]\n\n"


def completion(*chunks: bytes, finish: str = "stop") -> list[bytes]:
    """A stream of Chat Completions."""
    return [chunk({"role": "assistant", "content": ""}), *chunks, chunk(finish=finish), USAGE_CHUNK, DONE]


def fragment(index: int, arguments: str, **first: str) -> Json:
    """A piece of a tool call; the first one has its `id` and `name`."""
    function = {"arguments": arguments} | ({"name": first["name"]} if first else {})
    return {"index": index, "function": function} | ({"id": first["id"], "type": "function"} if first else {})


def calls(*fragments: Json) -> bytes:
    return chunk({"tool_calls": list(fragments)})


URL_CITATION: Json = {
    "type": "url_citation",
    "url_citation": {"url": "https://a", "title": "A", "start_index": 0, "end_index": 2},
}
LOGPROBS: Json = {"content": [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}], "refusal": None}
LONG = "x" * 50_000

CASES = [
    Case(
        "text",
        completion(chunk({"content": "Hé"}), chunk({"content": "llo\n"})),
        [text("Héllo\n")],
        "end_turn",
        {"content": "Héllo\n"},
        "stop",
    ),
    Case("nothing", completion(), [], "end_turn", {"content": None}, "stop"),
    Case(
        "reasoning, interleaved calls of which one has no input, text after them",
        completion(
            chunk({"reasoning_content": "th"}),
            chunk({"reasoning_content": "ink", "tool_calls": []}),
            chunk({"content": "I look.", "reasoning_content": None}),
            calls(fragment(0, "", id="call_1", name="f"), fragment(1, "", id="call_2", name="g")),
            calls(fragment(0, '{"a"')),
            calls(fragment(1, '{"b":2}'), fragment(0, ": 1}")),
            calls(fragment(2, "", id="call_3", name="h")),
            chunk({"content": "Bye."}),
            finish="tool_calls",
        ),
        [
            {"type": "thinking", "thinking": "think", "signature": ""},
            text("I look."),
            tool_use("call_1", "f", {"a": 1}),
            tool_use("call_2", "g", {"b": 2}),
            tool_use("call_3", "h", {}),
            text("Bye."),
        ],
        "tool_use",
        {
            "content": "I look.Bye.",
            "reasoning_content": "think",
            "tool_calls": [
                tool_call("call_1", "f", '{"a": 1}'),
                tool_call("call_2", "g", '{"b":2}'),
                tool_call("call_3", "h", "{}"),
            ],
        },
        "tool_calls",
    ),
    Case(
        "a tool first, with the last of its input in the chunk that ends it",
        [
            calls(fragment(0, '{"a":', id="call_1", name="f")),
            chunk({"tool_calls": [fragment(0, "1}")]}, finish="tool_calls"),
            USAGE_CHUNK,
            DONE,
        ],
        [tool_use("call_1", "f", {"a": 1})],
        "tool_use",
        {"content": None, "tool_calls": [tool_call("call_1", "f", '{"a":1}')]},
        "tool_calls",
    ),
    Case(
        "signed and encrypted reasoning in several parts",
        completion(
            chunk({"reasoning": "a", "reasoning_details": [{"type": "reasoning.text", "text": "a", "index": 0}]}),
            chunk({"reasoning_details": [{"type": "reasoning.text", "signature": "S1", "index": 0}]}),
            chunk({"reasoning": "b", "reasoning_details": [{"type": "reasoning.text", "text": "b", "index": 1}]}),
            chunk({"reasoning_details": [{"type": "reasoning.text", "signature": "S2", "index": 1}]}),
            chunk(
                {
                    "reasoning_details": [
                        {"type": "reasoning.encrypted", "data": "AA==", "format": "anthropic-claude-v1", "index": 2}
                    ]
                }
            ),
            chunk({"content": "c"}),
        ),
        [
            {"type": "thinking", "thinking": "a", "signature": "S1"},
            {"type": "thinking", "thinking": "b", "signature": "S2"},
            {"type": "redacted_thinking", "data": "AA=="},
            text("c"),
        ],
        "end_turn",
        {
            "content": "c",
            "reasoning_content": "ab",
            "reasoning_details": [
                signed("a", "S1", 0),
                signed("b", "S2", 1),
                {"type": "reasoning.encrypted", "data": "AA==", "format": "anthropic-claude-v1", "index": 2},
            ],
        },
        "stop",
    ),
    Case(
        "a refusal in so many words",
        completion(chunk({"refusal": "I "}), chunk({"refusal": "can't."})),
        [text("I can't.")],
        "refusal",
        {"content": None, "refusal": "I can't."},
        "stop",
    ),
    Case(
        "log probabilities",
        completion(chunk({"content": "a"}, logprobs=LOGPROBS)),
        [text("a")],
        "end_turn",
        {"content": "a"},
        "stop",
        more={"logprobs": LOGPROBS},
    ),
    Case(
        "two answers",
        [
            chunk({"role": "assistant", "content": "a"}),
            chunk({"role": "assistant", "content": "b"}, choice=1),
            chunk({"content": "2"}, choice=1),
            chunk({"content": "1"}),
            chunk(finish="length", choice=1),
            chunk(finish="stop"),
            USAGE_CHUNK,
            DONE,
        ],
        [text("a1")],
        "end_turn",
        {"content": "a1"},
        "stop",
        more={"second": {"content": "b2", "finish_reason": "length"}},
    ),
    Case(
        "a limit",
        completion(chunk({"content": "a"}), finish="length"),
        [text("a")],
        "max_tokens",
        {"content": "a"},
        "length",
    ),
    Case(
        "a filter",
        completion(chunk({"content": "a"}), finish="content_filter"),
        [text("a")],
        "refusal",
        {"content": "a"},
        "content_filter",
    ),
    Case(
        "a reason of tomorrow",
        completion(chunk({"content": "a"}), finish="bored"),
        [text("a")],
        "end_turn",
        {"content": "a"},
        "stop",
    ),
    Case(
        "usage beside a choice, the last value of each field counting",
        [
            chunk({"content": "a"}, usage={"prompt_tokens": 25, "completion_tokens": 1, "total_tokens": 26}),
            chunk(
                finish="stop",
                usage={
                    "prompt_tokens": 30,
                    "completion_tokens": 9,
                    "total_tokens": 39,
                    "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 4},
                    "completion_tokens_details": {"reasoning_tokens": 5},
                },
            ),
            DONE,
        ],
        [text("a")],
        "end_turn",
        {"content": "a"},
        "stop",
        usage=(6, 4, 20, 9, 5),
    ),
    Case(
        "a citation after a tool call",
        completion(
            chunk({"content": "As A says."}),
            calls(fragment(0, "{}", id="call_1", name="f")),
            chunk({"annotations": [URL_CITATION]}),
            finish="tool_calls",
        ),
        [text("As A says."), tool_use("call_1", "f", {})],
        "tool_use",
        {
            "content": "As A says.",
            "tool_calls": [tool_call("call_1", "f", "{}")],
            "annotations": [URL_CITATION],
        },
        "tool_calls",
    ),
    Case(
        "fields, chunks and comments of tomorrow",
        [
            b": PROCESSING\n\n",
            b'event: future\ndata: {"x":1}\n\n',
            chunk({"role": "assistant", "content": "a", "future": [1]}, future={"x": 1}),
            raw_chunk({"choices": [{"index": 0, "delta": None, "finish_reason": None}]}),
            raw_chunk({"choices": [], "prompt_filter_results": []}),
            chunk({"content": "b"}, logprobs=[]),
            chunk({"content": None, "tool_calls": None, "function_call": None}),
            *completion()[1:],
        ],
        [text("ab")],
        "end_turn",
        {"content": "ab"},
        "stop",
    ),
    Case(
        "a huge input, and text in surrogate pairs",
        completion(
            raw_chunk({"choices": [{"index": 0, "delta": {"content": "a\ud83d"}}]}),
            raw_chunk({"choices": [{"index": 0, "delta": {"content": "\ude00b"}}]}),
            calls(fragment(0, '{"a":"', id="call_1", name="f")),
            *[calls(fragment(0, LONG)) for _ in range(4)],
            calls(fragment(0, '"}')),
            finish="tool_calls",
        ),
        [text("a😀b"), tool_use("call_1", "f", {"a": LONG * 4})],
        "tool_use",
        {"content": "a😀b", "tool_calls": [tool_call("call_1", "f", '{"a":"' + LONG * 4 + '"}')]},
        "tool_calls",
    ),
    Case(
        "inputs that are no objects",
        completion(
            calls(fragment(0, "[1,", id="call_1", name="f"), fragment(1, "nu", id="call_2", name="g")),
            calls(fragment(0, '"a"]'), fragment(1, "ll")),
            calls(fragment(2, " ", id="call_3", name="h")),
            finish="tool_calls",
        ),
        [
            tool_use("call_1", "f", {"arguments": '[1,"a"]'}),
            tool_use("call_2", "g", {}),
            tool_use("call_3", "h", {}),
        ],
        "tool_use",
        {
            "content": None,
            "tool_calls": [
                tool_call("call_1", "f", '[1,"a"]'),
                tool_call("call_2", "g", "null"),
                tool_call("call_3", "h", " "),
            ],
        },
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
    assert got["id"] == ("resp_fallback" if client == "openai_responses" else "chatcmpl-1")


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_sdk_raises_for_an_answer_that_breaks_off(case: Case, client: str, stream: bool) -> None:
    frames = cut_frames(b"".join(case.stream))
    whole = 1 + max(at for at, frame in enumerate(frames) if b'"finish_reason":"' in frame)
    for at in range(whole):
        with pytest.raises((anthropic.APIError, openai.APIError)):
            answer(UPSTREAM, frames[:at], client, stream=stream)


BEGUN = completion(chunk({"content": "Hi"}))[:2]


def test_an_empty_answer_that_ends_for_a_tool_call_is_an_error() -> None:
    """A client would wait for the call, or take the turn for done."""
    for client in CLIENTS:
        for stream in (True, False):
            with pytest.raises((anthropic.APIError, openai.APIError)):
                answer(UPSTREAM, completion(finish="tool_calls"), client, stream=stream)


ERRORS = [
    (raw_chunk({"error": {"message": "Oh", "type": "server_error", "code": None}}), 502, 502),
    (b'data: {"error":{"message":"Slow","type":"requests","code":"rate_limit_exceeded"}}\n\n', 429, 429),
    (b'event: error\ndata: {"message":"Oh","code":503}\n\n', 529, 503),
    (b'data: {"code":11101,"msg":"no"}\n\n', 400, 400),
    (b'data: {"choices":[{"index":0,"delta":{"tool_calls":{}}}]}\n\n', 502, 502),
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
    events = completion(
        calls(fragment(0, '{"input":', id="toolu_1", name="ns__exec")),
        calls(fragment(0, '"js()"}')),
        finish="tool_calls",
    )
    (item,) = answer(UPSTREAM, events, "openai_responses", stream=stream, names=names)["output"]
    assert {name: item.get(name) for name in ("type", "call_id", "namespace", "name", "input")} == {
        "type": "custom_tool_call",
        "call_id": "toolu_1",
        "namespace": "ns",
        "name": "exec",
        "input": "js()",
    }
