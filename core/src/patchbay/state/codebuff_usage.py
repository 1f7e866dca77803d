"""What each caller's Codebuff agents have used, in credits, by calendar month."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from patchbay.state import keys
from patchbay.state.connection import Client, deadline

_TTL_MS = 62 * 24 * 3_600_000


class CodebuffUsage:
    """Counts credits. Every method raises RedisUnavailable when Redis does not answer in time.

    Args:
        redis: The client, from `connect`.
        timeout: Seconds that Redis may take for one call.
    """

    def __init__(self, redis: Client, *, timeout: float = 0.5) -> None:
        self._redis = redis
        self._timeout = timeout

    async def add(self, owner: str, amount: int) -> int:
        """Counts what a prompt or a run has used; all of this month, in credits.

        Args:
            owner: Whose it is (`Identity.owner`).
        """
        name = _name(owner)
        async with deadline(self._timeout):
            total = int(await self._redis.execute_command("INCRBY", name, amount))
            await self._redis.execute_command("PEXPIRE", name, _TTL_MS)
        return total

    async def total(self, owner: str) -> int:
        """What an owner has used this month, in credits."""
        async with deadline(self._timeout):
            return int(await self._redis.execute_command("GET", _name(owner)) or 0)


def _name(owner: str) -> str:
    digest = hashlib.sha256(owner.encode()).hexdigest()[:32]
    return keys.codebuff_usage(digest, datetime.now(UTC).strftime("%Y-%m"))
