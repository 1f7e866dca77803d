from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from patchbay_claude_worker.model.whole import whole_answer
from patchbay_standin import Script
from patchbay_standin.answer import compose
from patchbay_standin.anthropic import AnthropicWire
from patchbay_standin.script import (
    Block,
    RedactedThinking,
    ServerToolUse,
    Text,
    Thinking,
    ToolCall,
    Usage,
)

WIRE = AnthropicWire()
PROMPT = WIRE.read(b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}')

words = st.text(max_size=40)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)
objects = st.dictionaries(words, values, max_size=4)
counts = st.integers(0, 10**6)


def made(kind: type[Block], **fields: st.SearchStrategy[object]) -> st.SearchStrategy[Block]:
    return st.builds(kind, **fields)


blocks = st.one_of(
    made(Text, text=words, citations=st.lists(objects, max_size=2)),
    made(Thinking, text=words, signature=st.none() | words),
    made(RedactedThinking, data=words),
    made(ToolCall, name=words, input=objects, arguments=st.none() | words, id=st.none() | words),
    made(ServerToolUse, name=words, input=objects, result=st.none() | objects | st.lists(objects, max_size=2)),
)
scripts = st.builds(
    Script,
    blocks=st.lists(blocks, max_size=5),
    deltas=st.none() | st.integers(1, 12),
    model=st.none() | words,
    stop_reason=st.none() | st.sampled_from(["end_turn", "max_tokens", "refusal", "pause_turn", "stop_sequence"]),
    stop_sequence=st.none() | words,
    usage=st.none() | st.builds(Usage, input=counts, cache_read=counts, cache_write=counts, output=counts),
)


@given(scripts)
@example(Script(text="hello"))
@example(Script(blocks=[ToolCall(name="f", arguments='{"city": "Lis')], stop_reason="max_tokens"))
@example(Script(blocks=[ToolCall(name="f", arguments="")]))
def test_a_stream_joined_is_the_body_that_is_not_streamed(script: Script) -> None:
    answer = compose(PROMPT, script, number=1, created=0, call_prefix=WIRE.call_prefix)
    stream = b"".join(frame.data for frame in WIRE.frames(answer, PROMPT, script))
    assert json.loads(whole_answer(stream)) == json.loads(WIRE.body(answer, PROMPT, script))


def frames(*events: dict[str, object]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def test_a_tools_input_keeps_its_text() -> None:
    text = '{"b": 1.0e2, "a": 12345678901234567890}'
    body = whole_answer(
        frames(
            {"type": "message_start", "message": {"id": "m"}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "input": {}}},
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": part}}
                for part in ("", text[:7], text[7:])
            ),
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 1}},
        )
    )
    assert text.encode() in body


@pytest.mark.parametrize("number", [0, 3])
def test_what_only_the_provider_knows_passes(number: int) -> None:
    start = {"type": "content_block_start", "index": number, "content_block": {"type": "new", "x": 1}}
    delta = {"type": "content_block_delta", "index": number, "delta": {"type": "new_delta", "y": 2}}
    end = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "container": {"id": "c"}},
        "usage": {"output_tokens": 5},
        "context_management": {"z": 3},
    }
    message = {"id": "m", "usage": {"input_tokens": 4, "output_tokens": 1}}
    body = whole_answer(frames({"type": "message_start", "message": message}, start, delta, end))
    assert json.loads(body) == {
        "id": "m",
        "usage": {"input_tokens": 4, "output_tokens": 5},
        "content": [{"type": "new", "x": 1, "y": 2}],
        "stop_reason": "end_turn",
        "container": {"id": "c"},
        "context_management": {"z": 3},
    }
