"""The ChatGPT accounts of this machine: where they are kept, by the configuration."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from patchbay.codex.auth_file import AuthFile
from patchbay.codex.login import Login, Place, SignInMissing
from patchbay.settings import Codex, Settings, is_account_name, load
from patchbay.settings.codex import CodexConfig, resolve
from patchbay.state.codex_accounts import NO_SECRETS_KEY, CodexAccounts
from patchbay.state.codex_limits import CodexLimits, Limits
from patchbay.state.connection import RedisUnavailable, connect
from patchbay.state.sealing import make_sealer
from patchbay_cli.problems import CommandFailed

_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class Accounts:
    """Where sign-ins are kept.

    Attributes:
        settings: The configuration.
        codex: The backend's, or what a backend would have.
        store: Our own store; None: there is no key to seal with.
        limits: What the replicas know of the accounts' limits.
    """

    settings: Settings
    codex: Codex
    store: CodexAccounts | None
    limits: CodexLimits

    @property
    def file(self) -> AuthFile:
        """The Codex CLI's own sign-in."""
        return AuthFile(self.codex.auth_file)

    def require_store(self) -> CodexAccounts:
        """Our own store. Raises CommandFailed when there is none."""
        if self.store is None:
            raise CommandFailed(NO_SECRETS_KEY)
        return self.store

    def place(self, account: str) -> Place:
        """The account of that name, or of the auth.json at that path. Raises CommandFailed."""
        if is_account_name(account):
            return self.require_store().place(account)
        return AuthFile(Path(account))

    async def stored(self) -> Mapping[str, Login]:
        """What is in our own store. Raises RedisUnavailable."""
        return {} if self.store is None else await self.store.all()

    async def known_limits(self) -> Limits:
        """What is known of limits; nothing while Redis is away."""
        try:
            return await self.limits.read()
        except RedisUnavailable:
            return Limits({}, {})

    async def only(self) -> Place:
        """The one account there is. Raises CommandFailed when there are several, or none."""
        places: list[Place] = [self.require_store().place(name) for name in await self.stored()]
        try:
            await self.file.load()
            places.append(self.file)
        except SignInMissing as error:
            if not places:
                raise CommandFailed(f"nobody is signed in: {error}") from error
        if len(places) > 1:
            raise CommandFailed(f"say which with --account: {', '.join(place.name for place in places)}")
        return places[0]


@asynccontextmanager
async def opened(config: Path | None, backend: str | None) -> AsyncIterator[Accounts]:
    """The accounts of this configuration, while the block runs.

    Args:
        config: The configuration file; None: the standard one.
        backend: Which backend of kind codex; None: the first.

    Raises:
        SettingsError: The configuration is wrong.
        CommandFailed: There is no such backend, or Redis does not answer when it is needed.
    """
    settings = load(["--config", str(config)] if config else [])
    codex = _codex(settings, backend)
    sealer = make_sealer(settings.security.sealing_keys())
    redis = connect(settings.redis.connect_url(), timeout=_TIMEOUT_SECONDS)
    store = CodexAccounts(redis, sealer, timeout=_TIMEOUT_SECONDS) if sealer is not None else None
    try:
        yield Accounts(settings, codex, store, CodexLimits(redis, timeout=_TIMEOUT_SECONDS))
    except RedisUnavailable as error:
        start = ": start the system first, with `patchbay up`" if settings.redis.embedded else ""
        raise CommandFailed(f"sign-ins are kept in Redis, which does not answer ({error}){start}") from error
    finally:
        await redis.aclose()


def _codex(settings: Settings, name: str | None) -> Codex:
    found = {one.name: one.codex for one in settings.enabled_backends().values() if one.codex is not None}
    if name is not None and name not in found:
        known = ", ".join(found) or "none"
        raise CommandFailed(f"there is no backend of kind codex called {name} (there are: {known})")
    if name is not None:
        return found[name]
    return next(iter(found.values()), None) or resolve(CodexConfig(), os.environ)
