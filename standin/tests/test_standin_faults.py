"""Errors, silence, cuts and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import psutil
import pytest

from patchbay_standin import ErrorEvent, ErrorReply, Script, write_script
from patchbay_standin.testing import StandinProcess

MESSAGES: Any = [{"role": "user", "content": "hello"}]

ANTHROPIC_ERRORS = {
    400: anthropic.BadRequestError,
    401: anthropic.AuthenticationError,
    403: anthropic.PermissionDeniedError,
    404: anthropic.NotFoundError,
    413: anthropic.RequestTooLargeError,
    429: anthropic.RateLimitError,
    500: anthropic.InternalServerError,
    503: anthropic.ServiceUnavailableError,
    529: anthropic.OverloadedError,
}
OPENAI_ERRORS = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    413: openai.APIStatusError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    503: openai.InternalServerError,
    529: openai.InternalServerError,
}


@pytest.mark.parametrize("status", ANTHROPIC_ERRORS)
@pytest.mark.parametrize("stream", [False, True])
def test_sdks_raise_their_own_errors(
    status: int, stream: bool, anthropic_client: anthropic.Anthropic, openai_client: openai.OpenAI
) -> None:
    model = f"standin-error-{status}"
    with pytest.raises(ANTHROPIC_ERRORS[status]) as raised:
        anthropic_client.messages.create(model=model, max_tokens=9, messages=MESSAGES, stream=stream)
    assert raised.value.response.headers.get("retry-after") == ("1" if status in (429, 503, 529) else None)
    with pytest.raises(OPENAI_ERRORS[status]):
        openai_client.chat.completions.create(model=model, messages=MESSAGES, stream=stream)


def test_an_error_as_scripted(ask: Any) -> None:
    reply = ErrorReply(
        status=429,
        type="tokens",
        message="Slow down.",
        code="rate_limit_exceeded",
        param="p",
        retry_after=2.5,
        headers={"X-Should-Retry": "false"},
    )
    header = {"x-standin-script": write_script(Script(error=reply)).decode()}
    answer = ask("openai", "m", headers=header)
    error = {"message": "Slow down.", "type": "tokens", "param": "p", "code": "rate_limit_exceeded"}
    assert (answer.status, answer.json) == (429, {"error": error})
    assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("2.5", "false")
    answer = ask("anthropic", "m", headers=header)
    assert answer.json["error"] == {"type": "tokens", "message": "Slow down."}
    page = Script(error=ErrorReply(status=502, raw_body="<html>", headers={"content-type": "text/html"}))
    answer = ask("anthropic", "m", headers={"x-standin-script": write_script(page).decode()})
    assert (answer.status, answer.headers["content-type"], answer.body) == (502, "text/html", b"<html>")


@pytest.mark.parametrize("after", [0, 2])
def test_error_inside_a_200(after: int, ask: Any, standin: StandinProcess) -> None:
    script = Script(text="a b c d", error_event=ErrorEvent(after=after, message="Too much."))
    header = {"x-standin-script": write_script(script).decode()}
    answer = ask("anthropic", "m", stream=True, headers=header)
    assert answer.status == 200
    names = [name for name, _ in answer.events]
    assert names == [
        "message_start",
        "content_block_start",
        "ping",
        *["content_block_delta"] * after,
        "error",
    ]
    assert answer.events[-1][1] == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "Too much."},
        "request_id": answer.headers["request-id"],
    }
    answer = ask("openai", "m", stream=True, headers=header)
    assert len(answer.events) == 1 + after + 1
    assert answer.events[-1][1]["error"]["message"] == "Too much."
    assert [(request.outcome, request.deltas) for request in standin.requests()] == [("error", after)] * 2


def test_error_event_is_a_status_without_a_stream(ask: Any) -> None:
    header = {"x-standin-script": write_script(Script(error_event=ErrorEvent(after=3))).decode()}
    assert ask("anthropic", "m", headers=header).status == 529


def test_sdks_raise_for_an_error_inside_a_200(
    anthropic_client: anthropic.Anthropic, openai_client: openai.OpenAI
) -> None:
    model = "standin-overloaded-in-stream"
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        list(anthropic_client.messages.create(model=model, max_tokens=9, messages=MESSAGES, stream=True))
    with pytest.raises(openai.APIError, match="Overloaded"):
        list(openai_client.chat.completions.create(model=model, messages=MESSAGES, stream=True))


@contextlib.contextmanager
def opened(standin: StandinProcess, body: dict[str, Any]) -> Iterator[tuple[socket.socket, Any]]:
    """A request by hand: the socket, and a file of the answer's bytes."""
    host, port = standin.url.removeprefix("http://").split(":")
    data = json.dumps({"messages": MESSAGES, "stream": True, **body}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer k\r\n"
        f"content-length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode() + data)
        with connection.makefile("rb") as answer:
            yield connection, answer


@pytest.mark.parametrize("after", [0, 5])
def test_cut_inside_a_frame(after: int, standin: StandinProcess) -> None:
    standin.script("cut", Script(deltas=20, cut_after=after))
    with opened(standin, {"model": "cut"}) as (_, answer):
        head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert not body.endswith(b"0\r\n\r\n")
    last = body.rsplit(b"data: ", 1)[1]
    assert b"\n\n" not in last
    # The role's chunk and the deltas before the cut; the last frame ends before its content.
    assert body.count(b'"content":"') == after + 1
    (request,) = standin.wait_for(lambda standin: [r for r in standin.requests() if r.outcome])
    assert (request.outcome, request.deltas) == ("cut", after)


def test_cut_before_the_head(standin: StandinProcess) -> None:
    with opened(standin, {"model": "standin-cut-before-head"}) as (_, answer):
        assert answer.read() == b""
    standin.wait_for(lambda standin: standin.stats().cut == 1)


def test_cut_of_a_whole_answer(standin: StandinProcess, openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIConnectionError):
        openai_client.chat.completions.create(model="standin-cut", messages=MESSAGES)
    assert standin.requests()[-1].outcome == "cut"


@pytest.mark.parametrize(
    ("model", "stream"),
    [
        ("standin-silence", True),
        ("standin-silence", False),
        ("standin-silence-at-once", True),
        ("standin-slow", True),
        ("standin-slow-first-byte", True),
        ("standin-slow-first-event", True),
        ("standin-slow-first-byte", False),
    ],
)
def test_a_client_that_leaves_is_noticed(model: str, stream: bool, standin: StandinProcess) -> None:
    with opened(standin, {"model": model, "stream": stream}):
        standin.wait_for(lambda standin: standin.stats().active == 1)
    left = time.time()
    (request,) = standin.wait_for(lambda standin: [r for r in standin.requests() if r.ended])
    assert request.outcome == "aborted"
    assert request.ended is not None
    assert request.ended - left < 0.1
    assert (standin.stats().active, standin.stats().aborted) == (0, 1)


async def test_a_hundred_clients_leave(standin: StandinProcess) -> None:
    async def one(client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(model="standin-silence", messages=MESSAGES, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()

    async with openai.AsyncOpenAI(base_url=f"{standin.url}/v1", api_key="k") as client:
        await asyncio.gather(*(one(client) for _ in range(100)))
    await asyncio.to_thread(standin.wait_for, lambda standin: standin.stats().aborted == 100)
    stats = standin.stats()
    assert (stats.active, stats.completed, stats.max_active) == (0, 0, 100)


def test_silence_for_a_while(standin: StandinProcess, ask: Any) -> None:
    standin.script("pause", Script(text="a b c", silence_after=1, silence_ms=200, keepalive_ms=50))
    started = time.monotonic()
    answer = ask("anthropic", "pause", stream=True)
    assert 0.19 < time.monotonic() - started < 2
    names = [name for name, _ in answer.events]
    assert names[3] == "content_block_delta"
    # Three fit in; on a busy machine one comes late, or one more as the silence ends.
    assert 2 <= names[4:].index("content_block_delta") <= 4
    assert names[4:6] == ["ping"] * 2
    assert names[-1] == "message_stop"


def test_a_slow_reader_pauses_it(standin: StandinProcess) -> None:
    process = psutil.Process(standin.pid)
    before = process.memory_info().rss
    standin.script("flood", Script(huge=200))
    with opened(standin, {"model": "flood"}) as (_, answer):
        standin.wait_for(lambda standin: standin.stats().paused > 0)
        assert process.memory_info().rss - before < 20_000_000
        assert standin.stats().active == 1
        answer.read(3_000_000)
        standin.wait_for(lambda standin: standin.stats().paused > 1)
    (request,) = standin.wait_for(lambda standin: [r for r in standin.requests() if r.ended])
    assert (request.outcome, request.paused > 1) == ("aborted", True)


@pytest.mark.parametrize("stream", [False, True])
def test_huge_output(stream: bool, standin: StandinProcess, openai_client: openai.OpenAI, ask: Any) -> None:
    standin.script("big", Script(huge=3))
    answer = ask("openai", "big", stream=stream)
    if stream:
        text = "".join(
            data["choices"][0]["delta"].get("content") or "" for _, data in answer.events if data != "[DONE]"
        )
    else:
        text = answer.json["choices"][0]["message"]["content"]
    assert abs(len(text) - 3_000_000) < 1024
    assert standin.requests()[-1].deltas == len(text) // 1024


def test_half_a_request_is_an_abort(standin: StandinProcess) -> None:
    host, port = standin.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        standin.wait_for(lambda standin: standin.stats().active == 1)
    assert standin.wait_for(lambda standin: standin.stats().aborted == 1)


def test_an_unknown_encoding_is_refused(call: Any) -> None:
    headers = {"authorization": "Bearer k", "content-encoding": "gzip"}
    assert call("POST", "/v1/chat/completions", b"\x1f\x8b", headers).status == 415


def test_connections_are_reused(standin: StandinProcess) -> None:
    host = standin.url.removeprefix("http://")
    with contextlib.closing(http.client.HTTPConnection(host)) as connection:
        for model in ("standin-echo", "standin-error-500", "standin-bench-burst"):
            body = json.dumps({"model": model, "messages": MESSAGES, "stream": True})
            connection.request("POST", "/v1/chat/completions", body, {"authorization": "Bearer k"})
            before = connection.sock
            connection.getresponse().read()
            assert connection.sock is before
