"""Signing in through the worker, as an operator does it over any edge."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from issuers import Issuer
from redis.asyncio import Redis

from patchbay.errors import AUTHENTICATION, INVALID_REQUEST, NOT_FOUND, UNAVAILABLE, UPSTREAM, PatchbayError
from patchbay.settings import Timeouts, load
from patchbay.state.codex_accounts import CodexAccounts
from patchbay.state.connection import connect
from patchbay.state.sealing import make_sealer
from patchbay.testing.valkey import ValkeyProcess
from patchbay.upstream.http import HttpUpstream
from patchbay.worker.runtime import Shared
from patchbay_codex_worker.accounts import AccountPool, CodexSignIn, make_pool

KEY = "00" * 32
SEALER = make_sealer([KEY])
assert SEALER is not None
Make = Callable[..., tuple[AccountPool, CodexSignIn]]


@pytest.fixture
async def made(valkey: ValkeyProcess, issuer: Issuer, tmp_path: Path) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        def make(
            *, redis_url: str = "", issuer_url: str = "", secrets_key: str = KEY
        ) -> tuple[AccountPool, CodexSignIn]:
            backend = {"kind": "codex", "credentials": "signed_in", "oauth_issuer": issuer_url or issuer.url}
            flags = [f"--backends.codex={json.dumps(backend)}"]
            flags += [f"--security.secrets_key={secrets_key}"] if secrets_key else []
            settings = load(flags, {"HOME": str(tmp_path)})
            client = connect(redis_url or valkey.url)
            stack.push_async_callback(client.aclose)
            shared = Shared(redis=client, worker_id="codex-worker-1")
            http = HttpUpstream(issuer.url, Timeouts())
            stack.push_async_callback(http.aclose)
            pool, sign_in = make_pool(settings.enabled_backends()["codex"], settings, shared, upstream=http)
            stack.push_async_callback(pool.aclose)
            return pool, sign_in

        yield make


@pytest.mark.parametrize("whole", [True, False])
async def test_signs_in_with_the_address_that_the_browser_ends_at_or_its_code(
    made: Make, issuer: Issuer, redis: Redis, whole: bool
) -> None:
    pool, sign_in = made()
    begun = await sign_in.begin()
    assert not begun.signed_in
    assert "http://127.0.0.1:1455/auth/callback" in begun.detail
    address = issuer.authorize(begun.url, "acc-3")
    assert f"&state=codex.codex-worker-1.{begun.login_id}" in address
    code = address if whole else address.partition("code=")[2].partition("&")[0]
    ended = await sign_in.finish(begun.login_id, f" {code}\n")
    assert (ended.signed_in, ended.detail) == (True, "signed in as acc-3@x.test")
    assert issuer.is_good((await CodexAccounts(redis, SEALER).load("acc-3@x.test")).refresh_token)
    assert [status.name for status in pool.statuses()] == ["acc-3@x.test"]
    assert (await pool.pick("")).name == "acc-3@x.test"


async def test_without_a_key_to_seal_with_it_goes_to_the_clis_file(
    made: Make, issuer: Issuer, redis: Redis, tmp_path: Path
) -> None:
    pool, sign_in = made(secrets_key="")
    begun = await sign_in.begin()
    ended = await sign_in.finish(begun.login_id, issuer.authorize(begun.url))
    path = tmp_path / ".codex" / "auth.json"
    assert ended.detail == f"signed in as {path}"
    assert issuer.is_good(json.loads(path.read_bytes())["tokens"]["refresh_token"])
    assert await redis.keys("pb:{codex}:logins") == []
    assert pool.signed_in


async def test_several_logins_may_wait_and_each_ends_once(made: Make, issuer: Issuer) -> None:
    _, sign_in = made()
    one, two = await sign_in.begin(), await sign_in.begin()
    addresses = [issuer.authorize(begun.url, account) for begun, account in ((one, "acc-1"), (two, "acc-2"))]
    with pytest.raises(PatchbayError, match="is not of this login"):
        await sign_in.finish(one.login_id, addresses[1])
    assert (await sign_in.finish(two.login_id, addresses[1])).signed_in
    for login_id in (one.login_id, two.login_id, "made-up"):
        with pytest.raises(PatchbayError, match="no such login waits here") as caught:
            await sign_in.finish(login_id, addresses[0])
        assert (caught.value.error.code, caught.value.error.parameter) == (INVALID_REQUEST, "login_id")


async def test_what_goes_wrong_is_said_without_the_code(made: Make, issuer: Issuer) -> None:
    _, sign_in = made()
    begun = await sign_in.begin()
    with pytest.raises(PatchbayError, match="the login failed: the issuer answers 400 invalid_grant") as caught:
        await sign_in.finish(begun.login_id, "made-up-code")
    assert caught.value.error.code == AUTHENTICATION
    assert "made-up-code" not in str(caught.value)
    _, away = made(issuer_url="http://127.0.0.1:1")
    begun = await away.begin()
    with pytest.raises(PatchbayError, match=r"127\.0\.0\.1 does not answer") as caught:
        await away.finish(begun.login_id, "made-up-code")
    assert caught.value.error.code == UPSTREAM
    _, closed = made(redis_url="redis://127.0.0.1:1")
    begun = await closed.begin()
    with pytest.raises(PatchbayError, match="the sign-in cannot be kept") as caught:
        await closed.finish(begun.login_id, issuer.authorize(begun.url))
    assert caught.value.error.code == UNAVAILABLE


@pytest.mark.parametrize("address", ["http://[::1?code=c&state=s", "code=&state=s"])
async def test_an_address_that_is_none_is_not_of_this_login(made: Make, address: str) -> None:
    _, sign_in = made()
    begun = await sign_in.begin()
    with pytest.raises(PatchbayError, match="is not of this login") as caught:
        await sign_in.finish(begun.login_id, address)
    assert (caught.value.error.code, caught.value.error.parameter) == (INVALID_REQUEST, "code")


async def test_signs_out_and_gives_the_tokens_back(made: Make, issuer: Issuer, redis: Redis) -> None:
    store = CodexAccounts(redis, SEALER)
    logins = [issuer.login(f"acc-{number}") for number in (1, 2)]
    for number, login in enumerate(logins):
        await store.save(f"a{number}", login)
    pool, sign_in = made()
    await pool.reload()
    answer = await sign_in.forget()
    assert (answer.signed_in, answer.detail) == (False, "signed out: a0, a1")
    assert issuer.revoked == [login.refresh_token for login in logins]
    assert await store.all() == {}
    assert (await sign_in.forget()).detail == "nobody was signed in"


async def test_signs_in_with_a_code_that_is_typed_elsewhere(made: Make, issuer: Issuer, redis: Redis) -> None:
    pool, sign_in = made()
    begun = await sign_in.begin(device=True, account="team-b")
    assert (begun.url, begun.user_code) == (f"{issuer.url}/codex/device", "ABCD-1234")
    waits = await sign_in.finish(begun.login_id, "")
    assert (waits.login_id, waits.user_code, waits.signed_in) == (begun.login_id, "ABCD-1234", False)
    issuer.typed = True
    ended = await sign_in.finish(begun.login_id, "")
    assert (ended.login_id, ended.signed_in, ended.detail) == ("", True, "signed in as team-b")
    assert issuer.is_good((await CodexAccounts(redis, SEALER).load("team-b")).refresh_token)
    assert (await pool.pick("")).name == "team-b"
    with pytest.raises(PatchbayError, match="no such login"):
        await sign_in.finish(begun.login_id, "")


async def test_takes_the_content_of_an_auth_file(made: Make, issuer: Issuer, redis: Redis) -> None:
    _, sign_in = made()
    login = issuer.login("acc-4")
    tokens = {name: getattr(login, name) for name in ("id_token", "access_token", "refresh_token", "account_id")}
    taken = await sign_in.take(json.dumps({"auth_mode": "chatgpt", "tokens": tokens}).encode(), account="")
    assert taken.detail == "signed in as acc-4@x.test"
    assert (await CodexAccounts(redis, SEALER).load("acc-4@x.test")).refresh_token == login.refresh_token
    without = tokens | {"refresh_token": ""}
    for content in (b"[]", b"{", b'{"tokens": 1}', json.dumps({"tokens": without}).encode(), b"\xff"):
        with pytest.raises(PatchbayError) as refused:
            await sign_in.take(content)
        assert (refused.value.error.code, refused.value.error.parameter) == (INVALID_REQUEST, "sign_in")
        assert login.access_token not in refused.value.error.message
    with pytest.raises(PatchbayError, match="account: "):
        await sign_in.take(b"{}", account="../auth.json")
    _, unsealed = made(secrets_key="")
    with pytest.raises(PatchbayError, match="secrets_key"):
        await unsealed.take(json.dumps({"tokens": tokens}).encode())


async def test_signs_one_account_out_and_no_other(made: Make, issuer: Issuer) -> None:
    pool, sign_in = made()
    for account in ("acc-1", "acc-2"):
        begun = await sign_in.begin()
        await sign_in.finish(begun.login_id, issuer.authorize(begun.url, account))
    assert (await sign_in.forget("acc-1@x.test")).detail == "signed out: acc-1@x.test"
    assert [status.name for status in pool.statuses()] == ["acc-2@x.test"]
    with pytest.raises(PatchbayError) as unknown:
        await sign_in.forget("acc-1@x.test")
    assert unknown.value.error.code == NOT_FOUND
