"""What the tests of this dialect share: streams from chunks, and events as readable lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import pytest

from patchbay.canonical import ChatEvent
from patchbay.dialects.base import ReadOptions
from patchbay.dialects.openai_chat import DIALECT
from patchbay.testing.event_lines import event_line

Lines = list[str]


def _sse(chunks: Iterable[object], *, done: bool = True) -> bytes:
    frames = [
        b"data: " + json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n" for chunk in chunks
    ]
    return b"".join(frames) + (b"data: [DONE]\n\n" if done else b"")


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
    return lambda events: [event_line(event) for event in events]


@pytest.fixture
def read() -> Callable[..., list[ChatEvent]]:
    """All events of an answer, fed in the pieces that `cuts` makes."""
    return _read
