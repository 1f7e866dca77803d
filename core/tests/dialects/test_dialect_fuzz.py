"""Damaged answers and requests, and events in any order, through both dialects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbay.canonical import (
    BlockStart,
    BlockStop,
    ChatEvent,
    CitationDelta,
    Error,
    Finished,
    OpaqueStart,
    Ping,
    RedactedThinkingStart,
    SignatureDelta,
    Started,
    TextDelta,
    ThinkingDelta,
    ToolInputDelta,
    ToolUseStart,
    Usage,
    Warning,
)
from patchbay.dialects.base import AnswerOptions, ReadOptions
from patchbay.dialects.sse import parse_frames
from patchbay.errors import InvalidRequest, PatchbayError
from patchbay.testing.dialect_pairs import DIALECTS

ANTHROPIC_STREAM = rb"""event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"c","content":[],"usage":{"input_tokens":5,"cache_creation":{"ephemeral_1h_input_tokens":1}}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

event: ping
data: {"type": "ping"}

data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"h\ud83d"}}

data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"S"}}

data: {"type":"content_block_stop","index":0}

data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":"","citations":[]}}

data: {"type":"content_block_delta","index":1,"delta":{"type":"citations_delta","citation":{"type":"x","a":[1]}}}

data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"\u00e9 \"q\" \ud83d\ude00"}}

data: {"type":"content_block_stop","index":1}

data: {"type":"content_block_start","index":2,"content_block":{"type":"server_tool_use","id":"s","name":"web_search","input":{}}}

data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"q\":1}"}}

data: {"type":"content_block_stop","index":2}

data: {"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}

data: {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{\"a\":[]}"}}

data: {"type":"content_block_stop","index":3}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":9}}

event: message_stop
data: {"type":"message_stop"}

"""  # noqa: E501

OPENAI_STREAM = rb"""data: {"id":"c","created":7,"model":"g","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}

data: {"id":"c","choices":[{"index":0,"delta":{"reasoning_content":"h","reasoning_details":[{"type":"reasoning.text","text":"h","signature":"S","index":0}]}}]}

: comment

data: {"choices":[{"index":0,"delta":{"content":"\u00e9 \"q\" \ud83d"},"logprobs":{"content":[{"token":"a"}]}}]}

data: {"choices":[{"index":1,"delta":{"refusal":"no","annotations":[{"type":"url_citation"}]},"finish_reason":"stop"}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"t","function":{"name":"f","arguments":""}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}},{"index":1,"id":"u","custom":{"name":"g","input":"x"}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":5}}

data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":2}}}

data: [DONE]

"""  # noqa: E501

RESPONSES_STREAM = rb"""event: response.created
data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_c","created_at":7,"model":"g","output":[]}}

data: {"type":"response.output_item.added","output_index":0,"item":{"id":"rs","type":"reasoning","summary":[]}}

data: {"type":"response.reasoning_summary_text.delta","item_id":"rs","output_index":0,"summary_index":0,"delta":"h\ud83d"}

data: {"type":"response.output_item.done","output_index":0,"item":{"id":"rs","type":"reasoning","summary":[{"type":"summary_text","text":"h"}],"encrypted_content":"gAAAA"}}

: comment

data: {"type":"response.output_text.delta","item_id":"m","output_index":1,"content_index":0,"delta":"\u00e9 \"q\"","logprobs":[{"token":"a"}]}

data: {"type":"response.output_text.annotation.added","item_id":"m","output_index":1,"content_index":0,"annotation":{"type":"x"}}

data: {"type":"response.output_item.added","output_index":2,"item":{"id":"f","type":"function_call","call_id":"t","name":"f","arguments":""}}

data: {"type":"response.function_call_arguments.delta","item_id":"f","output_index":2,"delta":"{\"a\":[]}"}

data: {"type":"response.output_item.done","output_index":3,"item":{"id":"c","type":"custom_tool_call","call_id":"u","name":"g","input":"x"}}

data: {"type":"response.output_item.done","output_index":4,"item":{"id":"w","type":"web_search_call","status":"completed"}}

event: response.completed
data: {"type":"response.completed","response":{"id":"resp_c","status":"completed","output":[{"id":"m","type":"message","content":[{"type":"output_text","text":"t"},{"type":"refusal","refusal":"no"}]}],"usage":{"input_tokens":5,"input_tokens_details":{"cached_tokens":2},"output_tokens":9}}}

"""  # noqa: E501

ANTHROPIC_REQUEST = {
    "model": "m",
    "max_tokens": 10,
    "stream": True,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "metadata": {"user_id": "u"},
    "tools": [{"name": "f", "strict": True, "input_schema": {"type": "object"}}, {"type": "bash_1", "name": "bash"}],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "messages": [
        {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "u"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "h", "signature": "S"},
                {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "r"}]},
                {"type": "document", "source": {"type": "content", "content": "c"}, "citations": {"enabled": True}},
            ],
        },
    ],
}
OPENAI_REQUEST = {
    "model": "m",
    "stream": True,
    "stream_options": {"include_usage": True},
    "messages": [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}, {"type": "text", "text": "t"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_details": [{"type": "reasoning.encrypted", "data": "A", "id": "i"}],
            "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{"}}],
        },
        {"role": "tool", "tool_call_id": "t", "content": "r"},
        {"role": "system", "content": [{"type": "file", "file": {"file_data": "A", "filename": "n"}}]},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"oneOf": [{"maximum": 1}]}}},
    "reasoning": {"effort": "high", "max_tokens": 5},
    "logit_bias": {"1": 2},
    "n": 2,
    "stop": ["x"],
}
RESPONSES_REQUEST = {
    "model": "m",
    "stream": True,
    "instructions": "s",
    "input": [
        {"type": "additional_tools", "id": "at_1", "role": "developer", "tools": [{"type": "custom", "name": "g"}]},
        {"role": "developer", "content": [{"type": "input_text", "text": "d"}]},
        {
            "role": "user",
            "content": [{"type": "input_image", "image_url": "u"}, {"type": "input_file", "file_id": "i"}],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "h"}],
            "encrypted_content": "S",
        },
        {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        {"type": "function_call", "call_id": "t", "name": "f", "namespace": "n", "arguments": "{"},
        {"type": "custom_tool_call", "call_id": "u", "name": "g", "input": "x"},
        {"type": "web_search_call", "id": "ws_1", "action": {"type": "search"}},
        {"type": "function_call_output", "call_id": "t", "output": [{"type": "input_text", "text": "r"}]},
        {"type": "custom_tool_call_output", "call_id": "u", "output": "r"},
        {"type": "compaction_trigger"},
    ],
    "tools": [
        {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "function", "name": "f"}]},
        {"type": "custom", "name": "f", "format": {"type": "grammar", "syntax": "lark", "definition": "g"}},
        {"type": "function", "name": "f", "strict": True, "parameters": {"type": "object"}},
    ],
    "tool_choice": {"type": "function", "name": "f", "namespace": "n"},
    "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "n", "schema": {"oneOf": []}}},
    "reasoning": {"effort": "high", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "max_output_tokens": 5,
    "metadata": {"a": "b"},
}
STREAMS = {"anthropic": ANTHROPIC_STREAM, "openai_chat": OPENAI_STREAM, "openai_responses": RESPONSES_STREAM}
REQUESTS = {"anthropic": ANTHROPIC_REQUEST, "openai_chat": OPENAI_REQUEST, "openai_responses": RESPONSES_REQUEST}

_PIECES = [
    b"null", b"{}", b"[]", b"1e999", b"-1", b'"', b"true", b'"x"', b"[1]", b'{"a":1}', b"\\ud800", b"\xff", b"\n\n",
    b"\r", b'"type":', b'"error":{', b"99999999999999999999", b"[DONE]", b"data: ", b"event: error\n", b"",
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with some replaced, mostly at the borders of their values."""
    for _ in range(draw(st.integers(1, 3))):
        borders = [at for at, byte in enumerate(data) if byte in b'{}[],:"\n'] or [0]
        start = draw(st.sampled_from(borders)) + draw(st.integers(0, 1))
        end = draw(st.sampled_from([at for at in borders if start <= at <= start + 60] or [start]))
        data = data[:start] + draw(st.sampled_from(_PIECES) | st.binary(max_size=3)) + data[end:]
    return data


@pytest.mark.parametrize("native", [False, True], ids=["read", "native"])
@pytest.mark.parametrize("name", DIALECTS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_answer_ends_once(name: str, native: bool, data: st.DataObject) -> None:
    stream = data.draw(damaged(STREAMS[name]))
    stream = stream[: data.draw(st.integers(0, len(stream)) | st.just(len(stream)))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    kind = data.draw(st.sampled_from(["text/event-stream", "application/json", ""]))
    reader = DIALECTS[name].read_events(ReadOptions(native=native, content_type=kind))
    events: list[ChatEvent] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += reader.feed(stream[start:end])
    events += reader.close()
    assert reader.close() == []
    errors = [event for event in events if event.HasField("error")]
    finished = [event.finished.choice for event in events if event.HasField("finished")]
    assert len(set(finished)) == len(finished)
    assert [event for event in events if event.HasField("error")] == ([events[-1]] if errors else [])
    assert bool(errors) != bool(finished)


@pytest.mark.parametrize("name", DIALECTS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_request_is_refused_or_written(name: str, data: st.DataObject) -> None:
    """A client's mistake is never more than that: what can be read can be written, for any upstream."""
    body = data.draw(damaged(json.dumps(REQUESTS[name]).encode()))
    try:
        chat = DIALECTS[name].read_request(body)
    except InvalidRequest:
        return
    for dialect in DIALECTS.values():
        try:
            written = dialect.write_request(chat, "claude-sonnet-4-5", dialect.quirks)
        except InvalidRequest:
            continue
        assert isinstance(json.loads(written.body), dict)


_texts = st.text('ab{}"\\\n é😀', max_size=5)
_indexes = st.integers(0, 3)
_dialects = st.sampled_from([*DIALECTS, "another"])
_objects = st.sampled_from(["{}", '{"type":"x_tool_use","a":[1]}', '{\n"audio":{"data":"A"},"annotations":[{}]}'])
_extensions = st.dictionaries(_dialects, _objects, max_size=2)


def _start(index: int, choice: int, kind: str, more: BlockStart) -> ChatEvent:
    start = BlockStart(index=index, choice=choice)
    start.MergeFrom(more)
    if not more.WhichOneof("kind"):
        getattr(start, kind).SetInParent()
    return ChatEvent(block_start=start)


_starts = st.builds(
    _start,
    _indexes,
    st.integers(0, 2),
    st.sampled_from(["text", "thinking", "refusal"]),
    st.one_of(
        st.just(BlockStart()),
        st.builds(
            lambda i, n, t: BlockStart(tool_use=ToolUseStart(id=i, name=n, text_input=t)), _texts, _texts, st.booleans()
        ),
        st.builds(lambda d: BlockStart(redacted_thinking=RedactedThinkingStart(data=d)), _texts),
        st.builds(lambda d, j: BlockStart(opaque=OpaqueStart(dialect=d, json=j)), _dialects, _objects),
    ),
)
_events = st.one_of(
    _starts,
    _starts,
    st.builds(
        lambda i, t, p: ChatEvent(text_delta=TextDelta(index=i, text=t, logprobs_json=p)),
        _indexes,
        _texts,
        st.none() | st.just('[{"token":"a"}]'),
    ),
    st.builds(lambda i, t: ChatEvent(thinking_delta=ThinkingDelta(index=i, text=t)), _indexes, _texts),
    st.builds(lambda i, t: ChatEvent(signature_delta=SignatureDelta(index=i, signature=t)), _indexes, _texts),
    st.builds(lambda i, t: ChatEvent(tool_input_delta=ToolInputDelta(index=i, text=t)), _indexes, _texts),
    st.builds(
        lambda i, d, j: ChatEvent(citation_delta=CitationDelta(index=i, dialect=d, json=j)),
        _indexes,
        _dialects,
        _objects,
    ),
    st.builds(lambda i: ChatEvent(block_stop=BlockStop(index=i)), _indexes),
    st.builds(lambda i: ChatEvent(started=Started(id=i, model=i)), _texts),
    st.builds(lambda n, e: ChatEvent(usage=Usage(output_tokens=n, extensions=e)), st.integers(0, 9), _extensions),
    st.builds(
        lambda r, c, s, e: ChatEvent(finished=Finished(stop_reason=r, choice=c, stop_sequence=s, extensions=e)),
        st.sampled_from(Finished.StopReason.values()),
        st.integers(0, 2),
        st.none() | _texts,
        _extensions,
    ),
    # Also a code that only a newer worker knows.
    st.builds(lambda c, m: ChatEvent(error=Error(code=c, message=m)), st.integers(0, 99), _texts),
    st.just(ChatEvent(ping=Ping())),
    st.just(ChatEvent(warning=Warning(parameter="p"))),
    st.just(ChatEvent()),
)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("name", DIALECTS)
@settings(max_examples=150, deadline=None)
@given(found=st.lists(_events, max_size=14))
def test_events_in_any_order_make_an_answer_or_an_error(name: str, stream: bool, found: list[ChatEvent]) -> None:
    writer = DIALECTS[name].write_events(AnswerOptions(stream=stream, include_usage=True, fallback_id="i"))
    data = b"".join([writer.feed([event]) for event in found])
    try:
        data += writer.close()
    except PatchbayError:
        assert not stream
        return
    if not stream:
        assert isinstance(json.loads(data), dict)
        return
    frames = [frame.data for frame in parse_frames(data)]
    if name == "anthropic":
        _check_messages_stream([json.loads(frame) for frame in frames])
    elif name == "openai_responses":
        _check_responses_stream([json.loads(frame) for frame in frames])
    else:
        chunks = [json.loads(frame) for frame in frames if frame != b"[DONE]"]
        assert frames[-1] == b"[DONE]" or "error" in chunks[-1]
        assert not any("error" in chunk for chunk in chunks[:-1])


def _check_responses_stream(events: list[dict[str, Any]]) -> None:
    """One Response, its items one after the other and each as its end has it, and one end."""
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:2] == ["created", "in_progress"]
    assert kinds[-1] in ("completed", "incomplete", "failed")
    assert not {"created", "completed", "incomplete", "failed"} & set(kinds[2:-1])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    added = done = 0
    output = events[-1]["response"]["output"]
    for kind, event in zip(kinds, events, strict=True):
        match kind:
            case "output_item.added":
                assert added == done == event["output_index"]
                added += 1
            case "output_item.done":
                assert event["item"] == output[done]
                done += 1
            case _ if "output_index" in event:
                assert event["output_index"] == done == added - 1
    assert len(output) == added
    assert done == added or kinds[-1] != "completed"


def _check_messages_stream(events: list[dict[str, object]]) -> None:
    """One message, its blocks one after the other, and one end."""
    kinds = [event["type"] for event in events if event["type"] != "ping"]
    assert kinds[-1] in ("message_stop", "error")
    assert kinds.count("message_stop") + kinds.count("error") == 1
    assert kinds.count("message_start") == (0 if kinds == ["error"] else 1)
    assert kinds[0] in ("message_start", "error")
    position, is_open = -1, False
    for event in events:
        match event["type"]:
            case "content_block_start":
                position += 1
                assert not is_open
                is_open = True
            case "content_block_delta":
                assert is_open
            case "content_block_stop":
                assert is_open
                is_open = False
            case "message_delta":
                assert not is_open
                continue
            case _:
                continue
        assert event["index"] == position
