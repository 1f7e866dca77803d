"""CodeBuddy: Chat Completions with rules of its own.

Keys are `ck_<id>.<secret>` and come in both `Authorization: Bearer` and `X-API-Key`; a system message is required;
answers are always streamed; chunks say `"object": "response"`; errors are `{"code", "msg"}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from patchbay_standin.errors import ProviderError, invalid_request
from patchbay_standin.openai.request import decode, to_prompt
from patchbay_standin.openai.wire import OpenAIWire
from patchbay_standin.prompt import Prompt

_KEY: Final = re.compile(rb"ck_[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# The code for requests that break a rule.
_REFUSED: Final = 11101


class CodeBuddyWire(OpenAIWire):
    """CodeBuddy's `POST /v2/chat/completions`."""

    name = "codebuddy"
    chunk_object = "response"

    def authenticate(self, headers: Mapping[bytes, bytes]) -> None:
        """The same well-formed key in both headers."""
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        key = headers.get(b"x-api-key", b"")
        if scheme.lower() != b"bearer" or not bearer or not key:
            raise _unauthorized("both Authorization: Bearer and X-API-Key are required")
        if bearer != key:
            raise _unauthorized("Authorization and X-API-Key differ")
        if not _KEY.fullmatch(key):
            raise _unauthorized("the key is not of the form ck_<id>.<secret>")

    def read(self, body: bytes) -> Prompt:
        """Reads a body of Chat Completions and holds it to CodeBuddy's rules."""
        request = decode(body)
        if not request.stream:
            raise invalid_request(f"{_REFUSED}: Non-stream chat request is currently not supported", code=_REFUSED)
        if not any(message.role == "system" for message in request.messages):
            raise invalid_request(f"{_REFUSED}: A system message is required", code=_REFUSED)
        return to_prompt(request)

    def error_body(self, error: ProviderError, number: int) -> bytes:
        """`{"code": ..., "msg": ...}`"""
        code = error.status if error.code is None else error.code
        return msgspec.json.encode({"code": code if isinstance(code, int) else _REFUSED, "msg": error.message})


def _unauthorized(reason: str) -> ProviderError:
    return ProviderError(status=401, message=f"Unauthorized: {reason}", code=401)
