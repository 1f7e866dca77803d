"""Errors that a provider answers with, before a protocol gives them its shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from patchbay_standin.script import ErrorEvent, ErrorReply, ErrorShape

_MESSAGES: Final[Mapping[int, str]] = {
    400: "The request is invalid.",
    401: "The API key is invalid.",
    402: "The account's credit is used up.",
    403: "This key may not use the requested resource.",
    404: "The requested resource does not exist.",
    413: "The request is too large.",
    429: "Too many requests in a short time.",
    500: "Internal server error",
    503: "The service is unavailable for a moment.",
    529: "Overloaded",
}


@dataclass(eq=False, kw_only=True)
class ProviderError(Exception):
    """An error answer.

    `type` and `code` left out are the ones that the protocol has for the status.
    """

    status: int
    message: str
    type: str | None = None
    code: str | int | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    # More fields of the error object.
    fields: Mapping[str, object] = field(default_factory=dict)
    shape: ErrorShape = "error"
    # The event that carries it inside a stream, where the protocol has two.
    event: Literal["failed", "error"] = "failed"
    raw_body: str | None = None

    @classmethod
    def scripted(cls, reply: ErrorReply) -> ProviderError:
        """The error that a script asks for."""
        headers = dict(reply.headers)
        if reply.retry_after is not None:
            headers["retry-after"] = f"{reply.retry_after:g}"
        return cls(
            status=reply.status,
            message=_MESSAGES.get(reply.status, "The request failed.") if reply.message is None else reply.message,
            type=reply.type,
            code=reply.code,
            param=reply.param,
            headers=headers,
            fields=reply.fields,
            shape=reply.shape,
            event=reply.event if isinstance(reply, ErrorEvent) else "failed",
            raw_body=reply.raw_body,
        )


def invalid_request(
    message: str, *, param: str | None = None, code: str | int | None = None, status: int = 400
) -> ProviderError:
    """A request that cannot be honoured."""
    return ProviderError(status=status, message=message, param=param, code=code)
