"""The accounts, their sign-ins and what is left of their quotas."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import msgspec

from patchbay_standin.oauth.spec import Account, AccountReport, Quota, RefreshFault, Tokens
from patchbay_standin.oauth.tokens import access_claims, id_claims, write_jwt

# The client that Codex is: https://github.com/openai/codex
CODEX_CLIENT_ID: Final = "app_EMoamEEZ73f0CkXaXp7hrann"

TokenState: TypeAlias = Literal["live", "used", "revoked"]


class Window:
    """One rate-limit window as time goes by."""

    def __init__(self, quota: Quota) -> None:
        self.minutes = quota.window_minutes
        self.resets_at = time.time() + quota.window_minutes * 60 if quota.resets_at is None else quota.resets_at
        self._used = quota.used_percent

    @property
    def used_percent(self) -> float:
        """How much is used now."""
        while time.time() >= self.resets_at:
            self._used = 0
            self.resets_at += self.minutes * 60
        return self._used

    def use(self, percent: float) -> None:
        """Uses some more."""
        self._used = self.used_percent + percent


@dataclass(eq=False)
class Holder:
    """An account, and what happened to it."""

    name: str
    spec: Account
    primary: Window
    secondary: Window
    report: AccountReport
    fault: RefreshFault | None
    # How many more refreshes the fault is for; None: all.
    fault_times: int | None

    @property
    def account_id(self) -> str:
        return self.report.account_id

    @property
    def email(self) -> str:
        return self.report.email

    @property
    def user_id(self) -> str:
        return self.spec.user_id or f"user-{self.name}"

    @property
    def exhausted(self) -> Window | None:
        """The window that is used up, of several the one that is so longest."""
        full = [window for window in (self.primary, self.secondary) if window.used_percent >= 100]
        return max(full, key=lambda window: window.resets_at, default=None)

    def use_quota(self) -> None:
        """A request was answered."""
        self.report.requests += 1
        for window in (self.primary, self.secondary):
            window.use(self.spec.percent_per_request)

    def set_fault(self, fault: RefreshFault | None) -> None:
        """Says what happens to refreshes from now on."""
        self.fault, self.fault_times = fault, fault.times if fault is not None else None

    def next_fault(self) -> RefreshFault:
        """What happens to the refresh that has come in."""
        fault = self.fault
        if fault is None:
            return RefreshFault()
        if self.fault_times is not None:
            self.fault_times -= 1
            if not self.fault_times:
                self.fault = None
        return fault

    def shown(self) -> AccountReport:
        """The report as of now."""
        return msgspec.structs.replace(
            self.report,
            primary_used_percent=self.primary.used_percent,
            secondary_used_percent=self.secondary.used_percent,
        )


@dataclass(eq=False)
class RefreshToken:
    """One refresh token; good once."""

    holder: Holder
    client_id: str
    state: TokenState = "live"


@dataclass(eq=False)
class AccessToken:
    """One access token."""

    holder: Holder
    expires: float
    # Refused before its time.
    is_dead: bool = False


@dataclass(eq=False)
class Accounts:
    """All accounts, by name in the order they were made, and the tokens of their sign-ins."""

    holders: dict[str, Holder] = field(default_factory=dict)
    refresh_tokens: dict[str, RefreshToken] = field(default_factory=dict)
    access_tokens: dict[str, AccessToken] = field(default_factory=dict)
    id_tokens: dict[str, Holder] = field(default_factory=dict)

    def put(self, name: str, spec: Account) -> Holder:
        """Makes an account, or changes it."""
        holder = self.holders.get(name)
        email = spec.email or f"{name}@standin.example"
        account_id = spec.account_id or f"acc-{name}"
        if holder is None:
            report = AccountReport(name=name, email=email, account_id=account_id, plan=spec.plan)
            holder = Holder(name, spec, Window(spec.primary), Window(spec.secondary), report, None, None)
            self.holders[name] = holder
        else:
            holder.spec, holder.primary, holder.secondary = spec, Window(spec.primary), Window(spec.secondary)
            holder.report.email, holder.report.account_id, holder.report.plan = email, account_id, spec.plan
        holder.set_fault(spec.refresh)
        return holder

    def forget(self, name: str | None = None) -> None:
        """Forgets one account and its tokens, or all."""
        gone = {name} if name is not None else set(self.holders)
        self.holders = {key: holder for key, holder in self.holders.items() if key not in gone}
        self.refresh_tokens = {
            key: token for key, token in self.refresh_tokens.items() if token.holder.name not in gone
        }
        self.access_tokens = {key: token for key, token in self.access_tokens.items() if token.holder.name not in gone}
        self.id_tokens = {key: holder for key, holder in self.id_tokens.items() if holder.name not in gone}

    def at_the_browser(self, hint: str | None, workspace: str | None) -> Holder:
        """Who signs in: whom the client hints at, else the account made last, else one that is made now."""
        known = list(self.holders.values())
        for holder in known:
            if (hint and hint == holder.email) or (workspace and workspace == holder.account_id):
                return holder
        return known[-1] if known else self.put("standin", Account())

    def sign_in(self, holder: Holder, issuer: str, client_id: str = CODEX_CLIENT_ID) -> Tokens:
        """Issues the tokens of a new sign-in: others stay as they are."""
        holder.report.sign_ins += 1
        return self._issue(holder, issuer, client_id)

    def rotate(self, token: RefreshToken, issuer: str) -> Tokens:
        """Uses a refresh token up, and issues the next."""
        token.state = "used"
        token.holder.report.refreshes += 1
        return self._issue(token.holder, issuer, token.client_id)

    def kill_access_tokens(self, holder: Holder) -> int:
        """Refuses all access tokens issued so far, though they say that they are good; how many there were."""
        living = [token for token in self._access_tokens_of(holder) if not token.is_dead]
        for token in living:
            token.is_dead = True
        return len(living)

    def _access_tokens_of(self, holder: Holder) -> Iterator[AccessToken]:
        return (token for token in self.access_tokens.values() if token.holder is holder)

    def _issue(self, holder: Holder, issuer: str, client_id: str) -> Tokens:
        expires = time.time() + holder.spec.token_lifetime_s
        email, account_id, user_id, plan = holder.email, holder.account_id, holder.user_id, holder.report.plan
        access = write_jwt(
            access_claims(
                issuer=issuer,
                client_id=client_id,
                email=email,
                account_id=account_id,
                user_id=user_id,
                plan=plan,
                expires=expires,
            )
        )
        identity = write_jwt(
            id_claims(
                issuer=issuer,
                client_id=client_id,
                email=email,
                account_id=account_id,
                user_id=user_id,
                plan=plan,
                expires=expires,
            )
        )
        refresh = f"rt_standin.{secrets.token_urlsafe(32)}"
        self.access_tokens[access] = AccessToken(holder, expires)
        self.refresh_tokens[refresh] = RefreshToken(holder, client_id)
        self.id_tokens[identity] = holder
        return Tokens(id_token=identity, access_token=access, refresh_token=refresh, account_id=account_id)
