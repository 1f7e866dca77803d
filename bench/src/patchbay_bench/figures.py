"""What was measured: samples, and the figures made of them."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Final, Literal, TypeAlias, get_args

import psutil

from patchbay_bench.claude_figures import ClaudeResults
from patchbay_bench.codebuff_figures import CodebuffResults
from patchbay_bench.environments import PINS
from patchbay_bench.paths import LeftOut

# What a run may be of: streams through everything, side by side, requests through `claude` processes, and Codebuff's
# sockets.
Part: TypeAlias = Literal["streams", "claude-cli", "codebuff"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)

_VERSIONS: Final = (
    "patchbay-edge", "grpcio", "aiohttp", "httpx-aiohttp", "uvicorn", "uvloop", "msgspec", "protobuf",
    "claude-agent-sdk",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One job on one path.

    Attributes:
        cpu_ms: CPU milliseconds per completed stream, by role of the system in between.
        others_ms: The same of what is no part of it: the stand-in, the load generator, Valkey.
        first_content_ms: Of each stream.
        load: The machine's load average of the last minute when the sample was taken.
    """

    path: str
    kind: str
    concurrency: int
    prompt_bytes: int
    completed: int
    failed: int
    failures: tuple[str, ...]
    wall: float
    deltas: int
    received: int
    pieces: int
    cpu_ms: dict[str, float]
    others_ms: dict[str, float]
    first_content_ms: tuple[float, ...]
    load: float

    @property
    def total_ms(self) -> float:
        """CPU milliseconds per stream, all roles together."""
        return sum(self.cpu_ms.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """The medians of a path's samples of one kind."""

    path: str
    kind: str
    concurrency: int
    prompt_bytes: int
    rounds: int
    completed: int
    failed: int
    failures: tuple[str, ...]
    cpu_ms: dict[str, float]
    total_ms: float
    others_ms: dict[str, float]
    streams_per_second: float
    first_content_median_ms: float
    first_content_p99_ms: float
    deltas_per_stream: float
    # HTTP chunks in which they came: the fewer, the more deltas travelled together.
    pieces_per_stream: float
    # Every round's `total_ms`, to see how far they lie apart.
    totals_ms: tuple[float, ...]


@dataclass(slots=True)
class Memory:
    """Resident megabytes by role.

    Attributes:
        rest: Before the first stream.
        warm: After the first streams, none open.
        open: With `streams` open.
    """

    system: str
    rest: dict[str, float]
    warm: dict[str, float] = field(default_factory=dict)
    open: dict[str, float] = field(default_factory=dict)
    streams: int = 0

    def per_thousand(self, role: str) -> float | None:
        """Megabytes per 1,000 open streams."""
        if not self.streams:
            return None
        return (self.open[role] - self.warm[role]) * 1000 / self.streams


@dataclass(slots=True)
class Results:
    """Everything one run has found."""

    facts: dict[str, object]
    parts: tuple[Part, ...] = PARTS
    figures: list[Figure] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    # CPU milliseconds per second of each Patchbay role while nothing is asked of it.
    idle_ms: dict[str, float] = field(default_factory=dict)
    claude_cli: ClaudeResults = field(default_factory=ClaudeResults)
    codebuff: CodebuffResults = field(default_factory=CodebuffResults)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def find(self, kind: str, path: str, *, concurrency: int | None = None, prompt_bytes: int = 0) -> Figure | None:
        """The figure of this kind for a path, if it was taken."""
        for figure in self.figures:
            if (figure.kind, figure.path, figure.prompt_bytes) == (kind, path, prompt_bytes) and concurrency in (
                None,
                figure.concurrency,
            ):
                return figure
        return None


def summarize(samples: Sequence[Sample]) -> Figure:
    """The medians of samples of one kind, path, concurrency and prompt."""
    first = samples[0]

    def median(value: Callable[[Sample], float]) -> float:
        return statistics.median(map(value, samples))

    every_first_content = sorted(value for sample in samples for value in sample.first_content_ms)
    return Figure(
        path=first.path,
        kind=first.kind,
        concurrency=first.concurrency,
        prompt_bytes=first.prompt_bytes,
        rounds=len(samples),
        completed=sum(sample.completed for sample in samples),
        failed=sum(sample.failed for sample in samples),
        failures=tuple(sorted({failure for sample in samples for failure in sample.failures})),
        cpu_ms={role: median(lambda sample, role=role: sample.cpu_ms[role]) for role in first.cpu_ms},  # type: ignore[misc]
        total_ms=median(lambda sample: sample.total_ms),
        others_ms={role: median(lambda sample, role=role: sample.others_ms[role]) for role in first.others_ms},  # type: ignore[misc]
        streams_per_second=median(lambda sample: sample.completed / sample.wall if sample.wall else 0.0),
        first_content_median_ms=percentile(every_first_content, 0.5),
        first_content_p99_ms=percentile(every_first_content, 0.99),
        deltas_per_stream=median(lambda sample: sample.deltas / sample.completed if sample.completed else 0.0),
        pieces_per_stream=median(lambda sample: sample.pieces / sample.completed if sample.completed else 0.0),
        totals_ms=tuple(round(sample.total_ms, 2) for sample in samples),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie; 0 for none."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def machine_facts() -> dict[str, object]:
    """What the figures depend on."""
    versions = {name: metadata.version(name) for name in _VERSIONS}
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "versions": versions,
        "peers": {name: list(pins) for name, pins in PINS.items()},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
            return next(found, platform.machine())
    except OSError:
        return platform.processor() or platform.machine()
