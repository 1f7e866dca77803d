"""The official SDKs and the real `claude` program as clients of a pool of `claude` processes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import test_e2e_anthropic_sdk as anthropic_sdk
import test_e2e_openai_sdk as openai_sdk
from known_differences import DROPPED_BETAS, PROGRAM_BETAS, expected_upstream, written
from test_e2e_claude_code import Claude
from ways import MODES, Way
from wire_tap import WireTap

from patchbay.testing.cluster import Cluster
from patchbay_standin import Script, Text, Thinking, ToolCall, Usage
from patchbay_standin.testing import StandinProcess

pytestmark = pytest.mark.timeout(90)

Body = dict[str, Any]

RESULTS = {
    "call_1": "21 degrees",
    "call_2": "12:00",
    "call_3": "no such city",
    "call_4": "18 degrees",
}


def _weather(identity: str, city: str) -> ToolCall:
    return ToolCall(name="get_weather", input={"city": city}, id=identity)


# Three turns with calls, the first of two at once, and the last words.
TURNS = [
    [
        Thinking(text="Both are needed.", signature="YQ=="),
        Text(text="Two at once."),
        _weather("call_1", "Lisbon"),
        ToolCall(name="get_time", input={"zone": "Europe/Lisbon"}, id="call_2"),
    ],
    [_weather("call_3", "Atlantis 🏛")],
    [Thinking(text="Once more.", signature="Yg=="), _weather("call_4", "Porto")],
    [Text(text="It is 21 degrees at noon.")],
]


@pytest.fixture
def way(claude_cluster: Cluster, upstream: StandinProcess) -> Way:
    usage = Usage(input=100, output=9)
    script = Script(attempts=[Script(blocks=list(turn), usage=usage) for turn in TURNS])
    upstream.script("conversation", script)
    return Way(claude_cluster.url, "cli", "anthropic")


def bodies_of(upstream: StandinProcess) -> list[Body]:
    """The chats that the upstream was asked for, each of them answered."""
    requests = [request for request in upstream.requests() if request.path == "/v1/messages"]
    assert {(request.status, request.outcome) for request in requests} == {(200, "completed")}
    return [request.body for request in requests if isinstance(request.body, dict)]


@pytest.mark.parametrize("mode", MODES)
async def test_the_anthropic_sdk_through_several_turns(way: Way, mode: str, upstream: StandinProcess) -> None:
    tools = [anthropic_sdk.WEATHER_TOOL, anthropic_sdk.TIME_TOOL]
    thinking: Body = {"type": "enabled", "budget_tokens": 1024}
    messages: list[Body] = [{"role": "user", "content": "How is the weather?"}]
    sent = []
    for turn in TURNS:
        sent.append(list(messages))
        answer = await anthropic_sdk.ask(
            way, mode, way.model("conversation"), messages=messages, tools=tools, thinking=thinking, max_tokens=4000
        )
        content = anthropic_sdk.content_of(answer)
        assert content == [_native_block(block) for block in turn]
        calls = [block["id"] for block in content if block["type"] == "tool_use"]
        assert answer.stop_reason == ("tool_use" if calls else "end_turn")
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (100, 9)
        results: list[Body] = [
            {
                "type": "tool_result",
                "tool_use_id": each,
                "content": [{"type": "text", "text": RESULTS[each]}],
                "is_error": each == "call_3",
            }
            for each in calls
        ]
        messages += [{"role": "assistant", "content": content}, {"role": "user", "content": results}]

    bodies = bodies_of(upstream)
    assert [body["messages"] for body in bodies] == sent
    for body in bodies:
        assert (body["tools"], body["thinking"], body["max_tokens"]) == (tools, thinking, 4000)


def _native_block(block: Text | Thinking | ToolCall | object) -> Body:
    match block:
        case Text():
            return {"type": "text", "text": block.text}
        case Thinking():
            return {"type": "thinking", "thinking": block.text, "signature": block.signature}
        case ToolCall():
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": block.input}
    raise AssertionError(block)


@pytest.mark.parametrize("mode", MODES)
async def test_the_openai_sdk_through_several_turns(way: Way, mode: str, upstream: StandinProcess) -> None:
    tools = [openai_sdk.WEATHER_TOOL, openai_sdk.TIME_TOOL]
    messages: list[Body] = [openai_sdk.SYSTEM, {"role": "user", "content": "How is the weather?"}]
    for turn in TURNS:
        answer = await openai_sdk.ask(way, mode, way.model("conversation"), messages=messages, tools=tools)
        calls = [(block.id, block.name, block.input) for block in turn if isinstance(block, ToolCall)]
        assert openai_sdk.calls_of(answer) == calls
        assert answer.choices[0].finish_reason == ("tool_calls" if calls else "stop")
        message = openai_sdk.message_of(answer)
        assert message.get("content", "") == "".join(block.text for block in turn if isinstance(block, Text))
        messages.append(message)
        messages += [{"role": "tool", "tool_call_id": each, "content": RESULTS[str(each)]} for each, _, _ in calls]

    bodies = bodies_of(upstream)
    assert len(bodies) == len(TURNS)
    # Each request is the one before, and more: what the provider has cached holds.
    for before, after in itertools.pairwise(bodies):
        assert after["messages"][: len(before["messages"])] == before["messages"]
        assert (after["system"], after["tools"]) == (before["system"], before["tools"])
    last = bodies[-1]
    assert last["system"][-1]["text"] == openai_sdk.SYSTEM["content"]
    assert last["tools"] == openai_sdk.ANTHROPIC_TOOLS
    blocks = [block for message in last["messages"][1:] for block in message["content"]]
    used = [block for turn in TURNS for block in turn if isinstance(block, ToolCall)]
    assert [block for block in blocks if block["type"] == "tool_use"] == [_native_block(block) for block in used]
    answered = {block["tool_use_id"]: block["content"] for block in blocks if block["type"] == "tool_result"}
    assert {name: text if isinstance(text, str) else text[0]["text"] for name, text in answered.items()} == RESULTS


def test_tokens_are_counted_by_the_upstream(way: Way, upstream: StandinProcess) -> None:
    with anthropic_sdk.client_of(way) as client:
        counted = client.messages.count_tokens(
            model=way.model("standin"), system="Be brief.", messages=[anthropic_sdk.HELLO]
        )

    (request,) = upstream.requests()
    assert request.path == "/v1/messages/count_tokens"
    assert request.body == {"model": "standin", "system": "Be brief.", "messages": [anthropic_sdk.HELLO]}
    assert counted.input_tokens > 0


def test_models_are_the_upstreams(way: Way) -> None:
    with anthropic.Anthropic(base_url=way.url, api_key="made-up") as client:
        # Those of the default backend are also there under their own names.
        assert {"standin-echo", "anthropic/standin-echo"} <= {model.id for model in client.models.list()}
        assert client.models.retrieve("standin-echo").id == "standin-echo"
    with openai.OpenAI(base_url=f"{way.url}/v1", api_key="made-up") as other:
        assert other.models.retrieve("standin-echo").owned_by == "anthropic"


@pytest.fixture
def claude(tmp_path: Path) -> Claude:
    return Claude(tmp_path)


def test_the_program_itself_through_several_turns(way: Way, claude: Claude, upstream: StandinProcess) -> None:
    """`claude` asks `claude`: the upstream gets what the outer one wrote, and the outer one runs the tools."""
    (claude.work / "colour.txt").write_text("ultramarine\n")
    (claude.work / "number.txt").write_text("forty-two\n")

    def read(identity: str, name: str) -> ToolCall:
        return ToolCall(name="Read", input={"file_path": str(claude.work / name)}, id=identity)

    turns = [
        Script(blocks=[Text(text="Both."), read("toolu_1", "colour.txt"), read("toolu_2", "number.txt")]),
        Script(blocks=[read("toolu_3", "missing.txt")]),
        Script(blocks=[ToolCall(name="Bash", input={"command": "echo @/etc/hostname"}, id="toolu_4")]),
        Script(text="Ultramarine, forty-two."),
    ]
    upstream.script("files", Script(attempts=turns))

    with WireTap(way.url) as tap:
        answer = claude.run("Read the files.", url=tap.url, model=way.model("files"), tools=("Read", "Bash"))
        sent = [each.request for each in tap.exchanges() if each.request.start.startswith(b"POST /v1/messages?")]

    assert answer["result"] == "Ultramarine, forty-two."
    assert answer["permission_denials"] == []
    bodies = bodies_of(upstream)
    assert len(bodies) == len(sent) == len(turns)
    for request, body in zip(sent, bodies, strict=True):
        clients: Body = {**json.loads(request.body), "model": "files"}
        assert written(body) == written(expected_upstream(clients))
    last = str(bodies[-1]["messages"])
    assert all(words in last for words in ("ultramarine", "forty-two", "@/etc/hostname"))
    asked = [request.headers["anthropic-beta"].split(",") for request in sent]
    got = [request.headers["anthropic-beta"].split(",") for request in upstream.requests() if request.method == "POST"]
    for clients, betas in zip(asked, got, strict=True):
        assert set(clients) - set(betas) <= DROPPED_BETAS
        assert set(betas) - set(clients) <= PROGRAM_BETAS
