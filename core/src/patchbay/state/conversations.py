"""Conversations with an agent: where each one stands, and its transcript, for whichever replica goes on with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import cast

import msgspec

from patchbay.state import keys, scripts
from patchbay.state.connection import Client, deadline

_TTL_MS = 86_400_000


class ConversationRecord(msgspec.Struct, frozen=True):
    """Where a conversation stands.

    Attributes:
        session_id: The agent's own id of it.
        project: What the agent files its transcript under.
        turn: How many turns it has had.
        messages: How many messages the client's request had at the last turn.
        fingerprint: Of those messages, to see whether the client goes on with them.
        system: A digest of the client's system prompt.
        is_under_way: The turn with those messages has begun, and not ended.
        worker_id: Whose process had the last turn.
    """

    session_id: str
    project: str
    turn: int
    messages: int
    fingerprint: str
    system: str
    worker_id: str
    is_under_way: bool = False


def conversation_id(*, backend: str, key_id: str, session: str, story: str = "") -> str:
    """The id of a conversation: callers with different keys never share one, whatever they call it.

    Args:
        story: How it begins, where one session has several conversations.
    """
    return hashlib.sha256("\0".join((backend, key_id, session, story)).encode()).hexdigest()[:32]


class Conversations:
    """Reads and writes conversations. Every method raises RedisUnavailable when Redis does not answer in time.

    Args:
        redis: The client, from `connect`.
        timeout: Seconds that Redis may take for one call.
    """

    def __init__(self, redis: Client, *, timeout: float = 0.5) -> None:
        self._redis = redis
        self._timeout = timeout

    async def load(self, conversation: str) -> ConversationRecord | None:
        """Where a conversation stands; None: it is not known."""
        async with deadline(self._timeout):
            record = await self._redis.execute_command("HGET", keys.conversation(conversation), "record")
        return None if record is None else msgspec.json.decode(cast(bytes, record), type=ConversationRecord)

    async def save(self, conversation: str, record: ConversationRecord, *, previous_turn: int) -> bool:
        """Notes where a conversation stands. False: it has gone on elsewhere since then; nothing is noted."""
        args = (_TTL_MS, previous_turn, record.turn, msgspec.json.encode(record).decode())
        names = (keys.conversation(conversation),)
        reply = await scripts.run(self._redis, scripts.CONVERSATION_SAVE, names, args, timeout=self._timeout)
        return reply == 1

    async def forget(self, conversation: str) -> None:
        """Deletes where a conversation stands; its transcript expires."""
        async with deadline(self._timeout):
            await self._redis.execute_command("DEL", keys.conversation(conversation))

    async def append(self, session_id: str, name: str, entries: Iterable[tuple[str, str]]) -> None:
        """Appends entries to a transcript of a session.

        Args:
            name: Which transcript.
            entries: The id (empty: none) and the JSON text of each. One whose id is there already is left out.
        """
        names = (
            keys.transcript(session_id, name),
            keys.transcript_ids(session_id, name),
            keys.transcripts(session_id),
        )
        args: list[str | int] = [_TTL_MS, name]
        for entry_id, text in entries:
            args += (entry_id, text)
        await scripts.run(self._redis, scripts.TRANSCRIPT_APPEND, names, tuple(args), timeout=self._timeout)

    async def transcript(self, session_id: str, name: str) -> list[bytes]:
        """The entries of one transcript, each as JSON; empty when there is none."""
        async with deadline(self._timeout):
            reply = await self._redis.execute_command("LRANGE", keys.transcript(session_id, name), 0, -1)
        return cast("list[bytes]", reply)

    async def transcripts(self, session_id: str) -> list[str]:
        """The names of a session's transcripts."""
        async with deadline(self._timeout):
            reply = await self._redis.execute_command("SMEMBERS", keys.transcripts(session_id))
        return sorted(name.decode() for name in cast("Iterable[bytes]", reply))
