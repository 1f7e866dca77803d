"""What the provider is asked about an account beside its requests: an answer is of use, and nothing waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from patchbay.errors import PatchbayError
from patchbay.upstream.transport import Upstream, read_all

# Far shorter than what an answer may take: behind it wait the other accounts, and what else is looked after.
DEADLINE_SECONDS = 15.0
_MAX_BYTES = 1024 * 1024


async def read_page(upstream: Upstream, path: str, headers: Mapping[str, str]) -> bytes | None:
    """The body of the page at `path`; None: the provider does not say."""
    try:
        async with (
            asyncio.timeout(DEADLINE_SECONDS),
            upstream.request("GET", path, headers=headers) as response,
        ):
            body = await read_all(response, _MAX_BYTES)
            return body if response.status == 200 else None
    except (PatchbayError, TimeoutError):
        return None
