"""Which account answers: by what is left of each, the same for a session, and none that is at its limit."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from issuers import Issuer
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from patchbay.codex.login import Login
from patchbay.errors import AUTHENTICATION, QUOTA_EXCEEDED, UNAVAILABLE, PatchbayError, make_error
from patchbay.settings import Timeouts, load
from patchbay.state import keys
from patchbay.state.codex_accounts import CodexAccounts
from patchbay.state.codex_renewals import CodexRenewals
from patchbay.state.connection import connect
from patchbay.state.sealing import make_sealer
from patchbay.testing.valkey import ValkeyProcess
from patchbay.upstream.http import HttpUpstream
from patchbay.worker.runtime import Shared
from patchbay_codex_worker.accounts import Account, AccountPool, make_pool

KEY = "00" * 32
SEALER = make_sealer([KEY])
assert SEALER is not None
LIMITED = make_error(QUOTA_EXCEEDED, "the usage limit", upstream_code="usage_limit_reached")


@dataclass
class Clock:
    """Unix seconds that pass when told to."""

    now: float = 0.0

    def __post_init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


MakePool = Callable[..., AccountPool]


@pytest.fixture
async def pool_of(valkey: ValkeyProcess, issuer: Issuer, tmp_path: Path, clock: Clock) -> AsyncIterator[MakePool]:
    """Makes a replica's accounts, with a connection of its own."""
    async with AsyncExitStack() as stack:

        def make(*, redis_url: str = "", secrets_key: str = KEY, **config: object) -> AccountPool:
            backend = {"kind": "codex", "credentials": "signed_in", "oauth_issuer": issuer.url, **config}
            flags = [f"--backends.codex={json.dumps(backend | {'base_url': issuer.url})}"]
            flags += [f"--security.secrets_key={secrets_key}"] if secrets_key else []
            settings = load(flags, {"HOME": str(tmp_path)})
            client = connect(redis_url or valkey.url)
            stack.push_async_callback(client.aclose)
            shared = Shared(redis=client, worker_id=f"w{id(client)}")
            http = HttpUpstream(issuer.url, Timeouts())
            stack.push_async_callback(http.aclose)
            made = settings.enabled_backends()["codex"]
            pool, _ = make_pool(made, settings, shared, upstream=http, clock=clock)
            stack.push_async_callback(pool.aclose)
            return pool

        yield make


@pytest.fixture
async def three(redis: Redis, issuer: Issuer) -> dict[str, Login]:
    """Three accounts that are signed in."""
    store = CodexAccounts(redis, SEALER)
    logins = {name: issuer.login(f"acc-{name}", seconds=86_400) for name in ("a", "b", "c")}
    for name, login in logins.items():
        await store.save(name, login)
    return logins


def used(primary: float, *, resets_at: float = 0.0, secondary: float | None = None) -> dict[str, str]:
    headers = {"x-codex-primary-used-percent": str(primary), "x-codex-primary-window-minutes": "300"}
    headers["x-codex-primary-reset-at"] = str(resets_at)
    return headers if secondary is None else headers | {"x-codex-secondary-used-percent": str(secondary)}


async def named(pool: AccountPool) -> dict[str, Account]:
    """Each account, as a request has it."""
    found: dict[str, Account] = {}
    for _ in range(12):
        account = await pool.pick("")
        found[account.name] = account
    return found


async def shares(pool: AccountPool, requests: int) -> Counter[str]:
    return Counter([(await pool.pick("")).name for _ in range(requests)])


# -- the choice -------------------------------------------------------------------------------------------------------


async def test_requests_are_shared_out_by_what_is_left(pool_of: MakePool, three: dict[str, Login]) -> None:
    pool = pool_of()
    assert await shares(pool, 30) == {"a": 10, "b": 10, "c": 10}
    account = await named(pool)
    account["a"].saw(used(80))
    account["b"].saw(used(10, secondary=40))
    account["c"].saw(used(100))
    assert await shares(pool, 80) == {"a": 20, "b": 60}


async def test_in_turns_and_not_in_bursts(pool_of: MakePool, three: dict[str, Login]) -> None:
    pool = pool_of(accounts=["a", "b"])
    account = await named(pool)
    account["a"].saw(used(50))
    account["b"].saw(used(75))
    names = "".join([(await pool.pick("")).name for _ in range(12)])
    assert "bb" not in names
    assert "aaa" not in names
    assert Counter(names) == {"a": 8, "b": 4}


async def test_a_window_that_began_anew_counts_no_more(
    pool_of: MakePool, three: dict[str, Login], clock: Clock
) -> None:
    pool = pool_of(accounts=["a", "b"])
    account = await named(pool)
    account["a"].saw(used(100, resets_at=clock.now + 60))
    assert await shares(pool, 10) == {"b": 10}
    clock.now += 61
    assert (await shares(pool, 10))["a"] >= 5


async def test_where_all_windows_are_used_the_provider_decides(pool_of: MakePool, three: dict[str, Login]) -> None:
    pool = pool_of()
    for account in (await named(pool)).values():
        account.saw(used(100))
    assert await shares(pool, 9) == {"a": 3, "b": 3, "c": 3}


@pytest.mark.parametrize("headers", [{}, {"x-codex-primary-used-percent": "nan"}, {"x-codex-active-limit": "codex"}])
async def test_headers_that_say_nothing_change_nothing(
    headers: dict[str, str], pool_of: MakePool, three: dict[str, Login]
) -> None:
    pool = pool_of()
    account = await pool.pick("")
    account.saw(used(40))
    account.saw(headers)
    assert [window.used_percent for window in _status(pool, account.name).windows] == [40]


def _status(pool: AccountPool, name: str):  # type: ignore[no-untyped-def]
    return next(status for status in pool.statuses() if status.name == name)


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_an_account_at_its_limit_rests_in_every_replica(
    pool_of: MakePool, three: dict[str, Login], clock: Clock
) -> None:
    here, there = pool_of(), pool_of()
    await there.pick("")
    account = await named(here)
    error = make_error(QUOTA_EXCEEDED, "the usage limit", retry_after=500, upstream_code="usage_limit_reached")
    await account["a"].limited(error)
    clock.now += 2
    for pool in (here, there):
        assert set(await shares(pool, 12)) == {"b", "c"}
        assert _status(pool, "a").cooling_until == int(clock.now + 498)
    clock.now += 499
    for pool in (here, there):
        assert set(await shares(pool, 12)) == {"a", "b", "c"}
        assert _status(pool, "a").cooling_until == 0


async def test_all_at_their_limit_is_said_with_the_earliest_reset(
    pool_of: MakePool, three: dict[str, Login], clock: Clock
) -> None:
    pool = pool_of()
    account = await named(pool)
    # As the error says; as its window says; as nothing says.
    await account["a"].limited(make_error(QUOTA_EXCEEDED, "x", retry_after=900))
    account["b"].saw(used(100, resets_at=clock.now + 120))
    await account["b"].limited(LIMITED)
    assert set(await shares(pool, 3)) == {"c"}
    await account["c"].limited(LIMITED)
    assert _status(pool, "c").cooling_until == int(clock.now + 300)
    for session in ("", "s"):
        with pytest.raises(PatchbayError) as caught:
            await pool.pick(session)
        error = caught.value.error
        assert (error.code, error.http_status, round(error.retry_after)) == (QUOTA_EXCEEDED, 429, 120)
        assert error.upstream_code == "usage_limit_reached"
        assert "all of its 3 accounts are at the usage limit" in error.message


async def test_what_a_request_has_tried_is_left_out(pool_of: MakePool, three: dict[str, Login]) -> None:
    pool = pool_of()
    tried: list[str] = []
    for _ in range(3):
        tried.append((await pool.pick("s", exclude=tried)).name)
    assert sorted(tried) == ["a", "b", "c"]
    with pytest.raises(PatchbayError) as caught:
        await pool.pick("s", exclude=tried)
    assert caught.value.error.code == UNAVAILABLE


async def test_without_redis_the_last_known_goes_on(
    issuer: Issuer, pool_of: MakePool, clock: Clock, tmp_path: Path
) -> None:
    with ValkeyProcess() as own:
        client = connect(own.url)
        for name in ("a", "b"):
            await CodexAccounts(client, SEALER).save(name, issuer.login(f"acc-{name}", seconds=86_400))
        await client.aclose()
        pool = pool_of(redis_url=own.url)
        first = (await pool.pick("s")).name
        account = await named(pool)
        own.kill()
        clock.now += 10
        await account["a"].limited(LIMITED)
        await pool.reload()
        assert set(await shares(pool, 4)) == {"b"}
        assert (await pool.pick("s")).name == "b"
        assert first in ("a", "b")
        assert "which is away" in pool.detail


# -- sessions ---------------------------------------------------------------------------------------------------------


async def test_a_session_stays_with_its_account_in_every_replica(pool_of: MakePool, three: dict[str, Login]) -> None:
    here, there = pool_of(), pool_of()
    for session in ("s1", "s2", "s3", "s4"):
        first = (await here.pick(session)).name
        assert {(await pool.pick(session)).name for pool in (here, there) for _ in range(5)} == {first}
    assert len({(await here.pick(f"t{number}")).name for number in range(9)}) == 3


async def test_a_session_moves_when_its_account_cannot_go_on_and_stays_there(
    pool_of: MakePool, three: dict[str, Login], clock: Clock
) -> None:
    here, there = pool_of(), pool_of()
    account = await here.pick("s")
    await account.limited(make_error(QUOTA_EXCEEDED, "x", retry_after=60))
    clock.now += 2
    moved = (await there.pick("s")).name
    assert moved != account.name
    clock.now += 60
    assert {(await pool.pick("s")).name for pool in (here, there)} == {moved}


# -- tokens -----------------------------------------------------------------------------------------------------------


async def test_a_request_carries_the_token_and_the_account(pool_of: MakePool, three: dict[str, Login]) -> None:
    account = await pool_of(accounts=["b"]).pick("")
    assert await account.headers() == {
        "authorization": f"Bearer {three['b'].access_token}",
        "chatgpt-account-id": "acc-b",
    }


@pytest.mark.parametrize(("seconds", "renewed"), [(360, False), (240, True), (-10, True)])
async def test_a_token_is_renewed_before_its_end(
    seconds: float, renewed: bool, pool_of: MakePool, redis: Redis, issuer: Issuer
) -> None:
    login = issuer.login(seconds=seconds)
    await CodexAccounts(redis, SEALER).save("a", login)
    account = await pool_of().pick("")
    headers = await account.headers()
    assert (headers["authorization"] != f"Bearer {login.access_token}") is renewed
    assert [one.reason for one in issuer.spent] == ["proactive_expiry"] * renewed


async def test_a_token_that_is_still_good_goes_on_when_it_cannot_be_renewed(
    pool_of: MakePool, redis: Redis, issuer: Issuer, clock: Clock
) -> None:
    login = issuer.login(seconds=240)
    await CodexAccounts(redis, SEALER).save("a", login)
    issuer.answers = [(500, "down")]
    pool = pool_of()
    for _ in range(3):
        headers = await (await pool.pick("")).headers()
        assert headers["authorization"] == f"Bearer {login.access_token}"
    assert len(issuer.spent) == 1
    clock.now += 300
    with pytest.raises(PatchbayError) as caught:
        await (await pool.pick("")).headers()
    assert (caught.value.error.code, caught.value.error.http_status) == (UNAVAILABLE, 503)
    assert 0 < caught.value.error.retry_after <= 1


async def test_what_cannot_be_renewed_early_is_not_asked_for_with_each_request(
    pool_of: MakePool, redis: Redis, issuer: Issuer
) -> None:
    def tried() -> float:
        labels = {"backend": "codex", "outcome": "later"}
        return REGISTRY.get_sample_value("patchbay_codex_renewals_total", labels) or 0

    await CodexAccounts(redis, SEALER).save("a", issuer.login(seconds=240))
    issuer.answers = [(500, "down")]
    pool, before = pool_of(), tried()
    for _ in range(5):
        await (await pool.pick("")).headers()
    assert tried() == before + 1


async def test_a_clock_that_is_ahead_does_not_have_each_request_renewed(
    pool_of: MakePool, redis: Redis, issuer: Issuer, clock: Clock
) -> None:
    await CodexAccounts(redis, SEALER).save("a", issuer.login())
    clock.now += 7_200
    pool, other = pool_of(), pool_of()
    tokens = {(await (await one.pick("")).headers())["authorization"] for one in (pool, pool, other, pool)}
    assert len(tokens) == 1
    assert issuer.granted == 1
    clock.now += 61
    await (await pool.pick("")).headers()
    assert issuer.granted == 2


async def test_a_refused_token_is_renewed_once_and_the_request_sent_again(
    pool_of: MakePool, three: dict[str, Login], issuer: Issuer, clock: Clock
) -> None:
    pool = pool_of(accounts=["a"])
    first, second = await pool.pick(""), await pool.pick("")
    await first.headers()
    await second.headers()
    assert await first.unauthorized()
    # It was sent with the old token, too.
    assert await second.unauthorized()
    assert (await first.headers()) == (await second.headers())
    assert issuer.granted == 1
    # What is refused again, in the same request, is not helped by renewing it again.
    assert not await first.unauthorized()
    assert issuer.granted == 1


async def test_an_account_that_is_refused_whatever_its_token_is_not_renewed_with_each_request(
    pool_of: MakePool, three: dict[str, Login], issuer: Issuer, clock: Clock
) -> None:
    pool = pool_of(accounts=["a"])

    async def refused() -> bool:
        account = await pool.pick("")
        await account.headers()
        return await account.unauthorized()

    assert [await refused() for _ in range(7)] == [True] * 4 + [False] * 3
    assert issuer.granted == 4
    clock.now += 31
    assert [await refused() for _ in range(3)] == [True, False, False]
    assert issuer.granted == 5


async def test_a_sign_in_that_has_ended_is_said_and_the_others_go_on(
    pool_of: MakePool, three: dict[str, Login], issuer: Issuer, redis: Redis
) -> None:
    pool = pool_of()
    issuer.end(three["a"])
    account = (await named(pool))["a"]
    await account.headers()
    with pytest.raises(PatchbayError) as caught:
        await account.unauthorized()
    assert (caught.value.error.code, caught.value.error.http_status) == (AUTHENTICATION, 401)
    assert "sign in with `patchbay auth login codex`" in caught.value.error.message
    assert set(await shares(pool, 12)) == {"b", "c"}
    status = _status(pool, "a")
    assert not status.signed_in
    assert status.detail.startswith("the sign-in of `a` has ended (the issuer answers 401 refresh_token_reused")
    assert pool.signed_in
    assert pool.detail == "1 of 3 accounts cannot be used: sign in with `patchbay auth login codex`"
    # Reading the same again does not make it good; signing in does.
    await pool.reload()
    assert not _status(pool, "a").signed_in
    await CodexAccounts(redis, SEALER).save("a", issuer.login("acc-a"))
    await pool.reload()
    assert set(await shares(pool, 12)) == {"a", "b", "c"}


async def ended(pool: AccountPool, name: str) -> None:
    """Has the account's sign-in refused for good."""
    account = (await named(pool))[name]
    await account.headers()
    with pytest.raises(PatchbayError):
        await account.unauthorized()
    assert not _status(pool, name).signed_in


async def test_what_was_called_over_by_mistake_comes_back(
    pool_of: MakePool, three: dict[str, Login], issuer: Issuer, redis: Redis, clock: Clock
) -> None:
    pool = pool_of(accounts=["a"])
    issuer.answers = [(401, "a proxy's word")]
    await ended(pool, "a")
    # The issuer is not asked again before an hour has passed.
    for _ in range(3):
        clock.now += 301
        await pool.look()
    assert len(issuer.spent) == 1
    assert not pool.signed_in
    [key] = await redis.keys("pb:{codex-renewal:*")
    await redis.hset(key, "failed_until", "0")
    clock.now += 301
    await pool.look()
    assert pool.signed_in
    assert issuer.granted == 1
    assert (await (await pool.pick("")).headers())["chatgpt-account-id"] == "acc-a"


async def test_who_was_refused_since_another_one_was_slow_to_say_what_it_got_takes_that(
    pool_of: MakePool, issuer: Issuer, redis: Redis, clock: Clock, tmp_path: Path
) -> None:
    """The other one has a copy of the sign-in on a machine of its own."""
    login = issuer.login()
    put(tmp_path / ".codex" / "auth.json", login)
    pool = pool_of()
    issuer.answers = [(401, {"error": {"code": "refresh_token_reused"}})]
    await ended(pool, str(tmp_path / ".codex" / "auth.json"))
    newer = issuer.login()
    await CodexRenewals(redis, SEALER).done(login, "slow", newer)
    clock.now += 301
    await pool.look()
    assert (await (await pool.pick("")).headers())["authorization"] == f"Bearer {newer.access_token}"
    assert len(issuer.spent) == 1


async def test_a_codex_cli_goes_on_with_a_sign_in_that_was_imported(
    pool_of: MakePool, redis: Redis, issuer: Issuer, tmp_path: Path
) -> None:
    """Its file gets what the copy in the store was renewed to, before it spends what is spent."""
    login, own = issuer.login(), tmp_path / ".codex" / "auth.json"
    put(own, login)
    await CodexAccounts(redis, SEALER).save("a", login)
    pool = pool_of()
    account = await pool.pick("")
    await account.headers()
    assert await account.unauthorized()
    await pool.look()
    left = json.loads(own.read_bytes())["tokens"]["refresh_token"]
    assert left == (await CodexAccounts(redis, SEALER).load("a")).refresh_token
    assert issuer.is_good(left)
    assert len(issuer.spent) == 1


# -- which accounts there are -----------------------------------------------------------------------------------------


def put(path: Path, login: Login) -> None:
    tokens = {name: getattr(login, name) for name in ("id_token", "access_token", "refresh_token", "account_id")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auth_mode": "chatgpt", "tokens": tokens, "last_refresh": "2026-01-01T00:00:00Z"}))


async def test_all_of_the_store_and_the_clis_own_are_used(
    pool_of: MakePool, three: dict[str, Login], issuer: Issuer, tmp_path: Path
) -> None:
    own = tmp_path / ".codex" / "auth.json"
    put(own, issuer.login("acc-own"))
    assert set(await shares(pool_of(), 12)) == {"a", "b", "c", str(own)}
    # Of one ChatGPT account the second sign-in is only there for when the first one is not.
    put(own, issuer.login("acc-a"))
    pool = pool_of()
    assert set(await shares(pool, 12)) == {"a", "b", "c"}
    issuer.end(three["a"])
    account = (await named(pool))["a"]
    await account.headers()
    with pytest.raises(PatchbayError):
        await account.unauthorized()
    assert set(await shares(pool, 12)) == {"b", "c", str(own)}


async def test_the_accounts_that_are_named_are_used_and_no_other(
    pool_of: MakePool, three: dict[str, Login], issuer: Issuer, tmp_path: Path
) -> None:
    put(tmp_path / ".codex" / "auth.json", issuer.login("acc-own"))
    put(tmp_path / "other.json", issuer.login("acc-other"))
    pool = pool_of(accounts=["b", str(tmp_path / "other.json"), "nobody"])
    assert set(await shares(pool, 12)) == {"b", str(tmp_path / "other.json")}
    status = _status(pool, "nobody")
    assert "`nobody` is not signed in here: sign in with `patchbay auth login codex`" in status.detail
    assert pool.signed_in


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "not signed in: sign in with `patchbay auth login codex`"),
        ({"accounts": ["a"]}, "1 of 1 accounts cannot be used: sign in with `patchbay auth login codex`"),
        ({"accounts": ["a"], "secrets_key": ""}, r"set security.secrets_key"),
        ({"accounts": ["a", "none/auth.json"]}, "2 of 2 accounts cannot be used"),
    ],
)
async def test_where_nobody_is_signed_in_that_is_said_until_somebody_is(
    config: dict[str, object], said: str, pool_of: MakePool
) -> None:
    pool = pool_of(**config)
    with pytest.raises(PatchbayError) as caught:
        await pool.pick("")
    error = caught.value.error
    assert (error.code, error.http_status) == (AUTHENTICATION, 401)
    assert said in error.message
    assert not pool.signed_in
    assert said in pool.detail


async def test_a_new_sign_in_is_found_without_a_restart(
    pool_of: MakePool, redis: Redis, issuer: Issuer, clock: Clock
) -> None:
    pool = pool_of()
    with pytest.raises(PatchbayError):
        await pool.pick("")
    await CodexAccounts(redis, SEALER).save("a", issuer.login())
    clock.now += 1
    assert (await pool.pick("")).name == "a"


# -- what goes on beside the requests ---------------------------------------------------------------------------------


def page(percent: float, *, reached: bool = False, resets_at: float = 0.0) -> dict[str, object]:
    window = {"used_percent": percent, "limit_window_seconds": 18_000, "reset_at": resets_at}
    limit = {"allowed": not reached, "limit_reached": reached, "primary_window": window, "secondary_window": None}
    return {"plan_type": "pro", "rate_limit": limit, "credits": {}}


async def test_the_provider_is_asked_how_much_is_used(
    pool_of: MakePool, three: dict[str, Login], issuer: Issuer, clock: Clock
) -> None:
    issuer.usage = {"acc-a": page(30), "acc-b": page(100, reached=True, resets_at=clock.now + 5_000)}
    pool, other = pool_of(), pool_of()
    for _ in range(3):
        await pool.look()
    assert sorted(issuer.asked_usage) == ["acc-a", "acc-b", "acc-c"]
    status = _status(pool, "a")
    assert (status.plan, status.windows[0].used_percent, status.windows[0].minutes) == ("pro", 30, 300)
    assert _status(pool, "b").cooling_until == int(clock.now + 5_000)
    # The others know it from Redis, and ask only for what nobody has seen for long.
    clock.now += 2
    await pool.look()
    await other.look()
    assert sorted(issuer.asked_usage) == ["acc-a", "acc-b", "acc-b", "acc-c", "acc-c"]
    assert _status(other, "a").windows[0].used_percent == 30
    # It was given more meanwhile.
    issuer.usage["acc-b"] = page(0)
    clock.now += 700
    await pool.look()
    assert _status(pool, "b").cooling_until == 0
    clock.now += 2
    await other.look()
    assert _status(other, "b").cooling_until == 0


async def test_where_somebody_else_signs_in_nothing_is_known_of_the_one_before(
    pool_of: MakePool, three: dict[str, Login], issuer: Issuer, redis: Redis, clock: Clock
) -> None:
    issuer.usage = {"acc-a": page(97)}
    issuer.check = {"acc-a": {"accounts": [{"id": "acc-a", "account_routing_override": "us"}]}}
    pool = pool_of(accounts=["a"])
    await pool.look()
    assert "x-openai-account-routing-override" in await (await pool.pick("")).headers()
    await CodexAccounts(redis, SEALER).save("a", issuer.login("acc-new"))
    clock.now += 6
    await pool.look()
    assert "x-openai-account-routing-override" not in await (await pool.pick("")).headers()
    assert list(_status(pool, "a").windows) == []
    assert (issuer.asked_usage, issuer.asked_check) == (["acc-a", "acc-new"], ["acc-a", "acc-new"])


async def test_every_replica_asks_where_requests_go_though_answers_tell_how_much_is_used(
    pool_of: MakePool, three: dict[str, Login], issuer: Issuer, clock: Clock
) -> None:
    entry = {"id": "acc-a", "account_routing_override": "us_cr"}
    issuer.usage, issuer.check = {"acc-a": page(30)}, {"acc-a": {"accounts": [entry]}}
    pool, other = pool_of(accounts=["a"]), pool_of(accounts=["a"])

    async def override(one: AccountPool) -> str | None:
        return (await (await one.pick("")).headers()).get("x-openai-account-routing-override")

    for one in (pool, pool, other):
        await one.look()
        assert await override(one) == "us_cr"
        clock.now += 2
    assert issuer.asked_usage == ["acc-a"]
    # A provider that does not say changes nothing; one that says otherwise does.
    issuer.check = {}
    clock.now += 700
    await pool.look()
    assert (await override(pool), len(issuer.asked_check)) == ("us_cr", 3)
    entry["account_routing_override"] = "NO_CONSTRAINT"
    issuer.check = {"acc-a": {"accounts": [entry]}}
    clock.now += 700
    await pool.look()
    assert await override(pool) is None


async def test_what_is_left_is_measured(
    pool_of: MakePool, three: dict[str, Login], issuer: Issuer, clock: Clock, redis: Redis
) -> None:
    issuer.usage = {"acc-a": page(30), "acc-b": page(100, reached=True, resets_at=clock.now + 5_000)}
    pool = pool_of()
    await pool.look()

    def measured(name: str, account: str, **more: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"backend": "codex", "account": account, **more})

    assert measured("patchbay_codex_used_percent", "a", window="primary") == 30
    assert measured("patchbay_codex_cooling_seconds", "a") == 0
    assert round(measured("patchbay_codex_cooling_seconds", "b") or 0) == 5_000
    assert measured("patchbay_codex_signed_in", "c") == 1
    await CodexAccounts(redis, SEALER).forget("a")
    clock.now += 6
    await pool.look()
    assert measured("patchbay_codex_used_percent", "a", window="primary") is None
    assert measured("patchbay_codex_signed_in", "a") is None
    assert measured("patchbay_codex_signed_in", "b") == 1


async def test_the_provider_is_asked_as_a_codex_cli_asks_it(
    pool_of: MakePool, three: dict[str, Login], issuer: Issuer
) -> None:
    """Generic agents meet a firewall there, too; and what the operator adds to each request may be what lets it in."""
    await pool_of(accounts=["a"], headers={"X-Gateway": "g"}).look()
    assert issuer.asked
    for headers in issuer.asked:
        assert headers["authorization"] == f"Bearer {three['a'].access_token}"
        assert headers["user-agent"].startswith("codex_cli_rs/")
        assert (headers["originator"], headers["x-gateway"]) == ("codex_cli_rs", "g")
        assert headers["accept"] == "*/*"


async def test_a_provider_that_does_not_say_holds_nothing_up(
    pool_of: MakePool, three: dict[str, Login], issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchbay_codex_worker.accounts.pages.DEADLINE_SECONDS", 0.1)
    pool = pool_of(accounts=["a"])
    issuer.hold.clear()
    async with asyncio.timeout(5):
        await pool.look()
    assert _status(pool, "a").signed_in


@pytest.mark.parametrize(
    "window", [{"reset_after_seconds": "inf"}, {"reset_after_seconds": 1e300}, {"reset_at": 1e300}, {"reset_at": "nan"}]
)
async def test_a_reset_that_is_no_time_is_not_told_to_the_others(
    window: dict[str, object], pool_of: MakePool, three: dict[str, Login], issuer: Issuer, clock: Clock
) -> None:
    limit = {"limit_reached": True, "primary_window": {"used_percent": 100, **window}}
    issuer.usage = {"acc-a": {"rate_limit": limit}}
    pool, other = pool_of(), pool_of()
    await pool.look()
    clock.now += 2
    await pool.look()
    for one in (pool, other):
        assert set(await shares(one, 4)) == {"b", "c"}
        assert _status(one, "a").cooling_until == int(clock.now + 298)


async def test_what_another_version_notes_keeps_no_request_from_its_account(
    pool_of: MakePool, three: dict[str, Login], redis: Redis
) -> None:
    await redis.hset(keys.CODEX_LIMITS, mapping={"quota:acc-a": b'{"windows": 7}', "cooling:acc-b": b'{"until": null}'})
    assert set(await shares(pool_of(), 6)) == {"a", "b", "c"}


@pytest.mark.parametrize("answer", [{}, {"rate_limit": []}, {"rate_limit": {"primary_window": {"used_percent": "x"}}}])
async def test_a_page_that_cannot_be_read_changes_nothing(
    answer: dict[str, object], pool_of: MakePool, three: dict[str, Login], issuer: Issuer
) -> None:
    issuer.usage = {f"acc-{name}": answer for name in three}
    pool = pool_of()
    await pool.look()
    assert not any(status.windows for status in pool.statuses())
    assert await shares(pool, 3) == {"a": 1, "b": 1, "c": 1}
