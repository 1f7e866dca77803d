"""Answers of the Responses API for every client, as its official SDK has them in the end, streamed and whole."""

from __future__ import annotations

import json

import anthropic
import openai
import pytest

from patchbay.dialects.sse import cut_frames
from patchbay.dialects.tool_names import ClientTool
from patchbay.testing.dialect_pairs import DIALECTS, Case, Json, answer, expected, seen, text, tool_call, tool_use

UPSTREAM = "openai_responses"
CLIENTS = tuple(DIALECTS)

HEAD: Json = {"id": "resp_1", "object": "response", "created_at": 7, "model": "gpt", "status": "in_progress"}
USAGE: Json = {"input_tokens": 25, "output_tokens": 9, "total_tokens": 34}


def event(kind: str, **fields: object) -> bytes:
    data = json.dumps({"type": f"response.{kind}", **fields}, separators=(",", ":"), ensure_ascii=False)
    return f"event: response.{kind}\ndata: {data}\n\n".encode()


def response(
    *events: bytes,
    status: str = "completed",
    output: list[Json] | None = None,
    usage: Json | None = None,
    **more: object,
) -> list[bytes]:
    """A stream of the Responses API, whose end repeats no output, as the ChatGPT backend's does."""
    end = HEAD | {"status": status, "output": output or [], "usage": usage or USAGE} | more
    return [
        event("created", response=HEAD | {"output": []}),
        event("in_progress", response=HEAD | {"output": []}),
        *events,
        event(status, response=end),
    ]


def said(index: int, *pieces: str, annotations: list[Json] | None = None, **more: object) -> bytes:
    """A message with one part, as OpenAI streams it."""
    where: Json = {"item_id": f"msg_{index}", "output_index": index, "content_index": 0}
    item: Json = {"id": f"msg_{index}", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []} | more
    whole = part | {"text": "".join(pieces), "annotations": annotations or []}
    return b"".join(
        [
            event("output_item.added", output_index=index, item=item),
            event("content_part.added", **where, part=part),
            *[event("output_text.delta", **where, delta=piece, **more) for piece in pieces],
            *[
                event("output_text.annotation.added", **where, annotation_index=at, annotation=annotation)
                for at, annotation in enumerate(annotations or [])
            ],
            event("output_text.done", **where, text=whole["text"], **more),
            event("content_part.done", **where, part=whole),
            event("output_item.done", output_index=index, item=item | {"status": "completed", "content": [whole]}),
        ]
    )


def thought(index: int, *parts: str, encrypted: str | None = None) -> bytes:
    """A reasoning item with a summary of several parts, each in two pieces."""
    item: Json = {"id": f"rs_{index}", "type": "reasoning", "summary": []}
    events = [event("output_item.added", output_index=index, item=item | {"encrypted_content": "gAAAAbegun"})]
    for number, whole in enumerate(parts):
        where: Json = {"item_id": f"rs_{index}", "output_index": index, "summary_index": number}
        part = {"type": "summary_text", "text": whole}
        events += [
            event("reasoning_summary_part.added", **where, part=part | {"text": ""}),
            event("reasoning_summary_text.delta", **where, delta=whole[:2]),
            event("reasoning_summary_text.delta", **where, delta=whole[2:]),
            event("reasoning_summary_text.done", **where, text=whole),
            event("reasoning_summary_part.done", **where, part=part),
        ]
    summary = [{"type": "summary_text", "text": whole} for whole in parts]
    done = item | {"summary": summary, "encrypted_content": encrypted}
    return b"".join([*events, event("output_item.done", output_index=index, item=done)])


def call_item(index: int, call_id: str, name: str, given: str, **more: object) -> Json:
    item: Json = {"id": f"fc_{index}", "type": "function_call", "call_id": call_id, "name": name, "arguments": given}
    return item | more


def call_begun(index: int, call_id: str, name: str) -> bytes:
    return event("output_item.added", output_index=index, item=call_item(index, call_id, name, ""))


def call_goes_on(index: int, piece: str) -> bytes:
    return event("function_call_arguments.delta", item_id=f"fc_{index}", output_index=index, delta=piece)


def call_done(index: int, call_id: str, name: str, given: str) -> bytes:
    return event("function_call_arguments.done", item_id=f"fc_{index}", output_index=index, arguments=given) + event(
        "output_item.done", output_index=index, item=call_item(index, call_id, name, given)
    )


def custom_item(given: str) -> Json:
    return {"id": "ctc_1", "type": "custom_tool_call", "call_id": "call_c", "name": "exec", "input": given}


URL_CITATION: Json = {"type": "url_citation", "url": "https://a", "title": "A", "start_index": 0, "end_index": 2}
SEARCH: Json = {
    "type": "web_search_call",
    "id": "ws_1",
    "status": "completed",
    "action": {"type": "search", "query": "q"},
}
LOGPROBS: list[Json] = [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}]
LONG = "x" * 50_000


def signed(value: str, signature: str, index: int) -> Json:
    entry = {"type": "reasoning.text", "text": value, "signature": signature}
    return entry | {"format": "openai-responses-v1", "index": index}


def thinking(value: str, signature: str = "") -> Json:
    return {"type": "thinking", "thinking": value, "signature": signature}


CASES = [
    Case("text", response(said(0, "Hé", "llo\n")), [text("Héllo\n")], "end_turn", {"content": "Héllo\n"}, "stop"),
    Case("nothing", response(), [], "end_turn", {"content": None}, "stop"),
    Case(
        "reasoning in parts, with and without its summary, before text and calls at the same time",
        response(
            thought(0, "first", "more", encrypted="gAAAAone"),
            thought(1, encrypted="gAAAAtwo"),
            said(2, "I look."),
            call_begun(3, "call_1", "f"),
            call_begun(4, "call_2", "g"),
            call_goes_on(3, '{"a"'),
            call_goes_on(4, '{"b":2}'),
            call_goes_on(3, ": 1}"),
            call_done(4, "call_2", "g", '{"b":2}'),
            call_done(3, "call_1", "f", '{"a": 1}'),
            event("output_item.done", output_index=5, item=call_item(5, "call_3", "h", "")),
            said(6, "Bye."),
        ),
        [
            thinking("first\n\nmore", "gAAAAone"),
            thinking("", "gAAAAtwo"),
            text("I look."),
            tool_use("call_1", "f", {"a": 1}),
            tool_use("call_2", "g", {"b": 2}),
            tool_use("call_3", "h", {}),
            text("Bye."),
        ],
        "tool_use",
        {
            "content": "I look.Bye.",
            "reasoning_content": "first\n\nmore",
            "reasoning_details": [signed("first\n\nmore", "gAAAAone", 0), signed("", "gAAAAtwo", 1)],
            "tool_calls": [
                tool_call("call_1", "f", '{"a": 1}'),
                tool_call("call_2", "g", '{"b":2}'),
                tool_call("call_3", "h", "{}"),
            ],
        },
        "tool_calls",
        usage=(25, 0, 0, 9, 0),
    ),
    Case(
        "a custom tool, a call of the server's own and a citation",
        response(
            event("output_item.done", output_index=0, item=SEARCH),
            said(1, "As A says.", annotations=[URL_CITATION]),
            event("output_item.added", output_index=2, item=custom_item("")),
            event("custom_tool_call_input.delta", item_id="ctc_1", output_index=2, delta='say("h'),
            event("custom_tool_call_input.delta", item_id="ctc_1", output_index=2, delta='i")'),
            event("output_item.done", output_index=2, item=custom_item('say("hi")')),
        ),
        [text("As A says."), tool_use("call_c", "exec", {"input": 'say("hi")'})],
        "tool_use",
        {
            "content": "As A says.",
            "tool_calls": [{"id": "call_c", "type": "custom", "custom": {"name": "exec", "input": 'say("hi")'}}],
        },
        "tool_calls",
        output=[
            {name: value for name, value in SEARCH.items() if name not in ("id", "status")},
            {
                "type": "message",
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": "As A says.", "annotations": [URL_CITATION], "logprobs": []}
                ],
            },
            {"type": "custom_tool_call", "call_id": "call_c", "name": "exec", "input": 'say("hi")'},
        ],
    ),
    Case(
        "a refusal in so many words",
        response(
            event("refusal.delta", item_id="msg_0", output_index=0, content_index=0, delta="I "),
            event("refusal.delta", item_id="msg_0", output_index=0, content_index=0, delta="can't."),
            event(
                "output_item.done",
                output_index=0,
                item={
                    "id": "msg_0",
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "refusal", "refusal": "I can't."}],
                },
            ),
        ),
        [text("I can't.")],
        "refusal",
        {"content": None, "refusal": "I can't."},
        "stop",
    ),
    Case(
        "log probabilities",
        response(said(0, "a", logprobs=LOGPROBS)),
        [text("a")],
        "end_turn",
        {"content": "a"},
        "stop",
        more={"logprobs": {"content": LOGPROBS, "refusal": None}},
    ),
    Case(
        "only the whole items, or only the end",
        [
            event(
                "completed",
                response=HEAD
                | {
                    "status": "completed",
                    "usage": USAGE,
                    "output": [
                        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
                        {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]},
                        call_item(2, "call_1", "f", '{"a":1}'),
                    ],
                },
            )
        ],
        [thinking("hm"), text("Hi"), tool_use("call_1", "f", {"a": 1})],
        "tool_use",
        {
            "content": "Hi",
            "reasoning_content": "hm",
            "tool_calls": [tool_call("call_1", "f", '{"a":1}')],
        },
        "tool_calls",
    ),
    Case(
        "a limit",
        response(said(0, "One"), status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        [text("One")],
        "max_tokens",
        {"content": "One"},
        "length",
    ),
    Case(
        "a filter",
        response(said(0, "One"), status="incomplete", incomplete_details={"reason": "content_filter"}),
        [text("One")],
        "refusal",
        {"content": "One"},
        "content_filter",
    ),
    Case(
        "every count there is",
        response(
            said(0, "a"),
            usage=USAGE
            | {
                "input_tokens": 30,
                "total_tokens": 39,
                "input_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 4},
                "output_tokens_details": {"reasoning_tokens": 5},
            },
        ),
        [text("a")],
        "end_turn",
        {"content": "a"},
        "stop",
        usage=(6, 4, 20, 9, 5),
    ),
    Case(
        "events and comments of tomorrow, and an item that is never done",
        response(
            b": ping\n\n",
            event("future.delta", delta={"x": 1}, output_index="?"),
            b'data: {"type":"codex.rate_limits","rate_limits":{"primary":{"used_percent":1}}}\n\n',
            b"data: not JSON\n\n",
            said(0, "Hi"),
            event(
                "output_item.added",
                output_index=1,
                item={"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAA"},
            ),
            b"data: [DONE]\n\n",
        ),
        [text("Hi")],
        "end_turn",
        {"content": "Hi"},
        "stop",
        output=[
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}],
            },
            {"type": "compaction", "encrypted_content": "gAAAA"},
        ],
    ),
    Case(
        "a huge input, and text in surrogate pairs",
        response(
            b'data: {"type":"response.output_text.delta","item_id":"m","output_index":0,"delta":"a\\ud83d"}\n\n',
            b'data: {"type":"response.output_text.delta","item_id":"m","output_index":0,"delta":"\\ude00b"}\n\n',
            call_begun(1, "call_1", "f"),
            call_goes_on(1, '{"a":"'),
            *[call_goes_on(1, LONG) for _ in range(4)],
            call_goes_on(1, '"}'),
            call_done(1, "call_1", "f", '{"a":"' + LONG * 4 + '"}'),
        ),
        [text("a😀b"), tool_use("call_1", "f", {"a": LONG * 4})],
        "tool_use",
        {"content": "a😀b", "tool_calls": [tool_call("call_1", "f", '{"a":"' + LONG * 4 + '"}')]},
        "tool_calls",
    ),
]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_sdk_has_all_of_the_answer(case: Case, client: str, stream: bool) -> None:
    got = answer(UPSTREAM, case.stream, client, stream=stream)
    assert seen(client, got) == expected(client, case)
    assert got["id"] == "resp_1"


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("case", CASES[2:3], ids=lambda case: case.name)
def test_the_sdk_raises_for_an_answer_that_breaks_off(case: Case, client: str, stream: bool) -> None:
    frames = cut_frames(b"".join(case.stream))
    for at in range(len(frames)):
        with pytest.raises((anthropic.APIError, openai.APIError)):
            answer(UPSTREAM, frames[:at], client, stream=stream)


FAILED = HEAD | {"status": "failed", "output": []}
ERRORS = [
    (
        event("failed", response=FAILED | {"error": {"code": "server_is_overloaded", "message": "At capacity"}}),
        529,
        503,
    ),
    (event("failed", response=FAILED | {"error": {"code": "rate_limit_exceeded", "message": "Slow"}}), 429, 429),
    (event("failed", response=FAILED | {"error": {"code": "context_length_exceeded", "message": "Long"}}), 400, 400),
    (event("failed", response=FAILED), 502, 502),
    (b'event: error\ndata: {"type":"error","code":"server_error","message":"Oh","sequence_number":3}\n\n', 502, 502),
    (b'data: {"type":"error","status":429,"error":{"type":"usage_limit_reached","message":"Used up"}}\n\n', 402, 429),
    (b'data: {"error":{"message":"Oh","type":"server_error","code":null}}\n\n', 502, 502),
    (b'data: {"detail":"Unsupported parameter: n"}\n\n', 502, 502),
]


@pytest.mark.parametrize("begun", [False, True], ids=["at once", "after text"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("frame", "anthropic_status", "openai_status"), ERRORS)
def test_the_sdk_raises_for_an_error_inside_the_answer(
    frame: bytes, anthropic_status: int, openai_status: int, client: str, begun: bool
) -> None:
    stream = [*(response(said(0, "Hi"))[:-1] if begun else ()), frame]
    with pytest.raises((anthropic.APIError, openai.APIError)):
        answer(UPSTREAM, stream, client, stream=True)
    with pytest.raises((anthropic.APIStatusError, openai.APIStatusError)) as raised:
        answer(UPSTREAM, stream, client, stream=False)
    assert raised.value.status_code == (anthropic_status if client == "anthropic" else openai_status)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_ids_of_calls_in_the_letters_of_an_anthropic_client(stream: bool) -> None:
    item = call_item(0, "call.1|ü", "f", "{}")
    events = response(
        event("output_item.done", output_index=0, item=item),
        event("output_item.done", output_index=1, item=item | {"id": "fc_1", "call_id": "call.1+ü"}),
    )
    content = answer(UPSTREAM, events, "anthropic", stream=stream)["content"]
    ids = [block["id"] for block in content]
    assert len(set(ids)) == 2
    assert all(call_id.isascii() and call_id.replace("_", "").isalnum() for call_id in ids)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_calls_in_a_namespace(stream: bool) -> None:
    """A client that knows namespaces has it beside the name; to another one the name is all there is."""
    events = response(
        event("output_item.done", output_index=0, item=call_item(0, "call_1", "f", "{}", namespace="tools"))
    )
    (item,) = answer(UPSTREAM, events, "openai_responses", stream=stream)["output"]
    assert (item["namespace"], item["name"]) == ("tools", "f")
    (block,) = answer(UPSTREAM, events, "anthropic", stream=stream)["content"]
    assert block["name"] == "f"
    (choice,) = answer(UPSTREAM, events, "openai_chat", stream=stream)["choices"]
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "f"


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("client", CLIENTS)
def test_names_are_turned_back(client: str, stream: bool) -> None:
    events = response(call_begun(0, "call_1", "short"), call_done(0, "call_1", "short", "{}"))
    got = answer(UPSTREAM, events, client, stream=stream, names={"short": ClientTool("a_very_long_name")})
    assert "a_very_long_name" in json.dumps(got)
    assert '"short"' not in json.dumps(got)
