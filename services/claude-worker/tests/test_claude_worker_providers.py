from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from patchbay.canonical import ROLE_USER, Block, Chat, ChatEvent, FunctionTool, Message, Sampling, Text, Tool
from patchbay.errors import OVERLOADED, UPSTREAM
from patchbay.settings import load
from patchbay.state.connection import connect
from patchbay.testing.upstream import Script, Upstream, Visit, upstream
from patchbay.worker.runtime import Shared
from patchbay.worker.service import Provider
from patchbay_claude_worker.providers import build
from patchbay_proto.v1.provider_pb2 import ChatRequest, CountTokensRequest, Credential, NativeRequest

# No provider here asks Redis for anything.
SHARED = Shared(redis=connect("redis://127.0.0.1:1"), worker_id="w")
CHAT = Chat(
    messages=[Message(role=ROLE_USER, blocks=[Block(text=Text(text="hi"))])],
    sampling=Sampling(max_tokens=9, temperature=0.5),
    tools=[Tool(function=FunctionTool(name="f", input_schema_json='{"type":"object"}'))],
)
REQUEST = ChatRequest(backend="x", model="m", chat=CHAT)
NATIVE = b'{ "model":"m", "stream":true, "max_tokens":9, "unknown":1.0e0, "messages":[] }'


def frame(name: str, **fields: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


STREAM = b"".join(
    [
        frame("message_start", message={"id": "msg_1", "model": "m-real", "usage": {"input_tokens": 5}}),
        frame("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        frame("ping"),
        frame("content_block_delta", index=0, delta={"type": "text_delta", "text": "hello"}),
        frame("content_block_stop", index=0),
        frame("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 2}),
        frame("message_stop"),
    ]
)  # fmt: skip


def answers(body: bytes, *headers: str, status: str = "200 OK") -> Script:
    async def script(visit: Visit) -> None:
        await visit.answer(body, "connection: close", *headers, status=status)

    return script


STREAMS = answers(
    STREAM, "content-type: text/event-stream", "anthropic-ratelimit-requests-limit: 5", "request-id: up_1"
)


@asynccontextmanager
async def provider(script: Script, **config: object) -> AsyncIterator[tuple[Provider, Upstream]]:
    """The one provider of this configuration of a backend `x`, before an upstream that plays the script."""
    async with upstream(script) as served:
        backend = {"kind": "anthropic", "api_key": "sk-ant-1", "base_url": served.url, **config}
        flag = json.dumps({name: value for name, value in backend.items() if value is not None})
        [built] = build(load([f"--backends.x={flag}"], {}), SHARED)
        yield built, served
        await built.aclose()


async def chat(built: Provider, request: ChatRequest = REQUEST) -> list[ChatEvent]:
    async with aclosing(built.chat(request)) as answer:
        return [event async for events in answer for event in events]


async def test_asks_as_the_api_wants() -> None:
    async with provider(STREAMS) as (built, served):
        events = await chat(built)
        [visit] = served.visits
    assert visit.head.startswith(b"POST /v1/messages HTTP/1.1\r\n")
    assert (visit.header("x-api-key"), visit.header("authorization")) == ("sk-ant-1", None)
    assert (visit.header("anthropic-version"), visit.header("anthropic-beta")) == ("2023-06-01", None)
    body = json.loads(visit.body)
    assert (body["model"], body["max_tokens"], body["stream"]) == ("m", 9, True)
    assert dict(events[0].head.headers) == {"anthropic-ratelimit-requests-limit": "5", "request-id": "up_1"}
    assert "".join(event.text_delta.text for event in events) == "hello"
    assert events[-1].HasField("finished")


async def test_the_clients_own_headers_go_on_unchanged() -> None:
    headers = {"anthropic-beta": "one,two,three", "anthropic-version": "2024-01-01", "x-other": "stays"}
    async with provider(STREAMS) as (built, served):
        await chat(built, ChatRequest(backend="x", model="m", chat=CHAT, headers=headers))
        [visit] = served.visits
    assert visit.header("anthropic-beta") == "one,two,three"
    assert visit.header("anthropic-version") == "2024-01-01"
    assert visit.header("x-other") is None


@pytest.mark.parametrize(
    ("config", "credential", "expected"),
    [
        ({"api_key": None, "auth_token": "oauth-1"}, None, ("Bearer oauth-1", None)),
        (
            {"api_key": None, "credentials": "pass_through"},
            Credential(scheme=Credential.SCHEME_BEARER, secret="oauth-2"),
            ("Bearer oauth-2", None),
        ),
        (
            {"api_key": None, "credentials": "pass_through"},
            Credential(scheme=Credential.SCHEME_API_KEY, secret="sk-ant-2"),
            (None, "sk-ant-2"),
        ),
    ],
)
async def test_tokens_are_bearers_and_keys_are_keys(
    config: dict[str, object], credential: Credential | None, expected: tuple[str | None, str | None]
) -> None:
    async with provider(STREAMS, **config) as (built, served):
        await chat(built, ChatRequest(backend="x", model="m", chat=CHAT, credential=credential))
        [visit] = served.visits
    assert (visit.header("authorization"), visit.header("x-api-key")) == expected


async def test_a_native_body_and_its_answer_stay_as_they_are() -> None:
    native = NativeRequest(dialect="anthropic", body=NATIVE)
    async with provider(STREAMS) as (built, served):
        events = await chat(built, ChatRequest(backend="x", native=native))
        assert served.visits[0].body == NATIVE
        await chat(built, ChatRequest(backend="x", native=native, model="other"))
        assert served.visits[-1].body == NATIVE.replace(b'"m"', b'"other"')
        assert built.status().dialect == "anthropic"
    assert b"".join(event.native.data for event in events) == STREAM
    assert events[-1].HasField("finished")


async def test_overload_keeps_its_status() -> None:
    body = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    refusal = answers(json.dumps(body).encode(), "content-type: application/json", status="529 Overloaded")
    async with provider(refusal) as (built, _):
        events = await chat(built)
        counted = await built.count_tokens(CountTokensRequest(backend="x", model="m", chat=CHAT))
    for error in (events[-1].error, counted.error):
        assert (error.code, error.http_status, error.message, error.retryable) == (OVERLOADED, 529, "Overloaded", True)


@pytest.mark.parametrize("native", [True, False])
async def test_the_upstream_counts_tokens(native: bool) -> None:
    payload = {"native": NativeRequest(dialect="anthropic", body=NATIVE)} if native else {"chat": CHAT}
    async with provider(answers(b'{"input_tokens": 42, "more": 1}')) as (built, served):
        counted = await built.count_tokens(CountTokensRequest(backend="x", model="m", **payload))
        [visit] = served.visits
    assert (counted.input_tokens, counted.estimated, counted.HasField("error")) == (42, False, False)
    assert visit.head.startswith(b"POST /v1/messages/count_tokens HTTP/1.1\r\n")
    if native:
        assert visit.body == NATIVE
    else:
        # The counter refuses what only an answer needs.
        assert json.loads(visit.body).keys() == {"model", "messages", "tools"}


@pytest.mark.parametrize("body", [b"", b"{}", b'{"input_tokens": "many"}', b"<html>"])
async def test_a_count_that_cannot_be_read_is_an_error(body: bytes) -> None:
    async with provider(answers(body)) as (built, _):
        counted = await built.count_tokens(CountTokensRequest(backend="x", model="m", chat=CHAT))
    assert counted.error.code == UPSTREAM


async def test_lists_models() -> None:
    listed = {"data": [{"type": "model", "id": "claude-x", "display_name": "X", "created_at": "2025-02-19T00:00:00Z"}]}
    async with provider(answers(json.dumps(listed).encode())) as (built, served):
        [model] = await built.list_models(None)
        assert served.visits[0].head.startswith(b"GET /v1/models?limit=1000 HTTP/1.1\r\n")
        assert served.visits[0].header("anthropic-version") == "2023-06-01"
    assert (model.id, model.display_name, model.created, model.owned_by) == ("claude-x", "X", 1739923200, "anthropic")
