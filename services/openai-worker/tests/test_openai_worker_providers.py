from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager

import pytest

from patchbay.canonical import ROLE_USER, Block, Chat, ChatEvent, Message, Opaque, Sampling, Text, Tool
from patchbay.errors import AUTHENTICATION, INVALID_REQUEST, OVERLOADED, RATE_LIMITED, TIMEOUT, UPSTREAM
from patchbay.settings import load
from patchbay.state.connection import connect
from patchbay.testing.eventually import eventually
from patchbay.testing.upstream import Script, Upstream, Visit, upstream
from patchbay.worker.runtime import Shared
from patchbay.worker.service import Provider
from patchbay_openai_worker.providers import build
from patchbay_proto.v1.provider_pb2 import ChatRequest, CountTokensRequest, Credential, NativeRequest

# No provider here asks Redis for anything.
SHARED = Shared(redis=connect("redis://127.0.0.1:1"), worker_id="w")
CHAT = Chat(messages=[Message(role=ROLE_USER, blocks=[Block(text=Text(text="hi"))])], sampling=Sampling(max_tokens=9))
REQUEST = ChatRequest(backend="x", model="m", chat=CHAT)
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def chunk(**more: object) -> bytes:
    body = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m-real", "choices": [], **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def choice(delta: Mapping[str, object], finish: str | None = None) -> list[dict[str, object]]:
    return [{"index": 0, "delta": delta, "finish_reason": finish}]


STREAM = [
    chunk(choices=choice({"role": "assistant", "content": "hel"})),
    chunk(choices=choice({"content": "lo"})),
    chunk(choices=choice({}, "stop")),
    chunk(usage=USAGE),
    b"data: [DONE]\n\n",
]


def streams(*frames: bytes, headers: tuple[str, ...] = ()) -> Script:
    async def script(visit: Visit) -> None:
        await visit.say_head("content-type: text/event-stream", "transfer-encoding: chunked", *headers)
        for frame in frames:
            await visit.say_chunk(frame)
        await visit.say(b"0\r\n\r\n")

    return script


def says(body: object, *, status: str = "200 OK", headers: tuple[str, ...] = ()) -> Script:
    async def script(visit: Visit) -> None:
        await visit.answer(json.dumps(body).encode(), "content-type: application/json", *headers, status=status)

    return script


@asynccontextmanager
async def provider(script: Script, **config: object) -> AsyncIterator[tuple[Provider, Upstream]]:
    """The one provider of this configuration of a backend `x`, before an upstream that plays the script."""
    async with upstream(script) as served:
        backend = {"kind": "openai", "api_key": "sk-1", "base_url": served.url + "/v1", **config}
        flag = json.dumps({name: value for name, value in backend.items() if value is not None})
        [built] = build(load([f"--backends.x={flag}"], {}), SHARED)
        yield built, served
        await built.aclose()


async def chat(built: Provider, request: ChatRequest = REQUEST) -> list[ChatEvent]:
    async with aclosing(built.chat(request)) as answer:
        return [event async for events in answer for event in events]


def kinds(events: list[ChatEvent]) -> list[str]:
    return [str(event.WhichOneof("event")) for event in events]


@pytest.mark.parametrize(
    ("kind", "key", "authorization", "x_api_key"),
    [
        ("openai", "sk-1", "Bearer sk-1", None),
        ("gemini", "AIza-1", "Bearer AIza-1", None),
        ("openrouter", "sk-or-1", "Bearer sk-or-1", None),
        ("openai-compatible", "local", "Bearer local", None),
        ("openai-compatible", None, None, None),
        ("codebuddy", "ck_1.secret", "Bearer ck_1.secret", "ck_1.secret"),
    ],
)
async def test_asks_every_kind_of_upstream_in_its_way(
    kind: str, key: str | None, authorization: str | None, x_api_key: str | None
) -> None:
    async with provider(streams(*STREAM), kind=kind, api_key=key) as (built, served):
        events = await chat(built)
        [visit] = served.visits
    assert visit.head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert (visit.header("authorization"), visit.header("x-api-key")) == (authorization, x_api_key)
    assert visit.header("content-type") == "application/json"
    body = json.loads(visit.body)
    assert (body["model"], body["stream"], body["stream_options"]) == ("m", True, {"include_usage": True})
    assert body["max_completion_tokens" if kind == "openai" else "max_tokens"] == 9
    system = [{"role": "system", "content": "You are a helpful assistant."}] if kind == "codebuddy" else []
    assert body["messages"] == [*system, {"role": "user", "content": "hi"}]
    assert "".join(event.text_delta.text for event in events) == "hello"
    assert kinds(events)[0] == "head"
    assert kinds(events)[-1] == "finished"
    usage = next(event.usage for event in events if event.HasField("usage"))
    assert (usage.input_tokens, usage.output_tokens) == (5, 2)


async def test_forwards_what_the_client_may_care_about() -> None:
    headers = ("x-request-id: up_1", "X-RateLimit-Remaining-Requests: 3", "server: secret", "set-cookie: a=b")
    async with provider(streams(*STREAM, headers=headers)) as (built, _):
        events = await chat(built)
    assert dict(events[0].head.headers) == {"x-request-id": "up_1", "x-ratelimit-remaining-requests": "3"}
    assert (events[0].head.status, events[0].head.content_type) == (200, "text/event-stream")


async def test_sends_the_operators_headers() -> None:
    async with provider(streams(*STREAM), headers={"OpenAI-Organization": "org-1"}) as (built, served):
        await chat(built)
        assert served.visits[0].header("openai-organization") == "org-1"


async def test_a_native_body_goes_as_it_is() -> None:
    body = b'{ "model":"m", "stream":true, "stream_options":{"include_usage":true}, "unknown":1.0e0 }'
    request = ChatRequest(backend="x", native=NativeRequest(dialect="openai_chat", body=body))
    async with provider(streams(*STREAM)) as (built, served):
        events = await chat(built, request)
        assert served.visits[0].body == body
    assert b"".join(event.native.data for event in events) == b"".join(STREAM)
    assert kinds(events)[-1] == "finished"


async def test_a_native_body_with_names_that_are_too_long_is_written_anew() -> None:
    name = "mcp__server__" + "tool_" * 20
    tool = {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    body = json.dumps({"model": "m", "stream": False, "messages": [{"role": "user", "content": "hi"}], "tools": [tool]})
    request = ChatRequest(backend="x", native=NativeRequest(dialect="openai_chat", body=body.encode()))
    async with provider(streams(*STREAM)) as (built, served):
        events = await chat(built, request)
        sent = json.loads(served.visits[0].body)
    told = sent["tools"][0]["function"]["name"]
    assert len(told) <= 64
    assert told.startswith("mcp__server__")
    assert (sent["model"], sent["stream"]) == ("m", True)
    assert "".join(event.text_delta.text for event in events) == "hello"


@pytest.mark.parametrize(("kind", "dialect"), [("codebuddy", "openai_chat"), ("openai", "anthropic")])
async def test_a_native_body_for_another_is_refused(kind: str, dialect: str) -> None:
    native = NativeRequest(dialect=dialect, body=b"{}")
    async with provider(streams(*STREAM), kind=kind, api_key="ck_1.s") as (built, served):
        [event] = await chat(built, ChatRequest(backend="x", native=native))
        counted = await built.count_tokens(CountTokensRequest(backend="x", native=native))
        assert event.error.code == counted.error.code == INVALID_REQUEST
        assert served.visits == []


async def test_codebuddy_does_not_offer_its_dialect() -> None:
    async with provider(streams(), kind="codebuddy", api_key="ck_1.s") as (built, _):
        assert built.status().dialect == ""
    async with provider(streams()) as (built, _):
        assert built.status().dialect == "openai_chat"


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
async def test_codebuddys_errors(status: str) -> None:
    refused = says({"code": 11101, "msg": "Non-stream chat request is currently not supported"}, status=status)
    async with provider(refused, kind="codebuddy", api_key="ck_1.s") as (built, _):
        events = await chat(built)
    assert kinds(events) == ["head", "error"]
    assert "Non-stream chat request" in events[-1].error.message
    assert events[-1].error.upstream_code == "11101"
    assert not events[-1].error.retryable


async def test_codebuddys_chunks() -> None:
    frames = [frame.replace(b"chat.completion.chunk", b"response") for frame in STREAM]
    async with provider(streams(*frames), kind="codebuddy", api_key="ck_1.s") as (built, _):
        events = await chat(built)
    assert "".join(event.text_delta.text for event in events) == "hello"
    assert kinds(events)[-1] == "finished"


@pytest.mark.parametrize(
    ("status", "code"),
    [("401 No", AUTHENTICATION), ("429 Slow", RATE_LIMITED), ("500 Oops", UPSTREAM), ("503 Busy", OVERLOADED)],
)  # fmt: skip
async def test_an_upstreams_refusal(status: str, code: int) -> None:
    body = {"error": {"message": "because", "type": "t", "param": None, "code": None}}
    async with provider(says(body, status=status, headers=("retry-after: 7",))) as (built, _):
        events = await chat(built)
    assert kinds(events) == ["head", "error"]
    assert events[0].head.headers["retry-after"] == "7"
    error = events[1].error
    assert (error.code, error.message) == (code, "because")
    if code == RATE_LIMITED:
        assert error.retry_after == 7
    assert json.loads(error.native_body) == body


@pytest.mark.parametrize("ending", ["cut", "silent"])
async def test_a_refusal_whose_body_never_ends_is_still_that_refusal(
    ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchbay.upstream.http.LINGER_SECONDS", 0.1)

    async def script(visit: Visit) -> None:
        await visit.say_head("content-length: 1000", status="401 Unauthorized")
        await visit.say(b'{"error"')
        if ending == "silent":
            await visit.wait_left()

    async with provider(script) as (built, _):
        events = await asyncio.wait_for(chat(built), 3)
    assert events[-1].error.code == AUTHENTICATION


async def test_an_error_in_the_middle_is_the_end_even_if_the_upstream_stays() -> None:
    async def script(visit: Visit) -> None:
        await visit.say_head("content-type: text/event-stream", "transfer-encoding: chunked")
        await visit.say_chunk(STREAM[0])
        await visit.say_chunk(b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n')
        await visit.wait_left()

    async with provider(script) as (built, served):
        events = await asyncio.wait_for(chat(built), 3)
        assert kinds(events)[-1] == "error"
        await eventually(lambda: served.visits[0].left_at is not None)


@pytest.mark.parametrize("timeout", [{"first_byte": 0.1}, {"idle": 0.1}])
async def test_a_silent_upstream_is_a_timeout(timeout: dict[str, float]) -> None:
    async def script(visit: Visit) -> None:
        if "idle" in timeout:
            await visit.say_head("content-type: text/event-stream", "transfer-encoding: chunked")
            await visit.say_chunk(STREAM[0])
        await visit.wait_left()

    async with provider(script, timeout=timeout) as (built, served):
        events = await asyncio.wait_for(chat(built), 3)
        assert events[-1].error.code == TIMEOUT
        await eventually(lambda: served.visits[0].left_at is not None)


async def test_closing_the_answer_leaves_the_upstream_at_once() -> None:
    async def script(visit: Visit) -> None:
        await visit.say_head("content-type: text/event-stream", "transfer-encoding: chunked")
        await visit.say_chunk(STREAM[0])
        await visit.wait_left()

    async with provider(script) as (built, served):
        answer = built.chat(REQUEST)
        while "text_delta" not in kinds(await anext(answer)):
            continue
        await answer.aclose()
        assert await eventually(lambda: served.visits[0].left_at is not None, seconds=1)


async def test_what_the_upstream_cannot_honour_is_a_warning_or_refused() -> None:
    request = ChatRequest(backend="x", model="m", chat=Chat(messages=CHAT.messages, sampling=Sampling(top_k=5)))
    async with provider(streams(*STREAM)) as (built, _):
        events = await chat(built, request)
        assert [event.warning.parameter for event in events if event.HasField("warning")] == ["top_k"]
    async with provider(streams(*STREAM), strict_parameters=True) as (built, served):
        [event] = await chat(built, request)
        assert (event.error.code, event.error.parameter) == (INVALID_REQUEST, "top_k")
        assert served.visits == []


async def test_tools_that_a_client_always_offers_are_no_reason_to_refuse() -> None:
    """Codex offers OpenAI's web search with every request."""
    search = Tool(opaque=Opaque(dialect="openai_responses", json='{"type":"web_search"}'))
    request = ChatRequest(backend="x", model="m", chat=Chat(messages=CHAT.messages, tools=[search]))
    async with provider(streams(*STREAM), strict_parameters=True) as (built, served):
        events = await chat(built, request)
        assert [event.warning.parameter for event in events if event.HasField("warning")] == ["tools"]
        assert events[-1].HasField("finished")
        assert len(served.visits) == 1


async def test_a_callers_own_key_goes_upstream() -> None:
    credential = Credential(scheme=Credential.SCHEME_API_KEY, secret="sk-mine")
    request = ChatRequest(backend="x", model="m", chat=CHAT, credential=credential)
    async with provider(streams(*STREAM), api_key=None, credentials="pass_through") as (built, served):
        await chat(built, request)
        assert served.visits[0].header("authorization") == "Bearer sk-mine"
        [event] = await chat(built, REQUEST)
        assert event.error.code == AUTHENTICATION
        assert len(served.visits) == 1


async def test_counts_are_estimates() -> None:
    async with provider(streams()) as (built, served):
        counted = await built.count_tokens(CountTokensRequest(backend="x", model="m", chat=CHAT))
        assert counted.estimated
        assert 1 <= counted.input_tokens <= 20
        body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
        native = CountTokensRequest(backend="x", native=NativeRequest(dialect="openai_chat", body=body))
        assert (await built.count_tokens(native)).input_tokens == counted.input_tokens
        assert served.visits == []


async def test_lists_the_upstreams_models_whatever_they_hold() -> None:
    listed = {
        "object": "list",
        "data": [
            {"id": "models/gemini-x", "created": 1700000000, "display_name": None, "owned_by": "g"},
            {"id": "odd", "created": 1e300, "display_name": 5},
            {"id": "dated", "created_at": "2025-02-19T00:00:00Z", "display_name": "Dated"},
        ],
    }
    async with provider(says(listed), kind="gemini", api_key="k") as (built, served):
        models = await built.list_models(None)
        assert served.visits[0].head.startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert [(model.id, model.created, model.display_name, model.owned_by) for model in models] == [
        ("gemini-x", 1700000000, "", "google"),
        ("odd", 0, "", "google"),
        ("dated", 1739923200, "Dated", "google"),
    ]


async def test_lists_what_is_configured_or_known_without_asking() -> None:
    async with provider(says({}), kind="codebuddy", api_key="ck_1.s") as (built, served):
        names = [model.id for model in await built.list_models(None)]
        assert names == ["gpt-5.5", "gpt-5.4", "claude-sonnet-4.6", "gemini-3.1-pro"]
        assert served.visits == []
    async with provider(says({}), models=["one", "two"]) as (built, served):
        assert [model.id for model in await built.list_models(None)] == ["one", "two"]
        assert served.visits == []
