"""What the tests say about accounts, and what the stand-in tells about them: strict JSON, as scripts are."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from patchbay_standin.script import JsonObject

Percent = Annotated[float, msgspec.Meta(ge=0)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0)]


class _Strict(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """Nothing but what is declared."""


class Quota(_Strict, frozen=True, kw_only=True):
    """One rate-limit window: used up at 100 percent, empty again at its reset."""

    used_percent: Percent = 0
    window_minutes: Annotated[int, msgspec.Meta(ge=1)] = 300
    # Seconds since the epoch; None: a whole window from now.
    resets_at: float | None = None


class RefreshFault(_Strict, frozen=True, kw_only=True):
    """What happens to refreshes instead of their plain answer."""

    # Wait so long before anything is decided: several refreshes at once all come in with a live token.
    delay_ms: Milliseconds = 0
    # Take the request and never answer: `before` the token is used up, or `after`, so that it is lost.
    hang: Literal["before", "after"] | None = None
    # Refuse with this status; the token stays good.
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    # With 401: why the token is dead. Else left out.
    code: str | None = None
    # Leave these out of the answer, which then means that the old ones stay good.
    omit: list[Literal["refresh_token", "id_token"]] = []
    # So many refreshes; None: all.
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Account(_Strict, frozen=True, kw_only=True):
    """An account of the ChatGPT backend. Said again, it changes; sign-ins and counts stay."""

    # Left out: made of the name.
    email: str | None = None
    account_id: str | None = None
    user_id: str | None = None
    plan: str = "plus"
    primary: Quota = Quota()
    secondary: Quota = Quota(window_minutes=10_080)
    # Each answered request adds so much to both windows.
    percent_per_request: Percent = 0
    # Of access tokens issued from now on; negative: expired when issued.
    token_lifetime_s: float = 864_000
    refresh: RefreshFault | None = None
    # `NO_CONSTRAINT`, `us`, `us_cr`.
    routing: str = "NO_CONSTRAINT"


class DeviceFlow(_Strict, frozen=True, kw_only=True):
    """How sign-in with a code on another device goes."""

    # Seconds between polls, as the issuer tells it: a text, or a number.
    interval: str | float = "5"
    lifetime_s: float = 900
    # Approve by itself after so many polls; None: only when someone opens the page.
    approve_after: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Tokens(msgspec.Struct, kw_only=True):
    """One sign-in."""

    id_token: str
    access_token: str
    refresh_token: str
    account_id: str

    def auth_json(self) -> JsonObject:
        """The content of Codex's `auth.json`."""
        return {
            "auth_mode": "chatgpt",
            "OPENAI_API_KEY": None,
            "tokens": {
                "id_token": self.id_token,
                "access_token": self.access_token,
                "refresh_token": self.refresh_token,
                "account_id": self.account_id,
            },
            "last_refresh": "2026-01-01T00:00:00Z",
        }


class AccountReport(msgspec.Struct, kw_only=True):
    """What happened to an account."""

    name: str
    email: str
    account_id: str
    plan: str
    # Refreshes that came in, those that gave new tokens, and those refused for a token that had been used before.
    refresh_requests: int = 0
    refreshes: int = 0
    reused: int = 0
    # Refreshes that are being held right now, by a delay or for ever.
    holding: int = 0
    # Why, as the clients said.
    refresh_reasons: list[str] = []
    sign_ins: int = 0
    revoked: int = 0
    # Model requests answered, and those refused because the quota was used up, or for their token.
    requests: int = 0
    limited: int = 0
    unauthorized: int = 0
    primary_used_percent: float = 0
    secondary_used_percent: float = 0
