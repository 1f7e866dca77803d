"""What a client is asked while a prompt runs, and what becomes of its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sockets import FILE_CONTEXT, SESSION_STATE, ScriptedLoop, Socket, replica

from patchbay.settings import Settings
from patchbay_codebuff_ws.connection.prompt_client import parts_of
from patchbay_codebuff_ws.ports import Client, Prompt, PromptResult

SettingsWith = Callable[..., Settings]
Json = dict[str, Any]


def asking(ask: Callable[[Client], Any]) -> ScriptedLoop:
    """A loop whose output is what `ask` gives."""

    async def run(prompt: Prompt, client: Client) -> PromptResult:
        value = await ask(client)
        return PromptResult(session_state=prompt.session_state, output={"type": "lastMessage", "value": value})

    return ScriptedLoop([run])


async def output_of(socket: Socket) -> Any:
    return (await socket.until_ended())["output"]["value"]


async def test_files_are_read_by_the_client(settings_with: SettingsWith) -> None:
    loop = asking(lambda client: client.read_files(["a.py", "b.py", "c.py", "d.py"]))
    async with replica(settings_with(), loop=loop) as serving, serving.socket() as socket:
        await socket.prompt()
        asked = await socket.until_frame("read-files")
        assert asked == {
            "type": "read-files",
            "filePaths": ["a.py", "b.py", "c.py", "d.py"],
            "requestId": asked["requestId"],
        }
        # Asked again elsewhere, it does no harm: the prompt can still be begun anew.
        assert socket.received[-1].frame.prompt_id == ""
        await socket.act("read-files-response", requestId="another", files={"a.py": "no"})
        files = {"a.py": "text", "b.py": "[FILE_DOES_NOT_EXIST]", "c.py": None, "d.py": 7, "more": "x"}
        await socket.act("read-files-response", requestId=asked["requestId"], files=files)
        assert await output_of(socket) == {"a.py": "text", "b.py": "[FILE_DOES_NOT_EXIST]", "c.py": None, "d.py": None}


async def test_questions_are_answered_in_any_order(settings_with: SettingsWith) -> None:
    async def ask(client: Client) -> list[object]:
        calls = [
            client.call_tool("my_tool", {"n": n}, user_input_id=f"p1-agent{n}", timeout_seconds=5) for n in range(3)
        ]
        return await asyncio.gather(*calls, client.read_files(["a.py"]))

    async with replica(settings_with(), loop=asking(ask)) as serving, serving.socket() as socket:
        await socket.prompt()
        await socket.until_frame("read-files")
        questions = {
            frame.get("input", {}).get("n", "files"): frame for frame in socket.frames() if "requestId" in frame
        }
        assert questions[1] == {
            "type": "tool-call-request",
            "userInputId": "p1-agent1",
            "requestId": questions[1]["requestId"],
            "toolName": "my_tool",
            "input": {"n": 1},
            "timeout": 5000,
        }
        await socket.act("read-files-response", requestId=questions["files"]["requestId"], files={"a.py": "text"})
        for n in (2, 0, 1):
            output = [{"type": "json", "value": n}]
            await socket.act("tool-call-response", requestId=questions[n]["requestId"], output=output)
        value = await output_of(socket)
        assert [part[0]["value"] for part in value[:3]] == [0, 1, 2]
        assert value[3] == {"a.py": "text"}


async def test_a_client_that_does_not_answer_is_not_waited_for(settings_with: SettingsWith) -> None:
    async def ask(client: Client) -> list[object]:
        return await asyncio.gather(
            client.read_files(["a.py"]),
            client.call_tool("my_tool", {}, user_input_id="p1", timeout_seconds=0.01),
            client.mcp_tools({"command": "x"}, ["t"]),
        )

    settings = settings_with(codebuff={"request_timeout_seconds": 0.05})
    async with replica(settings, loop=asking(ask)) as serving, serving.socket() as socket:
        await socket.prompt()
        files, output, tools = await output_of(socket)
        # It may well be there.
        assert files == {"a.py": "[FILE_READ_ERROR] The client has not answered within 0.05 s."}
        assert "within 0.06 s" in output[0]["value"]["errorMessage"]
        assert tools == []
        asked = next(frame for frame in socket.frames() if frame["type"] == "request-mcp-tool-data")
        assert (asked["mcpConfig"], asked["toolNames"]) == ({"command": "x"}, ["t"])
        # What comes too late is nobody's.
        await socket.act("mcp-tool-data", requestId=asked["requestId"], tools=[])
        await socket.until(lambda message: message.frames_done.number == 2)


async def test_tools_of_mcp_servers(settings_with: SettingsWith) -> None:
    async def ask(client: Client) -> object:
        tools = await client.mcp_tools({"command": "x"}, None)
        config = {"command": "x"}
        output = await client.call_tool("t", {"a": 1}, user_input_id="p1", timeout_seconds=None, mcp_config=config)
        return [tools, output]

    tool = {"name": "t", "inputSchema": {"type": "object"}}
    async with replica(settings_with(), loop=asking(ask)) as serving, serving.socket() as socket:
        await socket.prompt()
        asked = await socket.until_frame("request-mcp-tool-data")
        assert "toolNames" not in asked
        await socket.act("mcp-tool-data", requestId=asked["requestId"], tools=[tool, {"name": "no schema"}, 7])
        called = await socket.until_frame("tool-call-request")
        assert called["mcpConfig"] == {"command": "x"}
        assert "timeout" not in called
        await socket.act("tool-call-response", requestId=called["requestId"], output=[{"type": "json", "value": 1}])
        assert await output_of(socket) == [[tool], [{"type": "json", "value": 1}]]


@pytest.mark.parametrize("name", ["write_file", "web_search"])
async def test_a_tool_of_an_mcp_server_may_have_the_name_of_another(settings_with: SettingsWith, name: str) -> None:
    async def ask(client: Client) -> object:
        given = {"path": "a", "text": "b"}
        return await client.call_tool(
            name, given, user_input_id="p1", timeout_seconds=None, mcp_config={"command": "x"}
        )

    async with replica(settings_with(), loop=asking(ask)) as serving, serving.socket() as socket:
        await socket.prompt()
        called = await socket.until_frame("tool-call-request")
        assert (called["toolName"], called["input"]) == (name, {"path": "a", "text": "b"})
        await socket.act("tool-call-response", requestId=called["requestId"], output=[{"type": "json", "value": 1}])
        assert await output_of(socket) == [{"type": "json", "value": 1}]


GOOD: list[tuple[str, Json]] = [
    ("write_file", {"type": "file", "path": "a", "content": ""}),
    ("str_replace", {"type": "patch", "path": "a", "content": "@@"}),
    ("create_plan", {"type": "file", "path": "a.md", "content": "plan"}),
    ("run_terminal_command", {"command": "ls", "mode": "assistant"}),
    (
        "run_terminal_command",
        {"command": "ls", "mode": "user", "process_type": "SYNC", "cwd": "x", "timeout_seconds": -1},
    ),
    ("code_search", {"pattern": "x"}),
    ("code_search", {"pattern": "x", "flags": "-i", "cwd": ".", "maxResults": 30}),
    ("run_file_change_hooks", {"files": ["a"]}),
    ("browser_logs", {"type": "start", "url": "http://x", "waitUntil": "load"}),
    ("my_tool", {"anything": [1]}),
]
WRONG: list[tuple[str, Json]] = [
    ("write_file", {"path": "a", "content": ""}),
    ("write_file", {"type": "file", "path": "", "content": ""}),
    ("write_file", {"type": "whole", "path": "a", "content": ""}),
    ("write_file", {"type": "file", "path": "a", "content": None}),
    ("run_terminal_command", {"command": "ls"}),
    ("run_terminal_command", {"command": "ls", "mode": "assistant", "cwd": None}),
    ("run_terminal_command", {"command": "ls", "mode": "assistant", "timeout_seconds": "5"}),
    ("run_terminal_command", {"command": "ls", "mode": "assistant", "process_type": "ASYNC"}),
    ("code_search", {}),
    ("code_search", {"pattern": "x", "maxResults": 2.5}),
    ("code_search", {"pattern": "x", "maxResults": 0}),
    ("code_search", {"pattern": "x", "maxResults": 2**53}),
    ("run_file_change_hooks", {"files": "a"}),
    ("browser_logs", {"type": "start"}),
    ("end_turn", {}),
    ("read_files", {"paths": ["a"]}),
    ("unknown_tool", {}),
]


async def test_what_a_client_would_choke_on_never_gets_there(settings_with: SettingsWith) -> None:
    async def ask(client: Client) -> object:
        calls = [client.call_tool(name, given, user_input_id="p1", timeout_seconds=5) for name, given in WRONG + GOOD]
        return await asyncio.gather(*calls)

    async with replica(settings_with(), loop=asking(ask)) as serving, serving.socket() as socket:
        await socket.prompt()
        for name, given in GOOD:
            asked = await socket.until_frame("tool-call-request")
            assert (asked["toolName"], asked["input"]) == (name, given)
            await socket.act("tool-call-response", requestId=asked["requestId"], output=[])
        value = await output_of(socket)
        refused, answered = value[: len(WRONG)], value[len(WRONG) :]
        assert answered == [[]] * len(GOOD)
        for [part], (name, _) in zip(refused, WRONG, strict=True):
            assert name in part["value"]["errorMessage"]
        assert socket.kinds().count("tool-call-request") == len(GOOD)


@pytest.mark.parametrize(
    ("output", "parts"),
    [
        ([], []),
        ([{"type": "json", "value": None}], [{"type": "json", "value": None}]),
        ([{"type": "media", "data": "x", "mediaType": "image/png"}], None),
        ("text", [{"type": "json", "value": "text"}]),
        ([{"type": "media"}, "x"], [{"type": "json", "value": {"type": "media"}}, {"type": "json", "value": "x"}]),
        (None, [{"type": "json", "value": {"errorMessage": "The tool has given no output."}}]),
    ],
)
def test_outputs_become_parts(output: object, parts: list[Json] | None) -> None:
    assert parts_of(output) == (output if parts is None else parts)


class TestProjects:
    """What `init` says is offered to the prompts after it."""

    async def run(self, socket: Socket, loop: ScriptedLoop, prompt_id: str = "p1", **data: Any) -> Json:
        state = {"mainAgentState": SESSION_STATE["mainAgentState"]}
        await socket.prompt(prompt_id, **{"sessionState": state, **data})
        await socket.until_ended(prompt_id)
        context = loop.prompts[-1].session_state.get("fileContext")
        assert isinstance(context, dict)
        return context

    async def test_the_full_context(self, settings_with: SettingsWith) -> None:
        async with replica(settings_with()) as serving, serving.socket() as socket:
            await socket.act("init", fingerprintId="f", fileContext=FILE_CONTEXT)
            response = await socket.until_frame("init-response")
            assert response["next_quota_reset"] is None
            assert response["usage"] == 0
            assert await self.run(socket, serving.loop) == FILE_CONTEXT
            own = {**FILE_CONTEXT, "cwd": "/elsewhere"}
            assert await self.run(socket, serving.loop, "p2", sessionState={"fileContext": own}) == own
            await socket.act("init", fingerprintId="f")
            await socket.until_frame("init-response")
            assert await self.run(socket, serving.loop, "p3") == FILE_CONTEXT

    async def test_a_context_with_gaps_is_made_whole(self, settings_with: SettingsWith) -> None:
        async with replica(settings_with()) as serving, serving.socket() as socket:
            given = {"cwd": "/p", "fileTree": None, "gitChanges": {"diff": "d"}, "tokenCallers": None, "more": 1}
            await socket.act("init", fingerprintId="f", fileContext=given)
            context = await self.run(socket, serving.loop)
            assert set(context) == set(FILE_CONTEXT) | {"more"}
            assert context["projectRoot"] == context["cwd"] == "/p"
            assert context["fileTree"] == []
            assert context["gitChanges"] == {"status": "", "diff": "d", "diffCached": "", "lastCommitMessages": ""}
            assert context["systemInfo"].keys() == FILE_CONTEXT["systemInfo"].keys()

    async def test_a_plain_map_of_files(self, settings_with: SettingsWith) -> None:
        async def ask(client: Client) -> object:
            before = await client.read_files(["src/a.py", "knowledge.md"])
            change = {"type": "file", "path": "src/a.py", "content": "new"}
            await client.call_tool("write_file", change, user_input_id="p1", timeout_seconds=5)
            return [before, await client.read_files(["src/a.py"])]

        loop = asking(ask)
        files = {"./src/a.py": "old", "src/deep/b.py": "b", "knowledge.md": "know", "gone": None}
        async with replica(settings_with(), loop=loop) as serving, serving.socket() as socket:
            await socket.act("init", fingerprintId="f", fileContext=files)
            await socket.prompt(sessionState={})
            asked = await socket.until_frame("tool-call-request")
            await socket.act("tool-call-response", requestId=asked["requestId"], output=[])
            assert await output_of(socket) == [{"src/a.py": "old", "knowledge.md": "know"}, {"src/a.py": "new"}]
            context = loop.prompts[0].session_state["fileContext"]
            assert set(context) == set(FILE_CONTEXT)
            assert context["knowledgeFiles"] == {"knowledge.md": "know"}
            assert context["fileTree"] == [
                {"name": "knowledge.md", "type": "file", "filePath": "knowledge.md"},
                {
                    "name": "src",
                    "type": "directory",
                    "filePath": "src",
                    "children": [
                        {"name": "a.py", "type": "file", "filePath": "src/a.py"},
                        {
                            "name": "deep",
                            "type": "directory",
                            "filePath": "src/deep",
                            "children": [{"name": "b.py", "type": "file", "filePath": "src/deep/b.py"}],
                        },
                    ],
                },
            ]

    async def test_it_is_sealed_and_follows_the_session(self, settings_with: SettingsWith) -> None:
        settings = settings_with(security={"secrets_key": ["a passphrase of length"]})
        async with replica(settings) as serving:
            async with serving.socket("c1") as socket:
                await socket.say({"type": "identify", "clientSessionId": "session-1"})
                await socket.act("init", fingerprintId="f", fileContext=FILE_CONTEXT, authToken="key-1")
                await socket.until_frame("init-response")
            redis = serving.service.redis
            names = [name async for name in redis.scan_iter("pb:codebuff-project:*")]
            assert len(names) == 2
            for name in names:
                assert b"project" not in await redis.get(name)
                assert 0 < await redis.pttl(name) <= 3_600_000
            async with serving.socket("c2") as socket:
                await socket.say({"type": "identify", "clientSessionId": "session-1"})
                assert await self.run(socket, serving.loop, authToken="key-1") == FILE_CONTEXT
            async with serving.socket("c3") as socket:
                await socket.say({"type": "identify", "clientSessionId": "session-1"})
                await socket.prompt(sessionState={}, authToken="key-2")
                await socket.until_ended()
                assert serving.loop.prompts[-1].session_state == {}

    @pytest.mark.parametrize("context", [FILE_CONTEXT, {"currentWorkingDirectory": "/p", "fileTree": []}])
    async def test_nothing_is_kept_of_whoever_may_not_ask(self, settings_with: SettingsWith, context: Json) -> None:
        security = {"require_api_key": True, "api_keys": [{"key": "pb-one", "id": "one"}]}
        async with replica(settings_with(security=security, codebuff={"legacy_protocol": True})) as serving:
            redis = serving.service.redis
            async with serving.socket() as socket:
                for token, kept in (({}, 0), ({"authToken": "wrong"}, 0), ({"authToken": "pb-one"}, 1)):
                    await socket.act("init", fingerprintId="f", fileContext=context, **token)
                    await socket.until_frame("init-response")
                    assert len([name async for name in redis.scan_iter("pb:codebuff-project:*")]) == kept
