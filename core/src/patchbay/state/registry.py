"""Who is there: workers and edges announce themselves in Redis, edges read the list and keep it when Redis is away.

A record lives as long as its heartbeat renews it, by the server's clock, so what was killed disappears by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TypeAlias, cast

import msgspec
import structlog

from patchbay.state import keys, scripts
from patchbay.state.connection import Client, RedisUnavailable, deadline
from patchbay.state.notices import messages

__all__ = ["Announcer", "BackendRecord", "Directory", "EdgeRecord", "PoolRecord", "WorkerRecord"]

log = structlog.get_logger(__name__)

_KEYS_TTL_MS = 86_400_000
_RECOVERY_SECONDS = 5.0


class PoolRecord(msgspec.Struct, frozen=True):
    """The processes behind a backend: how many are ready, how many answer, the most there may be, and who waits."""

    spare: int
    busy: int
    max: int
    waiting: int = 0


class BackendRecord(msgspec.Struct, frozen=True):
    """A backend that a worker serves: its name in the configuration, its kind, the dialect it speaks upstream.

    `mode` is the way it works where its kind has several, `pool` is there where processes answer.
    """

    name: str
    kind: str
    dialect: str
    signed_in: bool
    detail: str = ""
    mode: str = ""
    pool: PoolRecord | None = None


class WorkerRecord(msgspec.Struct, frozen=True):
    """What a worker says of itself.

    `address` is where its gRPC server listens, `started_at` Unix seconds, `capacity` and `in_flight` are numbers of
    requests.
    """

    id: str
    service: str
    address: str
    version: str
    started_at: float
    capacity: int
    in_flight: int
    draining: bool
    backends: tuple[BackendRecord, ...]


class EdgeRecord(msgspec.Struct, frozen=True):
    """What an edge says of itself, `started_at` in Unix seconds."""

    id: str
    version: str
    started_at: float


Record: TypeAlias = WorkerRecord | EdgeRecord

_decoder = msgspec.json.Decoder(WorkerRecord)


class Announcer:
    """Keeps the record of this worker, or of this edge, in the registry.

    Args:
        redis: The client, from `connect`.
        describe: Gives the record as it is now; its id and type never change.
        interval: Seconds between heartbeats.
        ttl: Seconds after the last heartbeat at which the record disappears.
        timeout: Seconds that Redis may take for one announcement.
    """

    def __init__(
        self,
        redis: Client,
        describe: Callable[[], Record],
        *,
        interval: float = 1.0,
        ttl: float = 5.0,
        timeout: float = 0.5,
    ) -> None:
        self._redis = redis
        self._describe = describe
        self._interval = interval
        self._ttl_ms = round(ttl * 1000)
        self._timeout = timeout
        self._reachable = True

    async def run(self) -> None:
        """Announces at once and then each interval, through outages of Redis, until cancelled; then withdraws."""
        beat: asyncio.Future[bool] | None = None
        try:
            while True:
                beat = asyncio.ensure_future(self._beat())
                await asyncio.shield(beat)
                await asyncio.sleep(self._interval)
        finally:
            await asyncio.shield(asyncio.ensure_future(self._leave(beat)))

    async def _leave(self, beat: asyncio.Future[bool] | None) -> None:
        if beat is not None:
            await asyncio.wait((beat,))  # run after the withdrawal, it would bring the record back
        await self.withdraw()

    async def announce_now(self) -> None:
        """Announces the record as it is now and tells every edge to look. Without Redis, the next heartbeat does."""
        if await self._beat():
            await self._publish("announced")

    async def withdraw(self) -> None:
        """Removes the record and tells every edge to look. Without Redis, the record expires."""
        record = self._describe()
        names = _names(record)[:2]
        try:
            await scripts.run(self._redis, scripts.WITHDRAW, names, (record.id,), timeout=self._timeout)
        except RedisUnavailable as error:
            self._note(error)
        else:
            await self._publish("withdrawn")

    async def _beat(self) -> bool:
        record = self._describe()
        args = (record.id, msgspec.json.encode(record).decode(), self._ttl_ms, _KEYS_TTL_MS)
        try:
            added = await scripts.run(self._redis, scripts.ANNOUNCE, _names(record), args, timeout=self._timeout)
        except RedisUnavailable as error:
            self._note(error)
            return False
        self._note(None)
        if added:
            await self._publish("announced")
        return True

    async def _publish(self, event: str) -> None:
        notice = f"{event} {self._describe().id}"
        try:
            async with deadline(self._timeout):
                await self._redis.execute_command("PUBLISH", keys.REGISTRY_CHANGED, notice)
        except RedisUnavailable as error:
            # Edges look each interval as well, so that a notice is a convenience.
            log.debug("no change notice was published", error=str(error))

    def _note(self, error: RedisUnavailable | None) -> None:
        if error is not None and self._reachable:
            log.error("cannot announce: redis is away", error=str(error))
        elif error is None and not self._reachable:
            log.info("announcing again: redis is back")
        self._reachable = error is None


class Directory:
    """The workers and edges that live, as an edge sees them.

    Args:
        redis: The client, from `connect`.
        interval: Seconds between refreshes; change notices come between them.
        timeout: Seconds that Redis may take for one refresh.
    """

    def __init__(self, redis: Client, *, interval: float = 1.0, timeout: float = 0.5) -> None:
        self._redis = redis
        self._interval = interval
        self._timeout = timeout
        self._workers: tuple[WorkerRecord, ...] = ()
        self._by_backend: dict[str, list[WorkerRecord]] = {}
        self._edges = 0
        self._epoch = b""
        self._stale = True
        self._kept: dict[str, WorkerRecord] = {}
        self._keep_until = 0.0
        self._skips_records = False
        self._callbacks: list[Callable[[], None]] = []
        self._wake = asyncio.Event()

    @property
    def workers(self) -> Sequence[WorkerRecord]:
        """The workers that live, or the last known ones while Redis is away, in order of their ids."""
        return self._workers

    @property
    def edges(self) -> int:
        """How many edges live, this one included once it has announced itself; while Redis is away, the last known."""
        return self._edges

    @property
    def stale(self) -> bool:
        """Whether the last refresh failed, or there was none yet."""
        return self._stale

    def for_backend(self, backend: str) -> list[WorkerRecord]:
        """The workers that live, serve `backend` and are not draining."""
        return list(self._by_backend.get(backend, ()))

    def of_service(self, service: str) -> list[WorkerRecord]:
        """The workers of a service that live and are not draining."""
        return [worker for worker in self._workers if worker.service == service and not worker.draining]

    def on_change(self, callback: Callable[[], None]) -> None:
        """Calls `callback` after each refresh that changed a worker's record or `stale`."""
        self._callbacks.append(callback)

    async def run(self) -> None:
        """Refreshes each interval and at once on a change notice, through outages of Redis, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="registry-notices")
            while True:
                self._wake.clear()
                await self.refresh()
                try:
                    async with asyncio.timeout(self._interval):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def refresh(self) -> None:
        """Reads the registry once. Without Redis, what is known stays and becomes stale."""
        names = (keys.WORKERS, keys.WORKERS_EXPIRY, keys.EDGES_EXPIRY, keys.REGISTRY_EPOCH)
        try:
            reply = await scripts.run(self._redis, scripts.DIRECTORY, names, (), timeout=self._timeout)
        except RedisUnavailable as error:
            if not self._stale:
                log.error(
                    "the directory of workers is stale: redis is away", error=str(error), workers=len(self._workers)
                )
            self._update(self._workers, stale=True)
            return
        epoch, edges, *records = cast("list[bytes | int]", reply)
        self._keep_after_loss(cast(bytes, epoch))
        self._edges = cast(int, edges)
        self._update(self._with_kept(self._decode(cast("list[bytes]", records))), stale=False)

    def _decode(self, records: list[bytes]) -> list[WorkerRecord]:
        workers, error = [], None
        for record in records:
            try:
                workers.append(_decoder.decode(record))
            except msgspec.DecodeError as undecodable:
                error = undecodable
        if error is not None and not self._skips_records:
            log.error("a worker's record cannot be read: is it of another release?", error=str(error))
        self._skips_records = error is not None
        return workers

    def _keep_after_loss(self, epoch: bytes) -> None:
        # Records expire, or are lost, while Redis is away, and workers need a heartbeat to be back. Until then an edge
        # goes on with those it knows, rather than refuse every request for a second.
        if self._epoch and (self._stale or epoch != self._epoch):
            self._kept = {worker.id: worker for worker in self._workers}
            self._keep_until = time.monotonic() + _RECOVERY_SECONDS
        elif time.monotonic() >= self._keep_until:
            self._kept.clear()
        self._epoch = epoch

    def _with_kept(self, read: Iterable[WorkerRecord]) -> tuple[WorkerRecord, ...]:
        workers = {worker.id: worker for worker in read}
        for worker_id in workers:
            self._kept.pop(worker_id, None)
        workers |= self._kept
        return tuple(workers[worker_id] for worker_id in sorted(workers))

    def _update(self, workers: tuple[WorkerRecord, ...], *, stale: bool) -> None:
        if workers == self._workers and stale == self._stale:
            return
        if self._stale and not stale:
            log.info("the directory of workers is up to date", workers=len(workers))
        by_backend: dict[str, list[WorkerRecord]] = {}
        for worker in workers:
            for backend in worker.backends:
                if not worker.draining:
                    by_backend.setdefault(backend.name, []).append(worker)
        self._workers, self._by_backend, self._stale = workers, by_backend, stale
        for callback in self._callbacks:
            callback()

    async def _listen(self) -> None:
        async with aclosing(
            messages(self._redis, keys.REGISTRY_CHANGED, timeout=self._timeout, retry_seconds=self._interval)
        ) as heard:
            async for message in heard:
                self._notice(message)

    def _notice(self, message: str | None) -> None:
        event, _, record_id = (message or "").partition(" ")
        if event == "withdrawn":
            self._kept.pop(record_id, None)
            self._update(tuple(worker for worker in self._workers if worker.id != record_id), stale=self._stale)
        self._wake.set()


def _names(record: Record) -> tuple[str, str, str]:
    if isinstance(record, WorkerRecord):
        return keys.WORKERS, keys.WORKERS_EXPIRY, keys.REGISTRY_EPOCH
    return keys.EDGES, keys.EDGES_EXPIRY, keys.REGISTRY_EPOCH
