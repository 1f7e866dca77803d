"""Which replica of codebuff-ws a socket is given to."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection

from patchbay.dispatch.transport import Connections
from patchbay.state.registry import Directory, WorkerRecord

SERVICE = "codebuff-ws"

# A replica that went away is not asked again for so long, unless there is no other: the registry may still have it.
_QUARANTINE_SECONDS = 5.0


class Replicas:
    """The live replicas, for all sockets of an edge.

    Args:
        on_drain: Told of each change after which replicas drain while there are others: their ids.
    """

    def __init__(
        self, directory: Directory, connections: Connections, *, on_drain: Callable[[Collection[str]], None]
    ) -> None:
        self._directory = directory
        self._connections = connections
        self._on_drain = on_drain
        self._quarantined: dict[str, float] = {}
        self._draining: Collection[str] = ()
        self._changed = asyncio.Event()
        directory.on_change(self._on_change)

    def pick(self) -> WorkerRecord | None:
        """The less loaded of two that live; None: there is none."""
        replicas = self._directory.of_service(SERVICE)
        if self._quarantined:
            now = time.monotonic()
            self._quarantined = {name: until for name, until in self._quarantined.items() if until > now}
            replicas = [worker for worker in replicas if worker.id not in self._quarantined] or replicas
        if len(replicas) < 2:
            return replicas[0] if replicas else None
        return min(random.sample(replicas, 2), key=self._load)

    def quarantine(self, worker: WorkerRecord) -> None:
        """Notes that a replica went away."""
        self._quarantined[worker.id] = time.monotonic() + _QUARANTINE_SECONDS

    def drains(self, worker_id: str) -> bool:
        """Whether a replica drains while there is another one."""
        return worker_id in self._draining

    async def changed(self, *, seconds: float) -> None:
        """Waits until there may be other replicas, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    def _load(self, worker: WorkerRecord) -> float:
        # The heartbeat knows of every edge's sockets but is up to a second old; our own count is of this moment.
        return max(worker.in_flight, self._connections.in_flight(worker.address)) / max(worker.capacity, 1)

    def _on_change(self) -> None:
        # Whoever waits now wakes up; whoever waits later waits for the next change.
        self._changed.set()
        self._changed = asyncio.Event()
        self._draining = ()
        if self._directory.of_service(SERVICE):
            self._draining = frozenset(
                worker.id for worker in self._directory.workers if worker.service == SERVICE and worker.draining
            )
        if self._draining:
            self._on_drain(self._draining)
