"""Errors, written for clients and read from upstreams of every kind."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest

from patchbay import errors
from patchbay.canonical import Error
from patchbay.dialects.openai_chat import DIALECT
from patchbay.errors import Code, make_error

TABLE = DIALECT.errors

# Code -> (status, type, code, the SDK's exception).
WRITTEN: dict[Code, tuple[int, str, str | None, type[openai.APIStatusError]]] = {
    errors.INVALID_REQUEST: (400, "invalid_request_error", None, openai.BadRequestError),
    errors.AUTHENTICATION: (401, "authentication_error", "invalid_api_key", openai.AuthenticationError),
    errors.PERMISSION: (403, "permission_error", "permission_denied", openai.PermissionDeniedError),
    errors.NOT_FOUND: (404, "not_found_error", "not_found", openai.NotFoundError),
    errors.REQUEST_TOO_LARGE: (413, "invalid_request_error", "request_too_large", openai.APIStatusError),
    errors.RATE_LIMITED: (429, "rate_limit_error", "rate_limit_exceeded", openai.RateLimitError),
    errors.QUOTA_EXCEEDED: (429, "insufficient_quota", "insufficient_quota", openai.RateLimitError),
    errors.OVERLOADED: (503, "overloaded_error", "overloaded", openai.InternalServerError),
    errors.UPSTREAM: (502, "server_error", "upstream_error", openai.InternalServerError),
    errors.TIMEOUT: (504, "timeout_error", "timeout", openai.InternalServerError),
    errors.UNAVAILABLE: (503, "server_error", "service_unavailable", openai.InternalServerError),
    errors.INTERNAL: (500, "server_error", "internal_error", openai.InternalServerError),
    errors.CONTEXT_LENGTH: (400, "invalid_request_error", "context_length_exceeded", openai.BadRequestError),
}


@pytest.mark.parametrize("code", WRITTEN)
def test_every_code_has_its_body_and_the_sdk_its_exception(code: Code) -> None:
    status, kind, word, exception = WRITTEN[code]
    written = TABLE.write(make_error(code, "why", parameter="n"), "req-1")
    assert written.status == status
    assert json.loads(written.body) == {"error": {"message": "why", "type": kind, "param": "n", "code": word}}
    assert written.content_type == "application/json"
    assert written.headers == {"x-request-id": "req-1"}

    def answer(_: httpx2.Request) -> httpx2.Response:
        headers = {**written.headers, "content-type": written.content_type}
        return httpx2.Response(written.status, content=written.body, headers=headers)

    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    client = openai.OpenAI(api_key="none", base_url="http://patchbay.test/v1", http_client=transport, max_retries=0)
    with pytest.raises(exception) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert (caught.value.code, caught.value.type, caught.value.param) == (word, kind, "n")
    assert caught.value.request_id == "req-1"


def test_every_code_survives() -> None:
    for code in WRITTEN:
        written = TABLE.write(make_error(code, "why"), "")
        again = TABLE.read(written.status, written.headers, written.body)
        # Which part of the way to the model failed is all that is lost.
        expected = {errors.UNAVAILABLE: errors.OVERLOADED, errors.INTERNAL: errors.UPSTREAM}.get(code, code)
        assert (again.code, again.message) == (expected, "why")


def test_a_model_that_is_not_there() -> None:
    written = TABLE.write(make_error(errors.NOT_FOUND, "no", parameter="model"), "")
    assert json.loads(written.body)["error"] == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


@pytest.mark.parametrize(("seconds", "header"), [(1.2, "2"), (0.0, "0"), (30.0, "30")])
def test_retry_after_is_whole_seconds(seconds: float, header: str) -> None:
    written = TABLE.write(make_error(errors.RATE_LIMITED, "slow", retry_after=seconds), "r")
    assert written.headers == {"x-request-id": "r", "retry-after": header}


def test_an_upstreams_own_body_stays_as_it_is() -> None:
    body = b'{ "error": {"message": "m", "type": "t", "param": null, "code": "c", "more": 1} }\n'
    error = TABLE.read(418, {}, body)
    written = TABLE.write(error, "")
    assert (written.status, written.body) == (418, body)


def test_another_dialects_body_does_not() -> None:
    error = make_error(errors.OVERLOADED, "busy", http_status=529)
    error.native_body, error.native_dialect = b'{"type":"error"}', "anthropic"
    written = TABLE.write(error, "")
    assert (written.status, json.loads(written.body)["error"]["message"]) == (529, "busy")


def openai_error(**fields: Any) -> bytes:
    return json.dumps(
        {"error": {"message": "m", "type": "invalid_request_error", "param": None, "code": None, **fields}}
    ).encode()


# Name -> (status, body, code, status read, message, has OpenAI's shape).
READ: dict[str, tuple[int, bytes, Code, int, str, bool]] = {
    "a bad request": (400, openai_error(), errors.INVALID_REQUEST, 400, "m", True),
    "a wrong key": (401, openai_error(code="invalid_api_key"), errors.AUTHENTICATION, 401, "m", True),
    "a status alone": (403, openai_error(), errors.PERMISSION, 403, "m", True),
    "a missing model": (404, openai_error(code="model_not_found"), errors.NOT_FOUND, 404, "m", True),
    "too long": (400, openai_error(code="context_length_exceeded"), errors.CONTEXT_LENGTH, 400, "m", True),
    "too long, in words": (
        400,
        openai_error(message="This model's maximum context length is 8192 tokens."),
        errors.CONTEXT_LENGTH,
        400,
        "This model's maximum context length is 8192 tokens.",
        True,
    ),
    "too many tokens": (
        429,
        openai_error(type="tokens", code="rate_limit_exceeded"),
        errors.RATE_LIMITED,
        429,
        "m",
        True,
    ),
    "no credit": (429, openai_error(code="insufficient_quota"), errors.QUOTA_EXCEEDED, 429, "m", True),
    "payment required": (402, b'{"error":{"message":"m","code":402}}', errors.QUOTA_EXCEEDED, 402, "m", False),
    "a server error": (500, openai_error(type="server_error"), errors.UPSTREAM, 500, "m", True),
    "overloaded": (503, openai_error(type="server_error"), errors.OVERLOADED, 503, "m", True),
    "a gateway": (504, b"<html>504</html>", errors.TIMEOUT, 504, "The upstream answered with status 504.", False),
    "plain words": (502, b"bad gateway", errors.UPSTREAM, 502, "bad gateway", False),
    "nothing": (529, b"", errors.OVERLOADED, 529, "The upstream answered with status 529.", False),
    "no text at all": (500, b"\xff\xfe", errors.UPSTREAM, 500, "\ufffd\ufffd", False),
    "Gemini": (
        400,
        b'[{"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT"}}]',
        errors.INVALID_REQUEST,
        400,
        "m",
        False,
    ),
    "Gemini's limit": (
        429,
        b'[{"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}]',
        errors.RATE_LIMITED,
        429,
        "m",
        False,
    ),
    "OpenRouter": (
        429,
        b'{"error":{"code":429,"message":"m","metadata":{"provider_name":"x"}}}',
        errors.RATE_LIMITED,
        429,
        "m",
        False,
    ),
    "OpenRouter inside a 200": (200, b'{"error":{"code":502,"message":"m"}}', errors.UPSTREAM, 502, "m", False),
    "CodeBuddy inside a 200": (200, b'{"code":11101,"msg":"m"}', errors.INVALID_REQUEST, 400, "m", False),
    "CodeBuddy inside a 500": (500, b'{"code":11101,"msg":"m"}', errors.INVALID_REQUEST, 400, "m", False),
    "FastAPI": (422, b'{"detail":"m"}', errors.INVALID_REQUEST, 422, "m", False),
    "FastAPI's list": (
        422,
        b'{"detail":[{"loc":["body"],"msg":"m"}]}',
        errors.INVALID_REQUEST,
        422,
        '[{"loc":["body"],"msg":"m"}]',
        False,
    ),
    "an error that is a string": (500, b'{"error":"m"}', errors.UPSTREAM, 500, "m", False),
    "vLLM": (
        400,
        b'{"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}',
        errors.INVALID_REQUEST,
        400,
        "m",
        False,
    ),
    "an empty object": (500, b"{}", errors.UPSTREAM, 500, "{}", False),
    "nested too deeply": (500, b"[" * 100_000, errors.UPSTREAM, 500, "[" * 2000, False),
}


@pytest.mark.parametrize("name", READ)
def test_errors_of_upstreams(name: str) -> None:
    status, body, code, read_status, message, is_native = READ[name]
    error = TABLE.read(status, {}, body)
    assert (error.code, error.http_status, error.message) == (code, read_status, message)
    assert error.native_body == (body if is_native else b"")
    assert error.native_dialect == ("openai_chat" if is_native else "")


def test_what_may_be_tried_again() -> None:
    assert TABLE.read(429, {}, openai_error(code="rate_limit_exceeded")).retryable
    assert TABLE.read(500, {}, b"").retryable
    assert not TABLE.read(429, {}, openai_error(code="insufficient_quota")).retryable
    assert not TABLE.read(400, {}, openai_error()).retryable


def test_parameter_and_word_are_kept() -> None:
    error = TABLE.read(400, {}, openai_error(param="messages[0].role", code="invalid_value"))
    assert (error.parameter, error.upstream_code) == ("messages[0].role", "invalid_value")


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "7"}, b"", 7.0),
        ({"retry-after": "0.5"}, b"", 0.5),
        ({"retry-after-ms": "1500", "retry-after": "7"}, b"", 1.5),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"", 10.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:10 GMT"}, b"", 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"", None),
        ({"retry-after": "soon", "date": "now"}, b"", None),
        ({"retry-after": "nan"}, b"", None),
        ({"retry-after": "-1"}, b"", None),
        ({}, b'[{"error":{"details":[{"@type":"x/google.rpc.RetryInfo","retryDelay": "17s"}]}}]', 17.0),
        ({}, b"", None),
    ],
)
def test_when_to_try_again(headers: dict[str, str], body: bytes, seconds: float | None) -> None:
    error: Error = TABLE.read(429, headers, body)
    assert (error.retry_after if error.HasField("retry_after") else None) == seconds
