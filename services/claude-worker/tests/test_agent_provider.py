"""Agent mode with the real `claude` program, the stand-in as its model, and a real Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from contextlib import aclosing
from pathlib import Path

import msgspec
import psutil
import pytest
from agents import SYSTEM, agent, answer, opaque_of, request, text_of, use_tool
from redis.asyncio import Redis

from patchbay.canonical import Finished
from patchbay.errors import INVALID_REQUEST, OVERLOADED, RATE_LIMITED, UNAVAILABLE, UPSTREAM
from patchbay.state.permissions import Decision, PermissionRequest, Permissions
from patchbay.testing.eventually import eventually
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin import ErrorReply, Script, ToolCall
from patchbay_standin.testing import StandinProcess

pytestmark = pytest.mark.timeout(90)

NOTE = "the colour of the day is ultramarine"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    (directory / "note.txt").write_text(NOTE + "\n")
    return directory


def texts(standin: StandinProcess) -> list[list[str]]:
    """What the model was told, request by request: the text and the tool results of each message, without reminders."""
    told = []
    for recorded in standin.requests():
        assert isinstance(recorded.body, dict)
        said = []
        for message in recorded.body["messages"]:
            content = message["content"]
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for block in blocks:
                text = str(block.get("text", block.get("content", block.get("input"))))
                if message["role"] != "system" and not text.startswith("<system-reminder>"):
                    said.append(text)
        told.append(said)
    return told


def children(words: str) -> list[psutil.Process]:
    """What this process has started, directly or not, that has these words in its command line."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if words in " ".join(child.cmdline()):
                found.append(child)
    return found


async def decide(permissions: Permissions, decision: Decision) -> PermissionRequest:
    """Waits for the one question, and answers it."""

    async def first() -> PermissionRequest | None:
        pending = await permissions.pending(key_id=None)
        return pending[0] if pending else None

    found = await eventually(first, seconds=20, what="a question")
    assert found is not None
    outcome = await permissions.respond(found.id, decision, key_id=None)
    assert outcome is not None
    assert outcome.now
    return found


async def test_tools_run_in_the_directory_and_show_as_what_they_are(
    redis: Redis, standin: StandinProcess, work: Path
) -> None:
    call = {"command": "cat note.txt; touch made", "description": "Shows the note"}
    async with agent(redis, standin.url, work, allowed_tools=["Bash"]) as provider:
        events = await answer(provider, request(("user", use_tool("Bash", **call))))
    used, result = opaque_of(events)
    assert used == {
        "type": "mcp_tool_use",
        "id": used["id"],
        "name": "Bash",
        "server_name": "claude-code",
        "input": call,
    }
    assert result == {
        "type": "mcp_tool_result",
        "tool_use_id": used["id"],
        "is_error": False,
        "content": [{"type": "text", "text": NOTE}],
    }
    assert text_of(events) == f"The tool answered: {NOTE}"
    assert [event.WhichOneof("event") for event in events][-2:] == ["usage", "finished"]
    assert events[-1].finished.stop_reason == Finished.STOP_REASON_END_TURN
    # Both calls of the model count.
    assert events[-2].usage.output_tokens > 2
    assert (work / "made").exists()
    body = standin.requests()[0].body
    assert isinstance(body, dict)
    assert body["system"][-1]["text"].endswith(SYSTEM)
    assert {"Bash", "Read", "Edit"} <= {tool["name"] for tool in body["tools"]}
    assert not {"AskUserQuestion", "CronCreate", "ScheduleWakeup"} & {tool["name"] for tool in body["tools"]}


@pytest.mark.parametrize(
    ("mode", "client", "shown"),
    [
        ("formatted", "anthropic", ["<tool_use id=", ' name="Read">', "<tool_result tool_use_id=", NOTE, "answered"]),
        ("forward", "openai_chat", ["<tool_use id=", ' name="Read">', "<tool_result tool_use_id=", NOTE, "answered"]),
        ("ignore", "anthropic", ["The tool answered: "]),
    ],
)
async def test_shows_activity_as_configured(
    redis: Redis, standin: StandinProcess, work: Path, mode: str, client: str, shown: list[str]
) -> None:
    asked = request(("user", use_tool("Read", file_path=str(work / "note.txt"))), client=client)
    async with agent(redis, standin.url, work, message_mode=mode, tools=["Read"]) as provider:
        events = await answer(provider, asked)
    assert not opaque_of(events)
    text = text_of(events)
    position = 0
    for part in shown:
        position = text.index(part, position)
    if mode == "ignore":
        assert text.startswith("The tool answered: ")
    body = standin.requests()[0].body
    assert isinstance(body, dict)
    assert [tool["name"] for tool in body["tools"]] == ["Read"]


@pytest.mark.parametrize(
    ("decision", "told"),
    [
        (Decision(True, by="boss"), NOTE),
        (Decision(True, updated_input=None, by="boss"), NOTE),
        (Decision(False, reason="not on a Friday", by="boss"), "not on a Friday"),
    ],
)
async def test_asks_before_it_acts(
    redis: Redis, standin: StandinProcess, work: Path, decision: Decision, told: str
) -> None:
    call = {"command": "cat note.txt; touch made", "description": "Shows the note"}
    async with agent(redis, standin.url, work) as provider:
        running = asyncio.create_task(answer(provider, request(("user", use_tool("Bash", **call)))))
        asked = await decide(Permissions(redis), decision)
        events = await running
    assert (asked.backend, asked.session, asked.tool_name) == ("agent", "s1", "Bash")
    assert json.loads(bytes(asked.input)) == call
    assert told in text_of(events)
    assert (work / "made").exists() is decision.allowed


async def test_a_changed_input_is_what_runs(redis: Redis, standin: StandinProcess, work: Path) -> None:
    changed = msgspec.Raw(b'{"command": "echo harmless", "description": "x"}')
    async with agent(redis, standin.url, work) as provider:
        asked = request(("user", use_tool("Bash", command="touch made", description="x")))
        running = asyncio.create_task(answer(provider, asked))
        await decide(Permissions(redis), Decision(True, updated_input=changed, by="boss"))
        events = await running
    assert text_of(events) == "The tool answered: harmless"
    assert not (work / "made").exists()


async def test_an_unanswered_question_is_a_denial(redis: Redis, standin: StandinProcess, work: Path) -> None:
    async with agent(redis, standin.url, work, permission_timeout_seconds=0.3) as provider:
        events = await answer(provider, request(("user", use_tool("Bash", command="touch made", description="x"))))
    assert events[-1].finished.stop_reason == Finished.STOP_REASON_END_TURN
    assert not (work / "made").exists()


async def test_a_client_that_leaves_takes_its_question_and_its_agent_with_it(
    redis: Redis, standin: StandinProcess, work: Path
) -> None:
    permissions = Permissions(redis)
    async with agent(redis, standin.url, work) as provider:
        asked = request(("user", use_tool("Bash", command="touch made", description="x")))
        running = asyncio.create_task(answer(provider, asked))
        await eventually(lambda: permissions.pending(key_id=None), seconds=20, what="a question")
        running.cancel()
        await asyncio.wait([running])

        async def nothing_pending() -> bool:
            return not await permissions.pending(key_id=None)

        await eventually(nothing_pending, seconds=5, what="no question")
        await eventually(lambda: provider.status().pool.busy == 0, seconds=5, what="no busy process")
    assert not (work / "made").exists()


async def test_a_conversation_stays_with_its_process(redis: Redis, standin: StandinProcess, work: Path) -> None:
    said = [("user", "first")]
    async with agent(redis, standin.url, work) as provider:
        for words in ("second", "third", "end"):
            events = await answer(provider, request(*said))
            assert f"Your last message was: {said[-1][1]}" in text_of(events)
            said += [("assistant", text_of(events)), ("user", words)]
        pool = provider.status().pool
    assert (pool.spawned, pool.idle) == (1, 1)
    assert [len(told) for told in texts(standin)] == [1, 3, 5]
    assert texts(standin)[-1][::2] == ["first", "second", "third"]


async def test_a_client_may_say_only_what_is_new(redis: Redis, standin: StandinProcess, work: Path) -> None:
    async with agent(redis, standin.url, work) as provider:
        for words in ("first", "second"):
            await answer(provider, request(("user", words)))
    assert texts(standin)[-1][::2] == ["first", "second"]


async def test_another_replica_goes_on_where_the_first_one_stopped(
    redis: Redis, standin: StandinProcess, work: Path
) -> None:
    said = [("user", use_tool("Bash", command="cat note.txt", description="x"))]
    options = {"allowed_tools": ["Bash"]}
    async with (
        agent(redis, standin.url, work, worker="w1", **options) as one,
        agent(redis, standin.url, work, worker="w2", **options) as two,
    ):
        said += [("assistant", text_of(await answer(one, request(*said)))), ("user", "second")]
        said += [("assistant", text_of(await answer(two, request(*said)))), ("user", "third")]
        # The first one's process has missed a turn: it must not answer.
        await answer(one, request(*said))
    [_, _, second, third] = texts(standin)
    assert [words for words in second if words in (NOTE, "second")] == [NOTE, "second"]
    assert [words for words in third if words in (NOTE, "second", "third")] == [NOTE, "second", "third"]


async def test_goes_on_after_the_process_was_killed_in_the_middle_of_its_first_turn(
    redis: Redis, standin: StandinProcess, work: Path
) -> None:
    asked = request(("user", use_tool("Bash", command="cat note.txt; sleep 60", description="x")))
    async with agent(redis, standin.url, work, allowed_tools=["Bash"]) as provider:
        running = asyncio.create_task(answer(provider, asked))
        await eventually(lambda: children("sleep 60"), seconds=20, what="the agent's command")
        [program] = children("stream-json")
        program.kill()
        events = await running
        assert events[-1].error.code == UPSTREAM
        events = await answer(provider, request(("user", "what now?")))
    assert "Your last message was: what now?" in text_of(events)
    # The call that was cut short is part of the story.
    assert any("sleep 60" in words for words in texts(standin)[-1])


async def test_tells_the_story_anew_when_the_client_changes_it(
    redis: Redis, standin: StandinProcess, work: Path
) -> None:
    async with agent(redis, standin.url, work) as provider:
        await answer(provider, request(("user", "first")))
        await answer(provider, request(("user", "another"), ("assistant", "story"), ("user", "told")))
    assert texts(standin)[-1] == ["another", "story", "told"]


async def test_a_turn_that_somebody_else_has_answered_is_told(
    redis: Redis, standin: StandinProcess, work: Path
) -> None:
    said = [("user", "one")]
    async with agent(redis, standin.url, work) as provider:
        said += [("assistant", text_of(await answer(provider, request(*said)))), ("user", "two")]
        # Another backend has answered this one.
        said += [("assistant", "the answer is ultramarine"), ("user", "three")]
        await answer(provider, request(*said))
        assert "the answer is ultramarine" in texts(standin)[-1]
        # And a client that wants its last answer anew does not say its words twice.
        await answer(provider, request(*said))
    assert texts(standin)[-1].count("three") == 1


async def test_a_story_that_was_given_up_leaves_nothing_of_itself(
    redis: Redis, standin: StandinProcess, work: Path
) -> None:
    slow = standin.script("slow", Script(text="word " * 50, delta_delay_ms=50))
    other = (("user", "another"), ("assistant", "story"), ("user", "told"))
    async with agent(redis, standin.url, work) as provider:
        first = text_of(await answer(provider, request(("user", "mauve"))))
        async with aclosing(provider.chat(request(*other, model=slow))) as events:
            async for some in events:
                if text_of(some):
                    break
        await answer(provider, request(*other))
        assert "mauve" not in texts(standin)[-1]
        await answer(provider, request(("user", "mauve"), ("assistant", first), ("user", "and now?")))
        assert "another" not in texts(standin)[-1]


async def test_a_clients_own_session_has_conversations_beside_each_other(
    redis: Redis, standin: StandinProcess, work: Path
) -> None:
    """Claude Code asks for titles, and for its subagents, under the id of the session that they serve."""
    said = [("user", "paint the shed")]
    async with agent(redis, standin.url, work) as provider:
        said += [("assistant", text_of(await answer(provider, request(*said, named=False)))), ("user", "mauve")]
        await answer(provider, request(("user", "Write a title for: paint the shed"), named=False))
        await answer(provider, request(*said, named=False))
        assert provider.status().pool.spawned == 2
    assert not any("title" in words for words in texts(standin)[-1])


async def test_half_an_emoji_loses_nothing(redis: Redis, standin: StandinProcess, work: Path) -> None:
    """JavaScript cuts emoji in two, and writes halves that no JSON decoder takes."""
    call = ToolCall(name="Bash", arguments='{"command": "echo \\ud83d; touch made", "description": "x"}')
    model = standin.script("half-emoji", Script(attempts=[Script(blocks=[call]), Script(text="done")]))
    async with agent(redis, standin.url, work) as provider:
        running = asyncio.create_task(answer(provider, request(("user", "go"), model=model)))
        asked = await decide(Permissions(redis), Decision(True, by="boss"))
        events = await running
    assert "touch made" in json.loads(bytes(asked.input))["command"]
    assert text_of(events) == "done"


async def test_a_program_that_is_stopped_is_noticed_while_its_tools_run(
    redis: Redis, standin: StandinProcess, work: Path
) -> None:
    asked = request(("user", use_tool("Bash", command="sleep 60", description="x")))
    pool = {"min_spare": 0, "silence_seconds": 2}
    async with agent(redis, standin.url, work, allowed_tools=["Bash"], pool=pool) as provider:
        running = asyncio.create_task(answer(provider, asked))
        await eventually(lambda: children("sleep 60"), seconds=20, what="the agent's command")
        [program] = children("stream-json")
        program.suspend()
        events = await asyncio.wait_for(running, 20)
    assert events[-1].error.code == UPSTREAM


async def test_callers_with_one_session_name_never_meet(redis: Redis, standin: StandinProcess, work: Path) -> None:
    async with agent(redis, standin.url, work) as provider:
        await answer(provider, request(("user", "the word is mauve"), key="alice"))
        await answer(provider, request(("user", "what is the word?"), key="bob"))
        await answer(provider, request(("user", "and without a key?"), key=""))
        assert provider.status().pool.idle == 3
    assert all("mauve" not in str(told) for told in texts(standin)[1:])


async def test_without_a_session_the_whole_story_is_told_and_nothing_kept(
    redis: Redis, standin: StandinProcess, work: Path
) -> None:
    said = [("user", "one"), ("assistant", "two"), ("user", "three")]
    async with agent(redis, standin.url, work) as provider:
        await answer(provider, request(*said, session=""))
        assert provider.status().pool.idle == 0
        await answer(provider, request(*said, session=""))
    assert texts(standin) == [["one", "two", "three"]] * 2


async def test_one_turn_at_a_time(redis: Redis, standin: StandinProcess, work: Path) -> None:
    slow = standin.script("slow", Script(text="word " * 50, delta_delay_ms=100))
    pool = {"min_spare": 0, "max_processes": 2, "acquire_timeout": 3}
    async with (
        agent(redis, standin.url, work, pool=pool) as provider,
        aclosing(provider.chat(request(("user", "one"), model=slow))) as events,
    ):
        async for some in events:
            if text_of(some):
                break
        [refused] = await answer(provider, request(("user", "two")))
        assert refused.error.code == RATE_LIMITED
        assert refused.error.retry_after > 0


async def test_each_key_has_a_directory_of_its_own(redis: Redis, standin: StandinProcess, tmp_path: Path) -> None:
    call = use_tool("Bash", command="pwd; touch here", description="x")
    async with agent(redis, standin.url, tmp_path / "work" / "{key}", allowed_tools=["Bash"]) as provider:
        for key in ("alice", "../bob"):
            await answer(provider, request(("user", call), key=key))
    assert {name for name in ("alice", "bob") if (tmp_path / "work" / name / "here").exists()} == {"alice"}
    assert len(await asyncio.to_thread(lambda: list((tmp_path / "work").iterdir()))) == 2


async def test_stops_after_max_turns_and_goes_on_when_asked(redis: Redis, standin: StandinProcess, work: Path) -> None:
    call = use_tool("Bash", command="cat note.txt", description="x")
    async with agent(redis, standin.url, work, allowed_tools=["Bash"], max_turns=1) as provider:
        events = await answer(provider, request(("user", call)))
    assert events[-1].finished.stop_reason == Finished.STOP_REASON_PAUSE_TURN


async def test_an_upstreams_error_is_said_as_one(redis: Redis, standin: StandinProcess, work: Path) -> None:
    async with agent(redis, standin.url, work) as provider:
        events = await answer(provider, request(("user", "hi"), model="standin-error-400"))
        assert events[-1].error.code == INVALID_REQUEST
        assert "The request is invalid." in events[-1].error.message


async def test_what_an_agent_has_done_is_not_done_again(redis: Redis, standin: StandinProcess, work: Path) -> None:
    """An edge tries a failure that may pass again, unless it has heard that the answer is under way."""
    call = ToolCall(name="Bash", input={"command": "date >> ran", "description": "x"})
    overloaded = Script(error=ErrorReply(status=529))
    model = standin.script("half", Script(attempts=[Script(blocks=[call]), overloaded]))
    async with agent(redis, standin.url, work, allowed_tools=["Bash"], message_mode="ignore") as provider:
        events = await answer(provider, request(("user", "go"), model=model))
    assert events[-1].error.code == OVERLOADED
    assert [event.started.under_way for event in events if event.HasField("started")] == [True]
    assert len((await asyncio.to_thread((work / "ran").read_text)).splitlines()) == 1


async def test_what_an_agent_cannot_honour_is_said(redis: Redis, standin: StandinProcess, work: Path) -> None:
    tool = {"name": "f", "input_schema": {"type": "object"}}
    asked = request(("user", "hi"), tools=[tool], temperature=0.5)
    async with agent(redis, standin.url, work) as provider:
        events = await answer(provider, asked)
    warned = [event.warning.parameter for event in events if event.HasField("warning")]
    assert warned == ["tools", "temperature"]
    async with agent(redis, standin.url, work, strict_parameters=True) as provider:
        [refused] = await answer(provider, asked)
    assert (refused.error.code, refused.error.parameter) == (INVALID_REQUEST, "tools")


async def test_a_missing_directory_is_named(redis: Redis, standin: StandinProcess, tmp_path: Path) -> None:
    async with agent(redis, standin.url, tmp_path / "nowhere") as provider:
        [refused] = await answer(provider, request(("user", "hi")))
    assert refused.error.code == UNAVAILABLE
    assert str(tmp_path / "nowhere") in refused.error.message


async def test_goes_on_without_redis(redis: Redis, valkey: ValkeyProcess, standin: StandinProcess, work: Path) -> None:
    async with agent(redis, standin.url, work) as provider:
        valkey.pause()
        try:
            events = await answer(provider, request(("user", "hi")))
        finally:
            valkey.resume()
        assert events[-1].finished.stop_reason == Finished.STOP_REASON_END_TURN
        # Its place is noted nowhere, so that its process is not kept.
        assert provider.status().pool.idle == 0


MCP_SERVER = """
import os
from mcp.server.mcpserver import MCPServer

server = MCPServer("tickets")

@server.tool()
def lookup(number: int) -> str:
    return f"ticket {number} is about {os.environ['SUBJECT']}"

server.run()
"""


async def test_uses_the_mcp_servers_that_are_configured(
    redis: Redis, standin: StandinProcess, work: Path, tmp_path: Path
) -> None:
    program = tmp_path / "tickets.py"
    await asyncio.to_thread(program.write_text, MCP_SERVER)
    server = {"command": sys.executable, "args": [str(program)], "env": {"SUBJECT": "herrings"}}
    options = {"mcp_servers": {"tickets": server}, "allowed_tools": ["mcp__tickets"], "tools": ["Read"]}
    async with agent(redis, standin.url, work, **options) as provider:
        events = await answer(provider, request(("user", use_tool("mcp__tickets__lookup", number=7))))
    assert "ticket 7 is about herrings" in text_of(events)
    assert opaque_of(events)[0]["name"] == "mcp__tickets__lookup"
