"""Who a Codebuff client is: the key it brings, in whichever place."""

from __future__ import annotations

from collections.abc import Mapping

from patchbay.dispatch.callers import Callers, Identity

_OWN_HEADER = "x-codebuff-api-key"


def identify(callers: Callers, headers: Mapping[str, str], token: str = "") -> Identity:
    """The caller behind a request.

    Args:
        headers: Names in lower case. Some requests have the key in a header of Codebuff's own.
        token: The key that the body has, if the headers have none.

    Raises:
        PatchbayError: AUTHENTICATION when a key is required and none, or a wrong one, is there.
    """
    offered = headers.get(_OWN_HEADER, "") or as_header(token)
    if offered and "authorization" not in headers:
        headers = {**headers, "authorization": f"Bearer {offered}"}
    return callers.identify(headers)


def as_header(text: str) -> str:
    """A text as a header would bring it: latin-1, which stands for the bytes sent."""
    return text.encode(errors="replace").decode("latin-1")
