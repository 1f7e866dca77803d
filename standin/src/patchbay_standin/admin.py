"""The stand-in's own endpoints under `/standin`: records, counts and scripts.

GET    /standin/health
GET    /standin/stats
GET    /standin/requests[?after=<id>]
DELETE /standin/requests                  forgets requests, counts and attempts
GET    /standin/scripts
PUT    /standin/scripts/<name>            the body is the script
DELETE /standin/scripts[/<name>]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs

import msgspec

from patchbay_standin.exchange import Receive, Scope, Send
from patchbay_standin.library import Library
from patchbay_standin.records import Records
from patchbay_standin.script import ScriptError, read_script

_SCRIPTS: Final = "/standin/scripts"


class _Refused(Exception):
    """An admin request that cannot be done: status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Admin:
    """Serves the endpoints."""

    def __init__(self, records: Records, library: Library) -> None:
        self._records = records
        self._library = library

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
                return {}
        if path == _SCRIPTS or path.startswith(f"{_SCRIPTS}/"):
            return self._scripts(method, path.removeprefix(_SCRIPTS).removeprefix("/"), body)
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


def _after(scope: Scope) -> int:
    values = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("after", ["0"])
    try:
        return int(values[-1])
    except ValueError:
        raise _Refused(400, "`after` is the id of a request") from None
