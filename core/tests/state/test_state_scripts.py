from __future__ import annotations

import re

import pytest

from patchbay.errors import PatchbayError
from patchbay.state import keys, scripts
from patchbay.state.admission import Admission, Limits
from patchbay.state.connection import RedisUnavailable
from patchbay.testing.valkey import ValkeyProcess

ALL = [
    scripts.ADMIT,
    scripts.RENEW,
    scripts.RELEASE,
    scripts.GAUGE,
    scripts.ANNOUNCE,
    scripts.WITHDRAW,
    scripts.DIRECTORY,
    scripts.ASK,
    scripts.KEEP,
    scripts.RESOLVE,
    scripts.SWEEP,
    scripts.FETCH,
    scripts.CODEX_LOGIN_SAVE,
    scripts.CODEX_CLAIM,
    scripts.CODEX_SETTLE,
    scripts.CODEX_NOTE,
]


@pytest.mark.parametrize("script", ALL, ids=lambda script: script.name)
async def test_the_server_knows_each_script_by_our_hash(redis, script):
    assert await redis.script_load(script.source) == script.sha
    assert re.fullmatch(r"[a-z_]+_v\d+", script.name)


def test_keys_of_one_script_share_a_hash_tag():
    admission = [keys.CONNECTIONS, keys.PROBE, keys.concurrency("a{b}c"), keys.rate("a{b}c")]
    registry = [keys.WORKERS, keys.WORKERS_EXPIRY, keys.EDGES, keys.EDGES_EXPIRY, keys.REGISTRY_EPOCH]
    permissions = [
        keys.PERMISSION_REQUESTS,
        keys.PERMISSION_LEASES,
        keys.PERMISSIONS_RESOLVED,
        keys.PERMISSIONS_RESOLVED_EXPIRY,
        keys.PERMISSIONS_AUDIT,
    ]
    assert {re.match(r"pb:\{(.+?)\}:", name)[1] for name in admission} == {"admission"}
    assert {re.match(r"pb:\{(.+?)\}:", name)[1] for name in permissions} == {"permissions"}
    assert {re.match(r"pb:\{(.+?)\}:", name)[1] for name in registry} == {"registry"}


async def test_scripts_survive_script_flush(redis):
    await scripts.check(redis)
    admission = Admission(redis, replica_id="edge-1", limits=Limits())
    for number in range(3):
        lease = await admission.admit(request_id=str(number), key_id="k")
        await redis.script_flush()
        await lease.release()
        assert await admission.gauges() == {"connections": 0}
        await redis.script_flush()
    assert not admission.degraded


async def test_many_calls_at_once_send_a_forgotten_script_once(redis):
    admission = Admission(redis, replica_id="edge-1", limits=Limits(concurrent_requests=50))
    await redis.config_resetstat()
    import asyncio

    outcomes = await asyncio.gather(
        *(admission.admit(request_id=str(n), key_id="k") for n in range(80)), return_exceptions=True
    )
    assert sum(isinstance(outcome, PatchbayError) for outcome in outcomes) == 30
    statistics = await redis.info("commandstats")
    assert statistics["cmdstat_eval"]["calls"] == 1
    assert (await admission.gauges())["connections"] == 50


@pytest.mark.parametrize(
    "refused",
    [["-script"], ["-script", "-evalsha"], ["-@all", "+eval", "+@sortedset", "+@string", "+@keyspace", "+time"]],
)
async def test_works_for_a_user_without_script_and_evalsha(valkey, connected, refused):
    valkey.command("ACL", "SETUSER", "edge", "on", ">pass", "~pb:*", "&pb:*", "+@all", *refused)
    redis = connected(f"redis://edge:pass@127.0.0.1:{valkey.port}/0")
    await scripts.check(redis)
    admission = Admission(redis, replica_id="edge-1", limits=Limits(requests_per_minute=5))
    lease = await admission.admit(request_id="1", key_id="k")
    assert await scripts.run(redis, scripts.GAUGE, (keys.CONNECTIONS,), ()) == [1]
    await lease.release()
    assert not admission.degraded


@pytest.mark.parametrize("how", ["acl", "renamed"])
async def test_says_at_start_when_scripts_are_refused(how, connected):
    with ValkeyProcess(options={"rename-command": "EVAL ''"} if how == "renamed" else {}) as valkey:
        valkey.command("ACL", "SETUSER", "edge", "on", ">pass", "~pb:*", "+@all", "-eval" if how == "acl" else "+eval")
        redis = connected(f"redis://edge:pass@127.0.0.1:{valkey.port}/0")
        with pytest.raises(scripts.ScriptsRefused, match=r"does not run Lua scripts .* Allow EVAL"):
            await scripts.check(redis)
        admission = Admission(redis, replica_id="edge-1", limits=Limits())
        with pytest.raises(scripts.ScriptsRefused):
            await admission.run()


async def test_a_state_that_passes_is_not_a_refusal(connected):
    primary = ValkeyProcess()
    options = {"replicaof": f"127.0.0.1 {primary.port}", "replica-serve-stale-data": "no"}
    with ValkeyProcess(options=options) as valkey, pytest.raises(RedisUnavailable):
        await scripts.check(connected(valkey.url))


async def test_an_unreachable_server_is_not_a_refusal(valkey, redis):
    valkey.kill()
    with pytest.raises(RedisUnavailable):
        await scripts.check(redis)
