"""Responses in Redis, and the turns that go on from them."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio import Redis

from patchbay.state import keys
from patchbay.state.connection import RedisUnavailable
from patchbay.state.responses import Context, Responses, TooLarge
from patchbay.state.sealing import Sealer
from patchbay.testing.valkey import ValkeyProcess

SECRET = b"a word nobody else may read"


def keeping(redis: Redis, *, sealer: Sealer | None = None, ttl: float = 60, most: int = 10_000) -> Responses:
    return Responses(redis, sealer=sealer, ttl_seconds=ttl, max_bytes=most, timeout=2)


def item(text: str) -> bytes:
    return b'{"content":"%b"}' % text.encode()


async def turn(responses: Responses, name: str, previous: Context | None = None, owner: str = "o") -> Context:
    await responses.save(
        owner,
        name,
        response=b'{"id":"%b"}' % name.encode(),
        previous=previous,
        brought=[item(f"{name} asks"), item("and more")],
        answered=[item(f"{name} answers")],
    )
    found = await responses.load(owner, name)
    assert found is not None
    return found


def said(context: Context | None) -> list[str]:
    assert context is not None
    return [one.decode().split('"')[3] for one in context.items]


async def stories(redis: Redis) -> list[int]:
    return sorted([await redis.llen(name) async for name in redis.scan_iter("pb:story:*")])


async def test_each_turn_has_what_was_said_before_it(redis: Redis) -> None:
    responses = keeping(redis)
    first = await turn(responses, "a")
    second = await turn(responses, "b", first)
    third = await turn(responses, "c", second)
    assert said(first) == ["a asks", "and more", "a answers"]
    assert said(third) == [
        *("a asks", "and more", "a answers"),
        *("b asks", "and more", "b answers"),
        *("c asks", "and more", "c answers"),
    ]
    assert (third.response, third.own_input) == (b'{"id":"c"}', (item("c asks"), item("and more")))
    # One list for all of them.
    assert await stories(redis) == [6]


async def test_two_turns_that_go_on_from_the_same_one_do_not_meet(redis: Redis) -> None:
    responses = keeping(redis)
    first = await turn(responses, "a")
    left, right = await asyncio.gather(turn(responses, "l", first), turn(responses, "r", first))
    further = await turn(responses, "rr", right)
    assert said(left) == ["a asks", "and more", "a answers", "l asks", "and more", "l answers"]
    assert said(further)[3:] == ["r asks", "and more", "r answers", "rr asks", "and more", "rr answers"]
    assert right.own_input == (item("r asks"), item("and more"))


async def test_two_turns_that_get_the_same_answer_do_not_meet(redis: Redis) -> None:
    responses = keeping(redis)
    first = await turn(responses, "a")
    for name in ("l", "r"):
        brought = [item(f"{name} asks")]
        await responses.save("o", name, response=b"{}", previous=first, brought=brought, answered=[])
    assert said(await responses.load("o", "r"))[3:] == ["r asks"]
    assert said(await responses.load("o", "l"))[3:] == ["l asks"]


async def test_what_was_said_before_without_being_stored_is_kept_with_the_first_turn_that_is(redis: Redis) -> None:
    responses = keeping(redis)
    before = [item("said"), item("unstored")]
    saved = await responses.save(
        "o", "a", response=b"{}", previous=None, before=before, brought=[item("ask")], answered=[item("answer")]
    )
    found = await responses.load("o", "a")
    assert found == saved
    assert (said(found), found.own_input) == (["said", "unstored", "ask", "answer"], (item("ask"),))
    second = await turn(responses, "b", saved)
    assert said(second)[:4] == ["said", "unstored", "ask", "answer"]
    assert await stories(redis) == [5]
    with pytest.raises(TooLarge):
        await keeping(redis, most=500).save(
            "o", "c", response=b"{}", previous=None, before=[item("x" * 500)], brought=[], answered=[]
        )


async def test_each_owner_has_responses_of_its_own(redis: Redis) -> None:
    responses = keeping(redis)
    await turn(responses, "a", owner="alice")
    await responses.set_last("alice", "s", "a")
    for owner, name in (("bob", "a"), ("", "alicea"), ("alicea", "")):
        assert await responses.load(owner, name) is None
        assert not await responses.delete(owner, name)
    assert await responses.last_of("alice", "s") == "a"
    assert await responses.last_of("bob", "s") is None


async def test_what_is_deleted_is_gone(redis: Redis) -> None:
    responses = keeping(redis)
    first = await turn(responses, "a")
    await turn(responses, "b", first)
    assert await responses.delete("o", "b")
    assert await responses.load("o", "b") is None
    assert said(await responses.load("o", "a")) == ["a asks", "and more", "a answers"]
    assert await stories(redis) == [2]
    assert await responses.delete("o", "a")
    assert await redis.keys("*") == []
    assert not await responses.delete("o", "a")


async def test_what_others_go_on_from_stays_theirs(redis: Redis) -> None:
    responses = keeping(redis)
    first = await turn(responses, "a")
    await turn(responses, "b", first)
    assert await responses.delete("o", "a")
    assert await responses.load("o", "a") is None
    assert said(await responses.load("o", "b"))[:3] == ["a asks", "and more", "a answers"]


async def test_a_turn_after_one_that_was_deleted_meanwhile_is_whole(redis: Redis) -> None:
    responses = keeping(redis)
    first = await turn(responses, "a")
    second = await turn(responses, "b", first)
    assert await responses.delete("o", "b")
    assert said(await turn(responses, "c", second))[3:6] == ["b asks", "and more", "b answers"]


async def test_a_conversation_that_outgrows_its_bound_is_not_kept(redis: Redis) -> None:
    first = await turn(keeping(redis), "a")
    responses = keeping(redis, most=2 * first.size)
    with pytest.raises(TooLarge):
        await turn(responses, "b", first)
    assert await responses.load("o", "b") is None
    assert said(await responses.load("o", "a")) == ["a asks", "and more", "a answers"]


async def test_everything_expires(redis: Redis) -> None:
    responses = keeping(redis, ttl=50)
    await turn(responses, "a")
    await responses.set_last("o", "s", "a")
    names = await redis.keys("*")
    assert len(names) == 3
    for name in names:
        assert 40_000 < await redis.pttl(name) <= 50_000


async def test_a_response_whose_story_is_gone_is_not_known(redis: Redis) -> None:
    responses = keeping(redis)
    context = await turn(responses, "a")
    await redis.delete(keys.story(context.story))
    assert await responses.load("o", "a") is None


async def test_what_is_sealed_cannot_be_read(redis: Redis) -> None:
    old, new = b"1" * 32, b"2" * 32
    sealed = keeping(redis, sealer=Sealer([old]))
    await sealed.save("o", "a", response=b'{"x":"%b"}' % SECRET, previous=None, brought=[b'"%b"' % SECRET], answered=[])
    for name in await redis.keys("*"):
        kept = await (redis.lindex(name, 0) if b"story" in name else redis.get(name))
        assert SECRET not in kept
    both = await keeping(redis, sealer=Sealer([new, old])).load("o", "a")
    assert both is not None
    assert both.items == (b'"%b"' % SECRET,)
    # Without its key, or any, it is as good as not there.
    assert await keeping(redis, sealer=Sealer([new])).load("o", "a") is None
    assert await keeping(redis).load("o", "a") is None
    assert await keeping(redis).delete("o", "a")


async def test_what_was_kept_before_there_was_a_key_is_still_read(redis: Redis) -> None:
    await turn(keeping(redis), "a")
    assert said(await keeping(redis, sealer=Sealer([b"1" * 32])).load("o", "a")) == ["a asks", "and more", "a answers"]


async def test_a_redis_that_hangs_is_waited_for_no_longer_than_its_time(valkey: ValkeyProcess, redis: Redis) -> None:
    responses = Responses(redis, sealer=None, ttl_seconds=60, max_bytes=1000, timeout=0.2)
    context = await turn(responses, "a")
    valkey.pause()
    for work in (
        responses.load("o", "a"),
        responses.delete("o", "a"),
        responses.last_of("o", "s"),
        responses.set_last("o", "s", "a"),
        responses.save("o", "b", response=b"{}", previous=context, brought=[], answered=[]),
    ):
        started = time.monotonic()
        with pytest.raises(RedisUnavailable):
            await work
        assert time.monotonic() - started < 2
    valkey.resume()
