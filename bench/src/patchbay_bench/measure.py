"""Takes the samples: every path in turn, round by round, so that what else the machine does hits all alike."""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import httpx

from patchbay_bench import paths as names
from patchbay_bench.figures import Memory, Results, Sample, summarize
from patchbay_bench.jobs import Job
from patchbay_bench.load import LoadGenerator
from patchbay_bench.meters import cpu_seconds, resident_bytes
from patchbay_bench.paths import Path
from patchbay_bench.plan import Plan
from patchbay_bench.systems import BURST, HELD, JOINED, MODELS, PACED, SHORT, SLOW, Systems
from patchbay_bench.wire import PATHS, read_answer, request_body

PACED_STREAMS: Final = 64
BURST_STREAMS: Final = 16
TTFT_STREAMS: Final = 16
PROMPT_STREAMS: Final = 8
FLAT_STREAMS: Final = (1, 64, 1000)
TURN: Final = "turn"
TURN_BYTES: Final = 400_000
# How long a stream of the paced scenario takes: the slots start spread over it.
_PACED_SECONDS: Final = 0.5
_SLOW_SECONDS: Final = 5.0
# What a system still does for a stream after its end belongs to the stream.
_SETTLE_SECONDS: Final = 0.15
_IDLE_SECONDS: Final = 3.0
_MEGABYTE: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one sample asks of a path."""

    kind: str
    model: str
    concurrency: int
    streams: int
    seconds: float
    spread: float = 0.0
    prompt_bytes: int = 0
    most: int = 100_000


class Bench:
    """One run.

    Args:
        say: Told of each step, for whoever waits.
    """

    def __init__(self, systems: Systems, generator: LoadGenerator, plan: Plan, *, say: Callable[[str], None]) -> None:
        self._systems = systems
        self._generator = generator
        self._plan = plan
        self._say = say
        self._started = time.monotonic()
        self._expected = {model: self._ask_directly(model) for model in MODELS if model != HELD}
        self._over = False

    def run(self, results: Results) -> None:
        """Takes everything the plan asks for, into `results`."""
        plan, all_paths = self._plan, self._systems.paths
        results.memory = [Memory(name, self._resident(path)) for name, path in self._one_per_system()]
        self.warm_up(all_paths)
        results.idle_ms = self._idle()
        self._patchbay_memory(results.memory)
        for title, loads, which, rounds in (
            ("paced", [self.paced()], all_paths, plan.rounds),
            ("burst", [self.burst()], all_paths, plan.rounds),
            ("burst in one write", [self.joined()], all_paths, plan.rounds),
            ("first content", [self.first_content()], all_paths, plan.rounds),
            ("prompts", self._prompts(), [*self._direct(), *self._patchbay()], plan.rounds),
            ("turns", [self.turn()], self._responses(), plan.rounds),
            ("open streams", self._flat(), self._flat_paths(), plan.flat_rounds),
            ("200 KB prompts", [self._prompt(200_000)], self._peers(), 1),
        ):
            self._say(title)
            self._rounds(results, loads, which, rounds=rounds)
        self._peers_memory(results.memory)
        if self._over:
            results.notes.append(f"the time was over after {plan.budget:g} s: some figures have fewer rounds or none")

    def warm_up(self, which: Sequence[Path]) -> None:
        """Lets every path answer a few streams that count for nothing."""
        self._say("warm-up")
        for path in which:
            self.sample(path, Load(kind="warm-up", model=BURST, concurrency=4, streams=16, seconds=0, most=16))

    def paced(self) -> Load:
        return Load(
            kind="paced",
            model=PACED,
            concurrency=PACED_STREAMS,
            streams=PACED_STREAMS,
            seconds=self._plan.seconds,
            spread=_PACED_SECONDS,
        )

    def burst(self) -> Load:
        """As fast as it goes, each delta in an HTTP chunk of its own, as providers send them."""
        return Load(
            kind="burst", model=BURST, concurrency=BURST_STREAMS, streams=BURST_STREAMS, seconds=self._plan.seconds
        )

    def joined(self) -> Load:
        """The same with the whole answer in one write of the upstream's."""
        return replace(self.burst(), kind="burst, joined", model=JOINED, seconds=self._plan.seconds / 2)

    def first_content(self) -> Load:
        return Load(
            kind="first content",
            model=PACED,
            concurrency=TTFT_STREAMS,
            streams=2 * TTFT_STREAMS,
            seconds=self._plan.seconds,
            spread=_PACED_SECONDS,
        )

    def sample(self, path: Path, load: Load) -> Sample:
        """Runs one load on one path."""
        job = self._job(path, load)
        others = {**self._systems.standin, "generator": [self._generator.pid]}
        if path.system == "patchbay":
            others["valkey"] = self._systems.patchbay["valkey"]
        cpu, other_cpu = cpu_seconds(path.roles), cpu_seconds(others)
        result = self._generator.run(job)
        time.sleep(_SETTLE_SECONDS)
        streams = max(1, result.completed)
        after, others_after = cpu_seconds(path.roles), cpu_seconds(others)
        return Sample(
            path=path.name,
            kind=load.kind,
            concurrency=load.concurrency,
            prompt_bytes=load.prompt_bytes,
            completed=result.completed,
            failed=result.failed,
            failures=tuple(result.failures),
            wall=result.wall,
            deltas=result.deltas,
            received=result.received,
            pieces=result.pieces,
            cpu_ms={role: (after[role] - cpu[role]) * 1000 / streams for role in cpu},
            others_ms={role: (others_after[role] - other_cpu[role]) * 1000 / streams for role in other_cpu},
            first_content_ms=tuple(seconds * 1000 for seconds in result.first_content),
            load=os.getloadavg()[0],
        )

    def _rounds(self, results: Results, loads: Sequence[Load], which: Sequence[Path], *, rounds: int) -> None:
        samples: dict[tuple[str, Load], list[Sample]] = defaultdict(list)
        for _ in range(rounds):
            for load in loads:
                for path in which:
                    if time.monotonic() - self._started > self._plan.budget:
                        self._over = True
                        break
                    samples[path.name, load].append(self.sample(path, load))
        results.figures += [summarize(group) for group in samples.values()]

    def _prompts(self) -> list[Load]:
        return [self._prompt(size) for size in self._plan.prompt_sizes]

    def _prompt(self, size: int) -> Load:
        return Load(
            kind="prompt",
            model=SHORT,
            concurrency=PROMPT_STREAMS,
            streams=4 * PROMPT_STREAMS,
            seconds=self._plan.seconds / 2,
            prompt_bytes=size,
        )

    def turn(self) -> Load:
        """One more turn of a long conversation: over HTTP all of it is sent again, over a WebSocket what is new."""
        return Load(
            kind=TURN,
            model=SHORT,
            concurrency=1,
            streams=16,
            seconds=self._plan.seconds / 2,
            prompt_bytes=TURN_BYTES,
        )

    def _responses(self) -> list[Path]:
        return [path for path in self._patchbay() if path.client == "responses"]

    def _flat(self) -> list[Load]:
        shapes = [("flat, 5 ms", PACED, _PACED_SECONDS, 4), ("flat, 250 ms", SLOW, _SLOW_SECONDS, 1)]
        return [
            Load(
                kind=kind,
                model=model,
                concurrency=streams,
                streams=streams if streams > 1 else alone,
                seconds=0.0,
                most=streams if streams > 1 else alone,
                spread=spread if streams > 1 else 0.0,
            )
            for kind, model, spread, alone in shapes[: 2 if self._plan.flat_slow else 1]
            for streams in FLAT_STREAMS
        ]

    def _direct(self) -> list[Path]:
        return [path for path in self._systems.paths if path.system == "direct"]

    def _patchbay(self) -> list[Path]:
        return [path for path in self._systems.paths if path.system == "patchbay"]

    def _peers(self) -> list[Path]:
        return [path for path in self._systems.paths if path.system in ("litellm", "ccproxy")]

    def _flat_paths(self) -> list[Path]:
        wanted = [names.OPENAI_TO_ANTHROPIC, *([names.NATIVE_ANTHROPIC] if self._plan.flat_slow else [])]
        return [path for path in self._patchbay() if path.name in wanted]

    def _job(self, path: Path, load: Load) -> Job:
        model = path.model_prefix + load.model
        body = request_body(path.client, model, prompt_bytes=load.prompt_bytes)
        before = ""
        if load.kind == TURN and path.websocket:
            before, body = body, request_body(path.client, model)
        return Job(
            host="127.0.0.1",
            port=path.port,
            path=path.base_path + PATHS[path.client],
            dialect=path.client,
            headers=path.headers,
            body=body,
            before=before,
            expected=self._expected.get(load.model, ""),
            concurrency=load.concurrency,
            streams=load.streams,
            seconds=load.seconds,
            spread=load.spread,
            most=load.most,
            websocket=path.websocket,
        )

    def _ask_directly(self, model: str) -> str:
        """The text that the stand-in answers with."""
        path = self._direct()[0]
        url = f"http://127.0.0.1:{path.port}{PATHS[path.client]}"
        answer = httpx.post(url, content=request_body(path.client, model), headers=path.headers, timeout=30.0)
        read = read_answer(path.client, answer.content)
        if read.problem or not read.text:
            raise RuntimeError(f"the stand-in's own answer to {model} {read.problem}: {answer.text[:500]}")
        return read.text

    def _idle(self) -> dict[str, float]:
        before = cpu_seconds(self._systems.patchbay)
        time.sleep(_IDLE_SECONDS)
        after = cpu_seconds(self._systems.patchbay)
        return {role: (after[role] - before[role]) * 1000 / _IDLE_SECONDS for role in before}

    def _one_per_system(self) -> list[tuple[str, Path]]:
        found: dict[str, Path] = {}
        for path in self._systems.paths:
            if path.system != "direct":
                found.setdefault(path.system, path)
        return list(found.items())

    def _resident(self, path: Path) -> dict[str, float]:
        roles = self._systems.patchbay if path.system == "patchbay" else path.roles
        return {role: size / _MEGABYTE for role, size in resident_bytes(roles).items()}

    def _patchbay_memory(self, memory: Sequence[Memory]) -> None:
        path = self._systems.path(names.OPENAI_TO_ANTHROPIC)
        for entry in memory:
            if entry.system == "patchbay" and path is not None:
                self._hold(entry, path, self._plan.held)

    def _peers_memory(self, memory: Sequence[Memory]) -> None:
        for entry in memory:
            if entry.system != "patchbay" and self._plan.peers_held and not self._over:
                path = dict(self._one_per_system())[entry.system]
                self._hold(entry, path, self._plan.peers_held)

    def _hold(self, entry: Memory, path: Path, streams: int) -> None:
        self._say(f"{streams} open streams: {entry.system}")
        load = Load(kind="held", model=HELD, concurrency=streams, streams=streams, seconds=0)
        entry.warm = self._resident(path)
        with self._generator.held(self._job(path, load)) as opened:
            time.sleep(_SETTLE_SECONDS)
            entry.open = self._resident(path)
            entry.streams = opened.completed


def without_idle(total_ms: float, *, idle_ms: float, streams_per_second: float) -> float:
    """A cost per stream without what an idle system would have used meanwhile."""
    return max(0.0, total_ms - idle_ms / streams_per_second) if streams_per_second else total_ms


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the straight line nearest to the points (least squares)."""
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope
