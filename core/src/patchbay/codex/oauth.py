"""The OAuth issuer of ChatGPT sign-ins: signing in with a browser or a device code, renewing, signing out.

    IssuerError              it did not give what it was asked for
    └── SignInRefused        for good: only signing in anew helps

Protocol: the Codex CLI's, as measured; a renewal's refresh token is spent by it, and comes back as another one.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias
from urllib.parse import urlencode, urlsplit

import httpx
import msgspec

from patchbay.codex.login import Login
from patchbay.settings import Codex, is_loopback

CLIENT_ID = "app_EMoamEEZ73f0CkXaXp7hrann"
SCOPE = "openid profile email offline_access api.connectors.read api.connectors.invoke"
REQUEST_SECONDS = 30.0
# How long a device code is good for.
DEVICE_SECONDS = 900.0
_PERMANENT = frozenset(
    {"refresh_token_expired", "refresh_token_reused", "refresh_token_invalidated", "invalid_grant", "access_denied"}
)

RefreshReason: TypeAlias = Literal["proactive_expiry", "unauthorized_recovery"]


class IssuerError(Exception):
    """The issuer did not give what it was asked for; the message holds no token."""


class SignInRefused(IssuerError):
    """It never will: the sign-in has ended, or its code is wrong."""


@dataclass(frozen=True, slots=True)
class _Tokens:
    """What an answer holds of a sign-in; empty: nothing, so that what was there stays."""

    access_token: str
    refresh_token: str
    id_token: str


class DeviceCode(msgspec.Struct, frozen=True):
    """A sign-in that waits for somebody to type `user_code` at `page`."""

    device_auth_id: str
    user_code: str
    interval: float
    page: str


class DeviceGrant(msgspec.Struct, frozen=True):
    """What a device code has become once it was typed."""

    authorization_code: str
    code_verifier: str


@dataclass(frozen=True, slots=True)
class Pkce:
    """The secret of one browser sign-in, and what is shown of it: https://www.rfc-editor.org/rfc/rfc7636"""

    verifier: str
    challenge: str

    @classmethod
    def make(cls) -> Self:
        verifier = secrets.token_urlsafe(64)
        digest = hashlib.sha256(verifier.encode()).digest()
        return cls(verifier, base64.urlsafe_b64encode(digest).rstrip(b"=").decode())


class Issuer:
    """Asks one issuer.

    Args:
        config: Where it is.
        clock: Gives Unix seconds.
    """

    def __init__(self, config: Codex, *, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock

    def authorize_url(self, *, redirect_uri: str, pkce: Pkce, state: str) -> str:
        """The page to sign in at; it ends at `redirect_uri` with `code` and `state`."""
        query = {
            "response_type": "code",
            "client_id": CLIENT_ID,
            "redirect_uri": redirect_uri,
            "scope": SCOPE,
            "code_challenge": pkce.challenge,
            "code_challenge_method": "S256",
            "id_token_add_organizations": "true",
            "codex_cli_simplified_flow": "true",
            "state": state,
            "originator": "codex_cli_rs",
        }
        return f"{self._config.issuer}/oauth/authorize?{urlencode(query)}"

    async def exchange(self, code: str, *, redirect_uri: str, verifier: str) -> Login:
        """The tokens for a code. Raises IssuerError."""
        form = {
            "grant_type": "authorization_code",
            "client_id": CLIENT_ID,
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        answer = _tokens(await self._post(f"{self._config.issuer}/oauth/token", data=form))
        if not answer.access_token or not answer.refresh_token:
            raise IssuerError("the issuer's answer holds no tokens")
        login = Login(
            access_token=answer.access_token,
            refresh_token=answer.refresh_token,
            id_token=answer.id_token,
            last_refresh=self._clock(),
        )
        return msgspec.structs.replace(login, account_id=login.account)

    async def refresh(self, login: Login, reason: RefreshReason) -> Login:
        """Spends the refresh token. What the answer leaves out stays as it was. Raises IssuerError."""
        if not login.refresh_token:
            raise SignInRefused("the sign-in has no refresh token")
        body = {
            "client_id": CLIENT_ID,
            "grant_type": "refresh_token",
            "refresh_token": login.refresh_token,
            "refresh_reason": reason,
        }
        answer = _tokens(await self._post(self._config.refresh_url, json=body))
        if not (answer.access_token or answer.refresh_token):
            raise IssuerError("the issuer's answer holds no tokens")
        return Login(
            access_token=answer.access_token or login.access_token,
            refresh_token=answer.refresh_token or login.refresh_token,
            id_token=answer.id_token or login.id_token,
            account_id=login.account_id,
            last_refresh=self._clock(),
        )

    async def device_start(self) -> DeviceCode:
        """Begins a sign-in without a browser on this machine. Raises IssuerError."""
        issuer = self._config.issuer
        response = await self._post(f"{issuer}/api/accounts/deviceauth/usercode", json={"client_id": CLIENT_ID})
        try:
            body = response.json()
            return DeviceCode(
                str(body["device_auth_id"]),
                str(body.get("user_code") or body["usercode"]),
                max(0.0, float(body.get("interval", 5))),
                f"{issuer}/codex/device",
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IssuerError("the issuer's answer holds no device code") from error

    async def device_poll(self, device: DeviceCode) -> DeviceGrant | None:
        """Whether the code was typed by now; None: not yet. Raises IssuerError."""
        body = {"device_auth_id": device.device_auth_id, "user_code": device.user_code}
        url = f"{self._config.issuer}/api/accounts/deviceauth/token"
        response = await self._send(url, json=body)
        if response.status_code in (403, 404):
            return None
        try:
            return msgspec.json.decode(_successful(response).content, type=DeviceGrant)
        except msgspec.DecodeError as error:
            raise IssuerError("the issuer's answer holds no authorization code") from error

    async def device_finish(self, grant: DeviceGrant) -> Login:
        """The tokens of a device sign-in. Raises IssuerError."""
        redirect_uri = f"{self._config.issuer}/deviceauth/callback"
        return await self.exchange(grant.authorization_code, redirect_uri=redirect_uri, verifier=grant.code_verifier)

    async def revoke(self, login: Login) -> None:
        """Gives the refresh token back, so that no copy of it is good any more. Raises IssuerError."""
        if login.refresh_token:
            body = {"token": login.refresh_token, "token_type_hint": "refresh_token", "client_id": CLIENT_ID}
            await self._post(self._config.revoke_url, json=body)

    async def _post(self, url: str, **body: Mapping[str, str]) -> httpx.Response:
        return _successful(await self._send(url, **body))

    async def _send(self, url: str, **body: Mapping[str, str]) -> httpx.Response:
        # No proxy stands between this machine and itself.
        trust_env = not is_loopback(urlsplit(url).hostname or "")
        arguments: dict[str, Any] = dict(body)
        try:
            async with (
                asyncio.timeout(REQUEST_SECONDS),
                httpx.AsyncClient(timeout=REQUEST_SECONDS, trust_env=trust_env) as client,
            ):
                return await client.post(url, **arguments)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            # Some of these hold the request, and with it the token, in their cause.
            raise IssuerError(f"{urlsplit(url).hostname} does not answer ({type(error).__name__})") from None


def _tokens(response: httpx.Response) -> _Tokens:
    try:
        body = response.json()
    except (ValueError, RecursionError):
        raise IssuerError("the issuer's answer cannot be read") from None
    found = body if isinstance(body, dict) else {}
    # A token was spent for this: what can be read of the answer is not to be lost for what cannot.
    access, refresh, identity = (
        value if isinstance(value := found.get(name), str) else ""
        for name in ("access_token", "refresh_token", "id_token")
    )
    return _Tokens(access, refresh, identity)


def _successful(response: httpx.Response) -> httpx.Response:
    if response.status_code == 200:
        return response
    code, words = _error_of(response)
    said = f"{response.status_code}{f' {code}' if code else ''}{f': {words}' if words else ''}"
    # A proxy or a firewall in between has statuses of its own, and never the issuer's words.
    if response.status_code == 401 or (response.status_code < 500 and code in _PERMANENT):
        raise SignInRefused(f"the issuer answers {said}")
    raise IssuerError(f"the issuer answers {said}")


def _error_of(response: httpx.Response) -> tuple[str, str]:
    """The error's code and words: `{"error": {code, message}}`, or OAuth's own `{"error", "error_description"}`."""
    try:
        body = response.json()
    except ValueError:
        return "", ""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        return _short(error.get("code") or error.get("type")), _short(error.get("message"))
    return _short(error), _short(body.get("error_description")) if isinstance(body, dict) else ""


def _short(text: object) -> str:
    return "".join(letter for letter in text[:200] if letter.isprintable()) if isinstance(text, str) else ""
