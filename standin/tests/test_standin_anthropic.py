from __future__ import annotations

from typing import Any

import anthropic
import pytest

from patchbay_standin import (
    RedactedThinking,
    Script,
    ServerToolUse,
    Text,
    Thinking,
    ToolCall,
    Usage,
    write_script,
)
from patchbay_standin.testing import StandinProcess

USER = {"role": "user", "content": "marker-17 please"}
DEFAULT_TEXT = (
    "This is patchbay-standin, a scripted provider and not a language model. You asked claude-x."
    " Your last message was: marker-17 please"
)


def test_message_on_the_wire(call: Any) -> None:
    answer = call(
        "POST",
        "/v1/messages?beta=true",
        {"model": "claude-x", "max_tokens": 100, "messages": [USER]},
        {"x-api-key": "k", "anthropic-version": "2023-06-01"},
    )
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["request-id"].startswith("req_")
    assert answer.headers["anthropic-ratelimit-requests-remaining"] == "3999"
    assert answer.json == {
        "id": answer.json["id"],
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [{"type": "text", "text": DEFAULT_TEXT}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 8,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 20,
            "service_tier": "standard",
        },
    }


def test_stream_on_the_wire(ask: Any) -> None:
    script = Script(blocks=[Thinking(text="Hm.", signature="sig"), ToolCall(id="toolu_1", name="f", input={"a": 1})])
    answer = ask("anthropic", "m", stream=True, headers={"x-standin-script": write_script(script).decode()})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    start = answer.events[0][1]["message"]
    assert (start["content"], start["stop_reason"]) == ([], None)
    assert answer.events[1:] == [
        (
            "content_block_start",
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "thinking", "thinking": "", "signature": ""},
            },
        ),
        ("ping", {"type": "ping"}),
        (
            "content_block_delta",
            {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm."}},
        ),
        (
            "content_block_delta",
            {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "sig"}},
        ),
        ("content_block_stop", {"type": "content_block_stop", "index": 0}),
        (
            "content_block_start",
            {
                "type": "content_block_start",
                "index": 1,
                "content_block": {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}},
            },
        ),
        (
            "content_block_delta",
            {
                "type": "content_block_delta",
                "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'},
            },
        ),
        ("content_block_stop", {"type": "content_block_stop", "index": 1}),
        (
            "message_delta",
            {
                "type": "message_delta",
                "delta": {"stop_reason": "tool_use", "stop_sequence": None},
                "usage": {
                    "input_tokens": 6,
                    "cache_creation_input_tokens": 0,
                    "cache_read_input_tokens": 0,
                    "output_tokens": 2,
                    "output_tokens_details": {"thinking_tokens": 1},
                },
            },
        ),
        ("message_stop", {"type": "message_stop"}),
    ]


SCRIPTS = {
    "text": Script(text="One two  three.\n\nFour."),
    "thinking": Script(blocks=[Thinking(text="Let me see."), RedactedThinking(data="xyz"), Text(text="Yes.")]),
    "tools": Script(blocks=[Text(text="Two."), ToolCall(name="a", input={"x": [1, "é"]}), ToolCall(name="b")]),
    "server tool": Script(
        blocks=[
            ServerToolUse(
                input={"query": "weather"},
                result=[{"type": "web_search_result", "title": "T", "url": "https://x.test", "encrypted_content": "e"}],
            ),
            Text(
                text="It rains.",
                citations=[
                    {
                        "type": "web_search_result_location",
                        "url": "https://x.test",
                        "title": "T",
                        "encrypted_index": "i",
                        "cited_text": "rain",
                    }
                ],
            ),
        ]
    ),
    "refusal": Script(text="No.", stop_reason="refusal"),
    "usage": Script(text="Hi.", usage=Usage(input=100, cache_read=60, cache_write=30, output=7, reasoning=3)),
    "one character each": Script(text="Hello there", delta_size=1),
    "stop sequence": Script(text="Hello", stop_sequence="END"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_sdk_reads_the_same_from_stream_and_body(
    name: str, standin: StandinProcess, anthropic_client: anthropic.Anthropic
) -> None:
    model = standin.script("scripted", SCRIPTS[name])
    arguments: Any = {"model": model, "max_tokens": 100, "messages": [USER]}
    whole = anthropic_client.messages.create(**arguments)
    with anthropic_client.messages.stream(**arguments) as stream:
        streamed = stream.get_final_message()

    def comparable(message: anthropic.types.Message) -> Any:
        content = message.to_dict()
        del content["id"]
        for block in content["content"]:  # type: ignore[attr-defined]
            block.pop("id", None)
            block.pop("tool_use_id", None)
        return content

    expected = comparable(whole)
    got = comparable(streamed)
    # The stream's accumulator says null where the body says nothing.
    assert {key: value for key, value in got.items() if value is not None or key in expected} == expected


def test_stop_reasons_and_usage(standin: StandinProcess, anthropic_client: anthropic.Anthropic) -> None:
    model = standin.script("scripted", SCRIPTS["usage"])
    message = anthropic_client.messages.create(model=model, max_tokens=9, messages=[{"role": "user", "content": "x"}])
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (10, 60, 30)
    assert usage.output_tokens == 7
    for script, reason in (
        (SCRIPTS["tools"], "tool_use"),
        (SCRIPTS["refusal"], "refusal"),
        (SCRIPTS["stop sequence"], "stop_sequence"),
        (Script(text="x", stop_reason="length"), "max_tokens"),
        (Script(text="x", stop_reason="pause_turn"), "pause_turn"),
    ):
        standin.script("scripted", script)
        message = anthropic_client.messages.create(
            model="scripted", max_tokens=9, messages=[{"role": "user", "content": "x"}]
        )
        assert message.stop_reason == reason


async def test_async_sdk(standin: StandinProcess) -> None:
    async with anthropic.AsyncAnthropic(base_url=standin.url, auth_token="made-up") as client:
        async with client.messages.stream(
            model="claude-x", max_tokens=100, messages=[{"role": "user", "content": "marker-17 please"}]
        ) as stream:
            text = "".join([piece async for piece in stream.text_stream])
        assert text == DEFAULT_TEXT
        count = await client.messages.count_tokens(model="m", messages=[{"role": "user", "content": "x" * 400}])
        assert count.input_tokens == 104
        models = [model.id async for model in client.models.list()]
        assert {"claude-standin", "standin-echo"} <= set(models)
        assert (await client.models.retrieve("standin-echo")).id == "standin-echo"


CALL = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]}


def result(identity: str) -> dict[str, object]:
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": identity, "content": "r"}]}


BAD_BODIES: list[tuple[object, str]] = [
    (b"{", "The request body is not valid JSON: Input data was truncated"),
    ({"messages": [USER], "max_tokens": 1}, "model: Field required"),
    ({"model": "m", "messages": [USER]}, "max_tokens: Field required"),
    ({"model": "m", "max_tokens": 1}, "messages: Field required"),
    ({"model": "m", "max_tokens": "1", "messages": [USER]}, "max_tokens: Input should be a valid integer"),
    (
        {"model": "m", "max_tokens": 0, "messages": [USER]},
        "max_tokens: Input should be greater than or equal to 1",
    ),
    ({"model": "m", "max_tokens": 1, "messages": []}, "messages: at least one message is required"),
    (
        {"model": "m", "max_tokens": 1, "messages": [{"role": "tool", "content": "x"}]},
        "messages.0.role: Input should be 'user' or 'assistant'",
    ),
    (
        {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": ""}]},
        "messages.0: all messages must have non-empty content except for the optional final assistant message",
    ),
    (
        {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
        "messages: text content blocks must be non-empty",
    ),
    (
        {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "smell"}]}]},
        (
            "messages.0.content.0: Input tag 'smell' found using 'type' does not match any of the expected tags:"
            " 'text', 'image', 'document', 'thinking', 'redacted_thinking', 'tool_use', 'tool_result'"
        ),
    ),
    (
        {"model": "m", "max_tokens": 1, "messages": [USER, CALL, USER]},
        (
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: t1. Each `tool_use`"
            " block must have a corresponding `tool_result` block in the next message."
        ),
    ),
    (
        {"model": "m", "max_tokens": 1, "messages": [USER, CALL]},
        (
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: t1. Each `tool_use`"
            " block must have a corresponding `tool_result` block in the next message."
        ),
    ),
    (
        {"model": "m", "max_tokens": 1, "messages": [USER, CALL, result("t2")]},
        (
            "messages.2.content.0: unexpected `tool_use_id` found in `tool_result` blocks: t2. Each `tool_result` block"
            " must have a corresponding `tool_use` block in the previous message."
        ),
    ),
    (
        {"model": "m", "max_tokens": 1, "messages": [USER], "tool_choice": {"type": "some"}},
        (
            "tool_choice: Input tag 'some' found using 'type' does not match any of the expected tags: 'auto', 'any',"
            " 'tool', 'none'"
        ),
    ),
    (
        {"model": "m", "max_tokens": 1, "messages": [USER], "tools": [{"name": "look", "input_schema": []}]},
        "tools.0.custom.input_schema: Input should be a valid dictionary",
    ),
]


@pytest.mark.parametrize(("body", "message"), BAD_BODIES, ids=[text[:40] for _, text in BAD_BODIES])
def test_refuses_what_the_api_refuses(body: object, message: str, call: Any) -> None:
    answer = call("POST", "/v1/messages", body, {"x-api-key": "k", "anthropic-version": "2023-06-01"})
    assert (answer.status, answer.json["type"]) == (400, "error")
    assert answer.json["error"] == {"type": "invalid_request_error", "message": message}
    assert answer.json["request_id"] == answer.headers["request-id"]


@pytest.mark.parametrize(
    ("headers", "status", "kind", "message"),
    [
        ({"anthropic-version": "2023-06-01"}, 401, "authentication_error", "x-api-key header is required"),
        ({"x-api-key": "k"}, 400, "invalid_request_error", "anthropic-version: header is required"),
    ],
)
def test_headers_that_are_required(headers: dict[str, str], status: int, kind: str, message: str, call: Any) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        answer = call("POST", path, {"model": "m", "max_tokens": 1, "messages": [USER]}, headers)
        assert (answer.status, answer.json["error"]) == (status, {"type": kind, "message": message})


def test_other_paths(call: Any) -> None:
    head = call("HEAD", "/")
    assert (head.status, head.body) == (200, b"")
    missing = call("POST", "/v1/nothing", {}, {"x-api-key": "k", "anthropic-version": "2023-06-01"})
    assert (missing.status, missing.json["error"]) == (404, {"type": "not_found_error", "message": "Not Found"})
