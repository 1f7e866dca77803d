"""Which replica of a worker gets a request."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Sequence

from patchbay.errors import UNAVAILABLE, PatchbayError, make_error
from patchbay.state.registry import Directory, WorkerRecord
from patchbay_edge.transport import Connections

# A replica that went away is not asked again for so long, unless there is no other.
_QUARANTINE_SECONDS = 2.0
# How long a request waits for a replica when none is live: the time a restarted worker needs.
_WAIT_SECONDS = 3.0


class Picker:
    """The less loaded of two random live replicas."""

    def __init__(self, directory: Directory, connections: Connections) -> None:
        self._directory = directory
        self._connections = connections
        self._quarantined: dict[str, float] = {}
        self._changed = asyncio.Event()
        directory.on_change(self._on_change)

    async def pick(self, backend: str, *, avoid: Collection[str] = ()) -> WorkerRecord:
        """A replica that serves `backend`, other than those in `avoid` (worker ids) if possible.

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
        return self._less_loaded(self._preferred(replicas, avoid))

    def has_other(self, backend: str, avoid: Collection[str]) -> bool:
        """Whether a live replica other than those in `avoid` serves `backend`."""
        return any(worker.id not in avoid for worker in self._directory.for_backend(backend))

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

    def _load(self, worker: WorkerRecord) -> float:
        # The heartbeat knows of every edge's chats but is up to a second old; our own count is of this moment.
        return max(worker.in_flight, self._connections.in_flight(worker.address)) / max(worker.capacity, 1)

    def _on_change(self) -> None:
        self._connections.retain(worker.address for worker in self._directory.workers)
        self._changed.set()
