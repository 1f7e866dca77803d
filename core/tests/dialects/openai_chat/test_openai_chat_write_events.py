"""Events written as answers: the bytes, and what the official SDK makes of them, streamed and whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import httpx2
import openai
import pytest
from google.protobuf import text_format

from patchbay.canonical import ChatEvent, ChatEvents
from patchbay.dialects.base import AnswerOptions, ReadOptions
from patchbay.dialects.openai_chat import DIALECT
from patchbay.dialects.sse import parse_frames
from patchbay.errors import PatchbayError

STREAM = AnswerOptions(stream=True, include_usage=True, model="asked", fallback_id="fallback", created=9)
WHOLE = AnswerOptions(stream=False, model="asked", fallback_id="fallback", created=9)


def events(text: str) -> list[ChatEvent]:
    """One event a line, in text format."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return list(text_format.Parse(" ".join(f"events {{ {line} }}" for line in lines if line), ChatEvents()).events)


def write(found: Iterable[ChatEvent], options: AnswerOptions) -> bytes:
    writer = DIALECT.write_events(options)
    return b"".join([writer.feed([event]) for event in found]) + writer.close()


def client(body: bytes, content_type: str) -> openai.OpenAI:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=body, headers={"content-type": content_type})

    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="none", base_url="http://patchbay.test/v1", http_client=transport, max_retries=0)


def parsed(found: Iterable[ChatEvent]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the SDK makes of the answer: of its stream, and of its whole."""
    messages: Any = [{"role": "user", "content": "hi"}]
    found = list(found)
    streaming = client(write(found, STREAM), "text/event-stream")
    with streaming.chat.completions.stream(model="m", messages=messages, stream_options={"include_usage": True}) as s:
        for _ in s:
            pass
        streamed = s.current_completion_snapshot.to_dict()
    whole = client(write(found, WHOLE), "application/json").chat.completions.create(model="m", messages=messages)
    return streamed, whole.to_dict()


USAGE = "usage { input_tokens: 30 cache_read_tokens: 60 cache_write_tokens: 10 output_tokens: 50 reasoning_tokens: 20 }"
WRITTEN_USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 20},
}
STARTED = 'started { id: "id-1" model: "m" created: 7 }'

# Name -> (events between the start and the end, stop reason, the message, finish reason).
ANSWERS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "text": (
        """
        block_start { text {} }
        text_delta { text: "H\\303\\251\\n" }
        text_delta { text: "" }
        text_delta { text: "\\"llo\\"" }
        block_stop {}
        """,
        "END_TURN",
        {"content": 'Hé\n"llo"'},
        "stop",
    ),
    "nothing": ("", "END_TURN", {"content": None}, "stop"),
    "several blocks of text": (
        """
        block_start { index: 0 text {} }
        text_delta { index: 0 text: "a" }
        block_stop { index: 0 }
        block_start { index: 1 text {} }
        text_delta { index: 1 text: "b" }
        block_stop { index: 1 }
        """,
        "STOP_SEQUENCE",
        {"content": "ab"},
        "stop",
    ),
    "thinking with a signature, twice, and redacted": (
        """
        block_start { index: 0 thinking {} }
        thinking_delta { index: 0 text: "h" }
        thinking_delta { index: 0 text: "m" }
        signature_delta { index: 0 signature: "S1" }
        block_stop { index: 0 }
        block_start { index: 1 redacted_thinking { data: "AA==" } }
        block_stop { index: 1 }
        block_start { index: 2 thinking {} }
        signature_delta { index: 2 signature: "S2" }
        block_stop { index: 2 }
        block_start { index: 3 text {} }
        text_delta { index: 3 text: "a" }
        block_stop { index: 3 }
        """,
        "MAX_TOKENS",
        {
            "content": "a",
            "reasoning_content": "hm",
            "reasoning_details": [
                {
                    "type": "reasoning.text",
                    "text": "hm",
                    "signature": "S1",
                    "format": "anthropic-claude-v1",
                    "index": 0,
                },
                {"type": "reasoning.encrypted", "data": "AA==", "format": "anthropic-claude-v1", "index": 1},
                {"type": "reasoning.text", "text": "", "signature": "S2", "format": "anthropic-claude-v1", "index": 2},
            ],
        },
        "length",
    ),
    "thinking without a signature": (
        """
        block_start { index: 0 thinking {} }
        thinking_delta { index: 0 text: "hm" }
        block_stop { index: 0 }
        block_start { index: 1 thinking {} }
        thinking_delta { index: 1 text: "!" }
        block_stop { index: 1 }
        """,
        "END_TURN",
        {"content": None, "reasoning_content": "hm!"},
        "stop",
    ),
    "interleaved tool calls": (
        """
        block_start { index: 0 text {} }
        text_delta { index: 0 text: "so" }
        block_stop { index: 0 }
        block_start { index: 1 tool_use { id: "c1" name: "f" } }
        block_start { index: 2 tool_use { id: "c2" name: "g" } }
        tool_input_delta { index: 2 text: "{\\"b\\"" }
        tool_input_delta { index: 1 text: "{}" }
        tool_input_delta { index: 2 text: ": 1}" }
        block_stop { index: 1 }
        block_stop { index: 2 }
        """,
        "TOOL_USE",
        {
            "content": "so",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": '{"b": 1}'}},
            ],
        },
        "tool_calls",
    ),
    "a tool call without input": (
        """
        block_start { tool_use { id: "c1" name: "f" } }
        block_stop {}
        """,
        "TOOL_USE",
        {
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        "tool_calls",
    ),
    "what another provider ran itself": (
        """
        block_start { index: 0 opaque { dialect: "anthropic" json: "{\\"type\\":\\"server_tool_use\\"}" } }
        tool_input_delta { index: 0 text: "{}" }
        block_stop { index: 0 }
        block_start { index: 1 text {} }
        text_delta { index: 1 text: "a" }
        citation_delta { index: 1 dialect: "anthropic" json: "{}" }
        block_stop { index: 1 }
        """,
        "TOOL_USE",
        {"content": "a"},
        "stop",
    ),
    "a paused turn": ("", "PAUSE_TURN", {"content": None}, "stop"),
    "a full context window": ("", "CONTEXT_WINDOW", {"content": None}, "length"),
    "a filtered answer": ("", "CONTENT_FILTER", {"content": None}, "content_filter"),
    "a refusal without words": ("", "REFUSAL", {"content": None}, "content_filter"),
    "an unknown reason": ("", "OTHER", {"content": None}, "stop"),
    "a refusal": (
        """
        block_start { refusal {} }
        text_delta { text: "I " }
        text_delta { text: "won't" }
        block_stop {}
        """,
        "REFUSAL",
        {"content": None, "refusal": "I won't"},
        "stop",
    ),
    "citations and images of this dialect": (
        """
        block_start { text {} }
        text_delta { text: "a" }
        citation_delta { dialect: "openai_chat" json: "{\\"type\\":\\"url_citation\\",\\"n\\":1}" }
        citation_delta { dialect: "openai_chat" json: "{\\"type\\":\\"url_citation\\",\\"n\\":2}" }
        block_stop {}
        block_start { index: 1 opaque { dialect: "openai_chat" json: "{\\"images\\":[{\\"n\\":3}]}" } }
        block_stop { index: 1 }
        block_start { index: 2 opaque { dialect: "openai_chat" json: "{\\"images\\":[{\\"n\\":4}]}" } }
        block_stop { index: 2 }
        """,
        "END_TURN",
        {
            "content": "a",
            "annotations": [{"type": "url_citation", "n": 1}, {"type": "url_citation", "n": 2}],
            "images": [{"n": 3}, {"n": 4}],
        },
        "stop",
    ),
    "audio in pieces": (
        """
        block_start { opaque { dialect: "openai_chat" json: "{\\"audio\\":{\\"id\\":\\"x\\",\\"data\\":\\"AA\\"}}" } }
        block_start { index: 1 opaque { dialect: "openai_chat" json: "{\\"audio\\":{\\"data\\":\\"BB\\"}}" } }
        block_stop { index: 1 }
        """,
        "END_TURN",
        {"content": None, "audio": {"id": "x", "data": "AABB"}},
        "stop",
    ),
}


def bare(message: dict[str, Any]) -> dict[str, Any]:
    """A message without the fields that a stream leaves out where a whole answer says null or gives a position."""
    found = {name: value for name, value in message.items() if value is not None and name not in ("role", "parsed")}
    for call in found.get("tool_calls", []):
        call.pop("index", None)
        call.get("function", {}).pop("parsed_arguments", None)
    return {"content": None, **found}


def answer(middle: str, reason: str) -> list[ChatEvent]:
    return events(f"{STARTED}\n{middle}\n{USAGE}\nfinished {{ stop_reason: STOP_REASON_{reason} }}")


@pytest.mark.parametrize("name", ANSWERS)
def test_the_sdk_reads_both_forms_alike(name: str) -> None:
    middle, reason, message, finish = ANSWERS[name]
    for completion in parsed(answer(middle, reason)):
        (choice,) = completion["choices"]
        assert bare(choice["message"]) == message
        assert choice["message"]["role"] == "assistant"
        assert choice["finish_reason"] == finish
        assert completion["usage"] == WRITTEN_USAGE
        assert (completion["id"], completion["model"], completion["created"]) == ("id-1", "m", 7)


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_written_reads_back(name: str, read: Callable[..., list[ChatEvent]]) -> None:
    """Both forms, read again and written again, say the same: signatures, calls and all."""
    middle, reason, message, _ = ANSWERS[name]
    found = answer(middle, reason)
    streamed = read(write(found, STREAM))
    whole = read(write(found, WHOLE), options=ReadOptions(content_type="application/json"))
    for again in (streamed, whole):
        (choice,) = json.loads(write(again, WHOLE))["choices"]
        assert bare(choice["message"]) == message


def test_the_frames_of_a_stream() -> None:
    found = events(
        """
        started { id: "id-1" model: "m" created: 7 }
        block_start { index: 0 text {} }
        text_delta { index: 0 text: "a" }
        block_stop { index: 0 }
        block_start { index: 1 tool_use { id: "c1" name: "f" } }
        tool_input_delta { index: 1 text: "{}" }
        block_stop { index: 1 }
        block_start { index: 2 tool_use { id: "c2" name: "g" text_input: true } }
        tool_input_delta { index: 2 text: "ls" }
        block_stop { index: 2 }
        usage { input_tokens: 1 output_tokens: 2 }
        finished { stop_reason: STOP_REASON_TOOL_USE extensions { key: "openai_chat" value: '{"n":"fp"}' } }
        """
    )
    head = b'data: {"id":"id-1","object":"chat.completion.chunk","created":7,"model":"m","choices":[{"index":0,"delta":'
    open_end = b',"finish_reason":null}],"usage":null}\n\n'
    assert write(found, STREAM) == b"".join(
        [
            head + b'{"role":"assistant","content":null}' + open_end,
            head + b'{"content":"a"}' + open_end,
            head + b'{"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":""}}]}',
            open_end,
            head + b'{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}' + open_end,
            head + b'{"tool_calls":[{"index":1,"id":"c2","type":"custom","custom":{"name":"g","input":""}}]}',
            open_end,
            head + b'{"tool_calls":[{"index":1,"custom":{"input":"ls"}}]}' + open_end,
            head + b'{},"finish_reason":"tool_calls"}],"n":"fp","usage":null}\n\n',
            head.partition(b"[")[0] + b'[],"n":"fp","usage":{"prompt_tokens":1,"completion_tokens":2,',
            b'"total_tokens":3,"prompt_tokens_details":{"cached_tokens":0},',
            b'"completion_tokens_details":{"reasoning_tokens":0}}}\n\n',
            b"data: [DONE]\n\n",
        ]
    )


def test_a_whole_body() -> None:
    found = events(
        """
        block_start { text {} }
        text_delta { text: "a" logprobs_json: "[{\\"token\\":\\"a\\"}]" }
        text_delta { text: "b" logprobs_json: "[{\\"token\\":\\"b\\"}]" }
        block_stop {}
        finished { extensions { key: "openai_chat" value: "{\\"service_tier\\":\\"flex\\"}" } }
        """
    )
    assert write(found, WHOLE) == (
        b'{"id":"fallback","object":"chat.completion","created":9,"model":"asked","choices":[{"index":0,'
        b'"message":{"role":"assistant","content":"ab","refusal":null},'
        b'"logprobs":{"content":[{"token":"a"},{"token":"b"}],"refusal":null},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0,'
        b'"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}},'
        b'"service_tier":"flex"}'
    )


def test_log_probabilities_in_both_forms() -> None:
    found = events(
        """
        started { id: "i" }
        block_start { text {} }
        text_delta { text: "a" logprobs_json: "[{\\"token\\":\\"a\\",\\"logprob\\":-1,\\"top_logprobs\\":[]}]" }
        text_delta { text: "b" logprobs_json: "[{\\"token\\":\\"b\\",\\"logprob\\":-2,\\"top_logprobs\\":[]}]" }
        block_stop {}
        finished { stop_reason: STOP_REASON_END_TURN }
        """
    )
    for completion in parsed(found):
        tokens = [entry["token"] for entry in completion["choices"][0]["logprobs"]["content"]]
        assert tokens == ["a", "b"]
        assert completion["choices"][0]["message"]["content"] == "ab"


def test_several_answers_in_both_forms() -> None:
    """The later answer speaks first; the SDK wants the choices opened in order."""
    found = events(
        """
        started { id: "i" }
        block_start { index: 0 choice: 2 text {} }
        text_delta { index: 0 text: "c" }
        block_start { index: 1 choice: 1 tool_use { id: "x" name: "f" } }
        tool_input_delta { index: 1 text: "{}" }
        block_start { index: 2 choice: 0 text {} }
        text_delta { index: 2 text: "a" }
        finished { choice: 0 stop_reason: STOP_REASON_END_TURN }
        finished { choice: 1 stop_reason: STOP_REASON_TOOL_USE }
        finished { choice: 2 stop_reason: STOP_REASON_MAX_TOKENS }
        """
    )
    for completion in parsed(found):
        found_choices = [
            (choice["index"], choice["message"]["content"], choice["finish_reason"]) for choice in completion["choices"]
        ]
        assert found_choices == [(0, "a", "stop"), (1, None, "tool_calls"), (2, "c", "length")]


def test_usage_only_when_asked_for() -> None:
    found = answer("", "END_TURN")
    assert b"usage" not in write(found, AnswerOptions(stream=True))


def test_unknown_usage_goes_back() -> None:
    found = events(
        """
        block_start { text {} }
        usage { input_tokens: 1 output_tokens: 2 extensions { key: "openai_chat" value: "EXTENSION" } }
        finished { stop_reason: STOP_REASON_END_TURN }
        """.replace("EXTENSION", r"{\"total_tokens\":9,\"cost\":0.5,\"prompt_tokens_details\":{\"audio_tokens\":1}}")
    )
    assert json.loads(write(found, WHOLE))["usage"] == {
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 0},
        "cost": 0.5,
    }


BROKEN = """
    started { id: "i" }
    block_start { text {} }
    text_delta { text: "a" }
"""


@pytest.mark.parametrize(
    ("last", "message", "code"),
    [
        ('error { code: ERROR_CODE_OVERLOADED message: "busy" }', "busy", "overloaded"),
        ("", "The answer ended before it was complete.", "upstream_error"),
        (
            (
                'error { native_dialect: "openai_chat" '
                'native_body: "{\\"error\\": {\\n \\"message\\": \\"m\\", \\"code\\": \\"c\\"}}" }'
            ),
            "m",
            "c",
        ),
    ],
)
def test_the_sdk_raises_on_an_error_inside_a_stream(last: str, message: str, code: str) -> None:
    body = write(events(BROKEN + last), STREAM)
    assert b"[DONE]" not in body
    stream = client(body, "text/event-stream").chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert (caught.value.message, caught.value.code) == (message, code)


def test_an_error_ends_the_answer() -> None:
    writer = DIALECT.write_events(STREAM)
    writer.feed(events(BROKEN))
    assert writer.feed(events('error { message: "no" }')).startswith(b'data: {"error":{"message":"no"')
    assert writer.feed(events('text_delta { text: "late" }')) == b""
    assert writer.close() == b""


@pytest.mark.parametrize("last", ['error { code: ERROR_CODE_OVERLOADED message: "busy" }', ""])
def test_a_whole_answer_with_an_error_raises(last: str) -> None:
    writer = DIALECT.write_events(WHOLE)
    writer.feed(events(BROKEN + last))
    with pytest.raises(PatchbayError) as caught:
        writer.close()
    assert caught.value.error.message == ("busy" if last else "The answer ended before it was complete.")


def test_one_answer_of_two_unfinished_is_an_error() -> None:
    found = events(
        """
        block_start { index: 0 text {} }
        block_start { index: 1 choice: 1 text {} }
        finished { choice: 0 stop_reason: STOP_REASON_END_TURN }
        """
    )
    assert b'"error"' in write(found, STREAM)
    with pytest.raises(PatchbayError):
        write(found, WHOLE)


THOUGHT = """
    block_start { index: 0 thinking {} }
    thinking_delta { index: 0 text: "th" }
    thinking_delta { index: 0 text: "ink" }
    signature_delta { index: 0 signature: "S" }
    block_stop { index: 0 }
    block_start { index: 1 thinking {} }
    signature_delta { index: 1 signature: "S" }
    block_stop { index: 1 }
    block_start { index: 2 redacted_thinking { data: "AA==" } }
    block_stop { index: 2 }
    block_start { index: 3 text {} }
    text_delta { index: 3 text: "Hi" }
    block_stop { index: 3 }
    finished { stop_reason: STOP_REASON_END_TURN }
"""


def test_thinking_as_an_element_of_the_text() -> None:
    wanted = "<reasoning>think</reasoning>\n\nHi"
    whole = json.loads(write(events(THOUGHT), replace(WHOLE, reasoning_format="xml")))
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": wanted, "refusal": None}
    stream = write(events(THOUGHT), replace(STREAM, reasoning_format="xml"))
    deltas = [
        choice["delta"]
        for frame in parse_frames(stream)
        if frame.data != b"[DONE]"
        for choice in json.loads(frame.data)["choices"]
    ]
    assert "".join(delta.get("content") or "" for delta in deltas) == wanted
    assert {name for delta in deltas for name in delta} == {"role", "content"}


def test_thinking_that_is_cut_off_ends_its_element() -> None:
    cut = THOUGHT.split("signature_delta")[0] + "finished { stop_reason: STOP_REASON_MAX_TOKENS }"
    whole = json.loads(write(events(cut), replace(WHOLE, reasoning_format="xml")))
    assert whole["choices"][0]["message"]["content"] == "<reasoning>think</reasoning>\n\n"
    assert b"</reasoning>" in write(events(cut), replace(STREAM, reasoning_format="xml"))


def test_whose_reasoning_a_signature_signs() -> None:
    for signature, written in (("gAAAAx", "openai-responses-v1"), ("EpAB", "anthropic-claude-v1")):
        found = THOUGHT.replace('"S"', f'"{signature}"')
        details = json.loads(write(events(found), WHOLE))["choices"][0]["message"]["reasoning_details"]
        assert [detail["format"] for detail in details[:2]] == [written] * 2
        message = {"role": "assistant", "content": "Hi", "reasoning_details": details[:1]}
        chat = DIALECT.read_request(json.dumps({"model": "m", "messages": [message]}).encode())
        (block, _) = chat.messages[0].blocks
        assert block.thinking.signature == signature
        assert not block.extensions


def test_native_data_passes_untouched() -> None:
    found = events('native { data: "data: {}\\n\\n" }\nnative { data: "data: [DONE]\\n\\n" }\nfinished {}')
    assert write(found, STREAM) == b"data: {}\n\ndata: [DONE]\n\n"
    assert write(events('native { data: "{ " }\nnative { data: "}" }\nfinished {}'), WHOLE) == b"{ }"


def test_native_data_that_breaks_off_ends_with_an_error() -> None:
    found = events('native { data: "data: {}\\n\\n" }')
    assert write(found, STREAM).startswith(b'data: {}\n\ndata: {"error":')
    with pytest.raises(PatchbayError):
        write(events('native { data: "{" }\nerror { message: "cut" }'), WHOLE)


def test_pings() -> None:
    assert DIALECT.write_events(STREAM).ping() == b": ping\n\n"
    assert DIALECT.write_events(WHOLE).ping() == b""
    assert DIALECT.write_events(STREAM).content_type == "text/event-stream"
    assert DIALECT.write_events(WHOLE).content_type == "application/json"
