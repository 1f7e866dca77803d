"""The stand-in's own endpoints under `/standin`: records, counts, scripts and accounts.

GET    /standin/health
GET    /standin/stats
GET    /standin/requests[?after=<id>]
DELETE /standin/requests                  forgets requests, counts, attempts and stored responses
GET    /standin/scripts
PUT    /standin/scripts/<name>            the body is the script
DELETE /standin/scripts[/<name>]
GET    /standin/accounts[/<name>]         what happened to them
PUT    /standin/accounts/<name>           the body is the account
DELETE /standin/accounts[/<name>]
POST   /standin/accounts/<name>/sign-in   new tokens, beside those there are
POST   /standin/accounts/<name>/expire    refuses all access tokens issued so far
PUT    /standin/accounts/<name>/refresh   the body is what happens to refreshes; null: nothing
PUT    /standin/device                    the body is how sign-in with a code goes
POST   /standin/device/<user code>        approves the device with this code
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar
from urllib.parse import parse_qs

import msgspec

from patchbay_standin.exchange import Receive, Scope, Send
from patchbay_standin.library import Library
from patchbay_standin.oauth import Account, Accounts, DeviceFlow, Holder, Issuer, RefreshFault
from patchbay_standin.oauth.refusals import Refusal
from patchbay_standin.openai_responses import Shelf
from patchbay_standin.records import Records
from patchbay_standin.script import ScriptError, read_script

_SCRIPTS: Final = "/standin/scripts"
_ACCOUNTS: Final = "/standin/accounts"
_DEVICE: Final = "/standin/device"

Value = TypeVar("Value")


class _Refused(Exception):
    """An admin request that cannot be done: status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Admin:
    """Serves the endpoints."""

    def __init__(self, records: Records, library: Library, *, accounts: Accounts, issuer: Issuer, shelf: Shelf) -> None:
        self._records = records
        self._library = library
        self._accounts = accounts
        self._issuer = issuer
        self._shelf = shelf

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request to `/standin/...` with JSON."""
        body = bytearray()
        message = await receive()
        while message["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
            message = await receive()
        try:
            status, answer = 200, self._answer(scope, bytes(body))
        except _Refused as refused:
            status, answer = refused.status, {"error": str(refused)}
        data = msgspec.json.encode(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    def _answer(self, scope: Scope, body: bytes) -> object:
        method, path = scope["method"], scope["path"].rstrip("/")
        match method, path:
            case "GET", "/standin/health":
                return {"status": "ok"}
            case "GET", "/standin/stats":
                return self._records.stats
            case "GET", "/standin/requests":
                return self._records.show(after=_after(scope))
            case "DELETE", "/standin/requests":
                self._records.clear()
                self._library.restart_attempts()
                self._shelf.clear()
                return {}
        if path == _SCRIPTS or path.startswith(f"{_SCRIPTS}/"):
            return self._scripts(method, path.removeprefix(_SCRIPTS).removeprefix("/"), body)
        if path == _ACCOUNTS or path.startswith(f"{_ACCOUNTS}/"):
            name, _, action = path.removeprefix(_ACCOUNTS).removeprefix("/").partition("/")
            return self._account(method, name, action, body, _base_url(scope))
        if path == _DEVICE or path.startswith(f"{_DEVICE}/"):
            return self._device(method, path.removeprefix(_DEVICE).removeprefix("/"), body)
        raise _Refused(404, f"no such endpoint: {method} {path}")

    def _scripts(self, method: str, name: str, body: bytes) -> Mapping[str, object]:
        if method == "GET" and not name:
            return {"names": self._library.names()}
        if method == "PUT" and name:
            try:
                self._library.register(name, read_script(body))
            except ScriptError as error:
                raise _Refused(400, str(error)) from None
            return {"name": name}
        if method == "DELETE":
            self._library.unregister(name or None)
            return {}
        raise _Refused(405, f"{method} is not possible here")

    def _account(self, method: str, name: str, action: str, body: bytes, url: str) -> object:
        match method, action:
            case "GET", "" if not name:
                return [holder.shown() for holder in self._accounts.holders.values()]
            case "GET", "":
                return self._holder(name).shown()
            case "PUT", "" if name:
                return self._accounts.put(name, _read(body, Account)).shown()
            case "DELETE", "":
                self._accounts.forget(name or None)
                if not name:
                    self._issuer.forget()
                return {}
            case "POST", "sign-in":
                return self._accounts.sign_in(self._holder(name), url)
            case "POST", "expire":
                return {"expired": self._accounts.kill_access_tokens(self._holder(name))}
            case "PUT", "refresh":
                fault: RefreshFault | None = _read(body, RefreshFault | None)  # type: ignore[arg-type]
                self._holder(name).set_fault(fault)
                return {}
        raise _Refused(405, f"{method} {action} is not possible here")

    def _holder(self, name: str) -> Holder:
        holder = self._accounts.holders.get(name)
        if holder is None:
            raise _Refused(404, f"no such account: {name}")
        return holder

    def _device(self, method: str, user_code: str, body: bytes) -> Mapping[str, object]:
        if method == "PUT" and not user_code:
            self._issuer.devices.flow = _read(body, DeviceFlow)
            return {}
        if method == "POST" and user_code:
            try:
                self._issuer.approve_device(user_code)
            except Refusal as refusal:
                raise _Refused(refusal.status, str(refusal)) from None
            return {}
        raise _Refused(405, f"{method} is not possible here")


def _read(body: bytes, kind: type[Value]) -> Value:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise _Refused(400, str(error)) from None


def _base_url(scope: Scope) -> str:
    host = dict(scope["headers"]).get(b"host", b"localhost").decode("latin-1")
    return f"{scope.get('scheme', 'http')}://{host}"


def _after(scope: Scope) -> int:
    values = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("after", ["0"])
    try:
        return int(values[-1])
    except ValueError:
        raise _Refused(400, "`after` is the id of a request") from None
