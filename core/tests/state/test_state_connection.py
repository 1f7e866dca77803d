from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from patchbay.state.connection import RedisUnavailable, connect, deadline
from patchbay.testing.eventually import eventually, hold
from patchbay.testing.valkey import ValkeyProcess


async def test_tcp_with_user_password_and_database(valkey, connected):
    valkey.command("ACL", "SETUSER", "edge", "on", ">p@ss", "~*", "&*", "+@all")
    address = f"127.0.0.1:{valkey.port}"
    client = connected(f"redis://edge:p%40ss@{address}/3")
    await client.set("pb:x", "1")
    assert await connected(f"redis://{address}/3").get("pb:x") == b"1"
    assert await connected(f"redis://{address}/0").get("pb:x") is None
    with pytest.raises(RedisConnectionError):
        await connected(f"redis://edge:wrong@{address}/3").get("pb:x")


async def test_unix_socket(tmp_path, connected):
    path = tmp_path / "s"
    with ValkeyProcess(options={"unixsocket": str(path)}):
        assert await connected(f"unix://{path}?db=0").ping()


async def test_sentinel_finds_the_primary_and_the_next(valkey, connected):
    monitor = (
        f"sentinel monitor patchbay 127.0.0.1 {valkey.port} 1",
        "sentinel down-after-milliseconds patchbay 1000",
    )
    with ValkeyProcess(options={"replicaof": f"127.0.0.1 {valkey.port}"}) as replica:

        async def is_replicated() -> bool:
            return (await direct.info("replication"))["master_link_status"] == "up"

        direct = connected(replica.url)
        await eventually(is_replicated)
        with ValkeyProcess(sentinel=monitor) as sentinel:
            dead = ValkeyProcess()
            client = connected(f"redis+sentinel://127.0.0.1:{dead.port},127.0.0.1:{sentinel.port}/patchbay/2")
            await client.set("pb:x", "1")
            assert await connected(valkey.url.replace("/0", "/2")).get("pb:x") == b"1"

            async def fails_over() -> bool:
                return sentinel.command("SENTINEL", "FAILOVER", "patchbay") == b"+OK"

            async def writes_to_replica() -> bool:
                with suppress(RedisConnectionError, ReadOnlyError):
                    await client.set("pb:y", "2")
                return await connected(replica.url.replace("/0", "/2")).get("pb:y") == b"2"

            await eventually(fails_over, seconds=20)
            await eventually(writes_to_replica, seconds=20)


async def test_cluster(cluster, connected):
    client = connected(f"redis+cluster://127.0.0.1:{cluster.port}")
    assert isinstance(client, RedisCluster)
    await client.set("pb:x", "1")
    assert await client.get("pb:x") == b"1"


@pytest.mark.parametrize(
    "url",
    ["", "http://localhost", "localhost:6379", "redis+sentinel://host:1", "redis+cluster://", "redis+cluster://a:1,:2"],
)
def test_refuses_other_urls(url):
    with pytest.raises(ValueError, match=r"scheme|service|no host"):
        connect(url)


async def test_a_paused_server_costs_one_timeout(valkey, connected):
    client = connected(valkey.url, timeout=0.2)
    await client.ping()
    valkey.pause()
    started = time.monotonic()
    with pytest.raises(RedisTimeoutError):
        await client.ping()
    assert time.monotonic() - started < 0.4
    # A connection that is made to a paused server is accepted by the kernel, and then nothing answers.
    started = time.monotonic()
    with pytest.raises(RedisUnavailable, match=r"no answer within 0\.2 s"):
        async with deadline(0.2):
            await client.ping()
    assert time.monotonic() - started < 0.4
    valkey.resume()
    assert await client.ping()


@pytest.fixture(params=["standalone", "cluster"])
def either(request, connected):
    fixture = "valkey" if request.param == "standalone" else "cluster"
    process: ValkeyProcess = request.getfixturevalue(fixture)
    scheme = "redis" if request.param == "standalone" else "redis+cluster"
    return connected(f"{scheme}://127.0.0.1:{process.port}", timeout=10.0)


async def test_more_commands_than_connections_take_turns(either):
    assert await asyncio.gather(*(either.set(f"pb:{n}", n) for n in range(500))) == [True] * 500
    assert await asyncio.gather(*(either.get(f"pb:{n}") for n in range(500))) == [b"%d" % n for n in range(500)]


async def test_many_commands_to_a_paused_server_all_end_in_time(valkey, connected):
    client = connected(valkey.url, timeout=0.5)
    await client.ping()
    valkey.pause()
    started = time.monotonic()
    outcomes = await asyncio.gather(*(client.ping() for _ in range(300)), return_exceptions=True)
    # One wait for a connection and one for an answer, not one wait after the other.
    assert time.monotonic() - started < 2 * 0.5 + 0.5
    assert all(isinstance(outcome, RedisTimeoutError) for outcome in outcomes)


async def test_a_killed_server_is_refused_at_once_and_found_again(valkey, redis):
    await redis.ping()
    valkey.kill()
    started = time.monotonic()
    with pytest.raises(RedisConnectionError):
        await redis.ping()
    assert time.monotonic() - started < 0.4
    valkey.start()
    assert await redis.ping()


async def test_cancelled_commands_never_cross(either):
    """Readers that are cancelled anywhere, some twice, and readers that are not: each reads its own value."""
    chance = random.Random(20)
    await either.mset({f"pb:{{fuzz}}:{n}": n for n in range(50)})
    read = 0

    async def reader(n: int) -> None:
        nonlocal read
        for _ in range(20):
            assert await either.get(f"pb:{{fuzz}}:{n}") == str(n).encode()
            read += 1

    async def cancelled(n: int) -> None:
        task = asyncio.ensure_future(either.get(f"pb:{{fuzz}}:{n}"))
        for _ in range(chance.randrange(1, 3)):
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
            await hold(chance.choice([0, 0, 0.0002, 0.001]))
            task.cancel()
        with suppress(asyncio.CancelledError):
            assert await task == str(n).encode()

    async with asyncio.TaskGroup() as tasks:
        for n in range(25):
            tasks.create_task(reader(n))
        for n in range(1_000):
            tasks.create_task(cancelled(n % 50))
            if n % 10 == 0:
                await asyncio.sleep(0)
    assert read == 25 * 20
    if isinstance(either, Redis):
        # Every connection is back in the pool: as many as it may make can be had at once.
        assert not either.connection_pool._in_use_connections
    assert [await either.get(f"pb:{{fuzz}}:{n}") for n in range(50)] == [str(n).encode() for n in range(50)]
