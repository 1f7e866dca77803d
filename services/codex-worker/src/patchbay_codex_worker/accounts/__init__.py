"""The ChatGPT accounts behind a backend: which one answers, with which token, and how much of it is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from patchbay.codex.oauth import Issuer
from patchbay.settings import Backend, Settings
from patchbay.state.codex_accounts import CodexAccounts
from patchbay.state.codex_limits import CodexLimits
from patchbay.state.codex_renewals import CodexRenewals
from patchbay.state.sealing import make_sealer
from patchbay.upstream.http import HttpUpstream
from patchbay.worker.runtime import Shared
from patchbay_codex_worker.accounts import quota, routing
from patchbay_codex_worker.accounts.pool import Account, AccountPool
from patchbay_codex_worker.accounts.quota import Usage
from patchbay_codex_worker.accounts.renewal import Renewer
from patchbay_codex_worker.accounts.routing import Routing
from patchbay_codex_worker.accounts.sign_in import CodexSignIn
from patchbay_codex_worker.profiles import CODEX

__all__ = ["Account", "AccountPool", "CodexSignIn", "make_pool"]

# A killed replica's renewal is taken over after so long.
_CLAIM_SECONDS = 10.0


def make_pool(
    backend: Backend,
    settings: Settings,
    shared: Shared,
    *,
    upstream: HttpUpstream,
    claim_seconds: float = _CLAIM_SECONDS,
    clock: Callable[[], float] = time.time,
) -> tuple[AccountPool, CodexSignIn]:
    """The accounts of a backend of kind `codex`, and the way to sign in to it.

    Args:
        upstream: The backend, where usage and routing are asked for.
        claim_seconds: See `CodexRenewals`.
        clock: Gives Unix seconds.
    """
    assert backend.codex is not None
    sealer = make_sealer(settings.security.sealing_keys())
    timeout = settings.redis.timeout_seconds
    store = CodexAccounts(shared.redis, sealer, timeout=timeout) if sealer is not None else None
    renewals = CodexRenewals(shared.redis, sealer, timeout=timeout, claim_seconds=claim_seconds)
    issuer = Issuer(backend.codex, clock=clock)

    # As the Codex CLI, and with what the operator adds to each request: a firewall stands before these pages, too.
    common = {name: value for name, value in CODEX.headers.items() if name != "accept"}
    common |= {name.lower(): value.get_secret_value() for name, value in backend.headers.items()}

    async def usage(headers: Mapping[str, str]) -> Usage | None:
        return await quota.ask(upstream, {**common, **headers}, clock())

    async def routed(headers: Mapping[str, str]) -> Routing | None:
        return await routing.ask(upstream, {**common, **headers}, backend.base_url)

    pool = AccountPool(
        backend,
        store=store,
        limits=CodexLimits(shared.redis, timeout=timeout),
        renewer=Renewer(renewals, issuer, backend=backend.name, claimant=shared.worker_id),
        usage=usage,
        routing=routed,
        clock=clock,
    )
    return pool, CodexSignIn(backend, pool, store, issuer, worker_id=shared.worker_id)
