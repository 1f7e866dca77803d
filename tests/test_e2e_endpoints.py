"""What the edge offers beside the answers themselves: paths, headers, keys, routes, model lists, token counts."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
import zstandard
from conftest import HOUSE_KEY
from ways import only, script_model
from wire_tap import WireTap

from patchbay.testing.cluster import Cluster
from patchbay_standin import ErrorEvent, ErrorReply, Script
from patchbay_standin.testing import StandinProcess

Body = dict[str, Any]

HELLO: Body = {"role": "user", "content": "Hello"}
MESSAGES = "/v1/messages"
COMPLETIONS = "/v1/chat/completions"
PATHS = (MESSAGES, COMPLETIONS)


def body_for(model: str, **more: Any) -> Body:
    """A body that both dialects take."""
    return {"model": model, "max_tokens": 1000, "messages": [HELLO], **more}


def text_of(path: str, answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    text: str = body["content"][0]["text"] if path.endswith(MESSAGES) else body["choices"][0]["message"]["content"]
    return text


def error_of(path: str, answer: httpx.Response) -> tuple[str, str]:
    """The error's type and message; the body has to be of the client's dialect."""
    body = answer.json()
    if "messages" in path:
        assert body["type"] == "error"
        assert body["request_id"] == answer.headers["request-id"]
    else:
        assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]["type"], body["error"]["message"]


@pytest.fixture
def client(cluster: Cluster, upstream: StandinProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.url, timeout=20) as open_client:
        yield open_client


@pytest.fixture
def guest(house: Cluster, tap: WireTap) -> Iterator[httpx.Client]:
    """A client of the house that has no key yet."""
    with httpx.Client(base_url=house.url, timeout=20) as open_client:
        yield open_client


@pytest.fixture
def member(guest: httpx.Client) -> httpx.Client:
    guest.headers["x-api-key"] = HOUSE_KEY
    return guest


# Signs of life


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/health", "/ready"])
def test_signs_of_life(guest: httpx.Client, method: str, path: str) -> None:
    """They need no key, also where the API does."""
    answer = guest.request(method, path)

    assert answer.status_code == 200
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert bool(answer.content) is (method == "GET")


def test_ready_says_what_is_there(client: httpx.Client) -> None:
    body = client.get("/ready").json()

    assert (body["status"], body["redis"]) == ("ready", "ok")
    assert {name: backend["kind"] for name, backend in body["backends"].items()} == {
        "openai": "openai",
        "anthropic": "anthropic",
        "local": "openai-compatible",
        "codebuddy": "codebuddy",
    }
    for backend in body["backends"].values():
        assert (backend["replicas"], backend["signed_in"]) == (1, True)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/health", None, 200),
        ("GET", "/v1/models", None, 200),
        ("POST", COMPLETIONS, body_for("standin"), 200),
        ("POST", MESSAGES, body_for("anthropic/standin"), 200),
        ("POST", MESSAGES, body_for("standin", stream=True), 200),
        ("POST", f"{MESSAGES}/count_tokens", body_for("standin"), 200),
        ("POST", MESSAGES, {}, 400),
        ("POST", COMPLETIONS, body_for("standin-error-500"), 500),
        ("GET", "/nothing", None, 404),
        ("GET", COMPLETIONS, None, 405),
    ],
)
def test_every_answer_has_a_request_id(
    client: httpx.Client, method: str, path: str, body: Body | None, status: int
) -> None:
    answers = [client.request(method, path, json=body) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [status] * 2
    ids = {answer.headers["request-id"] for answer in answers}
    assert len(ids) == 2
    assert all(answer.headers["x-request-id"] == answer.headers["request-id"] for answer in answers)


# Bodies and paths


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("backend", ["openai", "anthropic"])
def test_the_prefix_api(client: httpx.Client, path: str, backend: str) -> None:
    answer = client.post(f"/api{path}", json=body_for(f"{backend}/standin"))

    assert "You asked standin." in text_of(path, answer)


def test_a_query_changes_nothing(client: httpx.Client) -> None:
    answer = client.post(f"{MESSAGES}?beta=true", json=body_for("anthropic/standin"))

    assert "You asked standin." in text_of(MESSAGES, answer)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("zstd", zstandard.compress),
        ("ZSTD", zstandard.ZstdCompressor(write_content_size=False).compress),
        ("identity", bytes),
    ],
    ids=["gzip", "x-gzip", "deflate", "zstd", "zstd-without-size", "identity"],
)
def test_compressed_bodies(
    member: httpx.Client, tap: WireTap, path: str, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    path = f"/claude{path}" if path == MESSAGES else path
    body = json.dumps(body_for("standin", messages=[{"role": "user", "content": "long " * 5000}])).encode()

    answer = member.post(path, content=compress(body), headers={"content-encoding": encoding})

    assert answer.status_code == 200
    request = tap.only().request
    assert request.body == body
    assert "content-encoding" not in request.headers


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("backend", ["openai", "anthropic"])
def test_the_body_decides_on_streaming_whatever_is_accepted(client: httpx.Client, path: str, backend: str) -> None:
    accepted = {"accept": "application/json"}
    answer = client.post(path, json=body_for(f"{backend}/standin", stream=True), headers=accepted)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.content.startswith((b"event: message_start", b"data: {"))

    accepted = {"accept": "text/event-stream"}
    answer = client.post(path, json=body_for(f"{backend}/standin"), headers=accepted)
    assert answer.headers["content-type"].startswith("application/json")
    assert "You asked standin." in text_of(path, answer)


# Model lists


def test_models_in_the_shape_of_openai(client: httpx.Client, cluster: Cluster) -> None:
    sdk = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="sk-made-up", max_retries=0)

    models = {model.id: model for model in sdk.models.list()}

    # The default backend's by their own names, those of the others with the backend's before it.
    assert {"standin-echo", "anthropic/standin-echo", "local/standin-echo", "codebuddy/gpt-5.5"} <= models.keys()
    assert {name for name in models if name.startswith("codebuddy/")} == {
        "codebuddy/gpt-5.5",
        "codebuddy/gpt-5.4",
        "codebuddy/claude-sonnet-4.6",
        "codebuddy/gemini-3.1-pro",
    }
    assert "openai/standin-echo" not in models
    assert {model.object for model in models.values()} == {"model"}
    assert (models["standin-echo"].owned_by, models["anthropic/standin-echo"].owned_by) == ("openai", "anthropic")
    assert sdk.models.retrieve("anthropic/standin-echo") == models["anthropic/standin-echo"]
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.models.retrieve("not-there")
    assert caught.value.code == "model_not_found"
    assert "not-there" in str(caught.value)


def test_models_in_the_shape_of_anthropic(client: httpx.Client, cluster: Cluster) -> None:
    sdk = anthropic.Anthropic(base_url=cluster.url, api_key="sk-made-up", max_retries=0)

    page = sdk.models.list()
    models = {model.id: model for model in page}

    # This dialect's clients see the same names: a name leads to one backend, whoever says it.
    assert {"standin-echo", "anthropic/standin-echo", "codebuddy/gpt-5.5"} <= models.keys()
    assert {model.type for model in models.values()} == {"model"}
    assert (page.first_id, page.last_id, page.has_more) == (next(iter(models)), list(models)[-1], False)
    assert all(model.display_name and model.created_at for model in models.values())
    assert sdk.models.retrieve("anthropic/standin-echo") == models["anthropic/standin-echo"]
    with pytest.raises(anthropic.NotFoundError) as caught:
        sdk.models.retrieve("not-there")
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "not_found_error"


def test_listed_names_lead_where_they_say(client: httpx.Client, upstream: StandinProcess) -> None:
    protocols = {"anthropic/standin": "anthropic", "standin": "openai", "codebuddy/gpt-5.5": "codebuddy"}
    names = {model["id"] for model in client.get("/api/v1/models").json()["data"]}
    for name, protocol in protocols.items():
        assert name in names
        upstream.reset()
        assert client.post(COMPLETIONS, json=body_for(name)).status_code == 200
        assert only(upstream).protocol == protocol


def test_routed_names_are_listed(member: httpx.Client) -> None:
    names = [model["id"] for model in member.get("/v1/models").json()["data"]]

    assert {"renamed", "safe", "standin", "house-anthropic/standin", "pinned/standin-json"} <= set(names)
    assert not any("*" in name for name in names)
    assert len(names) == len(set(names))


# Token counts


_COUNTED: Body = {
    "system": "You are a helpful agent with a rather long system prompt.",
    "messages": [{"role": "user", "content": "How many tokens are these words?"}],
    "tools": [{"name": "look", "description": "Looks at it.", "input_schema": {"type": "object"}}],
}


def test_token_counts_are_the_upstreams_own(client: httpx.Client, cluster: Cluster, upstream: StandinProcess) -> None:
    counts = []
    for url, model in ((upstream.url, "standin"), (cluster.url, "anthropic/standin"), (f"{cluster.url}/api", None)):
        sdk = anthropic.Anthropic(base_url=url, api_key="sk-made-up", max_retries=0)
        answer = sdk.messages.with_raw_response.count_tokens(model=model or "anthropic/standin", **_COUNTED)
        assert "x-patchbay-token-count" not in answer.headers
        counts.append(answer.parse().input_tokens)

    assert len(set(counts)) == 1
    assert counts[0] > 20
    bodies = [request.body for request in upstream.requests()]
    assert bodies == [{**_COUNTED, "model": "standin"}] * 3


@pytest.mark.parametrize("backend", ["openai", "local", "codebuddy"])
def test_token_counts_are_estimated_where_there_is_no_counter(
    client: httpx.Client, cluster: Cluster, backend: str, upstream: StandinProcess
) -> None:
    sdk = anthropic.Anthropic(base_url=cluster.url, api_key="sk-made-up", max_retries=0)

    answer = sdk.messages.with_raw_response.count_tokens(model=f"{backend}/standin", **_COUNTED)
    bare = sdk.messages.count_tokens(model=f"{backend}/standin", messages=_COUNTED["messages"])

    assert answer.headers["x-patchbay-token-count"] == "estimated"
    assert answer.headers["x-patchbay-backend"] == backend
    # Never too low, and not by much too high.
    assert 30 <= answer.parse().input_tokens <= 80
    assert bare.input_tokens < answer.parse().input_tokens
    assert upstream.requests() == []


def test_a_refused_token_count_is_the_upstreams_error(client: httpx.Client) -> None:
    answer = client.post(f"{MESSAGES}/count_tokens", json={"model": "anthropic/standin", "messages": []})

    assert answer.status_code == 400
    kind, message = answer.json()["error"].values()
    assert (kind, message) == ("invalid_request_error", "messages: at least one message is required")


# Keys


@pytest.mark.parametrize("path", [*PATHS, f"{MESSAGES}/count_tokens"])
@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "an API key is required"),
        ({"x-api-key": ""}, "an API key is required"),
        ({"x-api-key": "pb-wrong"}, "not known"),
        ({"authorization": "Bearer pb-wrong"}, "not known"),
        ({"authorization": f"Basic {HOUSE_KEY}"}, "an API key is required"),
        ({"x-patchbay-key": "pb-wrong", "x-api-key": HOUSE_KEY}, "not known"),
        ({"x-api-key": HOUSE_KEY + "x"}, "not known"),
    ],
)
def test_without_a_right_key_nothing_is_answered(
    guest: httpx.Client, tap: WireTap, path: str, headers: dict[str, str], message: str
) -> None:
    answer = guest.post(path, json=body_for("standin"), headers=headers)

    assert answer.status_code == 401
    kind, text = error_of(path, answer)
    assert kind == "authentication_error"
    assert message in text
    assert tap.exchanges() == []


def test_model_lists_want_a_key_too(guest: httpx.Client) -> None:
    assert guest.get("/v1/models").status_code == 401
    answer = guest.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert (answer.status_code, answer.json()["type"]) == (401, "error")
    assert guest.get("/v1/models", headers={"authorization": f"Bearer {HOUSE_KEY}"}).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": HOUSE_KEY},
        {"authorization": f"Bearer {HOUSE_KEY}"},
        {"authorization": f"bearer  {HOUSE_KEY}"},
        {"x-patchbay-key": HOUSE_KEY, "x-api-key": "sk-the-callers"},
        {"x-api-key": "pb-another-key"},
    ],
)
def test_a_right_key_in_any_place(guest: httpx.Client, tap: WireTap, path: str, headers: dict[str, str]) -> None:
    answer = guest.post(path, json=body_for("house-openai/standin"), headers=headers)

    assert "You asked standin." in text_of(path, answer)
    sent = tap.only().request.headers
    # The configured credential, and nothing of the caller's.
    assert sent["authorization"] == "Bearer sk-house"
    assert "x-api-key" not in sent
    assert not any(secret in str(sent) for secret in (*headers.values(), "pb-another-key"))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("backend", "sent", "expected"),
    [
        ("own-openai", {"authorization": "Bearer sk-mine"}, {"authorization": "Bearer sk-mine"}),
        ("own-openai", {"x-api-key": "sk-mine"}, {"authorization": "Bearer sk-mine"}),
        ("own-anthropic", {"x-api-key": "sk-ant-mine"}, {"x-api-key": "sk-ant-mine"}),
        ("own-anthropic", {"authorization": "Bearer token-mine"}, {"authorization": "Bearer token-mine"}),
    ],
)
def test_the_callers_own_key_goes_upstream(
    guest: httpx.Client, tap: WireTap, path: str, backend: str, sent: dict[str, str], expected: dict[str, str]
) -> None:
    headers = {"x-patchbay-key": HOUSE_KEY, **sent}

    answer = guest.post(path, json=body_for(f"{backend}/standin"), headers=headers)

    assert "You asked standin." in text_of(path, answer)
    request = tap.only().request
    keys = {name: request.headers[name] for name in ("authorization", "x-api-key") if name in request.headers}
    assert keys == expected
    assert HOUSE_KEY not in str(request)


@pytest.mark.parametrize("path", PATHS)
def test_the_house_key_never_goes_upstream_as_the_callers_own(guest: httpx.Client, tap: WireTap, path: str) -> None:
    answer = guest.post(path, json=body_for("own-openai/standin"), headers={"x-api-key": HOUSE_KEY})

    assert answer.status_code == 401
    assert error_of(path, answer)[0] == "authentication_error"
    assert tap.exchanges() == []


def test_a_configured_token_is_a_bearer(member: httpx.Client, tap: WireTap) -> None:
    answer = member.post(MESSAGES, json=body_for("house-token/standin"))

    assert answer.status_code == 200
    headers = tap.only().request.headers
    assert headers["authorization"] == "Bearer token-house"
    assert "x-api-key" not in headers


@pytest.mark.parametrize(("path", "number"), [(MESSAGES, 1), (COMPLETIONS, 2)])
def test_a_keys_own_rate_limit(guest: httpx.Client, path: str, number: int) -> None:
    guest.headers["x-api-key"] = f"pb-twice-a-minute-{number}"

    answers = [guest.post(path, json=body_for("standin")) for _ in range(4)]

    # A minute may begin in between, but never twice.
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    for answer in refused:
        assert error_of(path, answer)[0] == "rate_limit_error"
        assert 1 <= int(answer.headers["retry-after"]) <= 60


# Routes


@pytest.mark.parametrize(
    ("path", "model", "protocol", "upstream_model"),
    [
        (COMPLETIONS, "anything", "openai", "anything"),
        (MESSAGES, "anything", "openai", "anything"),
        (f"/claude{MESSAGES}", "anything", "anthropic", "anything"),
        (f"/claude{COMPLETIONS}", "anything", "anthropic", "anything"),
        (COMPLETIONS, "renamed", "openai", "standin"),
        (COMPLETIONS, "other-model", "openai", "standin"),
        (f"/api{MESSAGES}", "renamed", "anthropic", "standin-json"),
        (f"/api{MESSAGES}", "other-model", "openai", "standin"),
        (COMPLETIONS, "pinned/other", "openai", "other"),
        (f"/claude{COMPLETIONS}", "house-openai/standin", "openai", "standin"),
        (COMPLETIONS, "vendor/unknown-model", "openai", "vendor/unknown-model"),
    ],
)
def test_routes(
    member: httpx.Client, upstream: StandinProcess, path: str, model: str, protocol: str, upstream_model: str
) -> None:
    answer = member.post(path, json=body_for(model))

    assert answer.status_code == 200, answer.text
    request = only(upstream)
    assert (request.protocol, request.model) == (protocol, upstream_model)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_fallback_answers_when_the_first_backend_is_away(
    member: httpx.Client, upstream: StandinProcess, path: str, stream: bool
) -> None:
    answer = member.post(path, json=body_for("safe", stream=stream))

    assert answer.status_code == 200
    assert "apples" in answer.text
    assert answer.headers["x-patchbay-backend"] == "house-anthropic"
    request = only(upstream)
    assert (request.protocol, request.model) == ("anthropic", "standin-json")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "script",
    [
        Script(error=ErrorReply(status=503, retry_after=30)),
        Script(error=ErrorReply(status=429, retry_after=30)),
        Script(error_event=ErrorEvent(after=0, status=529, retry_after=30)),
        Script(error=ErrorReply(status=500, headers={"retry-after": "30"})),
    ],
    ids=["503", "429", "529-inside-a-200", "500"],
)
def test_a_fallback_answers_when_the_first_backend_fails_before_content(
    member: httpx.Client, upstream: StandinProcess, path: str, script: Script
) -> None:
    upstream.script("flaky-one", script)

    answer = member.post(path, json=body_for("flaky-one", stream=True))

    assert answer.status_code == 200
    assert "apples" in answer.text
    protocols = [request.protocol for request in upstream.requests()]
    assert (protocols[0], protocols[-1]) == ("openai", "anthropic")


@pytest.mark.parametrize("path", PATHS)
def test_no_fallback_after_content(member: httpx.Client, upstream: StandinProcess, path: str) -> None:
    upstream.script("flaky-two", Script(deltas=20, error_event=ErrorEvent(after=5, status=529)))

    answer = member.post(path, json=body_for("flaky-two", stream=True))

    assert answer.status_code == 200
    assert "the quick brown fox" in "".join(_texts(answer.text))
    assert "Overloaded" in answer.text
    assert "apples" not in answer.text
    assert only(upstream).protocol == "openai"


def _texts(stream: str) -> Iterator[str]:
    """The texts of a stream of either dialect."""
    for line in stream.splitlines():
        if line.startswith("data: {"):
            event = json.loads(line.removeprefix("data: "))
            choices = event.get("choices") or [{}]
            yield event.get("delta", {}).get("text") or choices[0].get("delta", {}).get("content") or ""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_no_reason_to_go_elsewhere(
    member: httpx.Client, upstream: StandinProcess, path: str, status: int
) -> None:
    upstream.script("flaky-three", Script(error=ErrorReply(status=status, message="no, thank you")))

    answer = member.post(path, json=body_for("flaky-three"))

    assert answer.status_code == status
    assert error_of(path, answer)[1] == "no, thank you"
    assert len(upstream.requests()) == 1


def test_the_last_error_is_told_when_all_fail(member: httpx.Client, upstream: StandinProcess) -> None:
    answer = member.post(COMPLETIONS, json=body_for("unlucky"))

    assert answer.status_code == 403
    assert only(upstream).model == "standin-error-403"


@pytest.mark.parametrize("path", PATHS)
def test_a_passing_failure_is_tried_once_more(member: httpx.Client, upstream: StandinProcess, path: str) -> None:
    upstream.script("passing", Script(attempts=[Script(error=ErrorReply(status=500)), Script(text="Here I am.")]))

    answer = member.post(path, json=body_for("passing"))

    assert text_of(path, answer) == "Here I am."
    assert [request.status for request in upstream.requests()] == [500, 200]


@pytest.mark.parametrize("path", PATHS)
def test_a_backend_out_of_reach(member: httpx.Client, path: str) -> None:
    answer = member.post(path, json=body_for("nowhere/standin"))

    assert answer.status_code == 503
    _, message = error_of(path, answer)
    assert "no connection to the upstream" in message


# Parameters that a backend cannot honour


@pytest.mark.parametrize(
    ("path", "backend", "more", "named"),
    [
        (MESSAGES, "strict-openai", {"top_k": 5}, "top_k"),
        (COMPLETIONS, "strict-anthropic", {"seed": 1}, "seed"),
        (COMPLETIONS, "strict-anthropic", {"brand_new": True}, "brand_new"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_strict_backends_refuse_what_they_cannot_honour(
    member: httpx.Client, tap: WireTap, path: str, backend: str, more: Body, named: str, stream: bool
) -> None:
    answer = member.post(path, json=body_for(f"{backend}/standin", stream=stream, **more))

    assert answer.status_code == 400
    kind, message = error_of(path, answer)
    assert kind == "invalid_request_error"
    assert named in message
    assert tap.exchanges() == []


@pytest.mark.parametrize(("path", "backend"), [(MESSAGES, "strict-openai"), (COMPLETIONS, "strict-anthropic")])
def test_strict_backends_take_what_they_can(member: httpx.Client, path: str, backend: str) -> None:
    answer = member.post(path, json=body_for(f"{backend}/standin"))

    assert "You asked standin." in text_of(path, answer)
    assert "x-patchbay-warnings" not in answer.headers


# CodeBuddy


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_codebuddys_rules_are_kept(client: httpx.Client, upstream: StandinProcess, path: str, stream: bool) -> None:
    answer = client.post(path, json=body_for("codebuddy/standin", stream=stream))

    assert answer.status_code == 200
    assert "You asked" in "".join(_texts(answer.text)) if stream else "You asked standin." in text_of(path, answer)
    # Its chunks say that they are a `response`: that goes no further.
    assert '"object":"response"' not in answer.text
    request = only(upstream)
    assert request.path == "/v2/chat/completions"
    assert (request.headers["authorization"], request.headers["x-api-key"]) == ("Bearer ck_made.up", "ck_made.up")
    assert request.body == {
        "model": "standin",
        "max_tokens": 1000,
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "system", "content": "You are a helpful assistant."}, HELLO],
    }


@pytest.mark.parametrize("path", PATHS)
def test_codebuddys_errors_become_proper_ones(client: httpx.Client, path: str) -> None:
    # `{"code": 11101, "msg": ...}`, inside any status.
    script = Script(error=ErrorReply(status=200, message="11101: a rule was broken", code=11101))

    answer = client.post(path, json=body_for(f"codebuddy/{script_model(script)}"))

    assert answer.status_code == 400
    assert error_of(path, answer) == ("invalid_request_error", "11101: a rule was broken")


# Silence


async def test_a_silent_upstream_does_not_keep_the_head_back_for_ever(house: Cluster, tap: WireTap) -> None:
    script = Script(first_event_delay_ms=2500, text="At last.")
    cases = [(path, backend) for path in PATHS for backend in ("house-openai", "house-anthropic")]

    async def ask(path: str, backend: str) -> tuple[float, float, str]:
        started = asyncio.get_running_loop().time()
        body = body_for(f"{backend}/{script_model(script)}", stream=True)
        async with client.stream("POST", path, json=body) as answer:
            head = asyncio.get_running_loop().time() - started
            text = (await answer.aread()).decode()
        return head, asyncio.get_running_loop().time() - started, text

    async with httpx.AsyncClient(base_url=house.url, headers={"x-api-key": HOUSE_KEY}, timeout=20) as client:
        results = await asyncio.gather(*(ask(path, backend) for path, backend in cases))

    for (path, _), (head, whole, text) in zip(cases, results, strict=True):
        assert 0.9 < head < 2.4
        assert whole > 2.4
        ping = "event: ping" if path == MESSAGES else ": ping"
        assert text.startswith(ping)
        assert "".join(_texts(text)) == "At last."
        assert text.count("message_start") == (2 if path == MESSAGES else 0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("backend", ["house-openai", "house-anthropic"])
def test_an_error_after_a_held_head_is_told_inside_the_stream(member: httpx.Client, path: str, backend: str) -> None:
    script = Script(first_byte_delay_ms=1300, error=ErrorReply(status=403, message="not for you"))

    answer = member.post(path, json=body_for(f"{backend}/{script_model(script)}", stream=True))

    assert answer.status_code == 200
    assert "not for you" in answer.text
    error = json.loads(answer.text.strip().rpartition("data: ")[2])
    assert error["error"]["message"] == "not for you"
    if path == MESSAGES:
        assert "event: error\n" in answer.text
