"""Renewals: one for each token, whoever asks; what one got is everybody's, and nothing newer is ever lost."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from issuers import Issuer
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from patchbay.codex.auth_file import AuthFile
from patchbay.codex.login import Login, Place, SignInMissing
from patchbay.codex.oauth import Issuer as IssuerClient
from patchbay.settings import Codex
from patchbay.state.codex_accounts import CodexAccounts
from patchbay.state.codex_renewals import CodexRenewals
from patchbay.state.connection import connect
from patchbay.state.sealing import make_sealer
from patchbay.testing.eventually import eventually, stays
from patchbay.testing.valkey import ValkeyProcess
from patchbay_codex_worker.accounts.renewal import RenewalFailed, Renewer

SEALER = make_sealer(["00" * 32])
assert SEALER is not None
MakeRenewer = Callable[..., Renewer]


@pytest.fixture
async def renewer_of(valkey: ValkeyProcess, issuer: Issuer, tmp_path: Path) -> AsyncIterator[MakeRenewer]:
    """Makes a replica's renewer, with a connection of its own; `redis_url` for another Redis, or none."""
    config = Codex(tmp_path, issuer.url, f"{issuer.url}/oauth/token", f"{issuer.url}/oauth/revoke")
    async with AsyncExitStack() as stack:
        made = 0

        def make(redis_url: str = "", *, claim_seconds: float = 30.0) -> Renewer:
            nonlocal made
            made += 1
            client = connect(redis_url or valkey.url)
            stack.push_async_callback(client.aclose)
            renewals = CodexRenewals(client, SEALER, claim_seconds=claim_seconds)
            renewer = Renewer(renewals, IssuerClient(config), backend="codex", claimant=f"replica-{made}")
            stack.push_async_callback(renewer.aclose)
            return renewer

        yield make


def put(path: Path, login: Login) -> AuthFile:
    """An auth.json with this sign-in."""
    tokens = {name: getattr(login, name) for name in ("id_token", "access_token", "refresh_token", "account_id")}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"auth_mode": "chatgpt", "tokens": tokens, "last_refresh": "2026-01-01T00:00:00Z"}))
    return AuthFile(path)


@pytest.fixture
def store(redis: Redis) -> CodexAccounts:
    return CodexAccounts(redis, SEALER)


@pytest.fixture(params=["store", "file"])
async def place(request: pytest.FixtureRequest, store: CodexAccounts, issuer: Issuer, tmp_path: Path) -> Place:
    """Where a sign-in is kept that is good."""
    login = issuer.login()
    if request.param == "file":
        return put(tmp_path / "auth.json", login)
    await store.save("a", login)
    return store.place("a")


async def test_many_at_once_are_one_renewal_in_all_replicas(
    place: Place, issuer: Issuer, renewer_of: MakeRenewer
) -> None:
    def counted(outcome: str) -> float:
        labels = {"backend": "codex", "outcome": outcome}
        return REGISTRY.get_sample_value("patchbay_codex_renewals_total", labels) or 0

    before = counted("renewed"), counted("adopted")
    replicas = [renewer_of() for _ in range(3)]
    spent = await place.load()
    issuer.hold.clear()
    asked = [
        asyncio.create_task(replicas[number % 3].renew(place, spent, "unauthorized_recovery")) for number in range(20)
    ]
    await eventually(lambda: issuer.waiting == 1)
    issuer.hold.set()
    got = await asyncio.gather(*asked)
    assert len({login.access_token for login in got}) == 1
    assert got[0].access_token != spent.access_token
    assert [(one.refresh_token, one.reason) for one in issuer.spent] == [(spent.refresh_token, "unauthorized_recovery")]
    # Each replica asks once, whatever asks it.
    assert (counted("renewed"), counted("adopted")) == (before[0] + 1, before[1] + 2)
    assert await place.load() == msgspec.structs.replace(got[0], last_refresh=(await place.load()).last_refresh)
    assert issuer.is_good(got[0].refresh_token)


async def test_a_slow_issuer_ends_no_claim(place: Place, issuer: Issuer, renewer_of: MakeRenewer) -> None:
    spent = await place.load()
    issuer.hold.clear()
    asked = [
        asyncio.create_task(renewer_of(claim_seconds=0.6).renew(place, spent, "proactive_expiry")) for _ in range(3)
    ]
    await eventually(lambda: issuer.waiting)
    await stays(lambda: issuer.waiting == 1, seconds=1.5)
    issuer.hold.set()
    assert len({login.access_token for login in await asyncio.gather(*asked)}) == 1
    assert len(issuer.spent) == 1


async def test_who_comes_late_takes_what_is_there(place: Place, issuer: Issuer, renewer_of: MakeRenewer) -> None:
    spent = await place.load()
    first = await renewer_of().renew(place, spent, "proactive_expiry")
    assert (await renewer_of().renew(place, spent, "unauthorized_recovery")).access_token == first.access_token
    second = await renewer_of().renew(place, first, "proactive_expiry")
    assert second.access_token != first.access_token
    assert issuer.granted == 2


async def test_a_renewal_goes_on_when_whoever_asked_for_it_has_gone(
    place: Place, issuer: Issuer, renewer_of: MakeRenewer
) -> None:
    spent = await place.load()
    issuer.hold.clear()
    asked = asyncio.create_task(renewer_of().renew(place, spent, "proactive_expiry"))
    await eventually(lambda: issuer.waiting == 1)
    asked.cancel()
    await asyncio.wait((asked,))
    issuer.hold.set()

    async def it_is_kept() -> bool:
        return (await place.load()).fingerprint != spent.fingerprint

    await eventually(it_is_kept)
    assert issuer.is_good((await place.load()).refresh_token)


async def test_copies_of_one_sign_in_never_kill_each_other(
    store: CodexAccounts, issuer: Issuer, renewer_of: MakeRenewer, tmp_path: Path
) -> None:
    """Our store, the CLI's file, and a copy of that elsewhere: each goes on, however often they are renewed."""
    login = issuer.login()
    await store.save("a", login)
    places = [store.place("a"), put(tmp_path / "one" / "auth.json", login), put(tmp_path / "two" / "auth.json", login)]
    replicas = [renewer_of() for _ in places]
    for _ in range(3):
        spent = [await place.load() for place in places]
        got = await asyncio.gather(
            *(
                replica.renew(place, one, "proactive_expiry")
                for replica, place, one in zip(replicas, places, spent, strict=True)
            )
        )
        assert len({one.refresh_token for one in got}) == 1
    # One that was asleep finds its way along all that was renewed since.
    for number in range(2):
        await replicas[0].renew(places[0], await places[0].load(), "proactive_expiry")
        assert issuer.granted == 4 + number
    last = await places[2].load()
    for _ in range(2):
        last = await replicas[2].renew(places[2], last, "proactive_expiry")
    assert last.refresh_token == (await places[0].load()).refresh_token
    assert issuer.granted == len(issuer.spent) == 5


async def test_what_a_live_codex_cli_renewed_is_taken_and_not_spent_again(
    issuer: Issuer, renewer_of: MakeRenewer, tmp_path: Path
) -> None:
    spent = issuer.login()
    file = put(tmp_path / "auth.json", spent)
    newer = issuer.login()
    put(file.path, newer)
    assert (await renewer_of().renew(file, spent, "unauthorized_recovery")).access_token == newer.access_token
    assert issuer.spent == []


async def test_who_was_refused_takes_down_nothing_that_is_newer(
    issuer: Issuer, renewer_of: MakeRenewer, tmp_path: Path
) -> None:
    """The CLI spends the token while ours is on its way: the issuer refuses ours."""
    spent = issuer.login()
    file = put(tmp_path / "auth.json", spent)
    issuer.hold.clear()
    asked = asyncio.create_task(renewer_of().renew(file, spent, "unauthorized_recovery"))
    await eventually(lambda: issuer.waiting == 1)
    newer = issuer.login()
    issuer.end(spent)
    put(file.path, newer)
    issuer.hold.set()
    assert (await asked).access_token == newer.access_token
    assert (await file.load()).refresh_token == newer.refresh_token
    assert issuer.granted == 0


@pytest.mark.parametrize(
    "answer",
    [
        (401, {"error": {"code": "refresh_token_expired", "message": "too old"}}),
        (401, {"error": {"code": "refresh_token_invalidated"}}),
        (401, "no"),
        (400, {"error": "invalid_grant", "error_description": "no longer"}),
    ],
)
async def test_what_is_over_is_said_with_the_way_to_sign_in_and_not_asked_again(
    answer: tuple[int, object], store: CodexAccounts, issuer: Issuer, renewer_of: MakeRenewer
) -> None:
    login = issuer.login()
    await store.save("a", login)
    issuer.answers = [answer]
    for _ in range(3):
        with pytest.raises(SignInMissing, match=r"`a` has ended \(.*\): sign in with `patchbay auth login codex`"):
            await renewer_of().renew(store.place("a"), login, "unauthorized_recovery")
    assert len(issuer.spent) == 1
    # Signing in anew is another sign-in.
    await store.save("a", issuer.login())
    renewed = await renewer_of().renew(store.place("a"), await store.load("a"), "proactive_expiry")
    assert issuer.is_good(renewed.refresh_token)


@pytest.mark.parametrize(
    "answer",
    [
        (500, "down"),
        (503, {}),
        (502, {"error": "invalid_grant"}),
        (429, {"error": {"code": "slow_down"}}),
        (403, "<html>"),
        (200, []),
        (200, {}),
    ],
)
async def test_what_may_pass_is_tried_again_after_a_while(
    answer: tuple[int, object], place: Place, issuer: Issuer, renewer_of: MakeRenewer, redis: Redis
) -> None:
    spent = await place.load()
    issuer.answers = [answer]
    for _ in range(3):
        with pytest.raises(RenewalFailed) as caught:
            await renewer_of().renew(place, spent, "proactive_expiry")
        assert 0 < caught.value.retry_after <= 1
    assert len(issuer.spent) == 1
    [key] = await redis.keys("pb:{codex-renewal:*")
    await redis.hdel(key, "retry_at")
    assert issuer.is_good((await renewer_of().renew(place, spent, "proactive_expiry")).refresh_token)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"access_token": "at-2", "refresh_token": "rt-2", "id_token": None}, ("at-2", "rt-2")),
        ({"access_token": "at-2", "refresh_token": None, "expires_in": None}, ("at-2", None)),
        # The spent one is good for nothing any more.
        ({"refresh_token": "rt-2"}, (None, "rt-2")),
        ({"access_token": None, "refresh_token": "rt-2", "id_token": 7}, (None, "rt-2")),
    ],
)
async def test_what_an_answer_leaves_out_stays_and_the_rest_is_kept(
    answer: dict[str, object],
    expected: tuple[str | None, str | None],
    place: Place,
    issuer: Issuer,
    renewer_of: MakeRenewer,
) -> None:
    spent = await place.load()
    issuer.answers = [(200, answer)]
    got = await renewer_of().renew(place, spent, "proactive_expiry")
    assert got.access_token == (expected[0] or spent.access_token)
    assert got.refresh_token == (expected[1] or spent.refresh_token)
    assert (got.id_token, got.account_id) == (spent.id_token, spent.account_id)
    assert (await place.load()).fingerprint == got.fingerprint


async def test_an_issuer_that_keeps_the_refresh_token_is_asked_each_time(
    place: Place, issuer: Issuer, renewer_of: MakeRenewer
) -> None:
    issuer.rotates = False
    login = await place.load()
    seen = {login.access_token}
    for _ in range(3):
        login = await renewer_of().renew(place, login, "proactive_expiry")
        seen.add(login.access_token)
    assert len(seen) == 4
    assert issuer.granted == 3


async def test_who_signed_out_meanwhile_stays_signed_out(
    store: CodexAccounts, issuer: Issuer, renewer_of: MakeRenewer
) -> None:
    login = issuer.login()
    await store.save("a", login)
    issuer.hold.clear()
    asked = asyncio.create_task(renewer_of().renew(store.place("a"), login, "proactive_expiry"))
    await eventually(lambda: issuer.waiting == 1)
    await store.forget("a")
    issuer.hold.set()
    with pytest.raises(SignInMissing):
        await asked
    assert await store.all() == {}


async def test_what_was_spent_here_is_not_spent_again_whatever_redis_has_forgotten(
    store: CodexAccounts, issuer: Issuer, renewer_of: MakeRenewer, redis: Redis, tmp_path: Path
) -> None:
    login = issuer.login()
    await store.save("a", login)
    copy = put(tmp_path / "auth.json", login)
    renewer = renewer_of()
    renewed = await renewer.renew(store.place("a"), login, "proactive_expiry")
    for key in await redis.keys("pb:{codex-renewal:*"):
        await redis.delete(key)
    assert (await renewer.renew(copy, login, "proactive_expiry")).fingerprint == renewed.fingerprint
    assert (await copy.load()).refresh_token == renewed.refresh_token
    assert issuer.granted == len(issuer.spent) == 1


# -- without Redis ----------------------------------------------------------------------------------------------------

NOWHERE = "redis://127.0.0.1:1"


async def test_without_redis_the_store_is_closed(
    store: CodexAccounts, issuer: Issuer, renewer_of: MakeRenewer, redis: Redis
) -> None:
    login = issuer.login()
    await store.save("a", login)
    with pytest.raises(RenewalFailed, match="cannot be renewed while Redis is away"):
        await renewer_of(NOWHERE).renew(store.place("a"), login, "unauthorized_recovery")
    assert issuer.spent == []


async def test_without_redis_the_lock_of_a_file_keeps_replicas_apart(
    issuer: Issuer, renewer_of: MakeRenewer, tmp_path: Path
) -> None:
    """Also from one that has Redis: they are on one machine."""
    spent = issuer.login()
    path = put(tmp_path / "auth.json", spent).path
    replicas = [renewer_of(NOWHERE), renewer_of(NOWHERE), renewer_of()]
    issuer.hold.clear()
    asked = [asyncio.create_task(replica.renew(AuthFile(path), spent, "unauthorized_recovery")) for replica in replicas]
    await eventually(lambda: issuer.waiting == 1)
    issuer.hold.set()
    got = await asyncio.gather(*asked)
    assert len({one.access_token for one in got}) == 1
    assert issuer.granted == len(issuer.spent) == 1


async def test_without_redis_copies_of_one_sign_in_do_not_kill_each_other(
    issuer: Issuer, renewer_of: MakeRenewer, tmp_path: Path
) -> None:
    """Each has a lock of its own, but this process knows what it has spent."""
    login = issuer.login()
    one, two = (put(tmp_path / name / "auth.json", login) for name in ("one", "two"))
    renewer = renewer_of(NOWHERE)
    renewed = await renewer.renew(one, login, "proactive_expiry")
    assert (await renewer.renew(two, login, "proactive_expiry")).fingerprint == renewed.fingerprint
    assert (await two.load()).refresh_token == renewed.refresh_token
    assert issuer.granted == len(issuer.spent) == 1


async def test_without_redis_a_failing_issuer_is_not_asked_all_the_time(
    issuer: Issuer, renewer_of: MakeRenewer, tmp_path: Path
) -> None:
    spent = issuer.login()
    file = put(tmp_path / "auth.json", spent)
    renewer = renewer_of(NOWHERE)
    issuer.answers = [(500, "down")]
    for _ in range(3):
        with pytest.raises(RenewalFailed):
            await renewer.renew(file, spent, "unauthorized_recovery")
    assert len(issuer.spent) == 1


async def test_a_token_that_came_while_redis_went_is_kept_once_it_is_back(issuer: Issuer, tmp_path: Path) -> None:
    config = Codex(tmp_path, issuer.url, f"{issuer.url}/oauth/token", f"{issuer.url}/oauth/revoke")
    with ValkeyProcess() as own:
        client = connect(own.url, timeout=0.1)
        store = CodexAccounts(client, SEALER)
        login = issuer.login()
        await store.save("a", login)
        renewals = CodexRenewals(client, SEALER, timeout=0.1)
        renewer = Renewer(renewals, IssuerClient(config), backend="codex", claimant="w")
        issuer.hold.clear()
        asked = asyncio.create_task(renewer.renew(store.place("a"), login, "proactive_expiry"))
        await eventually(lambda: issuer.waiting == 1)
        own.pause()
        try:
            issuer.hold.set()
            got = await asked
        finally:
            own.resume()
        assert issuer.is_good(got.refresh_token)

        async def it_is_kept() -> bool:
            return (await store.load("a")).refresh_token == got.refresh_token

        await eventually(it_is_kept)
        await renewer.aclose()
        await client.aclose()


async def test_a_file_that_cannot_be_written_is_not_spent(
    issuer: Issuer, renewer_of: MakeRenewer, tmp_path: Path
) -> None:
    """Root may write everywhere, so that the lock's own name is taken here."""
    spent = issuer.login()
    file = put(tmp_path / "auth.json", spent)
    os.mkdir(file.path.with_name(".auth.json.patchbay-lock"))
    with pytest.raises(RenewalFailed):
        await renewer_of().renew(file, spent, "proactive_expiry")
    assert issuer.spent == []
