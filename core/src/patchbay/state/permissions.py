"""Whether a tool may be used: a worker asks, and whoever may answer does so through any edge.

    permissions = Permissions(redis)
    decision = await permissions.ask(backend="claude", session="s", key_id="alice", worker_id="w1", tool_name="Bash",
                                     input=msgspec.Raw(b'{"command": "ls"}'), timeout_seconds=300)

A request lives in Redis, under a lease that the one who asks renews, so that what a killed worker asked disappears by
itself. Exactly one answer stands. Whatever goes wrong is a denial.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, TypeAlias

import msgspec
import structlog

from patchbay.state import keys
from patchbay.state.connection import Client, RedisUnavailable
from patchbay.state.notices import Notices
from patchbay.state.permission_records import (
    Asker,
    AuditEntry,
    Decision,
    PermissionRequest,
    Resolved,
    Stored,
    one_line,
)
from patchbay.state.permission_store import FORGOTTEN, TIME_IS_OVER, Store, log_resolved

__all__ = ["AuditEntry", "Change", "Decision", "Outcome", "PermissionRequest", "Permissions", "Resolved", "Watch"]

log = structlog.get_logger(__name__)

MAX_INPUT_BYTES = 1024 * 1024
_LONGEST_SECONDS = 7 * 86_400.0

_WITHDRAWN = Decision(False, reason="who asked no longer needs to know", by="withdrawn")
_AWAY = Decision(False, reason="permission cannot be asked for: Redis is away", by="redis")
_FULL = Decision(False, reason="too many permission requests are pending", by="limit")
_TOO_LARGE = Decision(
    False, reason=f"the tool's input is larger than the {MAX_INPUT_BYTES} bytes that are shown", by="limit"
)
_UNREADABLE = Decision(False, reason="the tool's input is no JSON that can be shown", by="limit")

Change: TypeAlias = PermissionRequest | Resolved
"""What a watcher sees: a request that is pending now, or one it has seen before that is pending no longer."""


class Outcome(NamedTuple):
    """What became of an answer: whether it is the one that stands (`now`), and the request with the one that does."""

    now: bool
    resolved: Resolved


class Permissions:
    """The permission requests of all replicas.

    Args:
        redis: The client, from `connect`.
        timeout: Seconds that Redis may take for one step.
        lease_seconds: Seconds after which the request of a killed worker disappears.
        poll_seconds: Seconds between looks; change notices come between them.
    """

    def __init__(
        self, redis: Client, *, timeout: float = 0.5, lease_seconds: float = 10.0, poll_seconds: float = 1.0
    ) -> None:
        self._store = Store(redis, timeout=timeout, lease_ms=round(lease_seconds * 1000))
        self._notices = Notices(redis, keys.PERMISSIONS_CHANGED, timeout=timeout, retry_seconds=poll_seconds)
        self._lease_seconds = lease_seconds
        # A lease must survive a look or two that fail.
        self._poll_seconds = min(poll_seconds, lease_seconds / 4)
        self._ending: set[asyncio.Task[object]] = set()

    async def ask(
        self,
        *,
        backend: str,
        session: str,
        key_id: str,
        worker_id: str,
        tool_name: str,
        input: msgspec.Raw,  # noqa: A002  the field's name everywhere
        timeout_seconds: float,
    ) -> Decision:
        """Asks, and waits for the answer. Cancelling it withdraws the request.

        Args:
            backend: Who wants to use the tool.
            session: The conversation in which.
            key_id: The API key whose request it is; empty: none.
            worker_id: The replica that asks.
            tool_name: The tool.
            input: What it would be called with, a JSON object.
            timeout_seconds: How long an answer may take; more than a week is a week.

        Returns:
            The answer: a denial when there is none in time, when Redis cannot be asked (or not for a lease's time, once
            the request is there), when too many requests are pending, and when the input cannot be shown.
        """
        asker = Asker(f"perm_{secrets.token_hex(12)}", backend, session, tool_name, key_id, worker_id)
        wait_ms = round(min(timeout_seconds, _LONGEST_SECONDS) * 1000)
        tool_input = bytes(input)
        if len(tool_input) > MAX_INPUT_BYTES:
            return _denied(asker, _TOO_LARGE)
        try:
            tool_input = one_line(tool_input)
        except ValueError:
            return _denied(asker, _UNREADABLE)
        async with self._notices.listening(asker.id) as wake:
            asking = asyncio.ensure_future(self._store.ask(asker, tool_input, wait_ms=wait_ms))
            try:
                if not await asyncio.shield(asking):
                    return _denied(asker, _FULL)
                log.info("permission_asked", **msgspec.structs.asdict(asker))
                return await self._answer(asker.id, wake, wait_ms=wait_ms)
            except RedisUnavailable as error:
                log.error("permission denied: redis is away", error=str(error), **msgspec.structs.asdict(asker))
                # It may be there all the same: nobody should find it still to be answered.
                self._in_background(self._withdraw(asking, asker.id, _AWAY))
                return _AWAY
            except asyncio.CancelledError:
                await asyncio.shield(self._in_background(self._withdraw(asking, asker.id, _WITHDRAWN)))
                raise

    async def _answer(self, request_id: str, wake: asyncio.Event, *, wait_ms: int) -> Decision:
        """Waits for the answer and renews the lease meanwhile. Raises RedisUnavailable."""
        loop = asyncio.get_running_loop()
        heard = loop.time()
        give_up_at = heard + wait_ms / 1000
        while (left := give_up_at - loop.time()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, self._poll_seconds)):
                    await wake.wait()
            wake.clear()
            try:
                found = await self._store.keep(request_id, wait_ms=wait_ms)
            except RedisUnavailable:
                if loop.time() - heard >= self._lease_seconds:
                    raise
                continue
            heard = loop.time()
            if isinstance(found, Stored) and found.decision is not None:
                return found.decision
            if not found:
                return FORGOTTEN
        try:
            _, stored = await self._store.resolve(request_id, TIME_IS_OVER, by_asker=True)
        except RedisUnavailable:
            return TIME_IS_OVER
        return stored.decision if stored is not None and stored.decision is not None else TIME_IS_OVER

    async def _withdraw(self, asking: asyncio.Future[bool], request_id: str, decision: Decision) -> None:
        await asyncio.wait((asking,))  # run after the withdrawal, it would leave the request behind
        if not asking.cancelled():
            asking.exception()
        with suppress(RedisUnavailable):  # then its lease ends
            await self._store.resolve(request_id, decision, by_asker=True)

    def _in_background(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        task = asyncio.ensure_future(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def pending(self, *, key_id: str | None) -> list[PermissionRequest]:
        """The requests that wait for an answer, the oldest first.

        Args:
            key_id: Whose; None: everybody's.

        Raises:
            RedisUnavailable: Redis cannot be asked.
        """
        stored = await self._store.read(await self._store.pending())
        requests = [one.request for one in stored.values() if one.decision is None and one.visible_to(key_id)]
        return sorted(requests, key=lambda request: (request.created_at, request.id))

    async def get(self, request_id: str, *, key_id: str | None) -> PermissionRequest | Resolved | None:
        """A request while it is pending, and for ten minutes with its answer; None: not known, or another key's.

        Raises:
            RedisUnavailable: Redis cannot be asked.
        """
        await self._store.pending()  # one whose lease has ended is pending no longer
        stored = (await self._store.read([request_id])).get(request_id)
        if stored is None or not stored.visible_to(key_id):
            return None
        return stored.resolved() or stored.request

    async def respond(self, request_id: str, decision: Decision, *, key_id: str | None) -> Outcome | None:
        """Answers a request; of several answers the first stands. None: not known, or another key's.

        Raises:
            RedisUnavailable: Redis cannot be asked; the answer may or may not have been taken.
            ValueError: `updated_input` is no JSON.
        """
        if decision.updated_input is not None:
            line = msgspec.Raw(one_line(bytes(decision.updated_input)))
            decision = msgspec.structs.replace(decision, updated_input=line)
        found = await self.get(request_id, key_id=key_id)
        if not isinstance(found, PermissionRequest):
            return None if found is None else Outcome(False, found)
        now, stored = await self._store.resolve(request_id, decision)
        resolved = stored and stored.resolved()
        return Outcome(now, resolved) if resolved else None

    async def audit(self, limit: int) -> list[AuditEntry]:
        """The last `limit` lines of the audit, the newest first. Raises RedisUnavailable."""
        await self._store.pending()  # what a killed worker asked is resolved by looking
        return await self._store.audit(limit)

    @asynccontextmanager
    async def watch(self, *, key_id: str | None) -> AsyncIterator[Watch]:
        """Watches the requests of a key; None: everybody's."""
        async with self._notices.listening() as wake:
            yield Watch(self._store, wake, key_id=key_id, poll_seconds=self._poll_seconds)


def _denied(asker: Asker, decision: Decision) -> Decision:
    log_resolved(asker, decision)
    return decision


class Watch:
    """What one watcher has seen, and so what is new to it; from `Permissions.watch`."""

    def __init__(self, store: Store, wake: asyncio.Event, *, key_id: str | None, poll_seconds: float) -> None:
        self._store = store
        self._wake = wake
        self._key_id = key_id
        self._poll_seconds = poll_seconds
        # Pending requests; None for another key's.
        self._seen: dict[str, PermissionRequest | None] = {}
        self._looked = False

    async def changes(self, seconds: float) -> list[Change]:
        """What has changed since the last call, the oldest first; at first, all that is pending.

        Waits up to `seconds` for a change, through outages of Redis; empty: there was none.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + seconds
        while True:
            if self._wake.is_set() or not self._looked:
                self._wake.clear()
                with suppress(RedisUnavailable):
                    if changes := await self._look():
                        return changes
            left = give_up_at - loop.time()
            if left <= 0:
                return []
            try:
                async with asyncio.timeout(min(left, self._poll_seconds)):
                    await self._wake.wait()
            except TimeoutError:
                self._looked = False

    async def _look(self) -> list[Change]:
        pending = await self._store.pending()
        self._looked = True
        came = [request_id for request_id in pending if request_id not in self._seen]
        went = list(self._seen.keys() - set(pending))
        if not came and not went:
            return []
        # Those of other keys went without interest to this watcher.
        stored = await self._store.read([*came, *(request_id for request_id in went if self._seen[request_id])])
        changes: list[Change] = []
        for request_id in went:
            request, found = self._seen.pop(request_id), stored.get(request_id)
            if request is not None:
                changes.append(Resolved(request, (found and found.decision) or FORGOTTEN))
        asked = []
        for request_id in came:
            found = stored.get(request_id)
            if found is not None and found.decision is None:
                self._seen[request_id] = found.request if found.visible_to(self._key_id) else None
                if found.visible_to(self._key_id):
                    asked.append(found.request)
        return changes + sorted(asked, key=lambda request: (request.created_at, request.id))
