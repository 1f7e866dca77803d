"""What callers' prompts use, counted for each caller whichever replica and socket they use."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sockets import FILE_CONTEXT, ScriptedLoop, hang, replica, say_hello

from patchbay.settings import Settings
from patchbay.testing.eventually import eventually
from patchbay_codebuff_ws.ports import Client, Prompt, PromptResult

SettingsWith = Callable[..., Settings]

KEYS = {"require_api_key": True, "api_keys": [{"key": "pb-one", "id": "k1"}, {"key": "pb-two", "id": "k2"}]}


async def spend_three(prompt: Prompt, client: Client) -> PromptResult:
    await client.cost(1, agent_id="main-agent", user_input_id=prompt.prompt_id)
    await client.cost(2, agent_id="a1", user_input_id=f"{prompt.prompt_id}-a1")
    return await say_hello(prompt, client)


async def spend_and_hang(prompt: Prompt, client: Client) -> PromptResult:
    await client.cost(5, agent_id="main-agent", user_input_id=prompt.prompt_id)
    return await hang(prompt, client)


async def test_usage_is_the_callers_at_every_replica(settings_with: SettingsWith) -> None:
    settings = settings_with(security=KEYS)
    loop = ScriptedLoop([spend_three])
    async with replica(settings, loop=loop) as first, first.socket() as a, first.socket("c2") as b:
        for socket, token, before, after in ((a, "pb-one", 0, 3), (b, "pb-one", 3, 6), (b, "pb-two", 0, 3)):
            prompt_id = f"{token}-{after}"
            await socket.prompt(prompt_id, authToken=token)
            await socket.until_ended(prompt_id)
            await socket.until_frame("usage-response")
            said = [frame["usage"] for frame in socket.frames() if frame["type"] == "usage-response"]
            assert said[-2:] == [before, after]
        async with replica(settings, worker_id="w2") as second, second.socket("c3") as c:
            await c.act("init", authToken="pb-one", fingerprintId="f", fileContext=FILE_CONTEXT)
            assert (await c.until_frame("init-response"))["usage"] == 6
            await c.act("init", authToken="wrong", fingerprintId="f", fileContext=FILE_CONTEXT)
            assert (await c.until_frame("init-response", usage=0))["next_quota_reset"] is None


async def test_the_first_generation_is_told_the_same(settings_with: SettingsWith) -> None:
    settings = settings_with(security=KEYS, codebuff={"legacy_protocol": True})
    context = {"currentWorkingDirectory": "/p"}
    async with replica(settings, loop=ScriptedLoop([spend_three])) as serving:
        async with serving.socket() as socket:
            for number in (1, 2):
                said = {"messages": [{"role": "user", "content": "hi"}], "fileContext": context, "authToken": "pb-one"}
                await socket.act("user-input", userInputId=f"u{number}", **said)
                complete = await socket.until_frame("response-complete")
                assert (complete["usage"], complete["session_credits_used"]) == (3 * number, 3 * number)
                assert complete["subscription_active"] is True
                await serving.idle()
        async with serving.socket("c2") as socket:
            for asked, answered in (("init", "init-response"), ("usage", "usage-response")):
                await socket.act(asked, authToken="pb-one", fingerprintId="f", fileContext=context)
                told = await socket.until_frame(answered)
                assert (told["usage"], told["session_credits_used"]) == (6, 0)
                reset = datetime.fromisoformat(told["next_quota_reset"])
                assert (reset.day, reset.hour) == (1, 0)
                assert timedelta() < reset - datetime.now(UTC) <= timedelta(days=31)
            await socket.act("usage", authToken="wrong", fingerprintId="f")
            assert (await socket.until_frame("usage-response"))["usage"] == 0


async def test_what_a_prompt_used_counts_when_its_client_goes(settings_with: SettingsWith) -> None:
    settings = settings_with(security=KEYS)
    async with replica(settings, loop=ScriptedLoop([spend_and_hang, say_hello])) as serving:
        async with serving.socket() as socket:
            await socket.prompt(authToken="pb-one")
            await socket.until_frame("message-cost-response")
        await serving.idle()

        async def counted() -> bool:
            async with serving.socket("c2") as another:
                await another.act("init", authToken="pb-one", fingerprintId="f", fileContext=FILE_CONTEXT)
                return bool((await another.until_frame("init-response"))["usage"] == 5)

        await eventually(counted)


async def test_usage_is_the_sockets_when_redis_cannot_say(settings_with: SettingsWith) -> None:
    async with replica(settings_with(), loop=ScriptedLoop([spend_three])) as serving:
        async with serving.socket() as socket:
            await socket.prompt()
            await socket.until_ended()
        # It refuses what is there as it would refuse a write to a full disk.
        redis = serving.service.redis
        [name] = await redis.execute_command("KEYS", "pb:codebuff-usage:*")
        await redis.execute_command("DEL", name)
        await redis.execute_command("SADD", name, "no number")
        async with serving.socket("c2") as socket:
            await socket.prompt()
            assert (await socket.until_ended())["type"] == "prompt-response"
            assert (await socket.until_frame("usage-response"))["usage"] == 3
        await serving.idle()
