"""Which replica of a worker gets a request.

Most backends are a worker's connections to an upstream, and any replica will do: the less loaded of two is taken. Where
processes answer, a replica with one to spare is taken, and an agent's conversation stays where its process is.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from patchbay.dispatch.transport import Connections
from patchbay.errors import UNAVAILABLE, PatchbayError, make_error
from patchbay.state.registry import BackendRecord, Directory, WorkerRecord

# A replica that went away is not asked again for so long, unless there is no other.
_QUARANTINE_SECONDS = 2.0
# How long a request waits for a replica when none is live: the time a restarted worker needs.
_WAIT_SECONDS = 3.0
# Their upstreams cache what a conversation has said, and know it again by the account and the connection.
_CACHING_KINDS = frozenset({"codex", "openai-responses"})
# How much more of its capacity a conversation's own replica may have taken than another one.
_BUSIER = 0.25


@dataclass(frozen=True, slots=True)
class _Noted:
    """What a replica's last heartbeat says of a backend, and this process's own chats there when it came."""

    record: BackendRecord
    chats: int


class Picker:
    """Picks among the live replicas of the directory."""

    def __init__(self, directory: Directory, connections: Connections) -> None:
        self._directory = directory
        self._connections = connections
        self._quarantined: dict[str, float] = {}
        # By backend and worker id, only those backends of which replicas differ in more than load.
        self._noted: dict[str, dict[str, _Noted]] = {}
        self._changed = asyncio.Event()
        directory.on_change(self._on_change)
        self._note()

    async def pick(self, backend: str, *, avoid: Collection[str] = (), conversation: str = "") -> WorkerRecord:
        """A replica that serves `backend`, other than those in `avoid` (worker ids) if possible.

        Args:
            conversation: Requests that name the same one meet at the same replica of an agent, whichever edge they come
                through, and at the same one of a backend that caches by conversation unless that is much busier than
                others; empty: any will do.

        Raises:
            PatchbayError: UNAVAILABLE when no replica is live, also after a short wait.
        """
        deadline = time.monotonic() + _WAIT_SECONDS
        while not (replicas := self._directory.for_backend(backend)):
            self._changed.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._changed.wait()
            except TimeoutError:
                message = f"no live worker serves the backend `{backend}`"
                raise PatchbayError(make_error(UNAVAILABLE, message, retry_after=2)) from None
        noted = self._noted.get(backend)
        if conversation and _caches(replicas[0], backend):
            able = replicas if noted is None else _able(replicas, noted)
            return self._nearest(self._preferred(able, avoid), conversation)
        if noted is None:
            return self._less_loaded(self._preferred(replicas, avoid))
        preferred = self._preferred(_able(replicas, noted), avoid)
        if conversation and any(one.record.mode == "agent" for one in noted.values()):
            return max(preferred, key=lambda worker: _weight(conversation, worker.id))
        if any(one.record.pool is not None for one in noted.values()):
            return self._roomiest(backend, preferred, noted)
        return self._less_loaded(preferred)

    def has_other(self, backend: str, avoid: Collection[str]) -> bool:
        """Whether a live replica other than those in `avoid` serves `backend`."""
        replicas: Sequence[WorkerRecord] = self._directory.for_backend(backend)
        if (noted := self._noted.get(backend)) is not None:
            replicas = _able(replicas, noted)
        return any(worker.id not in avoid for worker in replicas)

    def quarantine(self, worker: WorkerRecord) -> None:
        """Notes that a replica went away: its heartbeat may still say otherwise for a while."""
        self._quarantined[worker.id] = time.monotonic() + _QUARANTINE_SECONDS

    def _preferred(self, replicas: Sequence[WorkerRecord], avoid: Collection[str]) -> Sequence[WorkerRecord]:
        now = time.monotonic()
        if self._quarantined:
            self._quarantined = {name: until for name, until in self._quarantined.items() if until > now}
        fresh = [worker for worker in replicas if worker.id not in avoid]
        healthy = [worker for worker in fresh if worker.id not in self._quarantined]
        return healthy or fresh or replicas

    def _less_loaded(self, replicas: Sequence[WorkerRecord]) -> WorkerRecord:
        if len(replicas) == 1:
            return replicas[0]
        return min(random.sample(replicas, 2), key=self._load)

    def _nearest(self, replicas: Sequence[WorkerRecord], conversation: str) -> WorkerRecord:
        """The conversation's own replica, as long as that is not much busier than the least busy one."""
        own = max(replicas, key=lambda worker: _weight(conversation, worker.id))
        least = min(map(self._load, replicas))
        return own if self._load(own) <= least + _BUSIER else self._less_loaded(replicas)

    def _load(self, worker: WorkerRecord) -> float:
        # The heartbeat knows of everybody's chats but is up to a second old; our own count is of this moment.
        return max(worker.in_flight, self._connections.in_flight(worker.address)) / max(worker.capacity, 1)

    def _roomiest(self, backend: str, replicas: Sequence[WorkerRecord], noted: Mapping[str, _Noted]) -> WorkerRecord:
        """A replica with a process to spare, else one where the fewest wait."""
        rooms = [(worker, *self._room(backend, worker, noted.get(worker.id))) for worker in replicas]
        with_spare = [room for room in rooms if room[1] > 0]
        # Any spare is as good as another: of two random ones, so that not all edges go for the same.
        if len(with_spare) > 2:
            with_spare = random.sample(with_spare, 2)
        return min(with_spare or rooms, key=lambda room: (room[2], random.random()))[0]

    def _room(self, backend: str, worker: WorkerRecord, noted: _Noted | None) -> tuple[int, float]:
        """The spare processes of a replica, and its chats as a share of the most it takes."""
        if noted is None or (pool := noted.record.pool) is None:
            return 0, self._load(worker)
        # What this process has sent there since the heartbeat, which the next one will know of.
        own = self._connections.chats(worker.address, backend)
        unseen = max(own - noted.chats, own - pool.busy - pool.waiting, 0)
        return pool.spare - unseen, (pool.busy + pool.waiting + unseen) / max(pool.max, 1)

    def _note(self) -> None:
        before = self._noted
        self._noted = {}
        for worker in self._directory.workers:
            for record in worker.backends:
                if record.pool is None and record.mode != "agent" and record.signed_in:
                    continue
                known = before.get(record.name, {}).get(worker.id)
                if known is None or known.record != record:
                    known = _Noted(record, self._connections.chats(worker.address, record.name))
                self._noted.setdefault(record.name, {})[worker.id] = known

    def _on_change(self) -> None:
        self._connections.retain(worker.address for worker in self._directory.workers)
        self._note()
        self._changed.set()


def _caches(worker: WorkerRecord, backend: str) -> bool:
    return any(record.name == backend and record.kind in _CACHING_KINDS for record in worker.backends)


def _able(replicas: Sequence[WorkerRecord], noted: Mapping[str, _Noted]) -> Sequence[WorkerRecord]:
    """The replicas that do not say that they cannot answer; all of them, if each one says so."""
    able = [worker for worker in replicas if worker.id not in noted or noted[worker.id].record.signed_in]
    return able or replicas


def _weight(conversation: str, worker_id: str) -> bytes:
    # The highest weight wins (rendezvous hashing): every edge finds the same replica without asking another, and when a
    # replica goes, only its own conversations move.
    return blake2b(f"{conversation}\0{worker_id}".encode(), digest_size=8).digest()
