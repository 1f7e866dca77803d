from __future__ import annotations

import json

import pytest

from patchbay_claude_worker.cli.messages import read_message
from patchbay_claude_worker.model.answer import AnswerStream

NOW = 1_000.0


def line(kind: str, **fields: object) -> bytes:
    return json.dumps({"type": kind, "session_id": "s", "parent_tool_use_id": None, **fields}).encode()


def event(name: str, **fields: object) -> bytes:
    return line("stream_event", event={"type": name, **fields})


def result(words: str, **fields: object) -> bytes:
    return line("result", subtype="success", is_error=True, result=words, **fields)


START = event("message_start", message={"id": "msg_1", "content": []})
OPEN = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
DELTA = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "hello"})
CLOSE = event("content_block_stop", index=0)
END = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 1})
STOP = event("message_stop")
# What the program makes up when the upstream's stream broke.
MADE_UP_END = event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 0})
APOLOGY = line(
    "assistant",
    message={"model": "<synthetic>", "content": [{"type": "text", "text": "API Error: sorry"}]},
    error="server_error",
    request_id="req_1",
)
LOST = result("API Error: Connection closed mid-response.", api_error="connection_failed")


def play(*lines: bytes, refusal: str = "") -> tuple[AnswerStream, bytes]:
    """Feeds lines as the transport does: until the answer is over."""
    stream = AnswerStream(lambda: NOW, refusal)
    frames = b""
    for one in lines:
        message = read_message(one)
        assert message is not None
        frames += stream.feed(message)
        if stream.ended or stream.failure is not None:
            break
    return stream, frames


def names(frames: bytes) -> list[str]:
    return [one.removeprefix("event: ") for one in frames.decode().splitlines() if one.startswith("event: ")]


def test_an_answer_is_the_upstreams_own_frames() -> None:
    other = line("system", subtype="status", status="requesting")
    whole = line("assistant", message={"content": [{"type": "text", "text": "hello"}]}, request_id="req_1")
    stream, frames = play(other, START, OPEN, DELTA, whole, CLOSE, END, STOP, result("hello"))
    assert (stream.started, stream.ended, stream.failure) == (True, True, None)
    data = [json.loads(one.removeprefix("data: ")) for one in frames.decode().splitlines() if one.startswith("data: ")]
    assert data == [json.loads(one)["event"] for one in (START, OPEN, DELTA, CLOSE, END, STOP)]
    assert names(frames) == [one["type"] for one in data]


def test_it_is_over_with_its_stop_reason_whatever_the_program_goes_on_with() -> None:
    end = event("message_delta", delta={"stop_reason": "max_tokens"}, usage={"output_tokens": 1})
    stream, frames = play(START, OPEN, DELTA, CLOSE, end, STOP, START, OPEN, DELTA, CLOSE, END, STOP)
    assert names(frames).count("message_start") == 1
    assert names(frames)[-1] == "message_stop"
    assert stream.ended


@pytest.mark.parametrize(
    "made_up",
    [
        [CLOSE, MADE_UP_END, STOP, APOLOGY],
        [MADE_UP_END, STOP, APOLOGY],
        # It tries again by itself.
        [CLOSE, START, OPEN, DELTA, CLOSE, END, STOP],
        [CLOSE, MADE_UP_END, STOP, START, OPEN, DELTA, CLOSE, END, STOP],
        [CLOSE, APOLOGY],
    ],
)
def test_what_the_program_makes_up_is_not_passed_on(made_up: list[bytes]) -> None:
    stream, frames = play(START, OPEN, DELTA, *made_up, LOST)
    assert names(frames) == ["message_start", "content_block_start", "content_block_delta"]
    assert not stream.ended
    assert stream.failure is not None
    assert (stream.failure.kind, stream.failure.message) == ("api_error", "The connection to the provider was lost.")
    assert b"sorry" not in frames
    assert names(stream.failure.frame()) == ["error"]


def test_a_second_answer_is_not_waited_for() -> None:
    stream, frames = play(START, OPEN, DELTA, CLOSE, START)
    assert stream.failure is not None
    assert stream.failure.lost
    assert names(frames) == ["message_start", "content_block_start", "content_block_delta"]


def test_the_end_of_a_block_is_passed_on_as_soon_as_something_follows() -> None:
    _, frames = play(START, OPEN, DELTA, CLOSE, OPEN)
    assert names(frames)[-2:] == ["content_block_stop", "content_block_start"]


def test_a_subagents_events_are_not_the_answers() -> None:
    inner = line("stream_event", event={"type": "message_start"}, parent_tool_use_id="toolu_1")
    stream, frames = play(inner)
    assert (stream.started, frames) == (False, b"")


REFUSED = "not signed in: do this"
ADVICE = (
    ". This is a server-side issue, usually temporary — try again in a moment. "
    "If it persists, check your inference gateway (127.0.0.1:1)."
)


@pytest.mark.parametrize(
    ("words", "fields", "status", "kind", "message"),
    [
        ("API Error: 400 max_tokens: too many", (400, "invalid_request_error"), 400, None, "max_tokens: too many"),
        ("API Error: 400 API Error: 400 x", (400, "invalid_request_error"), 400, None, "API Error: 400 x"),
        ("Prompt is too long", (400, "invalid_request_error"), 400, None, "prompt is too long"),
        (
            "Failed to authenticate. API Error: 401 The key is invalid.",
            (401, "authentication_error"),
            401,
            None,
            "The key is invalid.",
        ),
        (
            "Invalid API key · Fix external API key",
            (401, "authentication_error"),
            401,
            None,
            "invalid x-api-key",
        ),
        (
            "There's an issue with the selected model (m (new)). It may not exist or you may not have access to it.",
            (404, "not_found_error"),
            404,
            None,
            "model: m (new)",
        ),
        ("API Error: Request rejected (429) · slow down", (429, "rate_limit_error"), 429, None, "slow down"),
        ("API Error: 500 Internal server error. This is", (500, "api_error"), 500, None, "Internal server error"),
        ("API Error: Repeated 529 Overloaded errors", (529, "overloaded_error"), 529, None, "Overloaded"),
        ("Request too large (max 32MB).", (413, "request_too_large"), 413, None, "Request exceeds the maximum size"),
        (
            "API Error: 503 busy" + ADVICE,
            (503, "api_error"),
            503,
            None,
            "busy",
        ),
        ("API Error: Overloaded", (None, "overloaded_error"), 529, None, "Overloaded"),
        ("", (None, None), 500, "api_error", "Internal server error"),
    ],
)
def test_a_failure_is_said_as_the_api_says_it(
    words: str, fields: tuple[int | None, str | None], status: int, kind: str | None, message: str
) -> None:
    api_status, api_type = fields
    stream, frames = play(APOLOGY, result(words, api_error_status=api_status, api_error_type=api_type))
    failure = stream.failure
    assert failure is not None
    assert (frames, stream.started) == (b"", False)
    assert (failure.status, failure.kind, failure.message) == (status, kind or api_type, message)
    assert json.loads(failure.body()) == {
        "type": "error",
        "error": {"type": failure.kind, "message": message},
        "request_id": "req_1",
    }


@pytest.mark.parametrize(("cause", "status"), [("connection_failed", 502), ("timeout", 504)])
def test_a_lost_connection_is_no_word_of_the_programs(cause: str, status: int) -> None:
    stream, _ = play(result("API Error: Unable to connect (ECONNREFUSED 10.0.0.1)", api_error=cause))
    assert stream.failure is not None
    assert (stream.failure.status, stream.failure.message) == (status, "The connection to the provider was lost.")
    assert stream.failure.lost is (cause == "connection_failed")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("Not logged in · Please run /login", None),
        ("Login expired · Please run /login", 401),
        ("Failed to authenticate. API Error: 401 invalid", 401),
        ("Failed to authenticate: OAuth token revoked. Please log in again.", 403),
    ],
)
def test_a_sign_in_that_is_no_good_says_how_to_mend_it(words: str, status: int | None) -> None:
    apology = line("assistant", message={}, error="authentication_failed", request_id="req_1")
    stream, _ = play(apology, result(words, api_error_status=status), refusal=REFUSED)
    assert stream.failure is not None
    assert (stream.failure.status, stream.failure.kind) == (401, "authentication_error")
    assert (stream.failure.message, stream.failure.request_id) == (REFUSED, "req_1")


def test_a_refusal_of_another_kind_is_not_the_sign_ins_fault() -> None:
    apology = line("assistant", message={}, error="authentication_failed")
    words = "Failed to authenticate. API Error: 403 not your model"
    stream, _ = play(apology, result(words, api_error_status=403, api_error_type="permission_error"), refusal=REFUSED)
    assert stream.failure is not None
    assert (stream.failure.status, stream.failure.message) == (403, "not your model")
    full = "Could not refresh your login: the disk is full"
    stream, _ = play(apology, result(full), refusal=REFUSED)
    assert stream.failure is not None
    assert (stream.failure.status, stream.failure.message) == (401, full)


def test_a_used_up_subscription_says_when_to_come_again() -> None:
    fine = line("rate_limit_event", rate_limit_info={"status": "allowed", "resetsAt": NOW + 9})
    used_up = line("rate_limit_event", rate_limit_info={"status": "rejected", "resetsAt": NOW + 60})
    broken = line("rate_limit_event", rate_limit_info={"status": 7})
    limit = result("You've hit your limit", api_error_status=429, api_error_type="rate_limit_error")
    for lines, wait in (((fine, limit), None), ((broken, limit), None), ((fine, used_up, limit), 60.0)):
        stream, _ = play(*lines)
        assert stream.failure is not None
        assert (stream.failure.status, stream.failure.retry_after) == (429, wait)
