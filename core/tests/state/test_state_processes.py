"""Replicas as processes of their own, killed at random: never above the limit, and back to all of it within a lease."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import textwrap
import time

from patchbay.errors import PatchbayError
from patchbay.state.admission import Admission, Limits

LIMIT = 12
LEASE_SECONDS = 1.0

REPLICA = textwrap.dedent(
    """
    import asyncio, random, sys
    from contextlib import suppress
    from patchbay.errors import PatchbayError
    from patchbay.state.admission import Admission, Limits
    from patchbay.state.connection import connect

    url, name, limit, lease_seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])

    async def request(admission):
        while True:
            try:
                lease = await admission.admit(request_id="r", key_id="k")
            except PatchbayError:
                await asyncio.sleep(random.random() * 0.01)
                continue
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(random.random() * 0.05):
                        await asyncio.sleep(random.random() * 0.05)
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

    replicas = [start(number) for number in range(4)]
    try:
        gauges: list[int] = []
        started, kill_at = time.monotonic(), 2.0
        while (elapsed := time.monotonic() - started) < 8.0:
            gauges.append((await admission.gauges())["connections"])
            if elapsed > kill_at:
                victim = chance.randrange(len(replicas))
                replicas[victim].kill()
                replicas[victim].wait()
                replicas[victim] = start(len(gauges))
                kill_at += 1.0
            await asyncio.sleep(0.001)
    finally:
        for replica in replicas:
            replica.kill()
            replica.wait()
    killed = time.monotonic()
    assert max(gauges) == LIMIT, "never above the limit, and all of it in use"
    assert all(replica.returncode == -9 for replica in replicas)

    taken = []
    while len(taken) < LIMIT:
        try:
            taken.append(await admission.admit(request_id="r", key_id="k"))
        except PatchbayError:
            await asyncio.sleep(0.005)
    assert time.monotonic() - killed <= LEASE_SECONDS + 1.0
    for lease in taken:
        await lease.release()
    assert (await admission.gauges())["connections"] == 0
