"""What a client of the Responses API gets: the events of its stream, and the object that they amount to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from patchbay import errors
from patchbay.canonical import BlockStart, ChatEvent, Error, Finished, TextDelta, TextStart, Usage
from patchbay.dialects.base import AnswerOptions
from patchbay.dialects.builder import EventBuilder
from patchbay.dialects.openai_responses import echo_of, write_events
from patchbay.dialects.sse import parse_frames
from patchbay.dialects.tool_names import ClientTool
from patchbay.errors import PatchbayError, make_error

Json = dict[str, Any]

STREAM = AnswerOptions(stream=True, model="asked", fallback_id="req_1", created=9)
BODY = AnswerOptions(stream=False, model="asked", fallback_id="req_1", created=9)
END_TURN = Finished(stop_reason=Finished.STOP_REASON_END_TURN)
MAX_TOKENS = Finished(stop_reason=Finished.STOP_REASON_MAX_TOKENS)


def write(events: Iterable[ChatEvent], options: AnswerOptions = STREAM) -> list[Json]:
    """The events of the stream, each numbered and named as it must be."""
    writer = write_events(options)
    data = b"".join([writer.feed([event]) for event in events]) + writer.close()
    frames = parse_frames(data)
    found: list[Json] = [json.loads(frame.data) for frame in frames]
    assert [frame.event.decode() for frame in frames] == [event["type"] for event in found]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def whole(events: Iterable[ChatEvent], options: AnswerOptions = BODY) -> Json:
    writer = write_events(options)
    assert writer.feed(events) == b""
    body: Json = json.loads(writer.close())
    return body


def names(found: Iterable[Json]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in found]


def answer(builder: EventBuilder, finished: Finished = END_TURN) -> list[ChatEvent]:
    builder.close_blocks()
    builder.finished(finished)
    return builder.take()


def everything() -> list[ChatEvent]:
    builder = EventBuilder()
    builder.started(answer_id="msg_1", model="claude", created=5)
    builder.thinking("th")
    builder.thinking("ink")
    builder.signature("gAAAAsigned")
    builder.text("a")
    builder.refusal("no")
    builder.tool_call(0, call_id="c", tool=ClientTool("f", "ns"))
    builder.tool_call(1, call_id="d", tool=ClientTool("g"), text_input=True)
    builder.tool_input(1, "x")
    builder.tool_input(0, '{"a"')
    builder.tool_input(0, ":1}")
    builder.opaque("openai_responses", '{"type":"web_search_call",\n"id":"w"}')
    builder.opaque("anthropic", '{"type":"server_tool_use"}')
    builder.redacted_thinking("AA==")
    builder.usage(Usage(input_tokens=3, cache_read_tokens=4, output_tokens=5))
    return answer(builder)


def test_the_whole_sequence() -> None:
    found = write(everything())
    assert names(found) == [
        *["created", "in_progress"],
        *["output_item.added", "reasoning_summary_part.added"],
        *["reasoning_summary_text.delta", "reasoning_summary_text.delta"],
        *["reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"],
        *["output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done"],
        *["content_part.added", "refusal.delta", "refusal.done", "content_part.done", "output_item.done"],
        *["output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"],
        *["function_call_arguments.done", "output_item.done"],
        *["output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done"],
        *["output_item.added", "output_item.done"],
        *["output_item.added", "output_item.done"],
        "completed",
    ]
    done = [event for event in found if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in done] == [0, 1, 2, 3, 4, 5]
    final = found[-1]["response"]
    assert [event["item"] for event in done] == final["output"]
    assert final["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12,
    }


def test_the_stream_and_the_whole_are_one_answer() -> None:
    final = write(everything())[-1]["response"]
    assert final == whole(everything())
    assert [item["type"] for item in final["output"]] == [
        *["reasoning", "message", "function_call", "custom_tool_call", "web_search_call", "reasoning"],
    ]
    assert final["output"][0]["encrypted_content"] == "gAAAAsigned"
    assert final["output"][2] == {
        "id": final["output"][2]["id"],
        "type": "function_call",
        "status": "completed",
        "call_id": "c",
        "name": "f",
        "namespace": "ns",
        "arguments": '{"a":1}',
    }


def test_every_event_of_an_item_names_it() -> None:
    found = write(everything())
    ids = {
        event["output_index"]: event["item"]["id"] for event in found if event["type"] == "response.output_item.added"
    }
    for event in found:
        if "item_id" in event:
            assert event["item_id"] == ids[event["output_index"]]
        elif "item" in event:
            assert event["item"]["id"] == ids[event["output_index"]]
    assert [item_id.split("_")[0] for item_id in ids.values()] == ["rs", "msg", "fc", "ctc", "w", "rs"]
    assert all(len(item_id) <= 64 for item_id in ids.values())


def test_ids_differ_from_answer_to_answer() -> None:
    other = AnswerOptions(stream=False, fallback_id="req_2")
    first, second = whole(everything()), whole(everything(), other)
    assert (first["id"], second["id"]) == ("resp_req_1", "resp_req_2")
    assert not {item["id"] for item in first["output"][:4]} & {item["id"] for item in second["output"][:4]}


@pytest.mark.parametrize(
    ("upstream", "fallback", "expected"),
    [("resp_up", "f", "resp_up"), ("msg_1", "f", "resp_f"), ("msg_1", "", "resp_msg_1"), ("", "resp_f", "resp_f")],
)
def test_the_id_of_the_answer(upstream: str, fallback: str, expected: str) -> None:
    builder = EventBuilder()
    builder.started(answer_id=upstream)
    assert whole(answer(builder), AnswerOptions(stream=False, fallback_id=fallback))["id"] == expected


def test_a_call_without_input_has_an_object() -> None:
    builder = EventBuilder()
    builder.tool_call(0, call_id="c", tool=ClientTool("f"))
    builder.tool_call(1, call_id="d", tool=ClientTool("g"), text_input=True)
    found = write(answer(builder))
    assert [event["delta"] for event in found if event["type"].endswith(".delta")] == ["{}"]
    output = found[-1]["response"]["output"]
    assert (output[0]["arguments"], output[1]["input"]) == ("{}", "")


@pytest.mark.parametrize("text_input", [False, True])
@pytest.mark.parametrize("reason", [Finished.STOP_REASON_MAX_TOKENS, Finished.STOP_REASON_CONTENT_FILTER])
def test_a_call_that_was_cut_off_is_not_told_complete(text_input: bool, reason: Finished.StopReason.ValueType) -> None:
    builder = EventBuilder()
    builder.tool_call(0, call_id="c", tool=ClientTool("f"))
    builder.tool_input(0, "{")
    builder.tool_call(1, call_id="d", tool=ClientTool("g"), text_input=text_input)
    builder.tool_input(1, '{"a":')
    found = write(answer(builder, Finished(stop_reason=reason)))
    # The first one was left for the second: it is complete, whatever it says.
    assert [event["item"]["call_id"] for event in found if event["type"] == "response.output_item.done"] == ["c"]
    assert found[-1]["type"] == "response.incomplete"
    first, second = found[-1]["response"]["output"]
    assert (first["status"], second["status"]) == ("completed", "incomplete")
    assert not any(event["type"].endswith((".done", "completed")) for event in found[-2:])


def test_a_whole_call_before_a_limit_is_complete() -> None:
    builder = EventBuilder()
    builder.tool_call(0, call_id="c", tool=ClientTool("f"))
    builder.tool_input(0, '{"a":1}')
    found = write(answer(builder, MAX_TOKENS))
    assert names(found)[-3:] == ["function_call_arguments.done", "output_item.done", "incomplete"]


def test_a_call_without_any_input_before_a_limit_is_not() -> None:
    builder = EventBuilder()
    builder.tool_call(0, call_id="c", tool=ClientTool("f"))
    found = write(answer(builder, MAX_TOKENS))
    assert names(found)[-2:] == ["output_item.added", "incomplete"]


ENDINGS: list[tuple[Finished, str, Json]] = [
    (END_TURN, "completed", {"incomplete_details": None}),
    (MAX_TOKENS, "incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}),
    (
        Finished(stop_reason=Finished.STOP_REASON_CONTEXT_WINDOW),
        "incomplete",
        {"incomplete_details": {"reason": "max_output_tokens"}},
    ),
    (
        Finished(stop_reason=Finished.STOP_REASON_REFUSAL),
        "incomplete",
        {"incomplete_details": {"reason": "content_filter"}},
    ),
    (
        Finished(stop_reason=Finished.STOP_REASON_OTHER, raw="max_messages"),
        "incomplete",
        {"incomplete_details": {"reason": "max_messages"}},
    ),
    (Finished(stop_reason=Finished.STOP_REASON_OTHER, raw="x"), "completed", {"incomplete_details": None}),
    (Finished(stop_reason=Finished.STOP_REASON_PAUSE_TURN), "completed", {"end_turn": False}),
    (Finished(), "completed", {"usage": None}),
]


@pytest.mark.parametrize(("finished", "status", "expected"), ENDINGS)
def test_endings(finished: Finished, status: str, expected: Json) -> None:
    builder = EventBuilder()
    builder.text("a")
    last = write(answer(builder, finished))[-1]
    response = last["response"]
    assert (last["type"], response["status"]) == (f"response.{status}", status)
    assert {name: response[name] for name in expected} == expected
    assert response["output"][0]["status"] == status


def test_what_anyone_has_signed_or_hidden_is_sent() -> None:
    builder = EventBuilder()
    builder.thinking("a")
    builder.signature("EpABforeign")
    builder.redacted_thinking("AA==")
    builder.signature("EpABalone")
    builder.text("b")
    (thinking, hidden, alone, message) = whole(answer(builder))["output"]
    assert thinking == {
        "id": thinking["id"],
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "a"}],
        "encrypted_content": "patchbay-signed:EpABforeign",
    }
    assert (hidden["summary"], hidden["encrypted_content"]) == ([], "patchbay-redacted:AA==")
    assert (alone["summary"], alone["encrypted_content"]) == ([], "patchbay-signed:EpABalone")
    assert message["type"] == "message"


def test_log_probabilities_and_annotations() -> None:
    builder = EventBuilder()
    builder.text("a", logprobs_json='[{"token":"a"},\n{"token":"b"}]')
    builder.text("b")
    builder.text("", logprobs_json='[{"token":"c"}]')
    builder.citation("openai_responses", '{"x":\n1}')
    builder.citation("anthropic", '{"y":1}')
    found = write(answer(builder))
    deltas = [event for event in found if event["type"] == "response.output_text.delta"]
    assert [event["logprobs"] for event in deltas] == [[{"token": "a"}, {"token": "b"}], [], [{"token": "c"}]]
    (annotation,) = [event for event in found if event["type"] == "response.output_text.annotation.added"]
    assert (annotation["annotation"], annotation["annotation_index"]) == ({"x": 1}, 0)
    (part,) = found[-1]["response"]["output"][0]["content"]
    assert part == {
        "type": "output_text",
        "annotations": [{"x": 1}],
        "logprobs": [{"token": "a"}, {"token": "b"}, {"token": "c"}],
        "text": "ab",
    }


REQUEST: Json = {
    "model": "m",
    "input": "hi",
    "instructions": "Be brief.",
    "tools": [{"type": "function", "name": "f"}],
    "text": {"verbosity": "low"},
    "reasoning": {"effort": "low"},
    "temperature": 0.5,
    "store": False,
    "max_output_tokens": None,
    "metadata": {"a": "b"},
    "future": 1,
}


def test_the_request_is_repeated() -> None:
    options = AnswerOptions(stream=True, model="m", echo=echo_of(json.dumps(REQUEST, indent=1).encode()))
    builder = EventBuilder()
    builder.text("a")
    found = write(answer(builder), options)
    for event in (found[0], found[1], found[-1]):
        response = event["response"]
        for name in ("instructions", "tools", "temperature", "store", "metadata"):
            assert response[name] == REQUEST[name]
        assert response["text"] == {"verbosity": "low", "format": {"type": "text"}}
        assert response["reasoning"] == {"effort": "low", "summary": None}
        assert (response["tool_choice"], response["top_p"], response["max_output_tokens"]) == ("auto", 1.0, None)
        assert "future" not in response
        assert "input" not in response


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"{"])
def test_no_request_to_repeat(body: bytes) -> None:
    assert echo_of(body) == {}


FAILURES: list[tuple[Error, str, str]] = [
    (
        make_error(errors.RATE_LIMITED, "Slow.", retry_after=1.5),
        "rate_limit_exceeded",
        "Slow. Please try again in 1.500s.",
    ),
    (make_error(errors.RATE_LIMITED, "try again in 2s", retry_after=2), "rate_limit_exceeded", "try again in 2s"),
    (make_error(errors.RATE_LIMITED, "Slow."), "rate_limit_exceeded", "Slow."),
    (make_error(errors.QUOTA_EXCEEDED, "Used up.", retry_after=9), "insufficient_quota", "Used up."),
    (make_error(errors.QUOTA_EXCEEDED, "No.", upstream_code="usage_not_included"), "usage_not_included", "No."),
    (make_error(errors.OVERLOADED, "Busy."), "slow_down", "Busy."),
    (make_error(errors.OVERLOADED, "Full.", upstream_code="server_is_overloaded"), "server_is_overloaded", "Full."),
    (make_error(errors.UPSTREAM, "Oh."), "server_error", "Oh."),
    (make_error(errors.UPSTREAM, "Oh.", retryable=False), "invalid_prompt", "Oh."),
    (make_error(errors.INTERNAL, "Oh."), "server_error", "Oh."),
    (make_error(errors.TIMEOUT, "Late."), "server_error", "Late."),
    (make_error(errors.CONTEXT_LENGTH, "Long."), "context_length_exceeded", "Long."),
    (make_error(errors.INVALID_REQUEST, "No.", upstream_code="invalid_encrypted_content"), "invalid_prompt", "No."),
    (make_error(errors.AUTHENTICATION, "Who?"), "invalid_prompt", "Who?"),
    (Error(code=99, message="New."), "invalid_prompt", "New."),  # type: ignore[arg-type]
    (Error(code=99, message="New.", retryable=True), "server_error", "New."),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("error", "code", "message"), FAILURES)
def test_failures(error: Error, code: str, message: str) -> None:
    builder = EventBuilder()
    builder.text("a")
    builder.tool_call(0, call_id="c", tool=ClientTool("f"))
    builder.tool_input(0, "{")
    builder.error(error)
    builder.text("after")
    found = write(builder.take())
    response = found[-1]["response"]
    assert (found[-1]["type"], response["status"]) == ("response.failed", "failed")
    assert response["error"] == {"code": code, "message": message}
    assert [(item["type"], item["status"]) for item in response["output"]] == [
        ("message", "completed"),
        ("function_call", "incomplete"),
    ]
    with pytest.raises(PatchbayError) as raised:
        whole([ChatEvent(error=error)])
    assert raised.value.error == error


def test_a_failure_at_once_is_an_answer_all_the_same() -> None:
    """The official SDK fails on a stream that does not begin with `response.created`."""
    found = write([ChatEvent(error=make_error(errors.OVERLOADED, "Busy."))])
    assert names(found) == ["created", "in_progress", "failed"]


def test_an_answer_that_never_ends() -> None:
    builder = EventBuilder()
    builder.text("a")
    events = builder.take()
    found = write(events)
    assert found[-1]["response"]["error"]["code"] == "server_error"
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == "a"
    with pytest.raises(PatchbayError):
        whole(events)


def test_only_the_first_choice_is_written() -> None:
    builder = EventBuilder()
    builder.text("a")
    builder.text("b", choice=1)
    builder.close_blocks()
    builder.finished(Finished(choice=1, stop_reason=Finished.STOP_REASON_MAX_TOKENS))
    builder.finished(END_TURN)
    response = whole(builder.take())
    assert response["status"] == "completed"
    assert [part["text"] for item in response["output"] for part in item["content"]] == ["a"]


def test_a_delta_of_another_kind_than_its_block_is_not_lost() -> None:
    events = [
        ChatEvent(block_start=BlockStart(index=0, text=TextStart())),
        ChatEvent(text_delta=TextDelta(index=0, text="a")),
        ChatEvent(thinking_delta={"index": 0, "text": "h"}),
        ChatEvent(text_delta=TextDelta(index=0, text="b")),
        ChatEvent(finished=END_TURN),
    ]
    output = whole(events)["output"]
    assert [item["type"] for item in output] == ["message", "reasoning", "message"]


def test_signs_of_life() -> None:
    writer = write_events(STREAM)
    assert writer.ping() == b": ping\n\n"
    writer.close()
    assert writer.ping() == b""
    assert write_events(BODY).ping() == b""
