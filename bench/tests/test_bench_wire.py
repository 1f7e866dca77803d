"""Only a whole answer counts."""

from __future__ import annotations

import json

import pytest

from patchbay_bench.jobs import ClientDialect
from patchbay_bench.wire import has_content, read_answer, request_body

ANTHROPIC = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m"}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"a"}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":" b"}}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
OPENAI = (
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":" b"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"total_tokens":3}}\n\n'
    b"data: [DONE]\n\n"
)
RESPONSES = (
    b'event: response.created\ndata: {"type":"response.created","response":{"id":"r"}}\n\n'
    b'data: {"type":"response.output_text.delta","delta":"a"}\n\n'
    b'data: {"type":"response.output_text.delta","delta":" b"}\n\n'
    b'data: {"type":"response.output_text.done","text":"a b"}\n\n'
    b'data: {"type":"response.completed","response":{"id":"r","output":[]}}\n\n'
)
CODEBUFF = (
    b'data: {"type":"action","data":{"type":"response-chunk","userInputId":"p","chunk":{"type":"start"}}}\n\n'
    b'data: {"type":"action","data":{"type":"response-chunk","userInputId":"p","chunk":"a"}}\n\n'
    b'data: {"type":"action","data":{"type":"response-chunk","userInputId":"p","chunk":" b"}}\n\n'
    b'data: {"type":"action","data":{"type":"prompt-response","promptId":"p","output":{"type":"lastMessage",'
    b'"value":"a b"},"sessionState":{"mainAgentState":{"messageHistory":[{"role":"user"}]}}}}\n\n'
)


@pytest.mark.parametrize(
    ("dialect", "body", "problem"),
    [
        ("anthropic", ANTHROPIC, ""),
        ("anthropic", ANTHROPIC + b"data: [DONE]\n\n", ""),
        ("anthropic", ANTHROPIC.replace(b"\n", b"\r\n"), ""),
        ("anthropic", ANTHROPIC.partition(b"event: message_stop")[0], "has no end"),
        ("anthropic", ANTHROPIC.replace(b'"stop_reason":"end_turn"', b""), "has no stop reason"),
        ("openai", OPENAI, ""),
        ("openai", OPENAI.removesuffix(b"data: [DONE]\n\n"), "has no end"),
        ("openai", OPENAI.replace(b'"stop"', b"null"), "has no stop reason"),
        ("responses", RESPONSES, ""),
        ("responses", RESPONSES.partition(b'data: {"type":"response.completed"')[0], "has no end"),
        ("codebuff", CODEBUFF, ""),
        ("codebuff", CODEBUFF.rpartition(b"data: ")[0], "has no end"),
    ],
)
def test_an_answer_is_read_and_what_it_lacks_is_named(dialect: ClientDialect, body: bytes, problem: str) -> None:
    answer = read_answer(dialect, body)
    assert (answer.text, answer.deltas, answer.problem) == ("a b", 2, problem)


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
def test_an_error_in_the_stream_is_a_problem(dialect: ClientDialect) -> None:
    answer = read_answer(dialect, b'data: {"type":"error","error":{"message":"no"}}\n\n')
    assert answer.problem == """error event: b'{"message":"no"}'"""


@pytest.mark.parametrize("end", ["response.failed", "error"])
def test_a_response_that_failed_is_a_problem(end: str) -> None:
    body = RESPONSES.replace(b"response.completed", end.encode())
    assert read_answer("responses", body).problem == f"ends in {end}"


def test_what_is_no_json_is_a_problem() -> None:
    assert read_answer("openai", b"data: {oops\n\n").problem.startswith("cannot be read")


def test_the_first_content_is_no_empty_delta() -> None:
    assert not has_content("openai", OPENAI.split(b"\n\n")[0])
    assert has_content("openai", b'data: {"choices":[{"delta":{"content": "x"}}]}')
    assert not has_content("anthropic", ANTHROPIC.split(b"\n\n")[0])
    assert has_content("anthropic", ANTHROPIC.split(b"\n\n")[1])
    assert not has_content("responses", RESPONSES.split(b"\n\n")[0])
    assert has_content("responses", RESPONSES.split(b"\n\n")[1])
    assert not has_content("codebuff", CODEBUFF.split(b"\n\n")[0])
    assert has_content("codebuff", CODEBUFF.split(b"\n\n")[1])


@pytest.mark.parametrize(
    ("ending", "problem"),
    [
        (CODEBUFF.replace(b'"value":"a b"', b'"value":"a"'), "has another output than its text"),
        (CODEBUFF.replace(b'{"role":"user"}', b""), "has a session without a history"),
        (b'data: {"data":{"type":"prompt-error","message":"no"}}\n\n', "ends in prompt-error: no"),
    ],
)
def test_a_prompt_that_ends_otherwise_is_a_problem(ending: bytes, problem: str) -> None:
    assert read_answer("codebuff", ending).problem.startswith(problem)


@pytest.mark.parametrize("dialect", ["anthropic", "openai", "responses"])
def test_a_prompt_has_about_the_size_asked_for_and_ends_with_the_user(dialect: ClientDialect) -> None:
    body = request_body(dialect, "m", prompt_bytes=200_000)
    assert 200_000 <= len(body.encode()) < 210_000
    messages = json.loads(body)["input" if dialect == "responses" else "messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2) + ["user"]
