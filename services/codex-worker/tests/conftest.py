from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from issuers import Issuer
from redis.asyncio import Redis

from patchbay.state.connection import connect
from patchbay.testing.valkey import ValkeyProcess


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as served:
        yield served


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[ValkeyProcess]:
    with ValkeyProcess() as process:
        yield process


@pytest.fixture
def valkey(shared_valkey: ValkeyProcess) -> ValkeyProcess:
    """A server with nothing in it."""
    shared_valkey.command("FLUSHALL")
    return shared_valkey


@pytest.fixture
async def redis(valkey: ValkeyProcess) -> AsyncIterator[Redis]:
    client = connect(valkey.url)
    assert isinstance(client, Redis)
    yield client
    await client.aclose()
