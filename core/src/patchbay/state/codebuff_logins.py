"""Sign-ins of Codebuff's CLI: begun by the CLI, completed in a browser, taken by the CLI, each at whichever edge.

The browser knows a sign-in by its id, which is in the address of the page. The CLI knows it by its fingerprint and a
secret, from which the id is made and which nobody else has: who sees the address cannot take what comes of it.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import cast

import msgspec
import structlog

from patchbay.addresses import network_of
from patchbay.state import keys
from patchbay.state.connection import Client, deadline
from patchbay.state.sealing import CannotOpen, Sealer

log = structlog.get_logger(__name__)

TTL_SECONDS = 300
"""How long a sign-in may take."""
MOST_TRIES = 5
"""How many keys a browser may try for one sign-in."""
MOST_PER_MINUTE = 30
"""How many sign-ins may be begun from one address, or one /64 of IPv6: all its users together, if a proxy is what
calls."""

_TTL_MS = TTL_SECONDS * 1000
_MINUTE_MS = 60_000


class Login(msgspec.Struct, frozen=True):
    """A sign-in under way: which client began it, and when (seconds since 1970)."""

    fingerprint_id: str
    begun_at: float


class CodebuffLogins:
    """Keeps sign-ins. Every method raises RedisUnavailable when Redis does not answer in time.

    Args:
        redis: The client, from `connect`.
        sealer: Seals what they come to; None: that is kept as it is.
        timeout: Seconds that Redis may take for one call.
    """

    def __init__(self, redis: Client, *, sealer: Sealer | None, timeout: float = 0.5) -> None:
        self._redis = redis
        self._sealer = sealer
        self._timeout = timeout

    async def begin(self, fingerprint_id: str, address: str) -> tuple[str, str] | None:
        """Begins a sign-in: its id and its secret. None: there were too many just now.

        Args:
            address: Where it is begun from.
        """
        digest = hashlib.sha256(network_of(address).encode()).hexdigest()[:32]
        begun = keys.codebuff_logins_begun(digest, int(time.time() // 60))
        secret = secrets.token_hex(32)
        login_id = login_of(fingerprint_id, secret)
        login = msgspec.json.encode(Login(fingerprint_id, time.time()))
        async with deadline(self._timeout):
            count = int(await self._redis.execute_command("INCR", begun))
            await self._redis.execute_command("PEXPIRE", begun, 2 * _MINUTE_MS)
            if count > MOST_PER_MINUTE:
                return None
            await self._redis.execute_command("SET", keys.codebuff_login(login_id), login, "PX", _TTL_MS)
        return login_id, secret

    async def find(self, login_id: str) -> Login | None:
        """A sign-in; None: it is not known, has ended or has expired."""
        async with deadline(self._timeout):
            kept = await self._redis.execute_command("GET", keys.codebuff_login(login_id))
        return None if kept is None else msgspec.json.decode(cast(bytes, kept), type=Login)

    async def may_try(self, login_id: str) -> bool:
        """Counts one try of a key, before it is looked at. False: there were too many."""
        name = keys.codebuff_login_tries(login_id)
        async with deadline(self._timeout):
            tries = int(await self._redis.execute_command("INCR", name))
            await self._redis.execute_command("PEXPIRE", name, _TTL_MS)
        return tries <= MOST_TRIES

    async def complete(self, login_id: str, token: str) -> bool:
        """Leaves a token for the CLI. False: there is one already."""
        name = keys.codebuff_login_token(login_id)
        kept = token.encode() if self._sealer is None else self._sealer.seal(token.encode(), name)
        async with deadline(self._timeout):
            return bool(await self._redis.execute_command("SET", name, kept, "PX", _TTL_MS, "NX"))

    async def take(self, fingerprint_id: str, secret: str) -> str | None:
        """The token, once; with that the sign-in has ended. None: there is none, or not yet."""
        login_id = login_of(fingerprint_id, secret)
        name = keys.codebuff_login_token(login_id)
        async with deadline(self._timeout):
            kept = await self._redis.execute_command("GETDEL", name)
            if kept is None:
                return None
            await self._redis.execute_command("DEL", keys.codebuff_login(login_id))
        if self._sealer is None:
            return cast(bytes, kept).decode()
        try:
            return self._sealer.open(cast(bytes, kept), name).decode()
        except CannotOpen as error:
            log.warning("codebuff_login_not_opened", error=str(error))
            return None

    async def end(self, fingerprint_id: str, secret: str) -> None:
        """Ends a sign-in, however far it is; an unknown one does not matter."""
        login_id = login_of(fingerprint_id, secret)
        async with deadline(self._timeout):
            await self._redis.execute_command("DEL", keys.codebuff_login(login_id))
            await self._redis.execute_command("DEL", keys.codebuff_login_token(login_id))


def login_of(fingerprint_id: str, secret: str) -> str:
    """The id of a sign-in. Its end, nine characters, is for users to compare."""
    whole = f"{len(fingerprint_id)}:{fingerprint_id}{secret}"
    digest = hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest()
    return f"{digest[:24]}-{digest[24:28]}-{digest[28:32]}"
