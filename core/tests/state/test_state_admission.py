from __future__ import annotations

import asyncio
import time

import pytest

from patchbay.errors import OVERLOADED, RATE_LIMITED, PatchbayError
from patchbay.state import keys, scripts
from patchbay.state.admission import Admission, Lease, Limits
from patchbay.testing.eventually import eventually, stays
from patchbay_proto.v1.events_pb2 import Error


def make(redis, replica_id="edge-1", **options) -> Admission:
    options.setdefault("limits", Limits())
    return Admission(redis, replica_id=replica_id, **options)


async def denial(admission: Admission, **request) -> Error:
    with pytest.raises(PatchbayError) as refused:
        await admission.admit(request_id="denied", **request)
    return refused.value.error


async def take(admission: Admission, count: int, **request) -> list[Lease]:
    return [await admission.admit(request_id=str(number), **request) for number in range(count)]


async def test_each_limit_denies_in_its_own_words(redis):
    admission = make(redis, limits=Limits(requests_per_minute=2, concurrent_requests=5, max_connections=9))
    await take(admission, 2, key_id="a")
    rate = await denial(admission, key_id="a")
    assert (rate.code, rate.http_status, rate.retryable) == (RATE_LIMITED, 429, True)
    assert rate.message == "This key may send 2 requests per minute."
    assert 29 < rate.retry_after <= 30

    slow = Limits(concurrent_requests=3)
    await take(admission, 3, key_id="b", limits=slow)
    concurrent = await denial(admission, key_id="b", limits=slow)
    assert (concurrent.code, concurrent.http_status, concurrent.retryable) == (RATE_LIMITED, 429, True)
    assert concurrent.message == "This key may have 3 requests under way at a time."
    assert concurrent.retry_after == 1

    await take(admission, 4, key_id="c", limits=Limits())
    cluster = await denial(admission, key_id="d")
    assert (cluster.code, cluster.http_status, cluster.retryable) == (OVERLOADED, 503, True)
    assert cluster.message == "This service answers at most 9 requests at a time; try again shortly."
    assert cluster.retry_after == 1
    assert await admission.gauges() == {"connections": 9, "concurrency:a": 2, "concurrency:b": 3, "concurrency:c": 4}


async def test_without_limits_everything_is_admitted_and_counted(redis):
    admission = make(redis)
    leases = await take(admission, 30, key_id="k")
    assert await admission.gauges() == {"connections": 30, "concurrency:k": 30}
    for lease in leases:
        await lease.release()
    assert await admission.gauges() == {"connections": 0}
    assert await redis.keys("*") == []


async def test_a_denial_charges_nothing(redis):
    admission = make(redis, limits=Limits(requests_per_minute=10, concurrent_requests=2, max_connections=3))
    held = await take(admission, 2, key_id="a")
    before = [await redis.dump(name) for name in sorted(await redis.keys("*"))]
    for _ in range(50):
        await denial(admission, key_id="a")
    assert [await redis.dump(name) for name in sorted(await redis.keys("*"))] == before
    # The cluster is the last limit that is looked at: a key that it refuses keeps its rate and its places.
    held += await take(admission, 1, key_id="b")
    for _ in range(50):
        assert (await denial(admission, key_id="c")).code == OVERLOADED
    assert not await redis.exists(keys.rate("c"), keys.concurrency("c"))
    for lease in held:
        await lease.release()
    await take(admission, 2, key_id="c")


@pytest.mark.parametrize("limit", [60_000, 1_800, 7_001])
async def test_retry_after_is_exact(redis, limit):
    """A retry in the last moment before is denied, one at the time that was named is admitted."""
    admission = make(redis, limits=Limits(requests_per_minute=limit))
    await take(admission, 1, key_id="k")
    # As if the whole burst had been sent at once just now, and what comes back in the next tenth of a second as well.
    seconds, microseconds = await redis.time()
    sent = limit + limit // 600
    await redis.set(keys.rate("k"), f"{seconds * 10**6 + microseconds}:{sent * 60_000_000}", px=120_000)
    refused = []
    while True:
        asked = time.monotonic()
        try:
            await admission.admit(request_id="again", key_id="k")
            break
        except PatchbayError as error:
            refused.append((asked, time.monotonic(), error.error.retry_after))
    admitted = time.monotonic()
    assert refused
    assert max(retry_after for _, _, retry_after in refused) <= 0.1 + 60 / limit + 0.001
    # The server decided between asking and reading the answer, and names the time in whole milliseconds, rounded up.
    earliest = max(asked + retry_after - 0.001 for asked, _, retry_after in refused)
    latest = min(answered + retry_after for _, answered, retry_after in refused)
    assert earliest <= admitted
    assert refused[-1][0] <= latest


async def test_a_steady_sender_gets_exactly_its_rate(redis):
    """Over any span, no more than the burst and what came back in that span."""
    admission = make(redis, limits=Limits(requests_per_minute=6_000))
    seconds, microseconds = await redis.time()
    await redis.set(keys.rate("k"), f"{seconds * 10**6 + microseconds}:{6_000 * 60_000_000}", px=120_000)
    started, admitted = time.monotonic(), 0
    while (asked := time.monotonic() - started) < 1.0:
        asked_last = asked
        try:
            await admission.admit(request_id="r", key_id="k")
        except PatchbayError:
            continue
        admitted += 1
    elapsed = time.monotonic() - started
    assert admitted <= elapsed * 100 + 1
    assert admitted >= asked_last * 100 - 2


async def test_one_round_trip_and_one_command(redis):
    admission = make(redis, limits=Limits(requests_per_minute=1000, concurrent_requests=100, max_connections=100))
    await (await admission.admit(request_id="warm", key_id="k")).release()
    await redis.config_resetstat()
    leases = await take(admission, 10, key_id="k")
    statistics = await redis.info("all")
    assert statistics["cmdstat_evalsha"]["calls"] == 10
    assert statistics["total_reads_processed"] <= 12  # ten, CONFIG RESETSTAT's own rest and INFO
    await redis.config_resetstat()
    for lease in leases:
        await lease.release()
    assert (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"] == 10


async def test_every_key_expires(redis):
    admission = make(redis, limits=Limits(requests_per_minute=10))
    await take(admission, 1, key_id="k")
    lives = {name.decode(): await redis.pttl(name) for name in await redis.keys("*")}
    assert set(lives) == {keys.CONNECTIONS, keys.concurrency("k"), keys.rate("k")}
    assert all(0 < life <= 600_000 for life in lives.values())
    assert lives[keys.rate("k")] > 60_000, "a bucket must outlive its own draining"
    assert lives[keys.CONNECTIONS] > 300_000, "a set must outlive the longest lease"


async def test_two_requests_of_one_id_are_two_leases(redis):
    first, second = make(redis), make(redis, "edge-2")
    leases = [await admission.admit(request_id="same", key_id="k") for admission in (first, first, second)]
    assert (await first.gauges())["connections"] == 3
    await leases[0].release()
    await leases[0].release()
    assert (await first.gauges())["connections"] == 2


async def test_a_resent_admission_is_charged_once(redis):
    names = (keys.CONNECTIONS, keys.concurrency("k"), keys.rate("k"))
    args = ("lease", 30_000, 1, 1, 1, 300_000, 600_000, 120_000)
    for _ in range(3):
        assert await scripts.run(redis, scripts.ADMIT, names, args) == [0, 0]
    assert await redis.zcard(keys.CONNECTIONS) == 1
    assert (await scripts.run(redis, scripts.ADMIT, names, ("other", *args[1:])))[0] == 1


async def test_leases_are_renewed_while_held_and_expire_when_the_replica_is_gone(redis, background):
    limits = Limits(concurrent_requests=2)
    dying, living = (make(redis, name, limits=limits, lease_seconds=0.3) for name in ("edge-1", "edge-2"))
    renewing = background(dying.run())
    background(living.run())
    await take(dying, 1, key_id="k")
    lease = (await take(living, 1, key_id="k"))[0]

    async def both_are_held() -> bool:
        await denial(living, key_id="k")
        return (await living.gauges())["connections"] == 2

    await stays(both_are_held, seconds=1.0)
    renewing.cancel()
    stopped = time.monotonic()

    async def is_free() -> bool:
        return (await living.gauges())["connections"] == 1

    await eventually(is_free)
    assert time.monotonic() - stopped < 0.3 + 1.0
    await take(living, 1, key_id="k")
    await lease.release()


async def test_an_expired_lease_that_still_runs_is_counted_again(redis, background):
    admission = make(redis, limits=Limits(concurrent_requests=1), lease_seconds=0.3)
    lease = await admission.admit(request_id="1", key_id="k")
    await redis.delete(keys.CONNECTIONS, keys.concurrency("k"))
    background(admission.run())

    async def is_counted() -> bool:
        return await admission.gauges() == {"connections": 1, "concurrency:k": 1}

    await eventually(is_counted)
    await denial(admission, key_id="k")
    await lease.release()
    assert await admission.gauges() == {"connections": 0}


async def test_a_released_lease_is_never_taken_again_by_a_renewal(redis, background):
    """Renewals all the time, releases in between: what was released stays released."""
    admission = make(redis, lease_seconds=5)

    async def renew() -> None:
        while True:
            await admission._renew()
            await asyncio.sleep(0)

    background(renew())
    for _ in range(20):
        leases = await asyncio.gather(*(admission.admit(request_id=str(n), key_id=f"k{n % 3}") for n in range(20)))
        await asyncio.gather(*(lease.release() for lease in leases))
        await redis.script_flush()
        assert (await admission.gauges())["connections"] == 0


async def test_a_renewal_that_is_sent_again_leaves_out_what_was_released(redis):
    """The server has forgotten how to renew, but not how to release: the release is run first."""
    admission = make(redis)
    lease, other = await take(admission, 2, key_id="k")
    await redis.script_flush()
    await redis.script_load(scripts.RELEASE.source)
    renewing = asyncio.ensure_future(admission._renew())
    await asyncio.sleep(0)
    await lease.release()
    assert await renewing == 0
    assert await admission.gauges() == {"connections": 1, "concurrency:k": 1}
    await other.release()


async def test_thousands_of_leases_are_renewed_in_chunks(redis):
    admission = make(redis)
    await asyncio.gather(*(admission.admit(request_id=str(n), key_id=f"k{n % 7}") for n in range(2_600)))
    await redis.delete(keys.CONNECTIONS)
    assert await admission._renew() == 2_600
    assert await admission._renew() == 0
    assert (await admission.gauges())["connections"] == 2_600


async def test_a_clock_that_steps_back_drains_nothing_and_forgets_nothing(redis):
    admission = make(redis, limits=Limits(requests_per_minute=2, max_connections=4))
    await take(admission, 2, key_id="k")
    last, level = (int(part) for part in (await redis.get(keys.rate("k"))).split(b":"))
    hour = 3_600_000_000
    await redis.set(keys.rate("k"), f"{last + hour}:{level}", px=120_000)  # an hour ahead of the clock
    assert 29 < (await denial(admission, key_id="k")).retry_after <= 60
    await redis.set(keys.rate("k"), f"{last + hour}:{level - 60_000_000}", px=120_000)
    await take(admission, 1, key_id="k")
    assert int((await redis.get(keys.rate("k"))).split(b":")[0]) < last + hour, "draining goes on from the new time"


async def test_leases_of_a_clock_that_stepped_back_end(redis):
    """A replica dies, the clock steps back an hour: its places come back after a lease, not after an hour."""
    admission = make(redis, limits=Limits(max_connections=1), lease_seconds=0.2)
    await admission.admit(request_id="1", key_id="k")
    for name in (keys.CONNECTIONS, keys.concurrency("k")):
        for member, score in await redis.zrange(name, 0, -1, withscores=True):
            await redis.zadd(name, {member: score + 3_600_000})
    await denial(admission, key_id="k")

    async def is_admitted() -> bool:
        try:
            await admission.admit(request_id="2", key_id="k")
        except PatchbayError:
            return False
        return True

    assert await eventually(is_admitted)


async def test_works_on_a_cluster(cluster, connected):
    admission = make(
        connected(f"redis+cluster://127.0.0.1:{cluster.port}"),
        limits=Limits(requests_per_minute=100, concurrent_requests=3, max_connections=5),
    )
    leases = await take(admission, 3, key_id="k")
    assert (await denial(admission, key_id="k")).code == RATE_LIMITED
    assert await admission._renew() == 0
    assert await admission.gauges() == {"connections": 3, "concurrency:k": 3}
    for lease in leases:
        await lease.release()
    assert await admission.gauges() == {"connections": 0}
    assert not admission.degraded


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests_per_minute": 0},
        {"concurrent_requests": -1},
        {"max_connections": 0},
        {"requests_per_minute": 100_000_001},
    ],
)
def test_limits_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)


@pytest.mark.parametrize("seconds", [0, -1, 301])
def test_leases_that_make_no_sense(redis, seconds):
    with pytest.raises(ValueError, match="lease_seconds"):
        make(redis, lease_seconds=seconds)
