"""Sockets that go from one replica to another, topics across replicas, and sockets that take nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from sockets import FILE_CONTEXT, ScriptedLoop, Socket, hang, replica, say_hello

from patchbay.settings import Settings
from patchbay.testing.eventually import eventually, hold, settled
from patchbay.testing.valkey import ValkeyProcess
from patchbay_codebuff_ws.connection import connection
from patchbay_codebuff_ws.ports import Client, Prompt, PromptResult

SettingsWith = Callable[..., Settings]


async def hang_after_a_word(prompt: Prompt, client: Client) -> PromptResult:
    await client.chunk("word")
    return await hang(prompt, client)


async def test_a_prompt_that_has_said_nothing_begins_anew(settings_with: SettingsWith) -> None:
    settings = settings_with()
    async with replica(settings, loop=ScriptedLoop([hang])) as first, replica(settings, worker_id="w2") as second:
        async with first.socket() as socket:
            await socket.act("init", fingerprintId="f", fileContext=FILE_CONTEXT)
            number = await socket.prompt(sessionState={})
            await eventually(lambda: first.loop.running)
            await socket.until(lambda message: message.prompt_begun.number == number)
            await socket.say({"type": "ping"})
            await socket.until_frame("ack", txid=2)
            # Nothing names the prompt, not even `start`: the edge may have it begun anew.
            assert not [message for message in socket.received if message.frame.prompt_id]
        async with second.socket(again=True) as socket:
            await socket.prompt(sessionState={})
            await socket.until_ended()
            assert second.loop.prompts[0].session_state["fileContext"] == FILE_CONTEXT


async def test_a_frame_that_was_acknowledged_is_not_again(settings_with: SettingsWith) -> None:
    async with replica(settings_with()) as serving, serving.socket(again=True) as socket:
        await socket.say({"type": "ping"}, again=True)
        await socket.until_frame("ack")
        await socket.say(
            {"type": "action", "data": {"type": "prompt", "promptId": "p1", "prompt": "hi"}},
            again=True,
            acknowledged=True,
        )
        await socket.until_ended()
        assert socket.kinds().count("ack") == 1


async def test_a_prompt_that_was_cut_off_ends_with_one_error(settings_with: SettingsWith) -> None:
    async with replica(settings_with()) as serving, serving.socket(again=True, lost=["p1", "p2"]) as socket:
        for prompt_id in ("p1", "p2"):
            end = await socket.until_ended(prompt_id)
            assert end["type"] == "prompt-error"
            assert "restarted" in end["message"]
        ends = [message.frame for message in socket.received if message.HasField("frame")]
        assert [(frame.prompt_id, frame.ends_prompt) for frame in ends] == [("p1", True), ("p2", True)]


async def test_a_replayed_prompt_waits_for_its_place(settings_with: SettingsWith) -> None:
    settings = settings_with(limits={"concurrent_requests": 1})
    async with (
        replica(settings, loop=ScriptedLoop([hang])) as first,
        replica(settings, worker_id="w2") as second,
        first.socket() as lost,
        second.socket(again=True) as socket,
    ):
        await lost.prompt()
        await lost.until_frame("usage-response")
        await socket.say({"type": "action", "data": {"type": "prompt", "promptId": "p1"}}, again=True)
        await socket.until(lambda message: message.frames_done.number == 1)
        lost.call.cancel()
        assert (await socket.until_ended())["type"] == "prompt-response"


async def test_an_edge_that_leaves(settings_with: SettingsWith) -> None:
    goes_on = asyncio.Event()

    async def wait(prompt: Prompt, client: Client) -> PromptResult:
        await goes_on.wait()
        return await say_hello(prompt, client)

    async with replica(settings_with(), loop=ScriptedLoop([wait])) as serving:
        async with serving.socket("c1") as idle:
            await idle.leave()
            await idle.until(lambda message: message.HasField("idle"))
            assert idle.kinds() == ["request-reconnect"]
        async with serving.socket("c2") as busy:
            await busy.prompt()
            await busy.until_frame("usage-response")
            await busy.leave()
            await busy.say({"type": "ping"})
            await busy.until_frame("ack", txid=1)
            assert "request-reconnect" not in busy.kinds()
            goes_on.set()
            await busy.until(lambda message: message.HasField("idle"))
            assert busy.kinds()[-3:] == ["prompt-response", "usage-response", "request-reconnect"]


async def test_an_edge_that_moves_a_socket_is_told_all_there_is(settings_with: SettingsWith) -> None:
    async with replica(settings_with()) as serving, serving.socket() as socket:
        for _ in range(100):
            await socket.say({"type": "ping"})
        await socket.call.done_writing()
        assert (await socket.drained()).name == "OK"
        assert socket.kinds() == ["ack"] * 100
        assert socket.received[-1].frames_done.number == 100


async def test_frames_may_be_large(settings_with: SettingsWith) -> None:
    async def echo(prompt: Prompt, client: Client) -> PromptResult:
        return PromptResult(session_state=prompt.session_state, output={"type": "lastMessage", "value": prompt.text})

    async with replica(settings_with(), loop=ScriptedLoop([echo])) as serving, serving.socket() as socket:
        text = "x" * (20 * 1024 * 1024)
        await socket.prompt(text=text)
        assert (await socket.until_ended())["output"]["value"] == text


async def test_a_replica_that_drains(settings_with: SettingsWith) -> None:
    goes_on = asyncio.Event()

    async def wait(prompt: Prompt, client: Client) -> PromptResult:
        await goes_on.wait()
        return await say_hello(prompt, client)

    async with replica(settings_with(), loop=ScriptedLoop([wait])) as serving:
        async with serving.socket("c1") as idle, serving.socket("c2") as busy:
            await busy.prompt("p1")
            await busy.until_frame("usage-response")
            draining = asyncio.create_task(serving.service.drain(10))
            assert (await idle.drained()).name == "UNAVAILABLE"
            # A new one is for another replica, which gets the socket once the old one has ended.
            number = await busy.prompt("p2")
            begun = await busy.until(lambda message: message.HasField("prompt_begun"))
            assert begun.prompt_begun.number == number
            goes_on.set()
            assert (await busy.drained()).name == "UNAVAILABLE"
            assert len(busy.ends("p1")) == 1
            assert busy.ends("p2") == []
            assert await draining
        with pytest.raises(Exception, match="draining"):
            async with serving.socket("c3"):
                pass


async def test_a_drain_waits_for_a_slow_client_to_take_the_end_of_its_prompt(
    settings_with: SettingsWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_FLUSH_SECONDS", 0)
    goes_on = asyncio.Event()

    async def answer(prompt: Prompt, client: Client) -> PromptResult:
        await goes_on.wait()
        output = {"type": "lastMessage", "value": "x" * (20 * 1024 * 1024)}
        return PromptResult(session_state=prompt.session_state, output=output)

    async with replica(settings_with(), loop=ScriptedLoop([answer])) as serving, serving.socket() as socket:
        await socket.prompt()
        await socket.until_frame("usage-response")
        draining = asyncio.create_task(serving.service.drain(10))
        goes_on.set()
        await eventually(lambda: serving.service.in_flight == 0)
        assert (await socket.until_ended())["type"] == "prompt-response"
        assert (await socket.drained()).name == "UNAVAILABLE"
        assert await draining


async def test_a_drain_that_runs_out_of_time(settings_with: SettingsWith) -> None:
    loop = ScriptedLoop([hang_after_a_word, hang])
    async with replica(settings_with(), loop=loop) as serving, serving.socket() as socket:
        await socket.prompt("p1")
        await socket.prompt("p2")
        await socket.until_frame("response-chunk")
        assert not await serving.service.drain(0.05)
        assert (await socket.drained()).name == "UNAVAILABLE"
        for prompt_id in ("p1", "p2"):
            [end] = socket.ends(prompt_id)
            assert end["type"] == "prompt-error"
            assert "restarted" in end["message"]
        await serving.idle()


async def test_topics_reach_every_socket_that_follows_them(settings_with: SettingsWith) -> None:
    settings = settings_with()
    async with replica(settings) as first, replica(settings, worker_id="w2") as second:
        await first.service.topics.listening.wait()
        await second.service.topics.listening.wait()
        async with first.socket("c1") as a, second.socket("c2") as b, second.socket("c3") as c:
            for socket in (a, b, c):
                await socket.say({"type": "subscribe", "topics": ["news", "news", "more", 7]})
                await socket.until(lambda message: message.frames_done.number == 1)
            await c.say({"type": "unsubscribe", "topics": ["news", "unknown"]})
            await c.until(lambda message: message.frames_done.number == 2)
            await first.service.topics.publish("news", {"type": "usage-response", "usage": 1})
            await first.service.topics.publish("more", {"type": "usage-response", "usage": 2})
            for socket in (a, b, c):
                await socket.until_frame("usage-response", usage=2)
            told = [[frame["usage"] for frame in socket.frames() if "usage" in frame] for socket in (a, b, c)]
            assert told == [[1, 2], [1, 2], [2]]
            b.call.cancel()
        # What a socket follows goes with it.
        async with first.socket("c2", again=True) as b:
            await b.say({"type": "ping"})
            await b.until_frame("ack")
            await second.service.topics.publish("news", {"type": "usage-response", "usage": 3})
            assert (await b.until_frame("usage-response"))["usage"] == 3


async def test_what_an_idle_socket_has_said_is_kept_for_as_long_as_it_is_there(settings_with: SettingsWith) -> None:
    settings = settings_with(codebuff={"session_ttl_seconds": 1.5})

    async def idle(socket: Socket) -> None:
        for _ in range(20):
            await hold(0.1)
            number = await socket.say({"type": "ping"})
        await socket.until(lambda message: message.frames_done.number == number)

    async with replica(settings) as first, replica(settings, worker_id="w2") as second:
        async with first.socket() as socket:
            await socket.say({"type": "subscribe", "topics": ["news"]})
            await socket.act("init", fingerprintId="f", fileContext=FILE_CONTEXT)
            await idle(socket)
        async with second.socket(again=True) as socket:
            await idle(socket)
            await first.service.topics.publish("news", {"type": "usage-response", "usage": 3})
            await socket.until_frame("usage-response", usage=3)
            await socket.prompt(sessionState={})
            await socket.until_ended()
    assert second.loop.prompts[0].session_state["fileContext"] == FILE_CONTEXT


async def test_a_project_that_has_no_room_in_the_replica_is_in_redis(
    settings_with: SettingsWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchbay_codebuff_ws.service._PROJECT_BYTES", 3_000)
    async with replica(settings_with()) as serving:
        room = serving.service.room
        async with serving.socket("c1") as first, serving.socket("c2") as second:
            for socket, name in ((first, "a"), (second, "b")):
                context = {**FILE_CONTEXT, "knowledgeFiles": {name: name * 1_000}}
                await socket.act("init", fingerprintId="f", fileContext=context)
                await socket.until_frame("init-response")
                assert 1_000 < room.used < 3_000
            for socket in (first, second):
                for prompt_id in ("p1", "p2"):
                    await socket.prompt(prompt_id, sessionState={})
                    await socket.until_ended(prompt_id)
        await serving.idle()
        await eventually(lambda: not room.used)
    names = [set(prompt.session_state["fileContext"]["knowledgeFiles"]) for prompt in serving.loop.prompts]
    assert names == [{"a"}, {"a"}, {"b"}, {"b"}]


async def test_a_socket_follows_no_more_than_some_topics(settings_with: SettingsWith) -> None:
    async with replica(settings_with()) as serving, serving.socket() as socket:
        for topics in ([f"{n:0900}" for n in range(1_000)], ["short"], [str(n) for n in range(5_000)]):
            number = await socket.say({"type": "subscribe", "topics": topics})
            await socket.until(lambda message, number=number: message.frames_done.number == number)
        redis = serving.service.redis
        [name] = [name async for name in redis.scan_iter("pb:codebuff-connection:*")]
        kept = await redis.get(name)
        # Anyone may have it kept.
        assert b'"short"' in kept
        assert 15_000 < len(kept) < 40_000


async def test_without_redis_everything_but_the_moves_goes_on(
    settings_with: SettingsWith, valkey: ValkeyProcess
) -> None:
    settings = settings_with(redis={"url": valkey.url, "timeout_seconds": 0.2})
    async with replica(settings) as serving, serving.socket() as socket:
        valkey.kill()
        try:
            await socket.say({"type": "subscribe", "topics": ["t"]})
            await socket.say({"type": "identify", "clientSessionId": "s"})
            await socket.act("init", fingerprintId="f", fileContext=FILE_CONTEXT)
            await socket.prompt(sessionState={})
            assert (await socket.until_ended())["type"] == "prompt-response"
            assert serving.loop.prompts[0].session_state["fileContext"] == FILE_CONTEXT
        finally:
            valkey.start()
        await eventually(lambda: not serving.service.admission.degraded)
        # It is kept once Redis is back.
        await socket.prompt("p2", sessionState={})
        await socket.until_ended("p2")
        assert [name async for name in serving.service.redis.scan_iter("pb:codebuff-project:*")]


async def test_a_socket_that_takes_nothing_holds_up_its_loop_alone(settings_with: SettingsWith) -> None:
    said = 0

    async def talk(prompt: Prompt, client: Client) -> PromptResult:
        nonlocal said
        for _ in range(2_000):
            await client.chunk("x" * 10_000)
            said += 1
        return await say_hello(prompt, client)

    async with (
        replica(settings_with(), loop=ScriptedLoop([talk, say_hello])) as serving,
        serving.socket("slow") as slow,
        serving.socket("quick") as quick,
    ):
        await slow.prompt()
        await settled(lambda: said, quiet=0.1)
        assert said < 1_000
        # The others are served, and a cancellation is heard all the same.
        await quick.prompt()
        await quick.until_ended()
        await slow.act("cancel-user-input", promptId="p1")
        end = await slow.until_ended()
        assert end["type"] == "prompt-response"
        assert len(slow.chunks()) < 1_000
