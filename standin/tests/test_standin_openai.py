from __future__ import annotations

from typing import Any

import openai
import pytest

from patchbay_standin import RedactedThinking, Refusal, Script, Text, Thinking, ToolCall, Usage, write_script
from patchbay_standin.testing import StandinProcess

USER = {"role": "user", "content": "marker-17 please"}
DEFAULT_TEXT = (
    "This is patchbay-standin, a scripted provider and not a language model. You asked gpt-x."
    " Your last message was: marker-17 please"
)
USAGE = {
    "prompt_tokens": 6,
    "completion_tokens": 1,
    "total_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}


def header(script: Script) -> dict[str, str]:
    return {"x-standin-script": write_script(script).decode()}


def test_completion_on_the_wire(ask: Any) -> None:
    answer = ask("openai", "gpt-x", headers=header(Script(text="Hi")))
    assert answer.status == 200
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["openai-processing-ms"] == "1"
    assert answer.headers["x-ratelimit-remaining-requests"] == "4999"
    assert answer.json == {
        "id": answer.json["id"],
        "object": "chat.completion",
        "created": answer.json["created"],
        "model": "gpt-x",
        "service_tier": "default",
        "system_fingerprint": "fp_standin",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }


@pytest.mark.parametrize("include_usage", [False, True])
def test_stream_on_the_wire(include_usage: bool, ask: Any) -> None:
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    answer = ask("openai", "gpt-x", stream=True, headers=header(Script(text="Hi")), **options)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    envelope = {
        key: answer.events[0][1][key]
        for key in ("id", "object", "created", "model", "service_tier", "system_fingerprint")
    }
    assert envelope["object"] == "chat.completion.chunk"
    rest = {"usage": None} if include_usage else {}

    def chunk(delta: dict[str, object], finish: str | None = None) -> tuple[str, object]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return "", {**envelope, "choices": [choice], **rest}

    expected: list[tuple[str, object]] = [
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"content": "Hi"}),
        chunk({}, "stop"),
    ]
    if include_usage:
        expected.append(("", {**envelope, "choices": [], "usage": USAGE}))
    assert answer.events == [*expected, ("", "[DONE]")]


SCRIPTS = {
    "text": Script(text="One two  three.\n\nFour."),
    "tools": Script(blocks=[Text(text="Two."), ToolCall(name="a", input={"x": [1, "é"]}), ToolCall(name="b")]),
    "interleaved tools": Script(
        blocks=[ToolCall(name="a", input={"x": "y" * 50}), ToolCall(name="b", input={"z": "w" * 30})],
        interleave_tools=True,
    ),
    "bad arguments": Script(blocks=[ToolCall(name="a", arguments='{"x": ')]),
    "refusal": Script(blocks=[Refusal(text="I will not.")]),
    "usage": Script(text="Hi.", usage=Usage(input=100, cache_read=60, output=7, reasoning=3)),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_sdk_reads_the_same_from_stream_and_body(
    name: str, standin: StandinProcess, openai_client: openai.OpenAI
) -> None:
    model = standin.script("scripted", SCRIPTS[name])
    arguments: Any = {"model": model, "messages": [USER]}
    whole = openai_client.chat.completions.create(**arguments)
    with openai_client.chat.completions.stream(**arguments, stream_options={"include_usage": True}) as stream:
        streamed = stream.get_final_completion()

    def comparable(completion: Any) -> Any:
        message = completion.choices[0].message
        calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        usage = completion.usage.to_dict()
        return message.content, message.refusal, calls, completion.choices[0].finish_reason, usage

    assert comparable(streamed) == comparable(whole)
    assert comparable(whole)[3] == {
        "tools": "tool_calls",
        "interleaved tools": "tool_calls",
        "bad arguments": "tool_calls",
    }.get(name, "stop")


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [("max_tokens", "length"), ("length", "length"), ("content_filter", "content_filter"), ("end_turn", "stop")],
)
def test_finish_reasons(stop_reason: str, finish_reason: str, ask: Any) -> None:
    script = header(Script(text="x", stop_reason=stop_reason))
    assert ask("openai", "m", headers=script).json["choices"][0]["finish_reason"] == finish_reason
    chunks = [data for _, data in ask("openai", "m", stream=True, headers=script).events]
    assert chunks[-2]["choices"][0]["finish_reason"] == finish_reason


def test_interleaved_fragments_alternate(ask: Any) -> None:
    answer = ask("openai", "m", stream=True, headers=header(SCRIPTS["interleaved tools"]))
    calls = [
        data["choices"][0]["delta"]["tool_calls"][0]["index"]
        for _, data in answer.events
        if data != "[DONE]" and data["choices"][0]["delta"].get("tool_calls")
    ]
    assert calls[:8] == [0, 1, 0, 1, 0, 1, 0, 1]


def test_tools_that_take_free_text(openai_client: openai.OpenAI, standin: StandinProcess) -> None:
    model = standin.script("custom", Script(blocks=[ToolCall(name="exec", text="print(1)", id="call_1")]))
    tools: Any = [{"type": "custom", "custom": {"name": "exec", "format": {"type": "text"}}}]
    arguments: Any = {"model": model, "tools": tools, "tool_choice": {"type": "custom", "custom": {"name": "exec"}}}
    whole = openai_client.chat.completions.create(messages=[USER], **arguments)
    (call,) = whole.choices[0].message.tool_calls or []
    assert call.type == "custom"
    assert (call.custom.name, call.custom.input, whole.choices[0].finish_reason) == ("exec", "print(1)", "tool_calls")
    chunks = openai_client.chat.completions.create(messages=[USER], stream=True, **arguments)
    deltas: list[Any] = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert deltas[0].custom["name"] == "exec"
    assert "".join(delta.custom["input"] for delta in deltas) == "print(1)"
    said: Any = [whole.choices[0].message.to_dict(), {"role": "tool", "tool_call_id": "call_1", "content": "1"}]
    assert openai_client.chat.completions.create(messages=[USER, *said], **arguments).usage is not None


async def test_async_sdk(standin: StandinProcess) -> None:
    async with openai.AsyncOpenAI(base_url=f"{standin.url}/api/v1", api_key="k") as client:
        stream = await client.chat.completions.create(
            model="gpt-x", messages=[{"role": "user", "content": "marker-17 please"}], stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == DEFAULT_TEXT
        assert {"gpt-standin", "standin-echo"} <= {model.id async for model in client.models.list()}


def test_several_answers(openai_client: openai.OpenAI, standin: StandinProcess) -> None:
    model = standin.script("scripted", Script(text="a b c"))
    arguments: Any = {"model": model, "messages": [USER], "n": 3}
    whole = openai_client.chat.completions.create(**arguments)
    assert [(choice.index, choice.message.content) for choice in whole.choices] == [(i, "a b c") for i in range(3)]
    indexes = [
        chunk.choices[0].index
        for chunk in openai_client.chat.completions.create(**arguments, stream=True)
        if chunk.choices[0].delta.content
    ]
    assert indexes == [0, 1, 2] * 3


def test_log_probabilities(openai_client: openai.OpenAI, standin: StandinProcess) -> None:
    model = standin.script("scripted", Script(text="a bé"))
    arguments: Any = {"model": model, "messages": [USER], "logprobs": True, "top_logprobs": 2}
    whole = openai_client.chat.completions.create(**arguments).choices[0].logprobs
    assert whole is not None
    assert whole.content is not None
    assert [(token.token, token.bytes) for token in whole.content] == [("a", [97]), (" bé", [32, 98, 195, 169])]
    assert len(whole.content[0].top_logprobs) == 2
    streamed = [
        token
        for chunk in openai_client.chat.completions.create(**arguments, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or ()
    ]
    assert streamed == whole.content


@pytest.mark.parametrize(
    ("place", "with_usage"),
    [("own_chunk", [4]), ("last_chunk", [4]), ("finish_chunk", [3]), ("each_chunk", [0, 1, 2, 3]), ("none", [])],
)
def test_where_usage_is(place: Any, with_usage: list[int], ask: Any) -> None:
    answer = ask("openai", "m", stream=True, headers=header(Script(text="a b", usage_on=place)))
    chunks = [data for _, data in answer.events if data != "[DONE]"]
    assert [index for index, chunk in enumerate(chunks) if chunk.get("usage")] == with_usage
    if place == "each_chunk":
        assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 2]
    if place == "last_chunk":
        assert chunks[-1]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_reasoning_fields(ask: Any) -> None:
    blocks: list[Any] = [Thinking(text="Hm.", signature="s"), RedactedThinking(data="d"), Text(text="Yes.")]
    expected: dict[str, list[dict[str, object]]] = {
        "reasoning_content": [{"reasoning_content": "Hm."}],
        "reasoning": [{"reasoning": "Hm."}],
        "reasoning_details": [
            {
                "reasoning": "Hm.",
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "Hm.", "format": "anthropic-claude-v1", "index": 0}
                ],
            },
            {
                "reasoning_details": [
                    {"type": "reasoning.text", "signature": "s", "format": "anthropic-claude-v1", "index": 0}
                ]
            },
            {
                "reasoning_details": [
                    {"type": "reasoning.encrypted", "data": "d", "format": "anthropic-claude-v1", "index": 1}
                ]
            },
        ],
    }
    for field, deltas in expected.items():
        script = Script(blocks=blocks, reasoning_field=field)  # type: ignore[arg-type]
        answer = ask("openai", "m", stream=True, headers=header(script))
        got = [data["choices"][0]["delta"] for _, data in answer.events if data != "[DONE]"]
        assert got[1:-2] == deltas
        message = ask("openai", "m", headers=header(script)).json["choices"][0]["message"]
        assert message["reasoning" if field == "reasoning_details" else field] == "Hm."


def test_stream_without_done(ask: Any) -> None:
    answer = ask("openai", "m", stream=True, headers=header(Script(text="a", omit_done=True)))
    assert answer.events[-1][1]["choices"][0]["finish_reason"] == "stop"


CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}

BAD_BODIES: list[tuple[object, str, str | None, str | None]] = [
    ({"messages": [USER]}, "Missing required parameter: 'model'.", "model", "missing_required_parameter"),
    ({"model": "m"}, "Missing required parameter: 'messages'.", "messages", "missing_required_parameter"),
    (
        {"model": "m", "messages": "hi"},
        "Invalid type for 'messages': expected an array, but got a string instead.",
        "messages",
        "invalid_type",
    ),
    (
        {"model": "m", "messages": []},
        "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        "messages",
        "empty_array",
    ),
    (
        {"model": "m", "messages": [{"role": "robot", "content": "x"}]},
        (
            "Invalid value: 'robot'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and"
            " 'developer'."
        ),
        "messages[0].role",
        "invalid_value",
    ),
    (
        {"model": "m", "messages": [USER, {"role": "tool", "tool_call_id": "c1", "content": "r"}]},
        "Invalid parameter: messages with role 'tool' must be a response to a preceding message with 'tool_calls'.",
        "messages.[1].role",
        None,
    ),
    (
        {"model": "m", "messages": [USER, CALL, USER]},
        (
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each"
            " 'tool_call_id'. The following tool_call_ids did not have response messages: c1"
        ),
        "messages.[2].role",
        None,
    ),
    (
        {"model": "m", "messages": [USER], "stream_options": {"include_usage": True}},
        "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
        "stream_options",
        None,
    ),
    (
        {"model": "m", "messages": [USER], "logprobs": True, "top_logprobs": 10**30},
        f"Invalid 'top_logprobs': integer above maximum value. Expected a value <= 20, but got {10**30} instead.",
        "top_logprobs",
        "integer_above_max_value",
    ),
]


@pytest.mark.parametrize(("body", "message", "param", "code"), BAD_BODIES, ids=[row[1][:40] for row in BAD_BODIES])
def test_refuses_what_the_api_refuses(
    body: object, message: str, param: str | None, code: str | None, call: Any
) -> None:
    answer = call("POST", "/v1/chat/completions", body, {"authorization": "Bearer k"})
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    assert (answer.status, answer.json) == (400, {"error": error})


def test_body_that_is_no_json(call: Any) -> None:
    answer = call("POST", "/v1/chat/completions", b"{", {"authorization": "Bearer k"})
    assert answer.status == 400
    assert answer.json["error"]["message"].startswith("We could not parse the JSON body of your request.")


def test_key_is_required(standin: StandinProcess, call: Any) -> None:
    answer = call("POST", "/v1/chat/completions", {"model": "m", "messages": [USER]}, {"x-api-key": "k"})
    assert answer.status == 401
    assert answer.json["error"]["message"].startswith("You didn't provide an API key.")
    assert call("GET", "/v1/models").status == 401


def test_unknown_path_and_model(call: Any, ask: Any) -> None:
    answer = call("POST", "/v1/nothing", {}, {"authorization": "Bearer k"})
    assert answer.json["error"]["message"] == "Invalid URL (POST /v1/nothing)"
    assert (answer.status, answer.json["error"]["code"]) == (404, None)
    answer = ask("openai", "standin-nonsense")
    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
