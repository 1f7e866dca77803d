"""Errors, to and from Chat Completions: OpenAI's error body, also inside a stream."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from patchbay.canonical import Error
from patchbay.dialects import openai_errors
from patchbay.dialects.openai_chat._quirks import NAME
from patchbay.dialects.openai_errors import OpenAIErrors, error_object

ERRORS = OpenAIErrors(NAME)


def error_frame(error: Error) -> bytes:
    """The error as a frame of a stream. The official SDK raises on any chunk with an `error`."""
    body = error_object(error, NAME)
    if b"\n" in body or b"\r" in body:
        try:
            body = msgspec.json.format(body, indent=-1)
        except msgspec.DecodeError:
            return error_frame(Error(code=error.code, message=error.message))
    return b"data: " + body + b"\n\n"


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> Error:
    """Reads an error body; `status` is that of the HTTP answer, 200 for an error inside a stream."""
    return openai_errors.read_error(status, headers, body, NAME)
