"""What a request can ask the stand-in to do: the script, as strict JSON.

A script says what the answer is made of (`text` or `blocks`), how it is cut and paced, and what goes wrong. An unknown
field is an error, so that a misspelt script never passes for a working one.
"""

from __future__ import annotations

import functools
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

# A model name that begins so holds a script.
MODEL_PREFIX: Final = "script:"

JsonObject: TypeAlias = dict[str, object]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Milliseconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]

UsagePlace: TypeAlias = Literal["own_chunk", "last_chunk", "finish_chunk", "each_chunk", "none"]
ReasoningField: TypeAlias = Literal["reasoning_content", "reasoning", "reasoning_details", "reasoning_text"]
ErrorShape: TypeAlias = Literal["error", "detail", "event"]


class ScriptError(Exception):
    """A script cannot be read; the message says what is wrong with it."""


class _Strict(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """Scripts hold nothing but what they declare."""


class Text(_Strict, frozen=True, kw_only=True, tag="text"):
    """Visible text. `citations` are sent as they are, in the protocol's own shape."""

    text: str
    citations: list[JsonObject] = []


class Thinking(_Strict, frozen=True, kw_only=True, tag="thinking"):
    """Reasoning; without `signature` a made-up one is sent, with an empty one none."""

    text: str
    signature: str | None = None


class RedactedThinking(_Strict, frozen=True, kw_only=True, tag="redacted_thinking"):
    """Reasoning that only the provider can read."""

    data: str


class ToolCall(_Strict, frozen=True, kw_only=True, tag="tool_call"):
    """A tool call. `arguments` is sent instead of `input`, whether it is JSON or not.

    `text` is the input of a tool that takes free text, where the protocol has such tools; else `{"input": text}`.
    """

    name: str
    input: JsonObject = {}
    arguments: str | None = None
    text: str | None = None
    # The group that the tool is offered in; left out, the one that it is found in.
    namespace: str | None = None
    id: str | None = None


class Refusal(_Strict, frozen=True, kw_only=True, tag="refusal"):
    """An explicit refusal: OpenAI's `refusal`; Anthropic's text with stop reason `refusal`."""

    text: str


class ServerToolUse(_Strict, frozen=True, kw_only=True, tag="server_tool_use"):
    """A tool that the provider runs itself (Anthropic). `result` follows as a block of type `<name>_tool_result`."""

    name: str = "web_search"
    input: JsonObject = {}
    id: str | None = None
    result: list[JsonObject] | JsonObject | None = None


Block: TypeAlias = Text | Thinking | RedactedThinking | ToolCall | Refusal | ServerToolUse


class Usage(_Strict, frozen=True, kw_only=True):
    """Token counts; those left out are estimated (input, output) or 0."""

    # All prompt tokens, cached ones included.
    input: Count | None = None
    cache_read: Count = 0
    cache_write: Count = 0
    output: Count | None = None
    # Of the output.
    reasoning: Count = 0


class ErrorReply(_Strict, frozen=True, kw_only=True):
    """An error instead of an answer."""

    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 500
    # The provider's error type; the status' own when left out.
    type: str | None = None
    message: str | None = None
    # OpenAI's `code`.
    code: str | int | None = None
    # OpenAI's `param`.
    param: str | None = None
    # Seconds, in the `retry-after` header.
    retry_after: float | None = None
    headers: dict[str, str] = {}
    # More fields of the error object, for example `resets_at`.
    fields: JsonObject = {}
    # The ChatGPT backend: `{"error": {...}}`, `{"detail": message}`, or `{"type": "error", "status", "error": {...}}`.
    shape: ErrorShape = "error"
    # Sent instead of the protocol's own error body, for example a load balancer's HTML page.
    raw_body: str | None = None


class ErrorEvent(ErrorReply, frozen=True, kw_only=True):
    """An error inside the stream, after `after` deltas; 0: before any content. `status` only chooses the type."""

    after: Count = 0
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 529
    # Responses: `response.failed`, or the event `error`.
    event: Literal["failed", "error"] = "failed"


class Script(_Strict, frozen=True, kw_only=True):
    """One scripted answer. Nothing set: the default answer."""

    # Content: one text, or blocks in order. Neither: the default answer, or, with `deltas`, that many words.
    text: str | None = None
    blocks: list[Block] | None = None
    # Append the last user text to the content.
    echo: bool = False
    # Megabytes of text, made while it is sent.
    huge: Annotated[float, msgspec.Meta(gt=0, le=4096)] | None = None
    # The model that the answer names; the one asked for when left out.
    model: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: Usage | None = None

    # How each block is cut: into so many deltas, or so many characters each. Neither: word by word.
    deltas: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    delta_size: Annotated[int, msgspec.Meta(ge=1)] | None = None

    # Pace, in milliseconds: before the response head; between the head and the first event; between deltas.
    first_byte_delay_ms: Milliseconds = 0
    first_event_delay_ms: Milliseconds = 0
    delta_delay_ms: Milliseconds = 0
    # A keep-alive (Anthropic `ping`, else a comment) so often while waiting inside a stream.
    keepalive_ms: Annotated[float, msgspec.Meta(ge=1)] | None = None
    # One write per frame, instead of joining those that are ready at the same time.
    separate_sends: bool = False

    # Faults.
    error: ErrorReply | None = None
    error_event: ErrorEvent | None = None
    # Say nothing after so many deltas, for `silence_ms`, or until the client leaves.
    silence_after: Count | None = None
    silence_ms: Milliseconds | None = None
    # Close the connection inside a frame after so many deltas; -1: without any answer.
    cut_after: Annotated[int, msgspec.Meta(ge=-1)] | None = None

    # OpenAI's stream. `usage_on` set: usage is sent whether it was asked for or not (`none`: never).
    interleave_tools: bool = False
    usage_on: UsagePlace | None = None
    omit_done: bool = False
    reasoning_field: ReasoningField = "reasoning_content"

    # Responses' stream: more events, sent as they are once the response has begun.
    extra_events: list[JsonObject] = []
    # WebSocket: refuse the upgrade so, instead of a connection. Only a script in the header is known by then.
    upgrade: ErrorReply | None = None

    # Request headers to answer with as `x-standin-echo-<name>`, and headers of the script's own.
    echo_headers: list[str] = []
    headers: dict[str, str] = {}

    # The nth request with this script gets the nth of these, the last one again and again.
    attempts: list[Script] = []

    def __post_init__(self) -> None:
        if self.text is not None and self.blocks is not None:
            raise ValueError("`text` and `blocks` exclude each other")
        if self.deltas is not None and self.delta_size is not None:
            raise ValueError("`deltas` and `delta_size` exclude each other")
        if any(entry.attempts for entry in self.attempts):
            raise ValueError("`attempts` cannot hold `attempts`")


_decoder = msgspec.json.Decoder(Script)


@functools.lru_cache(maxsize=256)
def read_script(text: str | bytes) -> Script:
    """Reads a script from its JSON.

    Raises:
        ScriptError: When it is not JSON, or holds an unknown field or a wrong value.
    """
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise ScriptError(f"script: {error}") from None


def write_script(script: Script) -> bytes:
    """The JSON of a script, fields left at their defaults left out."""
    return msgspec.json.encode(script)
