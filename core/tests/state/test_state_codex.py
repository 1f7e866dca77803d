"""Codex sign-ins in Redis: sealed, never replaced by an older one, and each refresh token spent by one alone."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from redis.asyncio import Redis

from patchbay.codex.login import Login, SignInMissing
from patchbay.state import keys
from patchbay.state.codex_accounts import CodexAccounts
from patchbay.state.codex_limits import CodexLimits, Cooling, Quota, Window
from patchbay.state.codex_renewals import Busy, CodexRenewals, Done, Failed, Got, Later
from patchbay.state.connection import RedisUnavailable
from patchbay.state.sealing import make_sealer
from patchbay.testing.eventually import eventually
from patchbay.testing.valkey import ValkeyProcess

SEALER = make_sealer(["00" * 32])
assert SEALER is not None


def login(number: int) -> Login:
    return Login(access_token=f"at-made-up-{number}", refresh_token=f"rt-made-up-{number}", account_id="acc")


ONE, TWO, THREE = (login(number) for number in (1, 2, 3))


@pytest.fixture
def accounts(redis: Redis) -> CodexAccounts:
    return CodexAccounts(redis, SEALER)


async def everything_in(redis: Redis) -> bytes:
    """All that is in Redis, as it is there."""
    found = b""
    for key in await redis.keys("*"):
        found += key + b" "
        if await redis.type(key) == b"hash":
            found += b" ".join(part for pair in (await redis.hgetall(key)).items() for part in pair)
        else:
            found += await redis.get(key)
    return found


# -- the store --------------------------------------------------------------------------------------------------------


async def test_accounts_are_kept_by_name_until_they_are_signed_out(accounts: CodexAccounts, redis: Redis) -> None:
    assert await accounts.all() == {}
    assert await accounts.save("a@x.test", ONE) == ONE
    assert await accounts.save("b", TWO) == TWO
    assert await accounts.all() == {"a@x.test": ONE, "b": TWO}
    assert await accounts.load("a@x.test") == ONE
    assert 89 * 86_400_000 < await redis.pttl(keys.CODEX_LOGINS) <= 90 * 86_400_000
    assert await accounts.forget("b")
    assert not await accounts.forget("b")
    with pytest.raises(SignInMissing, match="`b` is not signed in here"):
        await accounts.load("b")


async def test_what_is_in_redis_is_sealed_in_its_place(accounts: CodexAccounts, redis: Redis) -> None:
    await accounts.save("a", ONE)
    await accounts.save("b", TWO)
    assert b"made-up" not in await everything_in(redis)
    # One account's sign-in does not open as another one's.
    await redis.hset(keys.CODEX_LOGINS, "b", await redis.hget(keys.CODEX_LOGINS, "a"))
    assert await accounts.all() == {"a": ONE}
    other = CodexAccounts(redis, make_sealer(["11" * 32]))  # type: ignore[arg-type]
    with pytest.raises(SignInMissing, match=r"`a` does not open: .*security\.secrets_key"):
        await other.load("a")
    both = CodexAccounts(redis, make_sealer(["11" * 32, "00" * 32]))  # type: ignore[arg-type]
    assert await both.load("a") == ONE


async def test_a_renewal_takes_the_place_of_what_it_renewed_and_of_nothing_else(accounts: CodexAccounts) -> None:
    await accounts.save("a", ONE)
    assert await accounts.save("a", TWO, replacing=ONE.fingerprint) == TWO
    # Late, or sent again.
    assert await accounts.save("a", THREE, replacing=ONE.fingerprint) == TWO
    assert await accounts.load("a") == TWO
    # A sign-in is what somebody wants now.
    assert await accounts.save("a", THREE) == THREE
    await accounts.forget("a")
    with pytest.raises(SignInMissing):
        await accounts.save("a", ONE, replacing=THREE.fingerprint)
    assert await accounts.all() == {}


async def test_of_many_renewals_of_one_sign_in_one_is_kept(accounts: CodexAccounts) -> None:
    await accounts.save("a", ONE)
    saved = await asyncio.gather(
        *(accounts.save("a", login(10 + number), replacing=ONE.fingerprint) for number in range(8))
    )
    assert len({one.fingerprint for one in saved}) == 1
    assert await accounts.load("a") == saved[0]


# -- renewals ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sealed", "without a key"])
def renewals(request: pytest.FixtureRequest, redis: Redis) -> CodexRenewals:
    return CodexRenewals(redis, SEALER if request.param == "sealed" else None, claim_seconds=30)


async def test_one_claims_and_all_learn_what_came_of_it(renewals: CodexRenewals, redis: Redis) -> None:
    claims = await asyncio.gather(*(renewals.claim(ONE, f"replica-{number}") for number in range(8)))
    assert [claim for claim in claims if isinstance(claim, Got)] == [Got()]
    winner = f"replica-{claims.index(Got())}"
    busy = [claim for claim in claims if isinstance(claim, Busy)]
    assert len(busy) == 7
    assert all(25 < claim.seconds <= 30 for claim in busy)
    # The same call again, as after a broken connection.
    assert await renewals.claim(ONE, winner) == Got()
    assert await renewals.done(ONE, winner, TWO) == TWO
    for number in range(3):
        assert await renewals.claim(ONE, f"replica-{number}") == Done(TWO)
    # The next renewal is another one.
    assert await renewals.claim(TWO, "replica-0") == Got()
    assert b"made-up" not in await everything_in(redis)


async def test_a_successor_stays_whatever_is_said_later(renewals: CodexRenewals) -> None:
    assert await renewals.claim(ONE, "w1") == Got()
    assert await renewals.done(ONE, "w1", TWO) == TWO
    assert await renewals.failed(ONE, "w2", "refresh_token_reused") == Done(TWO)
    assert await renewals.later(ONE, "w1") == Done(TWO)
    assert await renewals.done(ONE, "w2", THREE) == TWO


async def test_a_claim_of_one_that_is_gone_ends(redis: Redis) -> None:
    renewals = CodexRenewals(redis, SEALER, claim_seconds=0.2)
    assert await renewals.claim(ONE, "killed") == Got()
    assert isinstance(await renewals.claim(ONE, "w2"), Busy)

    async def it_is_ours() -> bool:
        return await renewals.claim(ONE, "w2") == Got()

    await eventually(it_is_ours)
    # It was slow, not dead, and its word still counts: the token is spent.
    assert await renewals.done(ONE, "killed", TWO) == TWO
    assert await renewals.failed(ONE, "w2", "refresh_token_reused") == Done(TWO)


async def test_who_lost_its_claim_cannot_fail_the_next_one(redis: Redis) -> None:
    renewals = CodexRenewals(redis, SEALER, claim_seconds=0.05)
    assert await renewals.claim(ONE, "slow") == Got()

    async def it_is_ours() -> bool:
        return await renewals.claim(ONE, "w2") == Got()

    await eventually(it_is_ours)
    assert isinstance(await renewals.failed(ONE, "slow", "why"), Busy)
    assert isinstance(await renewals.later(ONE, "slow"), Busy)
    assert await renewals.failed(ONE, "w2", "why") == Failed("why")
    assert await renewals.claim(ONE, "w3") == Failed("why")
    # Sent again.
    assert await renewals.failed(ONE, "w2", "why") == Failed("why")


async def test_a_failure_that_passes_is_tried_again_later_and_later(renewals: CodexRenewals, redis: Redis) -> None:
    waits = []
    for _ in range(9):
        assert await renewals.claim(ONE, "w1") == Got()
        outcome = await renewals.later(ONE, "w1")
        assert isinstance(outcome, Later)
        waits.append(round(outcome.seconds))
        again = await renewals.later(ONE, "w1")
        assert isinstance(again, Later)
        assert again.seconds <= outcome.seconds
        assert isinstance(await renewals.claim(ONE, "w2"), Later)
        await redis.hdel(keys.codex_renewal(ONE.fingerprint), "retry_at")
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


async def test_nothing_of_a_renewal_is_kept_for_ever(renewals: CodexRenewals, redis: Redis) -> None:
    for outcome in ("claimed", "failed", "later", "done"):
        await redis.flushall()
        await renewals.claim(ONE, "w1")
        if outcome == "failed":
            await renewals.failed(ONE, "w1", "why")
        elif outcome == "later":
            await renewals.later(ONE, "w1")
        elif outcome == "done":
            await renewals.done(ONE, "w1", TWO)
        assert 0 < await redis.pttl(keys.codex_renewal(ONE.fingerprint)) <= 30 * 86_400_000


async def test_a_successor_opens_only_for_who_had_the_token(redis: Redis) -> None:
    renewals = CodexRenewals(redis, None)
    await renewals.claim(ONE, "w1")
    await renewals.done(ONE, "w1", TWO)
    [key] = await redis.keys("pb:{codex-renewal:*")
    await redis.rename(key, keys.codex_renewal(THREE.fingerprint))
    assert isinstance(await renewals.claim(THREE, "w1"), Failed)


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_all_replicas_know_the_limits(redis: Redis) -> None:
    limits, elsewhere = CodexLimits(redis), CodexLimits(redis)
    quota = Quota((Window("primary", 12.5, 300, 2_000.0), Window("secondary", 99)), seen_at=1_000.0, plan="plus")
    await limits.note_quotas({"acc-1": quota, "acc:2": msgspec.structs.replace(quota, plan="pro")})
    await limits.cool("acc-1", Cooling(1_500.0, "usage_limit_reached"))
    known = await elsewhere.read()
    assert known.quotas["acc-1"] == quota
    assert known.quotas["acc:2"].plan == "pro"
    assert known.cooling == {"acc-1": Cooling(1_500.0, "usage_limit_reached")}
    await elsewhere.cool("acc-1", None)
    assert (await limits.read()).cooling == {}
    assert 7 * 86_400_000 < await redis.pttl(keys.CODEX_LIMITS) <= 8 * 86_400_000


def test_what_is_left_is_the_scarcest_window_that_still_runs() -> None:
    quota = Quota((Window("primary", 90, 300, 2_000.0), Window("secondary", 40)), seen_at=0)
    assert (quota.remaining(1_999), quota.remaining(2_000), Quota((), 0).remaining(0)) == (10, 60, 100)


async def test_a_session_stays_with_its_account_for_an_hour(redis: Redis) -> None:
    limits = CodexLimits(redis)
    assert await limits.session_account("b", "s") == ""
    await limits.note_session("b", "s", "acc-1")
    await limits.note_session("c", "s", "acc-2")
    [key, _] = await redis.keys("*")
    await redis.expire(key, 5)
    assert await limits.session_account("b", "s") == "acc-1"
    assert await limits.session_account("c", "s") == "acc-2"
    assert 3_590 <= await redis.ttl(key) <= 3_600


async def test_a_silent_redis_is_not_waited_for(redis: Redis, valkey: ValkeyProcess) -> None:
    accounts = CodexAccounts(redis, SEALER, timeout=0.1)
    renewals, limits = CodexRenewals(redis, SEALER, timeout=0.1), CodexLimits(redis, timeout=0.1)
    valkey.pause()
    try:
        for call in (accounts.all(), accounts.save("a", ONE), renewals.claim(ONE, "w"), limits.read()):
            with pytest.raises(RedisUnavailable):
                await call
    finally:
        valkey.resume()
