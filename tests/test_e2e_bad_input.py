"""Input that cannot be served: each a clear error in the client's dialect, and never a failure of the server."""

from __future__ import annotations

import copy
import gzip
import itertools
import json
import re
import socket
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import psutil
import pytest
import zstandard
from conftest import HOUSE_KEY
from ways import PIXEL

from patchbay.testing.cluster import Cluster, wait_until
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin.testing import StandinProcess

Body = dict[str, Any]

HELLO: Body = {"role": "user", "content": "Hello"}
MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
COMPLETIONS = "/v1/chat/completions"
MEGABYTE = 1_000_000


def error_of(path: str, answer: httpx.Response) -> tuple[str, str]:
    """The type and message of an error of the client's own dialect, which tells nothing of the server's inside."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["request-id"]
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    body = answer.json()
    if "/messages" in path:
        assert (set(body), body["type"]) == ({"type", "error", "request_id"}, "error")
        assert set(body["error"]) == {"type", "message"}
    else:
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
    kind, message = body["error"]["type"], body["error"]["message"]
    assert kind
    assert message
    return kind, message


@pytest.fixture
def client(cluster: Cluster, upstream: StandinProcess) -> Iterator[httpx.Client]:
    """After each test the server still serves, and has not been started anew."""
    pids = [edge.pid for edge in cluster.edges]
    headers = {"content-type": "application/json", "x-api-key": "sk-made-up"}
    with httpx.Client(base_url=cluster.url, headers=headers, timeout=30) as open_client:
        yield open_client
        for path in (MESSAGES, COMPLETIONS):
            answer = open_client.post(path, json={"model": "standin", "max_tokens": 9, "messages": [HELLO]})
            assert answer.status_code == 200
    assert [edge.pid for edge in cluster.edges if edge.alive] == pids
    assert "request_crashed" not in cluster.logs()


@pytest.fixture
def member(house: Cluster, upstream: StandinProcess) -> Iterator[httpx.Client]:
    headers = {"content-type": "application/json", "x-api-key": HOUSE_KEY}
    with httpx.Client(base_url=house.url, headers=headers, timeout=30) as open_client:
        yield open_client
    assert "request_crashed" not in house.logs()


# Bodies that are no JSON object

_NOT_JSON = {
    "empty": b"",
    "white space": b" \n",
    "words": b"hello",
    "cut off": b'{"model":"standin","messages":[{"role":"us',
    "single quotes": b"{'model':'standin'}",
    "trailing comma": b'{"model":"standin",}',
    "something after": b'{"model":"standin","messages":[]} and more',
    "two objects": b'{"model":"standin"}{"model":"standin"}',
    "not a number": b'{"model":"standin","temperature":NaN}',
    "binary": bytes(range(256)),
    "utf-16": '{"model":"standin"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"model":"standin"}',
    "broken utf-8": b'{"model":"stand\xffin"}',
    "very deep": b'{"model":"standin","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "very deep and cut off": b'{"model":"standin","x":' + b'{"a":' * 200_000,
}
_NO_OBJECT = {
    "null": b"null",
    "array": b'[{"model":"standin"}]',
    "string": b'"standin"',
    "number": b"1",
    "true": b"true",
}


@pytest.mark.parametrize("path", [MESSAGES, COMPLETIONS, COUNT, f"/api{MESSAGES}"])
@pytest.mark.parametrize("name", [*_NOT_JSON, *_NO_OBJECT])
def test_a_body_that_is_no_json_object(client: httpx.Client, path: str, name: str, upstream: StandinProcess) -> None:
    answer = client.post(path, content=(_NOT_JSON | _NO_OBJECT)[name])

    assert answer.status_code == 400
    kind, message = error_of(path, answer)
    assert kind == "invalid_request_error"
    assert "JSON" in message or "nested too deeply" in message
    assert upstream.requests() == []


@pytest.mark.parametrize("path", [MESSAGES, COMPLETIONS, COUNT])
@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({}, "model: Field required"),
        ({"model": None}, "model: Input should be a valid string"),
        ({"model": 5}, "model: Input should be a valid string"),
        ({"model": ["standin"]}, "model: Input should be a valid string"),
        ({"model": "standin", "stream": "yes"}, "stream: Input should be a valid boolean"),
        ({"model": "standin", "stream": 1}, "stream: Input should be a valid boolean"),
    ],
)
def test_what_routing_needs(client: httpx.Client, path: str, head: Body, message: str) -> None:
    answer = client.post(path, json={"max_tokens": 9, "messages": [HELLO], **head})

    assert answer.status_code == 400
    assert error_of(path, answer) == ("invalid_request_error", message)


# Fields of the wrong type, and what the error has to name

_WRONG: list[tuple[str, Body]] = [
    ("messages", {"messages": None}),
    ("messages", {"messages": "Hello"}),
    ("messages", {"messages": {}}),
    ("messages", {"messages": []}),
    ("messages", {"messages": ["Hello"]}),
    ("messages", {"messages": [None]}),
    ("messages", {"messages": [{"content": "Hello"}]}),
    ("role|wizard", {"messages": [{"role": "wizard", "content": "Hello"}]}),
    ("messages", {"messages": [{"role": 5, "content": "Hello"}]}),
    ("messages", {"messages": [{"role": "user", "content": 5}]}),
    ("messages", {"messages": [{"role": "user", "content": [5]}]}),
    ("messages", {"messages": [{"role": "user", "content": [{"text": "Hello"}]}]}),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}),
    ("max_tokens", {"max_tokens": "many"}),
    ("max_tokens", {"max_tokens": 1.5}),
    ("max_tokens", {"max_tokens": [1]}),
    ("tools", {"tools": "look"}),
    ("tools", {"tools": ["look"]}),
    ("tool_choice", {"tool_choice": 5}),
]


@pytest.mark.parametrize("path", [MESSAGES, COMPLETIONS])
@pytest.mark.parametrize("backend", ["openai", "anthropic", "codebuddy"])
@pytest.mark.parametrize("stream", [False, True])
def test_fields_of_the_wrong_type(client: httpx.Client, path: str, backend: str, stream: bool) -> None:
    for named, wrong in _WRONG:
        body = {"model": f"{backend}/standin", "max_tokens": 9, "messages": [HELLO], "stream": stream, **wrong}

        answer = client.post(path, json=body)

        assert answer.status_code == 400, f"{wrong}: {answer.text}"
        kind, message = error_of(path, answer)
        assert kind == "invalid_request_error"
        assert re.search(named, message), f"{wrong}: {message}"


# Every part of a rich body replaced by something else, in turn.

_ANTHROPIC: Body = {
    "model": "standin",
    "max_tokens": 9000,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                {
                    "type": "document",
                    "title": "t",
                    "context": "c",
                    "citations": {"enabled": True},
                    "source": {"type": "text", "media_type": "text/plain", "data": "hi"},
                },
                {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "x"}]}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "eA=="},
                {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "a"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "is_error": True,
                    "content": [{"type": "text", "text": "no"}],
                }
            ],
        },
    ],
    "tools": [{"name": "Read", "description": "d", "input_schema": {"type": "object"}, "strict": True}],
    "tool_choice": {"type": "tool", "name": "Read", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "metadata": {"user_id": "u"},
    "stop_sequences": ["x"],
    "temperature": 1,
    "top_p": 0.5,
    "top_k": 5,
    "service_tier": "auto",
    "stream": False,
}
_OPENAI: Body = {
    "model": "standin",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "x"}], "name": "dev"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hello"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}},
                {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
            ],
        },
        {
            "role": "assistant",
            "content": "Look:",
            "refusal": None,
            "reasoning_content": "Hm.",
            "reasoning_details": [{"type": "reasoning.text", "text": "Hm.", "signature": "s"}],
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "seen"}]},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "description": "d", "parameters": {}, "strict": True}}],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "parallel_tool_calls": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    "reasoning_effort": "low",
    "max_completion_tokens": 9000,
    "temperature": 1,
    "top_p": 0.5,
    "n": 1,
    "stop": ["x"],
    "seed": 1,
    "logprobs": True,
    "top_logprobs": 1,
    "logit_bias": {"1": 2},
    "metadata": {"a": "b"},
    "user": "u",
    "service_tier": "auto",
    "stream": False,
    "stream_options": None,
}
_OTHER: list[Any] = [None, 5, "x", [], {}, -1, True, [None], {"type": "odd"}, 1.5, "", 10**30, [[]], [{"type": "text"}]]


@pytest.mark.parametrize(("path", "body"), [(MESSAGES, _ANTHROPIC), (COMPLETIONS, _OPENAI)], ids=["messages", "chat"])
@pytest.mark.parametrize("backend", ["openai", "anthropic", "codebuddy"])
def test_no_part_of_a_body_can_break_the_server(client: httpx.Client, path: str, body: Body, backend: str) -> None:
    values = itertools.cycle(_OTHER)
    for place in _places(body):
        for value in itertools.islice(values, 3):
            changed = _with(body, place, value)
            changed["model"] = f"{backend}/standin"

            answer = client.post(path, json=changed)

            assert answer.status_code < 500, f"{place} = {value!r}: {answer.text}"
            if answer.status_code != 200:
                error_of(path, answer)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place and place != ("model",):
        yield place
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _places(part, (*place, key))


def _with(body: Body, place: tuple[Any, ...], value: Any) -> Body:
    changed = copy.deepcopy(body)
    at: Any = changed
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return changed


# Bodies that are too large, or broken by their compression


@pytest.mark.parametrize("path", [MESSAGES, COMPLETIONS])
def test_a_declared_100_megabytes_are_refused_before_they_come(
    cluster: Cluster, client: httpx.Client, path: str
) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: patchbay\r\ncontent-type: application/json\r\n"
        f"content-length: {100 * MEGABYTE}\r\n\r\n{{"
    )
    with _connect(cluster) as connection:
        connection.sendall(head.encode())
        answer = _read_answer(connection)

    assert answer.status_code == 413
    kind, message = error_of(path, answer)
    assert kind == ("request_too_large" if path == MESSAGES else "invalid_request_error")
    assert "larger than" in message


@pytest.mark.parametrize("path", [MESSAGES, COMPLETIONS])
@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_100_megabytes(cluster: Cluster, client: httpx.Client, path: str, chunked: bool) -> None:
    edge = psutil.Process(cluster.edges[0].pid)
    before = edge.memory_info().rss
    coding = "transfer-encoding: chunked" if chunked else f"content-length: {100 * MEGABYTE}"
    with _connect(cluster) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nhost: patchbay\r\n{coding}\r\n\r\n".encode())
        sender = threading.Thread(target=_send_megabytes, args=(connection, 100, chunked), daemon=True)
        sender.start()
        answer = _read_answer(connection)
        sender.join(30)

    assert answer.status_code == 413
    error_of(path, answer)
    # Declared, nothing of it is kept; else no more than the limit, give or take the buffer's growth.
    assert edge.memory_info().rss - before < (150 if chunked else 20) * MEGABYTE


def _send_megabytes(connection: socket.socket, count: int, chunked: bool) -> None:
    piece = b" " * MEGABYTE
    try:
        for _ in range(count):
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            connection.sendall(b"0\r\n\r\n")
    except OSError:
        # The server has said no and hung up.
        return


def _connect(cluster: Cluster) -> socket.socket:
    return socket.create_connection(("127.0.0.1", cluster.edges[0].port), timeout=20)


def _read_answer(connection: socket.socket) -> httpx.Response:
    """Reads one answer with a content-length."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, f"closed after {data!r}"
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    start, *lines = head.decode("latin-1").split("\r\n")
    headers = httpx.Headers([line.split(": ", 1) for line in lines])
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65536)
    return httpx.Response(int(start.split()[1]), headers=headers, content=body)


def test_the_sdks_say_that_a_request_is_too_large(house: Cluster, member: httpx.Client) -> None:
    messages: Any = [{"role": "user", "content": "x" * 5 * MEGABYTE}]
    with pytest.raises(anthropic.APIStatusError) as too_large:
        anthropic.Anthropic(base_url=house.url, api_key=HOUSE_KEY, max_retries=0).messages.create(
            model="standin", max_tokens=9, messages=messages
        )
    assert too_large.value.status_code == 413
    with pytest.raises(openai.APIStatusError) as also:
        openai.OpenAI(base_url=f"{house.url}/v1", api_key=HOUSE_KEY, max_retries=0).chat.completions.create(
            model="standin", messages=messages
        )
    assert also.value.status_code == 413
    assert also.value.code == "request_too_large"


_VALID = json.dumps({"model": "standin", "max_tokens": 9, "messages": [HELLO], "pad": "abcdefghij" * 500}).encode()
_SPACES = b" " * 50 * MEGABYTE


@pytest.mark.parametrize("path", [MESSAGES, COMPLETIONS, COUNT])
@pytest.mark.parametrize(
    ("encoding", "content", "status", "word"),
    [
        ("zstd", zstandard.compress(_VALID)[:-5], 400, "cut off"),
        ("zstd", zstandard.compress(_VALID)[:3], 400, "zstd"),
        ("zstd", _VALID, 400, "not valid zstd"),
        ("zstd", b"", 400, "zstd"),
        ("gzip", gzip.compress(_VALID)[:-12], 400, "cut off"),
        ("gzip", gzip.compress(_VALID)[:5], 400, "cut off"),
        ("gzip", _VALID, 400, "not valid gzip"),
        ("gzip", b"", 400, "gzip"),
        ("deflate", zlib.compress(_VALID)[:-9], 400, "cut off"),
        ("deflate", b"\x00\x01", 400, "not valid deflate"),
        ("gzip", gzip.compress(b"not json"), 400, "JSON"),
        ("br", _VALID, 415, "`br` is not supported"),
        ("gzip, gzip", gzip.compress(gzip.compress(_VALID)), 415, "not supported"),
        ("nonsense", _VALID, 415, "not supported"),
        ("gzip", gzip.compress(_SPACES), 413, "larger than"),
        ("deflate", zlib.compress(_SPACES), 413, "larger than"),
        ("zstd", zstandard.compress(_SPACES), 413, "larger than"),
        ("zstd", zstandard.ZstdCompressor(write_content_size=False).compress(_SPACES), 413, "larger than"),
    ],
    ids=[
        *("zstd-cut-off", "zstd-head-only", "zstd-is-not", "zstd-empty"),
        *("gzip-cut-off", "gzip-head-only", "gzip-is-not", "gzip-empty"),
        *("deflate-cut-off", "deflate-is-not", "gzip-of-no-json"),
        *("brotli", "twice", "nonsense"),
        *("gzip-bomb", "deflate-bomb", "zstd-bomb", "zstd-bomb-without-size"),
    ],
)
def test_broken_and_huge_compressed_bodies(
    house: Cluster, member: httpx.Client, path: str, encoding: str, content: bytes, status: int, word: str
) -> None:
    edge = psutil.Process(house.edges[0].pid)
    before = edge.memory_info().rss

    answer = member.post(path, content=content, headers={"content-encoding": encoding})

    assert answer.status_code == status, answer.text
    _, message = error_of(path, answer)
    assert word in message
    # A bomb of 50 MB where 4 are allowed.
    assert edge.memory_info().rss - before < 25 * MEGABYTE


# Paths, methods, models, headers


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nothing/here", 404, "not_found_error"),
        ("POST", "/v1", 404, "not_found_error"),
        ("POST", "/v1/responses/unknown", 405, "invalid_request_error"),
        ("POST", "/v1/responses/unknown/input", 404, "not_found_error"),
        ("POST", "/v1/messages/unknown", 404, "not_found_error"),
        ("POST", "/v1/messages/", 404, "not_found_error"),
        ("POST", "/v1/chat/completions/unknown", 404, "not_found_error"),
        ("POST", "/unrouted/v1/messages", 404, "not_found_error"),
        ("POST", "//v1/messages", 404, "not_found_error"),
        ("POST", "/v1/messages%00", 404, "not_found_error"),
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("PUT", "/v1/chat/completions", 405, "invalid_request_error"),
        ("DELETE", "/api/v1/messages/count_tokens", 405, "invalid_request_error"),
        ("OPTIONS", "/v1/chat/completions", 405, "invalid_request_error"),
        ("PATCH", "/v1/messages", 405, "invalid_request_error"),
        ("POST", "/v1/models", 405, "invalid_request_error"),
        ("POST", "/health", 405, "invalid_request_error"),
        ("POST", "/", 405, "invalid_request_error"),
    ],
)
def test_unknown_paths_and_methods(client: httpx.Client, method: str, path: str, status: int, kind: str) -> None:
    body = {"model": "standin", "max_tokens": 9, "messages": [HELLO]}

    answer = client.request(method, path, json=body)

    assert answer.status_code == status
    assert error_of(path, answer)[0] == kind
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize("path", [MESSAGES, COMPLETIONS])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "model",
    [
        "openai/standin-no-such",
        "anthropic/standin-no-such",
        "standin-no-such",
        "anthropic/standin-\r\nx: y",
        "standin-ÿ😀",
    ],
)
def test_a_model_that_the_upstream_does_not_know(client: httpx.Client, path: str, stream: bool, model: str) -> None:
    body = {"model": model, "max_tokens": 9, "messages": [HELLO], "stream": stream}

    answer = client.post(path, json=body)

    assert answer.status_code == 404
    _, message = error_of(path, answer)
    assert (model.partition("/")[2] or model) in message


def test_a_model_that_no_backend_takes(shared_valkey: ValkeyProcess) -> None:
    """Nothing is configured, and so there is nothing to fall back on."""
    with Cluster({}, redis_url=shared_valkey.url.removesuffix("0") + "2", kinds=(), edges=0) as nothing:
        edge = nothing.add_edge()
        wait_until(lambda: bool(nothing.ready(edge)), what="an answer from /ready", log=nothing.logs)
        ready = httpx.get(edge.url + "/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "waiting")
        for path, kind in ((MESSAGES, "not_found_error"), (COMPLETIONS, "invalid_request_error")):
            answer = httpx.post(edge.url + path, json={"model": "any-model", "max_tokens": 9, "messages": [HELLO]})
            assert answer.status_code == 404
            assert error_of(path, answer)[0] == kind
            assert "any-model" in answer.text
        assert answer.json()["error"]["code"] == "model_not_found"
        assert httpx.get(edge.url + "/v1/models").json() == {"object": "list", "data": []}


@pytest.mark.parametrize("path", [MESSAGES, COMPLETIONS])
@pytest.mark.parametrize("backend", ["openai", "anthropic"])
@pytest.mark.parametrize(
    "headers",
    [
        {b"anthropic-beta": "café".encode("latin-1")},
        {b"anthropic-version": "漢字".encode()},
        {b"anthropic-version": b""},
        {b"x-api-key": "schlüssel".encode()},
        {b"authorization": b"Bearer"},
        {b"authorization": b"\xff\xfe \xff"},
        {b"x-claude-code-session-id": b"\xff" * 500},
        {b"x-patchbay-key": b"\x80"},
        {b"accept": b"*/*;q=nonsense"},
        {b"content-type": b"text/plain; charset=nonsense"},
        {b"content-encoding": b""},
        {b"x-standin-script": b"nonsense"},
        {b"expect": b"100-continue"},
        {b"x-large": b"x" * 30_000},
        {b"te": b"trailers", b"via": b", ".join([b"1.1 proxy"] * 100)},
    ],
    ids=lambda headers: b"+".join(headers).decode(),
)
def test_odd_headers(client: httpx.Client, path: str, backend: str, headers: dict[bytes, bytes]) -> None:
    """None of them is a reason to fail; a version that the upstream does not take is the upstream's to refuse."""
    body = {"model": f"{backend}/standin", "max_tokens": 9, "messages": [HELLO]}

    answer = client.post(path, json=body, headers=list(headers.items()))

    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        error_of(path, answer)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["words", "length-in-words", "negative-length", "bad-chunk", "bad-header", "tls", "http2"],
)
def test_what_is_no_http(cluster: Cluster, client: httpx.Client, request_bytes: bytes) -> None:
    with _connect(cluster) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        said = b""
        while piece := connection.recv(65536):
            said += piece

    assert said == b"" or said.split()[1] == b"400"
    assert b"Traceback" not in said


def test_clients_that_leave_in_the_middle_of_their_body(
    cluster: Cluster, client: httpx.Client, shared_valkey: ValkeyProcess, upstream: StandinProcess
) -> None:
    def leases() -> int:
        return int(shared_valkey.command("ZCARD", "pb:{admission}:connections").removeprefix(b":"))

    wait_until(lambda: leases() == 0, what="no lease")
    half = b'{"model":"standin","max_tokens":9,"messages":[{"role":"user","content":"'
    connections = [_connect(cluster) for _ in range(20)]
    for connection in connections:
        head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n"
        connection.sendall(head + half)
    wait_until(lambda: leases() == 20, what="a lease for each")

    for connection in connections:
        connection.close()

    wait_until(lambda: leases() == 0, what="no lease any more", seconds=5)
    edge = psutil.Process(cluster.edges[0].pid)
    wait_until(lambda: all(c.status != "CLOSE_WAIT" for c in edge.net_connections()), what="no half-closed connection")
    assert upstream.requests() == []
