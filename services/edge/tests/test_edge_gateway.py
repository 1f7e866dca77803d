from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import grpc
import pytest
from structlog.testing import capture_logs

from patchbay.canonical import BlockStart, BlockStop, ChatEvent, Head, ThinkingDelta, ThinkingStart, Usage, Warning
from patchbay.errors import OVERLOADED, RATE_LIMITED, UPSTREAM, make_error
from patchbay.state.registry import BackendRecord
from patchbay.testing.eventually import eventually, settled
from patchbay.testing.valkey import ValkeyProcess
from patchbay.testing.worker import (
    BLOCK,
    FINISHED,
    HANG,
    STARTED,
    ScriptedWorker,
    Step,
    answer,
    failed,
    native,
    text,
)
from patchbay_edge import gateway
from patchbay_proto.v1.provider_pb2 import CountTokensResponse, Credential

StartEdge = Callable[..., AbstractAsyncContextManager]

ANTHROPIC, OPENAI, COUNT = "/v1/messages", "/v1/chat/completions", "/v1/messages/count_tokens"
CHAT = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "the words of the user"}]}
STREAM = {**CHAT, "stream": True}
STOP = ChatEvent(block_stop=BlockStop(index=0))
HALF: list[ChatEvent] = [STARTED, BLOCK, text("half")]
KEYS = {"require_api_key": True, "api_keys": [{"key": "pb-secret", "id": "k1"}]}


def shape(path: str, body: bytes) -> tuple[str, str]:
    """The type and the message of an error body, which has to be exactly of the path's dialect."""
    decoded = json.loads(body)
    if "messages" in path:
        assert decoded.keys() == {"type", "error", "request_id"}, decoded
        assert decoded["type"] == "error"
        assert decoded["error"].keys() == {"type", "message"}
        assert decoded["request_id"].startswith("req_")
    else:
        assert decoded.keys() == {"error"}, decoded
        assert decoded["error"].keys() == {"message", "type", "param", "code"}
    return decoded["error"]["type"], decoded["error"]["message"]


@asynccontextmanager
async def raw(port: int, request: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection of its own, on which these bytes have been sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
    writer.write(request)
    await writer.drain()
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def request_bytes(path: str, body: object, *headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: edge", f"content-length: {len(data)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + data


# -- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_answers_in_both_dialects(start_edge: StartEdge, prefix: str) -> None:
    script: list[Step] = [
        [ChatEvent(head=Head(status=200, headers={"request-id": "up_1", "x-ratelimit-limit-requests": "9"}))],
        [ChatEvent(warning=Warning(parameter="logit_bias", message="dropped"))],
        [STARTED, BLOCK, text("hello"), STOP, ChatEvent(usage=Usage(input_tokens=3, output_tokens=2)), FINISHED],
    ]
    async with start_edge(ScriptedWorker([script])) as running:
        for path in (ANTHROPIC, OPENAI):
            response = await running.client.post(prefix + path + "?beta=true", json=CHAT)
            assert response.status_code == 200
            assert response.headers["content-type"] == "application/json"
            assert response.headers["x-patchbay-backend"] == "a"
            assert response.headers["x-patchbay-warnings"] == "logit_bias: dropped"
            assert response.headers["x-ratelimit-limit-requests"] == "9"
            assert response.headers["request-id"] == response.headers["x-request-id"] == "up_1"
            assert response.headers["x-patchbay-request-id"].startswith("req_")
            assert "hello" in response.text
            streamed = await running.client.post(prefix + path, json=STREAM, headers={"accept": "application/json"})
            assert streamed.headers["content-type"].startswith("text/event-stream")
            assert "hello" in streamed.text


@pytest.mark.parametrize("path", [ANTHROPIC, OPENAI, COUNT])
async def test_claude_code_answers_under_sdk(start_edge: StartEdge, path: str) -> None:
    backends = {
        "api": {"kind": "openai-compatible", "base_url": "http://api.test"},
        "agent": {"kind": "claude-cli", "mode": "agent", "cwd": "/"},
        "default_backend": "api",
    }
    worker = ScriptedWorker([answer("x")], backends=[("api", ""), ("agent", "")])
    async with start_edge(worker, backends=backends) as running:
        for prefix, backend in (("/sdk", "agent"), ("/api", "api")):
            response = await running.client.post(prefix + path, json={**CHAT, "model": "sonnet"})
            assert (response.status_code, response.headers["x-patchbay-backend"]) == (200, backend)
        seen = [(request.backend, request.model) for request in [*worker.requests, *worker.count_requests]]
        assert seen == [("agent", "sonnet"), ("api", "sonnet")]


@pytest.mark.parametrize("path", [ANTHROPIC, OPENAI, COUNT])
async def test_without_claude_code_sdk_says_how_to_have_it(start_edge: StartEdge, path: str) -> None:
    async with start_edge(ScriptedWorker([answer("x")])) as running:
        response = await running.client.post("/sdk" + path, json=CHAT)
        assert response.status_code == 404
        kind, message = shape(path, response.content)
        assert kind == "not_found_error"
        assert "kind: claude-cli" in message


@pytest.mark.parametrize(
    ("user", "session"),
    [
        ('{"device_id":"d","account_uuid":"","session_id":"0b4c"}', "0b4c"),
        ("user_1_account__session_8f14e45f-ceea-467f-a9d3-0a1b2c3d4e5f", "8f14e45f-ceea-467f-a9d3-0a1b2c3d4e5f"),
        ("alice", ""),
        ("", ""),
    ],
)
async def test_a_users_name_names_no_conversation(start_edge: StartEdge, user: str, session: str) -> None:
    worker = ScriptedWorker([answer("x")])
    async with start_edge(worker) as running:
        await running.client.post(ANTHROPIC, json={**CHAT, "metadata": {"user_id": user}})
        assert worker.requests[0].session_id == session


@pytest.mark.parametrize("header", ["session-id", "session_id", "conversation-id", "conversation_id"])
async def test_a_header_names_the_conversation(start_edge: StartEdge, header: str) -> None:
    worker = ScriptedWorker([answer("x")])
    async with start_edge(worker) as running:
        await running.client.post(OPENAI, json={**CHAT, "prompt_cache_key": "other"}, headers={header: "s1"})
        assert worker.requests[0].session_id == "s1"


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt_cache_key": "s1", "session_id": "other"},
        {"session_id": "s1"},
        {"prompt_cache_key": "", "conversation_id": "s1"},
        {"session_id": 7, "client_metadata": {"session_id": "s1"}},
    ],
)
async def test_a_field_names_the_conversation(start_edge: StartEdge, fields: dict[str, object]) -> None:
    worker = ScriptedWorker([answer("x")])
    async with start_edge(worker) as running:
        await running.client.post(OPENAI, json={**CHAT, **fields})
        assert worker.requests[0].session_id == "s1"


async def test_a_conversation_may_be_named_for_us(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("x")])
    async with start_edge(worker) as running:
        for name in ("x-patchbay-session", "x-claude-code-session-id"):
            await running.client.post(ANTHROPIC, json=CHAT, headers={name: "s1"})
        named = [(request.session_id, request.session_named) for request in worker.requests]
        assert named == [("s1", True), ("s1", False)]


async def test_passes_what_the_worker_needs(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("x")])
    async with start_edge(worker, security=KEYS) as running:
        headers = {
            "x-api-key": "pb-secret",
            "Anthropic-Beta": "one,two",
            "anthropic-version": "2023-06-01",
            "x-claude-code-session-id": "s1",
            "x-other": "stays",
        }
        response = await running.client.post(ANTHROPIC, json=CHAT, headers=headers)
        sent = worker.requests[0]
        assert sent.request_id == response.headers["x-patchbay-request-id"]
        assert (sent.backend, sent.model, sent.session_id, sent.client_dialect) == ("a", "m", "s1", "anthropic")
        assert sent.caller.key_id == "k1"
        assert dict(sent.headers) == {"anthropic-beta": "one,two", "anthropic-version": "2023-06-01"}
        assert not sent.HasField("credential")
        assert sent.chat.messages[0].blocks[0].text.text == "the words of the user"
        assert b"pb-secret" not in sent.SerializeToString()


async def test_a_session_is_its_callers_own(start_edge: StartEdge) -> None:
    agent = {"kind": "claude-cli", "mode": "agent", "cwd": "/"}
    records = [BackendRecord("agent", "claude-cli", "", signed_in=True, mode="agent")]
    workers = [ScriptedWorker([answer("x")], records=records) for _ in range(3)]
    keys = [{"id": f"k{number}", "key": f"key-{number}"} for number in range(8)]
    backends = {"agent": agent, "default_backend": "agent"}
    async with start_edge(*workers, backends=backends, security={"api_keys": keys}) as running:
        for _ in range(3):
            for key in keys:
                headers = {"x-api-key": key["key"], "x-patchbay-session": "main"}
                response = await running.client.post("/sdk" + ANTHROPIC, json=CHAT, headers=headers)
                assert response.status_code == 200
    places = [Counter(request.caller.key_id for request in worker.requests) for worker in workers]
    # Each caller's session has one place; eight callers' are not all at the same.
    assert sum(places, Counter()) == {key["id"]: 3 for key in keys}
    assert {count for place in places for count in place.values()} == {3}
    assert len([place for place in places if place]) > 1
    assert {request.session_id for worker in workers for request in worker.requests} == {"main"}


async def test_native_bodies_travel_as_they_are(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([[[native(b"event: a\ndata: {}\n\n"), FINISHED]]], backends=[("a", "anthropic")])
    async with start_edge(worker) as running:
        body = b'{ "model" : "m", "stream":true, "unknown" : 1.0e0, "messages":[]}'
        response = await running.client.post(
            ANTHROPIC, content=gzip.compress(body), headers={"content-encoding": "gzip"}
        )
        assert response.content == b"event: a\ndata: {}\n\n"
        assert worker.requests[0].native.body == body
        assert worker.requests[0].model == ""


# -- failures ---------------------------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("path", [ANTHROPIC, OPENAI])
GZIP = {"content-encoding": "gzip"}
BAD: dict[str, tuple[bytes, dict[str, str], int]] = {
    "no JSON": (b"{", {}, 400),
    "no object": (b"[]", {}, 400),
    "empty": (b"", {}, 400),
    "not UTF-8": (b'{"model":"\xff"}', {}, 400),
    "no model": (b"{}", {}, 400),
    "a model that is no text": (b'{"model":1}', {}, 400),
    "a stream that is no boolean": (b'{"model":"m","stream":"yes"}', {}, 400),
    "messages of the wrong type": (b'{"model":"m","max_tokens":1,"messages":"hi"}', {}, 400),
    "too deep": (b'{"model":"m","max_tokens":1,"messages":' + b"[" * 5000 + b"]" * 5000 + b"}", {}, 400),
    "too large": (b"x" * 30_000, {}, 413),
    "too large when unpacked": (gzip.compress(b"x" * 30_000), GZIP, 413),
    "cut off": (gzip.compress(b"{}")[:-3], GZIP, 400),
    "not packed": (b"{}", GZIP, 400),
    "packed in an unknown way": (b"{}", {"content-encoding": "br"}, 415),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize(("body", "headers", "status"), BAD.values(), ids=BAD.keys())
async def test_bad_requests_are_said_in_the_clients_dialect(
    start_edge: StartEdge, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    async with start_edge(ScriptedWorker([answer("x")]), limits={"max_request_bytes": 20_000}) as running:
        response = await running.client.post(path, content=body, headers=headers)
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/json"
        for name in ("request-id", "x-request-id", "x-patchbay-request-id"):
            assert response.headers[name].startswith("req_")
        _, message = shape(path, response.content)
        assert "Traceback" not in message


@BOTH
@pytest.mark.parametrize(
    ("status", "step", "retry_after"),
    [
        (429, failed(make_error(RATE_LIMITED, "slow down", retry_after=30)), "30"),
        # A worker, or its pool of processes, that is full.
        (503, grpc.StatusCode.RESOURCE_EXHAUSTED, "3"),
        (503, failed(make_error(OVERLOADED, "every process is busy", retry_after=7)), "7"),
        (502, [ChatEvent(head=Head(status=200)), STARTED, *failed(make_error(UPSTREAM, "broken"))], None),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_failure_before_the_content_is_a_status(
    start_edge: StartEdge, path: str, status: int, step: Step, retry_after: str | None, stream: bool
) -> None:
    async with start_edge(ScriptedWorker([[step]])) as running:
        response = await running.client.post(path, json=STREAM if stream else CHAT)
        # The Messages API says overload in its own way.
        assert response.status_code == (529 if status == 503 and path == ANTHROPIC else status)
        shape(path, response.content)
        assert response.headers.get("retry-after") == retry_after


@BOTH
async def test_no_worker(start_edge: StartEdge, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchbay.dispatch.picking._WAIT_SECONDS", 0.05)
    async with start_edge() as running:
        response = await running.client.post(path, json=CHAT)
        assert (response.status_code, response.headers["retry-after"]) == (503, "2")
        shape(path, response.content)


@BOTH
@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": "Bearer \xff"}])
async def test_a_key_is_wanted(start_edge: StartEdge, path: str, headers: dict[str, str]) -> None:
    async with start_edge(ScriptedWorker([answer("x")]), security=KEYS) as running:
        encoded = {name: value.encode("latin-1") for name, value in headers.items()}
        response = await running.client.post(path, json=CHAT, headers=encoded)
        assert response.status_code == 401
        shape(path, response.content)


@BOTH
async def test_a_limit(start_edge: StartEdge, path: str) -> None:
    async with start_edge(ScriptedWorker([answer("x")]), limits={"requests_per_minute": 1}) as running:
        assert (await running.client.post(path, json=CHAT)).status_code == 200
        response = await running.client.post(path, json=CHAT)
        assert response.status_code == 429
        assert 1 <= int(response.headers["retry-after"]) <= 60
        assert shape(path, response.content)[0] in ("rate_limit_error", "requests")


@BOTH
@pytest.mark.parametrize("stream", [True, False])
async def test_a_defect_is_said_without_its_details(
    start_edge: StartEdge, path: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object) -> None:
        raise ValueError("the words of the user")

    async with start_edge(ScriptedWorker([answer("x")])) as running:
        monkeypatch.setattr(gateway, "read_head", defect)
        with capture_logs() as lines:
            response = await running.client.post(path, json=STREAM if stream else CHAT)
        assert response.status_code == 500
        _, message = shape(path, response.content)
        assert message == f"internal error; request id {response.headers['x-patchbay-request-id']}"
        assert [line["event"] for line in lines] == ["request_crashed", "request"]


async def test_a_defect_in_the_middle_ends_the_stream_with_an_error(
    start_edge: StartEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def defect(self: object, events: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise ValueError("a defect")

    async with start_edge(ScriptedWorker([[HALF, [text("more")], HANG]])) as running:
        monkeypatch.setattr("patchbay_edge.chat.Meter.see", defect)
        with capture_logs() as lines:
            response = await running.client.post(ANTHROPIC, json=STREAM)
        assert response.text.rstrip().split("\n")[-2] == "event: error"
        assert lines[0]["event"] == "answer_crashed"


@BOTH
async def test_a_broken_answer_ends_with_the_dialects_error(start_edge: StartEdge, path: str) -> None:
    script: list[Step] = [HALF, grpc.StatusCode.UNAVAILABLE]
    async with start_edge(ScriptedWorker([script])) as running:
        response = await running.client.post(path, json=STREAM)
        assert response.status_code == 200
        assert "half" in response.text
        assert "error" in response.text.rstrip().split("\n\n")[-1] + response.text.rstrip().split("\n\n")[-2]
        plain = await running.client.post(path, json=CHAT)
        assert plain.status_code == 503
        shape(path, plain.content)


async def test_a_worker_that_dies_in_the_middle_of_a_stream(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([[HALF, HANG]])
    async with start_edge(worker) as running, running.client.stream("POST", ANTHROPIC, json=STREAM) as response:
        pieces = response.aiter_text()
        assert "half" in await anext(pieces)
        stopping = asyncio.create_task(running.stop_worker(worker))
        rest = "".join([piece async for piece in pieces])
        assert "event: error" in rest
        await stopping


# -- clients that leave -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["uploading", "waiting", "streaming", "after the hold"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_everything(start_edge: StartEdge, moment: str, stream: bool) -> None:
    worker = ScriptedWorker([[HALF, HANG] if moment == "streaming" else [HANG]])
    server = {"head_hold_seconds": 0.05} if moment == "after the hold" else {}
    async with start_edge(worker, server=server) as running:
        whole = request_bytes(ANTHROPIC, STREAM if stream else CHAT)
        async with raw(running.port, whole[:-5] if moment == "uploading" else whole) as (reader, _):
            if moment == "uploading":
                await eventually(lambda: running.edge.admission.held == 1)
            else:
                await eventually(lambda: worker.running == 1)
                if stream and moment != "waiting":
                    assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        await eventually(lambda: worker.running == 0, seconds=1)
        await running.idle()
        assert worker.cancelled == (moment != "uploading")


async def test_hundreds_of_clients_that_leave(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([[HALF, HANG]], capacity=1000)
    async with start_edge(worker) as running:
        tasks = [asyncio.create_task(running.client.post(OPENAI, json=STREAM)) for _ in range(90)]
        await eventually(lambda: worker.running == 90)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await eventually(lambda: worker.running == 0, seconds=3)
        await running.idle()
        assert worker.cancelled == 90


async def test_a_client_that_does_not_read_stops_the_worker(start_edge: StartEdge) -> None:
    window = [native(b"data: " + b"x" * 65536 + b"\n\n")]
    worker = ScriptedWorker([[window] * 800 + [[FINISHED]]], backends=[("a", "openai_chat")])
    async with start_edge(worker) as running:
        async with raw(running.port, request_bytes(OPENAI, STREAM)) as (reader, _):
            await eventually(lambda: worker.played > 0)
            # Of fifty megabytes, what sockets and windows hold: how large the system lets them grow differs.
            assert await settled(lambda: worker.played) < 400
            body = bytearray()
            async with asyncio.timeout(30):
                while b"0\r\n\r\n" not in body[-16:]:
                    body += await reader.read(2**20)
        assert len(body) > 800 * 65536


# -- pings ------------------------------------------------------------------------------------------------------------


async def test_the_head_goes_out_after_the_hold_and_pings_follow(start_edge: StartEdge) -> None:
    script: list[Step] = [[STARTED], 0.5, [BLOCK, text("late"), STOP, FINISHED]]
    server = {"head_hold_seconds": 0.1, "keep_alive_ping_seconds": 0.1}
    async with start_edge(ScriptedWorker([script]), server=server) as running:
        response = await running.client.post(ANTHROPIC, json=STREAM)
        names = [line[7:] for line in response.text.split("\n") if line.startswith("event: ")]
        assert 3 <= names.count("ping") <= 6
        assert next(name for name in names if name != "ping") == "message_start"
        assert names[-1] == "message_stop"


# -- counting ---------------------------------------------------------------------------------------------------------


async def test_counts_tokens(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("x")])
    async with start_edge(worker) as running:
        response = await running.client.post(COUNT, json=CHAT)
        assert (response.status_code, response.json()) == (200, {"input_tokens": 7})
        assert "x-patchbay-token-count" not in response.headers
        worker.counts = CountTokensResponse(input_tokens=9, estimated=True)
        response = await running.client.post(COUNT, json=CHAT)
        assert (response.json(), response.headers["x-patchbay-token-count"]) == ({"input_tokens": 9}, "estimated")
        worker.counts = CountTokensResponse(error=make_error(OVERLOADED, "too much", http_status=529))
        response = await running.client.post(COUNT, json=CHAT)
        assert response.status_code == 529
        assert shape(COUNT, response.content)[0] == "overloaded_error"


async def test_counting_asks_another_replica(start_edge: StartEdge) -> None:
    away = ScriptedWorker([answer("x")], counts=grpc.StatusCode.UNAVAILABLE)
    async with start_edge(away, ScriptedWorker([answer("x")])) as running:
        for _ in range(5):
            assert (await running.client.post(COUNT, json=CHAT)).json() == {"input_tokens": 7}
    alone = ScriptedWorker([answer("x")], counts=grpc.StatusCode.UNAVAILABLE)
    async with start_edge(alone) as running:
        response = await running.client.post(COUNT, json=CHAT)
        assert response.status_code == 503
        assert len(alone.count_requests) == 2


# -- credentials ------------------------------------------------------------------------------------------------------


def own(name: str, url: str) -> dict[str, str]:
    return {"kind": "openai-compatible", "base_url": url, "credentials": "pass_through"}


@pytest.mark.parametrize(
    ("second_url", "follows"), [("http://one.test/v1", True), ("http://two.test/v1", False)], ids=["same", "other"]
)
async def test_a_callers_credential_goes_to_the_provider_it_is_for_only(
    start_edge: StartEdge, second_url: str, follows: bool
) -> None:
    first = ScriptedWorker([[failed(make_error(OVERLOADED, "full", retry_after=60))]], backends=[("one", "")])
    second = ScriptedWorker([answer("x")], backends=[("two", "")])
    backends = {"one": own("one", "http://one.test/v1"), "two": own("two", second_url), "default_backend": "one"}
    routes = [{"backend": "one", "fallbacks": ["two"]}]
    async with start_edge(first, second, backends=backends, routes=routes) as running:
        response = await running.client.post(OPENAI, json=CHAT, headers={"authorization": "Bearer sk-mine"})
        assert response.status_code == 200
        sent = Credential(scheme=Credential.SCHEME_BEARER, secret="sk-mine")
        assert first.requests[0].credential == sent
        assert second.requests[0].HasField("credential") is follows


@pytest.mark.parametrize("stream", [True, False])
async def test_whoever_answers_says_how_reasoning_is_written(start_edge: StartEdge, stream: bool) -> None:
    first = ScriptedWorker([[failed(make_error(OVERLOADED, "full", retry_after=60))]], backends=[("one", "")])
    thought = [
        ChatEvent(block_start=BlockStart(index=1, thinking=ThinkingStart())),
        ChatEvent(thinking_delta=ThinkingDelta(index=1, text="Hm.")),
        ChatEvent(block_stop=BlockStop(index=1)),
    ]
    second = ScriptedWorker([[[STARTED, *thought], *answer("x")[0:1], [FINISHED]]], backends=[("two", "")])
    backends = {
        "one": own("one", "http://one.test/v1"),
        "two": {**own("two", "http://two.test/v1"), "reasoning_format": "xml"},
        "default_backend": "one",
    }
    routes = [{"backend": "one", "fallbacks": ["two"]}]
    async with start_edge(first, second, backends=backends, routes=routes) as running:
        response = await running.client.post(OPENAI, json={**CHAT, "stream": stream})
        assert "<reasoning>" in response.text
        assert "reasoning_content" not in response.text


# -- draining ---------------------------------------------------------------------------------------------------------


@BOTH
async def test_a_draining_edge_refuses_new_requests(start_edge: StartEdge, path: str) -> None:
    async with start_edge(ScriptedWorker([answer("x")])) as running:
        running.edge.gateway.drain(60)
        response = await running.client.post(path, json=CHAT)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        shape(path, response.content)
        ready = await running.client.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "draining")
        assert (await running.client.get("/health")).status_code == 200


@pytest.mark.parametrize("moment", ["uploading", "waiting", "streaming"])
@pytest.mark.parametrize("stream", [True, False])
async def test_what_still_runs_at_the_deadline_ends_with_an_error(
    start_edge: StartEdge, moment: str, stream: bool
) -> None:
    worker = ScriptedWorker([[HALF, HANG] if moment == "streaming" else [HANG]])
    async with start_edge(worker) as running:
        whole = request_bytes(ANTHROPIC, STREAM if stream else CHAT, "connection: close")
        async with raw(running.port, whole[:-5] if moment == "uploading" else whole) as (reader, _):
            if moment == "uploading":
                await eventually(lambda: running.edge.admission.held == 1)
            else:
                await eventually(lambda: worker.running == 1)
            with capture_logs() as lines:
                running.edge.gateway.drain(0.05)
                got = await asyncio.wait_for(reader.read(), 5)
                await running.idle()
        head, _, body = got.partition(b"\r\n\r\n")
        if stream and moment == "streaming":
            assert head.startswith(b"HTTP/1.1 200")
            assert b"event: error" in body
            assert body.endswith(b"0\r\n\r\n")
        else:
            assert head.startswith(b"HTTP/1.1 503"), head
            shape(ANTHROPIC, body)
        assert [line["event"] for line in lines] == ["request"]


# -- what is said of it -----------------------------------------------------------------------------------------------


async def test_the_request_log_holds_neither_bodies_nor_keys(start_edge: StartEdge) -> None:
    script: list[Step] = [
        [ChatEvent(warning=Warning(parameter="seed", message="dropped"))],
        [STARTED, BLOCK, text("the words of the model"), STOP],
        [ChatEvent(usage=Usage(input_tokens=3, output_tokens=2)), FINISHED],
    ]
    async with start_edge(ScriptedWorker([script]), security=KEYS) as running:
        with capture_logs() as lines:
            response = await running.client.post(OPENAI, json=STREAM, headers={"authorization": "Bearer pb-secret"})
            await running.idle()
        assert len(lines) == 1
        line = dict(lines[0])
        assert line.pop("seconds") < 5
        assert line == {
            "event": "request",
            "log_level": "info",
            "request_id": response.headers["x-patchbay-request-id"],
            "endpoint": "chat",
            "dialect": "openai_chat",
            "status": 200,
            "complete": True,
            "backend": "a",
            "model": "m",
            "warnings": "seed: dropped",
            "input_tokens": 3,
            "output_tokens": 2,
        }


async def test_redis_away_in_the_middle(start_edge: StartEdge, valkey: ValkeyProcess) -> None:
    gate = asyncio.Event()
    worker = ScriptedWorker([[HALF, gate, [STOP, FINISHED]], answer("still here")])
    async with start_edge(worker, flags=("--redis.timeout_seconds=0.1",)) as running:
        async with running.client.stream("POST", ANTHROPIC, json=STREAM) as response:
            pieces = response.aiter_text()
            await anext(pieces)
            valkey.pause()
            try:
                gate.set()
                assert "message_stop" in "".join([piece async for piece in pieces])
                second = await running.client.post(ANTHROPIC, json=CHAT)
                assert second.status_code == 200
                assert (await running.client.get("/health")).status_code == 200
                ready = await running.client.get("/ready")
                assert (ready.status_code, ready.json()["redis"]) == (200, "away")
            finally:
                valkey.resume()
        await eventually(lambda: not running.edge.admission.degraded)


async def test_http_1_0_and_keep_alive(start_edge: StartEdge) -> None:
    async with start_edge(ScriptedWorker([answer("x")])) as running:
        for _ in range(3):
            assert (await running.client.post(OPENAI, json=STREAM)).status_code == 200
        old = request_bytes(OPENAI, CHAT).replace(b"HTTP/1.1", b"HTTP/1.0")
        async with raw(running.port, old) as (reader, _):
            assert b'"content":"x"' in await asyncio.wait_for(reader.read(), 5)
