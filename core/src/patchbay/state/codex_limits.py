"""What is known of ChatGPT accounts' limits, by all replicas: used quotas, cool-downs, and which session used which."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import cast

import msgspec
import structlog

from patchbay.state import keys, scripts
from patchbay.state.connection import Client, deadline

log = structlog.get_logger(__name__)

_TTL_MS = 8 * 86_400_000
_SESSION_SECONDS = 3_600


class Window(msgspec.Struct, frozen=True):
    """One of an account's limits.

    Attributes:
        name: `primary` or `secondary`.
        used_percent: How much of it is used.
        minutes: How long it is; 0: unknown.
        resets_at: When it begins anew, in Unix seconds; 0: unknown.
    """

    name: str
    used_percent: float
    minutes: int = 0
    resets_at: float = 0.0


class Quota(msgspec.Struct, frozen=True):
    """An account's limits as they were at `seen_at`, in Unix seconds."""

    windows: tuple[Window, ...]
    seen_at: float
    plan: str = ""

    def remaining(self, now: float) -> float:
        """How much is left of the scarcest window, in percent."""
        used = (window.used_percent for window in self.windows if not 0 < window.resets_at <= now)
        return max(0.0, 100.0 - max(used, default=0.0))


class Cooling(msgspec.Struct, frozen=True):
    """An account that is at its limit until then, in Unix seconds."""

    until: float
    reason: str = ""


class Limits(msgspec.Struct, frozen=True):
    """All that is known, by ChatGPT account."""

    quotas: Mapping[str, Quota]
    cooling: Mapping[str, Cooling]


_decode_quota = msgspec.json.Decoder(Quota).decode
_decode_cooling = msgspec.json.Decoder(Cooling).decode


class CodexLimits:
    """Reads and notes. Every method raises RedisUnavailable when Redis does not answer in time.

    Args:
        redis: The client, from `connect`.
        timeout: Seconds that Redis may take for one call.
    """

    def __init__(self, redis: Client, *, timeout: float = 0.5) -> None:
        self._redis = redis
        self._timeout = timeout

    async def read(self) -> Limits:
        """What all replicas know."""
        async with deadline(self._timeout):
            reply = await self._redis.execute_command("HGETALL", keys.CODEX_LIMITS)
        quotas: dict[str, Quota] = {}
        cooling: dict[str, Cooling] = {}
        for field, value in cast("dict[bytes, bytes]", reply).items():
            what, _, account = field.decode().partition(":")
            try:
                if what == "quota":
                    quotas[account] = _decode_quota(value)
                elif what == "cooling":
                    cooling[account] = _decode_cooling(value)
            except msgspec.DecodeError as error:
                # Another version's: what one does not understand of one account must not stop the requests of all.
                log.debug("codex_limit_unreadable", what=what, error=str(error))
        return Limits(quotas, cooling)

    async def note_quotas(self, quotas: Mapping[str, Quota]) -> None:
        """Notes how much of their limits accounts have used."""
        await self._note({f"quota:{account}": msgspec.json.encode(quota) for account, quota in quotas.items()})

    async def cool(self, account: str, cooling: Cooling | None) -> None:
        """Notes that an account is at its limit; None: that it is not."""
        await self._note({f"cooling:{account}": b"" if cooling is None else msgspec.json.encode(cooling)})

    async def _note(self, fields: Mapping[str, bytes]) -> None:
        pairs = [part for pair in fields.items() for part in pair]
        # redis-py sends bytes as they are.
        args = cast("tuple[str | int, ...]", (_TTL_MS, *pairs))
        await scripts.run(self._redis, scripts.CODEX_NOTE, (keys.CODEX_LIMITS,), args, timeout=self._timeout)

    async def session_account(self, backend: str, session: str) -> str:
        """The account that a session's requests went to last; empty: none. It is remembered for an hour more."""
        async with deadline(self._timeout):
            key = _session_key(backend, session)
            reply = await self._redis.execute_command("GETEX", key, "EX", _SESSION_SECONDS)
        return cast(bytes, reply or b"").decode()

    async def note_session(self, backend: str, session: str, account: str) -> None:
        """Notes the account that a session's request goes to."""
        async with deadline(self._timeout):
            await self._redis.execute_command("SET", _session_key(backend, session), account, "EX", _SESSION_SECONDS)


def _session_key(backend: str, session: str) -> str:
    return keys.codex_session(hashlib.sha256(f"{backend}\0{session}".encode()).hexdigest()[:32])
