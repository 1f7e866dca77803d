"""Admission: may this request start? One round trip for all limits, exact across replicas, and an answer without Redis.

An admitted request is a lease: a member of two sorted sets, scored by its expiry on the server's clock, renewed while
the request runs. What a killed replica held comes back by itself when the leases expire. There are no counters to leak.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Literal, cast

import structlog

from patchbay.errors import OVERLOADED, RATE_LIMITED, UNAVAILABLE, PatchbayError, make_error
from patchbay.state import keys, scripts
from patchbay.state.commands import Arguments, CommandQueue
from patchbay.state.connection import Client, RedisUnavailable, deadline
from patchbay.state.limits import Denial, Limits, LocalRates

__all__ = ["Admission", "Lease", "Limits"]

log = structlog.get_logger(__name__)

MAX_LEASE_SECONDS = 300.0
"""The longest lease: after a server's clock stepped back, nothing lasts longer than this."""

_SETS_TTL_MS = 600_000
_RATE_TTL_MS = 120_000
_PROBE_SECONDS = 1.0
_RENEWED_AT_ONCE = 500
# When a place becomes free cannot be known: a second is short for the client and rare for the server.
_RETRY_SECONDS = 1.0
_SHARE_GROWS_AFTER_SECONDS = 30.0
_MOST_OWED = 10_000


class Lease:
    """The place of one admitted request. Release it in one `finally`, and nowhere else."""

    __slots__ = ("__weakref__", "_admission", "_released", "id", "key_id")

    def __init__(self, admission: Admission, lease_id: str, key_id: str) -> None:
        self._admission = admission
        self._released = False
        self.id = lease_id
        self.key_id = key_id

    async def release(self) -> None:
        """Gives the place back and waits until Redis knows, at most its timeout. Safe to call twice.

        It is done even when the caller is cancelled, before or during the call. It raises nothing but that
        cancellation: without Redis the lease is left to expire.
        """
        if not self._released:
            self._released = True
            await self._admission._release(self.id, self.key_id)


class Admission:
    """Grants leases within limits that all replicas share.

    Args:
        redis: The client, from `connect`.
        replica_id: Unique to this process.
        limits: For keys without limits of their own; its `max_connections` holds for all.
        lease_seconds: How long a lease outlives the last sign of its replica; at most 300.
        on_redis_down: Without Redis, `allow` applies this replica's share of the limits, `deny` refuses every request.
        live_replicas: How many replicas share the limits now, for that share.
        names: The keys, for what has limits of its own.
        timeout: Seconds that Redis may take to answer before it counts as away.
    """

    def __init__(
        self,
        redis: Client,
        *,
        replica_id: str,
        limits: Limits,
        lease_seconds: float = 30.0,
        on_redis_down: Literal["allow", "deny"] = "allow",
        live_replicas: Callable[[], int] = lambda: 1,
        timeout: float = 0.5,
        names: keys.AdmissionKeys = keys.REQUESTS,
    ) -> None:
        if not 0 < lease_seconds <= MAX_LEASE_SECONDS:
            raise ValueError(f"lease_seconds is above 0 and at most {MAX_LEASE_SECONDS:.0f}, not {lease_seconds}")
        self._redis = redis
        self._replica_id = replica_id
        self._limits = limits
        self._lease_ms = max(1, round(lease_seconds * 1000))
        self._on_redis_down = on_redis_down
        self._replicas = _SteadyReplicas(live_replicas)
        self._timeout = timeout
        self._names = names
        self._commands = CommandQueue(redis, timeout=timeout)
        self._sequence = count(1)
        self._held: dict[str, set[str]] = {}
        self._held_count = 0
        self._local_rates = LocalRates()
        self._away = asyncio.Event()
        # Leases that Redis may hold though they ended here: what it was told, or was not, while it went away.
        self._owed: dict[str, str] = {}

    @property
    def degraded(self) -> bool:
        """Whether Redis is away, so that limits are answered by this replica alone."""
        return self._away.is_set()

    @property
    def held(self) -> int:
        """How many leases this replica holds."""
        return self._held_count

    async def admit(self, *, request_id: str, key_id: str, limits: Limits | None = None) -> Lease:
        """Admits one request or raises.

        Args:
            request_id: Names the request to operators; need not be unique.
            key_id: The id of the API key, never the key itself.
            limits: This key's own, instead of the default. `max_connections` is the cluster's and not read from here.

        Raises:
            PatchbayError: RATE_LIMITED (the key's requests per minute or concurrent requests), OVERLOADED (connections
                of the cluster) or UNAVAILABLE (Redis is away and `on_redis_down` is `deny`), each with `retry_after`.
        """
        limits = limits or self._limits
        lease_id = f"{self._replica_id}:{next(self._sequence)}:{request_id}"
        if not self.degraded:
            try:
                return await self._admit_with_redis(lease_id, key_id, limits)
            except RedisUnavailable as error:
                self._went_away(error)
                self._owe(lease_id, key_id)
        return self._admit_alone(lease_id, key_id, limits)

    async def run(self) -> None:
        """Keeps the leases alive and brings Redis back into use: runs beside the service until cancelled.

        Raises:
            ScriptsRefused: At start, the server does not let Lua scripts run.
        """
        try:
            await scripts.check(self._redis, timeout=self._timeout)
        except RedisUnavailable as error:
            self._went_away(error)
        while True:
            if self.degraded:
                await asyncio.sleep(_PROBE_SECONDS)
                await self._probe()
                continue
            try:
                async with asyncio.timeout(self._lease_ms / 3000):
                    await self._away.wait()
            except TimeoutError:
                await self._renew_or_note()

    async def gauges(self) -> dict[str, int]:
        """What the cluster holds now: `connections`, and `concurrency:<key id>` for each key with requests under way.

        For operators and tests: it walks the keys of the database.

        Raises:
            RedisUnavailable: Redis is away.
        """
        async with deadline(max(5.0, self._timeout)):
            pattern = self._names.concurrency_pattern
            names = {cast(bytes, name).decode() async for name in self._redis.scan_iter(pattern, 1000)}
        ordered = (self._names.connections, *sorted(names))
        reply = await scripts.run(self._redis, scripts.GAUGE, ordered, (), timeout=self._timeout)
        counts = cast("list[int]", reply)
        gauges = {"connections": counts[0]}
        for name, number in zip(ordered[1:], counts[1:], strict=True):
            if number:
                gauges[f"concurrency:{self._names.concurrency_key_id(name)}"] = number
        return gauges

    async def _admit_with_redis(self, lease_id: str, key_id: str, limits: Limits) -> Lease:
        arguments = self._admit_arguments(lease_id, key_id, limits)
        abandoned = partial(self._abandon, lease_id, key_id)
        reply = self._commands.submit(scripts.ADMIT, lambda: arguments, abandoned=abandoned)
        try:
            verdict, retry_ms = cast("list[int]", await reply)
        except asyncio.CancelledError:
            # The reply and the cancellation can come in the same turn of the loop.
            if reply.done() and not reply.cancelled() and reply.exception() is None:
                abandoned(reply.result())
            raise
        if verdict:
            raise _denied(Denial(verdict), limits, self._limits, retry_ms / 1000 if retry_ms >= 0 else _RETRY_SECONDS)
        return self._grant(lease_id, key_id)

    def _admit_arguments(self, lease_id: str, key_id: str, limits: Limits) -> Arguments:
        return (
            (self._names.connections, self._names.concurrency(key_id), self._names.rate(key_id)),
            (
                lease_id,
                self._lease_ms,
                limits.requests_per_minute or -1,
                limits.concurrent_requests or -1,
                self._limits.max_connections or -1,
                round(MAX_LEASE_SECONDS * 1000),
                _SETS_TTL_MS,
                _RATE_TTL_MS,
            ),
        )

    def _admit_alone(self, lease_id: str, key_id: str, limits: Limits) -> Lease:
        if self._on_redis_down == "deny":
            message = "The shared state of this service is not reachable; try again shortly."
            raise PatchbayError(make_error(UNAVAILABLE, message, retry_after=_PROBE_SECONDS))
        replicas = self._replicas.count()
        share, cluster = limits.share(replicas), self._limits.share(replicas)
        rate = share.requests_per_minute
        wait = 0.0 if rate is None else self._local_rates.wait(key_id, rate)
        if wait > 0:
            raise _denied(Denial.REQUESTS_PER_MINUTE, limits, self._limits, wait)
        if share.concurrent_requests is not None and len(self._held.get(key_id, ())) >= share.concurrent_requests:
            raise _denied(Denial.CONCURRENT_REQUESTS, limits, self._limits, _RETRY_SECONDS)
        if cluster.max_connections is not None and self._held_count >= cluster.max_connections:
            raise _denied(Denial.MAX_CONNECTIONS, limits, self._limits, _RETRY_SECONDS)
        if rate is not None:
            self._local_rates.charge(key_id, rate)
        return self._grant(lease_id, key_id)

    def _grant(self, lease_id: str, key_id: str) -> Lease:
        self._owed.pop(lease_id, None)
        self._held.setdefault(key_id, set()).add(lease_id)
        self._held_count += 1
        return Lease(self, lease_id, key_id)

    def _abandon(self, lease_id: str, key_id: str, reply: object) -> None:
        """Gives back what was granted to a caller that is gone."""
        if isinstance(reply, RedisUnavailable):
            self._went_away(reply)
            self._owe(lease_id, key_id)
        elif cast("list[int]", reply)[0] == 0:
            self._submit_release(lease_id, key_id)

    async def _release(self, lease_id: str, key_id: str) -> None:
        members = self._held[key_id]
        members.discard(lease_id)
        if not members:
            del self._held[key_id]
        self._held_count -= 1
        if self.degraded:
            self._owe(lease_id, key_id)
        else:
            await asyncio.wait((self._submit_release(lease_id, key_id),))

    def _submit_release(self, lease_id: str, key_id: str) -> asyncio.Future[object]:
        reply = self._commands.submit(scripts.RELEASE, lambda: _release_arguments(self._names, lease_id, key_id))

        def note(reply: asyncio.Future[object]) -> None:
            if not reply.cancelled() and (error := reply.exception()) is not None:
                self._went_away(error)
                self._owe(lease_id, key_id)

        reply.add_done_callback(note)
        return reply

    def _owe(self, lease_id: str, key_id: str) -> None:
        if len(self._owed) < _MOST_OWED:  # the others expire
            self._owed[lease_id] = key_id

    async def _renew_or_note(self) -> bool:
        self._replicas.observe()
        try:
            added = await self._renew()
        except RedisUnavailable as error:
            self._went_away(error)
            return False
        if added:
            log.warning("leases had expired and were taken again", leases=added)
        return True

    async def _renew(self) -> int:
        """Renews every lease held, and returns how many had expired."""
        replies = [
            self._commands.submit(scripts.RENEW, partial(self._renew_arguments, chunk)) for chunk in self._chunks()
        ]
        if not replies:
            return 0
        added = 0
        for reply in await asyncio.gather(*replies, return_exceptions=True):
            if isinstance(reply, BaseException):
                raise reply
            added += cast(int, reply)
        return added

    def _chunks(self) -> Iterator[list[tuple[str, list[str]]]]:
        chunk: list[tuple[str, list[str]]] = []
        size = 0
        for key_id, members in self._held.items():
            ordered = list(members)
            for start in range(0, len(ordered), _RENEWED_AT_ONCE):
                part = ordered[start : start + _RENEWED_AT_ONCE]
                if size + len(part) > _RENEWED_AT_ONCE:
                    yield chunk
                    chunk, size = [], 0
                chunk.append((key_id, part))
                size += len(part)
        if chunk:
            yield chunk

    def _renew_arguments(self, chunk: list[tuple[str, list[str]]]) -> Arguments:
        # Asked at the moment of sending: a lease released since is left out, and a release sent later is run later.
        names = [self._names.connections]
        args: list[str | int] = [self._lease_ms, _SETS_TTL_MS]
        for key_id, members in chunk:
            held = self._held.get(key_id, ())
            still = [member for member in members if member in held]
            names.append(self._names.concurrency(key_id))
            args += (len(still), *still)
        return names, args

    async def _probe(self) -> None:
        """Asks Redis for a write; when it takes one, puts the leases held into it and uses it again."""
        try:
            async with deadline(self._timeout):
                await self._redis.set(self._names.probe, self._replica_id, px=5000)
        except RedisUnavailable as error:
            log.debug("redis is still away", error=str(error))
            return
        if await self._renew_or_note():
            self._away.clear()
            self._local_rates.clear()
            log.info("redis is back", leases=self._held_count)
            owed, self._owed = self._owed, {}
            for lease_id, key_id in owed.items():
                self._submit_release(lease_id, key_id)

    def _went_away(self, error: BaseException) -> None:
        if not self.degraded:
            self._replicas.observe()
            self._away.set()
            log.error("redis is away", error=str(error), on_redis_down=self._on_redis_down)


class _SteadyReplicas:
    """How many replicas to share with: more of them at once, fewer only when they have been gone for a while."""

    def __init__(self, live: Callable[[], int]) -> None:
        self._live = live
        self._seen: deque[tuple[float, int]] = deque()

    def observe(self) -> None:
        now, number = time.monotonic(), max(1, self._live())
        # Falling numbers, each with when it was last seen: the first is the largest of the window.
        while self._seen and self._seen[-1][1] <= number:
            self._seen.pop()
        self._seen.append((now, number))
        while self._seen[0][0] < now - _SHARE_GROWS_AFTER_SECONDS:
            self._seen.popleft()

    def count(self) -> int:
        self.observe()
        return self._seen[0][1]


def _release_arguments(names: keys.AdmissionKeys, lease_id: str, key_id: str) -> Arguments:
    return (names.connections, names.concurrency(key_id)), (lease_id,)


def _denied(denial: Denial, limits: Limits, cluster: Limits, retry_after: float) -> PatchbayError:
    if denial is Denial.MAX_CONNECTIONS:
        message = f"This service answers at most {cluster.max_connections} requests at a time; try again shortly."
        return PatchbayError(make_error(OVERLOADED, message, retry_after=retry_after))
    if denial is Denial.CONCURRENT_REQUESTS:
        message = f"This key may have {limits.concurrent_requests} requests under way at a time."
    else:
        message = f"This key may send {limits.requests_per_minute} requests per minute."
    return PatchbayError(make_error(RATE_LIMITED, message, retry_after=retry_after))
