"""JSON bodies of the endpoints beside the hot path."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from fastapi import Request

from patchbay.errors import REQUEST_TOO_LARGE, InvalidRequest, PatchbayError, make_error

T = TypeVar("T")

_MAX_BYTES = 64 * 1024
_FIELD = re.compile(r"field `([^`]+)`|at `\$\.([^`]+)`")


async def read_body(request: Request, shape: type[T]) -> T:
    """The request's body, of the given shape.

    Raises:
        PatchbayError: INVALID_REQUEST that names the field at fault, REQUEST_TOO_LARGE.
    """
    return read_json(await read_bytes(request), shape)


async def read_bytes(request: Request, limit: int = _MAX_BYTES) -> bytes:
    """The request's body.

    Raises:
        PatchbayError: REQUEST_TOO_LARGE.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise PatchbayError(make_error(REQUEST_TOO_LARGE, f"the request body is larger than {limit} bytes"))
    return bytes(body)


def read_json(body: bytes, shape: type[T]) -> T:
    """A body, of the given shape.

    Raises:
        InvalidRequest: It names the field at fault.
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # The words name fields and types and never a value, which may be a secret.
        found = _FIELD.search(str(error))
        raise InvalidRequest(f"the body: {error}", (found[1] or found[2]) if found else None) from None
