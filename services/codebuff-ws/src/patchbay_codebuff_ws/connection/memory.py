"""What a socket has said of itself and of its project: here, and in Redis for the replica that gets it next."""

from __future__ import annotations

import math
import time

import msgspec
import structlog

from patchbay.dispatch.callers import Identity
from patchbay.state.codebuff_sessions import CodebuffSessions, ConnectionRecord
from patchbay.state.connection import RedisUnavailable
from patchbay_codebuff_ws.connection.project import Project

log = structlog.get_logger(__name__)

# So often, before it expires, is what an idle socket has said kept for longer.
_RENEWALS = 3


class Room:
    """What a replica has for the projects of its sockets, of all together."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self.used = 0

    def take(self, size: int) -> bool:
        """Takes so much, if there is as much."""
        if self.used + size > self._most:
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        self.used -= size


class Memory:
    """The memory of one socket. Without Redis it is this replica's alone.

    Args:
        again: Whether another replica had the socket.
        room: For projects. One that has none is looked up in Redis whenever it is wanted.
    """

    def __init__(self, connection_id: str, sessions: CodebuffSessions, *, again: bool, room: Room) -> None:
        self._id = connection_id
        self._sessions = sessions
        self._room = room
        self.record = ConnectionRecord()
        # As JSON: prompts are rare, and idle sockets many.
        self._project: bytes | None = None
        self._is_kept = False
        # Whether another replica, or another socket of the session, may know of a project that is not known here.
        self._may_be_elsewhere = again
        # Of one that comes from elsewhere nobody here knows it.
        self._renewed = -math.inf if again else time.monotonic()

    async def restore(self) -> None:
        """Takes over what another replica kept of the socket."""
        try:
            self.record = await self._sessions.connection(self._id)
        except RedisUnavailable as error:
            log.warning("codebuff_session_not_restored", error=str(error))

    async def remember(self, record: ConnectionRecord) -> None:
        """Keeps what the socket says of itself now."""
        if record == self.record:
            return
        if record.session != self.record.session:
            self._may_be_elsewhere = True
        self.record = record
        try:
            await self._sessions.save_connection(self._id, record)
        except RedisUnavailable as error:
            log.warning("codebuff_session_not_kept", error=str(error))

    async def keep(self, project: Project, identity: Identity | None) -> None:
        """Keeps a project, for the socket, and for the session that it names if it is said whose that is."""
        encoded = msgspec.json.encode(project)
        self._hold(encoded)
        await self._save(encoded, identity)

    async def project(self, identity: Identity) -> Project | None:
        """The project that the client has told of, here or elsewhere."""
        sessions, known = self._sessions, self._project
        try:
            if known is None and self._may_be_elsewhere:
                known = await sessions.project("", self._id)
                if known is None and self.record.session:
                    known = await sessions.project(_owner(identity), self.record.session)
                self._is_kept = known is not None
                self._hold(known)
            elif known is not None and not (self._is_kept and await sessions.renew(self._id)):
                await self._save(known, identity)
        except RedisUnavailable as error:
            log.warning("codebuff_project_not_looked_up", error=str(error))
        return None if known is None else msgspec.json.decode(known, type=Project)

    def close(self) -> None:
        """Gives its room to others: the socket is gone."""
        self._hold(None)

    def _hold(self, project: bytes | None) -> None:
        if self._project is not None:
            self._room.give_back(len(self._project))
        fits = project is None or self._room.take(len(project))
        self._project = project if fits else None
        self._may_be_elsewhere = not fits

    async def stay(self) -> None:
        """Has what is known be kept for longer, if it is time: the client is there still."""
        sessions, now = self._sessions, time.monotonic()
        has_said = self.record != ConnectionRecord()
        knows = has_said or self._project is not None or self._may_be_elsewhere
        if not knows or now - self._renewed < sessions.ttl_seconds / _RENEWALS:
            return
        self._renewed = now
        try:
            # One that was not restored, with Redis away, may be there still.
            if has_said:
                await sessions.save_connection(self._id, self.record)
            if not await sessions.renew(self._id) and self._project is not None:
                await self._save(self._project, None)
        except RedisUnavailable as error:
            log.warning("codebuff_session_not_kept", error=str(error))

    async def _save(self, project: bytes, identity: Identity | None) -> None:
        try:
            # Too large a one stays with this replica.
            if not await self._sessions.save_project("", self._id, project):
                log.warning("codebuff_project_too_large_to_keep", bytes=len(project))
            elif identity is not None and self.record.session:
                await self._sessions.save_project(_owner(identity), self.record.session, project)
            self._is_kept = True
        except RedisUnavailable as error:
            self._is_kept = False
            log.warning("codebuff_project_not_kept", error=str(error))


def _owner(identity: Identity) -> str:
    # Never empty: that is what sockets' own projects are kept under.
    return f"owner:{identity.owner}"
