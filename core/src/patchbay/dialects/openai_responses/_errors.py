"""Errors, to and from the Responses API: OpenAI's error body over HTTP, a `response.failed` inside an answer.

The code in a `response.failed` decides whether the Codex CLI asks again. It knows eight, of which it takes five for
final; every other one is asked again five times.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from patchbay import errors
from patchbay.canonical import Error
from patchbay.dialects import openai_errors
from patchbay.dialects.json_text import Object, dump, dump_object
from patchbay.dialects.openai_errors import OpenAIErrors
from patchbay.dialects.openai_responses._quirks import NAME
from patchbay.errors import Code, make_error

ERRORS = OpenAIErrors(NAME)

# Asked again by the Codex CLI.
_RATE_LIMITED = "rate_limit_exceeded"
_SERVER_ERROR = "server_error"
_SLOW_DOWN = "slow_down"
# Final for the Codex CLI.
_CONTEXT_LENGTH = "context_length_exceeded"
_QUOTA = "insufficient_quota"
_INVALID = "invalid_prompt"

_KNOWN = frozenset(
    {
        _RATE_LIMITED,
        _SERVER_ERROR,
        _SLOW_DOWN,
        _CONTEXT_LENGTH,
        _QUOTA,
        _INVALID,
        "usage_not_included",
        "server_is_overloaded",
    }
)

_WRITTEN: dict[Code, str] = {
    errors.RATE_LIMITED: _RATE_LIMITED,
    errors.QUOTA_EXCEEDED: _QUOTA,
    errors.OVERLOADED: _SLOW_DOWN,
    errors.UPSTREAM: _SERVER_ERROR,
    errors.TIMEOUT: _SERVER_ERROR,
    errors.UNAVAILABLE: _SERVER_ERROR,
    errors.INTERNAL: _SERVER_ERROR,
    errors.CONTEXT_LENGTH: _CONTEXT_LENGTH,
}

_TRY_AGAIN = re.compile(r"try again in [0-9.]+ ?(?:ms|s)", re.IGNORECASE)


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> Error:
    """Reads an error body, or an error event; `status` is that of the HTTP answer, 200 for one inside a stream."""
    return openai_errors.read_error(status, headers, body, NAME)


def read_failure(error: bytes) -> Error:
    """Reads the `error` of a Response that failed: `{"code", "message"}`, or null."""
    if not error.startswith(b"{"):
        return make_error(errors.UPSTREAM, "The upstream reported that its answer failed.")
    return read_error(200, {}, dump_object({"error": error}))


def failed_error(error: Error) -> bytes:
    """The `error` of a Response that failed."""
    fields: Object = {"code": dump(_failed_code(error)), "message": dump(_failed_message(error))}
    return dump_object(fields)


def _failed_code(error: Error) -> str:
    if error.upstream_code in _KNOWN:
        return error.upstream_code
    code = _WRITTEN.get(error.code, _SERVER_ERROR if error.retryable else _INVALID)
    # What will not be otherwise the next time is not worth five more tries.
    return _INVALID if code == _SERVER_ERROR and not error.retryable and error.code != errors.INTERNAL else code


def _failed_message(error: Error) -> str:
    """The message; the Codex CLI reads in it how long to wait."""
    if not error.HasField("retry_after") or error.code != errors.RATE_LIMITED or _TRY_AGAIN.search(error.message):
        return error.message
    return f"{error.message} Please try again in {error.retry_after:.3f}s.".lstrip()


def is_error_event(data: bytes) -> bool:
    """Whether the data of an event without a type is an error body."""
    try:
        fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return any(bytes(fields.get(name, b"null")) != b"null" for name in ("error", "detail", "code", "msg", "message"))
