from patchbay.canonical import (
    BlockStart,
    BlockStop,
    ChatEvent,
    Citation,
    CitationDelta,
    Finished,
    Head,
    OpaqueStart,
    Ping,
    SignatureDelta,
    Started,
    TextDelta,
    ThinkingDelta,
    ToolInputDelta,
    ToolUseStart,
    Usage,
    Warning,
)
from patchbay.dialects.fold import Answer
from patchbay.errors import UPSTREAM, make_error


def start(index: int, kind: str) -> ChatEvent:
    block = BlockStart(index=index)
    getattr(block, kind).SetInParent()
    return ChatEvent(block_start=block)


def test_everything_a_stream_says() -> None:
    answer = Answer()
    answer.add(
        [
            ChatEvent(head=Head(status=200)),
            ChatEvent(warning=Warning(parameter="seed")),
            ChatEvent(started=Started(id="a", model="m")),
            start(0, "thinking"),
            ChatEvent(thinking_delta=ThinkingDelta(index=0, text="Hm")),
            ChatEvent(signature_delta=SignatureDelta(index=0, signature="si")),
            ChatEvent(signature_delta=SignatureDelta(index=0, signature="gn")),
            start(1, "text"),
            ChatEvent(text_delta=TextDelta(index=1, text="Hel", logprobs_json="[1]")),
            ChatEvent(ping=Ping()),
            ChatEvent(block_start=BlockStart(index=2, tool_use=ToolUseStart(id="t", name="f"))),
            ChatEvent(tool_input_delta=ToolInputDelta(index=2, text='{"a"')),
            ChatEvent(text_delta=TextDelta(index=1, text="lo")),
            ChatEvent(citation_delta=CitationDelta(index=1, dialect="d", json="{}")),
            ChatEvent(tool_input_delta=ToolInputDelta(index=2, text=":1}")),
            ChatEvent(block_start=BlockStart(index=3, opaque=OpaqueStart(dialect="d", json="{}"))),
            ChatEvent(block_stop=BlockStop(index=3)),
        ]
    )
    answer.add(
        [
            ChatEvent(usage=Usage(input_tokens=5, output_tokens=1)),
            ChatEvent(usage=Usage(output_tokens=9)),
            ChatEvent(finished=Finished(stop_reason=Finished.STOP_REASON_TOOL_USE)),
            ChatEvent(finished=Finished(stop_reason=Finished.STOP_REASON_END_TURN, choice=1)),
        ]
    )
    assert answer.started == Started(id="a", model="m")
    assert [(block.kind, block.text, block.signature, block.logprobs) for block in answer.blocks] == [
        ("thinking", "Hm", "sign", []),
        ("text", "Hello", None, ["[1]"]),
        ("tool_use", '{"a":1}', None, []),
        ("opaque", "", None, []),
    ]
    assert answer.blocks[1].citations == [Citation(dialect="d", json="{}")]
    assert answer.usage == Usage(input_tokens=5, output_tokens=9)
    assert answer.finished[0].stop_reason == Finished.STOP_REASON_TOOL_USE
    assert answer.finished[1].stop_reason == Finished.STOP_REASON_END_TURN
    assert answer.error is None


def test_deltas_of_a_block_that_was_never_started_are_kept() -> None:
    answer = Answer()
    answer.add(
        [
            ChatEvent(text_delta=TextDelta(index=0, text="a")),
            ChatEvent(thinking_delta=ThinkingDelta(index=1, text="b")),
            ChatEvent(tool_input_delta=ToolInputDelta(index=2, text="c")),
            ChatEvent(text_delta=TextDelta(index=0, text="d")),
        ]
    )
    assert [(block.kind, block.text) for block in answer.blocks] == [
        ("text", "ad"),
        ("thinking", "b"),
        ("tool_use", "c"),
    ]


def test_an_index_used_again_is_a_new_block() -> None:
    answer = Answer()
    for text in ("a", "b"):
        answer.add(
            [
                start(0, "text"),
                ChatEvent(text_delta=TextDelta(index=0, text=text)),
                ChatEvent(block_stop=BlockStop(index=0)),
            ]
        )
    assert [block.text for block in answer.blocks] == ["a", "b"]


def test_nothing_counts_after_an_error() -> None:
    answer = Answer()
    error = make_error(UPSTREAM, "broken")
    answer.add([start(0, "text"), ChatEvent(error=error), ChatEvent(text_delta=TextDelta(index=0, text="a"))])
    answer.add([ChatEvent(finished=Finished())])
    assert answer.error == error
    assert answer.blocks[0].text == ""
    assert answer.finished == {}
