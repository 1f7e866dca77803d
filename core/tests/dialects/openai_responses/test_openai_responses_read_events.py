"""Answers of the Responses API as canonical events: from every kind of server, cut anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from patchbay.canonical import ChatEvent
from patchbay.dialects.base import ReadOptions
from patchbay.dialects.tool_names import ClientTool

Read = Callable[..., list[ChatEvent]]
Lines = Callable[[Iterable[ChatEvent]], list[str]]
Sse = Callable[[Iterable[object]], bytes]
Json = dict[str, Any]

CREATED: Json = {"type": "response.created", "response": {"id": "resp_1", "created_at": 7.0, "model": "gpt"}}
STARTED = "started resp_1 gpt 7"


def ended(status: str = "completed", **more: object) -> Json:
    return {"type": f"response.{status}", "response": {"id": "resp_1", "status": status} | more}


def delta(kind: str, piece: str, **where: object) -> Json:
    return {"type": f"response.{kind}.delta", "delta": piece} | where


def item_done(item: Json, index: int | None = None) -> Json:
    return {"type": "response.output_item.done", "item": item} | ({} if index is None else {"output_index": index})


def added(item: Json, index: int | None = None) -> Json:
    return item_done(item, index) | {"type": "response.output_item.added"}


def message(*parts: Json, **more: object) -> Json:
    return {"type": "message", "role": "assistant", "content": list(parts)} | more


def output_text(text: str, **more: object) -> Json:
    return {"type": "output_text", "text": text} | more


def function(call_id: str, name: str, arguments: object, **more: object) -> Json:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments} | more


def custom(call_id: str, name: str, text: str, **more: object) -> Json:
    return {"type": "custom_tool_call", "call_id": call_id, "name": name, "input": text} | more


def reasoning(*summary: str, **more: object) -> Json:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text} for text in summary]} | more


M0: Json = {"item_id": "m", "output_index": 0, "content_index": 0}
F1: Json = {"item_id": "f", "output_index": 1}
G2: Json = {"item_id": "g", "output_index": 2}
R0: Json = {"item_id": "r", "output_index": 0}
DONE_CALL = ["0 tool_use c f", '0 + {"a":1}', "0 stop"]

# Name -> (events, lines between the start and the end, the end).
STREAMS: dict[str, tuple[list[Json], list[str], str]] = {
    "deltas and all that says they are done": (
        [
            added(message(id="m"), 0),
            delta("output_text", "a", **M0),
            delta("output_text", "b", **M0),
            {"type": "response.output_text.done", "text": "ab", **M0},
            {"type": "response.content_part.done", "part": output_text("ab"), **M0},
            item_done(message(output_text("ab"), id="m"), 0),
            ended(output=[message(output_text("ab"), id="m")]),
        ],
        ["0 text", "0 + a", "0 + b", "0 stop"],
        "finished 0 end_turn",
    ),
    "deltas alone": (
        [delta("output_text", "a"), delta("output_text", "b"), ended()],
        ["0 text", "0 + a", "0 + b", "0 stop"],
        "finished 0 end_turn",
    ),
    "whole items alone": (
        [item_done(reasoning("h"), 0), item_done(message(output_text("ab")), 1), ended(output=[])],
        ["0 thinking", "0 + h", "0 stop", "1 text", "1 + ab", "1 stop"],
        "finished 0 end_turn",
    ),
    "what the deltas left out comes with the item": (
        [
            delta("output_text", "a", **M0),
            item_done(message(output_text("ab"), output_text("c"), id="m"), 0),
            ended(),
        ],
        ["0 text", "0 + a", "0 + b", "0 stop", "1 text", "1 + c", "1 stop"],
        "finished 0 end_turn",
    ),
    "another text at the end adds nothing": (
        [delta("output_text", " a ", **M0), item_done(message(output_text("a"), id="m"), 0), ended()],
        ["0 text", "0 +  a ", "0 stop"],
        "finished 0 end_turn",
    ),
    "another id in every event": (
        [
            added(message(id="x1"), 0),
            delta("output_text", "a", item_id="x2", output_index=0, content_index=0),
            item_done(message(output_text("a"), id="x3"), 0),
            added(function("c", "f", "", id="x4"), 1),
            delta("function_call_arguments", '{"a"', item_id="x5", output_index=1),
            delta("function_call_arguments", ":1}", item_id="x6", output_index=1),
            {"type": "response.function_call_arguments.done", "arguments": '{"a":1}', "output_index": 1},
            item_done(function("c", "f", '{"a":1}', id="x8"), 1),
            ended(output=[message(output_text("a"), id="x9"), function("c", "f", '{"a":1}', id="x10")]),
        ],
        ["0 text", "0 + a", "0 stop", "1 tool_use c f", '1 + {"a"', "1 + :1}", "1 stop"],
        "finished 0 tool_use",
    ),
    "the same index for every item": (
        [
            added(message(id="m"), 0),
            delta("output_text", "a", item_id="m", output_index=0),
            item_done(message(output_text("a"), id="m"), 0),
            added(function("c", "f", "", id="f"), 0),
            delta("function_call_arguments", "{}", item_id="f", output_index=0),
            item_done(function("c", "f", "{}", id="f"), 0),
            added(function("d", "g", "", id="g"), 0),
            delta("function_call_arguments", "[]", item_id="g", output_index=0),
            item_done(function("d", "g", "[]", id="g"), 0),
            ended(),
        ],
        ["0 text", "0 + a", "0 stop", "1 tool_use c f", "1 + {}", "1 stop", "2 tool_use d g", "2 + []", "2 stop"],
        "finished 0 tool_use",
    ),
    "no ids and no indexes": (
        [
            added(function("c", "f", "")),
            delta("function_call_arguments", "{"),
            delta("function_call_arguments", "}"),
            item_done(function("c", "f", "{}")),
            added(function("d", "g", "")),
            delta("function_call_arguments", "[]"),
            item_done(function("d", "g", "[]")),
            ended(),
        ],
        ["0 tool_use c f", "0 + {", "0 + }", "0 stop", "1 tool_use d g", "1 + []", "1 stop"],
        "finished 0 tool_use",
    ),
    "deltas, and items that say nowhere which they are": (
        [
            added(reasoning()),
            delta("reasoning_summary_text", "hm"),
            item_done(reasoning("hm", encrypted_content="gAAAA")),
            delta("output_text", "a"),
            item_done(message(output_text("ab"))),
            delta("output_text", "b"),
            item_done(message(output_text("b"), id="m")),
            added(function("c", "f", "")),
            added(function("d", "g", "")),
            item_done(function("c", "f", "{}")),
            item_done(function("d", "g", "{}")),
            ended(output=[reasoning("hm"), message(output_text("ab")), message(output_text("b"))]),
        ],
        [
            *["0 thinking", "0 + hm", "0 signed gAAAA", "0 stop"],
            *["1 text", "1 + a", "1 + b", "1 stop", "2 text", "2 + b", "2 stop"],
            *["3 tool_use c f", "4 tool_use d g", "3 + {}", "3 stop", "4 + {}", "4 stop"],
        ],
        "finished 0 tool_use",
    ),
    "calls at the same time": (
        [
            added(function("c", "f", "", id="f"), 1),
            added(custom("d", "g", "", id="g"), 2),
            delta("function_call_arguments", "{", **F1),
            delta("custom_tool_call_input", "x", **G2),
            delta("function_call_arguments", "}", **F1),
            item_done(custom("d", "g", "xy", id="g"), 2),
            item_done(function("c", "f", "{}", id="f"), 1),
            ended(),
        ],
        ["0 tool_use c f", "1 tool_use d g text", "0 + {", "1 + x", "0 + }", "1 + y", "1 stop", "0 stop"],
        "finished 0 tool_use",
    ),
    "arguments only when they are done": (
        [
            added(function("c", "f", "", id="f"), 1),
            {"type": "response.function_call_arguments.done", "arguments": '{"a":1}', **F1},
            item_done(function("c", "f", '{"a":1}', id="f"), 1),
            ended(),
        ],
        DONE_CALL,
        "finished 0 tool_use",
    ),
    "arguments before the name": (
        [
            delta("function_call_arguments", '{"a":', **F1),
            delta("function_call_arguments", "1}", **F1),
            item_done(function("c", "f", '{"a":1}', id="f"), 1),
            ended(),
        ],
        DONE_CALL,
        "finished 0 tool_use",
    ),
    "arguments as an object": (
        [item_done(function("c", "f", {"a": 1}), 0), ended()],
        DONE_CALL,
        "finished 0 tool_use",
    ),
    "a call that only its deltas tell of": (
        [added(function("c", "f", ""), 1), delta("function_call_arguments", '{"a":1}', output_index=1), ended()],
        DONE_CALL,
        "finished 0 tool_use",
    ),
    "a namespace": (
        [item_done(custom("c", "exec", "x", namespace="functions"), 0), ended()],
        ["0 tool_use c functions/exec text", "0 + x", "0 stop"],
        "finished 0 tool_use",
    ),
    "the same call id twice": (
        [item_done(function("c", "f", "{}", id="f"), 0), item_done(custom("c", "f", "x", id="g"), 1), ended()],
        ["0 tool_use c f", "0 + {}", "0 stop", "1 tool_use c_1 f text", "1 + x", "1 stop"],
        "finished 0 tool_use",
    ),
    "reasoning, signed when it is done": (
        [
            added(reasoning(id="r", encrypted_content="gAAAAfirst"), 0),
            delta("reasoning_summary_text", "a", summary_index=0, **R0),
            {"type": "response.reasoning_summary_text.done", "text": "a", "summary_index": 0, **R0},
            delta("reasoning_summary_text", "b", summary_index=1, **R0),
            item_done(reasoning("a", "bc", id="r", encrypted_content="gAAAAlast"), 0),
            item_done(reasoning(id="r2", encrypted_content="gAAAAtwo"), 1),
            item_done(reasoning(id="r3"), 2),
            ended(),
        ],
        [
            *["0 thinking", "0 + a", "0 + \n\nb", "0 + c", "0 signed gAAAAlast", "0 stop"],
            *["1 thinking", "1 signed gAAAAtwo", "1 stop"],
        ],
        "finished 0 end_turn",
    ),
    "reasoning itself, and its summary as well": (
        [
            delta("reasoning_text", "a", content_index=0, **R0),
            delta("reasoning_summary_text", "s", summary_index=0, **R0),
            item_done(
                reasoning("s", id="r", content=[{"type": "reasoning_text", "text": "a"}], encrypted_content="gAAAA"), 0
            ),
            ended(),
        ],
        ["0 thinking", "0 + a", "0 signed gAAAA", "0 stop"],
        "finished 0 end_turn",
    ),
    "a refusal": (
        [
            delta("refusal", "no", **M0),
            {"type": "response.refusal.done", "refusal": "no!", **M0},
            item_done(message({"type": "refusal", "refusal": "no!"}, id="m"), 0),
            ended(),
        ],
        ["0 refusal", "0 + no", "0 + !", "0 stop"],
        "finished 0 refusal",
    ),
    "log probabilities": (
        [
            delta("output_text", "a", logprobs=[{"token": "a"}], **M0),
            delta("output_text", "b", logprobs=[], **M0),
            item_done(message(output_text("ab", logprobs=[{"token": "a"}]), id="m"), 0),
            ended(),
        ],
        ["0 text", '0 + a [{"token":"a"}]', "0 + b", "0 stop"],
        "finished 0 end_turn",
    ),
    "citations, each once": (
        [
            delta("output_text", "a", **M0),
            {"type": "response.output_text.annotation.added", "annotation": {"x": 1}, **M0},
            item_done(message(output_text("a", annotations=[{"x": 1}, {"x": 2}]), id="m"), 0),
            ended(),
        ],
        ["0 text", "0 + a", '0 cites {"x":1}', '0 cites {"x":2}', "0 stop"],
        "finished 0 end_turn",
    ),
    "items and parts of other kinds": (
        [
            added({"type": "web_search_call", "id": "w"}, 0),
            {"type": "response.web_search_call.searching", "item_id": "w", "output_index": 0},
            item_done({"type": "web_search_call", "id": "w", "status": "completed"}, 0),
            item_done(message({"type": "audio"}, id="m"), 1),
            added({"type": "mcp_call", "id": "n"}, 2),
            ended(),
        ],
        [
            '0 opaque openai_responses {"type":"web_search_call","id":"w","status":"completed"}',
            "0 stop",
            '1 opaque openai_responses {"type":"message","role":"assistant","content":[{"type":"audio"}]}',
            "1 stop",
            '2 opaque openai_responses {"type":"mcp_call","id":"n"}',
            "2 stop",
        ],
        "finished 0 end_turn",
    ),
    "only the end": (
        [ended(output=[message(output_text("a")), function("c", "f", "{}"), message(output_text("b"))])],
        ["0 text", "0 + a", "0 stop", "1 tool_use c f", "1 + {}", "1 stop", "2 text", "2 + b", "2 stop"],
        "finished 0 tool_use",
    ),
    "an end with more than the stream, and with less": (
        [
            item_done(reasoning("a", id="r1"), 0),
            item_done(reasoning("b", id="r2"), 1),
            ended(output=[reasoning("new", id="r0"), reasoning("b", id="r2"), message(output_text("c"), id="m")]),
        ],
        ["0 thinking", "0 + a", "0 stop", "1 thinking", "1 + b", "1 stop", "2 text", "2 + c", "2 stop"],
        "finished 0 end_turn",
    ),
    "an end with an item that the stream left out": (
        [
            item_done(function("c", "f", "{}", id="f1"), 0),
            ended(output=[function("d", "g", "[]", id="f0"), function("c", "f", "{}", id="f1")]),
        ],
        ["0 tool_use c f", "0 + {}", "0 stop", "1 tool_use d g", "1 + []", "1 stop"],
        "finished 0 tool_use",
    ),
    "the model goes on": (
        [item_done(message(output_text("a")), 0), ended(end_turn=False)],
        ["0 text", "0 + a", "0 stop"],
        "finished 0 pause_turn",
    ),
    "a limit": (
        [added(function("c", "f", ""), 0), ended("incomplete", incomplete_details={"reason": "max_output_tokens"})],
        ["0 tool_use c f", "0 stop"],
        "finished 0 max_tokens",
    ),
    "a filter": (
        [delta("output_text", "a"), ended("incomplete", incomplete_details={"reason": "content_filter"})],
        ["0 text", "0 + a", "0 stop"],
        "finished 0 content_filter",
    ),
    # Half a call is not to be run.
    "cut off for no reason": (
        [added(function("c", "f", ""), 0), delta("function_call_arguments", "{", output_index=0), ended("incomplete")],
        ["0 tool_use c f", "0 + {", "0 stop"],
        "finished 0 max_tokens",
    ),
    "cut off for a reason of tomorrow": (
        [delta("output_text", "a"), ended("incomplete", incomplete_details={"reason": "tomorrow"})],
        ["0 text", "0 + a", "0 stop"],
        "finished 0 max_tokens",
    ),
    "cut off for a reason of this API alone": (
        [delta("output_text", "a"), ended("incomplete", incomplete_details={"reason": "steered"})],
        ["0 text", "0 + a", "0 stop"],
        "finished 0 other steered",
    ),
    "events and fields of tomorrow": (
        [
            {"type": "response.future", "delta": {"a": 1}, "item": 5, "response": [], "output_index": "x"},
            {"type": "response.output_text.delta", "delta": None, "item_id": 5, "output_index": None},
            {"type": "response.output_item.added", "item": None},
            {"type": "response.output_item.done", "item": 5},
            {"type": "response.content_part.done", "part": []},
            delta("output_text", "a", logprobs=5, **M0),
            ended(output={"x": 1}, usage=[], created_at="x", service_tier="flex"),
        ],
        ["0 text", "0 + a", "0 stop"],
        'finished 0 end_turn {"service_tier":"flex"}',
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_cut_anywhere(name: str, sse: Sse, read: Read, lines: Lines) -> None:
    events, expected, end = STREAMS[name]
    data = sse([CREATED, *events])
    whole = [STARTED, *expected, end]
    assert lines(read(data)) == whole
    for cut in range(0, len(data), 7):
        assert lines(read(data, cuts=[cut])) == whole
    assert lines(read(data.replace(b"\n", b"\r\n"), cuts=range(len(data)))) == whole


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_ends_too_early_is_an_error(name: str, sse: Sse, read: Read, lines: Lines) -> None:
    events, _, _ = STREAMS[name]
    for count in range(len(events)):
        *_, last = lines(read(sse([CREATED, *events][: count + 1])))
        assert last == "error upstream retryable: The upstream's answer ended before it was complete."


def test_types_by_the_event_line_alone(read: Read, lines: Lines) -> None:
    data = (
        b'event: response.output_text.delta\ndata: {"delta":"a"}\n\n'
        b'event: response.completed\ndata: {"response":{"id":"resp_1"}}'
    )
    assert lines(read(data))[1:] == ["0 text", "0 + a", "0 stop", "finished 0 end_turn"]


def test_ids_for_calls_without_one(sse: Sse, read: Read, lines: Lines) -> None:
    events = [CREATED, item_done(function("", "f", "{}")), item_done(function("", "f", "{}")), ended()]
    found = [line for line in lines(read(sse(events))) if "tool_use" in line]
    ids = [line.split()[2] for line in found[:2]]
    assert len(set(ids)) == 2
    assert all(call_id.startswith("call_") for call_id in ids)
    assert [line for line in lines(read(sse(events))) if "tool_use" in line] == found


NAMES = {
    "f_12": ClientTool("a.long.name"),
    "ns__exec": ClientTool("exec", "ns", is_wrapped=True),
    "apply": ClientTool("apply_patch", is_wrapped=True),
}


def test_tools_turned_back(sse: Sse, read: Read, lines: Lines) -> None:
    events = [
        CREATED,
        added(function("c", "f_12", "", id="f"), 0),
        added(function("d", "ns__exec", "", id="g"), 1),
        delta("function_call_arguments", '{"input', item_id="g", output_index=1),
        delta("function_call_arguments", "{}", item_id="f", output_index=0),
        delta("function_call_arguments", '":"js\\n"}', item_id="g", output_index=1),
        item_done(function("d", "ns__exec", '{"input":"js\\n"}', id="g"), 1),
        item_done(function("c", "f_12", "{}", id="f"), 0),
        item_done(function("e", "apply", '{"input":5}', id="h"), 2),
        item_done(custom("i", "apply", '{"input":"x"}', id="j"), 3),
        ended(),
    ]
    assert lines(read(sse(events), options=ReadOptions(names=NAMES)))[1:-1] == [
        "0 tool_use c a.long.name",
        "1 tool_use d ns/exec text",
        "0 + {}",
        "1 + js\n",
        "1 stop",
        "0 stop",
        *["2 tool_use e apply_patch text", '2 + {"input":5}', "2 stop"],
        *["3 tool_use i apply_patch text", '3 + {"input":"x"}', "3 stop"],
    ]


USAGE: Json = {
    "input_tokens": 30,
    "output_tokens": 9,
    "total_tokens": 39,
    "input_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 4, "x": 1},
    "output_tokens_details": {"reasoning_tokens": 5},
}
USAGE_LINE = 'usage input=6 cache_read=20 cache_write=4 output=9 reasoning=5 {"input_tokens_details":{"x":1}}'

# Name -> (whole body, lines).
BODIES: dict[str, tuple[object, list[str]]] = {
    "everything": (
        {
            "id": "resp_1",
            "object": "response",
            "created_at": 7,
            "model": "gpt",
            "status": "completed",
            "error": None,
            "output": [
                reasoning("s", "t", content=[{"type": "reasoning_text", "text": "a"}], encrypted_content="gAAAA"),
                {"type": "web_search_call", "id": "w"},
                message(output_text("a", annotations=[{"x": 1}]), {"type": "refusal", "refusal": "no"}),
                function("c", "f", '{"a":1}'),
            ],
            "usage": USAGE,
        },
        [
            STARTED,
            *["0 thinking", "0 + s", "0 + \n\nt", "0 signed gAAAA", "0 stop"],
            *['1 opaque openai_responses {"type":"web_search_call","id":"w"}', "1 stop"],
            *["2 text", "2 + a", '2 cites {"x":1}', "2 stop", "3 refusal", "3 + no", "3 stop"],
            *["4 tool_use c f", '4 + {"a":1}', "4 stop"],
            USAGE_LINE,
            "finished 0 tool_use",
        ],
    ),
    "the least": ({"id": "resp_1", "output": []}, ["started resp_1  0", "finished 0 end_turn"]),
    "incomplete": (
        {"id": "r", "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []},
        ["started r  0", "finished 0 max_tokens"],
    ),
    "failed": (
        {"id": "r", "status": "failed", "error": {"code": "server_error", "message": "Oh"}, "output": []},
        ["error upstream retryable: Oh"],
    ),
    "cancelled": (
        {"id": "r", "object": "response", "status": "cancelled", "output": []},
        ["error upstream retryable: The upstream reported that its answer failed."],
    ),
    "not ready": (
        {"id": "r", "object": "response", "status": "queued", "output": []},
        ["error upstream retryable: The upstream's answer ended before it was complete."],
    ),
    "an error": ({"error": {"message": "busy", "code": "slow_down"}}, ["error overloaded retryable: busy"]),
    "another error": ({"detail": "Use a stream"}, ["error upstream retryable: Use a stream"]),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_whole_answer_cut_anywhere(name: str, read: Read, lines: Lines) -> None:
    body, expected = BODIES[name]
    data = json.dumps(body, separators=(",", ":")).encode()
    for cut in range(len(data) + 1):
        assert lines(read(data, cuts=[cut])) == expected
    assert lines(read(data, options=ReadOptions(content_type="text/event-stream"))) == expected


@pytest.mark.parametrize("body", [b"", b" \n", b"{", b'{"output":[', b"<html>403</html>", b"[1]", b"null"])
def test_what_is_no_answer_is_an_error(body: bytes, read: Read, lines: Lines) -> None:
    for kind in ("", "application/json", "text/event-stream"):
        (line,) = lines(read(body, options=ReadOptions(content_type=kind)))
        assert line.startswith("error upstream retryable: The ") or line.endswith((": [1]", ": null"))


ERRORS: dict[str, tuple[object, str]] = {
    "failed": (
        ended("failed", error={"code": "rate_limit_exceeded", "message": "Please try again in 1.5s."}, usage=USAGE),
        "error rate_limited retryable: Please try again in 1.5s.",
    ),
    "failed without a word": (
        ended("failed", error=None),
        "error upstream retryable: The upstream reported that its answer failed.",
    ),
    "flat": ({"type": "error", "code": "invalid_prompt", "message": "no"}, "error invalid_request: no"),
    "nested": (
        {"type": "error", "status": 429, "error": {"type": "usage_limit_reached", "message": "used up"}},
        "error quota_exceeded: used up",
    ),
    "plain": ({"error": {"message": "busy", "type": "server_error"}}, "error upstream retryable: busy"),
    "an object that cannot be read": (
        {"type": "response.completed", "response": 5},
        "error upstream retryable: The upstream's answer cannot be read: Expected `object`, got `int`",
    ),
}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("name", ERRORS)
def test_errors_inside_a_stream(name: str, begun: bool, sse: Sse, read: Read, lines: Lines) -> None:
    event, expected = ERRORS[name]
    data = sse([*([CREATED, delta("output_text", "a")] if begun else []), event, ended()])
    found = lines(read(data))
    assert found[-1] == expected
    assert sum(line.startswith(("error", "finished")) for line in found) == 1
    assert any(line.startswith("started") for line in found) == begun
