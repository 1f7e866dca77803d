"""Who renews which sign-in, fleet-wide: a refresh token may be spent once, by one, and everyone learns what came of it.

A token is known by its fingerprint, so that all copies of one sign-in, whatever they are called and wherever they are
kept, share one claim and one successor: none of them ever spends what another one has spent.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TypeAlias, cast

import msgspec

from patchbay.codex.login import Login
from patchbay.state import keys, scripts
from patchbay.state.connection import Client
from patchbay.state.sealing import CannotOpen, Sealer

_TTL_MS = 30 * 86_400_000
# For good, but an issuer in trouble may say so by mistake: then it is asked once more.
_FAILURE_MS = 3_600_000
_FIRST_WAIT_MS = 1_000
_LONGEST_WAIT_MS = 60_000

_decode = msgspec.json.Decoder(Login).decode


@dataclass(frozen=True, slots=True)
class Got:
    """The claim is ours."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Another one has the claim, which stands for so many seconds more."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Later:
    """It did not work in passing, and is not tried again for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """It cannot be renewed; `why` is the issuer's word."""

    why: str


@dataclass(frozen=True, slots=True)
class Done:
    """It has been renewed."""

    login: Login


Outcome: TypeAlias = Busy | Later | Failed | Done


class CodexRenewals:
    """Claims renewals and notes how they ended. Every method raises RedisUnavailable when Redis does not answer.

    Args:
        redis: The client, from `connect`.
        sealer: Seals successors, over the seal that only who had the spent token opens; None: that one alone.
        timeout: Seconds that Redis may take for one call.
        claim_seconds: How long a claim stands unless it is claimed again. When whoever has it is killed, another one
            takes over after so long.
    """

    def __init__(
        self, redis: Client, sealer: Sealer | None, *, timeout: float = 0.5, claim_seconds: float = 10.0
    ) -> None:
        self._redis = redis
        self._sealer = sealer
        self._timeout = timeout
        self.claim_seconds = claim_seconds

    async def claim(self, spent: Login, claimant: str) -> Got | Outcome:
        """Claims the renewal of `spent`, or keeps the claim, or tells how it is going."""
        args = (claimant, round(self.claim_seconds * 1000), _TTL_MS)
        return self._read(spent, await self._run(scripts.CODEX_CLAIM, spent, args))

    async def done(self, spent: Login, claimant: str, login: Login) -> Login:
        """Notes the sign-in that came of `spent`; returns what everybody takes, which is the first one noted."""
        sealed = self._seal(spent, login)
        outcome = await self._settle(spent, claimant, ("done", sealed, 0))
        assert isinstance(outcome, Done)
        return outcome.login

    async def failed(self, spent: Login, claimant: str, why: str) -> Outcome:
        """Notes that `spent` cannot be renewed, unless it has been, or another one is at it by now."""
        return await self._settle(spent, claimant, ("failed", why, _FAILURE_MS))

    async def later(self, spent: Login, claimant: str) -> Outcome:
        """Gives the claim up after a failure that may pass; each further one doubles the wait."""
        return await self._settle(spent, claimant, ("later", _FIRST_WAIT_MS, _LONGEST_WAIT_MS))

    async def _settle(self, spent: Login, claimant: str, ending: tuple[str, str | bytes | int, int]) -> Outcome:
        # redis-py sends bytes as they are.
        args = cast("tuple[str | int, ...]", (claimant, *ending, _TTL_MS))
        outcome = self._read(spent, await self._run(scripts.CODEX_SETTLE, spent, args))
        assert not isinstance(outcome, Got)
        return outcome

    async def _run(self, script: scripts.Script, spent: Login, args: tuple[str | int, ...]) -> object:
        key = keys.codex_renewal(spent.fingerprint)
        return await scripts.run(self._redis, script, (key,), args, timeout=self._timeout)

    def _read(self, spent: Login, reply: object) -> Got | Outcome:
        word, *rest = cast("list[bytes | int]", reply)
        if word == b"got":
            return Got()
        [value] = rest
        if word == b"done":
            try:
                return Done(self._open(spent, cast(bytes, value)))
            except (CannotOpen, msgspec.DecodeError) as error:
                return Failed(f"it has been renewed elsewhere, and the new one does not open: {error}")
        if word == b"failed":
            return Failed(cast(bytes, value).decode())
        seconds = cast(int, value) / 1000
        return Busy(seconds) if word == b"busy" else Later(seconds)

    def _seal(self, spent: Login, login: Login) -> bytes:
        context = keys.codex_renewal(spent.fingerprint)
        sealed = _holders(spent).seal(msgspec.json.encode(login), context)
        return sealed if self._sealer is None else self._sealer.seal(sealed, context)

    def _open(self, spent: Login, sealed: bytes) -> Login:
        context = keys.codex_renewal(spent.fingerprint)
        if self._sealer is not None:
            sealed = self._sealer.open(sealed, context)
        return _decode(_holders(spent).open(sealed, context))


def _holders(spent: Login) -> Sealer:
    """Opens for whoever had the token that was spent: it is long and random, and good for nothing else any more."""
    secret = spent.refresh_token or spent.access_token
    return Sealer([hmac.digest(secret.encode(), b"patchbay codex successor v1", hashlib.sha256)])
