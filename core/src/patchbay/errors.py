"""The closed set of errors, and the exception that carries one.

    PatchbayError            any error a client may see, as a canonical `Error`
    └── InvalidRequest       the client's request cannot be read or honoured (400)

Every dialect has its own table from these to its error bodies and back; nothing else turns errors into answers.
"""

from __future__ import annotations

from typing import TypeAlias

from patchbay_proto.v1 import events_pb2 as pb
from patchbay_proto.v1.events_pb2 import Error

Code: TypeAlias = "pb.ErrorCode.ValueType"

INVALID_REQUEST = pb.ERROR_CODE_INVALID_REQUEST
AUTHENTICATION = pb.ERROR_CODE_AUTHENTICATION
PERMISSION = pb.ERROR_CODE_PERMISSION
NOT_FOUND = pb.ERROR_CODE_NOT_FOUND
REQUEST_TOO_LARGE = pb.ERROR_CODE_REQUEST_TOO_LARGE
RATE_LIMITED = pb.ERROR_CODE_RATE_LIMITED
QUOTA_EXCEEDED = pb.ERROR_CODE_QUOTA_EXCEEDED
OVERLOADED = pb.ERROR_CODE_OVERLOADED
UPSTREAM = pb.ERROR_CODE_UPSTREAM
TIMEOUT = pb.ERROR_CODE_TIMEOUT
UNAVAILABLE = pb.ERROR_CODE_UNAVAILABLE
INTERNAL = pb.ERROR_CODE_INTERNAL
CONTEXT_LENGTH = pb.ERROR_CODE_CONTEXT_LENGTH

_HTTP_STATUS: dict[Code, int] = {
    INVALID_REQUEST: 400,
    AUTHENTICATION: 401,
    PERMISSION: 403,
    NOT_FOUND: 404,
    REQUEST_TOO_LARGE: 413,
    RATE_LIMITED: 429,
    QUOTA_EXCEEDED: 429,
    OVERLOADED: 503,
    UPSTREAM: 502,
    TIMEOUT: 504,
    UNAVAILABLE: 503,
    INTERNAL: 500,
    CONTEXT_LENGTH: 400,
}

_RETRYABLE = frozenset({RATE_LIMITED, OVERLOADED, UPSTREAM, TIMEOUT, UNAVAILABLE})

_CODE_OF_STATUS: dict[int, Code] = {
    400: INVALID_REQUEST,
    401: AUTHENTICATION,
    402: QUOTA_EXCEEDED,
    403: PERMISSION,
    404: NOT_FOUND,
    408: TIMEOUT,
    413: REQUEST_TOO_LARGE,
    422: INVALID_REQUEST,
    429: RATE_LIMITED,
    503: OVERLOADED,
    504: TIMEOUT,
    529: OVERLOADED,
}


class PatchbayError(Exception):
    """An error a client may see; `error` is its canonical form."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.error = error


class InvalidRequest(PatchbayError):
    """The client's request cannot be read or honoured.

    Args:
        message: What is wrong, for the client to read.
        parameter: The field at fault, as a path in the client's body, for example `messages.0.content`.
    """

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(make_error(INVALID_REQUEST, message, parameter=parameter))


def make_error(
    code: Code,
    message: str,
    *,
    http_status: int = 0,
    retryable: bool | None = None,
    retry_after: float | None = None,
    parameter: str | None = None,
    upstream_code: str | None = None,
) -> Error:
    """Builds a canonical error; status and retryability default to the code's own."""
    return Error(
        code=code,
        message=message,
        http_status=http_status or _HTTP_STATUS[code],
        retryable=code in _RETRYABLE if retryable is None else retryable,
        retry_after=retry_after,
        parameter=parameter,
        upstream_code=upstream_code,
    )


def code_of_status(status: int) -> Code:
    """The code that an upstream's HTTP status stands for, when its body says nothing better."""
    if status in _CODE_OF_STATUS:
        return _CODE_OF_STATUS[status]
    return INVALID_REQUEST if 400 <= status < 500 else UPSTREAM
