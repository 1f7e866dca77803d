"""What the tests of this dialect share: streams from events, and canonical events as readable lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import pytest

from patchbay.canonical import ChatEvent
from patchbay.dialects.base import ReadOptions
from patchbay.dialects.openai_responses import read_events
from patchbay.testing.event_lines import event_line


def _sse(events: Iterable[object]) -> bytes:
    """Frames with `event:` lines, as OpenAI sends them."""
    frames = []
    for event in events:
        data = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
        name = f"event: {event['type']}\n" if isinstance(event, dict) and "type" in event else ""
        frames.append(f"{name}data: {data}\n\n".encode())
    return b"".join(frames)


def _read(data: bytes, *, options: ReadOptions | None = None, cuts: Iterable[int] = ()) -> list[ChatEvent]:
    reader = read_events(options or ReadOptions(content_type=""))
    events: list[ChatEvent] = []
    start = 0
    for cut in [*cuts, len(data)]:
        events += reader.feed(data[start:cut])
        start = cut
    return events + reader.close()


@pytest.fixture
def sse() -> Callable[[Iterable[object]], bytes]:
    """Frames from events."""
    return _sse


@pytest.fixture
def lines() -> Callable[[Iterable[ChatEvent]], list[str]]:
    """Canonical events, one line each."""
    return lambda events: [event_line(event) for event in events]


@pytest.fixture
def read() -> Callable[..., list[ChatEvent]]:
    """All events of an answer without a media type, fed in the pieces that `cuts` makes."""
    return _read
