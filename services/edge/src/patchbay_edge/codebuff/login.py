"""Signing in from Codebuff's CLI, with a key of Patchbay's own.

CLI: code -> loginUrl, shown and opened -> browser: the page below takes a key -> CLI: status, asked again and again,
gives the key once. The key is from then on the CLI's, as if the user had put it in its configuration: nothing here
knows of it, so that to log out is to end what is still under way.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs

import msgspec
import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse

from patchbay.codebuff.login import login_sealer, signed_in_user
from patchbay.dispatch.callers import KEY_HEADER
from patchbay.errors import AUTHENTICATION, RATE_LIMITED, UNAVAILABLE, PatchbayError, make_error
from patchbay.state.codebuff_logins import TTL_SECONDS, CodebuffLogins, Login
from patchbay.state.connection import RedisUnavailable
from patchbay_edge.bodies import read_body
from patchbay_edge.codebuff.identity import as_header, identify
from patchbay_edge.codebuff.login_page import form_page, message_page

if TYPE_CHECKING:
    from patchbay_edge.app import Edge

log = structlog.get_logger(__name__)

_PAGE = "/codebuff/login"
_LOGIN_ID = re.compile(r"[0-9a-f]{24}-[0-9a-f]{4}-[0-9a-f]{4}")
# Of a WebSocket's upgrade too.
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_PORTS = {"http": ":80", "https": ":443"}
_MAX_FORM_BYTES = 8192
_NO_STORE = {"cache-control": "no-store"}
_OVER = "This sign-in is over, or was never begun. Start it again in your terminal."

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class _Begin(msgspec.Struct, frozen=True, rename="camel"):
    fingerprint_id: _Name


class _End(msgspec.Struct, frozen=True, rename="camel"):
    fingerprint_id: str | None = None
    fingerprint_hash: str | None = None


def login_router(edge: Edge) -> APIRouter:
    """The endpoints of the CLI, which need no key, and the page."""
    router = APIRouter()
    api = _Logins(edge)
    router.post("/api/auth/cli/code")(api.begin)
    router.get("/api/auth/cli/status")(api.status)
    router.post("/api/auth/cli/logout")(api.end)
    router.get(_PAGE + "/{login_id}")(api.show)
    router.post(_PAGE + "/{login_id}")(api.complete)
    return router


class _Logins:
    def __init__(self, edge: Edge) -> None:
        self._callers = edge.callers
        self._needs_key = edge.settings.security.require_api_key
        self._logins = CodebuffLogins(
            edge.redis, sealer=login_sealer(edge.settings.security), timeout=edge.settings.redis.timeout_seconds
        )

    async def begin(self, request: Request) -> JSONResponse:
        body = await read_body(request, _Begin)
        with _redis_answers():
            begun = await self._logins.begin(body.fingerprint_id, request.client.host if request.client else "")
        if begun is None:
            message = "too many sign-ins were begun from this address; wait a minute"
            raise PatchbayError(make_error(RATE_LIMITED, message, retry_after=60))
        login_id, secret = begun
        said = {
            "fingerprintId": body.fingerprint_id,
            "fingerprintHash": secret,
            "loginUrl": f"{page_url(request)}/{login_id}",
            "expiresAt": round((time.time() + TTL_SECONDS) * 1000),
        }
        return JSONResponse(said, headers=_NO_STORE)

    async def status(self, request: Request) -> JSONResponse:
        query = request.query_params
        fingerprint_id, secret = query.get("fingerprintId", ""), query.get("fingerprintHash", "")
        with _redis_answers():
            token = await self._logins.take(fingerprint_id, secret)
        if token is None:
            raise PatchbayError(make_error(AUTHENTICATION, "nobody has signed in yet"))
        caller = identify(self._callers, {}, token).caller
        user = signed_in_user(caller, token, fingerprint_id=fingerprint_id, secret=secret)
        return JSONResponse({"user": user, "message": "Signed in."}, headers=_NO_STORE)

    async def end(self, request: Request) -> dict[str, bool]:
        body = await read_body(request, _End)
        with _redis_answers():
            await self._logins.end(body.fingerprint_id or "", body.fingerprint_hash or "")
        return {"success": True}

    async def show(self, login_id: str) -> Response:
        login = await self._find(login_id)
        return login if isinstance(login, HTMLResponse) else self._form(login_id, login)

    async def complete(self, login_id: str, request: Request) -> Response:
        if not _is_of_this_page(request):
            return message_page("Not signed in", "This form is from another site's page.", 403)
        form = await _read_form(request)
        if form is None:
            return message_page("Not signed in", "The form cannot be read.", 400)
        login = await self._find(login_id)
        if isinstance(login, HTMLResponse):
            return login
        if "without_key" in form and not self._needs_key:
            # It stands for nobody; whoever needs no key may as well have any.
            return await self._signed_in(login_id, f"local-{secrets.token_urlsafe(24)}", key_id="")
        try:
            if not await self._logins.may_try(login_id):
                message = "There were too many wrong keys. Start again in your terminal."
                return message_page("Not signed in", message, 429)
        except RedisUnavailable:
            return _away()
        key = form.get("key", "").strip()
        key_id = self._key_id(key)
        if not key_id:
            log.warning("codebuff_login_refused", login_id=login_id)
            return self._form(login_id, login, error="That is no key of this Patchbay.", status=403)
        return await self._signed_in(login_id, key, key_id=key_id)

    async def _find(self, login_id: str) -> Login | HTMLResponse:
        """The sign-in, or the page that says why there is none."""
        try:
            login = await self._logins.find(login_id) if _LOGIN_ID.fullmatch(login_id) else None
        except RedisUnavailable:
            return _away()
        return login or message_page("Nothing to sign in to", _OVER, 404)

    async def _signed_in(self, login_id: str, token: str, *, key_id: str) -> Response:
        try:
            done = await self._logins.complete(login_id, token)
        except RedisUnavailable:
            return _away()
        if not done:
            return message_page("Signed in before", "Somebody has signed in on this page already.", 409)
        log.info("codebuff_login", login_id=login_id, key_id=key_id)
        return message_page("Signed in", "You may close this page and go back to your terminal.")

    def _form(self, login_id: str, login: Login, *, error: str = "", status: int = 200) -> HTMLResponse:
        takes_key = self._needs_key or self._callers.has_keys
        return form_page(
            login_id, login, takes_key=takes_key, takes_none=not self._needs_key, error=error, status=status
        )

    def _key_id(self, key: str) -> str:
        """Whose key it is; empty: nobody's."""
        try:
            return self._callers.identify({KEY_HEADER: as_header(key)}).caller.key_id
        except PatchbayError:
            return ""


def page_url(connection: HTTPConnection) -> str:
    """Where the page of a sign-in is for a client, but for the sign-in's id."""
    scheme, host = _address(connection)
    return f"{scheme}://{host}{_PAGE}"


def _address(connection: HTTPConnection) -> tuple[str, str]:
    """Scheme and host by which the client has reached this edge. They are only ever told to that client."""
    forwarded = {
        name: connection.headers.get(f"x-forwarded-{name}", "").partition(",")[0].strip() for name in ("proto", "host")
    }
    scheme = forwarded["proto"] if forwarded["proto"] in _SCHEMES else connection.scope["scheme"]
    return _SCHEMES[scheme], forwarded["host"] or connection.headers.get("host") or "localhost"


def _is_of_this_page(request: Request) -> bool:
    """Whether a form was sent from a page of this edge, or by no browser at all."""
    origin = request.headers.get("origin")
    if origin is None:
        return True
    scheme, _, host = origin.partition("://")
    # Browsers leave out the port that a scheme has by itself; proxies may not.
    port = _PORTS.get(scheme, "")
    return bool(host) and host in [
        name.removesuffix(port) for name in (request.headers.get("host", ""), _address(request)[1])
    ]


async def _read_form(request: Request) -> dict[str, str] | None:
    """The first value of each field; None: it is too large, or not this page's."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_FORM_BYTES:
            return None
    try:
        fields = parse_qs(body.decode("latin-1"), max_num_fields=10)
    except ValueError:
        return None
    return {name: values[0] for name, values in fields.items()}


@contextmanager
def _redis_answers() -> Iterator[None]:
    try:
        yield
    except RedisUnavailable as error:
        message = "sign-ins cannot be reached: Redis is away"
        raise PatchbayError(make_error(UNAVAILABLE, message, retry_after=1)) from error


def _away() -> HTMLResponse:
    return message_page("Not now", "Sign-ins cannot be reached at the moment. Try again.", 503)
