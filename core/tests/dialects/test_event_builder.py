"""The state machine that builds events: nothing overlaps that may not, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchbay.canonical import ChatEvent
from patchbay.dialects.builder import EventBuilder
from patchbay.dialects.fold import Answer
from patchbay.dialects.tool_names import ClientTool


def kinds(builder: EventBuilder) -> list[str]:
    found = []
    for event in builder.take():
        kind = event.WhichOneof("event") or ""
        found.append(str(event.block_start.WhichOneof("kind")) if kind == "block_start" else kind)
    return found


def test_the_first_call_starts_the_answer_and_no_other() -> None:
    builder = EventBuilder()
    builder.text("a")
    builder.started(answer_id="late")
    assert kinds(builder) == ["started", "text", "text_delta"]


def test_what_is_empty_opens_nothing() -> None:
    builder = EventBuilder()
    builder.text("")
    builder.text("", logprobs_json="[]")
    builder.refusal("")
    builder.thinking("")
    builder.signature("")
    builder.redacted_thinking("")
    builder.close_blocks()
    assert kinds(builder) in ([], ["started"])


def test_prose_closes_prose_and_whole_calls() -> None:
    builder = EventBuilder()
    builder.thinking("t")
    builder.text("a")
    builder.tool_call(0, call_id="c", tool=ClientTool("f"))
    builder.tool_call(1, call_id="d", tool=ClientTool("g"))
    builder.tool_input(0, "{}")
    builder.tool_input(1, "{")
    builder.refusal("r")
    builder.tool_input(1, "}")
    builder.close_blocks()
    assert kinds(builder) == [
        *["started", "thinking", "thinking_delta", "block_stop", "text", "text_delta", "block_stop"],
        *["tool_use", "tool_use", "tool_input_delta", "tool_input_delta", "block_stop"],
        *["refusal", "text_delta", "tool_input_delta", "block_stop", "block_stop"],
    ]


def test_a_new_part_is_a_new_block_and_so_is_thinking_after_a_signature() -> None:
    builder = EventBuilder()
    builder.thinking("a", part=0)
    builder.thinking("b", part=0)
    builder.thinking("c", part=1)
    builder.signature("S", part=1)
    builder.thinking("d")
    thinking = ["thinking", "thinking_delta"]
    assert kinds(builder) == [
        *["started", *thinking, "thinking_delta", "block_stop"],
        *[*thinking, "signature_delta", "block_stop", *thinking],
    ]


def test_a_whole_block_leaves_open_calls_open() -> None:
    builder = EventBuilder()
    builder.tool_call(0, call_id="c", tool=ClientTool("f"))
    builder.redacted_thinking("AA")
    builder.tool_input(0, "{}")
    assert kinds(builder) == ["started", "tool_use", "redacted_thinking", "block_stop", "tool_input_delta"]


def test_input_for_a_closed_call_is_refused() -> None:
    builder = EventBuilder()
    builder.tool_call(0, call_id="c", tool=ClientTool("f"))
    builder.tool_input(0, "{}")
    builder.text("a")
    assert not builder.has_open_tool(0)
    with pytest.raises(KeyError):
        builder.tool_input(0, "{}")


WRAPPED = [
    (['{"inp', 'ut":"a\\n', '"}'], "a\n"),
    (['{"input":""}'], ""),
    ([], ""),
    (['{"input":5}'], '{"input":5}'),
    (['{"input":"a","more":1}'], '{"input":"a","more":1}'),
    (["free ", "text"], "free text"),
    (['{"input":"cut'], '{"input":"cut'),
]


@pytest.mark.parametrize(("pieces", "expected"), WRAPPED)
@pytest.mark.parametrize("closing", ["close_tool", "text", "close_blocks"])
def test_a_wrapped_input_is_text_when_the_call_closes(pieces: list[str], expected: str, closing: str) -> None:
    builder = EventBuilder()
    builder.tool_call(0, call_id="c", tool=ClientTool("f", "ns", is_wrapped=True))
    for piece in pieces:
        builder.tool_input(0, piece)
    assert not any(event.HasField("tool_input_delta") for event in builder.take()[2:])
    match closing:
        case "close_tool":
            builder.close_tool(0)
        case "text":
            builder.text("b")
            builder.close_blocks()
        case _:
            builder.close_blocks()
    found = [event.tool_input_delta.text for event in builder.take() if event.HasField("tool_input_delta")]
    assert found == ([expected] if expected else [])


def test_a_wrapped_tool_that_is_called_with_free_text_all_the_same() -> None:
    builder = EventBuilder()
    builder.tool_call(0, call_id="c", tool=ClientTool("f", is_wrapped=True), text_input=True)
    builder.tool_input(0, '{"input":"a"}')
    builder.text("b")
    builder.tool_input(0, " more")
    builder.close_blocks()
    events = builder.take()
    assert events[1].block_start.tool_use.text_input
    texts = [event.tool_input_delta.text for event in events if event.HasField("tool_input_delta")]
    assert texts == ['{"input":"a"}', " more"]


def test_prose_may_be_closed_and_so_may_a_call() -> None:
    builder = EventBuilder()
    builder.close_prose()
    builder.close_tool(0)
    builder.text("a")
    builder.close_prose()
    builder.text("b")
    builder.tool_call(0, call_id="c", tool=ClientTool("f"))
    builder.close_tool(0)
    builder.close_tool(0)
    assert kinds(builder) == [
        *["started", "text", "text_delta", "block_stop", "text", "text_delta", "block_stop"],
        *["tool_use", "block_stop"],
    ]


Step = tuple[str, int, str]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["text", "thinking", "refusal", "redacted", "call"]), st.integers(0, 1), st.text(max_size=3)
        ),
        max_size=12,
    )
)
def test_nothing_is_lost_and_every_block_opens_and_closes_once(steps: list[Step]) -> None:
    builder = EventBuilder()
    for number, (kind, choice, text) in enumerate(steps):
        _take_step(builder, kind, choice=choice, text=text, number=number)
    builder.close_blocks()
    events = builder.take()
    _check_blocks(events)
    answer = Answer()
    answer.add(events)
    for choice in (0, 1):
        for kind, folded in (("text", "text"), ("thinking", "thinking"), ("refusal", "refusal"), ("call", "tool_use")):
            wanted = "".join(text for k, c, text in steps if (k, c) == (kind, choice))
            found = "".join(b.text for b in answer.blocks if (b.kind, b.start.choice) == (folded, choice))
            assert found == wanted


def _take_step(builder: EventBuilder, kind: str, *, choice: int, text: str, number: int) -> None:
    add: dict[str, Callable[..., None]] = {
        "text": builder.text,
        "thinking": builder.thinking,
        "refusal": builder.refusal,
        "redacted": builder.redacted_thinking,
    }
    if kind == "call":
        builder.tool_call(number, call_id=str(number), tool=ClientTool("f"), choice=choice)
        builder.tool_input(number, text, choice=choice)
    else:
        add[kind](text, choice=choice)


def _check_blocks(events: list[ChatEvent]) -> None:
    opened: set[int] = set()
    closed: set[int] = set()
    for event in events:
        kind = event.WhichOneof("event")
        if kind == "block_start":
            assert event.block_start.index == len(opened)
            opened.add(event.block_start.index)
        elif kind == "block_stop":
            assert event.block_stop.index in opened - closed
            closed.add(event.block_stop.index)
        elif kind != "started":
            assert getattr(event, str(kind)).index in opened - closed
    assert opened == closed
