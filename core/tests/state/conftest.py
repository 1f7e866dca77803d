"""A server of its own for each test, and clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from patchbay.state.connection import connect
from patchbay.testing.eventually import wait_until
from patchbay.testing.valkey import ValkeyProcess

Connect = Callable[[str], "Redis | RedisCluster"]


@pytest.fixture
def valkey() -> Iterator[ValkeyProcess]:
    with ValkeyProcess() as process:
        yield process


@pytest.fixture
def cluster() -> Iterator[ValkeyProcess]:
    """A cluster of one node, which owns every slot."""
    with ValkeyProcess(options={"cluster-enabled": "yes"}) as process:
        assert process.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"+OK"
        wait_until(lambda: process.command("SET", "pb:x", "1") == b"+OK", what="a cluster that takes writes")
        yield process


@pytest.fixture
async def connected() -> AsyncIterator[Connect]:
    """Makes clients that are closed after the test."""
    clients: list[Redis | RedisCluster] = []

    def make(url: str, timeout: float = 0.5) -> Redis | RedisCluster:
        clients.append(connect(url, timeout=timeout))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
def redis(valkey: ValkeyProcess, connected: Connect) -> Redis:
    client = connected(valkey.url)
    assert isinstance(client, Redis)
    return client


@pytest.fixture
async def background() -> AsyncIterator[Callable[[Awaitable[None]], asyncio.Task[None]]]:
    """Runs something beside the test; it is cancelled at the end and may not have failed."""
    tasks: list[asyncio.Task[None]] = []

    def start(work: Awaitable[None]) -> asyncio.Task[None]:
        tasks.append(asyncio.ensure_future(work))  # type: ignore[arg-type]
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert result is None or isinstance(result, asyncio.CancelledError), result
