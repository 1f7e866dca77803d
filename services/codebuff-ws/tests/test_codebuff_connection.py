"""The protocol: what is acknowledged, how prompts run and end, what a client is asked."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable

import pytest
from sockets import SESSION_STATE, ScriptedLoop, hang, prompt_action, replica, say_hello

from patchbay.errors import UPSTREAM, PatchbayError, make_error
from patchbay.settings import Settings
from patchbay.testing.eventually import eventually
from patchbay_codebuff_ws.connection import wire
from patchbay_codebuff_ws.ports import Client, Prompt, PromptResult

SettingsWith = Callable[..., Settings]


async def test_a_run_in_its_order(settings_with: SettingsWith) -> None:
    async with replica(settings_with()) as serving, serving.socket() as socket:
        number = await socket.prompt(params={"a": 1})
        end = await socket.until_ended()
        assert end == {
            "type": "prompt-response",
            "promptId": "p1",
            "sessionState": SESSION_STATE,
            "toolCalls": [],
            "toolResults": [],
            "output": {"type": "lastMessage", "value": "Hello"},
        }
        await socket.until_frame("usage-response")
        assert socket.kinds() == [
            "ack",
            "usage-response",
            *["response-chunk"] * 5,
            "prompt-response",
            "usage-response",
        ]
        assert socket.frames()[0] == {"type": "ack", "txid": 0, "success": True}
        assert [chunk if isinstance(chunk, str) else chunk["type"] for chunk in socket.chunks()] == [
            "start",
            "Hel",
            "lo",
            "text",
            "finish",
        ]
        usage = socket.frames()[-1]
        assert usage["next_quota_reset"] is None
        assert isinstance(usage["remainingBalance"], int)
        begun = next(message.prompt_begun for message in socket.received if message.HasField("prompt_begun"))
        assert (begun.number, begun.prompt_id) == (number, "p1")
        named = {_kind(m.frame.text): (m.frame.prompt_id, m.frame.ends_prompt) for m in socket.received if m.frame.text}
        assert named["ack"] == ("", False)
        assert named["response-chunk"] == ("p1", False)
        assert named["prompt-response"] == ("p1", True)
        await serving.idle()


def _kind(text: str) -> str:
    frame = json.loads(text)
    return str(frame.get("data", frame)["type"])


@pytest.mark.parametrize(
    ("text", "ack"),
    [
        ('{"type":"ping","txid":7}', {"type": "ack", "txid": 7, "success": True}),
        ('{"type":"identify","clientSessionId":"s1","txid":0}', {"type": "ack", "txid": 0, "success": True}),
        ('{"type":"identify","txid":0}', {"type": "ack", "txid": 0, "success": True}),
        ('{"type":"no-such","txid":1}', {"type": "ack", "txid": 1, "success": True}),
        ('{"type":"action","txid":1}', {"type": "ack", "txid": 1, "success": True}),
        ('{"type":"action","data":[],"txid":1}', {"type": "ack", "txid": 1, "success": True}),
        ('{"type":"action","data":{"type":7},"txid":1}', {"type": "ack", "txid": 1, "success": True}),
        ('{"type":"subscribe","topics":"x","txid":1}', {"type": "ack", "txid": 1, "success": True}),
        ('{"type":["ping"],"txid":"1"}', {"type": "ack", "success": True}),
        ('{"txid":true}', {"type": "ack", "success": True}),
        ("{}", {"type": "ack", "success": True}),
        ("", {"type": "ack", "success": False}),
        ("[1]", {"type": "ack", "success": False}),
        ('{"type":"ping"', {"type": "ack", "success": False}),
        ('{"txid":NaN}', {"type": "ack", "success": False}),
        ("[" * 200_000, {"type": "ack", "success": False}),
        ('{"a":' * 200_000 + "1" + "}" * 200_000, {"type": "ack", "success": False}),
    ],
)
async def test_each_frame_is_acknowledged_without_an_error(
    settings_with: SettingsWith, text: str, ack: dict[str, object]
) -> None:
    async with replica(settings_with()) as serving, serving.socket() as socket:
        await socket.say(text)
        await socket.until(lambda message: message.frames_done.number == 1)
        assert socket.frames() == [ack]
        await socket.prompt()
        assert (await socket.until_ended())["type"] == "prompt-response"


def test_a_frame_of_very_many_parts_holds_nobody_up() -> None:
    before = [stats["collections"] for stats in gc.get_stats()]
    message = wire.read('{"a":[' + "[]," * 1_000_000 + "1]}")
    assert len(message.body["a"]) == 1_000_001
    after = [stats["collections"] for stats in gc.get_stats()]
    assert sum(after) - sum(before) < 10
    assert gc.isenabled()
    with pytest.raises(wire.Unreadable):
        wire.read('{"a":[' + "[]," * 4_000_000 + "1]}")


async def test_half_an_emoji_does_no_harm(settings_with: SettingsWith) -> None:
    async def echo(prompt: Prompt, client: Client) -> PromptResult:
        await client.chunk("cut \ud83d")
        return PromptResult(session_state=prompt.session_state, output={"type": "lastMessage", "value": prompt.text})

    async with replica(settings_with(), loop=ScriptedLoop([echo])) as serving, serving.socket() as socket:
        await socket.prompt(text="half \ud83d")
        end = await socket.until_ended()
        assert end["output"]["value"] == "half \ufffd"
        assert socket.chunks() == ["cut \ufffd"]


@pytest.mark.parametrize(
    "wrong", [{"sessionState": []}, {"prompt": 7}, {"content": "x"}, {"promptParams": "x"}], ids=str
)
async def test_a_prompt_that_cannot_be_read_ends_with_one_error(
    settings_with: SettingsWith, wrong: dict[str, object]
) -> None:
    async with replica(settings_with()) as serving, serving.socket() as socket:
        await socket.prompt(**wrong)
        end = await socket.until_ended()
        assert end["type"] == "prompt-error"
        assert next(iter(wrong)) in end["message"]
        assert set(end) == {"type", "userInputId", "message"}
        await serving.idle()


async def test_a_prompt_without_an_id_is_said_to_be_wrong(settings_with: SettingsWith) -> None:
    async with replica(settings_with()) as serving, serving.socket() as socket:
        await socket.prompt(promptId=None)
        assert "promptId" in (await socket.until_frame("prompt-error"))["message"]
        # Each frame about it would be as long.
        await socket.prompt("p" * 1001)
        assert "1000 characters" in (await socket.until_frame("prompt-error", userInputId="p" * 1001))["message"]
        await socket.prompt("p" * 1000)
        assert (await socket.until_ended("p" * 1000))["type"] == "prompt-response"


async def test_where_no_key_is_needed_a_prompt_is_its_tokens(settings_with: SettingsWith) -> None:
    async with replica(settings_with()) as serving, serving.socket() as socket:
        for prompt_id, token in (("p1", "one"), ("p2", "two"), ("p3", "one")):
            await socket.prompt(prompt_id, authToken=token)
            await socket.until_ended(prompt_id)
        first, second, third = (prompt.owner for prompt in serving.loop.prompts)
    # As for requests, so that whoever has made a run may look at it.
    header = {"authorization": "Bearer one"}
    assert first == third == serving.service._parts.callers.identify(header).owner
    assert first != second


async def test_who_asks_is_known_by_the_token_in_the_frame(settings_with: SettingsWith) -> None:
    security = {"require_api_key": True, "api_keys": [{"key": "pb-key-näh", "id": "k1"}]}
    async with replica(settings_with(security=security)) as serving, serving.socket() as socket:
        await socket.prompt("p1", authToken="wrong")
        assert "not known" in (await socket.until_ended("p1"))["message"]
        await socket.prompt("p2", authToken=None)
        assert "required" in (await socket.until_ended("p2"))["message"]
        await socket.prompt("p3", authToken="pb-key-näh")
        assert (await socket.until_ended("p3"))["type"] == "prompt-response"
        [prompt] = serving.loop.prompts
        assert (prompt.caller.key_id, prompt.owner) == ("k1", "k1")
        assert not prompt.credential
    async with (
        replica(settings_with(security={"require_api_key": True, "api_keys": ["pb-key"]})) as serving,
        serving.socket(headers={"authorization": "Bearer pb-key"}) as socket,
    ):
        await socket.prompt("p1", authToken=None)
        assert (await socket.until_ended("p1"))["type"] == "prompt-response"


async def test_each_prompt_is_admitted(settings_with: SettingsWith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchbay_codebuff_ws.connection.prompts._GRACE_SECONDS", 0.05)
    loop = ScriptedLoop([hang, say_hello])
    async with (
        replica(settings_with(limits={"concurrent_requests": 1}), loop=loop) as serving,
        serving.socket() as socket,
    ):
        await socket.prompt("p1")
        await socket.until_frame("usage-response")
        await socket.prompt("p2")
        assert "1 requests under way" in (await socket.until_ended("p2"))["message"]
        await socket.act("cancel-user-input", promptId="p1", authToken="test-key-123")
        await socket.until_ended("p1")
        # Its place is free before its end is said.
        await socket.prompt("p3")
        assert (await socket.until_ended("p3"))["type"] == "prompt-response"
        await serving.idle()


async def test_a_replica_takes_no_more_prompts_than_it_can(settings_with: SettingsWith) -> None:
    async with (
        replica(settings_with(workers={"capacity": 1}), loop=ScriptedLoop([hang])) as serving,
        serving.socket() as socket,
    ):
        await socket.prompt("p1")
        await socket.until_frame("usage-response")
        await socket.prompt("p2")
        assert "as many prompts as it can" in (await socket.until_ended("p2"))["message"]


async def _raise(error: Exception) -> PromptResult:
    raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PatchbayError(make_error(UPSTREAM, "the provider is away")), "the provider is away"),
        (ExceptionGroup("g", [PatchbayError(make_error(UPSTREAM, "away"))]), "away"),
        (RuntimeError("secret detail"), "its log has the details"),
        (ExceptionGroup("g", [RuntimeError("secret detail")]), "its log has the details"),
    ],
)
async def test_a_loop_that_fails_is_one_error(settings_with: SettingsWith, error: Exception, said: str) -> None:
    async def fail(prompt: Prompt, client: Client) -> PromptResult:
        await client.chunk({"type": "start", "messageHistoryLength": 0})
        return await _raise(error)

    async with replica(settings_with(), loop=ScriptedLoop([fail])) as serving, serving.socket() as socket:
        await socket.prompt()
        end = await socket.until_ended()
        assert end["type"] == "prompt-error"
        assert said in end["message"]
        assert "secret" not in end["message"]
        assert socket.chunks() == [{"type": "start", "messageHistoryLength": 0}]
        await serving.idle()


async def test_a_prompt_said_twice_runs_once(settings_with: SettingsWith) -> None:
    goes_on = asyncio.Event()

    async def wait(prompt: Prompt, client: Client) -> PromptResult:
        await goes_on.wait()
        return await say_hello(prompt, client)

    async with replica(settings_with(), loop=ScriptedLoop([wait])) as serving, serving.socket() as socket:
        await socket.prompt()
        await socket.prompt()
        await socket.until(lambda message: message.frames_done.number == 2)
        goes_on.set()
        await socket.until_ended()
        await socket.say({"type": "ping"})
        await socket.until_frame("ack", txid=2)
        assert len(serving.loop.prompts) == 1


async def test_prompts_run_side_by_side_and_pings_are_answered_meanwhile(settings_with: SettingsWith) -> None:
    async with (
        replica(settings_with(), loop=ScriptedLoop([hang, hang, say_hello])) as serving,
        serving.socket() as socket,
    ):
        for number in (1, 2):
            await socket.prompt(f"p{number}")
            await eventually(lambda number=number: serving.loop.running == number)
        await socket.prompt("p3")
        await socket.until_ended("p3")
        await socket.say({"type": "ping"})
        await socket.until_frame("ack", txid=3)
        assert serving.loop.running == 2


async def test_a_socket_that_leaves_takes_its_prompts_along(settings_with: SettingsWith) -> None:
    async with replica(settings_with(), loop=ScriptedLoop([hang])) as serving:
        async with serving.socket() as socket:
            await socket.prompt("p1")
            await socket.prompt("p2")
            await socket.until(lambda message: message.frames_done.number == 2)
        await serving.idle()
        async with serving.socket() as socket:
            await socket.prompt("p1")
            await socket.until_frame("usage-response")
            await socket.call.done_writing()
            assert (await socket.drained()).name == "OK"
        await serving.idle()


class TestCancel:
    async def test_the_loop_ends_by_itself_with_what_it_has(self, settings_with: SettingsWith) -> None:
        said = asyncio.Event()

        async def run(prompt: Prompt, client: Client) -> PromptResult:
            await client.chunk("before")
            said.set()
            output = await client.call_tool("my_tool", {}, user_input_id="p1", timeout_seconds=None)
            assert output == []
            await client.chunk("never said")
            await client.subagent_chunk("a", "b", "never said", prompt=None)
            assert await client.read_files(["a.py"]) == {"a.py": None}
            await client.chunk({"type": "finish", "totalCost": 1})
            assert client.cancelled
            return PromptResult(session_state=prompt.session_state, output={"type": "lastMessage", "value": "before"})

        async with replica(settings_with(), loop=ScriptedLoop([run])) as serving, serving.socket() as socket:
            await socket.prompt()
            await socket.until_frame("tool-call-request")
            await socket.act("cancel-user-input", promptId="p", authToken="t")
            await socket.act("cancel-user-input", promptId="p1", authToken="t")
            end = await socket.until_ended()
            assert end["output"] == {"type": "lastMessage", "value": "before"}
            assert socket.chunks() == ["before", {"type": "finish", "totalCost": 1}]
            assert "subagent-response-chunk" not in socket.kinds()
            await serving.idle()

    async def test_one_that_does_not_is_ended(
        self, settings_with: SettingsWith, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("patchbay_codebuff_ws.connection.prompts._GRACE_SECONDS", 0.05)
        async with replica(settings_with(), loop=ScriptedLoop([hang])) as serving, serving.socket() as socket:
            await socket.prompt()
            await socket.until_frame("usage-response")
            await socket.act("cancel-user-input", promptId="p1")
            end = await socket.until_ended()
            assert end["type"] == "prompt-response"
            assert end["output"]["type"] == "error"
            assert end["sessionState"] == SESSION_STATE
            await serving.idle()


async def test_costs_are_said_and_counted(settings_with: SettingsWith) -> None:
    async def run(prompt: Prompt, client: Client) -> PromptResult:
        await client.cost(3, agent_id="main-agent", user_input_id="p1")
        await client.subagent_chunk("a1", "thinker", "hm", prompt="think")
        await client.subagent_chunk("a1", "thinker", "hm", prompt=None)
        return await say_hello(prompt, client)

    async with replica(settings_with(), loop=ScriptedLoop([run])) as serving, serving.socket() as socket:
        await socket.prompt()
        await socket.until_ended()
        assert (await socket.until_frame("usage-response"))["usage"] == 3
        assert {"type": "message-cost-response", "promptId": "p1", "credits": 3, "agentId": "main-agent"} in (
            socket.frames()
        )
        subagent = [frame for frame in socket.frames() if frame["type"] == "subagent-response-chunk"]
        assert subagent == [
            {
                "type": "subagent-response-chunk",
                "userInputId": "p1",
                "agentId": "a1",
                "agentType": "thinker",
                "chunk": "hm",
                **more,
            }
            for more in ({"prompt": "think"}, {})
        ]


async def test_what_a_prompt_says(settings_with: SettingsWith) -> None:
    async with replica(settings_with()) as serving, serving.socket() as socket:
        image = {"type": "image", "image": "abc"}
        await socket.prompt(text="hi", content=[image, 7], promptParams={"a": 1}, costMode="max")
        await socket.until_ended()
        action = prompt_action("p2", costMode="free", sessionState=SESSION_STATE)
        for name in ("prompt", "agentId"):
            del action[name]
        await socket.act("prompt", **action)
        await socket.until_ended("p2")
        first, second = serving.loop.prompts
        assert (first.text, first.content, first.params, first.agent_id, first.cost_mode) == (
            "hi",
            (image,),
            {"a": 1},
            "base",
            "max",
        )
        assert first.session_state == SESSION_STATE
        assert first.request_id.startswith("req_")
        assert (second.text, second.params, second.agent_id, second.cost_mode) == ("", None, None, "normal")
