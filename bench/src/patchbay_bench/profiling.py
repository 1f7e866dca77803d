"""Profiles of the edge and the worker under the benchmark's load, by py-spy (https://github.com/benfred/py-spy)."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from patchbay_bench import paths
from patchbay_bench.environments import environment
from patchbay_bench.measure import Bench, Load
from patchbay_bench.meters import thread_seconds
from patchbay_bench.systems import Systems

_SAMPLES_PER_SECOND: Final = 250
_RECORD_SECONDS: Final = 8
# Attaching, reading symbols and writing take their time.
_GRACE_SECONDS: Final = 60
_LINES: Final = 25


@dataclass(frozen=True, slots=True)
class Profile:
    """One process under one load: what it was doing, as shares of its samples.

    Attributes:
        own: Functions by the samples in which they were at work themselves.
        below: Functions by the samples in which they were anywhere on the stack.
        threads: CPU milliseconds per stream by thread; those of native code are in no Python stack.
        stacks: The file with all stacks, for a flame graph.
    """

    role: str
    kind: str
    path: str
    samples: int
    own: list[tuple[str, float]]
    below: list[tuple[str, float]]
    threads: dict[str, float]
    stacks: Path


def profile(
    systems: Systems, bench: Bench, *, home: Path, uv: str | None, folder: Path, say: Callable[[str], None]
) -> list[Profile]:
    """Profiles edge and worker for the paced and the burst load of the translated paths and the native one.

    Raises:
        NotInstalled: When there is no py-spy.
    """
    program = environment("profiler", home=home, uv=uv) / "py-spy"
    folder.mkdir(parents=True, exist_ok=True)
    profiles = []
    for name in (paths.OPENAI_TO_ANTHROPIC, paths.ANTHROPIC_TO_OPENAI, paths.NATIVE_ANTHROPIC):
        path = systems.path(name)
        if path is None:
            continue
        worker = "claude-worker" if path.upstream == "anthropic" else "openai-worker"
        for load in (bench.paced(), bench.burst()):
            say(f"profile: {name}, {load.kind}")
            recorders = {
                role: _Recorder(program, systems, role, _file(folder, name, load, role)) for role in ("edge", worker)
            }
            sample = bench.sample(path, replace(load, seconds=_RECORD_SECONDS + 2.0))
            profiles += [
                recorder.read(load.kind, name, streams=sample.completed) for role, recorder in recorders.items()
            ]
    return profiles


def _file(folder: Path, name: str, load: Load, role: str) -> Path:
    words = f"{name} {load.kind} {role}".replace(",", "").lower().split()
    return folder / f"{'-'.join(words)}.txt"


class _Recorder:
    """A py-spy that records one process while it lives."""

    def __init__(self, program: Path, systems: Systems, role: str, output: Path) -> None:
        self._role = role
        self._output = output
        (pid,) = systems.patchbay[role]
        self._pid = pid
        self._threads = thread_seconds(pid)
        self._process = subprocess.Popen(
            [
                *(str(program), "record", "--pid", str(pid), "--format", "raw", "--output", str(output)),
                *("--rate", str(_SAMPLES_PER_SECOND), "--duration", str(_RECORD_SECONDS)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def read(self, kind: str, path: str, *, streams: int) -> Profile:
        """Waits for the record's end and sums it up."""
        try:
            _, said = self._process.communicate(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, said = self._process.communicate()
        if self._process.returncode or not self._output.exists():
            raise RuntimeError(f"py-spy {self._role}: {said.decode(errors='replace')[-500:]}")
        own, below, samples = read_stacks(self._output.read_text())
        threads = {
            name: (seconds - self._threads.get(name, 0.0)) * 1000 / max(1, streams)
            for name, seconds in thread_seconds(self._pid).items()
        }
        return Profile(self._role, kind, path, samples, own, below, threads, self._output)


def read_stacks(text: str) -> tuple[list[tuple[str, float]], list[tuple[str, float]], int]:
    """Sums up folded stacks, `outer;inner;innermost count` a line. Shares by function, the largest first."""
    own: Counter[str] = Counter()
    below: Counter[str] = Counter()
    samples = 0
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_function(frame) for frame in stack.split(";")]
        number = int(count)
        samples += number
        own[frames[-1]] += number
        for frame in set(frames):
            below[frame] += number

    def shares(counter: Counter[str]) -> list[tuple[str, float]]:
        return [(name, count / max(1, samples)) for name, count in counter.most_common(_LINES)]

    return shares(own), shares(below), samples


def _function(frame: str) -> str:
    """`name (package/module.py:12)` without the line, so that a function is counted as one."""
    return frame.rsplit(":", 1)[0] + ")" if ":" in frame and frame.endswith(")") else frame
