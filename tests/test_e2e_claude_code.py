"""The real `claude` program as a client, in an environment that holds nothing but what is given here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from claude_code import Claude
from conftest import HOUSE_KEY
from ways import Way
from wire_tap import WireTap

from patchbay.testing.cluster import Cluster
from patchbay_standin import ErrorReply, RecordedRequest, Script
from patchbay_standin.testing import StandinProcess

pytestmark = pytest.mark.timeout(90)

Body = dict[str, Any]


@pytest.fixture
def claude(tmp_path: Path) -> Claude:
    return Claude(tmp_path)


@pytest.fixture(params=["direct-anthropic", "anthropic", "local", "codebuddy"])
def way(request: pytest.FixtureRequest, way_to: Callable[[str], Way]) -> Way:
    return way_to(request.param)


def chats(upstream: StandinProcess) -> list[RecordedRequest]:
    """The chat requests that the upstream got, and that all of them were answered."""
    found = [request for request in upstream.requests() if request.method == "POST"]
    assert {request.status for request in found} == {200}
    return found


def body_of(request: RecordedRequest) -> Body:
    assert isinstance(request.body, dict)
    return request.body


def test_one_turn(claude: Claude, way: Way, upstream: StandinProcess) -> None:
    answer = claude.run("Say the word marmalade.", url=way.url, model=way.model("standin"))

    assert answer["subtype"] == "success"
    assert answer["num_turns"] == 1
    assert answer["result"].endswith("Your last message was: Say the word marmalade.")
    (request,) = chats(upstream)
    body = body_of(request)
    assert body["model"] == "standin"
    assert body["stream"] is True
    names = {tool["name"] if way.upstream == "anthropic" else tool["function"]["name"] for tool in body["tools"]}
    assert names >= {"Bash", "Read", "Edit"}
    assert answer["usage"]["output_tokens"] > 0
    if way.upstream == "anthropic":
        assert len(request.headers["anthropic-beta"].split(",")) >= 5
        assert request.headers["anthropic-version"] == "2023-06-01"
        assert {"context_management", "metadata", "system"} <= body.keys()
    else:
        assert body["stream_options"] == {"include_usage": True}
        assert body["messages"][0]["role"] == "system"
        assert "anthropic-beta" not in request.headers


@pytest.mark.parametrize("tool", ["Read", "Bash"])
def test_a_turn_with_a_tool(claude: Claude, way: Way, tool: str, upstream: StandinProcess) -> None:
    note = claude.work / "note.txt"
    note.write_text("the colour of the day is ultramarine\n")
    call = {"file_path": str(note)} if tool == "Read" else {"command": f"cat {note}", "description": "Shows the note"}

    answer = claude.run(
        f"Please use tool {tool} {json.dumps(call)}", url=way.url, model=way.model("standin"), tools=(tool,)
    )

    assert answer["subtype"] == "success"
    assert answer["num_turns"] == 2
    assert answer["permission_denials"] == []
    assert "The tool answered" in answer["result"]
    assert "the colour of the day is ultramarine" in answer["result"]
    first, second = (body_of(request) for request in chats(upstream))
    if way.upstream == "anthropic":
        asked, answered = second["messages"][-2:]
        (use,) = asked["content"]
        (result,) = answered["content"]
        assert (use["type"], use["name"], use["input"]) == ("tool_use", tool, call)
        assert (result["type"], result["tool_use_id"]) == ("tool_result", use["id"])
        assert "ultramarine" in str(result["content"])
    else:
        asked, answered = second["messages"][-2:]
        (written,) = asked["tool_calls"]
        assert asked["role"] == "assistant"
        assert written["function"]["name"] == tool
        assert json.loads(written["function"]["arguments"]) == call
        assert (answered["role"], answered["tool_call_id"]) == ("tool", written["id"])
        assert "ultramarine" in answered["content"]
        # What the provider has cached of the first request holds for the second.
        assert second["messages"][: len(first["messages"])] == first["messages"]
        assert second["tools"] == first["tools"]


def test_an_upstreams_error_is_shown(claude: Claude, way: Way, upstream: StandinProcess) -> None:
    upstream.script("refusing", Script(error=ErrorReply(status=400, message="this model is asleep today")))

    answer = claude.run("Say hello.", url=way.url, model=way.model("refusing"))

    assert answer["is_error"]
    assert answer["api_error_status"] == 400
    assert "this model is asleep today" in answer["result"]


@pytest.mark.parametrize("backend", ["anthropic", "local"])
def test_overload_is_tried_again_by_the_program(
    claude: Claude, backend: str, way_to: Callable[[str], Way], upstream: StandinProcess
) -> None:
    """The wait is longer than Patchbay would wait itself, so it is the program that comes again."""
    way = way_to(backend)
    overloaded = Script(error=ErrorReply(status=529, retry_after=2))
    upstream.script("busy", Script(attempts=[overloaded, Script(text="Now I am free.")]))

    answer = claude.run("Say hello.", url=way.url, model=way.model("busy"))

    assert answer["result"] == "Now I am free."
    assert [request.status for request in upstream.requests()] == [529, 200]


def test_its_bytes_pass_untouched(claude: Claude, house: Cluster, tap: WireTap) -> None:
    """A tap on either side of Patchbay: what the program wrote is what the upstream reads, and back."""
    with WireTap(house.url) as before:
        answer = claude.run("Say hello.", url=f"{before.url}/claude", model="standin", key=HOUSE_KEY)

        assert answer["subtype"] == "success"
        (sent,) = [exchange for exchange in before.exchanges() if exchange.request.start.startswith(b"POST")]

    (passed,) = tap.exchanges()
    assert sent.request.start == b"POST /claude/v1/messages?beta=true HTTP/1.1"
    assert passed.request.body == sent.request.body
    assert len(sent.request.body) > 30_000
    assert sent.answer.body == passed.answer.body
    for name in ("anthropic-beta", "anthropic-version"):
        assert passed.request.headers[name] == sent.request.headers[name]
    assert passed.request.headers["x-api-key"] == "sk-ant-house"
    assert HOUSE_KEY not in str(passed.request.headers)
