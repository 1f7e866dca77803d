"""What the loop asks, as providers get it: bodies that each of them takes."""

from __future__ import annotations

import pytest
from loop_fakes import Call, Definition, FakeClient, FakeModels, Json, Thought, World, session

from patchbay.testing.dialect_pairs import DIALECTS
from patchbay.testing.request_pairs import check_request
from patchbay_codebuff_ws.loop.tools import BUILT_IN

ORPHANS: list[Json] = [
    {"role": "user", "content": "From another server"},
    {"role": "assistant", "content": [{"type": "tool-call", "toolCallId": "o1", "toolName": "x", "input": {}}]},
    {"role": "user", "content": "Between"},
    {
        "role": "tool",
        "content": {
            "type": "tool-result",
            "toolCallId": "o2",
            "toolName": "x",
            "output": [{"type": "json", "value": 1}],
        },
    },
]


async def asked() -> FakeModels:
    """Chats of two prompts with all that a conversation can hold."""
    agent = Definition(
        id="base",
        tool_names=tuple(BUILT_IN),
        system_prompt="You are {CODEBUFF_AGENT_NAME}.",
        instructions_prompt="Be brief.",
        step_prompt="{CODEBUFF_REMAINING_STEPS} steps left.",
        output_schema={"type": "object", "properties": {"n": {"type": "integer"}}},
    )
    models = FakeModels(
        [
            Thought("Hm"),
            "Looking",
            Call("read_files", {"paths": ["a.txt"]}),
            Call("think_deeply", {"thought": "t"}),
            Call("no such/tool", {}),
            Call("read_files", "no JSON"),
        ],
        [Call("end_turn")],
        ["Done"],
    )
    client = FakeClient({"a.txt": "one"})
    client.tools["code_search"] = lambda _: [{"type": "media", "data": "aGk=", "mediaType": "image/png"}]
    world = World(models, client, [agent])
    first = await world.run("hi", state=session(ORPHANS))
    await world.run("more", state=first.session_state, content=[{"type": "image", "image": "aGk="}])
    return models


@pytest.mark.parametrize("upstream", sorted(DIALECTS))
async def test_every_provider_takes_what_the_loop_asks(upstream: str) -> None:
    dialect = DIALECTS[upstream]
    for chat in (await asked()).chats:
        written = dialect.write_request(
            chat, "gpt-5" if upstream != "anthropic" else "claude-sonnet-4-5", dialect.quirks
        )
        body = check_request(upstream, written)
        assert len(body["tools"]) == len(BUILT_IN)


async def test_the_bytes_of_one_step_begin_those_of_the_next() -> None:
    dialect = DIALECTS["openai_chat"]
    models = await asked()
    bodies = []
    for chat in models.chats:
        # The step's own prompt is the one thing that does not stay.
        chat.messages[-1].blocks.pop()
        bodies.append(check_request("openai_chat", dialect.write_request(chat, "gpt-5", dialect.quirks)))
    before, after, _ = bodies
    assert after["messages"][: len(before["messages"])] == before["messages"]
    assert after["tools"] == before["tools"]


async def test_the_provider_is_told_what_to_keep() -> None:
    dialect = DIALECTS["anthropic"]
    for chat in (await asked()).chats:
        body = check_request("anthropic", dialect.write_request(chat, "claude-sonnet-4-5", dialect.quirks))
        assert "cache_control" in body["system"][-1]
        marked = [block for message in body["messages"] for block in message["content"] if "cache_control" in block]
        assert marked == [body["messages"][-1]["content"][-2]]
