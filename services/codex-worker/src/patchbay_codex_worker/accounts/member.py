"""One account of a backend, as all of its requests share it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from patchbay.codex.login import Login, Place, SignInMissing
from patchbay.codex.oauth import RefreshReason
from patchbay.errors import AUTHENTICATION, UNAVAILABLE, PatchbayError, make_error
from patchbay.state.codex_limits import Cooling, Quota
from patchbay.state.connection import RedisUnavailable
from patchbay_codex_worker.accounts.renewal import SIGN_IN, RenewalFailed, Renewer
from patchbay_codex_worker.accounts.routing import Routing
from patchbay_proto.v1.provider_pb2 import AccountStatus, QuotaWindow

log = structlog.get_logger(__name__)

_PAST = 8
# A token that is still good is used when its renewal takes longer.
_PATIENCE_SECONDS = 3.0
# An account whose tokens are refused whatever they are must not have them renewed with each request: so many renewals
# at once, and one more each so many seconds.
_MOST_RECOVERIES = 4.0
_RECOVERY_SECONDS = 30.0
# An early renewal that failed is not tried again before, and a sign-in that has ended not asked for again.
_EARLY_SECONDS = 5.0
_AGAIN_SECONDS = 300.0
# A token that was got so recently is used, whatever this machine's clock says of its end.
_FRESH_SECONDS = 60.0


class Member:
    """An account: its sign-in as last seen, and what is known of its limits.

    Args:
        place: Where its sign-in is kept.
        renewer: Renews it.
        clock: Gives Unix seconds.
    """

    def __init__(self, place: Place, renewer: Renewer, *, clock: Callable[[], float]) -> None:
        self.place = place
        self.name = place.name
        self.login: Login | None = None
        # Why it cannot be used; empty: it can.
        self.trouble = ""
        # The fingerprints of what was renewed.
        self.past: deque[str] = deque(maxlen=_PAST)
        self.quota: Quota | None = None
        self.cooling: Cooling | None = None
        self.routing = Routing()
        # When the provider was last asked how much is used, and where requests have to go.
        self.usage_asked_at = self.routing_asked_at = 0.0
        # For the choice among all: see `AccountPool`.
        self.turn = 0.0
        self._renewer = renewer
        self._clock = clock
        # The ChatGPT account that all of this is known of.
        self._account = ""
        # The sign-in whose renewal requests have waited for, and until when they do, on the loop's clock.
        self._waited_for = ""
        self._wait_until = 0.0
        # When an early renewal may be tried next, on the loop's clock.
        self._early_at = 0.0
        # When to ask again for a sign-in that has ended.
        self._again_at = 0.0
        # The sign-in that was last renewed because it was refused, and how many more may be.
        self._recovered = ""
        self._recoveries = _MOST_RECOVERIES
        self._counted_at = clock()

    @property
    def key(self) -> str:
        """What its limits are known by: the ChatGPT account, whatever it is called here."""
        return (self.login.account if self.login is not None else "") or f"name {self.name}"

    @property
    def usable(self) -> bool:
        return self.login is not None and not self.trouble

    @property
    def cooling_until(self) -> float:
        """When it may go on; 0: it may."""
        until = self.cooling.until if self.cooling is not None else 0.0
        return until if until > self._clock() else 0.0

    @property
    def weight(self) -> float:
        """How large its share of the requests should be."""
        return 100.0 if self.quota is None else self.quota.remaining(self._clock())

    def take(self, login: Login) -> None:
        """Notes its sign-in; another one than before is given a chance."""
        if login.account != self._account:
            # Somebody else signed in here: what is known is of the one before.
            self._account, self.quota, self.cooling, self.routing = login.account, None, None, Routing()
            self.usage_asked_at = self.routing_asked_at = 0.0
        if self.login is None or self.login.fingerprint != login.fingerprint:
            if self.login is not None:
                self.past.append(self.login.fingerprint)
            self.login, self.trouble = login, ""

    async def load(self) -> None:
        """Reads its sign-in where it is kept. While that cannot be asked, the last one is used."""
        try:
            self.take(await self.place.load())
        except SignInMissing as error:
            self.login, self.trouble = None, f"{error}: {SIGN_IN}"
        except RedisUnavailable as error:
            if self.login is None:
                self.trouble = f"the sign-in of `{self.name}` is kept in Redis, which is away ({error})"

    async def catch_up(self) -> None:
        """Takes what its sign-in has become elsewhere, where another copy of it was renewed."""
        try:
            await self._renewed(self._signed_in(), "proactive_expiry")
        except PatchbayError as error:
            log.warning("codex_copy_not_renewed", account=self.name, error=error.error.message)

    async def look_again(self) -> None:
        """Asks again, now and then, whether a sign-in has ended: who renewed it may have been slow to say so.

        The issuer itself is only asked where nothing is known any more of its refusal; see `CodexRenewals`.
        """
        if self.login is None or not self.trouble or self._clock() < self._again_at:
            return
        self._again_at = self._clock() + _AGAIN_SECONDS
        try:
            self.take(await self._renewer.renew(self.place, self.login, "proactive_expiry"))
        except (SignInMissing, RenewalFailed) as error:
            log.debug("codex_still_ended", account=self.name, error=str(error))

    async def current(self) -> Login:
        """Its sign-in, renewed when that is due.

        Raises:
            PatchbayError: AUTHENTICATION when only signing in helps, UNAVAILABLE when it cannot be renewed now.
        """
        login = self._signed_in()
        if not login.is_due(self._clock()) or 0 <= self._clock() - login.last_refresh < _FRESH_SECONDS:
            return login
        if login.expires_at <= self._clock():
            return await self._renewed(login, "proactive_expiry")
        # It is good for some minutes: whatever goes wrong now is no reason to fail, nor to wait for long.
        now = asyncio.get_running_loop().time()
        if now < self._early_at:
            return login
        task = self._renewer.start(self.place, login, "proactive_expiry")
        if self._waited_for != login.fingerprint:
            self._waited_for, self._wait_until = login.fingerprint, now + _PATIENCE_SECONDS
        await asyncio.wait((task,), timeout=max(0.0, self._wait_until - now))
        if task.done() and not task.cancelled():
            if task.exception() is None:
                self.take(task.result())
            else:
                self._early_at = asyncio.get_running_loop().time() + _EARLY_SECONDS
        return self._signed_in()

    async def refused(self, used: Login) -> bool:
        """The provider has refused the token of `used`; whether there is another one by now.

        Raises:
            PatchbayError: AUTHENTICATION when only signing in helps, UNAVAILABLE when it cannot be renewed now.
        """
        login = self._signed_in()
        if login.fingerprint == used.fingerprint:
            await self.load()
            login = self._signed_in()
        if login.fingerprint != used.fingerprint:
            return True
        if self._recovered != used.fingerprint:
            if not self._may_recover():
                return False
            self._recovered = used.fingerprint
        await self._renewed(used, "unauthorized_recovery")
        return True

    def _may_recover(self) -> bool:
        now = self._clock()
        earned = max(0.0, now - self._counted_at) / _RECOVERY_SECONDS
        self._recoveries, self._counted_at = min(_MOST_RECOVERIES, self._recoveries + earned), now
        if self._recoveries < 1:
            return False
        self._recoveries -= 1
        return True

    async def _renewed(self, login: Login, reason: RefreshReason) -> Login:
        try:
            self.take(await self._renewer.renew(self.place, login, reason))
        except SignInMissing as error:
            self.trouble, self._again_at = str(error), self._clock() + _AGAIN_SECONDS
        except RenewalFailed as error:
            message = "the token of this backend's ChatGPT account cannot be renewed now"
            raise PatchbayError(make_error(UNAVAILABLE, message, retry_after=error.retry_after)) from error
        return self._signed_in()

    def _signed_in(self) -> Login:
        if self.login is None or self.trouble:
            # Its name may be a mail address, which is not for every client to see.
            message = f"the sign-in of this backend's ChatGPT account has ended: {SIGN_IN}"
            raise PatchbayError(make_error(AUTHENTICATION, message))
        return self.login

    def status(self) -> AccountStatus:
        """What to tell others of it."""
        plan = self.quota.plan if self.quota is not None else ""
        return AccountStatus(
            name=self.name,
            plan=plan or (self.login.plan if self.login is not None else ""),
            signed_in=self.usable,
            detail=self.trouble,
            windows=[
                QuotaWindow(
                    name=window.name,
                    used_percent=window.used_percent,
                    minutes=window.minutes,
                    resets_at=int(window.resets_at),
                )
                for window in (self.quota.windows if self.quota is not None else ())
            ],
            cooling_until=int(self.cooling_until),
        )
