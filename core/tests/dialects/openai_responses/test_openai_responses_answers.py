"""Answers written and read again: nothing of them is lost, whatever order their blocks come in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from patchbay.canonical import ChatEvent, Finished, Usage
from patchbay.dialects.base import AnswerOptions, ReadOptions
from patchbay.dialects.builder import EventBuilder
from patchbay.dialects.fold import Answer
from patchbay.dialects.openai_responses import read_events, write_events
from patchbay.dialects.openai_responses.recording import ResponseRecorder
from patchbay.dialects.tool_names import ClientTool

_texts = st.text('ab{}"\\\n é😀 ', min_size=1, max_size=6)
_steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["text", "refusal", "thinking", "cite", "part", "opaque"]), _texts),
        st.tuples(st.just("sign"), st.sampled_from(["gAAAAa", "gAAAAb"])),
        st.tuples(st.sampled_from(["call", "custom"]), _texts),
        st.tuples(st.just("input"), _texts),
    ),
    max_size=14,
)
_reasons = st.sampled_from(
    [
        Finished.STOP_REASON_END_TURN,
        Finished.STOP_REASON_MAX_TOKENS,
        Finished.STOP_REASON_CONTENT_FILTER,
        Finished.STOP_REASON_PAUSE_TURN,
    ]
)
_usages = st.builds(
    Usage,
    input_tokens=st.integers(0, 99),
    cache_read_tokens=st.integers(0, 99),
    cache_write_tokens=st.integers(0, 99),
    output_tokens=st.integers(0, 99),
    reasoning_tokens=st.integers(0, 99),
)


class _Build:
    """An answer of blocks in any order, with calls that are open at the same time."""

    def __init__(self) -> None:
        self.builder = EventBuilder()
        self.builder.started(answer_id="resp_1", model="m", created=7)
        self._calls = 0

    def step(self, number: int, kind: str, text: str) -> None:
        builder = self.builder
        match kind:
            case "text":
                builder.text(text, logprobs_json='[{"token":"a"}]' if number % 3 == 0 else None)
            case "refusal":
                builder.refusal(text)
            case "thinking":
                builder.thinking(text)
            case "sign":
                builder.signature(text)
                builder.close_prose()
            case "cite":
                builder.citation("openai_responses", json.dumps({"n": number}, separators=(",", ":")))
            case "part":
                builder.close_prose()
            case "opaque":
                builder.opaque("openai_responses", json.dumps({"type": "x_call", "id": f"x_{number}"}))
            case "call" | "custom":
                tool = ClientTool(f"f{number}", "ns" if number % 2 else "")
                builder.tool_call(number, call_id=f"call_{number}", tool=tool, text_input=kind == "custom")
                self._calls += 1
            case _:
                # A piece for the last call that is open.
                key = next((key for key in range(number, -1, -1) if builder.has_open_tool(key)), None)
                if key is not None:
                    builder.tool_input(key, text)


def build(steps: list[tuple[str, str]], reason: Finished.StopReason.ValueType, usage: Usage) -> list[ChatEvent]:
    made = _Build()
    for number, (kind, text) in enumerate(steps):
        made.step(number, kind, text)
    made.builder.close_blocks()
    made.builder.usage(usage)
    made.builder.finished(Finished(stop_reason=reason))
    return made.builder.take()


def read(data: bytes, cuts: Iterable[int] = ()) -> list[ChatEvent]:
    reader = read_events(ReadOptions(content_type=""))
    events: list[ChatEvent] = []
    start = 0
    for cut in [*cuts, len(data)]:
        events += reader.feed(data[start:cut])
        start = cut
    return events + reader.close()


def seen(events: Iterable[ChatEvent]) -> list[Any]:
    """The blocks of an answer, with all that is in them."""
    answer = Answer()
    answer.add(events)
    assert answer.error is None
    blocks = []
    for block in answer.blocks:
        start = block.start
        text = block.text
        if block.kind == "tool_use" and not start.tool_use.text_input and not text.strip():
            text += "{}"
        citations = [citation.json for citation in block.citations]
        logprobs = [item for piece in block.logprobs for item in json.loads(piece)]
        detail = getattr(start, block.kind).SerializeToString()
        blocks.append((block.kind, detail, text, block.signature, citations, logprobs))
    return [blocks, answer.usage.SerializeToString(deterministic=True), answer.started.id, answer.started.created]


@settings(max_examples=100, deadline=None)
@given(_steps, _reasons, _usages, st.data())
def test_an_answer_survives(
    steps: list[tuple[str, str]], reason: Finished.StopReason.ValueType, usage: Usage, data: st.DataObject
) -> None:
    events = build(steps, reason, usage)
    wanted = seen(events)
    options = (AnswerOptions(stream=streams, model="m") for streams in (True, False))
    stream, body = (write_events(option) for option in options)
    frames = b"".join([stream.feed([event]) for event in events]) + stream.close()
    assert body.feed(events) == b""
    whole = body.close()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(frames)), max_size=4)))
    streamed = read(frames, cuts)
    # A call that was cut off has not been told complete, but nothing that it said is lost.
    is_cut_off = reason in (Finished.STOP_REASON_MAX_TOKENS, Finished.STOP_REASON_CONTENT_FILTER)
    found = seen(streamed)
    if not is_cut_off:
        assert found == wanted
    assert [block[2].removesuffix("{}") for block in found[0]] == [block[2].removesuffix("{}") for block in wanted[0]]
    assert seen(read(whole)) == found
    recorder = ResponseRecorder()
    recorder.feed(frames)
    recorded = recorder.close()
    assert recorded is not None
    assert recorded.json == whole
    finished = [event.finished for event in streamed if event.HasField("finished")]
    assert len(finished) == 1
    if is_cut_off:
        assert finished[0].stop_reason == reason


@settings(max_examples=100, deadline=None)
@given(_steps)
def test_of_deltas_and_what_is_done_either_is_enough(steps: list[tuple[str, str]]) -> None:
    """Servers leave one or the other out."""
    events = build(steps, Finished.STOP_REASON_END_TURN, Usage(output_tokens=1))
    writer = write_events(AnswerOptions(stream=True, model="m"))
    frames = [frame + b"\n\n" for frame in writer.feed(events).split(b"\n\n")[:-1]]
    whole = seen(read(b"".join(frames)))
    without_deltas = [frame for frame in frames if b".delta\n" not in frame]
    assert seen(read(b"".join(without_deltas)))[0] == whole[0]
    without_done = [frame for frame in frames if b".done\n" not in frame]
    # What is only in an item that is done comes with the end, behind what had come in deltas.
    assert by_kind(seen(read(b"".join(without_done)))[0]) == by_kind(whole[0])


def by_kind(blocks: list[Any]) -> dict[tuple[str, bytes], tuple[str, str]]:
    """All of the text and of the signatures of each kind of block, and of each call."""
    joined: dict[tuple[str, bytes], tuple[str, str]] = {}
    for kind, detail, text, signature, *_ in blocks:
        before = joined.get((kind, detail), ("", ""))
        joined[kind, detail] = (before[0] + text, before[1] + (signature or ""))
    return joined
