"""Servers for these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from patchbay.testing.upstream import Script, Upstream, upstream


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Script], Awaitable[Upstream]]]:
    """Starts scripted servers that stop with the test."""
    async with AsyncExitStack() as stack:
        yield lambda script: stack.enter_async_context(upstream(script))
