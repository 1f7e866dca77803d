"""What of the upstream's own answer passes, and how it ends when the upstream does not end it itself."""

from __future__ import annotations

import re

from patchbay.canonical import Error
from patchbay.dialects.base import AnswerOptions
from patchbay.dialects.json_text import Object, dump, dump_object
from patchbay.dialects.openai_responses._errors import failed_error

_ID_PREFIX = "resp_"
_ID = re.compile(rb'"response"\s*:\s*\{\s*"id"\s*:\s*"([^"\\]+)"|"id"\s*:\s*"(resp_[^"\\]+)"')
_NUMBER = re.compile(rb'"sequence_number"\s*:\s*(\d+)')
# The id comes with the first frames, if at all; the very first may be a sign of life.
_FRAMES_WITH_ID = 4
_FAILED = re.compile(rb'"type"\s*:\s*"response\.failed"|^event: ?response\.failed', re.MULTILINE)


def response_id(upstream: str, fallback: str) -> str:
    """The upstream's id if it is one of this API, else one after the fallback."""
    if upstream.startswith(_ID_PREFIX):
        return upstream
    return _ID_PREFIX + (fallback or upstream).removeprefix(_ID_PREFIX)


class Passed:
    """The upstream's own frames. Only the last are remembered, and the answer's id."""

    def __init__(self, options: AnswerOptions) -> None:
        self._options = options
        self._id = ""
        self._count = 0
        self._last = b""

    @property
    def has_begun(self) -> bool:
        return self._count > 0

    def take(self, data: bytes) -> bytes:
        if not self._id and self._count < _FRAMES_WITH_ID:
            found = _ID.search(data)
            self._id = (found[1] or found[2]).decode(errors="replace") if found else ""
        self._count += 1
        self._last = data
        return data

    def failure(self, error: Error) -> bytes:
        """The end of the answer in an error; nothing where the upstream has told of it in its own words."""
        if _FAILED.search(self._last):
            return b""
        numbers = _NUMBER.findall(self._last)
        response: Object = {
            "id": dump(self._id or response_id("", self._options.fallback_id)),
            "object": b'"response"',
            "created_at": dump(self._options.created),
            "status": b'"failed"',
            "error": failed_error(error),
            "model": dump(self._options.model),
            "output": b"[]",
        }
        event: Object = {
            "type": b'"response.failed"',
            "sequence_number": dump(int(numbers[-1]) + 1 if numbers else 0),
            "response": dump_object(response),
        }
        return b"event: response.failed\ndata: " + dump_object(event) + b"\n\n"
