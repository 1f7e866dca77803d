"""The error table of the Messages API: https://platform.claude.com/docs/en/api/errors

{"type": "error", "error": {"type": "...", "message": "..."}, "request_id": "..."}
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from patchbay import errors
from patchbay.canonical import Error
from patchbay.dialects.anthropic._json import dump, one_line
from patchbay.dialects.anthropic._quirks import NAME
from patchbay.dialects.base import ErrorBody
from patchbay.dialects.retry_after import read_http_date, read_retry_after, seconds_between, write_retry_after
from patchbay.errors import Code, code_of_status, make_error

# Code -> the type of its body, and its HTTP status where that is not the error's own.
_TYPES: dict[Code, tuple[str, int | None]] = {
    errors.INVALID_REQUEST: ("invalid_request_error", None),
    errors.AUTHENTICATION: ("authentication_error", None),
    errors.PERMISSION: ("permission_error", None),
    errors.NOT_FOUND: ("not_found_error", None),
    errors.REQUEST_TOO_LARGE: ("request_too_large", None),
    errors.RATE_LIMITED: ("rate_limit_error", None),
    errors.QUOTA_EXCEEDED: ("billing_error", 402),
    errors.OVERLOADED: ("overloaded_error", 529),
    errors.UPSTREAM: ("api_error", None),
    errors.TIMEOUT: ("timeout_error", None),
    errors.UNAVAILABLE: ("api_error", None),
    errors.INTERNAL: ("api_error", None),
    errors.CONTEXT_LENGTH: ("invalid_request_error", None),
}

# A code of a newer worker.
_UNKNOWN = ("api_error", None)

_CODES: dict[str, Code] = {
    "invalid_request_error": errors.INVALID_REQUEST,
    "authentication_error": errors.AUTHENTICATION,
    "billing_error": errors.QUOTA_EXCEEDED,
    "permission_error": errors.PERMISSION,
    "not_found_error": errors.NOT_FOUND,
    "request_too_large": errors.REQUEST_TOO_LARGE,
    "rate_limit_error": errors.RATE_LIMITED,
    "timeout_error": errors.TIMEOUT,
    "api_error": errors.UPSTREAM,
    "overloaded_error": errors.OVERLOADED,
}

# The status that a type stands for, when an error comes inside a 200.
_STATUS_OF_CODE: dict[Code, int] = {errors.QUOTA_EXCEEDED: 402, errors.OVERLOADED: 529, errors.UPSTREAM: 500}

# Claude Code compacts the conversation when it reads these words.
_TOO_LONG = "prompt is too long"
_CONTEXT_WORDS = (_TOO_LONG, "exceed context limit", "exceeds the context window", "maximum context length")
_CREDIT_WORDS = ("credit balance is too low",)

_LONGEST_PLAIN_TEXT = 500


class _Detail(msgspec.Struct):
    type: str | None = None
    message: str | None = None


class _Body(msgspec.Struct):
    error: _Detail
    type: str | None = None


_decode = msgspec.json.Decoder(_Body).decode


class AnthropicErrors:
    """Errors of the Messages API, to and from the closed set."""

    def write(self, error: Error, request_id: str) -> ErrorBody:
        """The HTTP answer for an error; an upstream's own body of this dialect stays as it is."""
        kind, status = _type_of(error)
        headers = {"retry-after": write_retry_after(error.retry_after)} if error.HasField("retry_after") else {}
        if error.native_body and error.native_dialect == NAME:
            return ErrorBody(error.http_status or status or 500, error.native_body, headers)
        body = {"type": "error", "error": {"type": kind, "message": _message(error)}, "request_id": request_id}
        return ErrorBody(status or error.http_status or 500, dump(body), headers)

    def write_frame(self, error: Error) -> bytes:
        """The error as an event of a stream."""
        if error.native_body and error.native_dialect == NAME:
            data = one_line(error.native_body.decode(errors="replace")).encode()
        else:
            kind, _ = _type_of(error)
            data = dump({"type": "error", "error": {"type": kind, "message": _message(error)}})
        return b"event: error\ndata: " + data + b"\n\n"

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        """The error that an answer stands for, in a status or (status 200) inside a body or a stream."""
        try:
            detail: _Detail | None = _decode(body).error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            detail = None
        kind = (detail.type if detail else None) or ""
        message = (detail.message if detail else None) or _plain_text(body) or _nameless(status)
        code = _code(status, kind, message)
        error = make_error(
            code,
            message,
            http_status=status if status >= 400 else _STATUS_OF_CODE.get(code, 0),
            retryable=_retryable(headers),
            retry_after=_retry_after(status, headers),
            upstream_code=kind or None,
        )
        if detail is not None and kind:
            error.native_body = body
            error.native_dialect = NAME
        return error


ERRORS = AnthropicErrors()


def _type_of(error: Error) -> tuple[str, int | None]:
    """The type and the status of an error; what ends by itself is no matter of billing."""
    if error.code == errors.QUOTA_EXCEEDED and error.HasField("retry_after"):
        return _TYPES[errors.RATE_LIMITED]
    return _TYPES.get(error.code, _UNKNOWN)


def cut_off() -> Error:
    """The upstream's answer has no proper end."""
    return make_error(errors.UPSTREAM, "The provider's answer ended before its end.")


def no_tool_call() -> Error:
    """The answer says that it stops for a tool call. A client would wait for one for ever."""
    return make_error(errors.UPSTREAM, "The provider announced a tool call but sent none.")


def unreadable() -> Error:
    """The upstream's answer is not what the protocol says."""
    return make_error(errors.UPSTREAM, "The provider sent an answer that cannot be read.")


def _message(error: Error) -> str:
    if error.code == errors.CONTEXT_LENGTH and _TOO_LONG not in error.message.lower():
        return f"{_TOO_LONG}: {error.message}"
    return error.message


def _code(status: int, kind: str, message: str) -> Code:
    words = message.lower()
    code = _CODES.get(kind)
    if code is None or (code == errors.UPSTREAM and status in (503, 504, 529)):
        code = code_of_status(status) if status >= 400 else errors.UPSTREAM
    if code in (errors.INVALID_REQUEST, errors.REQUEST_TOO_LARGE) and any(part in words for part in _CONTEXT_WORDS):
        return errors.CONTEXT_LENGTH
    if code == errors.INVALID_REQUEST and any(part in words for part in _CREDIT_WORDS):
        return errors.QUOTA_EXCEEDED
    return code


def _plain_text(body: bytes) -> str:
    text = body.decode(errors="replace").strip()
    # A page of a proxy in between, or JSON of an unknown shape, is nothing to show a client.
    return text if len(text) <= _LONGEST_PLAIN_TEXT and not text.startswith(("<", "{", "[")) else ""


def _nameless(status: int) -> str:
    return f"The provider answered with HTTP status {status}." if status >= 400 else "The provider reported an error."


def _retryable(headers: Mapping[str, str]) -> bool | None:
    """What the provider says itself; None: it says nothing."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").lower())


def _retry_after(status: int, headers: Mapping[str, str]) -> float | None:
    said = read_retry_after(headers)
    return _until_reset(headers) if said is None and status == 429 else said


def _until_reset(headers: Mapping[str, str]) -> float | None:
    """Seconds until the last exhausted limit of `anthropic-ratelimit-*` is filled up again."""
    now = read_http_date(headers.get("date", ""))
    waits = []
    for name, value in headers.items():
        if now is None or not (name.startswith("anthropic-ratelimit-") and name.endswith("-reset")):
            continue
        if headers.get(name.removesuffix("reset") + "remaining") != "0":
            continue
        try:
            waits.append(seconds_between(now, datetime.fromisoformat(value)))
        except ValueError:  # not a time: no help
            continue
    return max((wait for wait in waits if wait is not None), default=None)
