"""The official OpenAI SDK, blocking and not, streaming and not, over every kind of upstream."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel
from ways import MODES, PDF, PIXEL, WEATHER_SCHEMA, Way, only, script_model, streams

from patchbay_standin import ErrorReply, RedactedThinking, Refusal, Script, Text, Thinking, ToolCall, Usage
from patchbay_standin.testing import StandinProcess

Body = dict[str, Any]

HELLO: Body = {"role": "user", "content": "Hello"}
SYSTEM: Body = {"role": "system", "content": "You are a helpful assistant."}
WEATHER_CALL = ToolCall(name="get_weather", input={"city": "Lisbon", "unit": "celsius"}, id="call_weather")
TIME_CALL = ToolCall(name="get_time", input={"zone": "Europe/Lisbon"}, id="call_time")
TIME_SCHEMA: Body = {"type": "object", "properties": {"zone": {"type": "string"}}}
WEATHER_TOOL: Body = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather.", "parameters": WEATHER_SCHEMA},
}
TIME_TOOL: Body = {"type": "function", "function": {"name": "get_time", "parameters": TIME_SCHEMA}}
ANTHROPIC_TOOLS = [
    {"name": "get_weather", "description": "The weather.", "input_schema": WEATHER_SCHEMA},
    {"name": "get_time", "input_schema": TIME_SCHEMA},
]


@pytest.fixture(params=["direct-openai", "openai", "codebuddy", "anthropic"])
def way(request: pytest.FixtureRequest, way_to: Callable[[str], Way]) -> Way:
    return way_to(request.param)


@pytest.fixture(params=["openai", "codebuddy", "anthropic"])
def through(request: pytest.FixtureRequest, way_to: Callable[[str], Way]) -> Way:
    """Only the ways that lead through Patchbay."""
    return way_to(request.param)


@pytest.fixture(params=["direct-openai", "openai", "codebuddy"])
def same_dialect(request: pytest.FixtureRequest, way_to: Callable[[str], Way]) -> Way:
    return way_to(request.param)


@pytest.fixture
def translated(way_to: Callable[[str], Way]) -> Way:
    return way_to("anthropic")


def options_of(way: Way) -> Body:
    return {"base_url": f"{way.url}/v1", "api_key": "sk-made-up", "max_retries": 0, "timeout": 20}


def client_of(way: Way) -> openai.OpenAI:
    return openai.OpenAI(**options_of(way))


async def ask(way: Way, mode: str, model: str, **request: Any) -> ChatCompletion:
    """One answer, however it is asked for; a streamed one is put together by the SDK."""
    request = {"messages": [HELLO], **request, "model": model}
    if mode.startswith("async"):
        async with openai.AsyncOpenAI(**options_of(way)) as client:
            if not streams(mode):
                answer: ChatCompletion = await client.chat.completions.create(**request)
                return answer
            stream = await client.chat.completions.create(**request, stream=True)
            return _put_together([chunk async for chunk in stream])
    with client_of(way) as blocking:
        if not streams(mode):
            return blocking.chat.completions.create(**request)  # type: ignore[no-any-return]
        return _put_together(list(blocking.chat.completions.create(**request, stream=True)))


def _put_together(chunks: list[ChatCompletionChunk]) -> ChatCompletion:
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in chunks:
        state.handle_chunk(chunk)
    # Its final completion would raise for some finish reasons, before the test could see them.
    snapshot = state.current_completion_snapshot.model_dump()
    return ChatCompletion.model_validate({**snapshot, "object": "chat.completion"})


def message_of(completion: ChatCompletion) -> Body:
    """The message without the fields that say nothing."""
    (choice,) = completion.choices
    message = choice.message.model_dump(exclude_none=True, mode="json")
    return {name: value for name, value in message.items() if value not in ([], "")}


def calls_of(completion: ChatCompletion) -> list[tuple[str, str, object]]:
    (choice,) = completion.choices
    return [
        (call.id, call.function.name, json.loads(call.function.arguments))
        for call in choice.message.tool_calls or ()
        if call.type == "function"
    ]


def openai_body(way: Way, mode: str, model: str, **request: Any) -> Body:
    """What an upstream of the client's own dialect has to get."""
    body: Body = {"messages": [HELLO], **request, "model": model}
    if way.upstream == "codebuddy":
        if body["messages"][0]["role"] != "system":
            body["messages"] = [SYSTEM, *body["messages"]]
        if "max_completion_tokens" in body:
            body["max_tokens"] = body.pop("max_completion_tokens")
        return {**body, "stream": True, "stream_options": {"include_usage": True}}
    if streams(mode):
        body["stream"] = True
        if not way.direct:
            # Usage is accounted whether the client wants to see it or not.
            body["stream_options"] = {"include_usage": True}
    return body


def anthropic_body(model: str, messages: list[Body], **more: Any) -> Body:
    return {"model": model, "max_tokens": 32_000, "stream": True, "messages": messages, **more}


def check_body(way: Way, upstream: StandinProcess, *, openai: Body, anthropic: Body) -> None:
    """Compares the whole body on the upstream's wire."""
    assert only(upstream).body == (anthropic if way.upstream == "anthropic" else openai)


def said(text: str) -> Body:
    """A user's words as an Anthropic message."""
    return {"role": "user", "content": [{"type": "text", "text": text}]}


@pytest.mark.parametrize("mode", MODES)
async def test_text_and_usage(way: Way, mode: str, upstream: StandinProcess) -> None:
    script = Script(
        text="Good day to you, reader.",
        usage=Usage(input=100, cache_read=60, cache_write=20, output=9, reasoning=4),
    )
    more: Body = {
        "messages": [{"role": "system", "content": "Be brief."}, HELLO],
        "temperature": 0.5,
        "max_completion_tokens": 50,
    }
    asked: Body = {"stream_options": {"include_usage": True}} if streams(mode) else {}

    completion = await ask(way, mode, way.scripted(script), **more, **asked)

    assert message_of(completion) == {"role": "assistant", "content": "Good day to you, reader."}
    assert completion.choices[0].finish_reason == "stop"
    assert (completion.object, completion.model) == ("chat.completion", "standin-script")
    usage = completion.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (100, 9, 109)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 60
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 4
    check_body(
        way,
        upstream,
        openai=openai_body(way, mode, script_model(script), **more, **asked),
        anthropic=anthropic_body(
            script_model(script),
            [said("Hello")],
            system=[{"type": "text", "text": "Be brief."}],
            temperature=0.5,
            max_tokens=50,
        ),
    )


@pytest.mark.parametrize("place", ["own_chunk", "last_chunk", "finish_chunk", "each_chunk"])
@pytest.mark.parametrize("asked", [True, False], ids=["asked", "not-asked"])
async def test_usage_wherever_the_upstream_says_it(same_dialect: Way, place: Any, asked: bool) -> None:
    way = same_dialect
    script = Script(text="One two three", usage=Usage(input=11, output=3), usage_on=place)
    more: Body = {"stream_options": {"include_usage": True}} if asked else {}

    with client_of(way) as client:
        chunks = list(client.chat.completions.create(model=way.scripted(script), messages=[HELLO], stream=True, **more))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "One two three"
    reports = [chunk for chunk in chunks if chunk.usage is not None]
    if asked:
        assert reports
        assert reports[-1].usage is not None
        assert reports[-1].usage.prompt_tokens == 11
        assert reports[-1].usage.completion_tokens == 3


@pytest.mark.parametrize("mode", ["sync-stream", "async-stream"])
async def test_no_usage_unless_asked(way: Way, mode: str) -> None:
    completion = await ask(way, mode, way.model("standin-json"))

    assert completion.usage is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("interleave", [False, True], ids=["in-a-row", "interleaved"])
async def test_parallel_tools(way: Way, mode: str, interleave: bool, upstream: StandinProcess) -> None:
    script = Script(blocks=[Text(text="Two at once."), WEATHER_CALL, TIME_CALL], interleave_tools=interleave)
    more: Body = {"tools": [WEATHER_TOOL, TIME_TOOL], "tool_choice": "required"}

    completion = await ask(way, mode, way.scripted(script), **more)

    assert completion.choices[0].message.content == "Two at once."
    assert calls_of(completion) == [
        ("call_weather", "get_weather", WEATHER_CALL.input),
        ("call_time", "get_time", TIME_CALL.input),
    ]
    assert completion.choices[0].finish_reason == "tool_calls"
    check_body(
        way,
        upstream,
        openai=openai_body(way, mode, script_model(script), **more),
        anthropic=anthropic_body(
            script_model(script), [said("Hello")], tools=ANTHROPIC_TOOLS, tool_choice={"type": "any"}
        ),
    )


@pytest.mark.parametrize(
    ("choice", "anthropic"),
    [
        ({"tool_choice": "auto"}, {"tool_choice": {"type": "auto"}}),
        ({"tool_choice": "none"}, {"tool_choice": {"type": "none"}}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "get_time"}}},
            {"tool_choice": {"type": "tool", "name": "get_time"}},
        ),
        ({"parallel_tool_calls": False}, {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}),
    ],
    ids=["auto", "none", "named", "one-at-a-time"],
)
async def test_tool_choice(way: Way, choice: Body, anthropic: Body, upstream: StandinProcess) -> None:
    completion = await ask(way, "sync-stream", way.model("standin"), tools=[WEATHER_TOOL, TIME_TOOL], **choice)

    called = [name for _, name, _ in calls_of(completion)]
    assert called == (["get_time"] if isinstance(choice.get("tool_choice"), dict) else [])
    check_body(
        way,
        upstream,
        openai=openai_body(way, "sync-stream", "standin", tools=[WEATHER_TOOL, TIME_TOOL], **choice),
        anthropic=anthropic_body("standin", [said("Hello")], tools=ANTHROPIC_TOOLS, **anthropic),
    )


@pytest.mark.parametrize("mode", MODES)
async def test_tool_round_trip(way: Way, mode: str, upstream: StandinProcess) -> None:
    text = 'Please use tool get_weather {"city": "Lisbon"} and use tool get_time {"zone": "UTC"} now.'
    question: Body = {"role": "user", "content": text}
    tools = [WEATHER_TOOL, TIME_TOOL]
    first = await ask(way, mode, way.model("standin"), messages=[question], tools=tools)
    weather, time = first.choices[0].message.tool_calls or ()
    assert [arguments for _, _, arguments in calls_of(first)] == [{"city": "Lisbon"}, {"zone": "UTC"}]
    echoed = first.choices[0].message.model_dump(exclude_none=True)
    results: list[Body] = [
        {"role": "tool", "tool_call_id": weather.id, "content": "21 degrees"},
        {"role": "tool", "tool_call_id": time.id, "content": [{"type": "text", "text": "noon"}]},
    ]
    upstream.reset()

    second = await ask(way, mode, way.model("standin"), messages=[question, echoed, *results], tools=tools)

    assert message_of(second)["content"] == "The tool answered: 21 degrees\nThe tool answered: noon"
    body = only(upstream).body
    assert isinstance(body, dict)
    if way.upstream == "anthropic":
        assert body == anthropic_body(
            "standin",
            [
                said(text),
                {
                    "role": "assistant",
                    "content": [
                        {"type": "tool_use", "id": weather.id, "name": "get_weather", "input": {"city": "Lisbon"}},
                        {"type": "tool_use", "id": time.id, "name": "get_time", "input": {"zone": "UTC"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": weather.id,
                            "content": [{"type": "text", "text": "21 degrees"}],
                        },
                        {"type": "tool_result", "tool_use_id": time.id, "content": [{"type": "text", "text": "noon"}]},
                    ],
                },
            ],
            tools=ANTHROPIC_TOOLS,
        )
    elif way.upstream == "openai":
        assert body == openai_body(way, mode, "standin", messages=[question, echoed, *results], tools=tools)
    else:
        assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool", "tool"]
        # Streamed calls keep their `index`, which is not of a request.
        written = [{**call, "index": index} for index, call in enumerate(body["messages"][2]["tool_calls"])]
        assert written == [{**call, "index": index} for index, call in enumerate(echoed["tool_calls"])]
        assert [message["content"] for message in body["messages"][3:]] == ["21 degrees", "noon"]


@pytest.mark.parametrize("mode", MODES)
async def test_pictures_and_documents(way: Way, mode: str, upstream: StandinProcess) -> None:
    messages: list[Body] = [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                {"type": "image_url", "image_url": {"url": "https://pictures.example/cat.png"}},
                {
                    "type": "file",
                    "file": {"filename": "report.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
                },
                {"type": "text", "text": "What is this?"},
            ],
        }
    ]

    completion = await ask(way, mode, way.model("standin"), messages=messages)

    assert message_of(completion)["content"].endswith("Your last message was: What is this?")
    check_body(
        way,
        upstream,
        openai=openai_body(way, mode, "standin", messages=messages),
        anthropic=anthropic_body(
            "standin",
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                        {"type": "image", "source": {"type": "url", "url": "https://pictures.example/cat.png"}},
                        {
                            "type": "document",
                            "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                            "title": "report.pdf",
                        },
                        {"type": "text", "text": "What is this?"},
                    ],
                }
            ],
        ),
    )


@pytest.mark.parametrize("mode", MODES)
async def test_reasoning_is_shown(way: Way, mode: str, upstream: StandinProcess) -> None:
    script = Script(blocks=[Thinking(text="A simple question, then.", signature=""), Text(text="Yes.")])

    completion = await ask(way, mode, way.scripted(script), reasoning_effort="low", max_completion_tokens=9000)

    message = message_of(completion)
    assert message["reasoning_content"] == "A simple question, then."
    assert message["content"] == "Yes."
    check_body(
        way,
        upstream,
        openai=openai_body(way, mode, script_model(script), reasoning_effort="low", max_completion_tokens=9000),
        anthropic=anthropic_body(
            script_model(script),
            [said("Hello")],
            max_tokens=9000,
            thinking={"type": "enabled", "budget_tokens": 4096},
        ),
    )


@pytest.mark.parametrize("mode", MODES)
async def test_signed_thinking_survives_an_echo(translated: Way, mode: str, upstream: StandinProcess) -> None:
    """A client of this dialect keeps what it does not know, and so the provider gets its signature back."""
    script = Script(
        blocks=[
            Thinking(text="First thought.", signature="b25l"),
            RedactedThinking(data="c2VjcmV0"),
            Text(text="A look-up."),
            WEATHER_CALL,
        ]
    )
    first = await ask(translated, mode, translated.scripted(script), tools=[WEATHER_TOOL])
    message = message_of(first)
    assert message["reasoning_content"] == "First thought."
    assert message["content"] == "A look-up."
    upstream.reset()

    await ask(
        translated,
        mode,
        translated.model("standin"),
        messages=[HELLO, message, {"role": "tool", "tool_call_id": "call_weather", "content": "21"}],
        tools=[WEATHER_TOOL],
    )

    body = only(upstream).body
    assert isinstance(body, dict)
    assert body["messages"][1] == {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "First thought.", "signature": "b25l"},
            {"type": "redacted_thinking", "data": "c2VjcmV0"},
            {"type": "text", "text": "A look-up."},
            {"type": "tool_use", "id": "call_weather", "name": "get_weather", "input": WEATHER_CALL.input},
        ],
    }


@pytest.mark.parametrize("mode", MODES)
async def test_json_schema_output(way: Way, mode: str, upstream: StandinProcess) -> None:
    schema: Body = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["name", "count"],
        "additionalProperties": False,
    }
    wanted: Body = {"type": "json_schema", "json_schema": {"name": "fruit", "schema": schema, "strict": True}}

    completion = await ask(way, mode, way.model("standin"), response_format=wanted)

    assert message_of(completion)["content"] == '{"name":"text","count":0}'
    check_body(
        way,
        upstream,
        openai=openai_body(way, mode, "standin", response_format=wanted),
        anthropic=anthropic_body(
            "standin", [said("Hello")], output_config={"format": {"type": "json_schema", "schema": schema}}
        ),
    )


class Fruit(BaseModel):
    name: str
    count: int


def test_parsed_output(way: Way) -> None:
    with client_of(way) as client:
        parsed = client.chat.completions.parse(model=way.model("standin"), messages=[HELLO], response_format=Fruit)
    assert parsed.choices[0].message.parsed == Fruit(name="text", count=0)


@pytest.mark.parametrize("mode", MODES)
async def test_several_answers_with_log_probabilities(same_dialect: Way, mode: str, upstream: StandinProcess) -> None:
    way = same_dialect
    completion = await ask(way, mode, way.scripted(Script(text="One two.")), n=3, logprobs=True, top_logprobs=2)

    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    for choice in completion.choices:
        assert choice.message.content == "One two."
        assert choice.finish_reason == "stop"
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert [entry.token for entry in choice.logprobs.content] == ["One", " two."]
        assert [len(entry.top_logprobs) for entry in choice.logprobs.content] == [2, 2]


def test_several_answers_are_not_to_be_had_from_anthropic(translated: Way, upstream: StandinProcess) -> None:
    with client_of(translated) as client:
        answer = client.chat.completions.with_raw_response.create(
            model=translated.model("standin"),
            messages=[HELLO],
            n=3,
            logprobs=True,
            top_logprobs=2,
            seed=7,
            logit_bias={"50256": -100},
            extra_body={"prompt_cache_key": "mine"},
        )

    assert len(answer.parse().choices) == 1
    warnings = answer.headers["x-patchbay-warnings"]
    assert "prompt_cache_key" not in warnings  # advice, which may be left out
    for name in ("n:", "logprobs", "top_logprobs", "seed", "logit_bias"):
        assert name in warnings
    assert only(upstream).body == anthropic_body("standin", [said("Hello")])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("script", "said", "finish", "through_anthropic"),
    [
        (Script(text="Cut off in the", stop_reason="max_tokens"), {"content": "Cut off in the"}, "length", "length"),
        (Script(text="Filtered", stop_reason="content_filter"), {"content": "Filtered"}, *["content_filter"] * 2),
        # Anthropic has a refusal only as a stop reason, beside what may be anything.
        (Script(blocks=[Refusal(text="I will not.")]), {"refusal": "I will not."}, "stop", "content_filter"),
        (Script(text="Paused", stop_reason="pause_turn"), {"content": "Paused"}, "stop", "stop"),
        (Script(text="Full.", stop_reason="model_context_window_exceeded"), {"content": "Full."}, "length", "length"),
    ],
    ids=["max-tokens", "filter", "refusal", "paused", "context-window"],
)
async def test_stop_reasons(
    way: Way, mode: str, script: Script, said: Body, finish: str, through_anthropic: str
) -> None:
    completion = await ask(way, mode, way.scripted(script))

    if way.upstream == "anthropic":
        said, finish = {"content": "".join(said.values())}, through_anthropic
    assert message_of(completion) == {"role": "assistant", **said}
    assert completion.choices[0].finish_reason == finish


@pytest.mark.parametrize("mode", MODES)
async def test_stop_sequences(way: Way, mode: str, upstream: StandinProcess) -> None:
    completion = await ask(way, mode, way.model("standin"), stop=["-standin", "never"])

    assert message_of(completion)["content"] == "This is patchbay"
    assert completion.choices[0].finish_reason == "stop"
    check_body(
        way,
        upstream,
        openai=openai_body(way, mode, "standin", stop=["-standin", "never"]),
        anthropic=anthropic_body("standin", [said("Hello")], stop_sequences=["-standin", "never"]),
    )


def test_unknown_fields_ride_along(through: Way, upstream: StandinProcess) -> None:
    with client_of(through) as client:
        answer = client.chat.completions.with_raw_response.create(
            model=through.model("standin"), messages=[HELLO], extra_body={"brand_new": {"deep": [1]}}
        )

    body = only(upstream).body
    assert isinstance(body, dict)
    if through.upstream == "anthropic":
        assert body == anthropic_body("standin", [said("Hello")])
        assert "brand_new" in answer.headers["x-patchbay-warnings"]
    else:
        assert body == openai_body(through, "sync", "standin", brand_new={"deep": [1]})
        assert "x-patchbay-warnings" not in answer.headers
    assert answer.headers["x-patchbay-backend"] == through.backend


def test_the_upstreams_headers_come_back(through: Way, upstream: StandinProcess) -> None:
    with client_of(through) as client:
        answer = client.chat.completions.with_raw_response.create(model=through.model("standin"), messages=[HELLO])

    headers = answer.headers
    if through.upstream == "anthropic":
        assert headers["anthropic-ratelimit-requests-limit"] == "4000"
    else:
        assert headers["x-ratelimit-limit-requests"] == "5000"
    assert headers["x-request-id"] == headers["request-id"]
    assert headers["x-request-id"].startswith("req_")
    assert headers["x-patchbay-request-id"] != headers["x-request-id"]
    assert answer.parse()._request_id == headers["x-request-id"]
    # The configured key and no other; CodeBuddy wants it twice.
    sent = only(upstream).headers
    expected = {
        "openai": {"authorization": "Bearer sk-made-up"},
        "codebuddy": {"authorization": "Bearer ck_made.up", "x-api-key": "ck_made.up"},
        "anthropic": {"x-api-key": "sk-ant-made-up"},
    }
    assert {name: sent[name] for name in ("authorization", "x-api-key") if name in sent} == expected[through.upstream]


# Status upstream -> the SDK's exception; and the error's type and code as an OpenAI server says it, and as made from an
# Anthropic one's.
_ERRORS: dict[int, tuple[type[openai.APIStatusError], tuple[str, str | None], tuple[str, str | None]]] = {
    400: (
        openai.BadRequestError,
        ("invalid_request_error", None),
        ("invalid_request_error", "invalid_request_error"),
    ),
    401: (
        openai.AuthenticationError,
        ("invalid_request_error", "invalid_api_key"),
        ("authentication_error", "invalid_api_key"),
    ),
    403: (
        openai.PermissionDeniedError,
        ("invalid_request_error", "unsupported_country_region_territory"),
        ("permission_error", "permission_denied"),
    ),
    404: (openai.NotFoundError, ("invalid_request_error", "model_not_found"), ("not_found_error", "not_found")),
    413: (openai.APIStatusError, ("invalid_request_error", None), ("invalid_request_error", "request_too_large")),
    429: (openai.RateLimitError, ("requests", "rate_limit_exceeded"), ("rate_limit_error", "rate_limit_exceeded")),
    500: (openai.InternalServerError, ("server_error", None), ("server_error", "upstream_error")),
    503: (openai.InternalServerError, ("server_error", "service_unavailable"), ("overloaded_error", "overloaded")),
    529: (openai.InternalServerError, ("server_error", "overloaded"), ("overloaded_error", "overloaded")),
}


@pytest.mark.parametrize("mode", ["sync", "async-stream"])
@pytest.mark.parametrize("status", sorted(_ERRORS))
async def test_errors_before_the_head(way: Way, mode: str, status: int) -> None:
    # A wait so long that it is left to the client: nothing is tried again on the way.
    retry_after = 7.0 if status in (429, 503, 529) else None
    script = Script(error=ErrorReply(status=status, message=f"scripted {status}", retry_after=retry_after))
    kind, own, translated = _ERRORS[status]

    with pytest.raises(kind) as caught:
        await ask(way, mode, way.scripted(script))

    error = caught.value
    assert error.status_code == status
    assert isinstance(error.body, dict)
    assert error.body["message"] == f"scripted {status}"
    assert error.request_id
    assert error.response.headers.get("retry-after") == ("7" if retry_after else None)
    if way.upstream == "openai":
        assert (error.type, error.code) == own
    elif way.upstream == "anthropic":
        assert (error.type, error.code) == translated


@pytest.mark.parametrize("mode", MODES)
async def test_an_error_inside_the_stream(way: Way, mode: str) -> None:
    with pytest.raises(openai.APIError) as caught:
        await ask(way, mode, way.model("standin-error-in-stream"))

    error = caught.value
    assert error.message == ("Internal server error" if streams(mode) else error.message)
    assert isinstance(error.body, dict)
    assert error.body["message"] == "Internal server error"
    # Inside a 200 the SDK knows no status; not streaming, the status says it.
    assert isinstance(error, openai.InternalServerError) is not streams(mode)


@pytest.mark.parametrize("mode", MODES)
async def test_overload_inside_a_200_becomes_a_status(through: Way, mode: str) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(through, mode, through.model("standin-overloaded-in-stream"))

    assert caught.value.status_code in (503, 529)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"] == "Overloaded"


@pytest.mark.parametrize("mode", MODES)
async def test_a_broken_connection_upstream_is_an_error(through: Way, mode: str) -> None:
    with pytest.raises(openai.APIError) as caught:
        await ask(through, mode, through.model("standin-cut"))

    assert caught.value.code == "upstream_error"
    if not streams(mode):
        assert isinstance(caught.value, openai.InternalServerError)
        assert caught.value.status_code == 502
