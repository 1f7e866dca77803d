"""Responses that clients of the Responses API go on from, for whichever edge gets the next turn.

What was said in a conversation is one list, its *story*: each turn appends the items it brought and those that it was
answered with. A response's record says how much of which story it stands at the end of, so that the memory grows with
the conversation and not with its square. A turn that goes on from the middle gets a story of its own, with a copy of
what was said until there.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import msgspec

from patchbay.state import keys, scripts
from patchbay.state.connection import Client, deadline
from patchbay.state.sealing import CannotOpen, Sealer

_PLAIN = b"p"
_SEALED = b"s"
# In place of a response's id.
_OUTGROWN = b"!outgrown"

_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _Record(msgspec.Struct, frozen=True):
    # The story, how many of its entries were there before this turn, and how many with it.
    story: str
    before: int
    entries: int
    # Of all entries together, in bytes.
    size: int
    response: msgspec.Raw
    backend: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What was said up to and with one response.

    Attributes:
        response_id: The response.
        response: The Response object as the client got it, as JSON.
        items: The items of all turns, each as JSON, oldest first.
        own_input: Those of `items` that its own turn brought.
        backend: The backend that keeps the response too; empty: none does.
    """

    response_id: str
    response: bytes
    items: tuple[bytes, ...]
    own_input: tuple[bytes, ...]
    backend: str
    story: str
    entries: int
    size: int


class TooLarge(Exception):
    """The conversation has outgrown what is kept of one."""


class Responses:
    """Keeps responses. Every method raises RedisUnavailable when Redis does not answer in time.

    Args:
        redis: The client, from `connect`.
        sealer: Seals what is kept; None: it is kept as it is.
        ttl_seconds: How long a response is kept after its last turn.
        max_bytes: The most that is kept of one conversation.
        timeout: Seconds that Redis may take for one call.
    """

    def __init__(
        self, redis: Client, *, sealer: Sealer | None, ttl_seconds: float, max_bytes: int, timeout: float = 0.5
    ) -> None:
        self._redis = redis
        self._sealer = sealer
        self._ttl_ms = max(1, round(ttl_seconds * 1000))
        self._max_bytes = max_bytes
        self._timeout = timeout

    async def load(self, owner: str, response_id: str) -> Context | None:
        """What was said up to a response; None: it is not known, has expired, or cannot be opened any more.

        Args:
            owner: Whose it is. Another owner's response is not known.
        """
        name = keys.response(_digest(owner, response_id))
        async with deadline(self._timeout):
            sealed = await self._redis.execute_command("GET", name)
        if sealed is None:
            return None
        try:
            record = msgspec.json.decode(self._open(cast(bytes, sealed), name), type=_Record)
            story = keys.story(record.story)
            async with deadline(self._timeout):
                entries = await self._redis.execute_command("LRANGE", story, 0, record.entries - 1)
            turns = [_decode_items(self._open(entry, story)) for entry in cast("list[bytes]", entries)]
        except CannotOpen:
            return None
        if len(turns) < record.entries:
            # Its end was deleted, or it expired between the two.
            return None
        items = [bytes(item) for turn in turns for item in turn]
        brought = turns[record.before] if record.before < record.entries else []
        return Context(
            response_id=response_id,
            response=bytes(record.response),
            items=tuple(items),
            own_input=tuple(bytes(item) for item in brought),
            backend=record.backend,
            story=record.story,
            entries=record.entries,
            size=record.size,
        )

    async def save(
        self,
        owner: str,
        response_id: str,
        *,
        response: bytes,
        previous: Context | None,
        brought: Sequence[bytes],
        answered: Sequence[bytes],
        before: Sequence[bytes] = (),
        backend: str = "",
    ) -> Context:
        """Keeps a response, and returns what the next turn goes on from.

        Args:
            response: The Response object, as JSON.
            previous: What it went on from, as far as it is stored.
            before: What was said before, each as JSON, where there is no `previous`.
            brought: The items of its request, each as JSON, without those that were said before.
            answered: The items of its answer.
            backend: The backend that keeps the response too.

        Raises:
            TooLarge: The conversation has outgrown `max_bytes`; nothing is kept of this turn.
        """
        turn = [_array(brought), _array(answered)]
        said = previous.items if previous is not None else tuple(before)
        size = sum(map(len, turn)) + (previous.size if previous is not None else sum(map(len, said)))
        if size + len(response) > self._max_bytes:
            raise TooLarge
        story, known = await self._append(previous, said, turn)
        record = _Record(story, known, known + len(turn), size, msgspec.Raw(response), backend)
        name = keys.response(_digest(owner, response_id))
        sealed = self._seal(msgspec.json.encode(record), name)
        async with deadline(self._timeout):
            await self._redis.execute_command("SET", name, sealed, "PX", self._ttl_ms)
        return Context(
            response_id=response_id,
            response=response,
            items=(*said, *brought, *answered),
            own_input=tuple(brought),
            backend=backend,
            story=story,
            entries=record.entries,
            size=size,
        )

    async def _append(self, previous: Context | None, said: Sequence[bytes], turn: Sequence[bytes]) -> tuple[str, int]:
        """Appends a turn to its story; the story's id, and how many entries it had before."""
        if previous is not None and await self._push(previous.story, previous.entries, turn):
            return previous.story, previous.entries
        # The first turn, or one that goes on from where another one has gone on already.
        story = uuid.uuid4().hex
        copied = [_array(said)] if said else []
        await self._push(story, 0, [*copied, *turn])
        return story, len(copied)

    async def _push(self, story: str, known: int, entries: Sequence[bytes]) -> bool:
        name = keys.story(story)
        # Sealed once: the script tells a repetition by its bytes.
        sealed = [self._seal(entry, name) for entry in entries]
        args: tuple[str | int | bytes, ...] = (self._ttl_ms, known, *sealed)
        reply = await scripts.run(self._redis, scripts.STORY_APPEND, (name,), args, timeout=self._timeout)
        return reply == 1

    async def delete(self, owner: str, response_id: str) -> bool:
        """Forgets a response, and what its turn said unless another turn went on from it. False: it is not known."""
        name = keys.response(_digest(owner, response_id))
        async with deadline(self._timeout):
            sealed = await self._redis.execute_command("GETDEL", name)
        if sealed is None:
            return False
        try:
            record = msgspec.json.decode(self._open(cast(bytes, sealed), name), type=_Record)
        except CannotOpen:
            return True
        names = (keys.story(record.story),)
        # An entry that copies what was said before belongs to the turns it was copied from.
        args = (record.entries, record.before)
        await scripts.run(self._redis, scripts.STORY_CUT, names, args, timeout=self._timeout)
        return True

    async def last_of(self, owner: str, session: str) -> str | None:
        """The last response of a session; None: it is not known.

        Raises:
            TooLarge: The session has outgrown what is kept of one, and its last turn with it.
        """
        async with deadline(self._timeout):
            found = await self._redis.execute_command("GET", keys.last_response(_digest(owner, session)))
        if found == _OUTGROWN:
            raise TooLarge
        return cast(bytes, found).decode() if found is not None else None

    async def outgrown(self, owner: str, session: str) -> None:
        """Notes that a session cannot be gone on with: its last turn is not kept."""
        await self.set_last(owner, session, _OUTGROWN.decode())

    async def set_last(self, owner: str, session: str, response_id: str) -> None:
        """Notes the last response of a session."""
        name = keys.last_response(_digest(owner, session))
        async with deadline(self._timeout):
            await self._redis.execute_command("SET", name, response_id, "PX", self._ttl_ms)

    def _seal(self, plain: bytes, name: str) -> bytes:
        return _PLAIN + plain if self._sealer is None else _SEALED + self._sealer.seal(plain, name)

    def _open(self, kept: bytes, name: str) -> bytes:
        if kept[:1] == _PLAIN:
            return kept[1:]
        if self._sealer is None:
            raise CannotOpen("there is no key")
        return self._sealer.open(kept[1:], name)


def _array(items: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def _digest(owner: str, name: str) -> str:
    # Names are the client's own, of any length and letters.
    return hashlib.sha256(f"{len(owner)}:{owner}{name}".encode()).hexdigest()[:32]
