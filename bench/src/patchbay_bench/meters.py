"""CPU time and memory of running processes, their children included."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import psutil

# A role, such as `edge`, and the processes that play it.
Roles: TypeAlias = Mapping[str, Iterable[int]]


def cpu_seconds(roles: Roles) -> dict[str, float]:
    """The CPU time that each role has used since it started."""
    return {role: sum(map(_cpu, _family(pids))) for role, pids in roles.items()}


def all_cpu_seconds(pid: int) -> float:
    """The CPU time that a process and all it has started have used, what has ended since included.

    What has ended is in its parent's own account, once it was waited for; until then it is still to be seen. Only what
    outlived its parent and was waited for elsewhere is missing. In steps of 10 ms.
    """
    times = []
    for process in _family([pid]):
        try:
            times.append(process.cpu_times())
        except psutil.NoSuchProcess:
            continue
    return sum(one.user + one.system + one.children_user + one.children_system for one in times)


def resident_bytes(roles: Roles) -> dict[str, int]:
    """The memory that each role holds (RSS)."""
    return {role: sum(map(_resident, _family(pids))) for role, pids in roles.items()}


def thread_seconds(pid: int) -> dict[str, float]:
    """The CPU time of a process's threads by their names, its first thread as `main`; empty where there is no /proc.

    https://docs.kernel.org/scheduler/sched-stats.html
    """
    threads: Counter[str] = Counter()
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            name = "main" if task.name == str(pid) else (task / "comm").read_text().strip()
            threads[name] += int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue
    return {name: nanoseconds / 1e9 for name, nanoseconds in threads.items()}


def _family(pids: Iterable[int]) -> list[psutil.Process]:
    family: list[psutil.Process] = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            family += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return family


def _cpu(process: psutil.Process) -> float:
    if sys.platform == "linux":
        # The kernel's own clock of a process, in nanoseconds; /proc counts in steps of 10 ms.
        # https://man7.org/linux/man-pages/man3/clock_getcpuclockid.3.html
        try:
            return time.clock_gettime((~process.pid << 3) | 2)
        except OSError:
            return 0.0
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
