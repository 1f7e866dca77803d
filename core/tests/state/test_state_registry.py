from __future__ import annotations

import asyncio
import sys
import textwrap
import time

import msgspec
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from patchbay.state import keys, registry, scripts
from patchbay.state.registry import Announcer, BackendRecord, Directory, EdgeRecord, WorkerRecord
from patchbay.testing.eventually import eventually, stays

OPENAI = BackendRecord("openai", "openai", "openai_chat", signed_in=True)
GEMINI = BackendRecord("gemini", "gemini", "openai_chat", signed_in=False, detail="GEMINI_API_KEY is not set")


def worker(name: str, *backends: BackendRecord, **fields) -> WorkerRecord:
    record = WorkerRecord(name, "openai-worker", "127.0.0.1:50051", "0.1.0", 1.5, 64, 0, False, backends or (OPENAI,))
    return msgspec.structs.replace(record, **fields)


def names(directory: Directory) -> list[str]:
    return [record.id for record in directory.workers]


async def is_subscribed(redis: Redis) -> bool:
    """Whether somebody listens for change notices on this server."""
    return (await redis.pubsub_numsub(keys.REGISTRY_CHANGED))[0][1] > 0


async def test_what_is_announced_is_read(redis):
    directory = Directory(redis)
    assert (list(directory.workers), directory.stale, directory.edges) == ([], True, 0)
    second, first = worker("w2", OPENAI, GEMINI, in_flight=3), worker("w1", GEMINI)
    for record in (second, first, EdgeRecord("e1", "0.1.0", 1.0)):
        await Announcer(redis, lambda record=record: record).announce_now()
    await directory.refresh()
    assert list(directory.workers) == [first, second]
    assert directory.for_backend("openai") == [second]
    assert directory.for_backend("gemini") == [first, second]
    assert directory.for_backend("unknown") == []
    assert (directory.stale, directory.edges) == (False, 1)


async def test_each_heartbeat_brings_the_record_of_that_moment(redis, background):
    now = {"in_flight": 0}
    background(Announcer(redis, lambda: worker("w1", **now), interval=0.05).run())
    directory = Directory(redis, interval=0.05)
    background(directory.run())
    await eventually(lambda: names(directory) == ["w1"])
    now["in_flight"] = 7
    assert await eventually(lambda: directory.workers[0].in_flight == 7)


async def test_draining_is_noticed_at_once(redis, background):
    now = {"draining": False}
    announcer = Announcer(redis, lambda: worker("w1", **now), interval=60)
    directory = Directory(redis, interval=60)
    background(directory.run())
    await eventually(lambda: not directory.stale)
    background(announcer.run())
    await eventually(lambda: names(directory) == ["w1"])  # its first heartbeat gave notice
    changes = []
    directory.on_change(lambda: changes.append(directory.for_backend("openai")))
    now["draining"] = True
    started = time.monotonic()
    await announcer.announce_now()
    await eventually(lambda: directory.for_backend("openai") == [])
    assert time.monotonic() - started < 1
    assert names(directory) == ["w1"]
    assert changes == [[]]


async def test_withdrawn_when_cancelled(redis, background):
    directory = Directory(redis, interval=60)
    background(directory.run())
    await eventually(lambda: not directory.stale)
    running = asyncio.ensure_future(Announcer(redis, lambda: worker("w1")).run())
    await eventually(lambda: names(directory) == ["w1"])
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually(lambda: names(directory) == [])
    assert await redis.hgetall(keys.WORKERS) == {}


async def test_withdrawn_wherever_it_is_cancelled(redis):
    """A heartbeat that is under way when the worker leaves must not come after the withdrawal."""
    for steps in range(60):
        # Announcing takes two round trips on a server that has forgotten how, withdrawing one.
        await redis.script_flush()
        await redis.script_load(scripts.WITHDRAW.source)
        running = asyncio.ensure_future(Announcer(redis, lambda: worker("w1"), interval=0.0001).run())
        for _ in range(steps):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait((running,))
        assert await redis.hgetall(keys.WORKERS) == {}


async def test_a_record_of_another_release_is_skipped(redis):
    await Announcer(redis, lambda: worker("w1")).announce_now()
    directory = Directory(redis)
    await directory.refresh()
    newer = msgspec.json.encode({**msgspec.to_builtins(worker("w2")), "field_of_a_later_release": 1})
    await redis.hset(keys.WORKERS, mapping={"w2": newer, "w3": b'{"id":"w3"}'})
    expiry = await redis.zscore(keys.WORKERS_EXPIRY, "w1")
    await redis.zadd(keys.WORKERS_EXPIRY, {"w2": expiry, "w3": expiry})
    with capture_logs() as logs:
        await directory.refresh()
        await directory.refresh()
    assert names(directory) == ["w1", "w2"]
    assert [entry["event"] for entry in logs] == ["a worker's record cannot be read: is it of another release?"]


async def test_on_change_is_called_for_changes_only(redis):
    directory = Directory(redis)
    changes = []
    directory.on_change(lambda: changes.append((names(directory), directory.stale)))
    announcer = Announcer(redis, lambda: worker("w1"))
    await directory.refresh()
    await directory.refresh()
    await announcer.announce_now()
    await directory.refresh()
    await announcer.announce_now()
    await directory.refresh()
    assert changes == [([], False), (["w1"], False)]


async def test_a_killed_worker_disappears_within_its_time_to_live(valkey, redis, background):
    program = textwrap.dedent(
        """
        import asyncio, sys
        from patchbay.state.connection import connect
        from patchbay.state.registry import Announcer, WorkerRecord
        record = WorkerRecord("w1", "openai-worker", "", "", 0.0, 1, 0, False, ())
        asyncio.run(Announcer(connect(sys.argv[1]), lambda: record, interval=0.1, ttl=0.6).run())
        """
    )
    directory = Directory(redis, interval=0.05)
    background(directory.run())
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, valkey.url, env={})
    await eventually(lambda: names(directory) == ["w1"])
    process.kill()
    await process.wait()
    killed = time.monotonic()
    await eventually(lambda: names(directory) == [])
    assert time.monotonic() - killed < 0.6 + 1.0


@pytest.mark.parametrize("how", ["pause", "kill"])
async def test_the_last_known_workers_stay_while_redis_is_away(valkey, redis, background, monkeypatch, how):
    monkeypatch.setattr(registry, "_RECOVERY_SECONDS", 2.0)
    announcers = [Announcer(redis, lambda n=n: worker(n), interval=0.1, ttl=0.5, timeout=0.2) for n in ("w1", "w2")]
    running = [background(announcer.run()) for announcer in announcers]
    directory = Directory(redis, interval=0.05, timeout=0.2)
    background(directory.run())
    await eventually(lambda: names(directory) == ["w1", "w2"])
    seen = []
    directory.on_change(lambda: seen.append((names(directory), directory.stale)))
    with capture_logs() as logs:
        getattr(valkey, how)()
        await eventually(lambda: directory.stale)
        running[1].cancel()  # a worker that leaves meanwhile is not heard of
        # Longer than the records live.
        await stays(lambda: names(directory) == ["w1", "w2"], seconds=1.0)
        valkey.resume() if how == "pause" else valkey.start()
        await eventually(lambda: not directory.stale)
        assert names(directory) == ["w1", "w2"], "records that were lost or expired are kept until heartbeats are back"
        await eventually(lambda: names(directory) == ["w1"])
    assert seen == [(["w1", "w2"], True), (["w1", "w2"], False), (["w1"], False)]
    said = [entry["event"] for entry in logs if entry["log_level"] != "debug"]
    assert said.count("cannot announce: redis is away") <= 2
    assert said.count("the directory of workers is stale: redis is away") == 1
    assert said.count("the directory of workers is up to date") == 1


async def test_workers_stay_when_redis_comes_back_empty_between_two_refreshes(valkey, redis, connected):
    directory = Directory(redis)
    announcers = {name: Announcer(redis, lambda name=name: worker(name)) for name in ("w1", "w2")}
    for announcer in announcers.values():
        await announcer.announce_now()
    await directory.refresh()
    valkey.restart()
    await directory.refresh()
    assert (names(directory), directory.stale) == (["w1", "w2"], False)
    await announcers["w2"].announce_now()
    await directory.refresh()
    assert names(directory) == ["w1", "w2"]
    # One that was heard of since is no longer kept: it is gone when its record is.
    await connected(valkey.url).delete(keys.WORKERS_EXPIRY)
    await directory.refresh()
    assert names(directory) == ["w1"]


async def test_a_worker_that_withdraws_after_an_outage_is_not_kept(valkey, redis, background):
    directory = Directory(redis, interval=0.05, timeout=0.2)
    announcer = Announcer(redis, lambda: worker("w1"))
    background(directory.run())
    await announcer.announce_now()
    await eventually(lambda: names(directory) == ["w1"])
    valkey.restart()
    await announcer.announce_now()
    await eventually(lambda: is_subscribed(redis))
    await announcer.withdraw()
    assert await eventually(lambda: directory.workers == ())


async def test_announcing_goes_on_after_an_outage_and_says_so_once(valkey, redis, background):
    directory = Directory(redis, timeout=0.2)
    with capture_logs() as logs:
        background(Announcer(redis, lambda: worker("w1"), interval=0.05, timeout=0.1).run())

        def said() -> list[str]:
            return [entry["event"] for entry in logs if "announc" in entry["event"]]

        async def is_announced() -> bool:
            await directory.refresh()
            return names(directory) == ["w1"]

        await eventually(is_announced)
        valkey.pause()
        await eventually(said)
        # Some more heartbeats fail, and nothing more is said.
        await stays(lambda: said() == ["cannot announce: redis is away"], seconds=0.4)
        valkey.resume()
        await eventually(lambda: len(said()) > 1)
        await redis.delete(keys.WORKERS, keys.WORKERS_EXPIRY)
        await eventually(is_announced)
    assert said() == ["cannot announce: redis is away", "announcing again: redis is back"]


async def test_edges_are_counted(redis, background):
    directory = Directory(redis, interval=0.05)
    background(directory.run())
    edges = [
        background(Announcer(redis, lambda n=n: EdgeRecord(f"e{n}", "0.1.0", 1.0), interval=0.05, ttl=0.5).run())
        for n in range(3)
    ]
    await eventually(lambda: directory.edges == 3)
    edges.pop().cancel()
    await eventually(lambda: directory.edges == 2)
    assert directory.workers == ()


async def test_every_key_expires(redis):
    await Announcer(redis, lambda: worker("w1")).announce_now()
    await Announcer(redis, lambda: EdgeRecord("e1", "0.1.0", 1.0)).announce_now()
    lives = {name.decode(): await redis.pttl(name) for name in await redis.keys("*")}
    assert set(lives) == {keys.WORKERS, keys.WORKERS_EXPIRY, keys.EDGES, keys.EDGES_EXPIRY, keys.REGISTRY_EPOCH}
    assert all(0 < life <= 86_400_000 for life in lives.values())


async def test_expired_records_are_dropped(redis):
    await Announcer(redis, lambda: worker("w1"), ttl=0.01).announce_now()

    async def is_expired() -> bool:
        seconds, microseconds = await redis.time()
        return seconds * 1000 + microseconds // 1000 > await redis.zscore(keys.WORKERS_EXPIRY, "w1")

    await eventually(is_expired)
    await Announcer(redis, lambda: worker("w2")).announce_now()
    assert list(await redis.hgetall(keys.WORKERS)) == [b"w2"]


async def test_works_on_a_cluster(cluster, connected, background):
    redis = connected(f"redis+cluster://127.0.0.1:{cluster.port}")
    directory = Directory(redis, interval=60)
    background(directory.run())
    await eventually(lambda: not directory.stale)
    node = connected(f"redis://127.0.0.1:{cluster.port}/0")
    await eventually(lambda: is_subscribed(node))
    await Announcer(redis, lambda: worker("w1")).announce_now()
    assert await eventually(lambda: names(directory) == ["w1"])


async def test_works_without_permission_for_channels(valkey, connected, background):
    valkey.command("ACL", "SETUSER", "edge", "on", ">pass", "~pb:*", "resetchannels", "+@all")
    redis = connected(f"redis://edge:pass@127.0.0.1:{valkey.port}/0")
    directory = Directory(redis, interval=0.05)
    background(directory.run())
    background(Announcer(redis, lambda: worker("w1")).run())
    assert await eventually(lambda: names(directory) == ["w1"])
