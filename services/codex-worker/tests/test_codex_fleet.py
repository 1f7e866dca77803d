"""Replicas as processes of their own: one renewal among all of them, also when the one that makes it is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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

# A worker's accounts, without its gRPC: at each line of input it has so many requests refused at once, and says with
# which tokens they would be sent again.
REPLICA = textwrap.dedent(
    """
    import asyncio, json, sys, time
    from patchbay.settings import load
    from patchbay.state.connection import connect
    from patchbay.telemetry import logs
    from patchbay.worker.runtime import Shared
    from patchbay_codex_worker.accounts import make_pool

    minutes = 0

    async def refused(pool, met, requests):
        account = await pool.pick("")
        await account.headers()
        met.append(account)
        while len(met) < requests:
            await asyncio.sleep(0)
        assert await account.unauthorized()
        return (await account.headers())["authorization"]

    async def main():
        global minutes
        settings = load(sys.argv[3:], {"HOME": sys.argv[2]})
        logs.configure(settings.telemetry, service="replica")
        redis = connect(settings.redis.connect_url(), timeout=5)
        [backend] = settings.enabled_backends().values()
        shared = Shared(redis=redis, worker_id=sys.argv[1])
        clock = lambda: time.time() + 60 * minutes
        pool, _ = make_pool(backend, settings, shared, claim_seconds=2.0, clock=clock)
        await pool.reload()
        print("up", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            # A token that was renewed a moment ago is not renewed because it is refused.
            minutes += 1
            met, requests = [], int(line)
            tokens = await asyncio.gather(*(refused(pool, met, requests) for _ in range(requests)))
            print(json.dumps(tokens), flush=True)

    asyncio.run(main())
    """
)


class Replica:
    """One process, and what it says."""

    def __init__(self, name: str, home: Path, flags: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", REPLICA, name, str(home), *flags],
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(line.strip())

    def refuse(self, requests: int) -> None:
        """Has so many requests of it refused with 401 at once."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{requests}\n")
        self._process.stdin.flush()

    def tokens(self, turn: int) -> list[str]:
        """With which tokens those of the first turn, or the second, were sent again; empty: not yet."""
        assert self._process.poll() is None, "the replica has died"
        found: list[str] = json.loads(self.said[turn]) if len(self.said) > turn else []
        return found

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def fleet(size: int, home: Path, valkey: ValkeyProcess, issuer: Issuer, **config: object) -> Iterator[list[Replica]]:
    backend = {"kind": "codex", "credentials": "signed_in", "oauth_issuer": issuer.url, **config}
    flags = [f"--backends.codex={json.dumps(backend)}", f"--redis.url={valkey.url}", f"--security.secrets_key={KEY}"]
    replicas = [Replica(f"replica-{number}", home, flags) for number in range(size)]
    try:
        yield replicas
    finally:
        for replica in replicas:
            replica.kill()


def put(path: Path, login: Login) -> None:
    tokens = {name: getattr(login, name) for name in ("id_token", "access_token", "refresh_token", "account_id")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auth_mode": "chatgpt", "tokens": tokens, "last_refresh": "2026-01-01T00:00:00Z"}))


def refresh_token_in(path: Path) -> str:
    found: str = json.loads(path.read_text())["tokens"]["refresh_token"]
    return found


async def all_up(replicas: list[Replica]) -> None:
    await eventually(lambda: all(replica.said for replica in replicas), seconds=30, what="every replica is up")


async def used_by(replicas: list[Replica], turn: int) -> set[str]:
    """The tokens that all of them use in the end."""
    await eventually(lambda: all(replica.tokens(turn) for replica in replicas), seconds=20, what=f"turn {turn}")
    return {token.removeprefix("Bearer ") for replica in replicas for token in replica.tokens(turn)}


@pytest.mark.parametrize("kept", ["store", "file"])
async def test_twenty_refusals_are_one_renewal_and_one_more_when_who_makes_it_is_killed(
    kept: str, valkey: ValkeyProcess, redis: Redis, issuer: Issuer, tmp_path: Path
) -> None:
    login, auth_file = issuer.login(), tmp_path / ".codex" / "auth.json"
    store = CodexAccounts(redis, SEALER)
    if kept == "store":
        await store.save("a", login)
    else:
        put(auth_file, login)
    with fleet(3, tmp_path, valkey, issuer) as replicas:
        await all_up(replicas)
        issuer.hold.clear()
        for replica, requests in zip(replicas, (7, 7, 6), strict=True):
            replica.refuse(requests)
        await eventually(lambda: issuer.waiting)
        issuer.hold.set()
        first = await used_by(replicas, 1)
        assert sum(len(replica.tokens(1)) for replica in replicas) == 20
        assert len(first) == 1
        assert first != {login.access_token}
        assert issuer.granted == len(issuer.spent) == 1

        winner, *others = replicas
        issuer.hold.clear()
        winner.refuse(7)
        await eventually(lambda: issuer.waiting == 1)
        for replica in others:
            replica.refuse(7)
        winner.kill()
        # The killed one's claim ends, and one of the others asks.
        await eventually(lambda: issuer.waiting == 2, seconds=15, what="another one renews")
        issuer.hold.set()
        second = await used_by(others, 2)
        assert len(second) == 1
        assert second != first
    assert issuer.granted == len(issuer.spent) == 2
    assert issuer.is_good((await store.load("a")).refresh_token if kept == "store" else refresh_token_in(auth_file))


async def test_two_copies_of_one_sign_in_never_kill_each_other(
    valkey: ValkeyProcess, issuer: Issuer, tmp_path: Path
) -> None:
    """Each of two replicas has an auth.json of its own, as on two machines, with the same sign-in in it."""
    login = issuer.login()
    homes = [tmp_path / "one", tmp_path / "two"]
    for home in homes:
        put(home / ".codex" / "auth.json", login)
    with fleet(1, homes[0], valkey, issuer) as one, fleet(1, homes[1], valkey, issuer) as two:
        await all_up([*one, *two])
        for turn in (1, 2):
            for replica in (*one, *two):
                replica.refuse(5)
            assert len(await used_by([*one, *two], turn)) == 1
            assert issuer.granted == len(issuer.spent) == turn
    left = {refresh_token_in(home / ".codex" / "auth.json") for home in homes}
    assert len(left) == 1
    assert issuer.is_good(left.pop())
