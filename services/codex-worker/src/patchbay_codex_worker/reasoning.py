"""Reasoning of earlier answers, which only who has encrypted it can read: no other account, key or model can."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog

from patchbay.dialects.openai_responses import without_reasoning
from patchbay.upstream.http import MAX_ERROR_BYTES
from patchbay.upstream.transport import PeekedResponse, Response, Upstream, read_all

log = structlog.get_logger(__name__)

_UNREADABLE = b"invalid_encrypted_content"


def readable(status: int, said: bytes, body: bytes | None) -> bytes | None:
    """The request without reasoning, where that is what the server could not read; None: it is not.

    Args:
        said: The body of the server's answer.
        body: Of the request.
    """
    if status != 400 or body is None or _UNREADABLE not in said:
        return None
    changed = without_reasoning(body)
    return None if changed is body else changed


class ReasoningUpstream:
    """Asks a server once more, without earlier reasoning, where it cannot read that.

    Args:
        upstream: The server.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    @asynccontextmanager
    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Response]:
        """Sends a request. Raises PatchbayError as the upstream does."""
        async with self._upstream.request(method, path, headers=headers, body=body) as response:
            if response.status != 400:
                yield response
                return
            response.finished()
            said = await read_all(response, MAX_ERROR_BYTES)
            changed = readable(response.status, said, body)
            if changed is None:
                yield PeekedResponse(response, said)
                return
        log.info("reasoning_dropped")
        async with self._upstream.request(method, path, headers=headers, body=changed) as response:
            yield response

    async def aclose(self) -> None:
        await self._upstream.aclose()
