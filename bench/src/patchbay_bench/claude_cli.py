"""Time to first content through `claude` processes, beside the same request to the API: one request at a time.

A request is sent when every pool has its spares and nothing starts or is busy. What it costs until that is so again,
the start of a process in the place of the one that was used included, is the request's own CPU time.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx
import psutil

from patchbay.testing.cluster import Cluster
from patchbay.testing.valkey import ValkeyProcess
from patchbay_bench.claude_bodies import Body, Json, write_body
from patchbay_bench.claude_figures import PLAIN, WITH_TOOLS, ClaudeFigure, SpareMemory, Way
from patchbay_bench.figures import Results
from patchbay_bench.jobs import Job
from patchbay_bench.load import LoadGenerator
from patchbay_bench.meters import all_cpu_seconds
from patchbay_bench.paths import LeftOut
from patchbay_bench.plan import Plan
from patchbay_bench.systems import KEY, configuration
from patchbay_bench.wire import PATHS, VERSION_HEADER, read_answer
from patchbay_standin import Script
from patchbay_standin.testing import StandinProcess

HISTORIES: Final = (2, 4, 10, 20)
AGENT_TURN: Final = "a later turn"

BODIES: Final = (PLAIN, WITH_TOOLS, *(Body(tools=True, history=messages) for messages in HISTORIES))
_MODEL: Final = "bench-short"
_SCRIPT: Final = Script(deltas=5)
# The spares of each pool, and the most processes: `alone` may not start another one before its only one has ended.
_POOLS: Final = {"spare": (2, 8), "alone": (1, 1), "cold": (0, 8), "agent": (1, 8)}
# Cheap, so that the median it is all compared with is a firm one.
_DIRECT_REQUESTS: Final = 3
_PROGRAM: Final = "claude"
_READY_SECONDS: Final = 60.0
# Asking is work for the worker too.
_POLL_SECONDS: Final = 0.1
# A pool does not say that it still removes what a process has left.
_SETTLE_SECONDS: Final = 0.2
_MEGABYTE: Final = 2**20


class NotReady(Exception):
    """The pools do not get their spares; the message says what they have."""


@dataclass(slots=True)
class _Patchbay:
    """One edge and one claude-worker before the stand-in."""

    url: str
    worker: int
    expected: str

    @property
    def headers(self) -> dict[str, str]:
        return {"x-api-key": KEY, **VERSION_HEADER}

    def wait_ready(self) -> None:
        """Waits until every pool has its spares, and nothing starts or is busy. Raises NotReady."""
        give_up_at = time.monotonic() + _READY_SECONDS
        while not is_ready(status := self.status()):
            if time.monotonic() > give_up_at:
                raise NotReady(f"not all spares are there after {_READY_SECONDS:g} s: {trouble_of(status)}")
            time.sleep(_POLL_SECONDS)
        time.sleep(_SETTLE_SECONDS)

    def status(self) -> Json:
        """What `/sdk/status` says of each backend."""
        answer = httpx.get(f"{self.url}/sdk/status", headers=self.headers, timeout=10.0)
        backends: Json = answer.raise_for_status().json()["backends"]
        return backends

    def started(self, backend: str) -> int:
        """How many processes a backend has started so far."""
        return pools_of(self.status())[backend]["spawned"]


@contextmanager
def _running() -> Iterator[_Patchbay]:
    with (
        StandinProcess(arguments=["--no-records"]) as standin,
        ValkeyProcess() as valkey,
        tempfile.TemporaryDirectory(prefix="patchbay-bench-") as work,
    ):
        standin.script(_MODEL, _SCRIPT)
        upstream: Json = {"base_url": standin.url, "api_key": "made-up"}
        backends: Json = {"direct": {"kind": "anthropic", **upstream}}
        for name, (spares, most) in _POOLS.items():
            mode: Json = {"mode": "agent", "cwd": work} if name == "agent" else {}
            pool = {"min_spare": spares, "max_processes": most}
            backends[name] = {"kind": "claude-cli", **upstream, **mode, "pool": pool}
        expected = _answer_of(standin)
        with Cluster(configuration(backends), redis_url=valkey.url, kinds=("claude-worker",), forked=False) as cluster:
            yield _Patchbay(cluster.url, cluster.workers["claude-worker"][0].pid, expected)


def _answer_of(standin: StandinProcess) -> str:
    headers = {"x-api-key": "made-up", **VERSION_HEADER}
    answer = httpx.post(standin.url + PATHS["anthropic"], content=PLAIN.write(_MODEL), headers=headers, timeout=30.0)
    return read_answer("anthropic", answer.content).text


def measure(results: Results, generator: LoadGenerator, plan: Plan, *, say: Callable[[str], None]) -> None:
    """Takes everything, into `results`; says there why when there is no `claude` program that starts."""
    say("claude-cli: starting a Patchbay of its own")
    started_at = time.monotonic()
    found = results.claude_cli
    with _running() as patchbay:
        bench = _Bench(patchbay, generator)
        try:
            patchbay.wait_ready()
            found.spare = _spare_memory(patchbay.worker)
            say("claude-cli: warm-up")
            bench.warm_up()
            for number in range(plan.claude_rounds):
                round_at = time.monotonic()
                say(f"claude-cli: round {number + 1} of {plan.claude_rounds}")
                bench.round()
                found.loads.append(os.getloadavg()[0])
                if (
                    2 * time.monotonic() - round_at - started_at > plan.claude_budget
                    and number + 1 < plan.claude_rounds
                ):
                    results.notes.append(f"claude-cli: no time for more than {number + 1} rounds")
                    break
        except NotReady as error:
            results.left_out.append(LeftOut("claude-cli", str(error)))
        found.figures = list(bench.figures.values())


class _Bench:
    """Sends the requests, and keeps the conversation of the agent."""

    def __init__(self, patchbay: _Patchbay, generator: LoadGenerator) -> None:
        self._patchbay = patchbay
        self._generator = generator
        self._said: list[Json] = []
        self.figures: dict[tuple[Way, str], ClaudeFigure] = {}

    def warm_up(self) -> None:
        """Asks every backend once, for nothing that counts; the agent's conversation begins."""
        for way in ("direct", "spare", "alone", "cold"):
            self._ask(way, PLAIN)
        self._take_turn()
        self.figures.clear()

    def round(self) -> None:
        """Every way once, each beside the direct one with the same body."""
        for body in BODIES:
            self._ask("direct", body, requests=_DIRECT_REQUESTS)
            self._ask("spare", body)
        self._ask("alone", PLAIN)
        self._ask("cold", PLAIN)
        self._take_turn()

    def _ask(self, way: Way, body: Body, *, requests: int = 1) -> None:
        written = body.write(f"{way}/{_MODEL}")
        self._measure(way, body.label, written, history=body.history, requests=requests)

    def _take_turn(self) -> None:
        """The next turn of the agent's only conversation."""
        self._said.append({"role": "user", "content": "Say something."})
        written = write_body(f"agent/{_MODEL}", self._said)
        is_first = len(self._said) == 1
        started = self._patchbay.started("agent")
        figure = self._measure("agent", AGENT_TURN, written, headers={"x-patchbay-session": "bench"})
        self._said.append({"role": "assistant", "content": self._patchbay.expected})
        if not is_first and self._patchbay.started("agent") != started:
            figure.failed += 1
            figure.failures.append("a process was started for a turn of a conversation that should have had one")

    def _measure(
        self, way: Way, label: str, body: str, *, history: int = 0, requests: int = 1, headers: Json | None = None
    ) -> ClaudeFigure:
        patchbay = self._patchbay
        job = Job(
            host="127.0.0.1",
            port=urlsplit(patchbay.url).port or 0,
            path=PATHS["anthropic"],
            dialect="anthropic",
            headers={**patchbay.headers, **{name: str(value) for name, value in (headers or {}).items()}},
            body=body,
            expected=patchbay.expected,
            concurrency=1,
            streams=requests,
            most=requests,
        )
        # As the one before has left it, all is ready.
        before = all_cpu_seconds(patchbay.worker)
        result = self._generator.run(job)
        patchbay.wait_ready()
        figure = self.figures.setdefault((way, label), ClaudeFigure(way=way, body=label, history=history))
        figure.add(result, cpu_seconds=all_cpu_seconds(patchbay.worker) - before)
        return figure


def pools_of(status: Json) -> dict[str, dict[str, int]]:
    """The pool of each backend that has one, from what `/sdk/status` says of the backends."""
    pools = {}
    for name, backend in status.items():
        workers = backend["workers"] if isinstance(backend, dict) else []
        if workers and workers[0]["pool"] is not None:
            pools[name] = workers[0]["pool"]
    return pools


def is_ready(status: Json) -> bool:
    """Whether every pool has its spares, and nothing starts, is busy or waits."""
    pools = pools_of(status)
    return pools.keys() == _POOLS.keys() and all(
        pool["spare"] >= _POOLS[name][0] and not (pool["starting"] or pool["busy"] or pool["waiting"])
        for name, pool in pools.items()
    )


def trouble_of(status: Json) -> str:
    """What the backends say is wrong with them; the pools as they are when none says anything."""
    said = {backend["detail"]: None for backend in status.values() if isinstance(backend, dict) and backend["detail"]}
    return "; ".join(said) or str(pools_of(status))


def _spare_memory(worker: int) -> SpareMemory | None:
    held = []
    for child in psutil.Process(worker).children(recursive=True):
        # A spare forks helpers that carry its name until they have become another program, or have ended.
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == _PROGRAM:
                held.append(child.memory_full_info())
    if not held:
        return None
    return SpareMemory(
        statistics.median(one.rss for one in held) / _MEGABYTE, statistics.median(one.uss for one in held) / _MEGABYTE
    )
