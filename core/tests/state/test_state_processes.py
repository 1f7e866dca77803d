"""Replicas as processes of their own, killed at random: never above the limit, and back to all of it within a lease."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
import time
from contextlib import suppress

from patchbay.errors import PatchbayError
from patchbay.state.admission import Admission, Lease, Limits
from patchbay.testing.eventually import eventually, stays

LIMIT = 12
LEASE_SECONDS = 1.0

REPLICA = textwrap.dedent(
    """
    import asyncio, random, sys
    from contextlib import suppress
    from patchbay.errors import PatchbayError
    from patchbay.state.admission import Admission, Limits
    from patchbay.state.connection import connect
    from patchbay.testing.eventually import hold

    url, name, limit, lease_seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])

    async def request(admission):
        while True:
            try:
                lease = await admission.admit(request_id="r", key_id="k")
            except PatchbayError:
                await hold(random.random() * 0.01)
                continue
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(random.random() * 0.05):
                        await hold(random.random() * 0.05)
            finally:
                await lease.release()

    async def main():
        limits = Limits(concurrent_requests=limit, max_connections=limit)
        admission = Admission(
            connect(url), replica_id=name, limits=limits, lease_seconds=lease_seconds, on_redis_down="deny"
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(admission.run())
            for _ in range(10):
                tasks.create_task(request(admission))

    asyncio.run(main())
    """
)


async def test_replicas_that_are_killed(valkey, redis):
    chance = random.Random(13)
    admission = Admission(
        redis, replica_id="observer", limits=Limits(max_connections=LIMIT), lease_seconds=LEASE_SECONDS
    )

    def start(number: int) -> subprocess.Popen[bytes]:
        arguments = [valkey.url, f"replica-{number}", str(LIMIT), str(LEASE_SECONDS)]
        return subprocess.Popen([sys.executable, "-c", REPLICA, *arguments], env={})

    async def held() -> int:
        return (await admission.gauges())["connections"]

    async def all_are_in_use() -> bool:
        return await held() == LIMIT

    async def no_more_than_the_limit_are_in_use() -> bool:
        return await held() <= LIMIT

    replicas = [start(number) for number in range(4)]
    try:
        await eventually(all_are_in_use, seconds=20)
        for number in range(6):
            victim = chance.randrange(len(replicas))
            replicas[victim].kill()
            replicas[victim].wait()
            replicas[victim] = start(4 + number)
            await stays(no_more_than_the_limit_are_in_use, seconds=0.7)
        await eventually(all_are_in_use, seconds=20)
    finally:
        for replica in replicas:
            replica.kill()
            replica.wait()
    killed = time.monotonic()
    assert all(replica.returncode == -9 for replica in replicas)

    taken: list[Lease] = []

    async def all_are_taken() -> bool:
        with suppress(PatchbayError):  # somebody else's lease still lives
            taken.append(await admission.admit(request_id="r", key_id="k"))
        return len(taken) == LIMIT

    await eventually(all_are_taken)
    assert time.monotonic() - killed <= LEASE_SECONDS + 1.0
    for lease in taken:
        await lease.release()
    assert await held() == 0
