"""What the tests of this dialect share: streams from chunks, and events as readable lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import pytest

from patchbay.canonical import ChatEvent, Error, Finished, Usage
from patchbay.dialects.base import ReadOptions
from patchbay.dialects.openai_chat import DIALECT
from patchbay_proto.v1.events_pb2 import ErrorCode

Lines = list[str]


def _sse(chunks: Iterable[object], *, done: bool = True) -> bytes:
    frames = [
        b"data: " + json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n" for chunk in chunks
    ]
    return b"".join(frames) + (b"data: [DONE]\n\n" if done else b"")


def _usage_line(usage: Usage) -> str:
    counts = [f"{field.name.removesuffix('_tokens')}={value}" for field, value in usage.ListFields()[:5]]
    return " ".join(["usage", *[count for count in counts if "extensions" not in count], *usage.extensions.values()])


def _finished_line(finished: Finished) -> str:
    reason = Finished.StopReason.Name(finished.stop_reason).removeprefix("STOP_REASON_").lower()
    more = [finished.stop_sequence, finished.raw, *finished.extensions.values()]
    return " ".join([f"finished {finished.choice} {reason}", *[text for text in more if text]])


def _error_line(error: Error) -> str:
    retry = " retryable" if error.retryable else ""
    return f"error {ErrorCode.Name(error.code).removeprefix('ERROR_CODE_').lower()}{retry}: {error.message}"


def _line(event: ChatEvent) -> str:
    kind = event.WhichOneof("event")
    match kind:
        case "started":
            return f"started {event.started.id} {event.started.model} {event.started.created}"
        case "block_start":
            start = event.block_start
            block = start.WhichOneof("kind")
            detail = ""
            match block:
                case "tool_use":
                    detail = f" {start.tool_use.id} {start.tool_use.name}" + (" text" * start.tool_use.text_input)
                case "redacted_thinking":
                    detail = f" {start.redacted_thinking.data}"
                case "opaque":
                    detail = f" {start.opaque.dialect} {start.opaque.json}"
            choice = f" of {start.choice}" if start.choice else ""
            return f"{start.index} {block}{detail}{choice}"
        case "block_stop":
            return f"{event.block_stop.index} stop"
        case "text_delta":
            delta = event.text_delta
            return f"{delta.index} + {delta.text}" + (
                f" {delta.logprobs_json}" if delta.HasField("logprobs_json") else ""
            )
        case "thinking_delta":
            return f"{event.thinking_delta.index} + {event.thinking_delta.text}"
        case "tool_input_delta":
            return f"{event.tool_input_delta.index} + {event.tool_input_delta.text}"
        case "signature_delta":
            return f"{event.signature_delta.index} signed {event.signature_delta.signature}"
        case "citation_delta":
            return f"{event.citation_delta.index} cites {event.citation_delta.json}"
        case "usage":
            return _usage_line(event.usage)
        case "finished":
            return _finished_line(event.finished)
        case "error":
            return _error_line(event.error)
        case "native":
            return f"native{' preamble' * event.native.preamble} {event.native.data!r}"
        case _:
            return str(kind)


def _read(data: bytes, *, options: ReadOptions | None = None, cuts: Iterable[int] = ()) -> list[ChatEvent]:
    reader = DIALECT.read_events(options or ReadOptions())
    events: list[ChatEvent] = []
    start = 0
    for cut in [*cuts, len(data)]:
        events += reader.feed(data[start:cut])
        start = cut
    return events + reader.close()


@pytest.fixture
def sse() -> Callable[..., bytes]:
    """Frames from chunks, with `[DONE]` unless told otherwise."""
    return _sse


@pytest.fixture
def lines() -> Callable[[Iterable[ChatEvent]], Lines]:
    """Events, one line each."""
    return lambda events: [_line(event) for event in events]


@pytest.fixture
def read() -> Callable[..., list[ChatEvent]]:
    """All events of an answer, fed in the pieces that `cuts` makes."""
    return _read
