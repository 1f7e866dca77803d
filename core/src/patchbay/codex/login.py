"""A sign-in at ChatGPT: its tokens, what they say, and where one may be kept.

The tokens are JWTs whose payload is read and never trusted: nobody is let in because of what one says.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import msgspec

# The Codex CLI renews a token that ends within five minutes, and one that does not say when it ends after eight days.
RENEW_BEFORE_SECONDS = 300.0
_OPAQUE_SECONDS = 8 * 86_400.0


class SignInMissing(Exception):
    """Nobody is signed in there; the message says why, for the operator to read."""


class NotKept(Exception):
    """A sign-in cannot be written where it is kept; the message says why."""


class PlaceBusy(Exception):
    """Another process holds the place for too long."""


class _Claims(msgspec.Struct):
    exp: object = None
    email: object = None
    auth: object = msgspec.field(name="https://api.openai.com/auth", default=None)
    profile: object = msgspec.field(name="https://api.openai.com/profile", default=None)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says, as far as it matters here. Times are Unix seconds; 0, or empty: it does not say."""

    exp: float = 0.0
    email: str = ""
    account_id: str = ""
    plan: str = ""


_decode_claims = msgspec.json.Decoder(_Claims).decode


# Each request asks some of it.
@lru_cache(maxsize=256)
def claims_of(token: str) -> Claims:
    """What a token says; nothing when it is no JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return Claims()
    payload = parts[1]
    try:
        said = _decode_claims(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError, msgspec.DecodeError, RecursionError):
        return Claims()
    # Each by itself: a plan that is null must not hide when the token ends.
    return Claims(
        exp=_number(said.exp),
        email=_text(said.email) or _text(_member(said.profile, "email")),
        account_id=_text(_member(said.auth, "chatgpt_account_id")),
        plan=_text(_member(said.auth, "chatgpt_plan_type")),
    )


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) else 0.0
    except (ValueError, OverflowError):
        return 0.0
    return number if math.isfinite(number) else 0.0


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of one sign-in.

    Attributes:
        account_id: The ChatGPT account as it was stored; see `account`.
        last_refresh: When the tokens came, in Unix seconds.
    """

    access_token: str
    refresh_token: str = ""
    id_token: str = ""
    account_id: str = ""
    last_refresh: float = 0.0

    def __repr__(self) -> str:
        # A token must not get into a log or a traceback.
        return f"Login({self.fingerprint})"

    @property
    def fingerprint(self) -> str:
        """What this sign-in is known by where no secret may be: it changes with every renewal, and cannot be undone."""
        # An issuer may renew the access token alone.
        return hashlib.sha256(f"codex {self.refresh_token} {self.access_token}".encode()).hexdigest()[:32]

    @property
    def account(self) -> str:
        """The ChatGPT account's id: as stored, else as the tokens say."""
        return self.account_id or claims_of(self.id_token).account_id or claims_of(self.access_token).account_id

    @property
    def email(self) -> str:
        return claims_of(self.id_token).email

    @property
    def plan(self) -> str:
        """The ChatGPT plan, an open set of names."""
        return claims_of(self.id_token).plan or claims_of(self.access_token).plan

    @property
    def expires_at(self) -> float:
        """When the access token ends, in Unix seconds; where it does not say, when it is to be renewed."""
        return claims_of(self.access_token).exp or self.last_refresh + _OPAQUE_SECONDS

    def is_due(self, now: float) -> bool:
        """Whether it is time to renew it."""
        before = RENEW_BEFORE_SECONDS if claims_of(self.access_token).exp else 0.0
        return now >= self.expires_at - before


class Place(Protocol):
    """Where a sign-in is kept: a file of the Codex CLI, or our own store."""

    @property
    def name(self) -> str:
        """What the account is called."""

    @property
    def is_file(self) -> bool:
        """Whether `exclusive` alone keeps every process that has this place from renewing it meanwhile."""

    async def load(self) -> Login:
        """What is there. Raises SignInMissing, and RedisUnavailable when it cannot be asked."""

    async def save(self, login: Login, *, replacing: str | None) -> Login:
        """Keeps a sign-in, within `exclusive`.

        Args:
            replacing: The fingerprint of the one it takes the place of; where another one is there, that one stays.
                None: whatever is there.

        Returns:
            What is there afterwards.

        Raises:
            SignInMissing: It was signed out meanwhile.
            NotKept: The place cannot be written.
            RedisUnavailable: It cannot be asked.
        """

    def exclusive(self, seconds: float) -> AbstractAsyncContextManager[None]:
        """Keeps other processes on this machine from it.

        Raises:
            PlaceBusy: It takes longer than `seconds`.
            NotKept: The place cannot be written.
        """

    async def forget(self) -> None:
        """Signs out. Raises RedisUnavailable."""
