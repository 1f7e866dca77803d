"""Answers as servers send them, read into events."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbay.canonical import ChatEvent
from patchbay.dialects.base import ReadOptions
from patchbay.dialects.openai_chat import DIALECT
from patchbay.dialects.tool_names import ClientTool

Chunk = dict[str, Any]
Read = Callable[..., list[ChatEvent]]
Lines = Callable[[list[ChatEvent]], list[str]]

HEAD: Chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}


def chunk(delta: Chunk | None = None, finish: str | None = None, *, choice: int = 0, **more: object) -> Chunk:
    entry: Chunk = {"index": choice, "delta": delta or {}, "finish_reason": finish}
    if "logprobs" in more:
        entry["logprobs"] = more.pop("logprobs")
    if "stop_reason" in more:
        entry["stop_reason"] = more.pop("stop_reason")
    return {**HEAD, "choices": [entry], **more}


def call(index: int | None = None, call_id: str | None = None, name: str | None = None, args: object = None) -> Chunk:
    fragment: Chunk = {"function": {}}
    if index is not None:
        fragment["index"] = index
    if call_id is not None:
        fragment |= {"id": call_id, "type": "function"}
    if name is not None:
        fragment["function"]["name"] = name
    if args is not None:
        fragment["function"]["arguments"] = args
    return {"tool_calls": [fragment]}


def made_id(number: int, name: str, choice: int = 0) -> str:
    return "call_" + hashlib.sha256(f"chatcmpl-1/{choice}/{number}/{name}".encode()).hexdigest()[:24]


START = "started chatcmpl-1 m 7"
ROLE = chunk({"role": "assistant", "content": ""})

STREAMS: dict[str, tuple[list[Chunk], list[str]]] = {
    "text, with usage after the end": (
        [
            chunk({"role": "assistant", "content": "", "refusal": None}),
            chunk({"content": "Hé"}),
            chunk({"content": ""}),
            chunk({"content": "llo ☃"}),
            chunk({}, "stop"),
            {**HEAD, "choices": [], "usage": USAGE},
        ],
        [START, "0 text", "0 + Hé", "0 + llo ☃", "usage input=10 output=3", "0 stop", "finished 0 end_turn"],
    ),
    "usage on every chunk, the last one in a chunk with a choice": (
        [
            chunk({"content": "a"}, usage={"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}),
            chunk({"content": "b"}, "length", usage=USAGE),
        ],
        [
            START,
            "usage input=10 output=1",
            "0 text",
            "0 + a",
            "usage input=10 output=3",
            "0 + b",
            "0 stop",
            "finished 0 max_tokens",
        ],
    ),
    "usage with details": (
        [
            chunk({"content": "a"}, "stop"),
            {
                **HEAD,
                "choices": [],
                "usage": {
                    "prompt_tokens": 100,
                    "completion_tokens": 50,
                    "total_tokens": 150,
                    "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10, "audio_tokens": 2},
                    "completion_tokens_details": {"reasoning_tokens": 20},
                    "cost": 0.5,
                },
            },
        ],
        [
            START,
            "0 text",
            "0 + a",
            "usage input=30 cache_read=60 cache_write=10 output=50 reasoning=20",
            "0 stop",
            "finished 0 end_turn",
        ],
    ),
    "a role, then no content": ([ROLE, chunk({}, "stop")], [START, "finished 0 end_turn"]),
    "empty tool calls are none": (
        [chunk({"content": None, "tool_calls": []}), chunk({"content": "a", "tool_calls": []}), chunk({}, "stop")],
        [START, "0 text", "0 + a", "0 stop", "finished 0 end_turn"],
    ),
    "a stream that starts with a tool call": (
        [
            chunk(call(0, "c1", "f", "")),
            chunk(call(0, args='{"a"')),
            chunk(call(0, args=":1}")),
            chunk({}, "tool_calls"),
        ],
        [START, "0 tool_use c1 f", '0 + {"a"', "0 + :1}", "0 stop", "finished 0 tool_use"],
    ),
    "the first fragment brings everything, and changes the block": (
        [chunk({"content": "so"}), chunk(call(0, "c1", "f", '{"a":1}'), "tool_calls")],
        [START, "0 text", "0 + so", "0 stop", "1 tool_use c1 f", '1 + {"a":1}', "1 stop", "finished 0 tool_use"],
    ),
    "text and a call in one chunk": (
        [chunk({"content": "so", **call(0, "c1", "f", "{}")}), chunk({}, "tool_calls")],
        [START, "0 text", "0 + so", "0 stop", "1 tool_use c1 f", "1 + {}", "1 stop", "finished 0 tool_use"],
    ),
    "text after a call closes it": (
        [chunk(call(0, "c1", "f", "{}")), chunk({"content": "done"}), chunk({}, "stop")],
        [START, "0 tool_use c1 f", "0 + {}", "0 stop", "1 text", "1 + done", "1 stop", "finished 0 tool_use"],
    ),
    "interleaved calls": (
        [
            chunk(call(0, "c1", "f", "")),
            chunk(call(1, "c2", "g", "")),
            chunk(call(0, args="{}")),
            chunk(call(1, args="[]")),
            chunk({}, "tool_calls"),
        ],
        [START, "0 tool_use c1 f", "1 tool_use c2 g", "0 + {}", "1 + []", "0 stop", "1 stop", "finished 0 tool_use"],
    ),
    "fragments without an index": (
        [
            chunk(call(None, "c1", "f", '{"a"')),
            chunk(call(None, args=":1}")),
            chunk(call(None, "c2", "f", "{}")),
            chunk({}, "tool_calls"),
        ],
        [
            START,
            "0 tool_use c1 f",
            '0 + {"a"',
            "0 + :1}",
            "1 tool_use c2 f",
            "1 + {}",
            "0 stop",
            "1 stop",
            "finished 0 tool_use",
        ],
    ),
    "the id and the name in every fragment": (
        [
            chunk(call(0, "c1", "f", '{"a"')),
            chunk(call(0, "c1", "f", ":1}")),
            chunk(call(0, "c1", "f", "")),
            chunk({}, "tool_calls"),
        ],
        [START, "0 tool_use c1 f", '0 + {"a"', "0 + :1}", "0 stop", "finished 0 tool_use"],
    ),
    "another id in every fragment": (
        [chunk(call(0, "c1", "f", '{"a"')), chunk(call(0, "c9", None, ":1}")), chunk({}, "tool_calls")],
        [START, "0 tool_use c1 f", '0 + {"a"', "0 + :1}", "0 stop", "finished 0 tool_use"],
    ),
    "every call has the index 0": (
        [chunk(call(0, "c1", "f", "{}")), chunk(call(0, "c2", "f", "[]")), chunk({}, "stop")],
        [START, "0 tool_use c1 f", "0 + {}", "1 tool_use c2 f", "1 + []", "0 stop", "1 stop", "finished 0 tool_use"],
    ),
    "no ids, whole calls, every index 0": (
        [chunk(call(0, "", "f", '{"a":1}')), chunk(call(0, "", "f", '{"a":2}')), chunk({}, "stop")],
        [
            START,
            f"0 tool_use {made_id(0, 'f')} f",
            '0 + {"a":1}',
            f"1 tool_use {made_id(1, 'f')} f",
            '1 + {"a":2}',
            "0 stop",
            "1 stop",
            "finished 0 tool_use",
        ],
    ),
    "no ids, the name in every fragment": (
        [chunk(call(0, None, "f", '{"a"')), chunk(call(0, None, "f", ":1}")), chunk({}, "tool_calls")],
        [START, f"0 tool_use {made_id(0, 'f')} f", '0 + {"a"', "0 + :1}", "0 stop", "finished 0 tool_use"],
    ),
    "the name comes after the id": (
        [
            chunk(call(0, "c1")),
            chunk(call(0, None, None, '{"a')),
            chunk(call(0, None, "f", '":1}')),
            chunk({}, "tool_calls"),
        ],
        [START, "0 tool_use c1 f", '0 + {"a":1}', "0 stop", "finished 0 tool_use"],
    ),
    "two calls with one id": (
        [chunk(call(0, "c", "f", "{}")), chunk(call(1, "c", "g", "[]")), chunk({}, "tool_calls")],
        [START, "0 tool_use c f", "0 + {}", "1 tool_use c_1 g", "1 + []", "0 stop", "1 stop", "finished 0 tool_use"],
    ),
    "arguments as an object": (
        [chunk(call(0, "c1", "f", {"a": 1})), chunk({}, "tool_calls")],
        [START, "0 tool_use c1 f", '0 + {"a":1}', "0 stop", "finished 0 tool_use"],
    ),
    "a custom tool": (
        [
            chunk({"tool_calls": [{"index": 0, "id": "c1", "type": "custom", "custom": {"name": "f", "input": "ls"}}]}),
            chunk({"tool_calls": [{"index": 0, "custom": {"input": " -l"}}]}),
            chunk({}, "tool_calls"),
        ],
        [START, "0 tool_use c1 f text", "0 + ls", "0 +  -l", "0 stop", "finished 0 tool_use"],
    ),
    "the deprecated function_call": (
        [
            chunk({"function_call": {"name": "f", "arguments": ""}}),
            chunk({"function_call": {"arguments": "{}"}}),
            chunk({}, "function_call"),
        ],
        [START, f"0 tool_use {made_id(0, 'f')} f", "0 + {}", "0 stop", "finished 0 tool_use"],
    ),
    "tool_calls without a call": (
        [ROLE, chunk({"content": "a"}), chunk({}, "tool_calls")],
        [START, "0 text", "0 + a", "0 stop", "finished 0 end_turn"],
    ),
    "Gemini's extra_content": (
        [
            chunk(
                {
                    "tool_calls": [
                        {
                            "index": 0,
                            "id": "c1",
                            "extra_content": {"google": {"thought_signature": "Q=="}},
                            "function": {"name": "f", "arguments": "{}"},
                        }
                    ]
                },
                "tool_calls",
            )
        ],
        [
            START,
            '0 redacted_thinking {"extra_content":{"google":{"thought_signature":"Q=="}}}',
            "0 stop",
            "1 tool_use c1 f",
            "1 + {}",
            "1 stop",
            "finished 0 tool_use",
        ],
    ),
    "reasoning_content": (
        [chunk({"reasoning_content": "hm"}), chunk({"reasoning_content": "", "content": "a"}), chunk({}, "stop")],
        [START, "0 thinking", "0 + hm", "0 stop", "1 text", "1 + a", "1 stop", "finished 0 end_turn"],
    ),
    "reasoning and content in one chunk": (
        [chunk({"reasoning": "hm", "content": "a"}), chunk({}, "stop")],
        [START, "0 thinking", "0 + hm", "0 stop", "1 text", "1 + a", "1 stop", "finished 0 end_turn"],
    ),
    "OpenRouter's details, with the text twice and a signature": (
        [
            chunk({"content": "", "reasoning": None, "reasoning_details": []}),
            chunk({"reasoning_details": [{"type": "reasoning.text", "text": "", "signature": "", "index": 0}]}),
            chunk(
                {
                    "reasoning": "hm",
                    "reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": None, "index": 0}],
                }
            ),
            chunk(
                {
                    "reasoning": "",
                    "reasoning_details": [
                        {
                            "type": "reasoning.text",
                            "text": "",
                            "signature": "S1",
                            "format": "anthropic-claude-v1",
                            "index": 0,
                        }
                    ],
                }
            ),
            chunk({"reasoning_details": [{"type": "reasoning.summary", "summary": "two", "index": 1}]}),
            chunk({"content": "a"}),
            chunk({}, "stop"),
        ],
        [
            START,
            "0 thinking",
            "0 + hm",
            "0 signed S1",
            "0 stop",
            "1 thinking",
            "1 + two",
            "1 stop",
            "2 text",
            "2 + a",
            "2 stop",
            "finished 0 end_turn",
        ],
    ),
    "encrypted reasoning": (
        [
            chunk(
                {
                    "reasoning_details": [
                        {"type": "reasoning.encrypted", "data": "AA==", "format": "anthropic-claude-v1", "index": 0},
                        {"type": "reasoning.encrypted", "data": "BB==", "id": "rs_1", "format": "x-v1"},
                    ]
                }
            ),
            chunk({"content": "a"}, "stop"),
        ],
        [
            START,
            "0 redacted_thinking AA==",
            "0 stop",
            '1 redacted_thinking {"type":"reasoning.encrypted","data":"BB==","id":"rs_1","format":"x-v1"}',
            "1 stop",
            "2 text",
            "2 + a",
            "2 stop",
            "finished 0 end_turn",
        ],
    ),
    "content as parts": (
        [
            chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
            chunk({"content": [{"type": "text", "text": "a"}]}),
            chunk({}, "stop"),
        ],
        [START, "0 thinking", "0 + hm", "0 stop", "1 text", "1 + a", "1 stop", "finished 0 end_turn"],
    ),
    "a refusal": (
        [chunk({"refusal": ""}), chunk({"refusal": "I "}), chunk({"refusal": "won't"}), chunk({}, "stop")],
        [START, "0 refusal", "0 + I ", "0 + won't", "0 stop", "finished 0 refusal"],
    ),
    "citations": (
        [
            chunk({"content": "a", "annotations": [{"type": "url_citation", "url_citation": {"url": "u"}}]}),
            chunk({}, "stop"),
        ],
        [
            START,
            "0 text",
            "0 + a",
            '0 cites {"type":"url_citation","url_citation":{"url":"u"}}',
            "0 stop",
            "finished 0 end_turn",
        ],
    ),
    "log probabilities": (
        [
            chunk({"role": "assistant", "content": ""}, logprobs=None),
            chunk({"content": "a"}, logprobs={"content": [{"token": "a", "logprob": -0.1}], "refusal": None}),
            chunk({}, "stop", logprobs=None),
        ],
        [START, "0 text", '0 + a [{"token":"a","logprob":-0.1}]', "0 stop", "finished 0 end_turn"],
    ),
    "several answers": (
        [
            chunk({"content": "a"}),
            chunk({"content": "b"}, choice=1),
            chunk({"content": "c"}),
            chunk({}, "stop"),
            chunk({}, "length", choice=1),
        ],
        [
            START,
            "0 text",
            "0 + a",
            "1 text of 1",
            "1 + b",
            "0 + c",
            "0 stop",
            "1 stop",
            "finished 0 end_turn",
            "finished 1 max_tokens",
        ],
    ),
    "fields of the answer ride along": (
        [
            chunk({"content": "a"}, system_fingerprint="fp", service_tier=None, obfuscation="xx"),
            chunk({}, "stop", provider={"b": 1, "a": [1.50]}),
        ],
        [
            START,
            "0 text",
            "0 + a",
            "0 stop",
            'finished 0 end_turn {"system_fingerprint":"fp","provider":{"b":1,"a":[1.5]}}',
        ],
    ),
    "the stop sequence that was met": (
        [chunk({"content": "a"}), chunk({}, "stop", stop_reason="###")],
        [START, "0 text", "0 + a", "0 stop", "finished 0 stop_sequence ###"],
    ),
    "an unknown reason": (
        [chunk({"content": "a"}), chunk({}, "cosmic_ray")],
        [START, "0 text", "0 + a", "0 stop", "finished 0 other cosmic_ray"],
    ),
    "content_filter": ([chunk({}, "content_filter")], [START, "finished 0 content_filter"]),
    "chunks that call themselves a response": (
        [chunk({"content": "a"}, object="response"), chunk({}, "stop", object="response")],
        [START, "0 text", "0 + a", "0 stop", "finished 0 end_turn"],
    ),
    "a first chunk without choices": (
        [
            {"id": "", "object": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
            chunk({"content": "a"}, "stop"),
        ],
        [START, "0 text", "0 + a", "0 stop", 'finished 0 end_turn {"prompt_filter_results":[{"prompt_index":0}]}'],
    ),
    "an image": (
        [chunk({"images": [{"type": "image_url", "image_url": {"url": "data:,"}}]}, "stop")],
        [
            START,
            '0 opaque openai_chat {"images":[{"type":"image_url","image_url":{"url":"data:,"}}]}',
            "0 stop",
            "finished 0 end_turn",
        ],
    ),
    "an error inside the stream": (
        [
            ROLE,
            chunk({"content": "a"}),
            {"error": {"message": "Overloaded", "type": "server_error", "code": "overloaded"}},
        ],
        [START, "0 text", "0 + a", "error overloaded retryable: Overloaded"],
    ),
    "OpenRouter's error, in a chunk with a choice": (
        [chunk({"content": ""}, "error", error={"code": 502, "message": "Provider disconnected"})],
        ["error upstream retryable: Provider disconnected"],
    ),
    "CodeBuddy's error": (
        [{"code": 11101, "msg": "system message required"}],
        ["error invalid_request: system message required"],
    ),
    "no finish reason": (
        [chunk({"content": "a"})],
        [START, "0 text", "0 + a", "error upstream retryable: The upstream's answer ended before it was complete."],
    ),
    "one of two answers unfinished": (
        [chunk({"content": "a"}, "stop"), chunk({"content": "b"}, choice=1)],
        [
            START,
            "0 text",
            "0 + a",
            "1 text of 1",
            "1 + b",
            "error upstream retryable: The upstream's answer ended before it was complete.",
        ],
    ),
    "a call that goes on while the model speaks": (
        [chunk(call(0, "c1", "f", "{")), chunk({"content": "a"}), chunk(call(0, args="}")), chunk({}, "tool_calls")],
        [START, "0 tool_use c1 f", "0 + {", "1 text", "1 + a", "0 + }", "1 stop", "0 stop", "finished 0 tool_use"],
    ),
    "a call that goes on after it was whole": (
        [chunk(call(0, "c1", "f", "{}")), chunk({"content": "a"}), chunk(call(0, args="}"))],
        [
            START,
            "0 tool_use c1 f",
            "0 + {}",
            "0 stop",
            "1 text",
            "1 + a",
            "error upstream retryable: The upstream went on with a tool call that it had left.",
        ],
    ),
    "fields of odd types": (
        [
            {
                **chunk({"content": "a", "annotations": ["x"], "reasoning_details": "x", "refusal": 5}),
                "created": -1,
            },
            chunk({"reasoning_details": [1], "annotations": {}}, logprobs={"content": "x"}, choice=-1),
            chunk({}, "stop", stop_reason=5, choice=10**12, usage=[]),
        ],
        ["started chatcmpl-1 m 0", "0 text", "0 + a", "0 stop", "finished 0 end_turn"],
    ),
    "choices of the wrong type": (
        [{**HEAD, "choices": "none"}],
        [
            (
                "error upstream retryable: The upstream's answer cannot be read: "
                "Expected `array | null`, got `str` - at `$.choices`"
            )
        ],
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_stream(name: str, sse: Callable[..., bytes], read: Read, lines: Lines) -> None:
    chunks, expected = STREAMS[name]
    assert [line.split(" {")[0] if line.startswith("usage") else line for line in lines(read(sse(chunks)))] == expected


@pytest.mark.parametrize("name", STREAMS)
def test_stream_cut_anywhere(name: str, sse: Callable[..., bytes], read: Read) -> None:
    data = sse(STREAMS[name][0])
    whole = read(data)
    for cut in range(len(data)):
        assert read(data, cuts=[cut]) == whole


@pytest.mark.parametrize("name", STREAMS)
def test_stream_byte_by_byte(name: str, sse: Callable[..., bytes], read: Read) -> None:
    data = sse(STREAMS[name][0]).replace(b"\n", b"\r\n")
    assert read(data, cuts=range(len(data))) == read(sse(STREAMS[name][0]))


@pytest.mark.parametrize("tail", [b"", b"data: [DONE]", b"data: [DONE]\n", b": bye\n\n", b"data:[DONE]\n\n"])
def test_the_closing_word_may_be_missing(tail: bytes, sse: Callable[..., bytes], read: Read, lines: Lines) -> None:
    data = sse([chunk({"content": "a"}), chunk({}, "stop")], done=False) + tail
    assert lines(read(data)) == [START, "0 text", "0 + a", "0 stop", "finished 0 end_turn"]


def test_the_last_frame_may_lack_its_empty_line(sse: Callable[..., bytes], read: Read, lines: Lines) -> None:
    data = sse([chunk({"content": "a"}), chunk({}, "stop")], done=False)
    assert lines(read(data[:-2]))[-1] == "finished 0 end_turn"


def test_every_truncation_is_an_error(sse: Callable[..., bytes], read: Read, lines: Lines) -> None:
    """Whatever is missing of the frame with the finish reason, the answer is not taken for complete."""
    head = sse([chunk({"content": "a"})], done=False)
    data = head + sse([chunk({}, "stop")], done=False)
    for end in range(len(data) - 2):
        last = lines(read(data[:end]))[-1]
        assert last == "error upstream retryable: The upstream's answer ended before it was complete."


def test_usage_keeps_what_it_does_not_know(sse: Callable[..., bytes], read: Read) -> None:
    events = read(sse(STREAMS["usage with details"][0]))
    usage = next(event.usage for event in events if event.HasField("usage"))
    assert dict(usage.extensions) == {"openai_chat": '{"cost":0.5,"prompt_tokens_details":{"audio_tokens":2}}'}


def test_an_error_event(read: Read, lines: Lines) -> None:
    data = b'event: error\ndata: {"message":"Too many","type":"rate_limit_error"}\n\n'
    assert lines(read(data)) == ["error rate_limited retryable: Too many"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":{"message":"no","type":"invalid_request_error"}}', "error invalid_request: no"),
        (b'{"error":{"message":"no","type":"invalid_request_error"}}\n\n', "error invalid_request: no"),
        (
            b'[{"error":{"code":429,"message":"slow","status":"RESOURCE_EXHAUSTED"}}]',
            "error rate_limited retryable: slow",
        ),
        (b'{"code":11101,"msg":"no"}', "error invalid_request: no"),
        (b"", "error upstream retryable: The upstream's answer ended before it was complete."),
        (b"data: {not json}\n\n", "error upstream retryable: The upstream's answer cannot be read: "),
    ],
)
def test_a_plain_body_called_a_stream(body: bytes, expected: str, read: Read, lines: Lines) -> None:
    (line,) = lines(read(body))
    assert line.startswith(expected)


def test_events_after_the_end_are_ignored(sse: Callable[..., bytes], read: Read, lines: Lines) -> None:
    data = sse([chunk({"content": "a"}, "stop")])
    assert lines(read(data + data)) == [START, "0 text", "0 + a", "0 stop", "finished 0 end_turn"]


def test_shortened_tool_names_are_turned_back(sse: Callable[..., bytes], read: Read, lines: Lines) -> None:
    data = sse([chunk(call(0, "c1", "short", "{}"), "tool_calls")])
    events = read(data, options=ReadOptions(names={"short": ClientTool("a_long_name")}))
    assert "0 tool_use c1 a_long_name" in lines(events)


BODY: Chunk = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 7,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "a",
                "refusal": None,
                "annotations": [{"type": "url_citation"}],
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "hm", "signature": "S", "index": 0},
                    {"type": "reasoning.encrypted", "data": "AA==", "index": 1},
                ],
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
                    {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "ls"}},
                ],
            },
            "logprobs": {"content": [{"token": "a"}], "refusal": None},
            "finish_reason": "tool_calls",
        }
    ],
    "usage": USAGE,
    "system_fingerprint": "fp",
}


def test_a_whole_answer(read: Read, lines: Lines) -> None:
    data = json.dumps(BODY).encode()
    expected = [
        START,
        "usage input=10 output=3",
        "0 thinking",
        "0 + hm",
        "0 signed S",
        "0 stop",
        "1 redacted_thinking AA==",
        "1 stop",
        "2 text",
        '2 + a [{"token": "a"}]',
        '2 cites {"type": "url_citation"}',
        "2 stop",
        "3 tool_use c1 f",
        '3 + {"a": 1}',
        "4 tool_use c2 g text",
        "4 + ls",
        "3 stop",
        "4 stop",
        'finished 0 tool_use {"system_fingerprint":"fp"}',
    ]
    options = ReadOptions(content_type="application/json; charset=utf-8")
    assert lines(read(data, options=options)) == expected
    whole = read(data, options=options)
    for cut in range(len(data)):
        assert read(data, options=options, cuts=[cut]) == whole


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":{"message":"no","code":"insufficient_quota"}}', "error quota_exceeded: no"),
        (b'{"choices":[]}', "error upstream retryable: The upstream's answer ended before it was complete."),
        (b'{"id":"x","choi', "error upstream retryable: The upstream's answer ended before it was complete."),
        (b"<html>Bad gateway</html>", "error upstream retryable: The upstream reported an error."),
        (b"", "error upstream retryable: The upstream's answer ended before it was complete."),
        (b'{"detail":"Not enough memory"}', "error upstream retryable: Not enough memory"),
    ],
)
def test_a_whole_answer_that_is_none(body: bytes, expected: str, read: Read, lines: Lines) -> None:
    (line,) = lines(read(body, options=ReadOptions(content_type="application/json")))
    assert line.startswith(expected)


def test_calls_without_ids_in_a_whole_answer_stay_apart(read: Read, lines: Lines) -> None:
    calls = [{"function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "f", "arguments": "{}"}}]
    body = {**BODY, "choices": [{"index": 0, "message": {"tool_calls": calls}, "finish_reason": "stop"}]}
    events = read(json.dumps(body).encode(), options=ReadOptions(content_type="application/json"))
    starts = [event.block_start.tool_use.id for event in events if event.HasField("block_start")]
    assert starts == [made_id(0, "f"), made_id(1, "f")]


def test_half_a_surrogate_pair_does_not_fail_an_answer(sse: Callable[..., bytes], read: Read, lines: Lines) -> None:
    """Servers that cut text by UTF-16 code unit send one half in each chunk."""
    data = sse([chunk({"content": "HALF"}), chunk({"content": "a"}, "stop")])
    events = lines(read(data.replace(b"HALF", rb"\ud83d \ud83d\ude00 \\ud83d \uDE00")))
    assert events[1:4] == ["0 text", "0 + \ufffd \U0001f600 \\ud83d \ufffd", "0 + a"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(STREAMS)), st.booleans(), st.booleans(), st.data())
def test_damaged_bytes_never_raise(name: str, native: bool, plain: bool, data: st.DataObject) -> None:
    """Whatever comes, the reader says something: an end or an error."""
    frames = [b"data: " + json.dumps(part).encode() + b"\n\n" for part in STREAMS[name][0]]
    whole = json.dumps(BODY).encode() if plain else b"".join([*frames, b"data: [DONE]\n\n"])
    start = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(start, min(len(whole), start + 8)))
    damaged = whole[:start] + data.draw(st.binary(max_size=6)) + whole[end:]
    content_type = "application/json" if plain else "text/event-stream"
    reader = DIALECT.read_events(ReadOptions(native=native, content_type=content_type))
    events = reader.feed(damaged) + reader.close()
    assert events[-1].WhichOneof("event") in ("finished", "error")
