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


def marked(marker: str) -> list[int]:
    """The living processes whose marker begins so; this one does not count."""
    wanted = f"\0{MARKER_VARIABLE}={marker}".encode()
    return [pid for pid in psutil.pids() if pid != os.getpid() and wanted in b"\0" + _environment(pid)]


def kill_marked(marker: str) -> int:
    """Kills what carries the marker; how many there were."""
    pids = marked(marker)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            # It has ended meanwhile.
            continue
    return len(pids)


def end_marked(marker: str) -> None:
    """Kills what carries the marker until nothing does: what is being killed may just be starting something."""
    for _ in range(_ROUNDS):
        if not kill_marked(marker):
            break
        time.sleep(_PAUSE_SECONDS)


def list_elsewhere(directory: Path, path: Path) -> None:
    """Has a file outside of the directory removed with it."""
    with (directory / ELSEWHERE).open("a", encoding="utf-8") as listed:
        listed.write(f"{path}\n")


def remove_elsewhere(directory: Path) -> None:
    """Removes the files that processes have left outside of the directory."""
    try:
        listed = (directory / ELSEWHERE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    for path in listed.splitlines():
        Path(path).unlink(missing_ok=True)


def _environment(pid: int) -> bytes:
    """Its environment; empty where it has ended or is another user's.

    Read past psutil where there is /proc: every process of the machine is looked at for every one that ends, and that
    takes psutil ten times as long.
    """
    try:
        if sys.platform == "linux":
            with open(f"/proc/{pid}/environ", "rb") as file:
                return file.read()
        environ = psutil.Process(pid).environ()
        return "\0".join(f"{name}={value}" for name, value in environ.items()).encode()
    except (psutil.Error, OSError):
        return b""


def main() -> None:
    directory, marker = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(65536):
        continue
    end_marked(marker)
    remove_elsewhere(Path(directory))
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
