"""Waiting in tests for what happens by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_POLL_SECONDS = 0.002


async def eventually(condition: Callable[[], object], *, seconds: float = 5.0) -> None:
    """Polls until `condition` gives something true; raises TimeoutError when it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  what is waited for has no event to give
            await asyncio.sleep(_POLL_SECONDS)
