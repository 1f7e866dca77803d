"""The Response object of an answer that passes by."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from patchbay.canonical import Finished
from patchbay.dialects.base import AnswerOptions
from patchbay.dialects.builder import EventBuilder
from patchbay.dialects.openai_responses import write_events
from patchbay.dialects.openai_responses.recording import RecordedResponse, ResponseRecorder
from patchbay.dialects.tool_names import ClientTool

Sse = Callable[[Iterable[object]], bytes]

MESSAGE = {"type": "message", "id": "m", "content": [{"type": "output_text", "text": '"type":"response.completed" ☃'}]}
CALL = {"type": "function_call", "id": "f", "call_id": "c", "name": "n", "arguments": "{}"}
CREATED = {"type": "response.created", "response": {"id": "resp_1", "output": []}}
DELTA = {"type": "response.output_text.delta", "delta": '{"type":"response.completed","response":{}}'}


def done(item: object, index: int) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def ended(status: str = "completed", **fields: object) -> dict[str, Any]:
    return {"type": f"response.{status}", "response": {"id": "resp_1", "x": 1} | fields}


def record(data: bytes, cuts: Iterable[int] = ()) -> RecordedResponse | None:
    recorder = ResponseRecorder()
    start = 0
    for cut in [*cuts, len(data)]:
        recorder.feed(data[start:cut])
        start = cut
    return recorder.close()


OUTPUTS: list[tuple[list[object], list[object], str]] = [
    # The ChatGPT backend repeats no output.
    ([done(CALL, 1), done(MESSAGE, 0), ended(output=[])], [MESSAGE, CALL], "completed"),
    ([done(MESSAGE, 0), ended()], [MESSAGE], "completed"),
    ([done(MESSAGE, 0), ended("incomplete", output=None)], [MESSAGE], "incomplete"),
    # The end's own output, unless its items lack their ids.
    ([done(MESSAGE, 0), ended(output=[CALL])], [CALL], "completed"),
    ([done(CALL, 0), ended(output=[{"type": "function_call"}])], [CALL], "completed"),
    ([ended("failed", output=[])], [], "failed"),
]


@pytest.mark.parametrize(("events", "output", "status"), OUTPUTS)
def test_a_stream_cut_anywhere(events: list[object], output: list[object], status: str, sse: Sse) -> None:
    data = sse([CREATED, DELTA, *events])
    for cut in range(len(data) + 1):
        recorded = record(data, [cut])
        assert recorded is not None
        assert (recorded.id, recorded.status) == ("resp_1", status)
        response = json.loads(recorded.json)
        assert (response["output"], response["x"]) == (output, 1)
    assert record(data, range(len(data))) == recorded


def test_what_has_no_end_is_not_recorded(sse: Sse) -> None:
    assert record(sse([CREATED, DELTA, done(MESSAGE, 0)])) is None
    assert record(b"") is None
    assert record(b'event: response.completed\ndata: {"type":"response.completed","response":[}\n\n') is None


def test_a_whole_body() -> None:
    body = b'\n{"id":"resp_1", "status":"completed","output":[ ]}\n'
    for cut in range(len(body) + 1):
        assert record(body, [cut]) == ("resp_1", "completed", body.strip(), True)


@pytest.mark.parametrize("body", [b'{"error":{"message":"no"}}', b"{", b'{"id":"r","status":"queued","output":[]}'])
def test_a_body_that_is_no_ended_response(body: bytes) -> None:
    assert record(body) is None


def test_events_of_a_web_socket() -> None:
    recorder = ResponseRecorder()
    for event in (CREATED, done(MESSAGE, 0), ended()):
        recorder.event(json.dumps(event).encode())
    recorded = recorder.close()
    assert recorded is not None
    assert json.loads(recorded.json)["output"] == [MESSAGE]


def test_what_the_writer_writes() -> None:
    builder = EventBuilder()
    builder.started(answer_id="resp_1")
    builder.thinking("h")
    builder.text("a")
    builder.tool_call(0, call_id="c", tool=ClientTool("f"))
    builder.close_blocks()
    builder.finished(Finished(stop_reason=Finished.STOP_REASON_TOOL_USE))
    events = builder.take()
    stream, body = (write_events(AnswerOptions(stream=streams, model="m")) for streams in (True, False))
    body.feed(events)
    whole = body.close()
    assert record(stream.feed(events)) == record(whole) == ("resp_1", "completed", whole, True)
