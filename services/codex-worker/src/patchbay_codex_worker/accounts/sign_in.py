"""Signing an account in and out through any edge, for operators: see `/auth` there."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

import structlog

from patchbay.codex.login import NotKept, PlaceBusy, SignInMissing
from patchbay.codex.oauth import Issuer, IssuerError, Pkce, SignInRefused
from patchbay.codex.signing_in import code_and_state, keep, redirect_uri
from patchbay.errors import AUTHENTICATION, INVALID_REQUEST, UNAVAILABLE, UPSTREAM, Code, PatchbayError, make_error
from patchbay.settings import Backend
from patchbay.state.codex_accounts import CodexAccounts
from patchbay.state.connection import RedisUnavailable
from patchbay_codex_worker.accounts.pool import AccountPool
from patchbay_proto.v1.provider_pb2 import LoginResponse, LogoutResponse

log = structlog.get_logger(__name__)

_LOGIN_SECONDS = 900.0
_MOST_LOGINS = 20
_HOW = (
    "visit the page and sign in; it ends at an address that begins with {redirect}: send that address as code, with "
    "this login_id"
)


class CodexSignIn:
    """The sign-ins of one backend of kind `codex`.

    Args:
        backend: The backend.
        pool: Its accounts.
        store: Our own store; None: a sign-in goes to the Codex CLI's file.
        issuer: Gives the tokens.
        worker_id: This replica's id, at which a login has to end.
        clock: Gives seconds.
    """

    def __init__(
        self,
        backend: Backend,
        pool: AccountPool,
        store: CodexAccounts | None,
        issuer: Issuer,
        *,
        worker_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert backend.codex is not None
        self._backend = backend
        self._config = backend.codex
        self._pool = pool
        self._store = store
        self._issuer = issuer
        self._worker_id = worker_id
        self._clock = clock
        # Login id -> its secret, and until when it waits.
        self._logins: OrderedDict[str, tuple[Pkce, float]] = OrderedDict()

    async def begin(self) -> LoginResponse:
        """Starts a login: several may wait for their codes."""
        login_id, pkce = secrets.token_urlsafe(24), Pkce.make()
        self._logins[login_id] = (pkce, self._clock() + _LOGIN_SECONDS)
        while len(self._logins) > _MOST_LOGINS:
            self._logins.popitem(last=False)
        redirect = redirect_uri()
        url = self._issuer.authorize_url(redirect_uri=redirect, pkce=pkce, state=self._state(login_id))
        detail = _HOW.format(redirect=redirect)
        return LoginResponse(login_id=login_id, url=url, signed_in=self._pool.signed_in, detail=detail)

    async def finish(self, login_id: str, code: str) -> LoginResponse:
        """Ends a login with the code, or the address with the code in it. Raises PatchbayError."""
        code, state = code_and_state(code)
        pkce, until = self._logins.pop(login_id, (None, 0.0))
        if pkce is None or self._clock() >= until:
            message = "no such login waits here: it has ended, or took longer than 15 minutes; begin another one"
            raise _error(INVALID_REQUEST, message, parameter="login_id")
        if not code or (state and not hmac.compare_digest(state.encode(), self._state(login_id).encode())):
            raise _error(INVALID_REQUEST, "code: is not of this login; begin another one", parameter="code")
        try:
            login = await self._issuer.exchange(code, redirect_uri=redirect_uri(), verifier=pkce.verifier)
            place = await keep(login, store=self._store, config=self._config)
        except SignInRefused as error:
            raise _error(AUTHENTICATION, f"the login failed: {error}") from error
        except IssuerError as error:
            raise _error(UPSTREAM, f"the login failed: {error}") from error
        except (NotKept, PlaceBusy, RedisUnavailable) as error:
            raise _error(UNAVAILABLE, f"the sign-in cannot be kept: {error}") from error
        await self._pool.reload()
        log.info("codex_signed_in", backend=self._backend.name, account=place.name)
        return LoginResponse(signed_in=self._pool.signed_in, detail=f"signed in as {place.name}")

    async def forget(self) -> LogoutResponse:
        """Signs all accounts of the backend out, and gives their tokens back. Raises PatchbayError."""
        self._logins.clear()
        names = []
        for place in self._pool.places():
            try:
                login = await place.load()
                await place.forget()
            except SignInMissing:
                continue
            except (NotKept, PlaceBusy, RedisUnavailable) as error:
                raise _error(UNAVAILABLE, f"`{place.name}` cannot be signed out: {error}") from error
            names.append(place.name)
            try:
                await asyncio.shield(self._issuer.revoke(login))
            except IssuerError as error:
                log.warning("codex_not_revoked", account=place.name, error=str(error))
        await self._pool.reload()
        log.info("codex_signed_out", backend=self._backend.name, accounts=names)
        detail = f"signed out: {', '.join(names)}" if names else "nobody was signed in"
        return LogoutResponse(signed_in=self._pool.signed_in, detail=detail)

    def _state(self, login_id: str) -> str:
        """What the browser brings back, for any edge to find the way here; nobody can guess it."""
        return f"{self._backend.name}.{self._worker_id}.{login_id}"


def _error(code: Code, message: str, *, parameter: str | None = None) -> PatchbayError:
    return PatchbayError(make_error(code, message, parameter=parameter, retryable=code == UNAVAILABLE))
