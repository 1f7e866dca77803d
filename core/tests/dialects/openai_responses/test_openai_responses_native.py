"""The client's own dialect, passed through: bytes untouched, with what must be known read out beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import pytest

from patchbay import errors
from patchbay.canonical import ChatEvent, Error
from patchbay.dialects.base import AnswerOptions, ReadOptions
from patchbay.dialects.openai_responses import read_events, write_events
from patchbay.errors import PatchbayError, make_error

Read = Callable[..., list[ChatEvent]]
Lines = Callable[[Iterable[ChatEvent]], list[str]]

NATIVE = ReadOptions(native=True, content_type="")


def frame(type_: str, fields: str = "", *, named: bool = True) -> bytes:
    name = f"event: {type_}\n" if named else ""
    return f'{name}data: {{"type":"{type_}"{fields}}}\n\n'.encode()


CREATED = frame("response.created", ',"sequence_number":0,"response":{"id":"resp_1","output":[],"error":null}')
PROGRESS = frame("response.in_progress", ',"sequence_number":1,"response":{"id":"resp_1"}')
LIMITS = frame("codex.rate_limits", ',"rate_limits":{"primary":{"used_percent":1}}', named=False)
COMMENT = b": ping\n\n"
PREAMBLE = COMMENT + CREATED + LIMITS + PROGRESS
TEXT = frame("response.output_text.delta", ',"sequence_number":2,"delta":"\\"response\\": {\\"type\\":\\"error\\"} ☃"')
CALL = frame("response.output_item.added", ',"output_index":0,"item":{"type":"function_call","call_id":"c"}')
USAGE = '"usage":{"input_tokens":5,"output_tokens":2,"total_tokens":7}'
END = frame("response.completed", ',"sequence_number":3,"response":{"id":"resp_1","output":[],' + USAGE + "}")
SPACED = b'data: {"type": "response.completed", "response" : {"id": "resp_1", "status": "completed"}}\n\n'
LIMIT = frame("response.incomplete", ',"response":{"incomplete_details":{"reason":"max_output_tokens"}}')
FAILED = frame(
    "response.failed", ',"response":{"id":"resp_1","error":{"code":"server_is_overloaded","message":"busy"}}'
)
ERROR = frame("error", ',"code":"server_is_overloaded","message":"busy"')
DONE = b"data: [DONE]\n\n"
NO_JSON = b"data: ?\n\n"
CUT = "error upstream retryable: The upstream's answer ended before it was complete."
BUSY = "error overloaded retryable: busy"

# Name -> (stream, what the client gets, what is read out).
STREAMS: dict[str, tuple[bytes, bytes, list[str]]] = {
    "everything": (
        PREAMBLE + TEXT + LIMITS + END,
        PREAMBLE + TEXT + LIMITS + END,
        ["usage input=5 output=2", "finished 0 end_turn"],
    ),
    "a call": (PREAMBLE + CALL + END, PREAMBLE + CALL + END, ["usage input=5 output=2", "finished 0 tool_use"]),
    "other white space": (CREATED + TEXT + SPACED, CREATED + TEXT + SPACED, ["finished 0 end_turn"]),
    "no empty line after the last event": (
        CREATED + TEXT + LIMIT[:-2],
        CREATED + TEXT + LIMIT,
        ["finished 0 max_tokens"],
    ),
    "a word that is none of the protocol": (
        CREATED + TEXT + LIMIT + DONE,
        CREATED + TEXT + LIMIT,
        ["finished 0 max_tokens"],
    ),
    "a failure before content": (PREAMBLE + FAILED, PREAMBLE, [BUSY]),
    "a failure after content": (PREAMBLE + TEXT + FAILED, PREAMBLE + TEXT + FAILED, [BUSY]),
    "an error before content": (PREAMBLE + ERROR, PREAMBLE, [BUSY]),
    "an error after content": (PREAMBLE + TEXT + ERROR + TEXT, PREAMBLE + TEXT, [BUSY]),
    "an error without a type": (
        CREATED + TEXT + b'data: {"error":{"message":"busy","code":"slow_down"}}\n\n',
        CREATED + TEXT,
        [BUSY],
    ),
    "an error body called a stream": (b'{"error":{"message":"busy","code":"slow_down"}}\n', b"", [BUSY]),
    "cut between frames": (CREATED + TEXT, CREATED + TEXT, [CUT]),
    "cut inside a frame": (CREATED + TEXT + END[:-20], CREATED + TEXT, [CUT]),
    "nothing": (b"", b"", [CUT]),
    "frames that are no JSON": (CREATED + NO_JSON + LIMIT, CREATED + NO_JSON + LIMIT, ["finished 0 max_tokens"]),
    "carriage returns": (
        (PREAMBLE + TEXT + END).replace(b"\n", b"\r\n"),
        (PREAMBLE + TEXT + END).replace(b"\n", b"\r\n"),
        ["usage input=5 output=2", "finished 0 end_turn"],
    ),
}


def passed(events: Iterable[ChatEvent]) -> bytes:
    return b"".join(event.native.data for event in events)


def said(events: Iterable[ChatEvent]) -> list[ChatEvent]:
    return [event for event in events if not event.HasField("native")]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_cut_anywhere(name: str, read: Read, lines: Lines) -> None:
    data, expected, beside = STREAMS[name]
    for cut in range(len(data) + 1):
        events = read(data, options=NATIVE, cuts=[cut])
        assert passed(events) == expected
        assert lines(said(events)) == beside
    events = read(data, options=NATIVE, cuts=range(len(data)))
    assert passed(events) == expected
    assert lines(said(events)) == beside


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_an_output_that_the_end_leaves_out_is_put_in(size: int, read: Read) -> None:
    """The official SDK takes the Response at the end for all of the answer."""
    item = {"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "a\nb"}]}
    told = frame("response.output_item.done", f',"output_index":0,"item":{json.dumps(item)}')
    response = {"id": "resp_1", "status": "completed", "output": []}
    data = told + frame("response.completed", f',"sequence_number":9,"response":{json.dumps(response)}')
    reader = read_events(NATIVE)
    events = [event for start in range(0, len(data), size) for event in reader.feed(data[start : start + size])]
    passed = b"".join(event.native.data for event in events + reader.close())
    assert passed.startswith(told)
    end = passed.removeprefix(told).removeprefix(b"event: response.completed\ndata: ")
    mended = {"type": "response.completed", "sequence_number": 9, "response": response | {"output": [item]}}
    assert json.loads(end) == mended
    assert end.endswith(b"\n\n")
    # One that is there stays as it came.
    whole = told + frame("response.completed", f',"response":{json.dumps(response | {"output": [item]})}')
    assert b"".join(event.native.data for event in read_events(NATIVE).feed(whole)) == whole


def test_only_whole_frames_pass(read: Read) -> None:
    data = PREAMBLE + TEXT + END
    for cut in range(len(data)):
        for event in read(data, options=NATIVE, cuts=[cut]):
            if event.HasField("native"):
                assert event.native.data.endswith(b"\n\n")


def test_preamble_until_there_is_content() -> None:
    reader = read_events(NATIVE)
    pieces = (COMMENT, CREATED, LIMITS, PROGRESS, TEXT, LIMITS, END)
    preambles = [event.native.preamble for piece in pieces for event in reader.feed(piece) if event.HasField("native")]
    assert preambles == [True] * 4 + [False] * 3
    assert reader.close() == []


BODY = (
    b'{ "id":"resp_1","object":"response","status":"completed","error":null,\n "output":[{"type":"function_call"}],'
    b'"usage":{"input_tokens":5,"output_tokens":2,"total_tokens":7} }\n'
)


def test_a_plain_answer_cut_anywhere(read: Read, lines: Lines) -> None:
    for cut in range(len(BODY) + 1):
        events = read(BODY, options=NATIVE, cuts=[cut])
        assert passed(events) == BODY
        assert lines(said(events)) == ["usage input=5 output=2", "finished 0 tool_use"]


@pytest.mark.parametrize(
    ("body", "expected", "beside"),
    [
        (b'{"error":{"message":"busy","code":"slow_down"}}', b"", [BUSY]),
        (b'{"detail":"no such thing"}', b"", ["error upstream retryable: no such thing"]),
        (b'{"id":"r","status":"failed","error":{"code":"slow_down","message":"busy"},"output":[]}', None, [BUSY]),
        (b'{"id":"r","object":"response","status":"queued","output":[]}', None, ["finished 0 end_turn"]),
        (
            b'{"id":"r","status":"incomplete","incomplete_details":{"reason":"content_filter"},"output":[]}',
            None,
            ["finished 0 content_filter"],
        ),
        (BODY[:-20], BODY[:-20], [CUT]),
        (b"", b"", [CUT]),
        (b"<html>no</html>", b"", ["error upstream retryable: The upstream reported an error."]),
    ],
)
def test_other_plain_answers(body: bytes, expected: bytes | None, beside: list[str], read: Read, lines: Lines) -> None:
    for cut in range(len(body) + 1):
        events = read(body, options=NATIVE, cuts=[cut])
        assert expected is None or passed(events) == expected
        assert lines(said(events)) == beside


def relayed(pieces: Iterable[bytes], *, stream: bool = True, error: Error | None = None) -> bytes:
    """What the client gets of an upstream's own answer."""
    reader = read_events(NATIVE)
    writer = write_events(AnswerOptions(stream=stream, model="m", fallback_id="f", created=9))
    out = [writer.feed(reader.feed(piece)) for piece in pieces]
    out.append(writer.feed(reader.close() if error is None else [ChatEvent(error=error)]))
    return b"".join(out) + writer.close()


def test_a_whole_stream_is_relayed_untouched() -> None:
    assert relayed([PREAMBLE, TEXT, END]) == PREAMBLE + TEXT + END
    assert relayed([BODY[:50], BODY[50:]], stream=False) == BODY


def test_a_stream_for_a_client_that_wants_a_body() -> None:
    """The ChatGPT backend only streams, and leaves the output out of the end."""
    item = frame("response.output_item.done", ',"output_index":0,"item":{"type":"message","id":"m","content":[]}')
    for pieces in ([PREAMBLE, TEXT, item, END], [PREAMBLE + TEXT + item + END]):
        assert json.loads(relayed(pieces, stream=False)) == {
            "id": "resp_1",
            "output": [{"type": "message", "id": "m", "content": []}],
            "usage": {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7},
        }
    for broken in ([PREAMBLE, TEXT], [PREAMBLE, TEXT, FAILED], [PREAMBLE, ERROR]):
        with pytest.raises(PatchbayError):
            relayed(broken, stream=False)


def test_a_failure_in_the_upstreams_own_words_is_not_told_twice() -> None:
    assert relayed([PREAMBLE, TEXT, FAILED]) == PREAMBLE + TEXT + FAILED


@pytest.mark.parametrize(
    "pieces", [[PREAMBLE, TEXT, ERROR], [PREAMBLE + TEXT + ERROR], [COMMENT, PREAMBLE[8:], TEXT, ERROR]]
)
def test_another_error_ends_the_stream_in_this_dialects_way(pieces: list[bytes]) -> None:
    out = relayed(pieces)
    assert out.startswith(PREAMBLE + TEXT + b"event: response.failed\ndata: ")
    event = json.loads(out.removeprefix(PREAMBLE + TEXT).split(b"data: ")[1])
    assert event["sequence_number"] == 3
    assert event["response"]["id"] == "resp_1"
    assert event["response"]["error"] == {"code": "server_is_overloaded", "message": "busy"}


def test_a_lost_worker_ends_the_stream_too() -> None:
    out = relayed([CREATED, TEXT], error=make_error(errors.UNAVAILABLE, "gone"))
    response = json.loads(out.split(b"data: ")[-1])["response"]
    assert (response["id"], response["error"]["code"]) == ("resp_1", "server_error")
    # Servers that are only compatible have ids of their own, or none.
    for named, expected in ((CREATED.replace(b"resp_1", b"x-1"), "x-1"), (TEXT, "resp_f")):
        out = relayed([named, TEXT], error=make_error(errors.UNAVAILABLE, "gone"))
        assert json.loads(out.split(b"data: ")[-1])["response"]["id"] == expected
    with pytest.raises(PatchbayError):
        relayed([BODY[:50]], stream=False, error=make_error(errors.UNAVAILABLE, "gone"))
