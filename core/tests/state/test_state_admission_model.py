"""The admission scripts against a model in plain Python, on the server's own clock.

Time passes in the model by making everything that is stored that much older, which to the scripts is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import pytest
import redis
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from patchbay.state import keys, scripts
from patchbay.testing.valkey import ValkeyProcess

MINUTE = 60_000_000
KEYS = ("a", "b")
LEASE_MS = 30_000
MAX_LEASE_MS = 300_000


class Server:
    """Runs the scripts on a real server and tells the span of its clock in which they ran."""

    def __init__(self, port: int) -> None:
        self.client = redis.Redis(port=port)
        for script in (scripts.ADMIT, scripts.RENEW, scripts.RELEASE):
            self.client.script_load(script.source)

    def run(self, script: scripts.Script, names: tuple[str, ...], *args: str | int) -> tuple[object, int, int]:
        transaction = self.client.pipeline(transaction=True)
        transaction.time()
        transaction.evalsha(script.sha, len(names), *names, *args)
        transaction.time()
        before, reply, after = transaction.execute()
        return reply, before[0] * 10**6 + before[1], after[0] * 10**6 + after[1]

    def admit(self, lease: str, key_id: str, rate: int, concurrency: int, connections: int):
        names = (keys.CONNECTIONS, keys.concurrency(key_id), keys.rate(key_id))
        return self.run(
            scripts.ADMIT, names, lease, LEASE_MS, rate, concurrency, connections, MAX_LEASE_MS, 600_000, 120_000
        )

    def pass_time(self, microseconds: int) -> None:
        for name in self.client.keys("pb:{admission}:rate:*"):
            last, level = self.client.get(name).split(b":")
            self.client.set(name, b"%d:%s" % (int(last) - microseconds, level))
        for name in (keys.CONNECTIONS, *map(keys.concurrency, KEYS)):
            for member, score in self.client.zrange(name, 0, -1, withscores=True):
                self.client.zadd(name, {member: score - microseconds // 1000})


@dataclass
class Gcra:
    """The virtual scheduling form of GCRA, in exact fractions: not the script's algorithm, but the same answers."""

    arrival: dict[str, Fraction] = field(default_factory=dict)

    def wait(self, key_id: str, rate: int, now: int) -> Fraction:
        """Microseconds until a request conforms."""
        interval = Fraction(MINUTE, rate)
        theoretical = max(self.arrival.get(key_id, Fraction(0)), Fraction(now))
        return max(Fraction(0), theoretical + interval - now - MINUTE)

    def charge(self, key_id: str, rate: int, now: int) -> None:
        self.arrival[key_id] = max(self.arrival.get(key_id, Fraction(0)), Fraction(now)) + Fraction(MINUTE, rate)


@pytest.fixture(scope="module")
def server():
    with ValkeyProcess() as process:
        yield Server(process.port)


@given(
    rate=st.sampled_from([1, 2, 3, 7, 60, 61, 1_000, 99_999_999]),
    gaps=st.lists(st.integers(0, 5).map(lambda n: n * 10**5) | st.integers(0, 2 * MINUTE), min_size=1, max_size=60),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_rate_limit_is_gcra(server, rate, gaps):
    server.client.flushdb()
    model = Gcra()
    for number, gap in enumerate(gaps):
        server.pass_time(gap)
        model.arrival = {key: arrival - gap for key, arrival in model.arrival.items()}
        (verdict, retry_ms), before, after = server.admit(str(number), "a", rate, -1, -1)
        soonest, latest = model.wait("a", rate, after), model.wait("a", rate, before)
        note(f"{verdict=} {retry_ms=} {soonest=} {latest=}")
        if verdict == 0:
            assert soonest == 0
            decided = int(server.client.get(keys.rate("a")).split(b":")[0])
            assert before <= decided <= after
            model.charge("a", rate, decided)
        else:
            assert verdict == 1
            assert latest > 0
            assert _milliseconds(soonest) <= retry_ms <= _milliseconds(latest)


def _milliseconds(microseconds: Fraction) -> int:
    return -(-microseconds.__ceil__() // 1000)


class AdmissionMachine(RuleBasedStateMachine):
    """Any order of admitting, releasing, renewing and waiting, by two keys whose limits change."""

    server: Server
    verdicts: set[int]

    def __init__(self) -> None:
        super().__init__()
        self.server.client.flushdb()
        self.rates = Gcra()
        self.leases: dict[str, tuple[str, int]] = {}  # id -> (key, expiry in ms)
        self.ended: list[tuple[str, str]] = []
        self.number = 0

    @initialize(
        rate=st.sampled_from([-1, 1, 5, 30]),
        concurrency=st.sampled_from([-1, 1, 2, 4]),
        connections=st.sampled_from([-1, 1, 3, 5]),
    )
    def set_limits(self, rate: int, concurrency: int, connections: int) -> None:
        self.rate, self.concurrency, self.connections = rate, concurrency, connections

    @rule(key_id=st.sampled_from(KEYS))
    def admit(self, key_id: str) -> None:
        self.number += 1
        lease = f"lease-{self.number}"
        (verdict, retry_ms), before, after = self.server.admit(
            lease, key_id, self.rate, self.concurrency, self.connections
        )
        possible = {self._expected(key_id, now)[0] for now in (before, after)}
        assert verdict in possible
        self.verdicts.add(verdict)
        if verdict == 1:
            assert self._expected(key_id, after)[1] <= retry_ms <= self._expected(key_id, before)[1]
        elif verdict:
            assert retry_ms == -1
        else:
            expiry = int(self.server.client.zscore(keys.CONNECTIONS, lease))
            assert before // 1000 + LEASE_MS <= expiry <= after // 1000 + LEASE_MS
            self.leases[lease] = (key_id, expiry)
            if self.rate >= 0:
                decided = int(self.server.client.get(keys.rate(key_id)).split(b":")[0])
                self.rates.charge(key_id, self.rate, decided)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted(self.leases)))
        key_id, _ = self.leases.pop(lease)
        self.ended.append((lease, key_id))
        self._release(lease, key_id)

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def release_again(self, data: st.DataObject) -> None:
        assert self._release(*data.draw(st.sampled_from(self.ended))) == 0

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.leases)), unique=True))
        held = {key_id: [lease for lease in chosen if self.leases[lease][0] == key_id] for key_id in KEYS}
        names = (keys.CONNECTIONS, *(keys.concurrency(key_id) for key_id in held))
        args = [word for leases in held.values() for word in (len(leases), *leases)]
        present = {member.decode() for member in self.server.client.zrange(keys.CONNECTIONS, 0, -1)}
        added, before, after = self.server.run(scripts.RENEW, names, LEASE_MS, 600_000, *args)
        assert added == len(set(chosen) - present)
        for lease in chosen:
            key_id, old = self.leases[lease]
            expiry = int(self.server.client.zscore(keys.CONNECTIONS, lease))
            assert expiry == int(self.server.client.zscore(keys.concurrency(key_id), lease))
            assert before // 1000 + LEASE_MS <= expiry <= max(old, after // 1000 + LEASE_MS)
            self.leases[lease] = (key_id, expiry)

    @rule(milliseconds=st.integers(0, 2_000) | st.integers(0, 70_000))
    def wait(self, milliseconds: int) -> None:
        self.server.pass_time(milliseconds * 1000)
        self.rates.arrival = {key: at - milliseconds * 1000 for key, at in self.rates.arrival.items()}
        self.leases = {lease: (key_id, expiry - milliseconds) for lease, (key_id, expiry) in self.leases.items()}

    @invariant()
    def holds_what_lives_and_nothing_more(self) -> None:
        stored = {
            lease.decode(): int(score)
            for lease, score in self.server.client.zrange(keys.CONNECTIONS, 0, -1, withscores=True)
        }
        by_key = {
            lease.decode(): (key_id, int(score))
            for key_id in KEYS
            for lease, score in self.server.client.zrange(keys.concurrency(key_id), 0, -1, withscores=True)
        }
        seconds, microseconds = self.server.client.time()
        now_ms = seconds * 1000 + microseconds // 1000
        living = {lease: place for lease, place in self.leases.items() if place[1] > now_ms}
        assert {lease: score for lease, score in stored.items() if score > now_ms} == {
            lease: expiry for lease, (_, expiry) in living.items()
        }
        assert {lease: place for lease, place in by_key.items() if place[1] > now_ms} == living

    def _expected(self, key_id: str, now: int) -> tuple[int, int]:
        wait = Fraction(0) if self.rate < 0 else self.rates.wait(key_id, self.rate, now)
        if wait > 0:
            return 1, _milliseconds(wait)
        living = [key for key, expiry in self.leases.values() if expiry > now // 1000]
        if 0 <= self.concurrency <= living.count(key_id):
            return 2, -1
        if 0 <= self.connections <= len(living):
            return 3, -1
        return 0, 0

    def _release(self, lease: str, key_id: str) -> object:
        return self.server.run(scripts.RELEASE, (keys.CONNECTIONS, keys.concurrency(key_id)), lease)[0]


def test_admission_against_its_model(server):
    verdicts: set[int] = set()
    machine = type("Machine", (AdmissionMachine,), {"server": server, "verdicts": verdicts})
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))
    assert {0} < verdicts, "some are admitted, and some are not"
