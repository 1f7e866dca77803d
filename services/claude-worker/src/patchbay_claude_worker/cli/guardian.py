"""Clears up behind a worker that was killed: `python -m patchbay_claude_worker.cli.guardian DIRECTORY MARKER`.

It waits on its standard input, which the worker holds open, and so notices the worker's end however it comes. Then it
kills every process that was started with the marker in its environment, the tools that a `claude` program had started
too, and removes the directory with their homes.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil

MARKER_VARIABLE = "PATCHBAY_POOL"
# A list, in the directory, of files elsewhere that are to go with it.
ELSEWHERE = "elsewhere"
_ROUNDS = 50
_PAUSE_SECONDS = 0.1


def marked(marker: str) -> list[psutil.Process]:
    """The living processes that carry the marker, or one that begins with it and a slash; this one does not count."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid():
                continue
            carried = process.environ().get(MARKER_VARIABLE, "")
            if carried == marker or carried.startswith(f"{marker}/"):
                found.append(process)
        except (psutil.Error, OSError):
            # It ended just now, or is another user's.
            continue
    return [process for process in found if _lives(process)]


def kill_marked(marker: str) -> int:
    """Kills what carries the marker; how many there were."""
    processes = marked(marker)
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue
    return len(processes)


def remove_elsewhere(directory: Path) -> None:
    """Removes the files that processes have left outside of the directory."""
    try:
        listed = (directory / ELSEWHERE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    for path in listed.splitlines():
        Path(path).unlink(missing_ok=True)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def main() -> None:
    directory, marker = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(65536):
        continue
    # What is being killed may just be starting something.
    for _ in range(_ROUNDS):
        if not kill_marked(marker):
            break
        time.sleep(_PAUSE_SECONDS)
    remove_elsewhere(Path(directory))
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
