import json

import pytest

from patchbay import errors
from patchbay.canonical import Error
from patchbay.dialects.anthropic import DIALECT
from patchbay.errors import Code, make_error

TABLE = DIALECT.errors
DATE = "Sat, 21 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        (errors.INVALID_REQUEST, 400, "invalid_request_error"),
        (errors.AUTHENTICATION, 401, "authentication_error"),
        (errors.PERMISSION, 403, "permission_error"),
        (errors.NOT_FOUND, 404, "not_found_error"),
        (errors.REQUEST_TOO_LARGE, 413, "request_too_large"),
        (errors.RATE_LIMITED, 429, "rate_limit_error"),
        (errors.QUOTA_EXCEEDED, 402, "billing_error"),
        (errors.OVERLOADED, 529, "overloaded_error"),
        (errors.UPSTREAM, 502, "api_error"),
        (errors.TIMEOUT, 504, "timeout_error"),
        (errors.UNAVAILABLE, 503, "api_error"),
        (errors.INTERNAL, 500, "api_error"),
    ],
)
def test_write(code: Code, status: int, kind: str) -> None:
    written = TABLE.write(make_error(code, "What happened"), "req_1")
    assert (written.status, written.content_type, dict(written.headers)) == (status, "application/json", {})
    assert json.loads(written.body) == {
        "type": "error",
        "error": {"type": kind, "message": "What happened"},
        "request_id": "req_1",
    }


def test_a_quota_that_comes_back_is_a_limit_of_rate() -> None:
    error = make_error(errors.QUOTA_EXCEEDED, "Used up until five", retry_after=600)
    written = TABLE.write(error, "req_1")
    assert (written.status, dict(written.headers)) == (429, {"retry-after": "600"})
    assert json.loads(written.body)["error"] == {"type": "rate_limit_error", "message": "Used up until five"}
    assert b'"rate_limit_error"' in TABLE.write_frame(error)


def test_every_code_is_written() -> None:
    for code in errors._HTTP_STATUS:
        assert TABLE.write(make_error(code, "m"), "r").status >= 400


@pytest.mark.parametrize(("seconds", "header"), [(0, "0"), (0.2, "1"), (3, "3"), (3.01, "4")])
def test_retry_after_is_rounded_up(seconds: float, header: str) -> None:
    written = TABLE.write(make_error(errors.OVERLOADED, "m", retry_after=seconds), "r")
    assert dict(written.headers) == {"retry-after": header}


def test_context_length_in_the_words_that_clients_know() -> None:
    written = TABLE.write(make_error(errors.CONTEXT_LENGTH, "maximum is 128000 tokens"), "r")
    assert written.status == 400
    assert json.loads(written.body)["error"] == {
        "type": "invalid_request_error",
        "message": "prompt is too long: maximum is 128000 tokens",
    }


def test_own_body_stays_as_it_is() -> None:
    body = b'{ "type":"error", "error":{"type":"invalid_request_error","message":"x"}, "request_id":"req_9" }'
    error = TABLE.read(422, {"retry-after": "7"}, body)
    written = TABLE.write(error, "req_1")
    assert (written.status, written.body, dict(written.headers)) == (422, body, {"retry-after": "7"})


def test_body_of_another_dialect_is_translated() -> None:
    error = make_error(errors.RATE_LIMITED, "Slow down")
    error.native_body, error.native_dialect = b'{"error":{"code":"x"}}', "openai_chat"
    assert json.loads(TABLE.write(error, "r").body)["error"] == {"type": "rate_limit_error", "message": "Slow down"}


@pytest.mark.parametrize(
    ("status", "kind", "message", "code", "retryable"),
    [
        (400, "invalid_request_error", "max_tokens: Field required", errors.INVALID_REQUEST, False),
        (
            400,
            "invalid_request_error",
            "prompt is too long: 250000 tokens > 200000 maximum",
            errors.CONTEXT_LENGTH,
            False,
        ),
        (400, "invalid_request_error", "Your credit balance is too low", errors.QUOTA_EXCEEDED, False),
        (401, "authentication_error", "invalid x-api-key", errors.AUTHENTICATION, False),
        (402, "billing_error", "pay", errors.QUOTA_EXCEEDED, False),
        (403, "permission_error", "no", errors.PERMISSION, False),
        (404, "not_found_error", "model: nope", errors.NOT_FOUND, False),
        (413, "request_too_large", "too large", errors.REQUEST_TOO_LARGE, False),
        (429, "rate_limit_error", "slow", errors.RATE_LIMITED, True),
        (500, "api_error", "oops", errors.UPSTREAM, True),
        (504, "timeout_error", "late", errors.TIMEOUT, True),
        (529, "overloaded_error", "Overloaded", errors.OVERLOADED, True),
        (529, "api_error", "Overloaded", errors.OVERLOADED, True),
        (418, "teapot_error", "short and stout", errors.INVALID_REQUEST, False),
    ],
)
def test_read(status: int, kind: str, message: str, code: Code, retryable: bool) -> None:
    body = json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
    assert TABLE.read(status, {}, body) == Error(
        code=code,
        message=message,
        http_status=status,
        retryable=retryable,
        upstream_code=kind,
        native_body=body,
        native_dialect="anthropic",
    )


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("overloaded_error", 529),
        ("api_error", 500),
        ("rate_limit_error", 429),
        ("billing_error", 402),
        ("new_error", 500),
    ],
)
def test_read_inside_a_success(kind: str, status: int) -> None:
    body = json.dumps({"type": "error", "error": {"type": kind, "message": "m"}}).encode()
    assert TABLE.read(200, {}, body).http_status == status


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (502, b"<html><body>Bad Gateway</body></html>", errors.UPSTREAM, "The provider answered with HTTP status 502."),
        (503, b"", errors.OVERLOADED, "The provider answered with HTTP status 503."),
        (404, b"no such page", errors.NOT_FOUND, "no such page"),
        (400, b'{"detail":"?"}', errors.INVALID_REQUEST, "The provider answered with HTTP status 400."),
        (400, b'{"error":"text"}', errors.INVALID_REQUEST, "The provider answered with HTTP status 400."),
        (400, b'{"error":{"message":"only this"}}', errors.INVALID_REQUEST, "only this"),
        (500, b"\xff\xfe" * 400, errors.UPSTREAM, "The provider answered with HTTP status 500."),
        (400, b"[" * 99999, errors.INVALID_REQUEST, "The provider answered with HTTP status 400."),
    ],
)
def test_read_any_body(status: int, body: bytes, code: Code, message: str) -> None:
    error = TABLE.read(status, {}, body)
    assert (error.code, error.message, error.http_status, error.native_body) == (code, message, status, b"")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "12"}, 12),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "2500", "retry-after": "9"}, 2.5),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:30 GMT", "date": DATE}, 30),
        ({"retry-after": "Sat, 21 Nov 2026 11:00:00 GMT", "date": DATE}, 0),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:30 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        (
            {
                "date": DATE,
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-11-21T12:00:05Z",
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2026-11-21T12:00:40Z",
                "anthropic-ratelimit-output-tokens-remaining": "500",
                "anthropic-ratelimit-output-tokens-reset": "2026-11-21T13:00:00Z",
            },
            40,
        ),
        ({"date": DATE, "anthropic-ratelimit-x-remaining": "0", "anthropic-ratelimit-x-reset": "later"}, None),
    ],
)
def test_read_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    error = TABLE.read(429, headers, b"")
    assert (error.retry_after if error.HasField("retry_after") else None) == seconds


def test_provider_says_whether_to_retry() -> None:
    assert not TABLE.read(429, {"x-should-retry": "false"}, b"").retryable
    assert TABLE.read(400, {"x-should-retry": "true"}, b"").retryable


@pytest.mark.parametrize("code", sorted(errors._HTTP_STATUS))
def test_written_and_read_again(code: Code) -> None:
    written = TABLE.write(make_error(code, "m", retry_after=4), "r")
    read = TABLE.read(written.status, written.headers, written.body)
    # Codes that the API has no word for, and a quota that comes back by itself.
    same = {
        errors.UNAVAILABLE: errors.OVERLOADED,
        errors.INTERNAL: errors.UPSTREAM,
        errors.QUOTA_EXCEEDED: errors.RATE_LIMITED,
    }
    assert read.code == same.get(code, code)
    assert read.retry_after == 4
