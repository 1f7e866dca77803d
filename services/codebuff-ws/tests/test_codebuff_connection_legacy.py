"""The protocol's first generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sockets import ScriptedLoop, Socket, hang, replica

from patchbay.codebuff.login import login_sealer
from patchbay.errors import UPSTREAM, PatchbayError, make_error
from patchbay.settings import Settings
from patchbay.state.codebuff_logins import CodebuffLogins
from patchbay.state.connection import RedisUnavailable
from patchbay.testing.eventually import eventually
from patchbay_codebuff_ws.ports import Client, Prompt, PromptResult

SettingsWith = Callable[..., Settings]
Json = dict[str, Any]

CONTEXT: Json = {
    "currentWorkingDirectory": "/home/me/project",
    "fileTree": [{"name": "a.py", "type": "file", "filePath": "a.py"}],
    "fileTokenScores": {},
    "knowledgeFiles": {"knowledge.md": "know"},
    "shellConfigFiles": {},
    "gitChanges": {"status": "", "diff": "", "diffCached": "", "lastCommitMessages": ""},
    "changesSinceLastChat": {},
    "fileVersions": [[]],
}
CHANGE: Json = {"type": "file", "path": "a.py", "content": "new"}
APPLIED: Json = {"type": "file", "filePath": "a.py", "content": "new"}


def legacy(settings_with: SettingsWith, **sections: Any) -> Settings:
    return settings_with(codebuff={"legacy_protocol": True}, **sections)


async def user_input(socket: Socket, *said: str, prompt_id: str = "u1", **more: Any) -> int:
    """Sends the whole conversation, the user's word first, then in turns."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
    data = {"fileContext": CONTEXT, "changesAlreadyApplied": [], "fingerprintId": "f", **more}
    return await socket.act("user-input", userInputId=prompt_id, messages=messages, **data)


async def test_it_is_off_unless_it_is_asked_for(settings_with: SettingsWith) -> None:
    async with replica(settings_with()) as serving, serving.socket() as socket:
        await user_input(socket, "hi")
        assert "does not speak" in (await socket.until_frame("action-error"))["message"]
        assert not serving.loop.prompts


async def test_a_user_input_needs_an_id_of_some_length(settings_with: SettingsWith) -> None:
    async with replica(legacy(settings_with)) as serving, serving.socket() as socket:
        for prompt_id in ("", "u" * 1001):
            await user_input(socket, "hi", prompt_id=prompt_id)
            assert "at most 1000" in (await socket.until_frame("action-error"))["message"]
        assert not serving.loop.prompts


async def test_a_conversation_with_files_and_a_command(settings_with: SettingsWith) -> None:
    async def run(prompt: Prompt, client: Client) -> PromptResult:
        await client.chunk({"type": "start", "messageHistoryLength": 0})
        await client.chunk("Reading. ")
        files = await client.read_files(["a.py", "b.py"])
        assert files == {"a.py": "old", "b.py": None}
        draft = {**CHANGE, "content": "draft"}
        await client.call_tool("write_file", draft, user_input_id="u1", timeout_seconds=30)
        written = await client.call_tool("write_file", CHANGE, user_input_id="u1", timeout_seconds=30)
        assert written[0]["value"]["file"] == "a.py"
        assert await client.read_files(["a.py"]) == {"a.py": "new"}
        command = {"command": "make test", "mode": "assistant"}
        [part] = await client.call_tool("run_terminal_command", command, user_input_id="u1", timeout_seconds=30)
        assert part["value"] == {"command": "make test", "stdout": "all green"}
        # The command may have changed what was written before.
        assert await client.read_files(["a.py"]) == {"a.py": "formatted"}
        [part] = await client.call_tool("code_search", {"pattern": "x"}, user_input_id="u1", timeout_seconds=30)
        assert "no tool" in part["value"]["errorMessage"]
        await client.cost(2, agent_id="a", user_input_id="u1")
        await client.chunk("Done.")
        return PromptResult(session_state=prompt.session_state, output={"type": "lastMessage", "value": "Done."})

    loop = ScriptedLoop([run])
    async with replica(legacy(settings_with), loop=loop) as serving, serving.socket() as socket:
        await socket.act("init", fingerprintId="f", fileContext=CONTEXT)
        init = await socket.until_frame("init-response")
        assert set(init) == {
            "type",
            "usage",
            "limit",
            "subscription_active",
            "next_quota_reset",
            "session_credits_used",
        }
        await user_input(socket, "first", "answer", "fix it")
        asked = await socket.until_frame("read-files")
        assert asked == {"type": "read-files", "filePaths": ["a.py", "b.py"]}
        await socket.act("read-files-response", files={"a.py": "old", "b.py": None})
        call = await socket.until_frame("tool-call")
        assert call.pop("data")["input"] == {"command": "make test"}
        assert call == {
            "type": "tool-call",
            "userInputId": "u1",
            "response": "Reading. ",
            "changes": [APPLIED],
            "changesAlreadyApplied": [],
            "addedFileVersions": [],
            "resetFileVersions": False,
        }
        assert socket.received[-1].frame.ends_prompt
        # The turn is the client's: nothing is under way for the edge.
        await socket.until(lambda message: message.prompt_ended.prompt_id == "u1")
        said = ("first", "answer", "fix it", "Reading. ", "[TOOL_RESULT] all green")
        number = await user_input(socket, *said, changesAlreadyApplied=[APPLIED])
        await socket.until(lambda message: message.prompt_begun.number == number)
        await socket.until_frame("read-files", filePaths=["a.py"])
        await socket.act("read-files-response", files={"a.py": "formatted"})
        complete = await socket.until_frame("response-complete")
        assert (complete.pop("usage"), complete.pop("session_credits_used"), complete.pop("limit")) == (2, 2, 1_000_000)
        del complete["next_quota_reset"], complete["subscription_active"]
        assert complete == {
            "type": "response-complete",
            "userInputId": "u1",
            "response": "Done.",
            "changes": [],
            "changesAlreadyApplied": [APPLIED],
            "addedFileVersions": [],
            "resetFileVersions": False,
        }
        await socket.act("usage")
        assert (await socket.until_frame("usage-response"))["session_credits_used"] == 2
        assert socket.chunks() == ["Reading. ", "Done."]
        assert not {"prompt-response", "prompt-error", "message-cost-response"} & set(socket.kinds())
        [prompt] = loop.prompts
        assert prompt.text == "fix it"
        history = prompt.session_state["mainAgentState"]["messageHistory"]
        assert history == [{"role": "user", "content": "first"}, {"role": "assistant", "content": "answer"}]
        context = prompt.session_state["fileContext"]
        assert (context["cwd"], context["projectRoot"]) == ("/home/me/project",) * 2
        assert "currentWorkingDirectory" not in context
        await serving.idle()


async def call_terminal(prompt: Prompt, client: Client) -> PromptResult:
    command = {"command": "ls", "mode": "assistant"}
    await client.call_tool("run_terminal_command", command, user_input_id="u1", timeout_seconds=30)
    await client.chunk("after")
    return PromptResult(session_state=prompt.session_state, output={"type": "lastMessage", "value": "x"})


async def say_done(prompt: Prompt, client: Client) -> PromptResult:
    await client.chunk("done")
    return PromptResult(session_state=prompt.session_state, output={"type": "lastMessage", "value": "done"})


async def test_a_user_who_says_something_else_instead(settings_with: SettingsWith) -> None:
    loop = ScriptedLoop([call_terminal, say_done])
    async with replica(legacy(settings_with), loop=loop) as serving, serving.socket() as socket:
        await user_input(socket, "hi")
        await socket.until_frame("tool-call")
        await user_input(socket, "hi", "...", "something else", prompt_id="u2")
        complete = await socket.until_frame("response-complete")
        assert (complete["userInputId"], complete["response"]) == ("u2", "done")
        await serving.idle()
        assert socket.chunks() == ["done"]


async def test_a_user_who_stops_an_answer_and_says_something_else(
    settings_with: SettingsWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchbay_codebuff_ws.connection.prompts._GRACE_SECONDS", 0.0)
    loop = ScriptedLoop([hang, call_terminal])
    async with replica(legacy(settings_with), loop=loop) as serving, serving.socket() as socket:
        await user_input(socket, "hi")
        await eventually(lambda: serving.loop.running == 1)
        # Of the stop, its client says nothing.
        await user_input(socket, "hi", "...", "something else", prompt_id="u2")
        await socket.until_frame("tool-call", userInputId="u2")
        await eventually(lambda: serving.loop.running == 1)
        await user_input(socket, "hi", "...", "something else", "", "[TOOL_RESULT] late", prompt_id="u2")
        await socket.until_frame("response-complete", userInputId="u2")
        assert socket.chunks() == ["after"]
        await serving.idle()


async def test_a_result_is_for_the_prompt_that_it_names(settings_with: SettingsWith) -> None:
    loop = ScriptedLoop([call_terminal, say_done])
    async with replica(legacy(settings_with), loop=loop) as serving, serving.socket() as socket:
        await user_input(socket, "hi")
        await socket.until_frame("tool-call")
        await user_input(socket, "ho", "...", "[TOOL_RESULT] of another one", prompt_id="u2")
        await socket.until_frame("response-complete", userInputId="u2")
        assert socket.chunks() == ["done"]
        await serving.idle()


async def test_a_result_at_another_replica_begins_anew(settings_with: SettingsWith) -> None:
    loop = ScriptedLoop([call_terminal, say_done])
    async with replica(legacy(settings_with), loop=loop) as serving:
        async with serving.socket() as socket:
            await user_input(socket, "hi")
            await socket.until_frame("tool-call")
        await serving.idle()
        async with serving.socket(again=True, lost=["u0", "commit-message-1"]) as socket:
            lost = await socket.until_frame("response-complete")
            assert "restarted" in lost["response"]
            # It comes after whatever had been said.
            assert socket.chunks()[0].startswith("\n")
            await socket.until_frame("action-error")
            blocks = [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "a.py"}]}]
            messages = [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": [{"type": "tool_use", "name": "ls", "input": {"a": 1}}]},
                {"role": "user", "content": blocks},
            ]
            await socket.act("user-input", userInputId="u1", messages=messages, fileContext=CONTEXT)
            await socket.until_frame("response-complete", userInputId="u1")
            assert loop.prompts[-1].text == "a.py"
            history = loop.prompts[-1].session_state["mainAgentState"]["messageHistory"]
            assert history[-1] == {"role": "assistant", "content": '[Called ls with {"a":1}]'}


async def test_an_answer_that_does_not_name_a_file_does_not_say_that_it_is_not_there(
    settings_with: SettingsWith,
) -> None:
    async def run(prompt: Prompt, client: Client) -> PromptResult:
        files = await client.read_files(["a.py", "b.py"])
        assert files["a.py"] is None
        assert (files["b.py"] or "").startswith("[FILE_READ_ERROR]")
        return await say_done(prompt, client)

    async with replica(legacy(settings_with), loop=ScriptedLoop([run])) as serving, serving.socket() as socket:
        await user_input(socket, "hi")
        await socket.until_frame("read-files")
        await socket.act("read-files-response", files={"a.py": None, "late.py": "x"})
        await socket.until_frame("response-complete")
        assert socket.chunks() == ["done"]


async def test_a_result_for_a_prompt_of_the_other_generation(settings_with: SettingsWith) -> None:
    loop = ScriptedLoop([call_terminal, hang])
    async with replica(legacy(settings_with), loop=loop) as serving, serving.socket() as socket:
        await user_input(socket, "hi", prompt_id="u1")
        await socket.until_frame("tool-call")
        await socket.prompt("u1")
        await eventually(lambda: len(loop.prompts) == 2)
        number = await user_input(socket, "hi", "...", "[TOOL_RESULT] x", prompt_id="u1")
        await socket.until(lambda message: message.frames_done.number == number)
        await eventually(lambda: loop.running == 1)
        await socket.act("cancel-user-input", promptId="u1", authToken="t")
        await socket.until_frame("prompt-response", promptId="u1")
        await serving.idle()


async def test_a_drain_while_the_turn_is_the_clients(settings_with: SettingsWith) -> None:
    loop = ScriptedLoop([call_terminal])
    async with replica(legacy(settings_with), loop=loop) as serving, serving.socket() as socket:
        await user_input(socket, "hi")
        await socket.until_frame("tool-call")
        assert await serving.service.drain(5)
        assert (await socket.drained()).name == "UNAVAILABLE"
        await serving.idle()


@pytest.mark.parametrize("fails", ["loop", "output", "key", "messages"])
async def test_what_goes_wrong_is_shown_and_ends_the_prompt(settings_with: SettingsWith, fails: str) -> None:
    async def run(prompt: Prompt, client: Client) -> PromptResult:
        if fails == "loop":
            raise PatchbayError(make_error(UPSTREAM, "it is wrong"))
        return PromptResult(session_state={}, output={"type": "error", "message": "it is wrong"})

    security = {"require_api_key": fails == "key", "api_keys": ["pb-key"]}
    async with (
        replica(legacy(settings_with, security=security), loop=ScriptedLoop([run])) as serving,
        serving.socket() as socket,
    ):
        await user_input(socket, *([] if fails == "messages" else ["hi"]))
        complete = await socket.until_frame("response-complete")
        [chunk] = socket.chunks()
        assert chunk.strip() == complete["response"].strip()
        if fails in ("loop", "output"):
            assert "it is wrong" in chunk
        assert ('"login"' in chunk) is (fails == "key")
        await serving.idle()


async def test_a_command_that_never_comes_back(settings_with: SettingsWith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchbay_codebuff_ws.connection.legacy_client._LONGEST_TURN_SECONDS", 0.05)
    loop = ScriptedLoop([call_terminal, say_done])
    async with replica(legacy(settings_with), loop=loop) as serving, serving.socket() as socket:
        await user_input(socket, "hi")
        await socket.until_frame("tool-call")
        await serving.idle()
        await user_input(socket, "hi", "...", "[TOOL_RESULT] late")
        await socket.until_frame("response-complete")
        assert socket.chunks() == ["done"]


async def test_commit_messages(settings_with: SettingsWith) -> None:
    async def run(prompt: Prompt, client: Client) -> PromptResult:
        assert prompt.agent_id == "ask"
        assert "+new line" in prompt.text
        await client.chunk(" Add a line\n")
        return PromptResult(session_state={}, output={"type": "lastMessage", "value": "x"})

    async with (
        replica(legacy(settings_with), loop=ScriptedLoop([run])) as serving,
        serving.socket() as socket,
    ):
        await socket.act("generate-commit-message", fingerprintId="f", stagedChanges="+new line")
        message = await socket.until_frame("commit-message-response")
        assert message == {"type": "commit-message-response", "commitMessage": "Add a line"}
        assert socket.chunks() == []


KEY = "pb-höchst-secret"
SECURITY = {"require_api_key": True, "api_keys": [{"key": KEY, "id": "k1", "user": "me@example.test"}]}


async def test_a_login(settings_with: SettingsWith) -> None:
    settings = legacy(settings_with, security=SECURITY)
    async with replica(settings) as serving, serving.socket() as socket:
        await socket.act("login-code-request", fingerprintId="f", referralCode="ref-1")
        begun = await socket.until_frame("login-code-response")
        page, _, login_id = begun.pop("loginUrl").rpartition("/")
        assert page == "http://edge.test/codebuff/login"
        secret = begun.pop("fingerprintHash")
        assert begun == {"type": "login-code-response", "fingerprintId": "f"}
        # Nothing is said until there is somebody: an answer without a user would be the end.
        number = await socket.act("login-status-request", fingerprintId="f", fingerprintHash=secret)
        await socket.until(lambda message: message.frames_done.number == number)
        # As the edge does, when the page is given the key.
        logins = CodebuffLogins(serving.service.redis, sealer=login_sealer(settings.security))
        assert await logins.complete(login_id, KEY)
        await socket.act("login-status-request", fingerprintId="f", fingerprintHash=secret)
        assert await socket.until_frame("auth-result") == {
            "type": "auth-result",
            "user": {
                "id": "k1",
                "email": "me@example.test",
                "name": "me@example.test",
                "authToken": KEY,
                "fingerprintId": "f",
                "fingerprintHash": secret,
            },
            "message": "Signed in.",
        }
        await socket.act("clear-auth-token", authToken=KEY, fingerprintId="f", fingerprintHash=secret)
        await user_input(socket, "hi", authToken=KEY)
        await socket.until_frame("response-complete")
        assert [(prompt.caller.key_id, prompt.owner) for prompt in serving.loop.prompts] == [("k1", "k1")]
        assert socket.kinds().count("auth-result") == 1


async def test_a_sign_in_that_does_not_come_about(settings_with: SettingsWith, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = legacy(settings_with, security=SECURITY)
    async with replica(settings) as serving, serving.socket() as socket:
        for fingerprint in ("", 1, "f" * 501):
            await socket.act("login-code-request", fingerprintId=fingerprint)
            assert "fingerprintId" in (await socket.until_frame("action-error"))["message"]
        logins = CodebuffLogins(serving.service.redis, sealer=login_sealer(settings.security))
        begun = await logins.begin("f", "elsewhere")
        assert begun is not None
        login_id, secret = begun
        assert await logins.complete(login_id, "revoked")
        await socket.act("login-status-request", fingerprintId="f", fingerprintHash=secret)
        refused = await socket.until_frame("auth-result")
        assert "key" in refused["message"]
        assert "user" not in refused
        monkeypatch.setattr("patchbay.state.codebuff_logins.MOST_PER_MINUTE", 0)
        await socket.act("login-code-request", fingerprintId="f")
        assert "Too many" in (await socket.until_frame("action-error"))["message"]

        async def away(*_: object) -> None:
            raise RedisUnavailable("it is away")

        monkeypatch.setattr(CodebuffLogins, "begin", away)
        monkeypatch.setattr(CodebuffLogins, "take", away)
        await socket.act("login-code-request", fingerprintId="f")
        assert "cannot be reached" in (await socket.until_frame("action-error"))["message"]
        await socket.act("login-status-request", fingerprintId="f", fingerprintHash=secret)
        await socket.act("usage")
        await socket.until_frame("usage-response")
        assert socket.kinds().count("auth-result") == 1


async def test_a_socket_that_leaves_in_its_turn(settings_with: SettingsWith) -> None:
    loop = ScriptedLoop([call_terminal, hang])
    async with replica(legacy(settings_with), loop=loop) as serving:
        async with serving.socket() as socket:
            await user_input(socket, "hi")
            await socket.until_frame("tool-call")
            await eventually(lambda: serving.loop.running == 1)
        await serving.idle()
