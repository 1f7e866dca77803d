"""The client's own dialect, passed through: bytes untouched, with what must be known read out beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from patchbay.canonical import ChatEvent
from patchbay.dialects.base import ReadOptions
from patchbay.dialects.openai_chat import DIALECT
from patchbay.errors import InvalidRequest

Read = Callable[..., list[ChatEvent]]
Lines = Callable[[Iterable[ChatEvent]], list[str]]

NATIVE = ReadOptions(native=True)
HIDING = ReadOptions(native=True, hide_usage=True)


def frame(text: str) -> bytes:
    return b"data: " + text.encode() + b"\n\n"


ROLE = frame(
    '{"id":"i","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}'
)
TEXT = frame(
    '{"id":"i","choices":[{"index":0,"delta":{"content":"\\"usage\\": {☃"},"finish_reason":null}],"usage":null}'
)
SPACED = frame(
    '{"id": "i", "choices": [{"index": 0, "delta": {"content": "b"}, "finish_reason": null}], "usage": null}'
)
STOP = frame('{"id":"i","choices":[{"index":0,"delta":{},"finish_reason":"length"}],"usage":null}')
USAGE = frame('{"id":"i","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}')
WITH_CHOICE = USAGE.replace(b'"choices":[]', b'"choices":[{"index":0,"delta":{"content":"c"},"finish_reason":null}]')
DONE = frame("[DONE]")
COMMENT = b": OPENROUTER PROCESSING\n\n"
ERROR = frame('{"error":{"message":"busy","type":"server_error","code":"overloaded"}}')
CUT = "error upstream retryable: The upstream's answer ended before it was complete."
BUSY = "error overloaded retryable: busy"

# Name -> (stream, what the client gets, what is read out).
STREAMS: dict[str, tuple[bytes, bytes, list[str]]] = {
    "everything": (
        COMMENT + ROLE + TEXT + SPACED + STOP + USAGE + DONE,
        COMMENT + ROLE + TEXT + SPACED + STOP + USAGE + DONE,
        ["usage input=5 output=2", "finished 0 max_tokens"],
    ),
    "usage in a chunk with a choice": (
        ROLE + WITH_CHOICE + STOP + DONE,
        ROLE + WITH_CHOICE + STOP + DONE,
        ["usage input=5 output=2", "finished 0 max_tokens"],
    ),
    "no closing word": (ROLE + TEXT + STOP, ROLE + TEXT + STOP, ["finished 0 max_tokens"]),
    "no empty line after the closing word": (
        ROLE + TEXT + STOP + DONE[:-2],
        ROLE + TEXT + STOP + DONE[:-2],
        ["finished 0 max_tokens"],
    ),
    "an error after content": (ROLE + TEXT + ERROR + DONE, ROLE + TEXT, [BUSY]),
    "an error at once": (ERROR, b"", [BUSY]),
    "an error event": (ROLE + b'event: error\ndata: {"message":"busy","type":"overloaded"}\n\n', ROLE, [BUSY]),
    "CodeBuddy's error": (
        frame('{"code":11101,"msg":"no"}'),
        b"",
        ["error invalid_request: no"],
    ),
    "cut between frames": (ROLE + TEXT, ROLE + TEXT, [CUT]),
    "cut inside a frame": (ROLE + TEXT + STOP[:-20], ROLE + TEXT, [CUT]),
    "the closing word without a finish reason": (ROLE + TEXT + DONE, ROLE + TEXT, [CUT]),
    "nothing": (b"", b"", [CUT]),
    "frames that are no JSON": (ROLE + frame("?") + STOP, ROLE + frame("?") + STOP, ["finished 0 max_tokens"]),
    "carriage returns": (
        (ROLE + TEXT + STOP + USAGE + DONE).replace(b"\n", b"\r\n"),
        (ROLE + TEXT + STOP + USAGE + DONE).replace(b"\n", b"\r\n"),
        ["usage input=5 output=2", "finished 0 max_tokens"],
    ),
    "nothing after the closing word": (ROLE + STOP + DONE + TEXT, ROLE + STOP + DONE, ["finished 0 max_tokens"]),
    "an error body called a stream": (b'{"error":{"message":"busy","code":"overloaded"}}\n', b"", [BUSY]),
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


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_byte_by_byte(name: str, read: Read, lines: Lines) -> None:
    data, expected, beside = STREAMS[name]
    events = read(data, options=NATIVE, cuts=range(len(data)))
    assert passed(events) == expected
    assert lines(said(events)) == beside


def test_at_most_one_piece_a_feed() -> None:
    reader = DIALECT.read_events(HIDING)
    events = reader.feed(COMMENT + ROLE + TEXT + WITH_CHOICE + STOP + USAGE + DONE)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["usage", "native", "finished"]
    assert reader.close() == []


def test_only_whole_frames_pass(read: Read) -> None:
    data = ROLE + TEXT + STOP + DONE
    for cut in range(len(data)):
        for event in read(data, options=NATIVE, cuts=[cut]):
            if event.HasField("native"):
                assert event.native.data.endswith(b"\n\n")


def test_preamble_until_there_is_content(lines: Lines) -> None:
    reader = DIALECT.read_events(NATIVE)
    preambles = [event.native.preamble for piece in (COMMENT, ROLE, TEXT, ROLE) for event in reader.feed(piece)]
    assert preambles == [True, True, False, False]


@pytest.mark.parametrize(
    "delta",
    ['{"reasoning_content":"r"}', '{"tool_calls":[{"index":0}]}', '{"refusal":"no"}', '{"audio":{"id":"x"}}'],
)
def test_content_of_every_kind_ends_the_preamble(delta: str) -> None:
    (event,) = DIALECT.read_events(NATIVE).feed(frame('{"choices":[{"index":0,"delta":' + delta + "}]}"))
    assert event.native.preamble is False


def test_the_usage_report_is_kept_from_a_client_that_did_not_ask(read: Read, lines: Lines) -> None:
    data = ROLE + TEXT + WITH_CHOICE + STOP + USAGE + DONE
    for cut in range(len(data) + 1):
        events = read(data, options=HIDING, cuts=[cut])
        # Usage beside a choice stays: the chunk has content.
        assert passed(events) == ROLE + TEXT + WITH_CHOICE + STOP + DONE
        assert lines(said(events)) == ["usage input=5 output=2", "finished 0 max_tokens"]


BODY = (
    b'{ "id":"i","object":"chat.completion", "choices":[{"index":0,"message":{"content":"a"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7} }\n'
)
PLAIN = ReadOptions(native=True, content_type="application/json")


def test_a_plain_answer_cut_anywhere(read: Read, lines: Lines) -> None:
    for cut in range(len(BODY) + 1):
        events = read(BODY, options=PLAIN, cuts=[cut])
        assert passed(events) == BODY
        assert lines(said(events)) == ["usage input=5 output=2", "finished 0 end_turn"]


@pytest.mark.parametrize(
    ("body", "expected", "beside"),
    [
        (b'{"error":{"message":"busy","code":"overloaded"}}', b"", [BUSY]),
        (b'{"error":{"message":"busy","code":"overloaded","x":"' + b"x" * 100 + b'"}}', b"", [BUSY]),
        (b'[{"error":{"code":503,"message":"busy","status":"UNAVAILABLE"}}]', b"", [BUSY]),
        (b'{"code":11101,"msg":"no"}', b"", ["error invalid_request: no"]),
        (BODY[:-20], BODY[:-20], [CUT]),
        (b"", b"", [CUT]),
    ],
)
def test_a_plain_answer_that_is_none(body: bytes, expected: bytes, beside: list[str], read: Read, lines: Lines) -> None:
    for cut in range(len(body) + 1):
        events = read(body, options=PLAIN, cuts=[cut])
        assert passed(events) == expected
        assert lines(said(events)) == beside


def test_a_huge_plain_answer_passes_unread(read: Read, lines: Lines) -> None:
    body = BODY.replace(b'"a"', b'"' + b"a" * (9 << 20) + b'"')
    events = read(body, options=PLAIN, cuts=[1000, 1 << 20])
    assert passed(events) == body
    assert lines(said(events)) == ["finished 0 other"]


EDITS: dict[str, tuple[str, str | None, str, bool]] = {
    "nothing to do": ('{ "model":"a", "messages":[] }', None, '{ "model":"a", "messages":[] }', False),
    "another model": ('{ "model":"a", "messages":[] }', "b", '{ "model":"b", "messages":[] }', False),
    "a stream without a usage report": (
        '{"model":"a","stream":true}',
        None,
        '{"stream_options":{"include_usage":true},"model":"a","stream":true}',
        True,
    ),
    "a stream with other options": (
        '{"model":"a", "stream_options":{"include_usage": false, "x": [1.0]},"stream" : true}',
        "b",
        '{"model":"b", "stream_options":{"include_usage":true,"x":[1.0]},"stream" : true}',
        True,
    ),
    "a stream without options in so many words": (
        '{"stream":true,"stream_options":null}',
        None,
        '{"stream":true,"stream_options":{"include_usage":true}}',
        True,
    ),
    "a stream with a usage report": (
        '{"stream":true,"stream_options":{"include_usage" : true}}',
        None,
        '{"stream":true,"stream_options":{"include_usage" : true}}',
        False,
    ),
    "no stream": ('{"stream":false,"stream_options":{}}', None, '{"stream":false,"stream_options":{}}', False),
    "options the upstream will refuse": (
        '{"stream":true,"stream_options":5}',
        None,
        '{"stream":true,"stream_options":5}',
        False,
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_edits_of_a_clients_body(name: str) -> None:
    body, model, expected, hide_usage = EDITS[name]
    edit = DIALECT.edit_native(body.encode(), model, DIALECT.quirks)
    assert (edit.body.decode(), edit.hide_usage) == (expected, hide_usage)


def test_a_body_without_edits_is_not_copied() -> None:
    body = b'{"model":"a"}'
    assert DIALECT.edit_native(body, None, DIALECT.quirks).body is body


def test_an_edit_changes_nothing_else() -> None:
    client: dict[str, Any] = {
        "messages": [{"role": "user", "content": '{"model":"a","stream":true} ☃'}],
        "model": "a",
        "stream": True,
        "x": {"model": "a"},
    }
    edited = json.loads(DIALECT.edit_native(json.dumps(client).encode(), "b", DIALECT.quirks).body)
    assert edited == {**client, "model": "b", "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model":', b"\xff"])
def test_bodies_that_cannot_be_edited(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        DIALECT.edit_native(body, "m", DIALECT.quirks)


def test_half_a_surrogate_pair_passes_untouched(read: Read, lines: Lines) -> None:
    body = BODY.replace(b'"a"', rb'"\ud83d"')
    events = read(body, options=PLAIN)
    assert passed(events) == body
    assert lines(said(events)) == ["usage input=5 output=2", "finished 0 end_turn"]
