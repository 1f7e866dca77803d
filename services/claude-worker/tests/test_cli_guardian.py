from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from patchbay.testing.eventually import wait_until
from patchbay_claude_worker.cli.guardian import MARKER_VARIABLE, end_marked, kill_marked, marked


def sleeper(marker: str, **options: object) -> subprocess.Popen[bytes]:
    environ = {"PATH": os.environ["PATH"], "OTHER": "x", MARKER_VARIABLE: marker}
    return subprocess.Popen(["sleep", "600"], env=environ, start_new_session=True)


@pytest.fixture
def marker() -> Iterator[str]:
    one = uuid.uuid4().hex
    yield one
    end_marked(one)


def test_it_finds_what_carries_its_marker_and_nothing_else(marker: str) -> None:
    mine, other = sleeper(f"{marker}.home-1"), sleeper(f"{uuid.uuid4().hex}.home-1")
    try:
        # Between fork and exec a process still has its parent's environment.
        wait_until(lambda: marked(marker) == [mine.pid], what="the marked process", seconds=5)
        assert marked(f"{marker}.home-2") == []
        assert kill_marked(marker) == 1
        assert mine.wait(5) == -signal.SIGKILL
        assert (kill_marked(marker), other.poll()) == (0, None)
    finally:
        other.kill()
        other.wait()


def guardian(directory: Path, marker: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "patchbay_claude_worker.cli.guardian", str(directory), marker]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def test_it_clears_up_when_its_parent_is_gone_and_not_before(marker: str, tmp_path: Path) -> None:
    directory = tmp_path / "pool"
    (directory / "home-1").mkdir(parents=True)
    process = sleeper(f"{marker}.home-1")
    watching = guardian(directory, marker)
    assert watching.stdin is not None
    watching.stdin.write(b"x")
    watching.stdin.flush()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # What ends the worker's group does not end it: it is asked once it has set its handlers.
        wait_until(lambda: _ignores(watching.pid, signal.SIGHUP), what="its handlers", seconds=10)
        watching.send_signal(number)
    assert (process.poll(), directory.exists()) == (None, True)
    watching.stdin.close()
    assert watching.wait(20) == 0
    assert process.wait(5) == -signal.SIGKILL
    assert not directory.exists()


def _ignores(pid: int, number: signal.Signals) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [mask] = [line.split()[1] for line in lines if line.startswith("SigIgn:")]
    return bool(int(mask, 16) >> (number - 1) & 1)
