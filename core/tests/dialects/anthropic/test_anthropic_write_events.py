import json
from typing import Protocol

import anthropic
import httpx2
import pytest
from anthropic.types.beta import BetaMessage, BetaToolUseBlock
from hypothesis import given
from hypothesis import strategies as st

from patchbay.canonical import (
    BlockStart,
    BlockStop,
    ChatEvent,
    CitationDelta,
    Finished,
    Native,
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
from patchbay.dialects.anthropic import DIALECT
from patchbay.dialects.base import AnswerOptions, ReadOptions
from patchbay.errors import OVERLOADED, RATE_LIMITED, PatchbayError, make_error


class Recording(Protocol):
    name: str
    stream: bytes
    body: bytes
    kinds: tuple[str, ...]


def write(
    *batches: list[ChatEvent], stream: bool = True, model: str = "asked", fallback_id: str = "msg_fallback"
) -> bytes:
    writer = DIALECT.write_events(AnswerOptions(stream=stream, model=model, fallback_id=fallback_id))
    return b"".join([writer.feed(batch) for batch in batches]) + writer.close()


def read(stream: bytes, content_type: str = "text/event-stream") -> list[ChatEvent]:
    reader = DIALECT.read_events(ReadOptions(content_type=content_type))
    return reader.feed(stream) + reader.close()


def client(data: bytes, content_type: str) -> anthropic.Anthropic:
    """The official client, answered with `data`."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": content_type}, content=data)

    return anthropic.Anthropic(
        api_key="made-up",
        base_url="http://patchbay.test",
        max_retries=0,
        http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
    )


def sdk_stream(data: bytes) -> BetaMessage:
    request = client(data, "text/event-stream").beta.messages
    with request.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]) as stream:
        return stream.get_final_message()


def sdk_body(data: bytes) -> BetaMessage:
    request = client(data, "application/json").beta.messages
    return request.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}])


def plain(message: BetaMessage) -> dict[str, object]:
    """What the library read; a field that is null says what an absent one does."""
    return message.model_dump(exclude_none=True, warnings=False)


def started(answer_id: str = "id", model: str = "m") -> ChatEvent:
    return ChatEvent(started=Started(id=answer_id, model=model))


def start(index: int, kind: str, choice: int = 0) -> ChatEvent:
    block = BlockStart(index=index, choice=choice)
    getattr(block, kind).SetInParent()
    return ChatEvent(block_start=block)


def tool(index: int, call_id: str, name: str, *, text_input: bool = False) -> ChatEvent:
    use = ToolUseStart(id=call_id, name=name, text_input=text_input)
    return ChatEvent(block_start=BlockStart(index=index, tool_use=use))


def text(index: int, value: str) -> ChatEvent:
    return ChatEvent(text_delta=TextDelta(index=index, text=value))


def tool_input(index: int, value: str) -> ChatEvent:
    return ChatEvent(tool_input_delta=ToolInputDelta(index=index, text=value))


def stop(index: int) -> ChatEvent:
    return ChatEvent(block_stop=BlockStop(index=index))


def finished(reason: Finished.StopReason.ValueType, choice: int = 0) -> ChatEvent:
    return ChatEvent(finished=Finished(stop_reason=reason, choice=choice))


END_TURN = Finished.STOP_REASON_END_TURN
TOOL_USE = Finished.STOP_REASON_TOOL_USE
USAGE = ChatEvent(usage=Usage(input_tokens=10, cache_read_tokens=4, output_tokens=6, reasoning_tokens=2))


def test_stream_on_the_wire() -> None:
    opening = [started(), start(0, "text"), text(0, "Hé"), text(0, ""), text(0, '"\n')]
    closing = [
        stop(0),
        tool(1, "t1", "f"),
        tool_input(1, '{"a":'),
        tool_input(1, "1}"),
        stop(1),
        USAGE,
        finished(TOOL_USE),
    ]
    assert write(opening, closing).decode() == (
        "event: message_start\n"
        'data: {"type":"message_start","message":{"id":"id","type":"message","role":"assistant","model":"m",'
        '"content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":0,"cache_creation_input_tokens":0,'
        '"cache_read_input_tokens":0,"output_tokens":0}}}\n\n'
        "event: content_block_start\n"
        'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
        "event: content_block_delta\n"
        'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hé"}}\n\n'
        "event: content_block_delta\n"
        'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\\"\\n"}}\n\n'
        "event: content_block_stop\n"
        'data: {"type":"content_block_stop","index":0}\n\n'
        "event: content_block_start\n"
        'data: {"type":"content_block_start","index":1,"content_block":'
        '{"type":"tool_use","id":"t1","name":"f","input":{}}}\n\n'
        "event: content_block_delta\n"
        'data: {"type":"content_block_delta","index":1,"delta":'
        '{"type":"input_json_delta","partial_json":"{\\"a\\":"}}\n\n'
        "event: content_block_delta\n"
        'data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"1}"}}\n\n'
        "event: content_block_stop\n"
        'data: {"type":"content_block_stop","index":1}\n\n'
        "event: message_delta\n"
        'data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":'
        '{"input_tokens":10,'
        '"cache_creation_input_tokens":0,"cache_read_input_tokens":4,"output_tokens":6,'
        '"output_tokens_details":{"thinking_tokens":2}}}\n\n'
        "event: message_stop\n"
        'data: {"type":"message_stop"}\n\n'
    )


def test_body_on_the_wire() -> None:
    events = [started("", ""), start(0, "text"), text(0, "Hé"), text(0, "!"), stop(0), USAGE, finished(END_TURN)]
    assert write(events, stream=False).decode() == (
        '{"id":"msg_fallback","type":"message","role":"assistant","model":"asked","content":[{"type":"text","text":"Hé!"}],'
        '"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":10,"cache_creation_input_tokens":0,'
        '"cache_read_input_tokens":4,"output_tokens":6,"output_tokens_details":{"thinking_tokens":2}}}'
    )


def test_recording_read_written_and_parsed_by_the_sdk(recording: Recording) -> None:
    streamed, whole = read(recording.stream), read(recording.body, "application/json")
    assert plain(sdk_stream(write(streamed))) == plain(sdk_stream(recording.stream))
    assert plain(sdk_body(write(streamed, stream=False))) == plain(sdk_body(recording.body))
    assert plain(sdk_body(write(whole, stream=False))) == plain(sdk_body(recording.body))
    assert plain(sdk_stream(write(whole))) == plain(sdk_body(recording.body))


def test_written_stream_reads_as_the_same_events(recording: Recording) -> None:
    # Counts are told again at the end, and a block begins with its first content.
    events = [event for event in read(recording.stream) if event.WhichOneof("event") not in ("usage", "ping")]
    again = [
        event for event in read(write(read(recording.stream))) if event.WhichOneof("event") not in ("usage", "ping")
    ]
    assert again == events


@pytest.mark.parametrize("stream", [True, False])
def test_interleaved_tool_calls(stream: bool) -> None:
    events = [
        started(),
        tool(0, "t0", "f"),
        tool(1, "t1", "g"),
        tool_input(0, '{"a":'),
        tool_input(1, '{"b":'),
        tool_input(0, "1}"),
        tool_input(1, "2}"),
        stop(1),
        stop(0),
        finished(END_TURN),
    ]
    message = (sdk_stream if stream else sdk_body)(write(events, stream=stream))
    blocks = [block for block in message.content if isinstance(block, BetaToolUseBlock)]
    assert [(block.id, block.name, block.input) for block in blocks] == [("t0", "f", {"a": 1}), ("t1", "g", {"b": 2})]
    assert message.stop_reason == "tool_use"


@pytest.mark.parametrize("stream", [True, False])
def test_thinking_signed_and_not(stream: bool) -> None:
    events = [
        started(),
        start(0, "thinking"),
        ChatEvent(thinking_delta=ThinkingDelta(index=0, text="Hm")),
        stop(0),
        start(1, "thinking"),
        ChatEvent(signature_delta=SignatureDelta(index=1, signature="sig")),
        stop(1),
        start(2, "thinking"),
        stop(2),
        finished(END_TURN),
    ]
    message = (sdk_stream if stream else sdk_body)(write(events, stream=stream))
    assert [block.to_dict() for block in message.content] == [
        {"type": "thinking", "thinking": "Hm", "signature": ""},
        {"type": "thinking", "thinking": "", "signature": "sig"},
    ]


@pytest.mark.parametrize("stream", [True, False])
def test_free_text_input_of_a_tool_is_wrapped(stream: bool) -> None:
    events = [
        started(),
        tool(0, "t", "shell", text_input=True),
        tool_input(0, 'ls "a'),
        tool_input(0, '\n"é'),
        stop(0),
        finished(TOOL_USE),
    ]
    message = (sdk_stream if stream else sdk_body)(write(events, stream=stream))
    assert [block.input for block in message.content if isinstance(block, BetaToolUseBlock)] == [{"input": 'ls "a\n"é'}]


@pytest.mark.parametrize(
    ("written", "read_as"), [("", {}), (" ", {}), ('{"a":', {"arguments": '{"a":'}), ("[1]", {"arguments": "[1]"})]
)
def test_tool_input_that_is_no_object(written: str, read_as: object) -> None:
    events = [started(), tool(0, "t", "f"), tool_input(0, written), stop(0), finished(TOOL_USE)]
    message = sdk_body(write(events, stream=False))
    assert [block.input for block in message.content if isinstance(block, BetaToolUseBlock)] == [read_as]


@pytest.mark.parametrize("stream", [True, False])
def test_what_has_no_place_is_left_out(stream: bool) -> None:
    events = [
        ChatEvent(warning=Warning(parameter="seed", message="dropped")),
        started(),
        start(0, "text", choice=1),
        text(0, "other choice"),
        ChatEvent(block_start=BlockStart(index=1, opaque=OpaqueStart(dialect="openai_chat", json="{}"))),
        stop(1),
        start(2, "text"),
        text(2, "kept"),
        ChatEvent(citation_delta=CitationDelta(index=2, dialect="openai_chat", json="{}")),
        stop(2),
        finished(END_TURN, choice=1),
        finished(END_TURN),
        text(2, "late"),
        finished(END_TURN),
    ]
    message = (sdk_stream if stream else sdk_body)(write(events, stream=stream))
    assert [block.to_dict() for block in message.content] == [{"type": "text", "text": "kept"}]


def test_pretty_printed_json_stays_within_its_line() -> None:
    block = '{\n  "type": "web_search_tool_result",\n  "content": []\n}'
    opaque = ChatEvent(block_start=BlockStart(opaque=OpaqueStart(dialect="anthropic", json=block)))
    written = write([started(), opaque, stop(0), finished(END_TURN)])
    assert b'"content_block":{"type":"web_search_tool_result","content":[]}}\n\n' in written


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("reason", "name"),
    [
        (Finished(stop_reason=END_TURN), "end_turn"),
        (Finished(), "end_turn"),
        (Finished(stop_reason=Finished.STOP_REASON_MAX_TOKENS), "max_tokens"),
        (Finished(stop_reason=Finished.STOP_REASON_STOP_SEQUENCE, stop_sequence="x"), "stop_sequence"),
        (Finished(stop_reason=Finished.STOP_REASON_REFUSAL), "refusal"),
        (Finished(stop_reason=Finished.STOP_REASON_CONTENT_FILTER), "refusal"),
        (Finished(stop_reason=Finished.STOP_REASON_PAUSE_TURN), "pause_turn"),
        (Finished(stop_reason=Finished.STOP_REASON_CONTEXT_WINDOW), "model_context_window_exceeded"),
        (Finished(stop_reason=Finished.STOP_REASON_OTHER, raw="compaction"), "compaction"),
        (Finished(stop_reason=Finished.STOP_REASON_OTHER, raw="insufficient_system_resource"), "end_turn"),
    ],
)
def test_stop_reasons(reason: Finished, name: str, stream: bool) -> None:
    events = [started(), start(0, "text"), text(0, "a"), stop(0), ChatEvent(finished=reason)]
    message = (sdk_stream if stream else sdk_body)(write(events, stream=stream))
    assert message.stop_reason == name
    assert message.stop_sequence == (reason.stop_sequence or None)


@pytest.mark.parametrize("stream", [True, False])
def test_refusal(stream: bool) -> None:
    events = [started(), start(0, "refusal"), text(0, "I can't."), stop(0), finished(END_TURN)]
    message = (sdk_stream if stream else sdk_body)(write(events, stream=stream))
    assert message.stop_reason == "refusal"
    assert [block.to_dict() for block in message.content] == [{"type": "text", "text": "I can't."}]


def test_stop_for_a_tool_that_never_came() -> None:
    events = [started(), start(0, "text"), text(0, "a"), finished(TOOL_USE)]
    assert write(events).endswith(
        b'event: error\ndata: {"type":"error","error":{"type":"api_error",'
        b'"message":"The provider announced a tool call but sent none."}}\n\n'
    )
    with pytest.raises(PatchbayError, match="announced a tool call"):
        write(events, stream=False)


def test_blocks_left_open_are_closed() -> None:
    written = write([started(), start(0, "text"), text(0, "a"), tool(1, "t", "f"), finished(TOOL_USE)])
    assert written.count(b"event: content_block_stop") == 2
    assert sdk_stream(written).stop_reason == "tool_use"


def test_usage_known_at_the_start_is_told_there() -> None:
    extensions = {"anthropic": '{"service_tier":"standard"}'}
    early = ChatEvent(
        usage=Usage(
            input_tokens=7, cache_write_tokens=9, cache_write_1h_tokens=4, output_tokens=1, extensions=extensions
        )
    )
    late = ChatEvent(usage=Usage(output_tokens=5))
    written = write([started(), early], [start(0, "text"), text(0, "a"), late, finished(END_TURN)])
    assert [json.loads(line[6:]) for line in written.splitlines() if b'"usage"' in line] == [
        {
            "type": "message_start",
            "message": {
                "id": "id",
                "type": "message",
                "role": "assistant",
                "model": "m",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": {
                    "input_tokens": 7,
                    "cache_creation_input_tokens": 9,
                    "cache_read_input_tokens": 0,
                    "output_tokens": 1,
                    "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 4},
                    "service_tier": "standard",
                },
            },
        },
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {
                "input_tokens": 7,
                "cache_creation_input_tokens": 9,
                "cache_read_input_tokens": 0,
                "output_tokens": 5,
                "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 4},
            },
        },
    ]


def test_error_in_the_stream() -> None:
    error = ChatEvent(error=make_error(OVERLOADED, "Too busy"))
    written = write([started(), start(0, "text"), text(0, "a"), error, text(0, "b"), finished(END_TURN)])
    assert written.endswith(
        b'"text":"a"}}\n\nevent: error\ndata: '
        b'{"type":"error","error":{"type":"overloaded_error","message":"Too busy"}}\n\n'
    )
    with pytest.raises(anthropic.APIStatusError, match="Too busy"):
        sdk_stream(written)


def test_error_of_the_provider_keeps_its_words() -> None:
    error = make_error(RATE_LIMITED, "Slow")
    error.native_dialect = "anthropic"
    error.native_body = (
        b'{\n "type": "error",\n "error": {"type": "rate_limit_error", "message": "Slow"}, "request_id": "req_1"\n}'
    )
    assert write([ChatEvent(error=error)]) == (
        b"event: error\ndata: "
        b'{"type":"error","error":{"type":"rate_limit_error","message":"Slow"},"request_id":"req_1"}\n\n'
    )


def test_error_without_a_stream() -> None:
    with pytest.raises(PatchbayError) as caught:
        write([started(), ChatEvent(error=make_error(RATE_LIMITED, "Slow", retry_after=3))], stream=False)
    assert (caught.value.error.code, caught.value.error.retry_after) == (RATE_LIMITED, 3)


@pytest.mark.parametrize(
    "events", [[], [started()], [started(), start(0, "text"), text(0, "a")], [ChatEvent(native=Native(data=b""))]]
)
def test_answer_that_never_finished(events: list[ChatEvent]) -> None:
    assert write(events).endswith(
        b'event: error\ndata: {"type":"error","error":{"type":"api_error",'
        b'"message":"The provider\'s answer ended before its end."}}\n\n'
    )
    with pytest.raises(PatchbayError, match="ended before its end"):
        write(events, stream=False)


def test_pings() -> None:
    writer = DIALECT.write_events(AnswerOptions(stream=True))
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'
    assert writer.ping() == ping
    assert writer.feed([started()]).startswith(b"event: message_start")
    assert writer.feed([ChatEvent(ping=Ping())]) == ping
    writer.feed([finished(END_TURN)])
    assert writer.ping() == b""
    assert DIALECT.write_events(AnswerOptions(stream=False)).ping() == b""


def test_a_ping_of_the_provider_follows_the_start() -> None:
    writer = DIALECT.write_events(AnswerOptions(stream=True))
    written = writer.feed([started(), USAGE, ChatEvent(ping=Ping())])
    assert [line for line in written.splitlines() if line.startswith(b"event")] == [
        b"event: message_start",
        b"event: ping",
    ]


def test_message_starts_with_its_batch() -> None:
    writer = DIALECT.write_events(AnswerOptions(stream=True))
    assert writer.feed([started(), USAGE]).count(b"message_start") == 2  # its name and its type
    assert writer.feed([started()]) == b""


def test_native_stream_passes_untouched(recording: Recording) -> None:
    reader = DIALECT.read_events(ReadOptions(native=True))
    events = reader.feed(recording.stream[:300]) + reader.feed(recording.stream[300:]) + reader.close()
    assert write(events) == recording.stream


def test_native_body_passes_untouched(recording: Recording) -> None:
    reader = DIALECT.read_events(ReadOptions(native=True, content_type="application/json"))
    events = reader.feed(recording.body[:300]) + reader.feed(recording.body[300:]) + reader.close()
    assert write(events, stream=False) == recording.body


def test_native_error_ends_the_stream() -> None:
    events = [
        ChatEvent(native=Native(data=b"event: x\ndata: {}\n\n")),
        ChatEvent(error=make_error(OVERLOADED, "Too busy")),
    ]
    assert write(events) == (
        b"event: x\ndata: {}\n\nevent: error\ndata: "
        b'{"type":"error","error":{"type":"overloaded_error","message":"Too busy"}}\n\n'
    )


@given(st.data())
def test_stream_and_body_are_one_answer(data: st.DataObject) -> None:
    """Any course of blocks, interleaved, left open, empty: the official library reads the same from both forms."""
    count = data.draw(st.integers(0, 4))
    kinds = [data.draw(st.sampled_from(["text", "thinking", "tool_use", "refusal"])) for _ in range(count)]
    events = [started()]
    parts: list[list[ChatEvent]] = []
    for index, kind in enumerate(kinds):
        texts = data.draw(st.lists(st.text(max_size=4), max_size=3))
        if kind == "tool_use":
            part = [tool(index, f"t{index}", "f"), tool_input(index, '{"a":'), tool_input(index, "1}")]
        elif kind == "thinking":
            part = [start(index, kind)]
            part += [ChatEvent(thinking_delta=ThinkingDelta(index=index, text=value)) for value in texts]
        else:
            part = [start(index, kind), *(text(index, value) for value in texts)]
        parts.append(part + ([stop(index)] if data.draw(st.booleans()) else []))
    while any(parts):
        part = data.draw(st.sampled_from([part for part in parts if part]))
        events.append(part.pop(0))
    events += [USAGE, finished(END_TURN)]
    assert plain(sdk_stream(write(events))) == plain(sdk_body(write(events, stream=False)))
