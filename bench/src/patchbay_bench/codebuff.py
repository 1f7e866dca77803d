"""Codebuff's WebSocket: many idle sockets, prompts beside the same chat over HTTP, and many prompts at once.

A Patchbay of its own: one edge, one codebuff-ws, one openai-worker, before the stand-in. A prompt is one step of the
built-in agent `base`. What that step asks of its model is taken from a stand-in that keeps its requests, and is then
sent to Patchbay over HTTP, and to the stand-in, word for word.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx
import msgspec
import psutil

from patchbay.testing.cluster import Cluster
from patchbay.testing.valkey import ValkeyProcess
from patchbay_bench.codebuff_figures import IdleSockets, PromptFigure, Way
from patchbay_bench.codebuff_prompt import prompt_data
from patchbay_bench.figures import Results
from patchbay_bench.jobs import Job
from patchbay_bench.load import LoadGenerator
from patchbay_bench.meters import Roles, cpu_seconds, resident_bytes
from patchbay_bench.paths import LeftOut
from patchbay_bench.plan import Plan
from patchbay_bench.systems import KEY, configuration
from patchbay_bench.wire import PATHS, read_answer
from patchbay_standin import Script
from patchbay_standin.testing import StandinProcess

# As the SDK does.
PING_SECONDS: Final = 30.0
_MODEL: Final = "bench-codebuff"
# About 50 tokens, an HTTP chunk each.
_SCRIPT: Final = Script(deltas=50, separate_sends=True)
_ROUND_REQUESTS: Final = 10
_WARM_UP_PROMPTS: Final = 20
_SETTLE_SECONDS: Final = 0.15
_MOST_REST_SECONDS: Final = 5.0
# Files a process has open beside its sockets.
_OTHER_FILES: Final = 500
_PLENTY: Final = 1_000_000
_COST_MODE_OF_RECORDED: Final = "max"


@dataclass(slots=True)
class _Patchbay:
    """What runs.

    Attributes:
        chat: The request that a prompt's step sends to its model.
        expected: The text that is answered.
    """

    edge_port: int
    standin_port: int
    roles: Roles
    chat: dict[str, object]
    expected: str

    def job(self, way: Way, *, concurrency: int = 1, streams: int) -> Job:
        """The job of one way."""
        job = Job(
            host="127.0.0.1",
            port=self.edge_port,
            path=PATHS["codebuff"],
            dialect="codebuff",
            headers={},
            body=msgspec.json.encode(prompt_data(KEY)).decode(),
            expected=self.expected,
            concurrency=concurrency,
            streams=streams,
            most=streams,
            websocket=True,
            fresh=way == "run",
        )
        if way not in ("direct", "chat"):
            return job
        model = _MODEL if way == "direct" else f"openai/{_MODEL}"
        return msgspec.structs.replace(
            job,
            port=self.standin_port if way == "direct" else self.edge_port,
            path=PATHS["openai"],
            dialect="openai",
            headers={"authorization": f"Bearer {KEY}"},
            body=msgspec.json.encode({**self.chat, "model": model}).decode(),
            websocket=False,
        )


@contextmanager
def _running(generator: LoadGenerator) -> Iterator[_Patchbay]:
    with (
        StandinProcess(arguments=["--no-records"]) as standin,
        StandinProcess() as recorder,
        ValkeyProcess() as valkey,
    ):
        for one in (standin, recorder):
            one.script(_MODEL, _SCRIPT)
        config = configuration(
            {
                "openai": {"base_url": f"{standin.url}/v1", "api_key": "made-up"},
                "recorded": {"kind": "openai", "base_url": f"{recorder.url}/v1", "api_key": "made-up"},
            }
        )
        models = {"default": f"openai/{_MODEL}", "cost_modes": {_COST_MODE_OF_RECORDED: f"recorded/{_MODEL}"}}
        config["codebuff"] = {
            "max_connections": _PLENTY,
            "max_connections_per_key": _PLENTY,
            "models": models,
        }
        with Cluster(config, redis_url=valkey.url, kinds=("openai-worker", "codebuff-ws"), forked=False) as cluster:
            patchbay = _Patchbay(
                edge_port=cluster.edges[0].port,
                standin_port=urlsplit(standin.url).port or 0,
                roles={
                    "edge": [cluster.edges[0].pid],
                    **{kind: [worker.pid for worker in workers] for kind, workers in cluster.workers.items()},
                    "valkey": [child.pid for child in psutil.Process().children() if "valkey" in child.name()],
                },
                chat={},
                expected="",
            )
            _learn(patchbay, generator, standin, recorder)
            yield patchbay


def _learn(patchbay: _Patchbay, generator: LoadGenerator, standin: StandinProcess, recorder: StandinProcess) -> None:
    """Finds out what a prompt's step asks, and what is answered to that."""
    job = patchbay.job("prompt", streams=1)
    body = msgspec.json.encode(prompt_data(KEY, cost_mode=_COST_MODE_OF_RECORDED)).decode()
    result = generator.run(msgspec.structs.replace(job, body=body))
    asked = recorder.requests()
    if len(asked) != 1 or not isinstance(asked[0].body, dict):
        raise RuntimeError(f"the prompt has made {len(asked)} requests of its model, not one: {result.failures}")
    patchbay.chat = asked[0].body
    answer = httpx.post(
        f"{standin.url}{PATHS['openai']}", json=patchbay.chat, headers={"authorization": "Bearer made-up"}
    )
    patchbay.expected = read_answer("openai", answer.content).text


def measure(results: Results, generator: LoadGenerator, plan: Plan, *, say: Callable[[str], None]) -> None:
    """Takes everything, into `results`."""
    say("codebuff: starting a Patchbay of its own")
    found = results.codebuff
    with _running(generator) as patchbay:
        bench = _Bench(patchbay, generator)
        found.prompt_bytes = len(patchbay.job("prompt", streams=1).body)
        found.chat_bytes = len(patchbay.job("chat", streams=1).body)
        say("codebuff: warm-up")
        bench.warm_up()
        sockets = plan.codebuff_sockets
        if (most := allowed_sockets(resource.getrlimit(resource.RLIMIT_NOFILE)[0])) < sockets:
            results.left_out.append(
                LeftOut("codebuff", f"{sockets:,} sockets: no more than {most:,}, as the system allows no more files")
            )
        say(f"codebuff: {min(sockets, most):,} idle sockets")
        found.idle = bench.idle(sockets, most=most, seconds=plan.codebuff_idle_seconds)
        # All of them have just been closed.
        bench.warm_up()
        for number in range(plan.codebuff_rounds):
            say(f"codebuff: round {number + 1} of {plan.codebuff_rounds}")
            for way in ("direct", "chat", "prompt", "run"):
                bench.ask(way, streams=_ROUND_REQUESTS)
            found.loads.append(os.getloadavg()[0])
        crowd = min(plan.codebuff_crowd, most)
        say(f"codebuff: {crowd} prompts at once")
        bench.ask("crowd", concurrency=crowd, streams=crowd)
        found.figures = list(bench.figures.values())


def allowed_sockets(files: int) -> int:
    """How many sockets there can be with so many open files a process."""
    return max(1, files - _OTHER_FILES)


class _Bench:
    """Takes the samples."""

    def __init__(self, patchbay: _Patchbay, generator: LoadGenerator) -> None:
        self._patchbay = patchbay
        self._generator = generator
        self.figures: dict[Way, PromptFigure] = {}

    def warm_up(self) -> None:
        """Asks a little in every way, for nothing that counts."""
        for way in ("direct", "chat", "prompt", "run"):
            self.ask(way, concurrency=2, streams=_WARM_UP_PROMPTS)
        self.figures.clear()

    def idle(self, wanted: int, *, most: int, seconds: float) -> IdleSockets:
        """Holds sockets in which nothing is asked."""
        roles = self._patchbay.roles
        found = IdleSockets(
            wanted=wanted,
            sockets=0,
            seconds=seconds,
            ping_seconds=PING_SECONDS,
            rest_cpu=_cpu_percent(roles, seconds=min(seconds, _MOST_REST_SECONDS)),
            rest=resident_bytes(roles),
        )
        job = self._patchbay.job("prompt", concurrency=min(wanted, most), streams=1)
        with self._generator.held(msgspec.structs.replace(job, ping_seconds=PING_SECONDS)) as held:
            found.sockets, found.failures = held.completed, list(held.failures)
            found.open_cpu = _cpu_percent(roles, seconds=seconds)
            found.open = resident_bytes(roles)
        found.lost = min(wanted, most) - held.completed
        found.failures += held.failures
        return found

    def ask(self, way: Way, *, concurrency: int = 1, streams: int) -> None:
        """Asks so often in one way."""
        job = self._patchbay.job(way, concurrency=concurrency, streams=streams)
        before = cpu_seconds(self._patchbay.roles)
        result = self._generator.run(job)
        time.sleep(_SETTLE_SECONDS)
        after = cpu_seconds(self._patchbay.roles)
        figure = self.figures.setdefault(way, PromptFigure(way=way, concurrency=concurrency))
        figure.add(result, cpu_seconds={role: after[role] - before[role] for role in after})


def _cpu_percent(roles: Roles, *, seconds: float) -> dict[str, float]:
    before, started_at = cpu_seconds(roles), time.monotonic()
    time.sleep(seconds)
    after, took = cpu_seconds(roles), time.monotonic() - started_at
    return {role: (after[role] - before[role]) / took * 100 for role in before}
