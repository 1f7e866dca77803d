"""Renews sign-ins: each refresh token is spent once in the whole fleet, and nobody's newer token is ever lost."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

import structlog

from patchbay.codex.login import Login, NotKept, Place, PlaceBusy, SignInMissing
from patchbay.codex.oauth import REQUEST_SECONDS, Issuer, IssuerError, RefreshReason, SignInRefused
from patchbay.state.codex_renewals import Busy, CodexRenewals, Done, Failed, Got, Later, Outcome
from patchbay.state.connection import RedisUnavailable
from patchbay.telemetry import metrics

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.1
# Longer than the issuer is waited for: whoever has the claim may be waiting for it.
_WAIT_SECONDS = 2 * REQUEST_SECONDS
_LOCK_SECONDS = 5.0
_ALONE_RETRY_SECONDS = 5.0
_KEEP_SECONDS = 0.3
_MOST_SUCCESSORS = 100

SIGN_IN = "sign in with `patchbay auth login codex`"


class RenewalFailed(Exception):
    """It did not work this time.

    Args:
        retry_after: Seconds after which to try again.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Renewer:
    """Renews the sign-ins of one backend.

    A renewal that has begun is not given up when its caller goes: a token may have been spent.

    Args:
        renewals: Who renews what, in the whole fleet.
        issuer: Gives the tokens.
        backend: The backend's name, for metrics.
        claimant: This replica's id.
    """

    def __init__(self, renewals: CodexRenewals, issuer: Issuer, *, backend: str, claimant: str) -> None:
        self._renewals = renewals
        self._issuer = issuer
        self._backend = backend
        self._claimant = claimant
        self._running: dict[tuple[str, str], asyncio.Task[Login]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # What became of what was spent here, by its fingerprint: Redis may be away, or lose it.
        self._successors: OrderedDict[str, Login] = OrderedDict()
        # What came of asking the issuer without Redis, and until when that holds on the loop's clock.
        self._alone: dict[str, tuple[float, RenewalFailed | SignInMissing]] = {}
        self._closing = False

    def start(self, place: Place, spent: Login, reason: RefreshReason) -> asyncio.Task[Login]:
        """The renewal of `spent`, which is kept at `place`: one at a time, however many ask for it.

        Its result is a sign-in that is not `spent`: ours, or another process's. It raises SignInMissing when only a new
        sign-in helps, and RenewalFailed. Wait for it, but do not cancel it.
        """
        key = (place.name, spent.fingerprint)
        task = self._running.get(key)
        if task is None:
            work = self._renew(place, spent, reason)
            task = self._running[key] = asyncio.get_running_loop().create_task(work, name="codex-renewal")
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    async def renew(self, place: Place, spent: Login, reason: RefreshReason) -> Login:
        """Waits for `start`; whoever waits may be cancelled. Raises SignInMissing and RenewalFailed."""
        return await asyncio.shield(self.start(place, spent, reason))

    async def aclose(self) -> None:
        """Lets the renewals end that have begun."""
        self._closing = True
        tasks: list[asyncio.Task[Login] | asyncio.Task[None]] = [*self._running.values(), *self._tasks]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=REQUEST_SECONDS + _LOCK_SECONDS)
            for task in late:
                task.cancel()

    def _ended(self, key: tuple[str, str], task: asyncio.Task[Login]) -> None:
        del self._running[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            expected = isinstance(error, (SignInMissing, RenewalFailed))
            log.warning("codex_renewal_failed", account=key[0], error=str(error), exc_info=None if expected else error)

    async def _renew(self, place: Place, spent: Login, reason: RefreshReason) -> Login:
        claimant = f"{self._claimant}.{secrets.token_hex(4)}"
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _WAIT_SECONDS
        while True:
            try:
                there = await place.load()
                if there.fingerprint != spent.fingerprint:
                    self._count("adopted")
                    return there
                if (successor := self._successors.get(spent.fingerprint)) is not None:
                    return await self._adopt(place, spent, successor)
                outcome = await self._renewals.claim(spent, claimant)
                if isinstance(outcome, Got):
                    got = await self._spend(place, spent, reason, claimant=claimant)
                    if isinstance(got, Login):
                        return got
                    outcome = got
            except RedisUnavailable as error:
                if place.is_file:
                    return await self._renew_alone(place, spent, reason)
                message = f"the token of `{place.name}` cannot be renewed while Redis is away ({error})"
                raise RenewalFailed(message, 2.0) from error
            match outcome:
                case Done(login):
                    return await self._adopt(place, spent, login)
                case Failed(why):
                    self._count("failed")
                    raise SignInMissing(_ended_words(place, why))
                case Later(seconds):
                    self._count("later")
                    raise RenewalFailed(f"the token of `{place.name}` cannot be renewed now", seconds)
                case Busy(seconds):
                    if self._closing or loop.time() >= give_up_at:
                        raise RenewalFailed(f"the token of `{place.name}` is being renewed elsewhere", seconds)
                    await asyncio.sleep(min(seconds, _POLL_SECONDS))

    async def _spend(self, place: Place, spent: Login, reason: RefreshReason, *, claimant: str) -> Login | Outcome:
        """Spends the token that we have the claim of: what came of it, or why it did not.

        Raises:
            RedisUnavailable: Nothing was spent, or it was refused.
        """
        try:
            # For a file its lock is a claim of its own, beside processes that Redis is away for.
            async with self._holding(spent, claimant), place.exclusive(_LOCK_SECONDS):
                there = await place.load()
                if there.fingerprint == spent.fingerprint:
                    login = await self._issuer.refresh(spent, reason)
                    self._count("renewed")
                    log.info("codex_renewed", account=place.name, backend=self._backend, reason=reason)
                    return await self._keep(place, spent, login, claimant=claimant)
            return await self._found(spent, there, claimant)
        except SignInRefused as error:
            there = await place.load()
            if there.fingerprint != spent.fingerprint:
                # Whoever was refused must not take down what another one got.
                return await self._found(spent, there, claimant)
            return await self._renewals.failed(spent, claimant, str(error))
        except (IssuerError, PlaceBusy, NotKept) as error:
            log.warning("codex_renewal_later", account=place.name, backend=self._backend, error=str(error))
            return await self._renewals.later(spent, claimant)

    @asynccontextmanager
    async def _holding(self, spent: Login, claimant: str) -> AsyncIterator[None]:
        """Keeps the claim while the block runs: a killed replica's ends soon, a slow issuer's does not."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(self._renewals.claim_seconds / 3)
                try:
                    await self._renewals.claim(spent, claimant)
                except RedisUnavailable as error:
                    log.debug("codex_claim_not_kept", error=str(error))

        task = asyncio.create_task(keep(), name="codex-claim")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))

    async def _found(self, spent: Login, there: Login, claimant: str) -> Outcome:
        """What is kept is another one by now: a successor for all copies, unless it is somebody else's."""
        if there.account != spent.account:
            await self._renewals.later(spent, claimant)
            return Done(there)
        return Done(await self._renewals.done(spent, claimant, there))

    async def _keep(self, place: Place, spent: Login, login: Login, *, claimant: str) -> Login:
        """Keeps a new sign-in before it is used: for all copies of the spent one, and at its place."""
        noted = kept = False
        self._successors[spent.fingerprint] = login
        if len(self._successors) > _MOST_SUCCESSORS:
            self._successors.popitem(last=False)
        try:
            login = self._successors[spent.fingerprint] = await self._renewals.done(spent, claimant, login)
            noted = True
        except RedisUnavailable as error:
            log.error("codex_renewal_not_noted", account=place.name, error=str(error))
        try:
            login = await place.save(login, replacing=spent.fingerprint)
            kept = True
        except RedisUnavailable as error:
            log.error("codex_renewal_not_kept", account=place.name, error=str(error))
        except NotKept as error:
            # The fleet's note of it has it, and so do we.
            log.error("codex_renewal_not_kept", account=place.name, error=str(error))
            kept = True
        if not (noted and kept):
            self._run(self._keep_trying(place, spent, login, claimant=claimant, kept=kept))
        return login

    async def _keep_trying(self, place: Place, spent: Login, login: Login, *, claimant: str, kept: bool) -> None:
        """The spent token is good for nothing: this one must not be lost while Redis is away."""
        while not (kept and self._closing):
            try:
                login = await self._renewals.done(spent, claimant, login)
                if not kept:
                    async with place.exclusive(_LOCK_SECONDS):
                        await place.save(login, replacing=spent.fingerprint)
            except (RedisUnavailable, PlaceBusy):
                await asyncio.sleep(_KEEP_SECONDS)
            except (SignInMissing, NotKept) as error:
                log.warning("codex_renewal_not_kept", account=place.name, error=str(error))
                return
            else:
                return

    async def _adopt(self, place: Place, spent: Login, login: Login) -> Login:
        try:
            async with place.exclusive(_LOCK_SECONDS):
                there = await place.save(login, replacing=spent.fingerprint)
        except (PlaceBusy, NotKept, RedisUnavailable) as error:
            log.warning("codex_renewal_not_kept", account=place.name, error=str(error))
            return login
        self._count("adopted")
        return there

    async def _renew_alone(self, place: Place, spent: Login, reason: RefreshReason) -> Login:
        """Without Redis: the lock of a file is as good, as far as the file is shared."""
        now = asyncio.get_running_loop().time()
        until, error = self._alone.get(spent.fingerprint, (0.0, None))
        if error is not None and now < until:
            raise error
        try:
            async with place.exclusive(REQUEST_SECONDS + _LOCK_SECONDS):
                there = await place.load()
                if there.fingerprint != spent.fingerprint:
                    self._count("adopted")
                    return there
                login = await self._issuer.refresh(spent, reason)
                self._count("renewed")
                log.info("codex_renewed", account=place.name, backend=self._backend, reason=reason, redis="away")
                return await self._keep(place, spent, login, claimant=self._claimant)
        except SignInRefused as refused:
            self._count("failed")
            failure: RenewalFailed | SignInMissing = SignInMissing(_ended_words(place, str(refused)))
        except (IssuerError, PlaceBusy, NotKept) as trouble:
            self._count("later")
            message = f"the token of `{place.name}` cannot be renewed now: {trouble}"
            failure = RenewalFailed(message, _ALONE_RETRY_SECONDS)
        self._alone = {known: said for known, said in self._alone.items() if said[0] > now}
        self._alone[spent.fingerprint] = (now + _ALONE_RETRY_SECONDS, failure)
        raise failure

    def _count(self, outcome: str) -> None:
        metrics.CODEX_RENEWALS.labels(self._backend, outcome).inc()

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="codex-keep")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _ended_words(place: Place, why: str) -> str:
    return f"the sign-in of `{place.name}` has ended ({why}): {SIGN_IN}"
