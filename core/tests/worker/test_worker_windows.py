from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchbay.canonical import (
    BlockStart,
    BlockStop,
    ChatEvent,
    Error,
    Finished,
    Head,
    Native,
    Ping,
    Started,
    TextDelta,
    TextStart,
    ThinkingDelta,
    ToolInputDelta,
    ToolUseStart,
    Usage,
)
from patchbay.testing import virtual_time
from patchbay.worker.windows import windows

WINDOW = 0.015
# Pieces that may wait for a slow reader.
MOST_AHEAD = 16


def text(number: int) -> ChatEvent:
    return ChatEvent(text_delta=TextDelta(text=str(number)))


URGENT = {
    "tool call": ChatEvent(block_start=BlockStart(index=1, tool_use=ToolUseStart(id="t", name="n"))),
    "finished": ChatEvent(finished=Finished()),
    "error": ChatEvent(error=Error(message="broken")),
}
CONTENT = {
    "text": ChatEvent(text_delta=TextDelta(text="x")),
    "thinking": ChatEvent(thinking_delta=ThinkingDelta(text="x")),
    "tool input": ChatEvent(tool_input_delta=ToolInputDelta(text="x")),
    "native": ChatEvent(native=Native(data=b"x")),
}
PATIENT = {
    "head": ChatEvent(head=Head(status=200)),
    "started": ChatEvent(started=Started(id="a")),
    "usage": ChatEvent(usage=Usage(input_tokens=1)),
    "ping": ChatEvent(ping=Ping()),
    "prose begins": ChatEvent(block_start=BlockStart(index=1, text=TextStart())),
    "prose ends": ChatEvent(block_stop=BlockStop(index=1)),
    "preamble": ChatEvent(native=Native(data=b"x", preamble=True)),
}


@dataclass
class Source:
    """A provider's generator: pieces at their times, then an end of some kind."""

    schedule: Sequence[tuple[float, list[ChatEvent]]]
    failure: Exception | None = None
    # Once the schedule is played: hang instead of ending.
    hangs: bool = False
    # How long the generator takes to clean up when it is cancelled.
    cleanup_seconds: float = 0.0
    sent: list[tuple[float, ChatEvent]] = field(default_factory=list)
    pieces: int = 0
    closed_at: float | None = None

    async def events(self) -> AsyncGenerator[list[ChatEvent], None]:
        loop = asyncio.get_running_loop()
        try:
            for delay, events in self.schedule:
                if delay:
                    await virtual_time.pass_time(delay)
                self.sent += [(loop.time(), event) for event in events]
                self.pieces += 1
                yield events
            if self.hangs:
                await asyncio.Event().wait()
            if self.failure is not None:
                raise self.failure
        finally:
            if self.cleanup_seconds:
                await virtual_time.pass_time(self.cleanup_seconds)
            self.closed_at = loop.time()


async def collect(source: Source) -> list[tuple[float, list[ChatEvent]]]:
    loop = asyncio.get_running_loop()
    async with aclosing(windows(source.events(), WINDOW)) as stream:
        return [(loop.time(), list(window.events)) async for window in stream]


def play(*schedule: tuple[float, list[ChatEvent]]) -> list[tuple[float, list[ChatEvent]]]:
    return virtual_time.run(collect(Source(schedule)))


@pytest.mark.parametrize("first", CONTENT.values(), ids=CONTENT.keys())
def test_the_first_content_goes_at_once_with_all_before_it(first: ChatEvent) -> None:
    head, started = PATIENT["head"], PATIENT["started"]
    got = play((0, [head, started]), (0.005, [first]), (0.001, [text(2)]), (1, [text(3)]))
    assert got[0] == (0, [head, started])
    assert got[1] == (0.005, [first])


@pytest.mark.parametrize("urgent", URGENT.values(), ids=URGENT.keys())
def test_what_somebody_waits_for_goes_at_once(urgent: ChatEvent) -> None:
    got = play((0, [text(1)]), (0.002, [text(2)]), (0.002, [urgent]), (0.002, [text(3)]), (1, [text(4)]))
    assert got[1] == (0.004, [text(2), urgent])


@pytest.mark.parametrize("patient", PATIENT.values(), ids=PATIENT.keys())
def test_what_nobody_waits_for_waits_for_its_window(patient: ChatEvent) -> None:
    got = play((0, [text(1)]), (0.002, [patient]), (0.002, [patient]), (1, [text(3)]))
    assert [events for _, events in got] == [[text(1)], [patient, patient], [text(3)]]
    assert got[1][0] == pytest.approx(WINDOW)


def test_a_tool_call_is_sent_the_moment_it_is_complete() -> None:
    call, stop = URGENT["tool call"], ChatEvent(block_stop=BlockStop(index=1))
    piece = ChatEvent(tool_input_delta=ToolInputDelta(index=1, text="{}"))
    got = play((0, [call]), (0.002, [piece]), (0.002, [stop]), (1, [text(1)]))
    assert got[1] == (0.004, [piece, stop])


def test_after_a_pause_an_event_does_not_wait() -> None:
    assert play((0, [text(1)]), (1, [text(2)]), (1, [text(3)])) == [(0, [text(1)]), (1, [text(2)]), (2, [text(3)])]


def test_a_token_a_millisecond_is_a_message_a_window() -> None:
    got = play(*((0.001, [text(number)]) for number in range(1000)))
    assert [event for _, events in got for event in events] == [text(number) for number in range(1000)]
    assert len(got) <= 1.0 / WINDOW + 2


def test_empty_pieces_are_nothing() -> None:
    assert play(*[(0.0, [])] * 40, (0, [text(1)])) == [(0, [text(1)])]


def test_a_source_without_events_is_a_stream_without_windows() -> None:
    assert play() == []
    assert play((0, [])) == []


def test_an_error_of_the_source_comes_after_its_events() -> None:
    got: list[ChatEvent] = []

    async def work() -> None:
        async for window in windows(Source([(0, [text(1)]), (0.001, [text(2)])], ValueError("bug")).events(), 1.0):
            got.extend(window.events)

    with pytest.raises(ValueError, match="bug"):
        virtual_time.run(work())
    assert got == [text(1), text(2)]


def test_a_reader_that_stops_stops_the_source() -> None:
    async def work() -> None:
        source = Source([(0.0, [text(number)]) for number in range(1000)])
        async with aclosing(windows(source.events(), WINDOW)) as stream:
            got = list((await anext(stream)).events)
            assert len(got) <= MOST_AHEAD
            await virtual_time.pass_time(60)
            assert source.pieces <= len(got) + MOST_AHEAD
            async for window in stream:
                assert len(window.events) <= MOST_AHEAD
                got += window.events
        assert got == [text(number) for number in range(1000)]

    virtual_time.run(work())


@pytest.mark.parametrize("cleanup_seconds", [0.0, 0.5])
@pytest.mark.parametrize("state", ["hanging", "held back", "between pieces"])
def test_closing_it_closes_the_source(state: str, cleanup_seconds: float) -> None:
    async def work() -> None:
        schedule = {
            "hanging": [(0.0, [text(1)])],
            "held back": [(0.0, [text(number)]) for number in range(100)],
            "between pieces": [(0.0, [text(1)]), (5.0, [text(2)])],
        }[state]
        source = Source(schedule, hangs=True, cleanup_seconds=cleanup_seconds)
        stream = windows(source.events(), WINDOW)
        await anext(stream)
        await virtual_time.pass_time(1)
        assert source.closed_at is None
        await stream.aclose()
        assert source.closed_at == 1 + cleanup_seconds
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual_time.run(work())


def test_cancelling_its_reader_closes_the_source() -> None:
    async def work() -> None:
        source = Source([(0.0, [text(1)])], hangs=True)

        async def read() -> None:
            async with aclosing(windows(source.events(), WINDOW)) as stream:
                async for _ in stream:
                    pass

        reader = asyncio.create_task(read())
        await virtual_time.pass_time(1)
        reader.cancel()
        await asyncio.wait([reader])
        assert reader.cancelled()
        assert source.closed_at == 1
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual_time.run(work())


def test_closing_it_before_its_first_window_leaves_nothing() -> None:
    async def work() -> None:
        source = Source([(5.0, [text(1)])])
        stream = windows(source.events(), WINDOW)
        task = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert source.closed_at in (None, 0)

    virtual_time.run(work())


pieces = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.001, 0.004, 0.014, 0.015, 0.016, 0.1]),
        st.lists(st.sampled_from([*CONTENT.values(), *PATIENT.values(), *URGENT.values()]), max_size=3),
    ),
    max_size=60,
)
reading = st.lists(st.sampled_from([0.0, 0.0, 0.001, 0.02, 0.5]), max_size=20)


@given(schedule=pieces, pauses=reading, fails=st.booleans())
def test_whatever_the_timing_nothing_is_lost_or_late(
    schedule: list[tuple[float, list[ChatEvent]]], pauses: list[float], fails: bool
) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        source = Source(schedule, failure=ValueError("bug") if fails else None)
        got: list[ChatEvent] = []
        left = list(pauses)
        asked_at = 0.0
        try:
            async for window in windows(source.events(), WINDOW):
                now = loop.time()
                assert window.events
                first = len(got)
                got += window.events
                for sent_at, event in source.sent[first : len(got)]:
                    # Never later than its window, unless the reader was.
                    assert now - max(sent_at, asked_at) <= WINDOW + 1e-9
                    if event in URGENT.values():
                        assert now == max(sent_at, asked_at)
                assert len(window.events) <= 3 * MOST_AHEAD
                assert len(source.sent) - len(got) <= 3 * MOST_AHEAD
                await virtual_time.pass_time(left.pop() if left else 0)
                asked_at = loop.time()
        except ValueError:
            assert fails
        else:
            assert not fails
        assert got == [event for _, events in schedule for event in events]
        assert source.closed_at is not None

    virtual_time.run(work())
