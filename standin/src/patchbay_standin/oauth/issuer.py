"""The OAuth issuer: sign-in in a browser or with a code, rotating refresh tokens, revocation.

Its answers are those of https://auth.openai.com, as Codex and its peers meet them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

from patchbay_standin.exchange import Exchange
from patchbay_standin.oauth.accounts import Accounts, Holder, RefreshToken
from patchbay_standin.oauth.device import Devices
from patchbay_standin.oauth.refusals import Refusal, invalid_grant, invalid_request
from patchbay_standin.oauth.spec import RefreshFault
from patchbay_standin.records import Outcome, Records

# A sign-in's code is good for so long, once.
_CODE_SECONDS: Final = 600
_TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_SCOPE: Final = "openid profile email offline_access"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

_encode = msgspec.json.Encoder().encode

Fields: TypeAlias = Mapping[str, str]


class Answer(NamedTuple):
    """What a client gets."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    location: str | None = None


@dataclass(frozen=True, slots=True)
class _Grant:
    """A code that a sign-in ended with."""

    holder: Holder
    client_id: str
    redirect_uri: str
    challenge: str
    expires: float


class Issuer:
    """Serves the issuer's endpoints."""

    def __init__(self, accounts: Accounts, records: Records) -> None:
        self.devices = Devices()
        self._accounts = accounts
        self._records = records
        self._grants: dict[str, _Grant] = {}
        self._endpoints: dict[tuple[str, str], Callable[[Exchange, Fields], Awaitable[Answer]]] = {
            ("GET", "/oauth/authorize"): self._authorize,
            ("POST", "/oauth/token"): self._token,
            ("POST", "/oauth/revoke"): self._revoke,
            ("POST", "/api/accounts/deviceauth/usercode"): self._start_device,
            ("POST", "/api/accounts/deviceauth/token"): self._poll_device,
            ("GET", "/codex/device"): self._open_device,
            ("POST", "/codex/device"): self._open_device,
            ("GET", "/deviceauth/callback"): self._device_callback,
        }

    async def serve(self, exchange: Exchange) -> Outcome | None:
        """Answers a request; None: it is for none of the endpoints. Raises ClientGone."""
        endpoint = self._endpoints.get((exchange.scope["method"], exchange.scope["path"]))
        if endpoint is None:
            return None
        exchange.entry.protocol = "oauth"
        body = await exchange.read_body()
        self._records.keep_body(exchange.entry, body)
        try:
            answer = await endpoint(exchange, _fields(exchange, body))
        except Refusal as refusal:
            answer = Answer(refusal.status, _encode(refusal.body))
        headers = [(b"content-type", answer.content_type), (b"cache-control", b"no-store")]
        if answer.location is not None:
            headers.append((b"location", answer.location.encode()))
        await exchange.reply(answer.status, headers, answer.body)
        return "completed" if answer.status < 400 else "error"

    def approve_device(self, user_code: str) -> None:
        """Someone has opened the page and said yes. Raises Refusal."""
        self.devices.approve(user_code)

    def forget(self) -> None:
        """Forgets all sign-ins under way."""
        self._grants.clear()
        self.devices.clear()

    async def _authorize(self, exchange: Exchange, fields: Fields) -> Answer:
        """Says yes at once, and sends the browser back."""
        if fields.get("response_type") != "code":
            raise invalid_request("response_type must be code")
        if fields.get("code_challenge_method") != "S256" or not fields.get("code_challenge"):
            raise invalid_request("a code_challenge with code_challenge_method S256 is required")
        if "openid" not in fields.get("scope", "").split():
            raise invalid_request("scope must have openid")
        client_id, redirect = _required(fields, "client_id"), _required(fields, "redirect_uri")
        state = _required(fields, "state")
        where = urlsplit(redirect)
        if where.scheme != "http" or where.hostname not in _LOOPBACK or where.path != "/auth/callback":
            raise invalid_request("redirect_uri is not registered: http://127.0.0.1:<port>/auth/callback is")
        holder = self._accounts.at_the_browser(fields.get("login_hint"), fields.get("allowed_workspace_id"))
        code = self._grant(holder, client_id, redirect, fields["code_challenge"])
        location = f"{redirect}?{urlencode({'code': code, 'scope': fields['scope'], 'state': state})}"
        return Answer(302, b"", b"text/html; charset=utf-8", location)

    async def _token(self, exchange: Exchange, fields: Fields) -> Answer:
        grant = fields.get("grant_type")
        if grant == "refresh_token":
            return await self._refresh(exchange, fields)
        if not exchange.headers.get(b"content-type", b"").startswith(b"application/x-www-form-urlencoded"):
            raise invalid_request(f"grant_type {grant} is taken as application/x-www-form-urlencoded only")
        if grant == "authorization_code":
            return self._redeem(exchange, fields)
        if grant == _TOKEN_EXCHANGE:
            return self._exchange_token(fields)
        raise Refusal(400, {"error": "unsupported_grant_type", "error_description": f"grant_type {grant}"})

    def _redeem(self, exchange: Exchange, fields: Fields) -> Answer:
        grant = self._grants.pop(_required(fields, "code"), None)
        if grant is None or grant.expires < time.time():
            raise invalid_grant("the code is unknown, used or expired")
        if fields.get("client_id") != grant.client_id:
            raise invalid_grant("the code was given to another client_id")
        if fields.get("redirect_uri") != grant.redirect_uri:
            raise invalid_grant("redirect_uri differs from the one of the sign-in")
        if challenge_of(fields.get("code_verifier", "")) != grant.challenge:
            raise invalid_grant("code_verifier does not fit code_challenge")
        tokens = self._accounts.sign_in(grant.holder, _issuer(exchange), grant.client_id)
        return _json(
            {
                "id_token": tokens.id_token,
                "access_token": tokens.access_token,
                "refresh_token": tokens.refresh_token,
                "token_type": "Bearer",
                "expires_in": int(grant.holder.spec.token_lifetime_s),
            }
        )

    async def _refresh(self, exchange: Exchange, fields: Fields) -> Answer:
        token = self._accounts.refresh_tokens.get(_required(fields, "refresh_token"))
        if token is None:
            raise Refusal.of_refresh("refresh_token_invalidated", "Your refresh token is not known.")
        report = token.holder.report
        report.refresh_requests += 1
        report.refresh_reasons.append(fields.get("refresh_reason", ""))
        if fields.get("client_id") != token.client_id:
            raise Refusal(401, {"error": "invalid_client", "error_description": "the token is another client's"})
        fault = token.holder.next_fault()
        report.holding += 1
        try:
            if fault.delay_ms:
                await exchange.sleep_until(asyncio.get_running_loop().time() + fault.delay_ms / 1000)
            if fault.hang == "before":
                await exchange.hold()
            return await self._decide(exchange, token, fault)
        finally:
            report.holding -= 1

    async def _decide(self, exchange: Exchange, token: RefreshToken, fault: RefreshFault) -> Answer:
        if fault.status is not None:
            if fault.status == 401:
                raise Refusal.of_refresh(fault.code or "refresh_token_expired", "Your refresh token is no longer good.")
            raise Refusal(fault.status, {"error": fault.code or "server_error", "error_description": "Try again."})
        if token.state == "used":
            token.holder.report.reused += 1
            raise Refusal.of_refresh(
                "refresh_token_reused",
                "Your refresh token has already been used to generate a new access token. Please try signing in again.",
            )
        if token.state == "revoked":
            raise Refusal.of_refresh("refresh_token_invalidated", "Your refresh token has been revoked.")
        tokens = self._accounts.rotate(token, _issuer(exchange))
        if fault.hang == "after":
            await exchange.hold()
        if "refresh_token" in fault.omit:
            # Left out means that it stays good.
            self._accounts.refresh_tokens.pop(tokens.refresh_token)
            token.state = "live"
        answer: dict[str, object] = {
            "id_token": tokens.id_token,
            "access_token": tokens.access_token,
            "refresh_token": tokens.refresh_token,
            "token_type": "Bearer",
            "expires_in": int(token.holder.spec.token_lifetime_s),
            "scope": _SCOPE,
        }
        return _json({name: value for name, value in answer.items() if name not in fault.omit})

    def _exchange_token(self, fields: Fields) -> Answer:
        if fields.get("requested_token") != "openai-api-key":
            raise invalid_request("requested_token must be openai-api-key")
        holder = self._accounts.id_tokens.get(_required(fields, "subject_token"))
        if holder is None:
            raise invalid_grant("subject_token is no id_token of this issuer")
        return _json({"access_token": f"sk-standin-{holder.name}-{secrets.token_hex(8)}", "token_type": "Bearer"})

    async def _revoke(self, exchange: Exchange, fields: Fields) -> Answer:
        token = self._accounts.refresh_tokens.get(_required(fields, "token"))
        # Revoking a token that is none is fine: https://www.rfc-editor.org/rfc/rfc7009#section-2.2
        if token is not None:
            token.state = "revoked"
            token.holder.report.revoked += 1
        return _json({})

    async def _start_device(self, exchange: Exchange, fields: Fields) -> Answer:
        return _json(self.devices.start(_required(fields, "client_id")))

    async def _poll_device(self, exchange: Exchange, fields: Fields) -> Answer:
        device = self.devices.poll(_required(fields, "device_auth_id"), _required(fields, "user_code"))
        verifier = secrets.token_urlsafe(48)
        holder = self._accounts.at_the_browser(None, None)
        redirect = f"{_issuer(exchange)}/deviceauth/callback"
        code = self._grant(holder, device.client_id, redirect, challenge_of(verifier))
        return _json(
            {
                "status": "success",
                "authorization_code": code,
                "code_challenge": challenge_of(verifier),
                "code_verifier": verifier,
            }
        )

    async def _open_device(self, exchange: Exchange, fields: Fields) -> Answer:
        """The page that the user opens: with the code in the query or in its form, it is approved."""
        code = fields.get("user_code")
        if code:
            self.devices.approve(code)
        text = "You are signed in; this page may be closed." if code else _FORM
        return Answer(200, text.encode(), b"text/html; charset=utf-8")

    async def _device_callback(self, exchange: Exchange, fields: Fields) -> Answer:
        return Answer(200, b"Nothing is to be seen here.", b"text/html; charset=utf-8")

    def _grant(self, holder: Holder, client_id: str, redirect: str, challenge: str) -> str:
        code = f"ac_standin.{secrets.token_urlsafe(24)}"
        self._grants[code] = _Grant(holder, client_id, redirect, challenge, time.time() + _CODE_SECONDS)
        return code


_FORM: Final = '<form method="post"><input name="user_code" placeholder="XXXX-XXXXX"><button>Continue</button></form>'


def challenge_of(verifier: str) -> str:
    """The S256 challenge of a verifier: https://www.rfc-editor.org/rfc/rfc7636#section-4.2"""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _json(value: object) -> Answer:
    return Answer(200, _encode(value))


def _issuer(exchange: Exchange) -> str:
    """The issuer's URL, as the client knows it."""
    return f"{exchange.scope.get('scheme', 'http')}://{exchange.headers.get(b'host', b'localhost').decode('latin-1')}"


def _required(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if not value:
        raise invalid_request(f"{name} is required")
    return value


def _fields(exchange: Exchange, body: bytes) -> Fields:
    """Query, and form or JSON."""
    fields = dict(parse_qsl(exchange.scope.get("query_string", b"").decode("latin-1")))
    if exchange.headers.get(b"content-type", b"").startswith(b"application/json"):
        try:
            fields.update(msgspec.json.decode(body, type=dict[str, str]))
        except msgspec.DecodeError as error:
            raise invalid_request(f"the body is no object of texts: {error}") from None
    else:
        fields.update(parse_qsl(body.decode("latin-1")))
    return fields
