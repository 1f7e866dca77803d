from hypothesis import given
from hypothesis import strategies as st

from patchbay.canonical import (
    BlockStart,
    BlockStop,
    ChatEvent,
    Ping,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
    ToolInputDelta,
    ToolUseStart,
)
from patchbay.dialects.sequencer import Sequencer, Step


def start(index: int, kind: str, choice: int = 0) -> ChatEvent:
    block = BlockStart(index=index, choice=choice)
    if kind == "tool_use":
        block.tool_use.CopyFrom(ToolUseStart(id=f"t{index}", name="f"))
    else:
        getattr(block, kind).SetInParent()
    return ChatEvent(block_start=block)


def delta(index: int, kind: str, text: str) -> ChatEvent:
    match kind:
        case "tool_use":
            return ChatEvent(tool_input_delta=ToolInputDelta(index=index, text=text))
        case "thinking":
            return ChatEvent(thinking_delta=ThinkingDelta(index=index, text=text))
        case _:
            return ChatEvent(text_delta=TextDelta(index=index, text=text))


def stop(index: int) -> ChatEvent:
    return ChatEvent(block_stop=BlockStop(index=index))


def run(events: list[ChatEvent]) -> list[str]:
    """The steps as short words: `0+text`, `0:Hello`, `0-`."""
    sequencer = Sequencer()
    steps = [step for event in events for step in sequencer.push(event)]
    return [word(step) for step in steps + sequencer.finish()]


def word(step: Step) -> str:
    event = step.event
    match event.WhichOneof("event"):
        case "block_start":
            return f"{step.position}+{event.block_start.WhichOneof('kind')}"
        case "block_stop":
            return f"{step.position}-"
        case "text_delta":
            return f"{step.position}:{event.text_delta.text}"
        case "thinking_delta":
            return f"{step.position}:{event.thinking_delta.text}"
        case "signature_delta":
            return f"{step.position}~{event.signature_delta.signature}"
        case _:
            return f"{step.position}:{event.tool_input_delta.text}"


def test_blocks_in_a_row() -> None:
    events = [
        start(7, "text"),
        delta(7, "text", "a"),
        stop(7),
        start(3, "tool_use"),
        delta(3, "tool_use", "{}"),
        stop(3),
    ]
    assert run(events) == ["0+text", "0:a", "0-", "1+tool_use", "1:{}", "1-"]


def test_interleaved_tool_calls() -> None:
    events = [
        start(0, "tool_use"),
        start(1, "tool_use"),
        delta(0, "tool_use", "a"),
        delta(1, "tool_use", "b"),
        delta(0, "tool_use", "c"),
        delta(1, "tool_use", "d"),
        stop(1),
        stop(0),
    ]
    assert run(events) == ["0+tool_use", "0:a", "0:c", "0-", "1+tool_use", "1:b", "1:d", "1-"]


def test_steps_come_as_soon_as_they_can() -> None:
    sequencer = Sequencer()
    assert sequencer.push(start(0, "text")) == []
    assert [word(step) for step in sequencer.push(delta(0, "text", "a"))] == ["0+text", "0:a"]
    assert sequencer.push(start(1, "tool_use")) == []
    assert [word(step) for step in sequencer.push(delta(0, "text", "b"))] == ["0:b"]
    assert [word(step) for step in sequencer.push(stop(0))] == ["0-", "1+tool_use"]


def test_a_block_that_says_nothing_is_left_out_and_holds_up_no_other() -> None:
    events = [start(0, "text"), delta(0, "text", ""), start(1, "tool_use"), start(2, "thinking"), stop(2), stop(0)]
    assert run(events) == ["0+tool_use", "0-"]


def test_a_signature_alone_is_content() -> None:
    events = [start(0, "thinking"), ChatEvent(signature_delta=SignatureDelta(index=0, signature="s")), stop(0)]
    assert run(events) == ["0+thinking", "0~s", "0-"]


def test_a_delta_of_another_kind_opens_a_block_of_its_own() -> None:
    events = [start(0, "text"), delta(0, "text", "a"), delta(0, "thinking", "b"), delta(5, "text", "c")]
    assert run(events) == ["0+text", "0:a", "0-", "1+thinking", "1:b", "1-", "2+text", "2:c", "2-"]


def test_an_index_used_again() -> None:
    events = [
        start(1, "tool_use"),
        start(0, "tool_use"),
        delta(0, "tool_use", "a"),
        start(0, "text"),
        delta(0, "text", "b"),
    ]
    assert run(events) == ["0+tool_use", "0-", "1+tool_use", "1:a", "1-", "2+text", "2:b", "2-"]


def test_other_choices_and_other_events() -> None:
    events = [start(0, "text", choice=1), delta(0, "text", "a"), stop(0), ChatEvent(ping=Ping()), stop(9)]
    assert run(events) == []


@given(
    kinds=st.lists(st.sampled_from(["text", "thinking", "tool_use", "refusal"]), min_size=1, max_size=5),
    order=st.lists(st.tuples(st.integers(0, 4), st.text("ab", max_size=2)), max_size=30),
    stops=st.sets(st.integers(0, 4)),
)
def test_no_content_lost_and_no_overlap(kinds: list[str], order: list[tuple[int, str]], stops: set[int]) -> None:
    events = [start(index, kind) for index, kind in enumerate(kinds)]
    sent = ["" for _ in kinds]
    for index, text in order:
        if index < len(kinds):
            events.append(delta(index, kinds[index], text))
            sent[index] += text
    events += [stop(index) for index in sorted(stops)]
    words = run(events)
    opened = -1
    received: dict[int, str] = {}
    for step in words:
        position = int(step[0])
        if step[1] == "+":
            assert opened == -1
            assert position == len(received)
            opened = position
            received[position] = ""
        elif step[1] == "-":
            assert opened == position
            opened = -1
        else:
            assert opened == position
            assert step[2:]
            received[position] += step[2:]
    assert opened == -1
    expected = [text for text, kind in zip(sent, kinds, strict=True) if text or kind == "tool_use"]
    assert sorted(received.values()) == sorted(expected)
