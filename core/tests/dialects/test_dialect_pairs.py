"""Answers of every upstream for every client, as the client's official SDK has them in the end, streamed and whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
import pytest

Json = dict[str, Any]
Answer = Callable[..., Json]

CLIENTS = ("anthropic", "openai_chat")


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


def tool_use(call_id: str, name: str, given: object) -> Json:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given}


def tool_call(call_id: str, name: str, arguments: str) -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def signed(value: str, signature: str, index: int) -> Json:
    entry = {"type": "reasoning.text", "text": value, "signature": signature}
    return entry | {"format": "anthropic-claude-v1", "index": index}


@dataclass(frozen=True)
class Case:
    """One recording, and what each client has of it in the end."""

    name: str
    stream: Sequence[bytes]
    # For an Anthropic client: the content and the stop reason.
    content: Sequence[Json]
    stop_reason: str
    # For an OpenAI client: the message without its role, and the finish reason.
    message: Json
    finish_reason: str
    # Of another choice, or the choice's log probabilities.
    more: Json = field(default_factory=dict)
    # Counts: input, cache written, cache read, output, reasoning.
    usage: tuple[int, int, int, int, int] = (25, 0, 0, 9, 0)


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
URL_CITATION: Json = {
    "type": "url_citation",
    "url_citation": {"url": "https://a", "title": "A", "start_index": 0, "end_index": 2},
}
LOGPROBS: Json = {"content": [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}], "refusal": None}
LONG = "x" * 50_000

ANTHROPIC = [
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
            + b"\n\n",
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

OPENAI = [
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
            event("future", x=1),
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

CASES = [pytest.param("anthropic", case, id=f"anthropic-{case.name}") for case in ANTHROPIC] + [
    pytest.param("openai_chat", case, id=f"openai_chat-{case.name}") for case in OPENAI
]


def without_null(value: object) -> Any:
    """A field that is null says what an absent one does."""
    if isinstance(value, dict):
        return {name: without_null(item) for name, item in value.items() if item is not None}
    return [without_null(item) for item in value] if isinstance(value, list) else value


def anthropic_answer(case: Case) -> Json:
    written, created, read, output, reasoning = case.usage
    usage: Json = {"input_tokens": written, "cache_creation_input_tokens": created}
    usage |= {"cache_read_input_tokens": read, "output_tokens": output}
    if reasoning:
        usage["output_tokens_details"] = {"thinking_tokens": reasoning}
    return {"content": list(case.content), "stop_reason": case.stop_reason, "usage": usage}


def openai_answer(case: Case) -> Json:
    plain, created, read, output, reasoning = case.usage
    prompt_details: Json = {"cached_tokens": read} | ({"cache_write_tokens": created} if created else {})
    choice: Json = {"index": 0, "message": {"role": "assistant"} | case.message, "finish_reason": case.finish_reason}
    if "logprobs" in case.more:
        choice["logprobs"] = case.more["logprobs"]
    choices = [choice]
    if "second" in case.more:
        second = dict(case.more["second"])
        finish = second.pop("finish_reason")
        choices.append({"index": 1, "message": {"role": "assistant"} | second, "finish_reason": finish})
    total = plain + created + read
    usage: Json = {"prompt_tokens": total, "completion_tokens": output, "total_tokens": total + output}
    usage["prompt_tokens_details"] = prompt_details
    usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return {"choices": choices, "usage": usage}


def seen(client: str, got: Json) -> Json:
    """What of an answer the table speaks of."""
    got = without_null(got)
    if client == "anthropic":
        for part in got["content"]:
            part.pop("caller", None)
        return {name: got[name] for name in ("content", "stop_reason", "usage")}
    for choice in got["choices"]:
        for call in choice["message"].get("tool_calls", ()):
            call.pop("index", None)
            call["function"].pop("parsed_arguments", None)
        choice["message"].pop("parsed", None)
    return {name: got[name] for name in ("choices", "usage")}


def expected(client: str, case: Case) -> Json:
    return without_null(anthropic_answer(case) if client == "anthropic" else openai_answer(case))


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("upstream", "case"), CASES)
def test_the_sdk_has_all_of_the_answer(upstream: str, case: Case, client: str, stream: bool, answer: Answer) -> None:
    got = answer(upstream, case.stream, client, stream=stream)
    assert seen(client, got) == expected(client, case)
    assert got["id"] == ("msg_1" if upstream == "anthropic" else "chatcmpl-1")
