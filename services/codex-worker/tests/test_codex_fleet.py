"""Replicas as processes of their own: one renewal among all of them, also when the one that makes it is killed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from issuers import Issuer
from redis.asyncio import Redis

from patchbay.codex.login import Login
from patchbay.state.codex_accounts import CodexAccounts
from patchbay.state.sealing import make_sealer
from patchbay.testing.eventually import eventually
from patchbay.testing.valkey import ValkeyProcess

KEY = "00" * 32
SEALER = make_sealer([KEY])
assert SEALER is not None

# A worker's accounts, without its gRPC. Each line of input opens those of a configuration, or has so many requests
# refused at once and says with which tokens they would be sent again.
REPLICA = textwrap.dedent(
    """
    import asyncio, json, sys
    from patchbay.settings import load
    from patchbay.state.connection import connect
    from patchbay.telemetry import logs
    from patchbay.upstream.http import HttpUpstream
    from patchbay.worker.runtime import Shared
    from patchbay_codex_worker.accounts import make_pool

    async def open_pool(flags, home):
        settings = load(flags, {"HOME": home})
        logs.configure(settings.telemetry, service="replica")
        redis = connect(settings.redis.connect_url(), timeout=5)
        [backend] = settings.enabled_backends().values()
        shared = Shared(redis=redis, worker_id=sys.argv[1])
        http = HttpUpstream(backend.base_url, backend.timeouts)
        pool, _ = make_pool(backend, settings, shared, upstream=http, claim_seconds=2.0)
        await pool.reload()
        return pool

    async def refused(pool, met, requests):
        account = await pool.pick("")
        await account.headers()
        met.append(account)
        while len(met) < requests:
            await asyncio.sleep(0)
        assert await account.unauthorized()
        return (await account.headers())["authorization"]

    async def main():
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked, met, answer = json.loads(line), [], []
            if "flags" in asked:
                pool = await open_pool(asked["flags"], asked["home"])
            else:
                answer = await asyncio.gather(*(refused(pool, met, asked["refuse"]) for _ in range(asked["refuse"])))
            print(json.dumps(answer), flush=True)

    asyncio.run(main())
    """
)


class Replica:
    """One process."""

    def __init__(self, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", REPLICA, name], env={}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._said: list[list[str]] = []
        self._asked = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(json.loads(line))

    def _ask(self, **what: object) -> None:
        assert self._process.stdin is not None
        self._asked += 1
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def open(self, home: Path, valkey: ValkeyProcess, issuer: Issuer) -> None:
        """Opens the accounts of our own store, and of the auth.json in this home."""
        backend = {"kind": "codex", "credentials": "signed_in", "oauth_issuer": issuer.url}
        flags = [f"--backends.codex={json.dumps(backend)}", f"--redis.url={valkey.url}"]
        self._ask(flags=[*flags, f"--security.secrets_key={KEY}"], home=str(home))

    def refuse(self, requests: int) -> None:
        """Has so many requests refused with 401 at once."""
        self._ask(refuse=requests)

    @property
    def is_done(self) -> bool:
        """Whether it has done all that it was asked."""
        assert self._process.poll() is None, "the replica has died"
        return len(self._said) == self._asked

    @property
    def tokens(self) -> list[str]:
        """With which tokens the last refused requests were sent again."""
        return self._said[-1]

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def started() -> Iterator[list[Replica]]:
    replicas = [Replica(f"replica-{number}") for number in range(3)]
    yield replicas
    for replica in replicas:
        replica.kill()


@pytest.fixture(params=["store", "file"])
async def kept(request: pytest.FixtureRequest, redis: Redis, issuer: Issuer, tmp_path: Path) -> Login:
    """A sign-in, in the store or in a file."""
    login = issuer.login()
    if request.param == "store":
        await CodexAccounts(redis, SEALER).save("a", login)
    else:
        put(tmp_path / ".codex" / "auth.json", login)
    return login


def put(path: Path, login: Login) -> None:
    tokens = {name: getattr(login, name) for name in ("id_token", "access_token", "refresh_token", "account_id")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auth_mode": "chatgpt", "tokens": tokens, "last_refresh": "2026-01-01T00:00:00Z"}))


async def refresh_token_in(redis: Redis, home: Path) -> str:
    path = home / ".codex" / "auth.json"
    if not await asyncio.to_thread(path.exists):
        return (await CodexAccounts(redis, SEALER).load("a")).refresh_token
    content: dict[str, dict[str, str]] = json.loads(await asyncio.to_thread(path.read_bytes))
    return content["tokens"]["refresh_token"]


async def done(replicas: Sequence[Replica]) -> None:
    await eventually(lambda: all(replica.is_done for replica in replicas), seconds=30, what="all have answered")


async def opened(replicas: Sequence[Replica], home: Path, valkey: ValkeyProcess, issuer: Issuer) -> None:
    for replica in replicas:
        replica.open(home, valkey, issuer)
    await done(replicas)


async def test_twenty_refusals_on_three_replicas_are_one_renewal(
    started: list[Replica], kept: Login, valkey: ValkeyProcess, redis: Redis, issuer: Issuer, tmp_path: Path
) -> None:
    replicas = started
    await opened(replicas, tmp_path, valkey, issuer)
    issuer.hold.clear()
    for replica, requests in zip(replicas, (7, 7, 6), strict=True):
        replica.refuse(requests)
    await eventually(lambda: issuer.waiting)
    issuer.hold.set()
    await done(replicas)
    used = [token for replica in replicas for token in replica.tokens]
    assert len(used) == 20
    assert len(set(used)) == 1
    assert used[0] != f"Bearer {kept.access_token}"
    assert issuer.granted == len(issuer.spent) == 1
    assert issuer.is_good(await refresh_token_in(redis, tmp_path))


async def test_two_copies_of_one_sign_in_never_kill_each_other(
    started: list[Replica], valkey: ValkeyProcess, redis: Redis, issuer: Issuer, tmp_path: Path
) -> None:
    """Each of two replicas has an auth.json of its own, as on two machines, with the same sign-in in it."""
    login, replicas = issuer.login(), started[:2]
    homes = [tmp_path / "one", tmp_path / "two"]
    for replica, home in zip(replicas, homes, strict=True):
        put(home / ".codex" / "auth.json", login)
        replica.open(home, valkey, issuer)
    for turn in (1, 2):
        for replica in replicas:
            replica.refuse(5)
        await done(replicas)
        assert len({token for replica in replicas for token in replica.tokens}) == 1
        assert issuer.granted == len(issuer.spent) == turn
    left = {await refresh_token_in(redis, home) for home in homes}
    assert len(left) == 1
    assert issuer.is_good(left.pop())


async def test_when_the_one_that_renews_is_killed_another_one_does(
    started: list[Replica], valkey: ValkeyProcess, redis: Redis, issuer: Issuer, tmp_path: Path
) -> None:
    login = issuer.login()
    await CodexAccounts(redis, SEALER).save("a", login)
    # The last test here: this one is not started again.
    *others, winner = started
    await opened(started, tmp_path, valkey, issuer)
    issuer.hold.clear()
    winner.refuse(7)
    await eventually(lambda: issuer.waiting == 1)
    for replica in others:
        replica.refuse(7)
    winner.kill()
    # The killed one's claim ends, and one of the others asks.
    await eventually(lambda: issuer.waiting == 2, seconds=15, what="another one renews")
    issuer.hold.set()
    await done(others)
    used = [token for replica in others for token in replica.tokens]
    assert len(used) == 14
    assert len(set(used)) == 1
    assert issuer.granted == len(issuer.spent) == 1
    assert issuer.is_good(await refresh_token_in(redis, tmp_path))
