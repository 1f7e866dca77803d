"""What Codebuff's clients have said of themselves and their projects, for whichever replica gets their socket next."""

from __future__ import annotations

import hashlib
from typing import cast

import msgspec

from patchbay.state import keys
from patchbay.state.connection import Client, deadline
from patchbay.state.sealing import CannotOpen, Sealer

MAX_PROJECT_BYTES = 8 * 1024 * 1024
"""A larger project is not kept: a value of that size would hold up everybody else's commands."""

_PLAIN = b"p"
_SEALED = b"s"


class ConnectionRecord(msgspec.Struct, frozen=True):
    """What a socket has said of itself: the session it names, the topics it follows, and which protocol it speaks."""

    session: str = ""
    topics: tuple[str, ...] = ()
    legacy: bool = False


class CodebuffSessions:
    """Keeps connections and projects. Every method raises RedisUnavailable when Redis does not answer in time.

    Args:
        redis: The client, from `connect`.
        sealer: Seals projects; None: they are kept as they are.
        ttl_seconds: How long something is kept after it was last used.
        timeout: Seconds that Redis may take for one call.
    """

    def __init__(self, redis: Client, *, sealer: Sealer | None, ttl_seconds: float, timeout: float = 0.5) -> None:
        self._redis = redis
        self._sealer = sealer
        self.ttl_seconds = ttl_seconds
        self._ttl_ms = max(1, round(ttl_seconds * 1000))
        self._timeout = timeout

    async def connection(self, connection_id: str) -> ConnectionRecord:
        """What is known of a socket: nothing, if it has said nothing or its record has expired."""
        name = keys.codebuff_connection(_digest("", connection_id))
        async with deadline(self._timeout):
            kept = await self._redis.execute_command("GET", name)
        return ConnectionRecord() if kept is None else msgspec.json.decode(cast(bytes, kept), type=ConnectionRecord)

    async def save_connection(self, connection_id: str, record: ConnectionRecord) -> None:
        """Keeps what a socket has said of itself."""
        name = keys.codebuff_connection(_digest("", connection_id))
        async with deadline(self._timeout):
            await self._redis.execute_command("SET", name, msgspec.json.encode(record), "PX", self._ttl_ms)

    async def project(self, owner: str, session: str) -> bytes | None:
        """A project, which stays for another while; None: it is not known, has expired or cannot be opened any more.

        Args:
            owner: Whose it is; empty for a socket's own, whose id nobody else knows.
            session: The socket's id, or the session that the client names.
        """
        name = keys.codebuff_project(_digest(owner, session))
        async with deadline(self._timeout):
            kept = await self._redis.execute_command("GETEX", name, "PX", self._ttl_ms)
        if kept is None:
            return None
        try:
            return self._open(cast(bytes, kept), name)
        except CannotOpen:
            return None

    async def save_project(self, owner: str, session: str, project: bytes) -> bool:
        """Keeps a project, if it is not too large. False: it is."""
        if len(project) > MAX_PROJECT_BYTES:
            return False
        name = keys.codebuff_project(_digest(owner, session))
        sealed = _PLAIN + project if self._sealer is None else _SEALED + self._sealer.seal(project, name)
        async with deadline(self._timeout):
            await self._redis.execute_command("SET", name, sealed, "PX", self._ttl_ms)
        return True

    async def renew(self, connection_id: str) -> bool:
        """Keeps what there is of a socket for another while. False: its project is not there."""
        digest = _digest("", connection_id)
        async with deadline(self._timeout):
            await self._redis.execute_command("PEXPIRE", keys.codebuff_connection(digest), self._ttl_ms)
            kept = await self._redis.execute_command("PEXPIRE", keys.codebuff_project(digest), self._ttl_ms)
        return bool(kept)

    def _open(self, kept: bytes, name: str) -> bytes:
        if kept[:1] == _PLAIN:
            return kept[1:]
        if self._sealer is None:
            raise CannotOpen("there is no key")
        return self._sealer.open(kept[1:], name)


def _digest(owner: str, name: str) -> str:
    # Names are the client's own, of any length and letters.
    return hashlib.sha256(f"{len(owner)}:{owner}{name}".encode(errors="surrogatepass")).hexdigest()[:32]
