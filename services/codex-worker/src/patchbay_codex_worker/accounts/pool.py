"""The accounts of a backend, and which of them answers a request."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

import msgspec
import structlog

from patchbay.canonical import Error
from patchbay.codex.auth_file import AuthFile
from patchbay.codex.login import Login, Place, SignInMissing
from patchbay.dialects.openai_responses import DIALECT as RESPONSES
from patchbay.errors import AUTHENTICATION, QUOTA_EXCEEDED, UNAVAILABLE, PatchbayError, make_error
from patchbay.settings import Backend, is_account_name
from patchbay.state.codex_accounts import NO_SECRETS_KEY, CodexAccounts
from patchbay.state.codex_limits import CodexLimits, Cooling, Quota
from patchbay.state.connection import RedisUnavailable
from patchbay.telemetry import metrics
from patchbay_codex_worker.accounts import quota as quotas
from patchbay_codex_worker.accounts.member import Member
from patchbay_codex_worker.accounts.quota import Usage
from patchbay_codex_worker.accounts.renewal import SIGN_IN, Renewer
from patchbay_codex_worker.accounts.routing import OVERRIDE_HEADER, Routing
from patchbay_proto.v1.provider_pb2 import AccountStatus

log = structlog.get_logger(__name__)

_USAGE_LIMIT = "usage_limit_reached"

# How old may be what we know of the limits when we choose, and how old what accounts there are.
_LIMITS_SECONDS = 1.0
_MEMBERS_SECONDS = 5.0
# How old what the provider says when it is asked.
_ASK_SECONDS = 600.0
_WATCH_SECONDS = 1.0
_MOST_SESSIONS = 10_000

AskUsage = Callable[[Mapping[str, str]], Awaitable[Usage | None]]
AskRouting = Callable[[Mapping[str, str]], Awaitable[Routing | None]]


class AccountPool:
    """The accounts of one backend.

    Args:
        backend: Of kind `codex`.
        store: Our own store of sign-ins; None: there is no key to seal them with.
        limits: What all replicas know of limits.
        renewer: Renews sign-ins.
        usage: Asks the provider how much is used, with an account's headers.
        routing: Asks it where the account's requests have to go.
        clock: Gives Unix seconds.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        store: CodexAccounts | None,
        limits: CodexLimits,
        renewer: Renewer,
        usage: AskUsage,
        routing: AskRouting,
        clock: Callable[[], float] = time.time,
    ) -> None:
        assert backend.codex is not None
        self.name = backend.name
        self._config = backend.codex
        self._store = store
        self._limits = limits
        self._renewer = renewer
        self._usage = usage
        self._routing = routing
        self._clock = clock
        self._members: dict[str, Member] = {}
        self._trouble = ""
        self._loaded_at = self._read_at = -1e9
        self._loading = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._sessions: OrderedDict[str, str] = OrderedDict()
        self._unsaid: dict[str, Quota] = {}
        # The labels that gauges have.
        self._shown: set[tuple[str, str]] = set()
        self._watching: asyncio.Task[None] | None = None

    # -- what goes on beside the requests ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Finds the accounts, and keeps an eye on them until `aclose`."""
        await self.reload()
        self._watching = asyncio.create_task(self._watch(), name=f"codex-accounts-{self.name}")

    async def aclose(self) -> None:
        """Lets renewals end that have begun."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))
        await self._renewer.aclose()

    async def _watch(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                # Requests go on with what is known.
                log.exception("codex_accounts_watch", backend=self.name)
            await asyncio.sleep(_WATCH_SECONDS)

    async def look(self) -> None:
        """One look: what is new is noted for others, what others noted is taken, and the provider is asked if due."""
        if self._clock() - self._loaded_at >= _MEMBERS_SECONDS:
            await self.reload()
        unsaid, self._unsaid = self._unsaid, {}
        if unsaid:
            try:
                await self._limits.note_quotas(unsaid)
            except RedisUnavailable:
                self._unsaid = {**unsaid, **self._unsaid}
        await self._read_limits()
        for member in list(self._members.values()):
            await (self._ask(member) if member.usable else member.look_again())
        await self._share()
        self._gauge()

    async def _share(self) -> None:
        """Every copy of a sign-in that was renewed gets the new one soon: a Codex CLI may live from one of them."""
        members = list(self._members.values())
        for member in members:
            known = member.login.fingerprint if member.login is not None and member.usable else ""
            if any(known in other.past for other in members if other is not member):
                await member.catch_up()

    async def _ask(self, member: Member) -> None:
        """Asks the provider what it says of an account, as far as that is due."""
        now = self._clock()
        seen_at = member.quota.seen_at if member.quota is not None and not member.cooling_until else 0.0
        wants_usage = now - max(member.usage_asked_at, seen_at) >= _ASK_SECONDS
        # Answers tell how much is used, and what others noted; this only the provider, when it is asked.
        wants_routing = now - member.routing_asked_at >= _ASK_SECONDS
        if not wants_usage and not wants_routing:
            return
        if wants_usage:
            member.usage_asked_at = now
        if wants_routing:
            member.routing_asked_at = now
        try:
            headers = headers_of(await member.current())
        except PatchbayError as error:
            log.warning("codex_account_not_asked", account=member.name, error=error.error.message)
            return
        if wants_usage and (usage := await self._usage(headers)) is not None:
            self._note(member, usage.quota)
            if usage.cooling is not None or member.cooling is not None:
                await self._cool(member, usage.cooling)
        if wants_routing and (routing := await self._routing(headers)) is not None and routing != member.routing:
            member.routing = routing
            said = {"override": routing.override, "origin": routing.origin}
            log.info("codex_account_routed", backend=self.name, account=member.name, **said)
            if routing.refused:
                log.warning("codex_origin_refused", backend=self.name, account=member.name, origin=routing.refused)

    async def reload(self) -> None:
        """Finds the accounts anew; while Redis is away those of the store stay as they were."""
        async with self._loading:
            self._loaded_at = self._clock()
            self._trouble = ""
            found = await self._find()
            for name, (place, login) in found.items():
                member = self._members.get(name) or Member(place, self._renewer, clock=self._clock)
                self._members[name] = member
                if login is not None:
                    member.take(login)
                else:
                    await member.load()
            self._members = {name: self._members[name] for name in found}

    async def _find(self) -> dict[str, tuple[Place, Login | None]]:
        """The accounts to use, each with its sign-in where that was read on the way."""
        found: dict[str, tuple[Place, Login | None]] = {}
        for account in self._config.accounts:
            if not is_account_name(account):
                found[account] = (AuthFile(Path(account)), None)
            elif self._store is not None:
                found[account] = (self._store.place(account), None)
            else:
                self._trouble = f"accounts: {NO_SECRETS_KEY}"
        if self._config.accounts:
            return found
        if self._store is not None:
            try:
                for name, login in (await self._store.all()).items():
                    found[name] = (self._store.place(name), login)
            except RedisUnavailable as error:
                found = {name: (one.place, one.login) for name, one in self._members.items() if not one.place.is_file}
                self._trouble = f"the sign-ins are kept in Redis, which is away ({error})"
        file = AuthFile(self._config.auth_file)
        try:
            found[file.name] = (file, await file.load())
        except SignInMissing as error:
            if not found and file.path.exists():
                self._trouble = self._trouble or str(error)
        return found

    async def _read_limits(self) -> None:
        async with self._reading:
            if self._clock() - self._read_at < _LIMITS_SECONDS:
                return
            self._read_at = self._clock()
            try:
                known = await self._limits.read()
            except RedisUnavailable:
                return  # the last known
        for member in self._members.values():
            other = known.quotas.get(member.key)
            if other is not None and (member.quota is None or other.seen_at > member.quota.seen_at):
                member.quota = other
            member.cooling = known.cooling.get(member.key)

    def _gauge(self) -> None:
        shown = {(self.name, name) for name in self._members}
        for labels in self._shown - shown:
            for gauge in (metrics.CODEX_SIGNED_IN, metrics.CODEX_COOLING):
                gauge.remove(*labels)
            for name in quotas.WINDOWS:
                metrics.CODEX_USED_PERCENT.remove(*labels, name)
        self._shown = shown
        for member in self._members.values():
            labels = (self.name, member.name)
            metrics.CODEX_SIGNED_IN.labels(*labels).set(member.usable)
            metrics.CODEX_COOLING.labels(*labels).set(max(0.0, member.cooling_until - self._clock()))
            for window in member.quota.windows if member.quota is not None else ():
                metrics.CODEX_USED_PERCENT.labels(*labels, window.name).set(window.used_percent)

    # -- for the status ------------------------------------------------------------------------------------------------

    @property
    def signed_in(self) -> bool:
        """Whether some account can be used."""
        return any(member.usable for member in self._members.values())

    @property
    def detail(self) -> str:
        """What is missing and how to mend it, for everybody to read, so that it names no account; empty: nothing."""
        words = [self._trouble] if self._trouble else []
        if troubled := sum(1 for member in self._members.values() if not member.usable):
            words.append(f"{troubled} of {len(self._members)} accounts cannot be used: {SIGN_IN}")
        return "; ".join(words) or ("" if self.signed_in else f"not signed in: {SIGN_IN}")

    def statuses(self) -> list[AccountStatus]:
        return [member.status() for member in self._members.values()]

    def places(self) -> list[Place]:
        """Where the sign-ins are kept."""
        return [member.place for member in self._members.values()]

    # -- for requests --------------------------------------------------------------------------------------------------

    async def pick(self, session: str, exclude: Collection[str] = ()) -> Account:
        """The account for a request.

        Args:
            session: The conversation, whose account it stays with while that one can answer; empty: none.
            exclude: Names of accounts that this request has tried.

        Raises:
            PatchbayError: QUOTA_EXCEEDED, with the earliest reset, when all are at their limit; AUTHENTICATION when
                nobody is signed in; UNAVAILABLE when there is no other one.
        """
        if not self.signed_in and self._clock() - self._loaded_at >= _LIMITS_SECONDS:
            # Somebody may have signed in a moment ago.
            await self.reload()
        await self._read_limits()
        members = self._distinct()
        free = [member for member in members if member.name not in exclude and not member.cooling_until]
        if not free:
            raise PatchbayError(self._nobody(members))
        chosen = None
        if session:
            wanted = await self._account_of(session)
            chosen = next((member for member in free if member.key == wanted), None)
        if chosen is None:
            chosen = _next(free)
            if session:
                await self._note_session(session, chosen.key)
        return Account(self, chosen)

    def _distinct(self) -> list[Member]:
        """The usable ones; of several sign-ins of one ChatGPT account the first."""
        by_key: dict[str, Member] = {}
        for member in self._members.values():
            if member.usable:
                by_key.setdefault(member.key, member)
        return list(by_key.values())

    def _nobody(self, members: list[Member]) -> Error:
        if not members:
            return make_error(AUTHENTICATION, f"the backend `{self.name}` is not ready: {self.detail}")
        resets = [member.cooling_until for member in members if member.cooling_until]
        if not resets:
            return make_error(UNAVAILABLE, f"the backend `{self.name}` has no other account to try", retryable=False)
        which = "its account is" if len(members) == 1 else f"all of its {len(members)} accounts are"
        return _at_its_limit(
            f"the backend `{self.name}` cannot answer now: {which} at the usage limit",
            reset=min(resets),
            seconds=max(1.0, min(resets) - self._clock()),
        )

    async def _account_of(self, session: str) -> str:
        try:
            return await self._limits.session_account(self.name, session)
        except RedisUnavailable:
            return self._sessions.get(session, "")

    async def _note_session(self, session: str, key: str) -> None:
        self._sessions[session] = key
        if len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        try:
            await self._limits.note_session(self.name, session, key)
        except RedisUnavailable as error:
            log.debug("codex_session_not_noted", backend=self.name, error=str(error))

    def _note(self, member: Member, quota: Quota) -> None:
        member.quota = quota
        self._unsaid[member.key] = quota

    async def _cool(self, member: Member, cooling: Cooling | None) -> None:
        if cooling is not None:
            log.warning("codex_account_cools", backend=self.name, account=member.name, until=cooling.until)
        for one in self._members.values():
            if one.key == member.key:
                one.cooling = cooling
        try:
            await self._limits.cool(member.key, cooling)
        except RedisUnavailable as error:
            log.warning("codex_cooling_not_noted", account=member.name, error=str(error))


class Account:
    """An account, as one request uses it: what the provider's answers say of it is to be told here."""

    def __init__(self, pool: AccountPool, member: Member) -> None:
        self.name = member.name
        self._pool = pool
        self._member = member
        self._used: Login | None = None
        self._refusals = 0

    async def headers(self) -> dict[str, str]:
        """What authenticates a request, with a token that is renewed when that is due.

        Raises:
            PatchbayError: AUTHENTICATION when only signing in helps, UNAVAILABLE when it cannot be renewed now.
        """
        self._used = await self._member.current()
        override = self._member.routing.override
        return headers_of(self._used) | ({OVERRIDE_HEADER: override} if override else {})

    @property
    def origin(self) -> str:
        """Where its requests go; empty: to the backend's own origin."""
        return self._member.routing.origin

    def saw(self, headers: Mapping[str, str]) -> None:
        """The headers of an answer, names in lower case."""
        told = quotas.from_headers(headers, self._member.quota, self._pool._clock())
        if told is not None:
            self._pool._note(self._member, told)

    async def limited(self, error: Error) -> None:
        """The account is at its limit, until the error's `retry_after` has passed, or else its window has."""
        now = self._pool._clock()
        known = quotas.cooled_until(self._member.quota, now)
        until = quotas.sound(now + error.retry_after) if error.HasField("retry_after") else None
        await self._pool._cool(self._member, Cooling(until or known, error.upstream_code or "usage_limit_reached"))

    async def unauthorized(self) -> bool:
        """The provider has refused the token; whether it is worth asking again, with new `headers`.

        Raises:
            PatchbayError: AUTHENTICATION when only signing in helps, UNAVAILABLE when it cannot be renewed now.
        """
        assert self._used is not None
        self._refusals += 1
        # What is refused again, with another token, is not helped by a third one.
        return self._refusals == 1 and await self._member.refused(self._used)


def headers_of(login: Login) -> dict[str, str]:
    headers = {"authorization": f"Bearer {login.access_token}"}
    if login.account:
        headers["chatgpt-account-id"] = login.account
    return headers


def _next(members: list[Member]) -> Member:
    """Smooth weighted round robin: https://github.com/nginx/nginx/commit/52327e0627f49dbda1e8db695e63a4b0af4448b1"""
    weights = [member.weight for member in members]
    if not any(weights):
        # What the windows say is all used may still be let through: the provider decides.
        weights = [1.0] * len(members)
    # In shares of a request, so that what is owed from before counts alike whatever the weights were then.
    for member, weight in zip(members, weights, strict=True):
        member.turn += weight / sum(weights)
    chosen = max(zip(members, weights, strict=True), key=lambda pair: (pair[1] > 0, pair[0].turn))[0]
    chosen.turn -= 1
    return chosen


def _at_its_limit(message: str, *, reset: float, seconds: float) -> Error:
    """The error of accounts at their limit, which the Codex CLI knows by its type: it says when, and asks no more."""
    error = make_error(QUOTA_EXCEEDED, message, retry_after=seconds, upstream_code=_USAGE_LIMIT)
    said: dict[str, object] = {"type": _USAGE_LIMIT, "code": _USAGE_LIMIT, "message": message, "param": None}
    said |= {"resets_at": math.ceil(reset), "resets_in_seconds": math.ceil(seconds)}
    error.native_body, error.native_dialect = msgspec.json.encode({"error": said}), RESPONSES.name
    return error
