"""Asking for permission: one answer stands, and whatever goes wrong is a denial."""

from __future__ import annotations

import asyncio
import sys
import textwrap
import time
from contextlib import suppress

import msgspec
import pytest
from structlog.testing import capture_logs

from patchbay.state import keys, permission_store
from patchbay.state.connection import RedisUnavailable
from patchbay.state.permissions import MAX_INPUT_BYTES, Decision, PermissionRequest, Permissions, Resolved
from patchbay.testing.eventually import eventually

ALLOW = Decision(True, by="boss")
DENY = Decision(False, reason="not today", by="boss")
COMMAND = b'{"command":"rm -rf build","count":1.0}'


def ask(permissions: Permissions, *, key_id: str = "alice", **changed) -> asyncio.Task[Decision]:
    question = {
        "backend": "claude",
        "session": "s-1",
        "key_id": key_id,
        "worker_id": "w1",
        "tool_name": "Bash",
        "input": msgspec.Raw(COMMAND),
        "timeout_seconds": 60.0,
        **changed,
    }
    return asyncio.ensure_future(permissions.ask(**question))


async def only(permissions: Permissions) -> PermissionRequest:
    """The one request that is pending."""

    async def found() -> list[PermissionRequest]:
        return await permissions.pending(key_id=None)

    (request,) = await eventually(found)
    return request


async def none_pending(permissions: Permissions) -> bool:
    return await permissions.pending(key_id=None) == []


async def is_subscribed(redis) -> bool:
    return (await redis.pubsub_numsub(keys.PERMISSIONS_CHANGED))[0][1] > 0


async def test_a_question_is_seen_and_answered_by_another_replica(redis, connected, valkey):
    here, elsewhere = Permissions(redis), Permissions(connected(valkey.url))
    asked = ask(here, input=msgspec.Raw(b' {"command": "rm -rf build",\n "count": 1.0} '))
    request = await only(elsewhere)
    assert (request.backend, request.session, request.tool_name) == ("claude", "s-1", "Bash")
    assert bytes(request.input) == COMMAND, "every number stays as it was written, on one line"
    assert abs(request.created_at - time.time()) < 5
    assert request.expires_at == pytest.approx(request.created_at + 60)
    changed = msgspec.Raw(b'{"command":\n"ls"}')
    outcome = await elsewhere.respond(request.id, Decision(True, changed, reason="safer so", by="boss"), key_id=None)
    assert outcome.now
    assert outcome.resolved.request == request
    decision = await asked
    assert (decision.allowed, bytes(decision.updated_input), decision.reason, decision.by) == (
        True,
        b'{"command":"ls"}',
        "safer so",
        "boss",
    )
    assert await none_pending(here)
    resolved = await here.get(request.id, key_id="alice")
    assert isinstance(resolved, Resolved)
    assert (resolved.request, resolved.decision.by) == (request, "boss")


async def test_an_answer_is_heard_at_once(redis):
    permissions = Permissions(redis, poll_seconds=30, lease_seconds=120)
    asked = ask(permissions)
    request = await only(permissions)
    await eventually(lambda: is_subscribed(redis))
    started = time.monotonic()
    await permissions.respond(request.id, DENY, key_id=None)
    assert await asked == DENY
    assert time.monotonic() - started < 2


async def test_of_many_answers_at_once_one_stands(redis, connected, valkey):
    replicas = [Permissions(connected(valkey.url)) for _ in range(3)]
    for _ in range(10):
        asked = ask(replicas[0])
        request = await only(replicas[0])
        answers = [Decision(number % 2 == 0, by=f"judge-{number}") for number in range(12)]
        outcomes = await asyncio.gather(
            *(replicas[number % 3].respond(request.id, answer, key_id=None) for number, answer in enumerate(answers))
        )
        (winner,) = [answer for answer, outcome in zip(answers, outcomes, strict=True) if outcome.now]
        assert {outcome.resolved.decision for outcome in outcomes} == {winner}
        assert await asked == winner


async def test_an_answer_that_is_sent_twice_is_one(redis, monkeypatch):
    """A connection that breaks after Redis has taken the answer: it is sent again, and is still this answer."""
    permissions = Permissions(redis)
    asked = ask(permissions)
    request = await only(permissions)
    send = permission_store.scripts.run

    async def send_twice(*args, **options):
        await send(*args, **options)
        return await send(*args, **options)

    monkeypatch.setattr(permission_store.scripts, "run", send_twice)
    assert (await permissions.respond(request.id, ALLOW, key_id=None)).now
    assert not (await permissions.respond(request.id, DENY, key_id=None)).now
    assert await asked == ALLOW
    entries = await permissions.audit(10)
    assert [entry.event for entry in entries] == ["resolved", "asked"]


async def test_an_unanswered_question_is_denied_in_time(redis):
    permissions = Permissions(redis)
    started = time.monotonic()
    decision = await ask(permissions, timeout_seconds=0.3)
    assert 0.3 <= time.monotonic() - started < 1.5
    assert (decision.allowed, decision.by) == (False, "timeout")
    assert await none_pending(permissions)


async def test_an_answer_after_the_time_is_over_does_not_stand(redis):
    permissions = Permissions(redis)
    asked = ask(permissions, timeout_seconds=0.2)
    request = await only(permissions)
    await asked
    outcome = await permissions.respond(request.id, ALLOW, key_id=None)
    assert (outcome.now, outcome.resolved.decision.by) == (False, "timeout")


async def test_cancelling_withdraws(redis):
    permissions = Permissions(redis)
    asked = ask(permissions)
    request = await only(permissions)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    resolved = await permissions.get(request.id, key_id=None)
    assert (resolved.decision.allowed, resolved.decision.by) == (False, "withdrawn")
    assert not (await permissions.respond(request.id, ALLOW, key_id=None)).now


async def test_withdrawn_wherever_it_is_cancelled(redis):
    permissions = Permissions(redis)
    for steps in range(40):
        asked = ask(permissions)
        for _ in range(steps):
            await asyncio.sleep(0)
        asked.cancel()
        with suppress(asyncio.CancelledError):
            await asked
        assert await none_pending(permissions), steps


async def test_a_lease_is_renewed_while_the_question_waits(redis):
    permissions = Permissions(redis, lease_seconds=0.4)
    asked = ask(permissions)
    request = await only(permissions)
    first = await redis.zscore(keys.PERMISSION_LEASES, request.id)

    async def is_renewed() -> bool:
        return (await redis.zscore(keys.PERMISSION_LEASES, request.id)) > first + 1000

    await eventually(is_renewed)
    assert (await permissions.respond(request.id, ALLOW, key_id=None)).now
    assert await asked == ALLOW


async def test_what_a_killed_worker_asked_disappears_within_its_lease(valkey, redis):
    program = textwrap.dedent(
        """
        import asyncio, sys, msgspec
        from patchbay.state.connection import connect
        from patchbay.state.permissions import Permissions
        asyncio.run(Permissions(connect(sys.argv[1]), lease_seconds=1.0).ask(
            backend="claude", session="s", key_id="alice", worker_id="w9", tool_name="Bash",
            input=msgspec.Raw(b"{}"), timeout_seconds=600,
        ))
        """
    )
    permissions = Permissions(redis, poll_seconds=0.1)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, valkey.url, env={})
    async with permissions.watch(key_id="alice") as watch:
        (request,) = await watch.changes(10)
        process.kill()
        await process.wait()
        killed = time.monotonic()
        with capture_logs() as logs:
            (resolved,) = await watch.changes(10)
        assert time.monotonic() - killed < 1.0 + 2.0
    assert (resolved.request, resolved.decision.by) == (request, "lost")
    assert not (await permissions.respond(request.id, ALLOW, key_id=None)).now
    (line,) = [entry for entry in logs if entry["event"] == "permission_resolved"]
    assert (line["id"], line["worker_id"], line["decision"], line["by"]) == (request.id, "w9", "deny", "lost")


async def test_an_answer_to_a_question_whose_lease_has_ended_does_not_stand(redis):
    permissions = Permissions(redis)
    asked = ask(permissions)
    request = await only(permissions)
    store = permission_store.Store(redis, timeout=0.5, lease_ms=1000)
    await redis.zadd(keys.PERMISSION_LEASES, {request.id: 1})
    now, stored = await store.resolve(request.id, ALLOW)
    assert (now, stored.decision.by) == (False, "lost")
    assert (await asked).by == "lost"


async def test_without_redis_a_question_is_denied_in_time(valkey, redis):
    permissions = Permissions(redis, timeout=0.3, lease_seconds=1)
    await ask(permissions, timeout_seconds=0.01)  # the server knows the script, and may still take what it is sent now
    valkey.pause()
    started = time.monotonic()
    decision = await ask(permissions)
    assert time.monotonic() - started < 1.0
    assert (decision.allowed, decision.by) == (False, "redis")
    assert "Redis is away" in decision.reason
    valkey.resume()

    async def is_withdrawn() -> bool:
        with suppress(RedisUnavailable):
            return await none_pending(permissions)
        return False

    await eventually(is_withdrawn)


async def test_a_question_survives_an_outage_shorter_than_its_lease(valkey, redis, connected):
    permissions = Permissions(redis, timeout=0.2, lease_seconds=5, poll_seconds=0.1)
    asked = ask(permissions)
    request = await only(permissions)
    valkey.pause()
    with pytest.raises(RedisUnavailable):
        await permissions.pending(key_id=None)
    valkey.resume()
    other = Permissions(connected(valkey.url))
    assert (await other.respond(request.id, ALLOW, key_id=None)).now
    assert await asked == ALLOW


async def test_a_question_is_denied_when_redis_is_away_for_a_lease(valkey, redis):
    permissions = Permissions(redis, timeout=0.2, lease_seconds=0.8)
    asked = ask(permissions)
    await only(permissions)
    valkey.pause()
    paused = time.monotonic()
    decision = await asked
    assert 0.4 <= time.monotonic() - paused < 2.0
    assert (decision.allowed, decision.by) == (False, "redis")
    valkey.resume()


async def test_a_question_that_redis_has_lost_is_denied(valkey, redis):
    permissions = Permissions(redis, poll_seconds=0.05)
    asked = ask(permissions)
    async with permissions.watch(key_id=None) as watch:
        (request,) = await watch.changes(5)
        await redis.flushall()
        assert (await asked).by == "redis"
        (resolved,) = await watch.changes(5)
    assert (resolved.request, resolved.decision.allowed, resolved.decision.by) == (request, False, "redis")


@pytest.mark.parametrize(
    ("tool_input", "why"),
    [
        (b'{"content":"' + b"x" * MAX_INPUT_BYTES + b'"}', "larger than"),
        (b'{"cut":"\\ud83d"}', "no JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "no JSON"),
        (b"", "no JSON"),
    ],
    ids=["large", "half an emoji", "deep", "empty"],
)
async def test_what_cannot_be_shown_is_denied(redis, tool_input, why):
    with capture_logs() as logs:
        decision = await ask(Permissions(redis), input=msgspec.Raw(tool_input))
    assert not decision.allowed
    assert why in decision.reason
    assert [entry["event"] for entry in logs] == ["permission_resolved"]


async def test_a_question_may_wait_for_a_week_at_most(redis):
    permissions = Permissions(redis)
    asked = ask(permissions, timeout_seconds=float("inf"))
    request = await only(permissions)
    assert request.expires_at - request.created_at == pytest.approx(7 * 86_400)
    await permissions.respond(request.id, ALLOW, key_id=None)
    assert await asked == ALLOW


async def test_too_many_questions_are_denied(redis, monkeypatch):
    monkeypatch.setattr(permission_store, "_MOST_PENDING", 2)
    permissions = Permissions(redis)
    waiting = [ask(permissions), ask(permissions)]

    async def two() -> bool:
        return len(await permissions.pending(key_id=None)) == 2

    await eventually(two)
    assert (await ask(permissions)).by == "limit"
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)


async def test_a_key_sees_and_answers_only_its_own(redis):
    permissions = Permissions(redis)
    async with permissions.watch(key_id="bob") as watch, permissions.watch(key_id=None) as everything:
        asked = ask(permissions, key_id="alice")
        (request,) = await everything.changes(5)
        assert await permissions.pending(key_id="bob") == []
        assert await permissions.get(request.id, key_id="bob") is None
        assert await permissions.respond(request.id, ALLOW, key_id="bob") is None
        mine = ask(permissions, key_id="bob", session="bobs")
        (seen,) = await watch.changes(5)
        assert seen.session == "bobs"
        assert (await permissions.respond(request.id, DENY, key_id="alice")).now
        assert (await permissions.respond(seen.id, ALLOW, key_id="bob")).now
        assert (await asked, await mine) == (DENY, ALLOW)
        (resolved,) = await watch.changes(5)
        assert resolved.request == seen


async def test_a_watcher_sees_what_is_pending_and_then_each_change_once(redis):
    permissions = Permissions(redis, poll_seconds=30, lease_seconds=120)
    first = ask(permissions, session="1")
    request = await only(permissions)
    async with permissions.watch(key_id=None) as watch:
        assert await watch.changes(5) == [request]
        await eventually(lambda: is_subscribed(redis))
        assert await watch.changes(0.05) == []
        second = ask(permissions, session="2")
        (later,) = await watch.changes(5)
        assert later.session == "2"
        await permissions.respond(request.id, DENY, key_id=None)
        assert await watch.changes(5) == [Resolved(request, DENY)]
        await permissions.respond(later.id, ALLOW, key_id=None)
        assert await watch.changes(5) == [Resolved(later, ALLOW)]
        assert await watch.changes(0.05) == []
    assert (await first, await second) == (DENY, ALLOW)


async def test_a_watcher_goes_on_through_an_outage(valkey, redis, connected):
    permissions = Permissions(redis, timeout=0.2, poll_seconds=0.05)
    async with permissions.watch(key_id=None) as watch:
        assert await watch.changes(0.1) == []
        valkey.kill()
        assert await watch.changes(0.5) == []
        valkey.start()
        asked = ask(Permissions(connected(valkey.url)))
        (request,) = await watch.changes(5)
        await permissions.respond(request.id, ALLOW, key_id=None)
        assert await asked == ALLOW


async def test_one_subscription_serves_all_and_ends_with_the_last(redis):
    permissions = Permissions(redis)
    asked = [ask(permissions) for _ in range(20)]
    async with permissions.watch(key_id=None):
        await eventually(lambda: is_subscribed(redis))
        assert (await redis.pubsub_numsub(keys.PERMISSIONS_CHANGED))[0][1] == 1
        for one in asked:
            one.cancel()
        await asyncio.wait(asked)
        assert await is_subscribed(redis)

    async def nobody_listens() -> bool:
        return not await is_subscribed(redis)

    await eventually(nobody_listens)


async def test_the_audit_says_who_decided_what_and_not_the_input(redis):
    permissions = Permissions(redis)
    with capture_logs() as logs:
        asked = ask(permissions)
        request = await only(permissions)
        await permissions.respond(
            request.id, Decision(True, msgspec.Raw(b'{"command":"secret"}'), "fine", "boss"), key_id=None
        )
        await asked
        await ask(permissions, timeout_seconds=0.01)
    last = await permissions.audit(10)
    assert [(entry.event, entry.decision, entry.by, entry.changed_input) for entry in last] == [
        ("resolved", "deny", "timeout", False),
        ("asked", None, "", False),
        ("resolved", "allow", "boss", True),
        ("asked", None, "", False),
    ]
    entry = last[2]
    assert (entry.id, entry.backend, entry.session, entry.tool_name) == (request.id, "claude", "s-1", "Bash")
    assert (entry.key_id, entry.worker_id, entry.reason) == ("alice", "w1", "fine")
    assert entry.at >= request.created_at
    assert await permissions.audit(1) == last[:1]
    said = [line["event"] for line in logs]
    assert said == ["permission_asked", "permission_resolved"] * 2
    for text in (str(logs), str(await redis.xrange(keys.PERMISSIONS_AUDIT))):
        assert "rm -rf" not in text
        assert "secret" not in text


async def test_answers_are_forgotten_after_a_while(redis, monkeypatch):
    monkeypatch.setattr(permission_store, "_KEPT_MS", 1)
    permissions = Permissions(redis)
    await ask(permissions, timeout_seconds=0.01)

    async def is_forgotten() -> bool:
        await permissions.pending(key_id=None)
        return not await redis.exists(keys.PERMISSIONS_RESOLVED)

    await eventually(is_forgotten)


async def test_every_key_expires(redis):
    permissions = Permissions(redis)
    await ask(permissions, timeout_seconds=0.01)
    asked = ask(permissions)
    await only(permissions)
    lives = {name.decode(): await redis.pttl(name) for name in await redis.keys("*")}
    assert set(lives) == {
        keys.PERMISSION_REQUESTS,
        keys.PERMISSION_LEASES,
        keys.PERMISSIONS_RESOLVED,
        keys.PERMISSIONS_RESOLVED_EXPIRY,
        keys.PERMISSIONS_AUDIT,
    }
    assert all(life > 0 for life in lives.values())
    asked.cancel()
    await asyncio.wait((asked,))


async def test_works_on_a_cluster(cluster, connected):
    permissions = Permissions(connected(f"redis+cluster://127.0.0.1:{cluster.port}"))
    async with permissions.watch(key_id=None) as watch:
        asked = ask(permissions)
        (request,) = await watch.changes(5)
        await permissions.respond(request.id, ALLOW, key_id=None)
        assert await asked == ALLOW
        assert len(await permissions.audit(5)) == 2


async def test_works_without_permission_for_channels(valkey, connected):
    valkey.command("ACL", "SETUSER", "edge", "on", ">pass", "~pb:*", "resetchannels", "+@all")
    permissions = Permissions(connected(f"redis://edge:pass@127.0.0.1:{valkey.port}/0"), poll_seconds=0.05)
    asked = ask(permissions)
    request = await only(permissions)
    assert (await permissions.respond(request.id, ALLOW, key_id=None)).now
    assert await asked == ALLOW
