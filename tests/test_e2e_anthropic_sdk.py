"""The official Anthropic SDK, blocking and not, streaming and not, over every kind of upstream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anthropic
import pytest
from anthropic.types import Message
from pydantic import BaseModel
from ways import MODES, PDF, PIXEL, WEATHER_SCHEMA, Way, only, script_model, streams

from patchbay_standin import (
    ErrorReply,
    RedactedThinking,
    Refusal,
    Script,
    ServerToolUse,
    Text,
    Thinking,
    ToolCall,
    Usage,
)
from patchbay_standin.testing import StandinProcess

Body = dict[str, Any]

HELLO: Body = {"role": "user", "content": "Hello"}
WEATHER_TOOL: Body = {"name": "get_weather", "description": "The weather.", "input_schema": WEATHER_SCHEMA}
TIME_TOOL: Body = {"name": "get_time", "input_schema": {"type": "object", "properties": {"zone": {"type": "string"}}}}
WEATHER_CALL = ToolCall(name="get_weather", input={"city": "Lisbon", "unit": "celsius"}, id="call_weather")
TIME_CALL = ToolCall(name="get_time", input={"zone": "Europe/Lisbon"}, id="call_time")
OPENAI_TOOLS = [
    {
        "type": "function",
        "function": {"name": "get_weather", "description": "The weather.", "parameters": WEATHER_SCHEMA},
    },
    {"type": "function", "function": {"name": "get_time", "parameters": TIME_TOOL["input_schema"]}},
]


@pytest.fixture(params=["direct-anthropic", "anthropic", "openai"])
def way(request: pytest.FixtureRequest, way_to: Callable[[str], Way]) -> Way:
    return way_to(request.param)


@pytest.fixture(params=["anthropic", "openai"])
def through(request: pytest.FixtureRequest, way_to: Callable[[str], Way]) -> Way:
    """Only the ways that lead through Patchbay."""
    return way_to(request.param)


@pytest.fixture
def native(way_to: Callable[[str], Way]) -> Way:
    return way_to("anthropic")


@pytest.fixture
def translated(way_to: Callable[[str], Way]) -> Way:
    return way_to("openai")


def client_of(way: Way) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=way.url, api_key="sk-ant-made-up", max_retries=0, timeout=20)


async def ask(way: Way, mode: str, model: str, **request: Any) -> Message:
    """One answer, however it is asked for."""
    request = {"max_tokens": 1000, "messages": [HELLO], **request, "model": model}
    if mode.startswith("async"):
        async with anthropic.AsyncAnthropic(
            base_url=way.url, api_key="sk-ant-made-up", max_retries=0, timeout=20
        ) as client:
            if not streams(mode):
                answer: Message = await client.messages.create(**request)
                return answer
            async with client.messages.stream(**request) as running:
                return await running.get_final_message()
    with client_of(way) as blocking:
        if not streams(mode):
            return blocking.messages.create(**request)  # type: ignore[no-any-return]
        with blocking.messages.stream(**request) as stream:
            return stream.get_final_message()


def content_of(message: Message) -> list[Body]:
    return [block.model_dump(exclude_none=True, mode="json") for block in message.content]


def native_body(mode: str, model: str, **request: Any) -> Body:
    """What the SDK sends, and so what an upstream of its own dialect has to get."""
    body: Body = {"max_tokens": 1000, "messages": [HELLO], **request, "model": model}
    return {**body, "stream": True} if streams(mode) else body


def openai_body(model: str, messages: list[Body], **more: Any) -> Body:
    """What an OpenAI upstream has to get: it is always asked for a stream, and for its usage."""
    return {
        "model": model,
        "messages": messages,
        "max_completion_tokens": 1000,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }


def check_body(way: Way, upstream: StandinProcess, *, native: Body, translated: Body) -> None:
    """Compares the whole body on the upstream's wire."""
    body = only(upstream).body
    assert body == (native if way.upstream == "anthropic" else translated)


@pytest.mark.parametrize("mode", MODES)
async def test_text_and_usage(way: Way, mode: str, upstream: StandinProcess) -> None:
    script = Script(
        text="Good day to you, reader.",
        usage=Usage(input=100, cache_read=60, cache_write=20, output=9, reasoning=4),
    )
    # The SDK has no arguments for these, but clients send them.
    sampling: Body = {"temperature": 0.5, "top_p": 0.9}

    message = await ask(way, mode, way.scripted(script), system="Be brief.", extra_body=sampling)

    assert content_of(message) == [{"type": "text", "text": "Good day to you, reader."}]
    assert (message.type, message.role, message.model) == ("message", "assistant", "standin-script")
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    usage = message.usage
    assert (usage.input_tokens, usage.output_tokens) == (20, 9)
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (60, 20)
    assert usage.output_tokens_details is not None
    assert usage.output_tokens_details.thinking_tokens == 4
    check_body(
        way,
        upstream,
        native=native_body(mode, script_model(script), system="Be brief.", **sampling),
        translated=openai_body(script_model(script), [{"role": "system", "content": "Be brief."}, HELLO], **sampling),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("interleave", [False, True], ids=["in-a-row", "interleaved"])
async def test_parallel_tools(way: Way, mode: str, interleave: bool, upstream: StandinProcess) -> None:
    script = Script(blocks=[Text(text="Two at once."), WEATHER_CALL, TIME_CALL], interleave_tools=interleave)
    more: Body = {"tools": [WEATHER_TOOL, TIME_TOOL], "tool_choice": {"type": "any"}}

    message = await ask(way, mode, way.scripted(script), **more)

    assert content_of(message) == [
        {"type": "text", "text": "Two at once."},
        {"type": "tool_use", "id": "call_weather", "name": "get_weather", "input": WEATHER_CALL.input},
        {"type": "tool_use", "id": "call_time", "name": "get_time", "input": TIME_CALL.input},
    ]
    assert message.stop_reason == "tool_use"
    check_body(
        way,
        upstream,
        native=native_body(mode, script_model(script), **more),
        translated=openai_body(script_model(script), [HELLO], tools=OPENAI_TOOLS, tool_choice="required"),
    )


@pytest.mark.parametrize(
    ("choice", "translated"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "get_time"}, {"tool_choice": {"type": "function", "function": {"name": "get_time"}}}),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
    ],
    ids=["auto", "none", "named", "one-at-a-time"],
)
async def test_tool_choice(way: Way, choice: Body, translated: Body, upstream: StandinProcess) -> None:
    message = await ask(way, "sync-stream", way.model("standin"), tools=[WEATHER_TOOL, TIME_TOOL], tool_choice=choice)

    called = [block.name for block in message.content if block.type == "tool_use"]
    assert called == (["get_time"] if choice["type"] == "tool" else [])
    check_body(
        way,
        upstream,
        native=native_body("sync-stream", "standin", tools=[WEATHER_TOOL, TIME_TOOL], tool_choice=choice),
        translated=openai_body("standin", [HELLO], tools=OPENAI_TOOLS, **translated),
    )


@pytest.mark.parametrize("mode", MODES)
async def test_tool_round_trip(way: Way, mode: str, upstream: StandinProcess) -> None:
    question: Body = {"role": "user", "content": 'Please use tool get_weather {"city": "Lisbon"} now.'}
    first = await ask(way, mode, way.model("standin"), messages=[question], tools=[WEATHER_TOOL])
    (call,) = [block for block in first.content if block.type == "tool_use"]
    assert call.input == {"city": "Lisbon"}
    result: Body = {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": [{"type": "text", "text": "21 degrees"}],
    }
    upstream.reset()

    second = await ask(
        way,
        mode,
        way.model("standin"),
        messages=[question, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}],
        tools=[WEATHER_TOOL],
    )

    assert content_of(second) == [{"type": "text", "text": "The tool answered: 21 degrees"}]
    echoed: Body = {"type": "tool_use", "id": call.id, "name": "get_weather", "input": {"city": "Lisbon"}}
    body = only(upstream).body
    assert isinstance(body, dict)
    if way.upstream == "anthropic":
        messages = [question, {"role": "assistant", "content": [echoed]}, {"role": "user", "content": [result]}]
        assert _without_nulls(body) == native_body(mode, "standin", messages=messages, tools=[WEATHER_TOOL])
    else:
        (written,) = body["messages"][1]["tool_calls"]
        assert body == openai_body(
            "standin",
            [
                question,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": call.id,
                            "type": "function",
                            "function": {"name": "get_weather", "arguments": written["function"]["arguments"]},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"},
            ],
            tools=OPENAI_TOOLS[:1],
        )


async def test_a_failed_tool_is_told_to_the_model(way: Way, upstream: StandinProcess) -> None:
    messages: list[Body] = [
        HELLO,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "get_time", "input": {}}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True, "content": "no such zone"},
                {"type": "text", "text": "Try again."},
            ],
        },
    ]

    message = await ask(way, "sync", way.model("standin"), messages=messages, tools=[TIME_TOOL])

    (answer,) = content_of(message)
    assert "no such zone" in answer["text"]
    body = only(upstream).body
    assert isinstance(body, dict)
    if way.upstream == "anthropic":
        assert body["messages"] == messages
    else:
        tool, user = body["messages"][2:]
        # Chat Completions has no mark for a failure: it is in the text alone.
        assert tool == {"role": "tool", "tool_call_id": "toolu_1", "content": "no such zone"}
        assert user == {"role": "user", "content": "Try again."}


@pytest.mark.parametrize("mode", MODES)
async def test_pictures_and_documents(way: Way, mode: str, upstream: StandinProcess) -> None:
    parts: list[Body] = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
        {"type": "image", "source": {"type": "url", "url": "https://pictures.example/cat.png"}},
        {
            "type": "document",
            "title": "report.pdf",
            "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
        },
        {"type": "text", "text": "What is this?"},
    ]
    messages = [{"role": "user", "content": parts}]

    message = await ask(way, mode, way.model("standin"), messages=messages)

    assert content_of(message)[0]["text"].endswith("Your last message was: What is this?")
    check_body(
        way,
        upstream,
        native=native_body(mode, "standin", messages=messages),
        translated=openai_body(
            "standin",
            [
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
            ],
        ),
    )


async def test_a_picture_in_a_tool_result(way: Way, upstream: StandinProcess) -> None:
    image: Body = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    calls: list[Body] = [
        {"type": "tool_use", "id": f"toolu_{number}", "name": "get_time", "input": {}} for number in (1, 2)
    ]
    results: list[Body] = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "seen"}, image]},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": "also"},
    ]
    messages = [HELLO, {"role": "assistant", "content": calls}, {"role": "user", "content": results}]

    await ask(way, "sync", way.model("standin"), messages=messages, tools=[TIME_TOOL])

    body = only(upstream).body
    assert isinstance(body, dict)
    if way.upstream == "anthropic":
        assert body["messages"] == messages
    else:
        # A tool message holds no picture, and nothing may stand between the tool messages: it follows them.
        first, second, user = body["messages"][2:]
        assert (first["role"], first["tool_call_id"]) == ("tool", "toolu_1")
        assert "seen" in str(first["content"])
        assert second == {"role": "tool", "tool_call_id": "toolu_2", "content": "also"}
        assert user["role"] == "user"
        assert {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}} in user["content"]


@pytest.mark.parametrize("mode", MODES)
async def test_thinking_survives_an_echo(way: Way, mode: str, upstream: StandinProcess) -> None:
    thought = Thinking(text="A simple question, then.", signature="c2lnbmVk")
    script = Script(blocks=[thought, Text(text="Yes."), WEATHER_CALL])
    thinking: Body = {"type": "enabled", "budget_tokens": 2000}

    first = await ask(way, mode, way.scripted(script), max_tokens=4000, thinking=thinking, tools=[WEATHER_TOOL])

    signature = "c2lnbmVk" if way.upstream == "anthropic" else ""
    assert content_of(first)[:2] == [
        {"type": "thinking", "thinking": "A simple question, then.", "signature": signature},
        {"type": "text", "text": "Yes."},
    ]
    upstream.reset()
    result: Body = {"type": "tool_result", "tool_use_id": "call_weather", "content": "21"}

    await ask(
        way,
        mode,
        way.model("standin"),
        messages=[HELLO, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}],
        max_tokens=4000,
        thinking=thinking,
        tools=[WEATHER_TOOL],
    )

    body = only(upstream).body
    assert isinstance(body, dict)
    if way.upstream == "anthropic":
        assert _without_nulls(body["messages"][1])["content"] == content_of(first)
        assert body["thinking"] == thinking
    else:
        # Nobody signed it, and no server of this kind can use it: it is left out.
        assert body["messages"][1]["content"] == "Yes."
        assert "A simple question" not in str(body)
        assert body["reasoning_effort"] == "low"


@pytest.mark.parametrize("mode", MODES)
async def test_signatures_reach_the_client_through_reasoning_details(
    translated: Way, mode: str, upstream: StandinProcess
) -> None:
    script = Script(
        blocks=[
            Thinking(text="First thought.", signature="b25l"),
            RedactedThinking(data="c2VjcmV0"),
            Text(text="Done."),
        ],
        reasoning_field="reasoning_details",
    )

    message = await ask(translated, mode, translated.scripted(script))

    assert content_of(message) == [
        {"type": "thinking", "thinking": "First thought.", "signature": "b25l"},
        {"type": "redacted_thinking", "data": "c2VjcmV0"},
        {"type": "text", "text": "Done."},
    ]


@pytest.mark.parametrize("mode", MODES)
async def test_what_only_this_dialect_knows_is_kept_natively(native: Way, mode: str) -> None:
    citation = {
        "type": "char_location",
        "cited_text": "grass is green",
        "document_index": 0,
        "document_title": "Facts",
        "start_char_index": 0,
        "end_char_index": 14,
    }
    found = [
        {
            "type": "web_search_result",
            "url": "https://example.com",
            "title": "Example",
            "encrypted_content": "YWJj",
        }
    ]
    script = Script(
        blocks=[
            RedactedThinking(data="c2VjcmV0"),
            ServerToolUse(name="web_search", input={"query": "grass"}, id="srvtoolu_1", result=found),
            Text(text="Grass is green.", citations=[citation]),
        ],
        stop_reason="pause_turn",
    )

    message = await ask(native, mode, native.scripted(script))

    redacted, use, result, text = content_of(message)
    assert redacted == {"type": "redacted_thinking", "data": "c2VjcmV0"}
    assert (use["type"], use["id"], use["input"]) == ("server_tool_use", "srvtoolu_1", {"query": "grass"})
    assert (result["type"], result["content"]) == ("web_search_tool_result", found)
    assert (text["text"], text["citations"]) == ("Grass is green.", [citation])
    assert message.stop_reason == "pause_turn"


@pytest.mark.parametrize("mode", MODES)
async def test_json_schema_output(way: Way, mode: str, upstream: StandinProcess) -> None:
    schema: Mapping[str, object] = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["name", "count"],
        "additionalProperties": False,
    }
    config: Body = {"format": {"type": "json_schema", "schema": schema}}

    message = await ask(way, mode, way.model("standin"), output_config=config)

    assert content_of(message) == [{"type": "text", "text": '{"name":"text","count":0}'}]
    check_body(
        way,
        upstream,
        native=native_body(mode, "standin", output_config=config),
        translated=openai_body(
            "standin",
            [HELLO],
            response_format={"type": "json_schema", "json_schema": {"name": "response", "schema": schema}},
        ),
    )


class Fruit(BaseModel):
    name: str
    count: int


def test_parsed_output(way: Way) -> None:
    with client_of(way) as client:
        parsed = client.messages.parse(
            model=way.model("standin"), max_tokens=1000, messages=[HELLO], output_format=Fruit
        )
    assert parsed.parsed_output == Fruit(name="text", count=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("script", "text", "native_stop", "openai_stop"),
    [
        (Script(text="Cut off in the", stop_reason="max_tokens"), "Cut off in the", "max_tokens", "max_tokens"),
        (Script(blocks=[Refusal(text="I will not.")]), "I will not.", "refusal", "refusal"),
        (Script(text="Full.", stop_reason="model_context_window_exceeded"), "Full.", None, "max_tokens"),
        (Script(text="Filtered", stop_reason="content_filter"), "Filtered", "refusal", "refusal"),
    ],
    ids=["max-tokens", "refusal", "context-window", "filter"],
)
async def test_stop_reasons(
    way: Way, mode: str, script: Script, text: str, native_stop: str | None, openai_stop: str
) -> None:
    message = await ask(way, mode, way.scripted(script))

    assert content_of(message) == [{"type": "text", "text": text}]
    expected = (native_stop or script.stop_reason) if way.upstream == "anthropic" else openai_stop
    assert message.stop_reason == expected


@pytest.mark.parametrize("mode", MODES)
async def test_stop_sequences(way: Way, mode: str, upstream: StandinProcess) -> None:
    message = await ask(way, mode, way.model("standin"), stop_sequences=["-standin", "never"])

    assert content_of(message) == [{"type": "text", "text": "This is patchbay"}]
    # Chat Completions does not say which sequence was met, nor that one was.
    told = ("stop_sequence", "-standin") if way.upstream == "anthropic" else ("end_turn", None)
    assert (message.stop_reason, message.stop_sequence) == told
    check_body(
        way,
        upstream,
        native=native_body(mode, "standin", stop_sequences=["-standin", "never"]),
        translated=openai_body("standin", [HELLO], stop=["-standin", "never"]),
    )


def test_the_stream_is_events_of_this_dialect(way: Way) -> None:
    script = Script(blocks=[Thinking(text="Hm. Well."), Text(text="One two."), WEATHER_CALL], interleave_tools=True)
    with client_of(way) as client:
        events = list(
            client.messages.create(
                model=way.scripted(script), max_tokens=1000, messages=[HELLO], tools=[WEATHER_TOOL], stream=True
            )
        )

    kinds = [event.type for event in events]
    assert kinds[0] == "message_start"
    assert kinds.count("message_start") == 1
    assert kinds[-2:] == ["message_delta", "message_stop"]
    open_block: int | None = None
    for event in events:
        if event.type == "content_block_start":
            assert open_block is None
            open_block = event.index
        elif event.type == "content_block_delta":
            assert event.index == open_block
        elif event.type == "content_block_stop":
            assert event.index == open_block
            open_block = None
    starts = [event.index for event in events if event.type == "content_block_start"]
    assert starts == [0, 1, 2]


def test_warnings_say_what_was_left_out(through: Way, upstream: StandinProcess) -> None:
    with client_of(through) as client:
        answer = client.messages.with_raw_response.create(
            model=through.model("standin"),
            max_tokens=1000,
            messages=[HELLO],
            extra_body={"top_k": 5, "context_management": {"edits": []}},
        )

    body = only(upstream).body
    assert isinstance(body, dict)
    warnings = answer.headers.get("x-patchbay-warnings")
    if through.upstream == "anthropic":
        assert warnings is None
        assert (body["top_k"], body["context_management"]) == (5, {"edits": []})
    else:
        # What to forget of an old conversation is advice, and may be left out without a word.
        assert warnings == "top_k: top_k is not supported by this backend and was left out"
        assert body == openai_body("standin", [HELLO])
    assert answer.headers["x-patchbay-backend"] == through.backend


def test_version_and_beta_headers_travel(native: Way, upstream: StandinProcess) -> None:
    betas = "context-1m-2025-08-07,fine-grained-tool-streaming-2025-05-14"
    with client_of(native) as client:
        client.messages.create(
            model=native.model("standin"),
            max_tokens=1000,
            messages=[HELLO],
            extra_headers={"anthropic-beta": betas, "anthropic-version": "2023-01-01"},
        )

    headers = only(upstream).headers
    assert headers["anthropic-beta"] == betas
    assert headers["anthropic-version"] == "2023-01-01"
    # The configured key and no other.
    assert headers["x-api-key"] == "sk-ant-made-up"
    assert "authorization" not in headers


def test_the_upstreams_headers_come_back(through: Way) -> None:
    with client_of(through) as client:
        answer = client.messages.with_raw_response.create(
            model=through.model("standin"), max_tokens=1000, messages=[HELLO]
        )

    headers = answer.headers
    if through.upstream == "anthropic":
        assert headers["anthropic-ratelimit-requests-limit"] == "4000"
        assert headers["request-id"].startswith("req_standin")
    else:
        assert headers["x-ratelimit-limit-requests"] == "5000"
    assert headers["request-id"] == headers["x-request-id"]
    assert headers["x-patchbay-request-id"].startswith("req_")
    assert answer.parse()._request_id == headers["request-id"]


# Status upstream -> the SDK's exception, and the error's type, from an upstream of the same dialect and of the other.
_ERRORS: dict[int, tuple[type[anthropic.APIStatusError], str, type[anthropic.APIStatusError], str]] = {
    400: (anthropic.BadRequestError, "invalid_request_error", anthropic.BadRequestError, "invalid_request_error"),
    401: (anthropic.AuthenticationError, "authentication_error", anthropic.AuthenticationError, "authentication_error"),
    403: (anthropic.PermissionDeniedError, "permission_error", anthropic.PermissionDeniedError, "permission_error"),
    404: (anthropic.NotFoundError, "not_found_error", anthropic.NotFoundError, "not_found_error"),
    413: (anthropic.APIStatusError, "request_too_large", anthropic.APIStatusError, "request_too_large"),
    429: (anthropic.RateLimitError, "rate_limit_error", anthropic.RateLimitError, "rate_limit_error"),
    500: (anthropic.InternalServerError, "api_error", anthropic.InternalServerError, "api_error"),
    503: (anthropic.APIStatusError, "api_error", anthropic.APIStatusError, "overloaded_error"),
    529: (anthropic.APIStatusError, "overloaded_error", anthropic.APIStatusError, "overloaded_error"),
}


@pytest.mark.parametrize("mode", ["sync", "async-stream"])
@pytest.mark.parametrize("status", sorted(_ERRORS))
async def test_errors_before_the_head(way: Way, mode: str, status: int) -> None:
    # A wait so long that it is left to the client: nothing is tried again on the way.
    retry_after = 7.0 if status in (429, 503, 529) else None
    script = Script(error=ErrorReply(status=status, message=f"scripted {status}", retry_after=retry_after))
    same_kind, same_type, other_kind, other_type = _ERRORS[status]
    kind, error_type = (same_kind, same_type) if way.upstream == "anthropic" else (other_kind, other_type)

    with pytest.raises(kind) as caught:
        await ask(way, mode, way.scripted(script))

    error = caught.value
    # An OpenAI server's 503 says that it is overloaded, which is 529 here.
    assert error.status_code == (529 if error_type == "overloaded_error" else status)
    assert isinstance(error.body, dict)
    assert error.body["type"] == "error"
    assert error.body["error"] == {"type": error_type, "message": f"scripted {status}"}
    assert error.request_id
    assert error.body["request_id"]
    assert error.response.headers.get("retry-after") == ("7" if retry_after else None)
    if way.upstream == "anthropic":
        assert error.request_id.startswith("req_standin")
        assert error.body["request_id"] == error.request_id


@pytest.mark.parametrize("mode", [mode for mode in MODES if streams(mode)])
async def test_an_error_inside_the_stream(way: Way, mode: str) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        await ask(way, mode, way.model("standin-error-in-stream"))

    assert caught.value.status_code == 200
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"] == {"type": "api_error", "message": "Internal server error"}


@pytest.mark.parametrize("mode", [mode for mode in MODES if not streams(mode)])
async def test_an_error_inside_the_stream_is_a_status_when_not_streaming(way: Way, mode: str) -> None:
    with pytest.raises(anthropic.InternalServerError) as caught:
        await ask(way, mode, way.model("standin-error-in-stream"))

    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"] == {"type": "api_error", "message": "Internal server error"}


@pytest.mark.parametrize("mode", MODES)
async def test_overload_inside_a_200_becomes_a_status(through: Way, mode: str) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        await ask(through, mode, through.model("standin-overloaded-in-stream"))

    assert caught.value.status_code == 529
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"] == {"type": "overloaded_error", "message": "Overloaded"}


@pytest.mark.parametrize("mode", MODES)
async def test_a_broken_connection_upstream_is_an_error(through: Way, mode: str) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        await ask(through, mode, through.model("standin-cut"))

    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "api_error"
    assert caught.value.status_code == (200 if streams(mode) else 502)


def _without_nulls(value: Any) -> Any:
    """The SDK writes the unset fields of its own objects as null."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    return value
