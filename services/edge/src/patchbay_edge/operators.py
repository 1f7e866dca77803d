"""Who may operate this system: sign backends in and out, and answer for every caller."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request

from patchbay.dispatch.callers import Callers, Identity
from patchbay.errors import PERMISSION, PatchbayError, make_error
from patchbay.settings import is_loopback

# What a proxy adds: the connection's own address is then not the caller's.
_FORWARDING = frozenset({"forwarded", "via", "x-real-ip", "x-client-ip", "cf-connecting-ip", "true-client-ip"})


def is_operator(identity: Identity, callers: Callers, request: Request) -> bool:
    """Whether the caller has an operator's key or, where no keys are configured, sits at this machine."""
    if callers.has_keys:
        return identity.operator
    here = request.client is not None and is_loopback(request.client.host) and not _is_forwarded(request.headers)
    # A web page whose name leads to this machine calls from it, too, but by that name.
    return here and is_loopback(request.url.hostname or "")


def require_operator(callers: Callers, request: Request) -> Identity:
    """The caller, who is an operator.

    Raises:
        PatchbayError: AUTHENTICATION without a valid key where one is required, PERMISSION for anyone else.
    """
    identity = callers.identify(request.headers)
    if not is_operator(identity, callers, request):
        how = (
            "use a key with `operator: true`"
            if callers.has_keys
            else "configure a key with `operator: true` under security.api_keys, or call from this machine itself"
        )
        raise PatchbayError(make_error(PERMISSION, f"only an operator may do this; {how}"))
    return identity


def require_json(request: Request) -> None:
    """Refuses a body that a web page could send without asking the browser's leave.

    Raises:
        PatchbayError: PERMISSION.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise PatchbayError(make_error(PERMISSION, "the body must be sent with content-type: application/json"))


def _is_forwarded(headers: Mapping[str, str]) -> bool:
    return any(name in _FORWARDING or name.startswith("x-forwarded-") for name in headers)
