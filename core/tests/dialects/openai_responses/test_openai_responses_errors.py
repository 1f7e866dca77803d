"""Errors of the Responses API's servers over HTTP, and the errors that its clients get."""

from __future__ import annotations

import json
from typing import Any

import pytest

from patchbay import errors
from patchbay.canonical import Error
from patchbay.dialects.openai_chat import DIALECT as CHAT
from patchbay.dialects.openai_responses import ERRORS
from patchbay.errors import Code, make_error

LIMIT = {
    "type": "usage_limit_reached",
    "message": "The usage limit has been reached",
    "plan_type": "plus",
    "resets_at": 1_700_000_600,
    "resets_in_seconds": 540,
}
DATE = {"date": "Tue, 14 Nov 2023 22:13:20 GMT"}  # 1_700_000_000

# (status, body, code, message, what it is called upstream)
READ: list[tuple[int, Any, Code, str, str | None]] = [
    (400, {"detail": "Store must be set to false"}, errors.INVALID_REQUEST, "Store must be set to false", None),
    (
        400,
        {"error": {"message": "No", "type": "invalid_request_error", "param": "input", "code": "invalid_value"}},
        errors.INVALID_REQUEST,
        "No",
        "invalid_value",
    ),
    (400, {"type": "error", "status": 400, "error": {"message": "No"}}, errors.INVALID_REQUEST, "No", None),
    (429, {"error": LIMIT}, errors.QUOTA_EXCEEDED, LIMIT["message"], "usage_limit_reached"),
    (
        429,
        {"error": {"type": "usage_not_included", "message": "Upgrade"}},
        errors.QUOTA_EXCEEDED,
        "Upgrade",
        "usage_not_included",
    ),
    (403, b"<html>blocked</html>", errors.PERMISSION, "The upstream answered with status 403.", None),
    (
        400,
        {"error": {"message": "Gone", "type": "invalid_request_error", "code": "previous_response_not_found"}},
        errors.INVALID_REQUEST,
        "Gone",
        "previous_response_not_found",
    ),
    (
        400,
        {"error": {"message": "Bad", "type": "invalid_request_error", "code": "invalid_encrypted_content"}},
        errors.INVALID_REQUEST,
        "Bad",
        "invalid_encrypted_content",
    ),
    (
        503,
        {"error": {"code": "server_is_overloaded", "message": "Full"}},
        errors.OVERLOADED,
        "Full",
        "server_is_overloaded",
    ),
    (503, {"error": {"code": "slow_down", "message": "Slow"}}, errors.OVERLOADED, "Slow", "slow_down"),
    (401, {"error": {"code": "token_expired", "message": "Old"}}, errors.AUTHENTICATION, "Old", "token_expired"),
    (
        400,
        {"error": {"code": "context_length_exceeded", "message": "Long", "type": "invalid_request_error"}},
        errors.CONTEXT_LENGTH,
        "Long",
        "context_length_exceeded",
    ),
    (500, b"", errors.UPSTREAM, "The upstream answered with status 500.", None),
]


@pytest.mark.parametrize(("status", "body", "code", "message", "upstream_code"), READ)
def test_errors_read(status: int, body: Any, code: Code, message: str, upstream_code: str | None) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = ERRORS.read(status, {}, data)
    assert (error.code, error.message, error.http_status) == (code, message, status)
    assert (error.upstream_code if error.HasField("upstream_code") else None) == upstream_code


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({}, {"error": LIMIT}, 540),
        ({"retry-after": "7"}, {"error": LIMIT}, 540),
        (DATE, {"error": LIMIT | {"resets_in_seconds": None}}, 600),
        (DATE, {"error": LIMIT | {"resets_in_seconds": None, "resets_at": 5}}, 0),
        ({}, {"error": LIMIT | {"resets_in_seconds": None}}, None),
        ({"retry-after": "7"}, {"error": {"message": "x"}}, 7),
        ({}, {"type": "error", "status": 429, "error": {"message": "x"}, "headers": {"Retry-After": "8"}}, 8),
        ({}, {"error": {"code": "rate_limit_exceeded", "message": "Please try again in 1.5s."}}, 1.5),
        ({}, {"error": {"code": "rate_limit_exceeded", "message": "Please try again in 20ms"}}, 0.02),
        ({}, {"error": {"code": "rate_limit_exceeded", "message": "Try again in 3 seconds"}}, 3),
        ({}, {"error": {"code": "rate_limit_exceeded", "message": "later"}}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], body: Any, seconds: float | None) -> None:
    error = ERRORS.read(429, headers, json.dumps(body).encode())
    assert (error.retry_after if error.HasField("retry_after") else None) == seconds


def test_an_upstreams_own_body_stays_as_it_is() -> None:
    """The Codex CLI reads the plan and the time of the reset out of it."""
    body = json.dumps({"error": LIMIT}, indent=1).encode()
    error = ERRORS.read(429, {}, body)
    written = ERRORS.write(error, "req_1")
    assert (written.status, written.body) == (429, body)
    assert written.headers == {"retry-after": "540", "x-request-id": "req_1"}
    # Of this dialect only.
    other = CHAT.errors.write(error, "req_1")
    assert json.loads(other.body)["error"]["code"] == "insufficient_quota"


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (
            make_error(errors.INVALID_REQUEST, "No", parameter="input[0]", upstream_code="x"),
            400,
            {"message": "No", "type": "invalid_request_error", "param": "input[0]", "code": "x"},
        ),
        (
            make_error(errors.AUTHENTICATION, "Who?"),
            401,
            {"message": "Who?", "type": "authentication_error", "param": None, "code": "invalid_api_key"},
        ),
        (
            make_error(errors.CONTEXT_LENGTH, "Long"),
            400,
            {"message": "Long", "type": "invalid_request_error", "param": None, "code": "context_length_exceeded"},
        ),
        (
            Error(code=99, message="New"),  # type: ignore[arg-type]
            500,
            {"message": "New", "type": "server_error", "param": None, "code": "internal_error"},
        ),
    ],
)
def test_errors_written(error: Error, status: int, expected: Any) -> None:
    written = ERRORS.write(error, "")
    assert (written.status, json.loads(written.body)) == (status, {"error": expected})
