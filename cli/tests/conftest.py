"""A system made of small programs in place of the services, run by the real command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from patchbay.testing.eventually import wait_until

# Says who it is, starts a child that outlives it if nobody ends it, and waits to be told to stop.
_WORKER = """#!{python}
import os, signal, subprocess, sys, time
from pathlib import Path
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
child = subprocess.Popen(["/bin/sleep", "1000"])
for pid in (os.getpid(), child.pid):
    Path({pids!r}, str(pid)).touch()
if os.environ.get("SMALL_FAILS") == os.path.basename(sys.argv[0]):
    child.kill()
    sys.exit("small program: cannot start")
signal.sigwait([signal.SIGTERM])
{stop}
"""

_EDGE = """#!{python}
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from patchbay.settings import load
settings = load(sys.argv[1:])
Path({pids!r}, str(os.getpid())).touch()
class Edge(BaseHTTPRequestHandler):
    def do_GET(self):
        backends = {{n: {{"kind": b.kind, "replicas": 1, "signed_in": b.signed_in, "detail": b.detail}}
                    for n, b in settings.enabled_backends().items()}}
        unable = os.environ.get("SMALL_UNABLE")
        for backend in backends.values() if unable else ():
            backend |= {{"signed_in": False, "detail": unable}}
        self.send_response(503 if unable else 200)
        self.end_headers()
        status = {{"status": "unable", "detail": unable}} if unable else {{"status": "ready"}}
        self.wfile.write(json.dumps({{**status, "backends": backends}}).encode())
    def log_message(self, *args):
        pass
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
ThreadingHTTPServer((settings.server.host, settings.server.port), Edge).serve_forever()
"""

# The command, with the small programs in place of the installed ones.
_DRIVER = """
import functools, sys
from pathlib import Path
from patchbay_cli import __main__ as cli, up
up.run = functools.partial(up.run, programs=Path(sys.argv.pop(1)))
cli.main()
"""


@dataclass
class Machine:
    """A place to run `patchbay` in, with a clean environment."""

    directory: Path

    def __post_init__(self) -> None:
        self.programs = self.directory / "a bin%"
        self.pids = self.directory / "pids"
        self.output = self.directory / "output"
        self.programs.mkdir()
        self.pids.mkdir()
        for name in ("patchbay-openai-worker", "patchbay-claude-worker", "patchbay-codebuff-ws", "patchbay-standin"):
            self.install(name, _WORKER, stop="child.kill()")
        self.install("patchbay-edge", _EDGE)

    def install(self, name: str, source: str = _WORKER, *, stop: str = "") -> None:
        program = self.programs / name
        program.write_text(source.format(python=sys.executable, pids=str(self.pids), stop=stop))
        program.chmod(0o755)

    def command(self, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
        with self.output.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-c", _DRIVER, str(self.programs), *arguments],
                cwd=self.directory,
                env={"PATH": "/usr/bin:/bin", "HOME": str(self.directory), **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def up(self, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
        """Starts a system on free ports and waits until it says that it is up."""
        process = self.command("up", "--server.port=0", "--standin.port=0", *arguments, **environ)
        wait_until(lambda: "Ctrl-C" in self.said() or process.poll() is not None, what="up", log=self.said)
        assert process.poll() is None, self.said()
        return process

    def run(self, *arguments: str, **environ: str) -> tuple[int, str]:
        """Runs a command to its end, beside a running system."""
        result = subprocess.run(
            [sys.executable, "-c", _DRIVER, str(self.programs), *arguments],
            cwd=self.directory,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.directory), **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return result.returncode, result.stdout + result.stderr

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def seen(self) -> set[int]:
        """Every process there ever was: the small programs, their children, Valkey and supervisord."""
        logs = self.directory / ".patchbay" / "logs" / "supervisord.log"
        words = logs.read_text().split() if logs.exists() else []
        pids = {int(after) for word, after in pairwise(words) if word == "pid"}
        return pids | {int(path.name) for path in self.pids.iterdir()}

    @staticmethod
    def lives(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def supervisord(self) -> int:
        return int((self.directory / ".patchbay" / "supervisord.pid").read_text())

    def pid_of(self, name: str) -> int:
        return next(
            process.pid
            for process in map(psutil.Process, filter(self.lives, self.seen()))
            if any(part.endswith(name) for part in process.cmdline())
        )

    def left(self) -> list[Sequence[str]]:
        commands = []
        for pid in filter(self.lives, self.seen()):
            # It may have ended just now.
            with suppress(psutil.NoSuchProcess):
                commands.append(psutil.Process(pid).cmdline())
        return commands


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    for pid in filter(made.lives, made.seen()):
        os.kill(pid, signal.SIGKILL)
