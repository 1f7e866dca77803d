"""Our own store of Codex sign-ins: in Redis, sealed, the same for every replica."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import cast

import msgspec
import structlog

from patchbay.codex.login import Login, SignInMissing
from patchbay.state import keys, scripts
from patchbay.state.connection import Client, deadline
from patchbay.state.sealing import CannotOpen, Sealer

log = structlog.get_logger(__name__)

_TTL_MS = 90 * 86_400_000

NO_SECRETS_KEY = (
    "a sign-in is kept in Redis only when it can be sealed: set security.secrets_key (see config/patchbay.example.yaml)"
)

_decode = msgspec.json.Decoder(Login).decode


class CodexAccounts:
    """Reads and writes the store. Every method raises RedisUnavailable when Redis does not answer in time.

    Args:
        redis: The client, from `connect`.
        sealer: From `make_sealer`.
        timeout: Seconds that Redis may take for one call.
    """

    def __init__(self, redis: Client, sealer: Sealer, *, timeout: float = 0.5) -> None:
        self._redis = redis
        self._sealer = sealer
        self._timeout = timeout

    async def all(self) -> Mapping[str, Login]:
        """Every account that is signed in, by name. One whose seal does not open is left out, and logged."""
        async with deadline(self._timeout):
            reply = await self._redis.execute_command("HGETALL", keys.CODEX_LOGINS)
        logins: dict[str, Login] = {}
        for name, record in sorted(cast("dict[bytes, bytes]", reply).items()):
            try:
                logins[name.decode()] = self._open(name.decode(), record)
            except SignInMissing as error:
                log.warning("codex_account_unreadable", account=name.decode(), error=str(error))
        return logins

    async def load(self, name: str) -> Login:
        """One account's sign-in. Raises SignInMissing."""
        async with deadline(self._timeout):
            record = await self._redis.execute_command("HGET", keys.CODEX_LOGINS, name)
        if record is None:
            raise _missing(name)
        return self._open(name, cast(bytes, record))

    async def save(self, name: str, login: Login, *, replacing: str | None = None) -> Login:
        """Keeps a sign-in, and returns the one that is there afterwards.

        Args:
            replacing: The fingerprint of the one it takes the place of; where another one is there, that one stays.
                None: whatever is there.

        Raises:
            SignInMissing: The account was signed out meanwhile.
        """
        sealed = self._sealer.seal(msgspec.json.encode(login), _context(name))
        record = login.fingerprint.encode() + b" " + sealed
        # redis-py sends bytes as they are.
        args = cast("tuple[str | int, ...]", (name, replacing or "", record, _TTL_MS))
        there = await scripts.run(
            self._redis, scripts.CODEX_LOGIN_SAVE, (keys.CODEX_LOGINS,), args, timeout=self._timeout
        )
        if there is None:
            raise _missing(name)
        return login if there == record else self._open(name, cast(bytes, there))

    async def forget(self, name: str) -> bool:
        """Signs an account out; whether it was there."""
        async with deadline(self._timeout):
            return bool(await self._redis.execute_command("HDEL", keys.CODEX_LOGINS, name))

    def place(self, name: str) -> StoredLogin:
        """One account, as a place that keeps a sign-in."""
        return StoredLogin(self, name)

    def _open(self, name: str, record: bytes) -> Login:
        try:
            return _decode(self._sealer.open(record.partition(b" ")[2], _context(name)))
        except (CannotOpen, msgspec.DecodeError) as error:
            raise SignInMissing(f"the sign-in of the account `{name}` does not open: {error}") from None


class StoredLogin:
    """One account of the store; see `patchbay.codex.login.Place`."""

    is_file = False

    def __init__(self, accounts: CodexAccounts, name: str) -> None:
        self._accounts = accounts
        self.name = name

    async def load(self) -> Login:
        return await self._accounts.load(self.name)

    async def save(self, login: Login, *, replacing: str | None) -> Login:
        return await self._accounts.save(self.name, login, replacing=replacing)

    @asynccontextmanager
    async def exclusive(self, seconds: float) -> AsyncIterator[None]:
        """Nothing to keep others from: every change is one step in Redis."""
        yield

    async def forget(self) -> None:
        await self._accounts.forget(self.name)


def _context(name: str) -> str:
    return f"{keys.CODEX_LOGINS} {name}"


def _missing(name: str) -> SignInMissing:
    return SignInMissing(f"the account `{name}` is not signed in here")
