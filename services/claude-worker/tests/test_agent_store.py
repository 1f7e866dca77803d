from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from claude_agent_sdk.testing import run_session_store_conformance
from redis.asyncio import Redis

from patchbay.state.conversations import Conversations
from patchbay_claude_worker.agent.store import RedisSessionStore, key_of, load_files

SESSION = "a250a47c-cbbb-4c50-bba9-f2cff4e4cc3d"


async def test_keeps_what_the_sdk_asks_of_a_store(redis: Redis) -> None:
    """The SDK's own tests of a SessionStore, each on a server that is empty."""

    async def fresh() -> RedisSessionStore:
        await redis.flushall()
        return RedisSessionStore(Conversations(redis))

    await run_session_store_conformance(fresh)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (f"/h/.claude/projects/-srv-work/{SESSION}.jsonl", {"project_key": "-srv-work", "session_id": SESSION}),
        (
            f"/projects/x/.claude/projects/-srv/{SESSION}/subagents/agent-1.jsonl",
            {"project_key": "-srv", "session_id": SESSION, "subpath": "subagents/agent-1"},
        ),
        ("/h/.claude/history.jsonl", None),
        (f"/h/.claude/projects/-srv-work/{SESSION}.txt", None),
        ("/h/.claude/projects/x.jsonl", None),
    ],
)
def test_knows_whose_transcript_a_file_is(path: str, key: object) -> None:
    assert key_of(path) == key


async def test_gives_the_program_its_files_back(redis: Redis) -> None:
    conversations = Conversations(redis)
    store = RedisSessionStore(conversations)
    main = {"project_key": "-srv", "session_id": SESSION}
    entries = [{"type": "user", "uuid": str(uuid.uuid4()), "message": {"content": "ünï\u2028"}} for _ in range(3)]
    await store.append(main, entries)  # type: ignore[arg-type]
    await store.append({**main, "subpath": "subagents/agent-1"}, entries[:1])  # type: ignore[arg-type,typeddict-item]
    await store.append({**main, "subpath": "../../../escape"}, entries[:1])  # type: ignore[arg-type,typeddict-item]
    await store.append({**main, "subpath": "/etc/absolute"}, entries[:1])  # type: ignore[arg-type,typeddict-item]
    files = await load_files(conversations, main)  # type: ignore[arg-type]
    assert set(files) == {
        Path("projects", "-srv", f"{SESSION}.jsonl"),
        Path("projects", "-srv", SESSION, "subagents", "agent-1.jsonl"),
    }
    assert files[Path("projects", "-srv", f"{SESSION}.jsonl")].count(b"\n") == 3
    assert files[Path("projects", "-srv", f"{SESSION}.jsonl")].decode().count("ünï") == 3
    assert await load_files(conversations, {**main, "session_id": "other"}) == {}  # type: ignore[typeddict-item]
