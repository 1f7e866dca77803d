import json
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchbay.canonical import BlockStart, ChatEvent, Finished, Native, OpaqueStart, ToolUseStart, Usage
from patchbay.dialects.anthropic import DIALECT
from patchbay.dialects.base import ReadOptions
from patchbay.dialects.fold import Answer
from patchbay.dialects.tool_names import ClientTool
from patchbay.errors import OVERLOADED, UPSTREAM


class Recording(Protocol):
    name: str
    stream: bytes
    body: bytes
    kinds: tuple[str, ...]


def read(
    *pieces: bytes, content_type: str = "text/event-stream; charset=utf-8", native: bool = False
) -> list[ChatEvent]:
    reader = DIALECT.read_events(ReadOptions(content_type=content_type, native=native))
    events = [event for piece in pieces for event in reader.feed(piece)]
    return events + reader.close()


def each_cut(data: bytes) -> list[tuple[bytes, ...]]:
    """The data in two pieces, cut at every byte, and byte by byte."""
    cuts: list[tuple[bytes, ...]] = [(data[:at], data[at:]) for at in range(len(data) + 1)]
    return [*cuts, tuple(data[at : at + 1] for at in range(len(data)))]


def frame(**event: object) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def said(events: list[ChatEvent]) -> list[object]:
    """What the answer comes down to, however it came."""
    answer = Answer()
    answer.add(events)
    return [
        answer.started,
        [(block.start, block.text, block.signature, block.citations) for block in answer.blocks],
        answer.usage,
        answer.finished,
        answer.error,
    ]


START = frame(
    type="message_start",
    message={
        "id": "msg_1",
        "type": "message",
        "model": "m",
        "content": [],
        "usage": {"input_tokens": 3, "output_tokens": 1},
    },
)
TEXT = frame(type="content_block_start", index=0, content_block={"type": "text", "text": ""})
HELLO = frame(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"})
STOP_BLOCK = frame(type="content_block_stop", index=0)
END = frame(type="message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 7})
STOP = frame(type="message_stop")


def test_every_cut_gives_the_same_events(recording: Recording) -> None:
    expected = read(recording.stream)
    assert expected[-1].WhichOneof("event") == "finished"
    for pieces in each_cut(recording.stream):
        assert read(*pieces) == expected
    for ending in (b"\r\n", b"\r"):
        other = recording.stream.replace(b"\n", ending)
        assert read(other) == expected
        assert read(*each_cut(other)[-1]) == expected


def test_stream_and_body_say_the_same(recording: Recording) -> None:
    streamed = said([event for event in read(recording.stream) if not event.HasField("ping")])
    whole = said(read(recording.body, content_type="application/json"))
    if recording.name in ("web_search", "pause"):
        # A server tool's input is in the block itself there, and in deltas here.
        streamed[1], whole[1] = None, None
    # The extension texts are carried as they were written, and the body is indented.
    assert _compact(streamed) == _compact(whole)


def _compact(values: list[object]) -> str:
    return str(values).replace("\\n", "").replace(" ", "")


def test_kinds(recording: Recording) -> None:
    kinds = [event.block_start.WhichOneof("kind") for event in read(recording.stream) if event.HasField("block_start")]
    opaque = {kind for kind in recording.kinds if kind not in ("text", "thinking", "redacted_thinking", "tool_use")}
    assert kinds == ["opaque" if kind in opaque else kind for kind in recording.kinds]


def test_text() -> None:
    events = read(START + TEXT + HELLO + STOP_BLOCK + END + STOP)
    start = BlockStart()
    start.text.SetInParent()
    assert [event.WhichOneof("event") for event in events] == [
        "started",
        "usage",
        "block_start",
        "text_delta",
        "block_stop",
        "usage",
        "finished",
    ]
    assert (events[0].started.id, events[0].started.model) == ("msg_1", "m")
    assert events[1].usage == Usage(input_tokens=3, output_tokens=1)
    assert events[2].block_start == start
    assert events[3].text_delta.text == "Hello"
    assert events[5].usage == Usage(output_tokens=7)
    assert events[6].finished == Finished(stop_reason=Finished.STOP_REASON_END_TURN)


def test_usage_of_every_kind() -> None:
    usage = {
        "input_tokens": 3,
        "cache_creation_input_tokens": 700,
        "cache_read_input_tokens": 2000,
        "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 200},
        "output_tokens": 1,
        "service_tier": "standard",
        "server_tool_use": None,
    }
    late = {
        "output_tokens": 9,
        "output_tokens_details": {"thinking_tokens": 4},
        "server_tool_use": {"web_search_requests": 1},
    }
    start = frame(type="message_start", message={"id": "m", "usage": usage})
    delta = frame(type="message_delta", delta={"stop_reason": "end_turn"}, usage=late)
    answer = Answer()
    answer.add(read(start + delta + STOP))
    assert answer.usage == Usage(
        input_tokens=3,
        cache_read_tokens=2000,
        cache_write_tokens=700,
        cache_write_1h_tokens=200,
        output_tokens=9,
        reasoning_tokens=4,
        extensions={"anthropic": '{"service_tier":"standard","server_tool_use":{"web_search_requests": 1}}'},
    )


@pytest.mark.parametrize("usage", ["none", 7, [1], {"input_tokens": "3", "output_tokens": -1, "cache_creation": 5}])
def test_unreadable_usage_fails_nothing(usage: object) -> None:
    end = frame(type="message_delta", delta={"stop_reason": "end_turn"}, usage=usage)
    assert read(START + end + STOP)[-1].HasField("finished")


def test_complete_input_at_the_start_of_a_tool_call() -> None:
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
    start = frame(type="content_block_start", index=0, content_block=block)
    end = frame(type="message_delta", delta={"stop_reason": "tool_use"})
    answer = Answer()
    answer.add(read(START + start + STOP_BLOCK + end + STOP))
    assert [(block.kind, block.text) for block in answer.blocks] == [("tool_use", '{"a": 1}')]
    # Where deltas bring it after all, it does not come twice.
    delta = frame(type="content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": '{"b":2}'})
    answer = Answer()
    answer.add(read(START + start + delta + STOP_BLOCK + end + STOP))
    assert [block.text for block in answer.blocks] == ['{"b":2}']


WRAPPED = {"exec": ClientTool("exec", "functions", is_wrapped=True)}


@pytest.mark.parametrize(
    ("at_start", "pieces", "expected"),
    [
        ({}, ['{"inp', 'ut": "a\\n', '"}'], "a\n"),
        ({"input": "a"}, [], "a"),
        ({}, ['{"input":5}'], '{"input":5}'),
        ({}, ['{"input":"cut'], '{"input":"cut'),
        ({}, [], ""),
    ],
)
def test_the_input_of_a_wrapped_tool_is_text(at_start: object, pieces: list[str], expected: str) -> None:
    block = {"type": "tool_use", "id": "t", "name": "exec", "input": at_start}
    deltas = [
        frame(type="content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": piece})
        for piece in pieces
    ]
    start = frame(type="content_block_start", index=0, content_block=block)
    end = frame(type="message_delta", delta={"stop_reason": "tool_use"})
    reader = DIALECT.read_events(ReadOptions(names=WRAPPED))
    answer = Answer()
    answer.add(reader.feed(START + start + b"".join(deltas) + STOP_BLOCK + end + STOP) + reader.close())
    (found,) = answer.blocks
    assert found.start.tool_use == ToolUseStart(id="t", name="exec", namespace="functions", text_input=True)
    assert found.text == expected


def test_content_at_the_start_of_a_block() -> None:
    blocks = [
        {"type": "text", "text": "Hi", "citations": [{"type": "char_location"}]},
        {"type": "thinking", "thinking": "Hm", "signature": "s"},
    ]
    body = b"".join(
        frame(type="content_block_start", index=index, content_block=block) for index, block in enumerate(blocks)
    )
    answer = Answer()
    answer.add(read(START + body + END + STOP))
    assert [(block.kind, block.text, block.signature, len(block.citations)) for block in answer.blocks] == [
        ("text", "Hi", None, 1),
        ("thinking", "Hm", "s", 0),
    ]


def test_delta_of_another_kind_than_its_block_is_not_lost() -> None:
    thought = frame(type="content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Hm"})
    answer = Answer()
    answer.add(read(START + TEXT + thought + HELLO + END + STOP))
    assert [(block.kind, block.text) for block in answer.blocks] == [
        ("text", ""),
        ("thinking", "Hm"),
        ("text", "Hello"),
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("end_turn", Finished.STOP_REASON_END_TURN),
        ("max_tokens", Finished.STOP_REASON_MAX_TOKENS),
        ("stop_sequence", Finished.STOP_REASON_STOP_SEQUENCE),
        ("pause_turn", Finished.STOP_REASON_PAUSE_TURN),
        ("refusal", Finished.STOP_REASON_REFUSAL),
        ("model_context_window_exceeded", Finished.STOP_REASON_CONTEXT_WINDOW),
        (None, Finished.STOP_REASON_END_TURN),
        ("brand_new", Finished.STOP_REASON_OTHER),
    ],
)
def test_stop_reasons(name: str | None, reason: Finished.StopReason.ValueType) -> None:
    end = frame(type="message_delta", delta={"stop_reason": name})
    finished = read(START + TEXT + HELLO + STOP_BLOCK + end + STOP)[-1].finished
    assert finished.stop_reason == reason
    assert finished.raw == ("brand_new" if name == "brand_new" else "")


def test_last_reason_and_usage_count() -> None:
    first = frame(
        type="message_delta", delta={"stop_reason": "max_tokens"}, usage={"input_tokens": 5, "output_tokens": 1}
    )
    second = frame(type="message_delta", delta={"stop_reason": None}, usage={"output_tokens": 2})
    answer = Answer()
    answer.add(read(START + first + second + STOP))
    assert answer.finished[0].stop_reason == Finished.STOP_REASON_MAX_TOKENS
    assert answer.usage == Usage(input_tokens=5, output_tokens=2)


def test_unknown_events_and_blocks() -> None:
    unknown = frame(type="weather_report", delta="rain", index="seven") + b"data: [DONE]\n\n: comment\n\n"
    block = frame(type="content_block_start", index=0, content_block={"type": "hologram", "shape": [1.50]})
    events = read(START + unknown + block + STOP_BLOCK + END + unknown + STOP)
    starts = [event.block_start for event in events if event.HasField("block_start")]
    assert starts == [BlockStart(opaque=OpaqueStart(dialect="anthropic", json='{"type":"hologram","shape":[1.5]}'))]
    assert events[-1].HasField("finished")


def test_carried_json_keeps_its_text() -> None:
    block = b'{"type": "hologram", "shape": [1.50, 1e3]}'
    start = (
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":' + block + b"}\n\n"
    )
    opaque = next(
        event.block_start.opaque
        for event in read(START + start + STOP_BLOCK + END + STOP)
        if event.HasField("block_start")
    )
    assert opaque.json == '{"type":"hologram","shape":[1.50, 1e3]}'


def test_ping() -> None:
    assert [event.WhichOneof("event") for event in read(START + frame(type="ping") + END + STOP)].count("ping") == 1


@pytest.mark.parametrize("native", [False, True])
def test_error_event(native: bool) -> None:
    error = frame(type="error", error={"type": "overloaded_error", "message": "Overloaded"}, request_id="req_1")
    events = read(START + TEXT + HELLO + error + HELLO + STOP, native=native)
    assert events[-1].error.code == OVERLOADED
    assert events[-1].error.message == "Overloaded"
    assert events[-1].error.retryable
    assert events[-1].error.http_status == 529
    assert json.loads(events[-1].error.native_body)["request_id"] == "req_1"
    assert not any(event.HasField("finished") for event in events)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    "stream",
    [b"", START, START + TEXT + HELLO, START + TEXT + HELLO + STOP_BLOCK + END, START + STOP[:-20], START + STOP[:-4]],
)
def test_cut_off(stream: bytes, native: bool) -> None:
    events = read(stream, native=native)
    assert [event.WhichOneof("event") for event in events].count("error") == 1
    assert events[-1].error.code == UPSTREAM
    assert events[-1].error.message == "The provider's answer ended before its end."
    assert events[-1].error.retryable


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("missing", [1, 2])
def test_last_event_without_its_empty_line(missing: int, native: bool) -> None:
    stream = START + END + STOP
    assert read(stream[:-missing], native=native)[-1].HasField("finished")


@pytest.mark.parametrize(
    "data",
    [
        b"data: {oops\n\n",
        b"data: \xff\n\n",
        b'data: {"type":"content_block_delta","delta":7}\n\n',
        b"data: " + b"[" * 9999 + b"\n\n",
    ],
)
def test_unreadable_event(data: bytes) -> None:
    events = read(START + data + END + STOP)
    assert events[-1].error.message == "The provider sent an answer that cannot be read."
    assert [event.WhichOneof("event") for event in events] == ["started", "usage", "error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"<html>", b'{"content":7}'])
def test_unreadable_body(body: bytes) -> None:
    events = read(body, content_type="application/json")
    assert [event.WhichOneof("event") for event in events if not event.HasField("started")] == ["error"]


def test_error_in_a_body_of_success() -> None:
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    for native in (False, True):
        for pieces in each_cut(body):
            events = read(*pieces, content_type="application/json", native=native)
            assert [event.error.code for event in events] == [OVERLOADED]


def test_stop_for_a_tool_that_never_came() -> None:
    end = frame(type="message_delta", delta={"stop_reason": "tool_use"})
    events = read(START + TEXT + HELLO + STOP_BLOCK + end + STOP)
    assert events[-1].error.code == UPSTREAM
    assert events[-1].error.message == "The provider announced a tool call but sent none."


def test_native_stream_is_untouched_at_every_cut(recording: Recording) -> None:
    for stream in (recording.stream, recording.stream.replace(b"\n", b"\r\n"), recording.stream + b": trailer\n"):
        whole = read(stream, native=True)
        for pieces in each_cut(stream):
            events = read(*pieces, native=True)
            assert b"".join(event.native.data for event in events) == stream
            assert said(events)[2:] == said(whole)[2:]
            preamble = [event.native.preamble for event in events if event.HasField("native")]
            assert preamble == sorted(preamble, reverse=True)


def test_native_stream_knows_what_the_canonical_one_knows(recording: Recording) -> None:
    native, canonical = Answer(), Answer()
    native.add(read(recording.stream, native=True))
    canonical.add(read(recording.stream))
    assert native.usage == canonical.usage
    assert native.finished[0].stop_reason == canonical.finished[0].stop_reason
    assert native.finished[0].stop_sequence == canonical.finished[0].stop_sequence


def test_native_pieces() -> None:
    reader = DIALECT.read_events(ReadOptions(native=True))
    ping = frame(type="ping")
    assert reader.feed(START[:30]) == []
    assert reader.feed(START[30:] + ping[:5]) == [
        ChatEvent(native=Native(data=START, preamble=True)),
        ChatEvent(usage=Usage(input_tokens=3, output_tokens=1)),
    ]
    assert reader.feed(ping[5:]) == [ChatEvent(native=Native(data=ping, preamble=True))]
    assert reader.feed(TEXT + HELLO) == [ChatEvent(native=Native(data=TEXT + HELLO))]
    assert reader.feed(HELLO) == [ChatEvent(native=Native(data=HELLO))]
    assert reader.feed(END + STOP) == [
        ChatEvent(native=Native(data=END + STOP)),
        ChatEvent(usage=Usage(output_tokens=7)),
        ChatEvent(finished=Finished(stop_reason=Finished.STOP_REASON_END_TURN)),
    ]
    assert reader.close() == []


@pytest.mark.parametrize(
    ("block", "preamble"),
    [
        ({"type": "text", "text": ""}, True),
        ({"type": "thinking", "thinking": "", "signature": ""}, True),
        ({"type": "tool_use", "id": "t", "name": "f", "input": {}}, False),
        ({"type": "redacted_thinking", "data": "x"}, False),
    ],
)
def test_native_blocks_that_have_only_begun(block: object, preamble: bool) -> None:
    reader = DIALECT.read_events(ReadOptions(native=True))
    start = frame(type="content_block_start", index=0, content_block=block)
    reader.feed(START)
    assert reader.feed(start) == [ChatEvent(native=Native(data=start, preamble=preamble))]
    assert reader.feed(HELLO) == [ChatEvent(native=Native(data=HELLO))]


def test_native_error_is_not_passed_on() -> None:
    error = frame(type="error", error={"type": "rate_limit_error", "message": "Slow down"})
    for stream, passed in (
        (error, b""),
        (START + error + HELLO, START),
        (START + TEXT + HELLO + error, START + TEXT + HELLO),
    ):
        for pieces in each_cut(stream):
            events = read(*pieces, native=True)
            assert b"".join(event.native.data for event in events) == passed
            assert events[-1].error.message == "Slow down"


def test_an_error_after_the_end_of_a_native_stream_passes_untouched() -> None:
    stream = START + END + STOP + frame(type="error", error={"type": "api_error", "message": "Oh"})
    events = read(stream, native=True)
    assert b"".join(event.native.data for event in events) == stream
    assert [event.WhichOneof("event") for event in events if not event.HasField("native")][-1] == "finished"


def test_native_text_that_looks_like_an_event() -> None:
    text = 'event: error\n"type":"error" {"error" event: message_stop "type":"message_stop"'
    delta = frame(type="content_block_delta", index=0, delta={"type": "text_delta", "text": text})
    stream = START + TEXT + delta + STOP_BLOCK + END + STOP
    events = read(stream, native=True)
    assert b"".join(event.native.data for event in events) == stream
    assert events[-1].HasField("finished")


def test_native_body(recording: Recording) -> None:
    canonical = Answer()
    canonical.add(read(recording.body, content_type="application/json"))
    for pieces in ((recording.body,), each_cut(recording.body)[-1], each_cut(recording.body)[100]):
        events = read(*pieces, content_type="application/json", native=True)
        native = Answer()
        native.add(events)
        assert b"".join(event.native.data for event in events) == recording.body
        assert native.usage == canonical.usage
        assert native.finished[0].stop_reason == canonical.finished[0].stop_reason


def test_native_body_cut_off(recording: Recording) -> None:
    assert read(recording.body[:-9], content_type="application/json", native=True)[-1].error.code == UPSTREAM


def test_huge_native_body_passes_without_usage() -> None:
    body = b'{"type":"message","content":"' + b"x" * (9 * 1024 * 1024) + b'"}'
    events = read(body[:70], body[70:], content_type="application/json", native=True)
    assert b"".join(event.native.data for event in events) == body
    assert events[-1] == ChatEvent(finished=Finished())


_ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "text", "tool_use", "\u00e9"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "text", "usage"]), inner),
    max_leaves=3,
)
_TYPES = (
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "error",
    "ping",
    "new",
)
_FIELDS = ("index", "message", "content_block", "delta", "usage", "error")


@st.composite
def _odd_events(draw: st.DrawFn) -> bytes:
    events = b""
    for _ in range(draw(st.integers(1, 4))):
        fields = {name: draw(_ODD) for name in draw(st.sets(st.sampled_from(_FIELDS)))}
        events += frame(type=draw(st.sampled_from(_TYPES)), **fields)
    return events


@given(odd=_odd_events() | st.binary(max_size=60), native=st.booleans(), streamed=st.booleans(), at=st.integers(0, 5))
def test_nothing_raises(odd: bytes, native: bool, streamed: bool, at: int) -> None:
    pieces = [START, TEXT, HELLO, STOP_BLOCK, END, STOP]
    stream = b"".join([*pieces[:at], odd, *pieces[at:]])
    events = read(stream, odd, content_type="text/event-stream" if streamed else "application/json", native=native)
    ends = [event for event in events if event.HasField("finished") or event.HasField("error")]
    assert len(ends) == 1


@pytest.mark.parametrize("native", [False, True])
def test_bytes_that_are_no_text_within_usage(native: bool) -> None:
    odd = b'event: message_delta\ndata: {"type":"message_delta","usage":{"x":"\xff"},"delta":{}}\n\n'
    assert read(START + odd + STOP, native=native)[-1].WhichOneof("event") == "finished"
    body = b'{"type":"message","content":[],"usage":{"x":"\xff"}}'
    last = read(body, content_type="application/json", native=native)[-1]
    assert last.error.code == UPSTREAM if native else last.HasField("finished")
