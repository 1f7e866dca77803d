"""The first generation's sign-in, which is asked for over the socket; the page that takes the key is the edge's."""

from __future__ import annotations

import structlog

from patchbay.codebuff.login import signed_in_user
from patchbay.errors import PatchbayError
from patchbay.state.connection import RedisUnavailable
from patchbay_codebuff_ws.connection.parts import Parts
from patchbay_codebuff_ws.connection.prompts import identify
from patchbay_codebuff_ws.connection.wire import text_of
from patchbay_codebuff_ws.ports import JsonObject
from patchbay_proto.v1.codebuff_pb2 import Attach

log = structlog.get_logger(__name__)

_LONGEST_NAME = 500
_NO_PAGE = "One cannot sign in here."
_NO_FINGERPRINT = "A sign-in needs a `fingerprintId`."
_TOO_MANY = "Too many sign-ins were begun from this address. Wait a minute."
_AWAY = "Sign-ins cannot be reached at the moment. Try again."


class LegacyLogin:
    """What a socket's client asks to sign in.

    Args:
        attach: Says where the page is, and the client's address.
    """

    def __init__(self, attach: Attach, parts: Parts) -> None:
        self._page = attach.login_page
        self._address = attach.client_address
        self._parts = parts

    async def answer(self, kind: str, action: JsonObject) -> JsonObject | None:
        """What the client is told; None: nothing yet, and it will ask again."""
        fingerprint_id = text_of(action.get("fingerprintId"))
        if kind == "login-code-request":
            return await self._begin(fingerprint_id)
        return await self._look(fingerprint_id, text_of(action.get("fingerprintHash")))

    async def _begin(self, fingerprint_id: str) -> JsonObject:
        if not self._page:
            return _error(_NO_PAGE)
        if not 0 < len(fingerprint_id) <= _LONGEST_NAME:
            return _error(_NO_FINGERPRINT)
        try:
            begun = await self._parts.logins.begin(fingerprint_id, self._address)
        except RedisUnavailable as error:
            log.warning("codebuff_login_not_begun", error=str(error))
            return _error(_AWAY)
        if begun is None:
            return _error(_TOO_MANY)
        login_id, secret = begun
        return {
            "type": "login-code-response",
            "fingerprintId": fingerprint_id,
            "fingerprintHash": secret,
            "loginUrl": f"{self._page}/{login_id}",
        }

    async def _look(self, fingerprint_id: str, secret: str) -> JsonObject | None:
        try:
            token = await self._parts.logins.take(fingerprint_id, secret)
        except RedisUnavailable as error:
            log.warning("codebuff_login_not_looked_up", error=str(error))
            return None
        if token is None:
            # Its client takes an answer without a user for the end.
            return None
        try:
            caller = identify(self._parts.callers, {}, token).caller
        except PatchbayError as error:
            return {"type": "auth-result", "message": error.error.message}
        user = signed_in_user(caller, token, fingerprint_id=fingerprint_id, secret=secret)
        return {"type": "auth-result", "user": user, "message": "Signed in."}


def _error(message: str) -> JsonObject:
    return {"type": "action-error", "message": message}
