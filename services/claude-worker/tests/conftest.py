from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from patchbay.state.connection import connect
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin.testing import StandinProcess


@pytest.fixture(scope="session")
def standin_process() -> Iterator[StandinProcess]:
    with StandinProcess() as process:
        yield process


@pytest.fixture
def standin(standin_process: StandinProcess) -> StandinProcess:
    """The stand-in, with nothing recorded yet."""
    standin_process.reset()
    return standin_process


@pytest.fixture
def valkey() -> Iterator[ValkeyProcess]:
    with ValkeyProcess() as process:
        yield process


@pytest.fixture
async def redis(valkey: ValkeyProcess) -> AsyncIterator[Redis]:
    client = connect(valkey.url)
    assert isinstance(client, Redis)
    yield client
    await client.aclose()
