"""Conversations in Redis: where they stand, and their transcripts."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio import Redis

from patchbay.state import keys
from patchbay.state.connection import RedisUnavailable
from patchbay.state.conversations import ConversationRecord, Conversations, conversation_id
from patchbay.testing.valkey import ValkeyProcess


def record(turn: int, *, worker: str = "w1") -> ConversationRecord:
    return ConversationRecord("session", "project", turn, turn, "digest", "system", worker)


def test_callers_and_backends_have_conversations_of_their_own() -> None:
    named = {
        conversation_id(backend=backend, key_id=key, session=session)
        for backend, key, session in (
            ("a", "alice", "s"),
            ("b", "alice", "s"),
            ("a", "bob", "s"),
            ("a", "alice", "t"),
            ("a", "", "alices"),
            ("a", "alices", ""),
        )
    }
    named.add(conversation_id(backend="a", key_id="alice", session="s", story="another"))
    assert len(named) == 7


async def test_what_was_noted_is_found_again(redis: Redis) -> None:
    conversations = Conversations(redis)
    assert await conversations.load("c") is None
    assert await conversations.save("c", record(1), previous_turn=0)
    assert await conversations.load("c") == record(1)
    assert await conversations.save("c", record(2), previous_turn=1)
    assert await conversations.load("c") == record(2)
    await conversations.forget("c")
    assert await conversations.load("c") is None


async def test_who_missed_a_turn_notes_nothing(redis: Redis) -> None:
    conversations = Conversations(redis)
    await conversations.save("c", record(1), previous_turn=0)
    assert not await conversations.save("c", record(1, worker="w2"), previous_turn=0)
    assert await conversations.load("c") == record(1)
    # The same call again, as after a broken connection, is no other one.
    assert await conversations.save("c", record(1), previous_turn=0)


async def test_of_two_that_note_the_same_turn_one_does(redis: Redis) -> None:
    conversations = Conversations(redis)
    saved = await asyncio.gather(
        *(conversations.save("c", record(1, worker=f"w{number}"), previous_turn=0) for number in range(8))
    )
    assert sorted(saved) == [False] * 7 + [True]


async def test_a_transcript_has_each_entry_once_and_in_order(redis: Redis) -> None:
    conversations = Conversations(redis)
    await conversations.append("s", "p", [("1", "a"), ("", "mark"), ("2", "b")])
    await conversations.append("s", "p", [("2", "b"), ("", "mark"), ("3", "c")])
    await conversations.append("s", "p/subagents/x", [("1", "other")])
    assert await conversations.transcript("s", "p") == [b"a", b"mark", b"b", b"mark", b"c"]
    assert await conversations.transcripts("s") == ["p", "p/subagents/x"]
    assert await conversations.transcript("s", "p/subagents/x") == [b"other"]
    assert await conversations.transcript("other", "p") == []


async def test_nothing_is_kept_for_ever(redis: Redis) -> None:
    conversations = Conversations(redis)
    await conversations.save("c", record(1), previous_turn=0)
    await conversations.append("s", "p", [("1", "a")])
    for key in (
        keys.conversation("c"),
        keys.transcript("s", "p"),
        keys.transcript_ids("s", "p"),
        keys.transcripts("s"),
    ):
        assert 86_000_000 < await redis.pttl(key) <= 86_400_000


async def test_a_cluster_has_the_keys_of_each_script_together(cluster: ValkeyProcess, connected: object) -> None:
    conversations = Conversations(connected(cluster.url.replace("redis://", "redis+cluster://")))  # type: ignore[operator]
    assert await conversations.save("c", record(1), previous_turn=0)
    await conversations.append("s", "p", [("1", "a")])
    assert await conversations.transcript("s", "p") == [b"a"]


async def test_a_silent_redis_is_not_waited_for(redis: Redis, valkey: ValkeyProcess) -> None:
    conversations = Conversations(redis, timeout=0.2)
    await conversations.save("c", record(1), previous_turn=0)
    valkey.pause()
    try:
        for call in (
            conversations.load("c"),
            conversations.save("c", record(2), previous_turn=1),
            conversations.append("s", "p", [("1", "a")]),
            conversations.transcript("s", "p"),
        ):
            started = time.monotonic()
            with pytest.raises(RedisUnavailable):
                await call
            assert time.monotonic() - started < 2
    finally:
        valkey.resume()
