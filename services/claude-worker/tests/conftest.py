from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import uvloop
from redis.asyncio import Redis

from patchbay.state.connection import connect
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin.testing import StandinProcess

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Pipes and ends of processes are the loops' own affair, and the worker's is uvloop."""
    if item.path.name == "test_cli_process.py":
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    if item.path.name.startswith(("test_cli_", "test_agent_")):
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


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
