"""Signing an account in and out through any edge, for operators: see `/auth` there."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog

from patchbay.codex.auth_file import login_in
from patchbay.codex.login import Login, NotKept, PlaceBusy, SignInMissing
from patchbay.codex.oauth import DeviceCode, Issuer, IssuerError, Pkce, SignInRefused
from patchbay.codex.signing_in import code_and_state, keep, redirect_uri
from patchbay.errors import (
    AUTHENTICATION,
    INVALID_REQUEST,
    NOT_FOUND,
    UNAVAILABLE,
    UPSTREAM,
    Code,
    PatchbayError,
    make_error,
)
from patchbay.settings import Backend, is_account_name
from patchbay.state.codex_accounts import CodexAccounts
from patchbay.state.connection import RedisUnavailable
from patchbay_codex_worker.accounts.pool import AccountPool
from patchbay_proto.v1.provider_pb2 import LoginResponse, LogoutResponse

log = structlog.get_logger(__name__)

_LOGIN_SECONDS = 900.0
_MOST_LOGINS = 20
_TYPE = "visit the page and type the code there; then ask again with this login_id"
_HOW = (
    "visit the page and sign in; it ends at an address that begins with {redirect}: send that address as code, with "
    "this login_id"
)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A login that waits to be ended, until then; its account is to be called so."""

    secret: Pkce | DeviceCode
    until: float
    account: str


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
        self._logins: OrderedDict[str, _Waiting] = OrderedDict()

    async def begin(self, *, device: bool = False, account: str = "") -> LoginResponse:
        """Starts a login: several may wait for their codes. Raises PatchbayError."""
        self._check_name(account)
        login_id, until = secrets.token_urlsafe(24), self._clock() + _LOGIN_SECONDS
        if device:
            try:
                code = await self._issuer.device_start()
            except IssuerError as error:
                raise _error(UPSTREAM, f"the login cannot begin: {error}") from error
            self._wait(login_id, _Waiting(code, until, account))
            return self._typed_yet(login_id, code)
        pkce = Pkce.make()
        self._wait(login_id, _Waiting(pkce, until, account))
        redirect = redirect_uri()
        url = self._issuer.authorize_url(redirect_uri=redirect, pkce=pkce, state=self._state(login_id))
        detail = _HOW.format(redirect=redirect)
        return LoginResponse(login_id=login_id, url=url, signed_in=self._pool.signed_in, detail=detail)

    async def finish(self, login_id: str, code: str) -> LoginResponse:
        """Ends a login with the code, or the address with the code in it; or asks whether a device's code was typed.

        Raises:
            PatchbayError: There is no such login, or it failed.
        """
        waiting = self._logins.pop(login_id, None)
        if waiting is None or self._clock() >= waiting.until:
            message = "no such login waits here: it has ended, or took longer than 15 minutes; begin another one"
            raise _error(INVALID_REQUEST, message, parameter="login_id")
        secret = waiting.secret
        code, state = code_and_state(code)
        if isinstance(secret, Pkce) and (
            not code or (state and not hmac.compare_digest(state.encode(), self._state(login_id).encode()))
        ):
            raise _error(INVALID_REQUEST, "code: is not of this login; begin another one", parameter="code")
        try:
            if isinstance(secret, Pkce):
                login = await self._issuer.exchange(code, redirect_uri=redirect_uri(), verifier=secret.verifier)
            else:
                grant = await self._issuer.device_poll(secret)
                if grant is None:
                    self._wait(login_id, waiting)
                    return self._typed_yet(login_id, secret)
                login = await self._issuer.device_finish(grant)
        except SignInRefused as error:
            raise _error(AUTHENTICATION, f"the login failed: {error}") from error
        except IssuerError as error:
            raise _error(UPSTREAM, f"the login failed: {error}") from error
        return await self._keep(login, waiting.account)

    async def take(self, sign_in: bytes, *, account: str = "") -> LoginResponse:
        """Takes the content of a Codex CLI's `auth.json` into our own store. Raises PatchbayError."""
        self._check_name(account)
        if self._store is None:
            message = "sign-ins are kept here only with `security.secrets_key`; without, the Codex CLI's file is used"
            raise _error(INVALID_REQUEST, message, parameter="sign_in")
        try:
            content = msgspec.json.decode(sign_in, type=dict[str, object])
            login = login_in(content, "it")
        except (msgspec.DecodeError, UnicodeDecodeError, SignInMissing) as error:
            # What a decoder says names no value.
            raise _error(INVALID_REQUEST, f"sign_in: is no auth.json of the Codex CLI: {error}", "sign_in") from None
        if not login.refresh_token:
            raise _error(INVALID_REQUEST, "sign_in: holds no refresh token: it would end soon", parameter="sign_in")
        return await self._keep(login, account)

    async def _keep(self, login: Login, account: str) -> LoginResponse:
        try:
            place = await keep(login, store=self._store, config=self._config, name=account)
        except (NotKept, PlaceBusy, RedisUnavailable) as error:
            raise _error(UNAVAILABLE, f"the sign-in cannot be kept: {error}") from error
        await self._pool.reload()
        log.info("codex_signed_in", backend=self._backend.name, account=place.name)
        return LoginResponse(signed_in=self._pool.signed_in, detail=f"signed in as {place.name}")

    def _wait(self, login_id: str, waiting: _Waiting) -> None:
        self._logins[login_id] = waiting
        while len(self._logins) > _MOST_LOGINS:
            self._logins.popitem(last=False)

    def _typed_yet(self, login_id: str, code: DeviceCode) -> LoginResponse:
        return LoginResponse(
            login_id=login_id,
            url=code.page,
            user_code=code.user_code,
            signed_in=self._pool.signed_in,
            detail=_TYPE,
        )

    def _check_name(self, account: str) -> None:
        if account and not is_account_name(account):
            message = "account: must be letters, digits and . _ @ + -, and no path"
            raise _error(INVALID_REQUEST, message, parameter="account")

    async def forget(self, account: str = "") -> LogoutResponse:
        """Signs an account out, or all of the backend, and gives the tokens back. Raises PatchbayError."""
        if not account:
            self._logins.clear()
        names = []
        places = [place for place in self._pool.places() if account in ("", place.name)]
        if account and not places:
            raise _error(NOT_FOUND, f"there is no account `{account}` here", parameter="account")
        for place in places:
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


def _error(code: Code, message: str, parameter: str | None = None) -> PatchbayError:
    return PatchbayError(make_error(code, message, parameter=parameter, retryable=code == UNAVAILABLE))
