"""Errors, to and from OpenAI's error body: `{"error": {"message", "type", "param", "code"}}`.

Format: https://platform.openai.com/docs/guides/error-codes

The ChatGPT backend says them in three more ways: as `{"detail": "text"}`, inside an event of type `error` with a status
and headers, and with a `usage_limit_reached` that tells when the limit ends. Nearly compatible servers have their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from patchbay import errors
from patchbay.canonical import Error
from patchbay.dialects.base import ErrorBody
from patchbay.dialects.retry_after import read_http_date, read_retry_after, read_seconds, write_retry_after
from patchbay.errors import Code, code_of_status, make_error

# Code -> the `type` and `code` of the body.
_WRITTEN: dict[Code, tuple[str, str | None]] = {
    errors.INVALID_REQUEST: ("invalid_request_error", None),
    errors.AUTHENTICATION: ("authentication_error", "invalid_api_key"),
    errors.PERMISSION: ("permission_error", "permission_denied"),
    errors.NOT_FOUND: ("not_found_error", "not_found"),
    errors.REQUEST_TOO_LARGE: ("invalid_request_error", "request_too_large"),
    errors.RATE_LIMITED: ("rate_limit_error", "rate_limit_exceeded"),
    errors.QUOTA_EXCEEDED: ("insufficient_quota", "insufficient_quota"),
    errors.OVERLOADED: ("overloaded_error", "overloaded"),
    errors.UPSTREAM: ("server_error", "upstream_error"),
    errors.TIMEOUT: ("timeout_error", "timeout"),
    errors.UNAVAILABLE: ("server_error", "service_unavailable"),
    errors.INTERNAL: ("server_error", "internal_error"),
    errors.CONTEXT_LENGTH: ("invalid_request_error", "context_length_exceeded"),
}

# What bodies say, as `code`, `type` or Google's `status`, in lower case.
_READ: dict[str, Code] = {
    "context_length_exceeded": errors.CONTEXT_LENGTH,
    "string_above_max_length": errors.INVALID_REQUEST,
    "insufficient_quota": errors.QUOTA_EXCEEDED,
    "billing_hard_limit_reached": errors.QUOTA_EXCEEDED,
    "billing_not_active": errors.QUOTA_EXCEEDED,
    "insufficient_credits": errors.QUOTA_EXCEEDED,
    "invalid_api_key": errors.AUTHENTICATION,
    "authentication_error": errors.AUTHENTICATION,
    "unauthenticated": errors.AUTHENTICATION,
    "permission_error": errors.PERMISSION,
    "permission_denied": errors.PERMISSION,
    "model_not_found": errors.NOT_FOUND,
    "not_found": errors.NOT_FOUND,
    "not_found_error": errors.NOT_FOUND,
    "request_too_large": errors.REQUEST_TOO_LARGE,
    "rate_limit_exceeded": errors.RATE_LIMITED,
    "rate_limit_error": errors.RATE_LIMITED,
    "resource_exhausted": errors.RATE_LIMITED,
    "too_many_requests": errors.RATE_LIMITED,
    "overloaded": errors.OVERLOADED,
    "overloaded_error": errors.OVERLOADED,
    "server_overloaded": errors.OVERLOADED,
    "engine_overloaded": errors.OVERLOADED,
    "unavailable": errors.OVERLOADED,
    "service_unavailable": errors.OVERLOADED,
    "timeout": errors.TIMEOUT,
    "timeout_error": errors.TIMEOUT,
    "deadline_exceeded": errors.TIMEOUT,
    "server_error": errors.UPSTREAM,
    "internal_error": errors.UPSTREAM,
    "internal_server_error": errors.UPSTREAM,
    "internal": errors.UPSTREAM,
    "invalid_argument": errors.INVALID_REQUEST,
    "failed_precondition": errors.INVALID_REQUEST,
    "invalid_request_error": errors.INVALID_REQUEST,
    # The ChatGPT backend, and the platform's Responses API.
    "usage_limit_reached": errors.QUOTA_EXCEEDED,
    "usage_not_included": errors.QUOTA_EXCEEDED,
    "server_is_overloaded": errors.OVERLOADED,
    "slow_down": errors.OVERLOADED,
    "previous_response_not_found": errors.INVALID_REQUEST,
    "invalid_encrypted_content": errors.INVALID_REQUEST,
    "invalid_prompt": errors.INVALID_REQUEST,
    "cyber_policy": errors.INVALID_REQUEST,
    "vector_store_timeout": errors.TIMEOUT,
    # CodeBuddy's own numbers.
    "11101": errors.INVALID_REQUEST,
}

# Servers that give no code for it say it like this.
_TOO_LONG = re.compile(
    r"maximum context length|context[ _](length|window)|prompt is too long|exceeds the maximum number of tokens",
    re.IGNORECASE,
)

# Google's `RetryInfo`: a number of seconds.
_RETRY_DELAY = re.compile(rb'"retryDelay"\s*:\s*"([0-9.]+)s"')

# OpenAI's own words in an error inside an answer, which has no headers.
_TRY_AGAIN = re.compile(r"try again in ([0-9.]+) ?(ms|s|seconds?)\b", re.IGNORECASE)

_MAX_MESSAGE = 2_000

# Where a body says what is wrong, in the order in which it counts.
_WORDS = ("code", "type", "status", "status_code")


class OpenAIErrors:
    """The error table of a dialect of OpenAI's.

    Args:
        dialect: Its name.
    """

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect

    def write(self, error: Error, request_id: str) -> ErrorBody:
        """The HTTP answer for an error."""
        headers = {"x-request-id": request_id} if request_id else {}
        if error.HasField("retry_after"):
            headers["retry-after"] = write_retry_after(error.retry_after)
        # A newer worker may have a code that is not known here.
        code = error.code if error.code in _WRITTEN else errors.INTERNAL
        status = error.http_status or make_error(code, "").http_status
        return ErrorBody(status=status, body=error_object(error, self._dialect), headers=headers)

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        """The error that an upstream's answer stands for, whatever the body's shape."""
        return read_error(status, headers, body, self._dialect)


def error_object(error: Error, dialect: str) -> bytes:
    """The body of an error, on one line; an upstream's own body of this dialect as it is, if it is on one."""
    if error.native_dialect == dialect and error.native_body:
        return error.native_body
    kind, code = _WRITTEN.get(error.code, _WRITTEN[errors.INTERNAL])
    parameter = error.parameter if error.HasField("parameter") else None
    if error.code == errors.NOT_FOUND and parameter == "model":
        kind, code = "invalid_request_error", "model_not_found"
    elif code is None and error.HasField("upstream_code"):
        code = error.upstream_code
    return msgspec.json.encode({"error": {"message": error.message, "type": kind, "param": parameter, "code": code}})


def read_error(status: int, headers: Mapping[str, str], body: bytes, dialect: str) -> Error:
    """Reads an error body; `status` is that of the HTTP answer, 200 for an error inside a stream."""
    document = _decode(body)
    # Google wraps its errors in a list.
    first = document[0] if isinstance(document, list) and document else document
    fields = first if isinstance(first, dict) else {}
    nested = fields.get("error")
    inner: dict[str, object] = nested if isinstance(nested, dict) else {}
    words = [_word(source.get(name)) for source in (inner, fields) for name in _WORDS]
    message = _message(fields, inner, nested, body, status)
    http_status = status if status >= 400 else next((int(word) for word in words if _is_status(word)), 0)
    code = _code(words, http_status, message)
    parameter = inner.get("param")
    # A fault of the request is one whatever status it came with.
    mislabelled = code == errors.INVALID_REQUEST and http_status >= 500
    error = make_error(
        code,
        message,
        http_status=0 if mislabelled else http_status,
        retry_after=_retry_after({**headers, **_headers_in(fields)}, inner, message, body),
        parameter=parameter if isinstance(parameter, str) else None,
        upstream_code=next((word for word in words if word and word != "error" and not _is_status(word)), None),
    )
    if isinstance(document, dict) and isinstance(inner.get("message"), str) and _has_own_type(inner):
        error.native_body = body
        error.native_dialect = dialect
    return error


def _decode(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _has_own_type(inner: Mapping[str, object]) -> bool:
    """Whether an error object is OpenAI's: other servers have a number as its code, or no type."""
    return isinstance(inner.get("type"), str) and not isinstance(inner.get("code"), int)


def _word(value: object) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _is_status(word: str) -> bool:
    return len(word) == 3 and word.isdecimal() and word[0] in "45"


def _code(words: list[str], status: int, message: str) -> Code:
    known = [_READ[word.lower()] for word in words if word.lower() in _READ]
    # The general words last: OpenAI's type of almost everything is `invalid_request_error`.
    special = [code for code in known if code not in (errors.INVALID_REQUEST, errors.UPSTREAM)]
    if special:
        return special[0]
    if (status in (0, 400, 413, 422) or known) and _TOO_LONG.search(message):
        return errors.CONTEXT_LENGTH
    if status in (401, 402, 403, 404, 408, 413, 429, 503, 504, 529) or not known:
        return code_of_status(status) if status else errors.UPSTREAM
    return known[0]


def _message(
    fields: Mapping[str, object], inner: Mapping[str, object], nested: object, body: bytes, status: int
) -> str:
    for candidate in (
        inner.get("message"),
        nested,
        fields.get("message"),
        fields.get("msg"),
        fields.get("detail"),
    ):
        if isinstance(candidate, str) and candidate:
            return candidate
    detail = fields.get("detail") or inner or fields
    if detail:
        return msgspec.json.encode(detail).decode()[:_MAX_MESSAGE]
    text = body.decode(errors="replace").strip()
    if not text or text.startswith("<"):
        return f"The upstream answered with status {status}." if status >= 400 else "The upstream reported an error."
    return text[:_MAX_MESSAGE]


def _headers_in(fields: Mapping[str, object]) -> dict[str, str]:
    """The headers that an error inside an answer brings with it."""
    headers = fields.get("headers")
    return {name.lower(): str(value) for name, value in headers.items()} if isinstance(headers, dict) else {}


def _retry_after(headers: Mapping[str, str], inner: Mapping[str, object], message: str, body: bytes) -> float | None:
    until_reset = _until_reset(headers, inner)
    if until_reset is not None:
        return until_reset
    said = read_retry_after(headers)
    if said is not None:
        return said
    delay = _RETRY_DELAY.search(body)
    if delay:
        return read_seconds(delay[1].decode())
    words = _TRY_AGAIN.search(message)
    seconds = read_seconds(words[1]) if words else None
    return seconds / 1000 if words and seconds is not None and words[2] == "ms" else seconds


def _until_reset(headers: Mapping[str, str], inner: Mapping[str, object]) -> float | None:
    """Seconds until a used-up limit begins anew; a moment counts from the upstream's own clock, its `date` header."""
    seconds = inner.get("resets_in_seconds")
    if isinstance(seconds, int | float):
        return read_seconds(str(seconds))
    moment = inner.get("resets_at")
    now = read_http_date(headers.get("date", ""))
    if not isinstance(moment, int | float) or now is None:
        return None
    return max(0.0, moment - now.timestamp())
