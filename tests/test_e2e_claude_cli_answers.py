"""Answers through `claude` processes are the upstream's own; so are the requests of clients of the other dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from known_differences import expected_upstream, seen_upstream, written
from ways import PIXEL, WEATHER_SCHEMA, only

from patchbay.testing.cluster import Cluster
from patchbay_standin import (
    ErrorEvent,
    RedactedThinking,
    Refusal,
    Script,
    ServerToolUse,
    Text,
    Thinking,
    ToolCall,
    Usage,
)
from patchbay_standin.testing import StandinProcess

pytestmark = pytest.mark.timeout(60)

Body = dict[str, Any]

# Not estimated from the request, which is longer by the program's own line.
USAGE = Usage(input=100, output=9)
CITATION: Body = {
    "type": "char_location",
    "cited_text": "grass is green",
    "document_index": 0,
    "document_title": "Facts",
    "start_char_index": 0,
    "end_char_index": 14,
}
FOUND: Body = {"type": "web_search_result", "url": "https://e.example", "title": "E", "encrypted_content": "YWJj"}
WEATHER_CALL = ToolCall(name="get_weather", input={"city": "Lisbon", "unit": "celsius"}, id="toolu_1")
TIME_CALL = ToolCall(name="get_time", input={"zone": {"name": "Europe/Lisbon", "at": [1.5, None, "é"]}}, id="toolu_2")
ODD = "👩\u200d👩\u200d👧 שלום \u2028\x00 \U0010ffff "

SCRIPTS: dict[str, Script] = {
    "text": Script(text="Good day to you, reader."),
    "signed thinking": Script(blocks=[Thinking(text="Hm. Well.", signature="c2ln+/=="), Text(text="Yes.")]),
    "unsigned thinking": Script(blocks=[Thinking(text="Hm.", signature=""), Text(text="Yes.")]),
    "redacted thinking": Script(blocks=[RedactedThinking(data="c2VjcmV0"), Text(text="Yes.")]),
    "parallel tools": Script(blocks=[Text(text="Two at once."), WEATHER_CALL, TIME_CALL]),
    "a tool without input": Script(blocks=[ToolCall(name="get_time", id="toolu_1")]),
    "a tool named as the program's": Script(blocks=[ToolCall(name="Bash", input={"command": "id"}, id="toolu_1")]),
    "input that is no JSON": Script(blocks=[ToolCall(name="f", arguments='{"a": 1, ', id="toolu_1")]),
    "thinking between calls": Script(
        blocks=[
            Thinking(text="First.", signature="YQ=="), Text(text="One."), WEATHER_CALL,
            Thinking(text="Then.", signature="Yg=="), TIME_CALL,
        ]
    ),
    "citations": Script(blocks=[Text(text="Grass is green.", citations=[CITATION, CITATION]), Text(text="So.")]),
    "server tool": Script(
        blocks=[
            ServerToolUse(name="web_search", input={"query": "grass"}, id="srvtoolu_1", result=[FOUND]),
            Text(text="Green."),
        ]
    ),
    "paused": Script(blocks=[ServerToolUse(input={"query": "x"}, id="srvtoolu_1")], stop_reason="pause_turn"),
    "refusal": Script(blocks=[Refusal(text="I will not.")]),
    "cut off": Script(text="Cut off in the", stop_reason="max_tokens"),
    "cut off in a call": Script(
        blocks=[ToolCall(name="f", arguments='{"a": "bc', id="toolu_1")], stop_reason="max_tokens"
    ),
    "full window": Script(text="Full.", stop_reason="model_context_window_exceeded"),
    "stop sequence": Script(text="As far as", stop_reason="stop_sequence", stop_sequence="END"),
    "cache tokens": Script(text="Yes.", usage=Usage(input=100, cache_read=60, cache_write=20, output=9, reasoning=4)),
    "nothing": Script(blocks=[]),
    "odd text": Script(blocks=[Text(text=ODD * 20), Thinking(text=ODD * 20), Text(text=ODD)], delta_size=1),
    "large": Script(huge=2),
}  # fmt: skip
# An answer without content, or one that was cut off at a limit, is not enough for the program.
ASKED_AGAIN = ("nothing", "cut off", "cut off in a call", "full window")


@pytest.fixture
def client(claude_cluster: Cluster, upstream: StandinProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=claude_cluster.url, headers={"x-api-key": "made-up"}, timeout=50) as open_client:
        yield open_client


def answer_of(client: httpx.Client, model: str, *, stream: bool) -> httpx.Response:
    body: Body = {"model": model, "max_tokens": 1000, "messages": [{"role": "user", "content": "Hello"}]}
    return client.post("/v1/messages", json={**body, "stream": True} if stream else body)


def events_of(answer: httpx.Response) -> list[tuple[str, Body]]:
    """Each event's name and data, without pings and the message's own id."""
    events = []
    for frame in answer.text.split("\n\n"):
        if not frame or frame.startswith(("event: ping", ":")):
            continue
        name, data = frame.split("\n", 1)
        event: Body = json.loads(data.removeprefix("data: "))
        event.get("message", {}).pop("id", None)
        events.append((name, event))
    return events


# A whole answer is folded from the stream: what could be lost in the folding is among these.
FOLDED = ("text", "cut off in a call", "citations", "server tool", "cache tokens", "nothing", "odd text")


@pytest.mark.parametrize(("name", "stream"), [*((name, True) for name in SCRIPTS), *((name, False) for name in FOLDED)])
def test_the_client_gets_what_the_upstream_answered(
    client: httpx.Client, upstream: StandinProcess, name: str, stream: bool
) -> None:
    script = SCRIPTS[name]
    usage = script.usage or USAGE
    fields = {field: getattr(script, field) for field in script.__struct_fields__}
    model = upstream.script("scripted", Script(**{**fields, "usage": usage}))

    through, direct = (answer_of(client, f"{backend}/{model}", stream=stream) for backend in ("cli", "anthropic"))

    assert (through.status_code, direct.status_code) == (200, 200)
    assert through.headers["content-type"] == direct.headers["content-type"]
    statuses = [request.status for request in upstream.requests()]
    assert set(statuses) == {200}
    # The program may have asked again before it is ended, on a busy machine more than once.
    assert len(statuses) == 2 or (name in ASKED_AGAIN and len(statuses) > 2)
    if stream:
        assert events_of(through) == events_of(direct)
    else:
        bodies = [{**answer.json(), "id": ""} for answer in (through, direct)]
        assert bodies[0] == bodies[1]


def test_a_failure_in_the_stream_is_the_upstreams(client: httpx.Client, upstream: StandinProcess) -> None:
    error = ErrorEvent(after=3, status=529, message="Overloaded")
    model = upstream.script("failing", Script(text="One two three four five.", usage=USAGE, error_event=error))

    through, direct = (
        events_of(answer_of(client, f"{backend}/{model}", stream=True)) for backend in ("cli", "anthropic")
    )

    assert through[:-1] == direct[:-1]
    assert through[-1][0] == direct[-1][0] == "event: error"
    assert through[-1][1]["error"] == direct[-1][1]["error"]


def function(name: str, **schema: Any) -> Body:
    return {"type": "function", "function": {"name": name, "description": f"{name}.", "parameters": schema}}


COMPLETIONS: dict[str, Body] = {
    "text": {},
    "sampling": {"temperature": 0.5, "top_p": 0.25, "stop": ["END"], "max_completion_tokens": 77, "user": "u-1"},
    "system and image": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be kind."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                ],
            },
        ]
    },
    "tools": {
        "tools": [function("get_weather", **WEATHER_SCHEMA), function("get_time", type="object")],
        "tool_choice": {"type": "function", "function": {"name": "get_time"}},
        "parallel_tool_calls": False,
    },
    "tool results": {
        "messages": [
            {"role": "user", "content": "Weather and time?"},
            {
                "role": "assistant",
                "content": "Both.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"X"}'}},
                    {"id": "c2", "type": "function", "function": {"name": "get_time", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "21"},
            {"role": "tool", "tool_call_id": "c2", "content": "12:00"},
        ],
        "tools": [function("get_weather", **WEATHER_SCHEMA), function("get_time", type="object")],
    },
    "reasoning": {"reasoning_effort": "medium", "max_completion_tokens": 9000},
    "json schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "out", "schema": {"type": "object", "properties": {}}},
        }
    },
}


@pytest.mark.parametrize("name", COMPLETIONS)
def test_a_translated_request_is_the_same_as_without_processes(
    client: httpx.Client, upstream: StandinProcess, name: str
) -> None:
    body: Body = {"messages": [{"role": "user", "content": "Hello"}], **COMPLETIONS[name]}

    through, direct = (
        client.post("/v1/chat/completions", json={**body, "model": f"{backend}/claude-sonnet-4-5"})
        for backend in ("cli", "anthropic")
    )

    first, second = (request.body for request in upstream.requests())
    assert isinstance(second, dict)
    assert written(seen_upstream(first)) == written(expected_upstream(second))
    choices = [answer.json()["choices"] for answer in (through, direct)]
    for choice in choices:
        for call in choice[0]["message"].get("tool_calls") or ():
            call["id"] = ""
    assert choices[0] == choices[1]
    assert through.headers.get("x-patchbay-warnings") == direct.headers.get("x-patchbay-warnings")
    assert len(upstream.requests()) == 2


def test_an_openai_client_without_a_stream_is_one_request(client: httpx.Client, upstream: StandinProcess) -> None:
    client.post(
        "/v1/chat/completions",
        json={"model": "cli/standin", "messages": [{"role": "user", "content": "Hello"}], "stream": True},
    )
    assert only(upstream).outcome == "completed"
