"""The shape of a streamed chunk, and of a whole answer, as far as it is read.

Only what must have a type has one: a field that a server fills in its own way must not fail the answer.
Format: https://platform.openai.com/docs/api-reference/chat-streaming/streaming
"""

from __future__ import annotations

import msgspec

from patchbay.dialects.json_text import Object, load_object

_ABSENT = msgspec.Raw(b"null")

# OpenAI answers at most 128 times; what lies far beyond is no index.
_MAX_INDEX = 1023

# The fields of a chunk that are read; the others ride along.
_KNOWN = frozenset(
    ("id", "object", "created", "model", "choices", "usage", "error", "code", "msg", "message", "detail", "obfuscation")
)


class Function(msgspec.Struct, gc=False):
    name: object = None
    arguments: msgspec.Raw = _ABSENT


class Custom(msgspec.Struct, gc=False):
    name: object = None
    input: object = None


class ToolCall(msgspec.Struct, gc=False):
    index: object = None
    id: object = None
    function: Function | None = None
    custom: Custom | None = None
    # Google: https://ai.google.dev/gemini-api/docs/thought-signatures
    extra_content: msgspec.Raw = _ABSENT


class Delta(msgspec.Struct, gc=False):
    """A streamed `delta`, or the `message` of a whole answer."""

    content: object = None
    refusal: object = None
    # DeepSeek and vLLM; OpenRouter and newer vLLM; OpenRouter.
    reasoning_content: object = None
    reasoning: object = None
    reasoning_details: msgspec.Raw = _ABSENT
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None
    annotations: msgspec.Raw = _ABSENT
    audio: msgspec.Raw = _ABSENT
    images: msgspec.Raw = _ABSENT


class Choice(msgspec.Struct, gc=False):
    index: object = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: object = None
    # vLLM: the stop sequence that was met.
    stop_reason: object = None
    # Of some servers the older list, which is passed over.
    logprobs: dict[str, msgspec.Raw] | list[object] | None = None
    error: msgspec.Raw = _ABSENT

    @property
    def number(self) -> int:
        """Which of `n` answers this is; the first, when the index is none."""
        index = self.index
        return index if isinstance(index, int) and 0 < index <= _MAX_INDEX else 0


class Chunk(msgspec.Struct, gc=False):
    id: object = None
    created: object = None
    model: object = None
    choices: list[Choice] | None = None
    usage: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT
    # Error bodies of servers with shapes of their own.
    code: object = None
    msg: object = None
    message: object = None
    detail: object = None

    @property
    def is_error(self) -> bool:
        """Whether this is no answer but an error, reported inside one."""
        if is_present(self.error):
            return True
        if self.choices:
            return any(is_present(choice.error) for choice in self.choices)
        if is_present(self.usage) or self.code == 0:
            return False
        return bool(self.code or self.msg or self.message or self.detail)


decode_chunk = msgspec.json.Decoder(Chunk).decode


def is_present(value: msgspec.Raw) -> bool:
    return value is not _ABSENT and bytes(value) != b"null"


def other_fields(data: bytes) -> Object:
    """The fields of a chunk that are not read, such as `system_fingerprint`."""
    return {name: value for name, value in load_object(data).items() if name not in _KNOWN and value != b"null"}
