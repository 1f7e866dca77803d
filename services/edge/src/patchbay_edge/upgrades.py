"""Upgrades to WebSocket: who may have one, and how one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from uvicorn.protocols.utils import ClientDisconnected

from patchbay.dialects.base import ErrorBody
from patchbay.errors import PERMISSION, PatchbayError, make_error
from patchbay_edge.exchange import Scope, Send


def headers_of(scope: Scope) -> Mapping[str, str]:
    """The headers of an upgrade, names in lower case."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def check_origin(headers: Mapping[str, str]) -> None:
    """Browsers let any page open a WebSocket to this machine and read what comes: only a page of ours may.

    Raises:
        PatchbayError: PERMISSION for a page of another site.
    """
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        raise PatchbayError(make_error(PERMISSION, f"pages of {origin} may not open a WebSocket here"))


async def refuse(send: Send, error: ErrorBody) -> NoReturn:
    """Answers an upgrade with an error, and ends its serving."""
    headers = {"content-type": error.content_type, "content-length": str(len(error.body)), **error.headers}
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": raw})
    await send({"type": "websocket.http.response.body", "body": error.body})
    # Uvicorn takes a refused upgrade for a mistake of ours, and logs it as one, unless the client is gone.
    raise ClientDisconnected
