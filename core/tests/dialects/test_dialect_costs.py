"""That the cost of an answer, and of a request, grows with its length and no faster."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator

import pytest

from patchbay.canonical import ChatEvent
from patchbay.dialects.base import AnswerOptions, ReadOptions
from patchbay.testing.dialect_pairs import DIALECTS, Json

# A cost that grows by the square takes 64 times as long for eight times as much.
_TIMES, _AT_MOST = 8, 20


def chunk(delta: Json, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({'id': 'c', 'choices': [choice]})}\n\n".encode()


def call(index: int, arguments: str, **first: str) -> Json:
    function = {"arguments": arguments} | ({"name": "f"} if first else {})
    return {"tool_calls": [{"index": index, "function": function} | first]}


def finished(pieces: list[bytes]) -> bytes:
    return b"".join([*pieces, chunk({}, "stop")])


def whole_calls(count: int) -> bytes:
    return finished([chunk(call(n, "{}", id=f"c{n}")) for n in range(count)])


def open_calls(count: int) -> bytes:
    """Calls that stay open, with text between them, and end at the end."""
    begun = [piece for n in range(count) for piece in (chunk(call(n, "{", id=f"c{n}")), chunk({"content": "t"}))]
    return finished(begun + [chunk(call(n, "}")) for n in range(count)])


def nameless_fragments(count: int) -> bytes:
    first = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": '{"a":"'}}]}
    return finished([chunk(first), *[chunk(call(0, "x" * 2000)) for _ in range(2 * count)], chunk(call(0, '"}'))])


def audio(count: int) -> bytes:
    return finished([chunk({"audio": {"id": "a", "data": "A" * 4000}}) for _ in range(count)])


def citations(count: int) -> bytes:
    said = [chunk({"content": "a", "annotations": [{"type": "url_citation", "n": n}]}) for n in range(count)]
    return finished(said)


def signs_of_life(count: int) -> bytes:
    return b"\n" * 60 * count + finished([chunk({"content": "a"})])


def response_items(count: int) -> bytes:
    """Items of the Responses API, each in deltas, whole, and once more in the end."""
    frames: list[Json] = []
    output: list[Json] = []
    for n in range(count):
        where = {"item_id": f"i{n}", "output_index": n}
        kind = "message" if n % 2 else "function_call"
        content: Json = {"content": [{"type": "output_text", "text": "ab"}], "arguments": "{}"}
        output.append({"type": kind, "id": f"i{n}", "call_id": f"c{n}", "name": "f"} | content)
        delta = "output_text" if n % 2 else "function_call_arguments"
        frames += [
            {"type": "response.output_item.added", "item": {"type": kind, "id": f"i{n}", "name": "f"}} | where,
            {"type": f"response.{delta}.delta", "delta": "a" if n % 2 else "{"} | where,
            {"type": "response.output_item.done", "item": output[-1]} | where,
        ]
    frames.append({"type": "response.completed", "response": {"output": output}})
    return b"".join([f"data: {json.dumps(frame)}\n\n".encode() for frame in frames])


def long_response(count: int) -> bytes:
    frames: list[Json] = [{"type": "response.output_text.delta", "delta": "a word "} for _ in range(4 * count)]
    frames.append({"type": "response.output_text.done", "text": "a word " * 4 * count})
    frames.append({"type": "response.completed", "response": {"output": []}})
    return b"".join([f"data: {json.dumps(frame)}\n\n".encode() for frame in frames])


def read(stream: bytes) -> list[ChatEvent]:
    upstream = "openai_responses" if b'"response.completed"' in stream else "openai_chat"
    reader = DIALECTS[upstream].read_events(ReadOptions())
    events: list[ChatEvent] = []
    step = 1 if stream.startswith(b"\n") else 4096
    for at in range(0, len(stream), step):
        events += reader.feed(stream[at : at + step])
    return events + reader.close()


def seconds(stream: bytes) -> float:
    """The least of three: reading, and writing for each client, streamed and whole. In the processor's own time."""
    costs = []
    for _ in range(3):
        gc.collect()
        started = time.process_time()
        events = read(stream)
        for dialect in DIALECTS.values():
            for streamed in (True, False):
                writer = dialect.write_events(AnswerOptions(stream=streamed, model="m", fallback_id="i"))
                for event in events:
                    writer.feed([event])
                writer.close()
        costs.append(time.process_time() - started)
    return min(costs)


MAKERS = [whole_calls, open_calls, nameless_fragments, audio, citations, signs_of_life, response_items, long_response]


def conversation(count: int) -> Json:
    """Turns of Codex, each with reasoning, two calls that overlap and what they gave."""
    items: list[Json] = []
    for n in range(count):
        items.append({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]})
        items.append({"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"})
        for call in (f"a{n}", f"b{n}"):
            items.append({"type": "function_call", "call_id": call, "name": "f", "arguments": "{}"})
        for call in (f"b{n}", f"a{n}"):
            items.append({"type": "function_call_output", "call_id": call, "output": "o"})
    return {"model": "m", "input": items}


def one_turn(count: int) -> Json:
    """Calls that are all open at once, with an instruction between them and their results."""
    calls = [{"type": "function_call", "call_id": f"c{n}", "name": "f", "arguments": "{}"} for n in range(count)]
    outputs = [{"type": "function_call_output", "call_id": f"c{n}", "output": "o"} for n in range(count)]
    between = [{"role": "developer", "content": "now"}] * count
    return {"model": "m", "input": [*calls, *between, *outputs[::2], {"role": "user", "content": "no"}, *outputs[1::2]]}


def long_names(count: int) -> Json:
    """Tools in namespaces, all of whose names have to be changed."""
    groups = [
        {"type": "namespace", "name": f"n{n}", "tools": [{"type": kind, "name": "f" * 70} for kind in kinds]}
        for n, kinds in enumerate([("function", "custom")] * count)
    ]
    return {"model": "m", "input": "hi", "tools": groups}


def request_seconds(body: Json) -> float:
    """The least of three: reading, and writing for each upstream."""
    data = json.dumps(body).encode()
    costs = []
    for _ in range(3):
        gc.collect()
        started = time.process_time()
        chat = DIALECTS["openai_responses"].read_request(data)
        for dialect in DIALECTS.values():
            dialect.write_request(chat, "claude-sonnet-4-5", dialect.quirks)
        costs.append(time.process_time() - started)
    return min(costs)


@pytest.fixture
def no_collector() -> Iterator[None]:
    # The collector's own cost grows faster than what is collected, and what other tests have left is not to be walked
    # through again and again.
    gc.disable()
    gc.freeze()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("make", MAKERS)
def test_cost_grows_with_the_length(make: Callable[[int], bytes]) -> None:
    assert seconds(make(60 * _TIMES)) < _AT_MOST * seconds(make(60))


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("make", [conversation, one_turn, long_names])
def test_cost_of_a_request_grows_with_its_length(make: Callable[[int], Json]) -> None:
    assert request_seconds(make(100 * _TIMES)) < _AT_MOST * request_seconds(make(100))
