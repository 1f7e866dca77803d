"""Processes of a service that start at once: each is the fork of one process that has imported the service already.

Importing is most of what a start costs. What runs then is the service's own `main`, with the arguments, environment and
files that it would have had; only the command line that the system shows is that of the process it came from.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.005
# Elsewhere a fork that does not exec is not safe: https://docs.python.org/3/library/multiprocessing.html
AVAILABLE = sys.platform == "linux"


class ForkedProcess:
    """A running service; what there is of `subprocess.Popen` works the same."""

    def __init__(self, pid: int, ending: Path) -> None:
        self.pid = pid
        self._ending = ending

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        try:
            return int(self._ending.read_text())
        except FileNotFoundError:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end.

        Raises:
            subprocess.TimeoutExpired: It did not come in `timeout` seconds.
        """
        give_up_at = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while (code := self.poll()) is None:
            if time.monotonic() > give_up_at:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(_POLL_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def start(command: Sequence[str], *, environ: Mapping[str, str], log: Path) -> ForkedProcess:
    """Starts a service.

    Args:
        command: Its arguments; the first is the path of an installed command.
        environ: All of its environment.
        log: Where its output is appended.
    """
    return _origin_of(Path(command[0]).name).fork(command, environ, log)


@cache
def _origin_of(name: str) -> _Origin:
    return _Origin(name)


class _Origin:
    """The process that all processes of a service are forks of. They end with it, and it with this one."""

    def __init__(self, name: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="patchbay-forks-")
        self._endings = 0
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, name],
            env={"PATH": os.environ.get("PATH", ""), "HOME": self._directory.name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        atexit.register(self._close)

    def fork(self, command: Sequence[str], environ: Mapping[str, str], log: Path) -> ForkedProcess:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._endings += 1
            ending = Path(self._directory.name, str(self._endings))
            asked = {"command": list(command), "environ": dict(environ), "log": str(log), "ending": str(ending)}
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()
            return ForkedProcess(int(self._process.stdout.readline()), ending)

    def _close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._directory.cleanup()


def main() -> None:
    """Imports the service that the argument names, and forks it for each line of standard input until that ends."""
    before = dict(os.environ)
    (entry,) = entry_points(group="console_scripts", name=sys.argv[1])
    service: Callable[[], object] = entry.load()
    # Packages may set variables for what they load.
    added = {name: text for name, text in os.environ.items() if before.get(name) != text}
    gc.collect()
    gc.freeze()
    asked = _fork_what_is_asked()
    if asked is not None:
        _become(asked, added)
        sys.exit(service())  # type: ignore[arg-type]  # as an installed command does


def _fork_what_is_asked() -> dict[str, Any] | None:
    """Gives, in each fork, what it is to be; and None once nothing more will be asked."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    endings: dict[int, str] = {}
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _note_the_ended(endings)
        if 0 not in ready:
            continue
        line = sys.stdin.buffer.readline()
        if not line:
            for pid in endings:
                os.kill(pid, signal.SIGKILL)
            return None
        asked: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(woken)
            os.close(wake)
            return asked
        endings[pid] = asked["ending"]
        os.write(1, f"{pid}\n".encode())


def _note_the_ended(endings: dict[int, str]) -> None:
    while endings:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        ending = Path(endings.pop(pid))
        draft = ending.with_suffix(".draft")
        draft.write_text(str(os.waitstatus_to_exitcode(status)))
        draft.rename(ending)


def _become(asked: dict[str, Any], added: dict[str, str]) -> None:
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT),
    ):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)
    os.environ.clear()
    os.environ.update({**added, **asked["environ"]})
    sys.argv[:] = asked["command"]


if __name__ == "__main__":
    main()
