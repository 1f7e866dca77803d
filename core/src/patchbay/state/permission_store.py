"""Permission requests in Redis: each step one script, atomic, by the server's clock."""

from __future__ import annotations

import secrets
from typing import cast

import msgspec
import structlog

from patchbay.state import keys, scripts
from patchbay.state.connection import Client, deadline
from patchbay.state.permission_records import (
    Asker,
    AuditEntry,
    Decision,
    Stored,
    Verdict,
    read_audit,
    read_request,
    read_resolved,
)

log = structlog.get_logger(__name__)

TIME_IS_OVER = Decision(False, reason="nobody answered in time", by="timeout")
LEASE_ENDED = Decision(False, reason="who asked is gone", by="lost")
FORGOTTEN = Decision(False, reason="the request is no longer known: Redis has lost it", by="redis")

_KEYS_TTL_MS = 86_400_000
_KEPT_MS = 600_000
_MOST_PENDING = 1000
_MOST_AUDIT = 10_000
_AUDIT_TTL_MS = 30 * 86_400_000
# So many requests, of at most 1 MiB each, are read at a time.
_READ_AT_ONCE = 16

_RESOLVING = (
    keys.PERMISSION_REQUESTS,
    keys.PERMISSION_LEASES,
    keys.PERMISSIONS_RESOLVED,
    keys.PERMISSIONS_RESOLVED_EXPIRY,
    keys.PERMISSIONS_AUDIT,
)


class Store:
    """The requests of all replicas. Every method raises RedisUnavailable.

    Args:
        redis: The client, from `connect`.
        timeout: Seconds that Redis may take for one step.
        lease_ms: How long a request outlives the one who asks.
    """

    def __init__(self, redis: Client, *, timeout: float, lease_ms: int) -> None:
        self._redis = redis
        self._timeout = timeout
        self._lease_ms = lease_ms

    async def ask(self, asker: Asker, tool_input: bytes, *, wait_ms: int) -> bool:
        """Keeps a request; False when too many are pending."""
        names = (
            keys.PERMISSION_REQUESTS,
            keys.PERMISSION_LEASES,
            keys.PERMISSIONS_RESOLVED,
            keys.PERMISSIONS_AUDIT,
        )
        reply = await self._run(
            scripts.ASK,
            names,
            asker.id,
            _text(asker),
            tool_input.decode(),
            wait_ms,
            self._lease_ms,
            wait_ms + _KEYS_TTL_MS,
            _MOST_PENDING,
            _MOST_AUDIT,
            _AUDIT_TTL_MS,
            keys.PERMISSIONS_CHANGED,
        )
        return bool(reply)

    async def keep(self, request_id: str, *, wait_ms: int) -> Stored | bool:
        """Renews the lease: True. The answered request when there is an answer, False when nothing is known of it."""
        names = (keys.PERMISSION_REQUESTS, keys.PERMISSION_LEASES, keys.PERMISSIONS_RESOLVED)
        reply = await self._run(scripts.KEEP, names, request_id, self._lease_ms, wait_ms + _KEYS_TTL_MS)
        return read_resolved(reply) if isinstance(reply, bytes) else bool(reply)

    async def resolve(
        self, request_id: str, decision: Decision, *, by_asker: bool = False
    ) -> tuple[bool, Stored | None]:
        """Answers a request unless it has an answer.

        Args:
            request_id: Which.
            decision: The answer.
            by_asker: The one who asked gives up: possible even when its lease has ended.

        Returns:
            Whether this answer stands, and the request with the answer that does; None: it is not known.
        """
        token = secrets.token_hex(8)
        while True:
            reply = await self._run(
                scripts.RESOLVE,
                _RESOLVING,
                request_id,
                token,
                _text(decision),
                _text(Verdict.of(decision)),
                int(by_asker),
                _KEPT_MS,
                _MOST_AUDIT,
                _AUDIT_TTL_MS,
                keys.PERMISSIONS_CHANGED,
            )
            outcome, *rest = cast("list[object]", reply)
            if outcome == -1:
                return False, None
            if outcome != -2:
                break
            await self.pending()  # the lease has ended: which is resolved by looking
        stored = read_resolved(cast(bytes, rest[0]))
        if outcome == 1:
            log_resolved(stored.asker, decision)
        return outcome == 1, stored

    async def pending(self) -> list[str]:
        """The ids of the pending requests, after those whose lease has ended were resolved."""
        args = (
            _text(TIME_IS_OVER),
            _text(Verdict.of(TIME_IS_OVER)),
            _text(LEASE_ENDED),
            _text(Verdict.of(LEASE_ENDED)),
            _KEPT_MS,
            _MOST_AUDIT,
            _AUDIT_TTL_MS,
            keys.PERMISSIONS_CHANGED,
        )
        reply = await self._run(scripts.SWEEP, _RESOLVING, *args)
        pending, swept = (
            [request_id.decode() for request_id in ids] for ids in cast("tuple[list[bytes], list[bytes]]", reply)
        )
        for stored in (await self.read(swept)).values():
            if stored.decision is not None:
                log_resolved(stored.asker, stored.decision)
        return pending

    async def read(self, request_ids: list[str]) -> dict[str, Stored]:
        """The requests of these ids that are known, pending or resolved."""
        names = (keys.PERMISSION_REQUESTS, keys.PERMISSIONS_RESOLVED)
        found: dict[str, Stored] = {}
        for start in range(0, len(request_ids), _READ_AT_ONCE):
            ids = request_ids[start : start + _READ_AT_ONCE]
            reply = cast("list[list[object]]", await self._run(scripts.FETCH, names, *ids))
            for request_id, (kind, *lines) in zip(ids, reply, strict=True):
                if kind:
                    read = read_request if kind == 1 else read_resolved
                    found[request_id] = read(cast(bytes, lines[0]))
        return found

    async def audit(self, limit: int) -> list[AuditEntry]:
        """The last entries of the audit, the newest first."""
        async with deadline(self._timeout):
            reply = await self._redis.xrevrange(keys.PERMISSIONS_AUDIT, count=limit)
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", reply)
        return [read_audit(entry_id, fields) for entry_id, fields in entries]

    async def _run(self, script: scripts.Script, names: tuple[str, ...], *args: str | int) -> object:
        return await scripts.run(self._redis, script, names, args, timeout=self._timeout)


def log_resolved(asker: Asker, decision: Decision) -> None:
    """The audit's line in the log of the process that resolved a request."""
    log.info("permission_resolved", **msgspec.structs.asdict(asker), **msgspec.structs.asdict(Verdict.of(decision)))


def _text(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()
