"""Runs the whole system in the foreground: starts it, says where it is, says what happens to it, stops it."""

from __future__ import annotations

import asyncio
import io
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from rich.console import Console

from patchbay.settings import state_directory
from patchbay_cli import addresses, plan, readiness, report
from patchbay_cli.plan import Plan
from patchbay_cli.problems import CommandFailed
from patchbay_cli.running import RunLock
from patchbay_cli.supervision import Process, Supervisor, SupervisorGone, kill_group

START_SECONDS = 60.0
_POLL_SECONDS = 0.05
_WATCH_SECONDS = 0.5
_LOG_LINES = 15


def run(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    programs: Path | None = None,
    console: Console | None = None,
) -> int:
    """Runs the system until SIGINT or SIGTERM.

    Args:
        argv: `--config FILE` and `--section.key value` flags.
        environ: The environment; None: the process's own.
        programs: The directory of the services' commands; None: where this program's own is.
        console: Where to say things; None: standard output.

    Returns:
        The exit status.

    Raises:
        SettingsError: The configuration is wrong.
        CommandFailed: The system cannot start, or could not go on.
    """
    environ = os.environ if environ is None else environ
    state = state_directory(environ)
    console = Console() if console is None else console
    with _Signals() as signals, RunLock(state) as lock:
        supervisor = Supervisor(state)
        if supervisor.answers():
            raise CommandFailed("the last system is still stopping: try again in a moment")
        made = plan.make(argv, environ, state=state, programs=programs or Path(sys.executable).parent)
        url = addresses.url(made.settings.server.host, made.settings.server.port)
        lock.write(url)
        system = _System(made, supervisor, signals, console=console)
        with system.started():
            if system.wait_until_ready(url):
                system.watch()
    return 0


class _System:
    """A system that runs, and what has been seen of it."""

    def __init__(self, plan: Plan, supervisor: Supervisor, signals: _Signals, *, console: Console) -> None:
        self._plan = plan
        self._supervisor = supervisor
        self._signals = signals
        self._console = console
        self._pids: dict[str, int] = {}
        self._down: set[str] = set()

    @contextmanager
    def started(self) -> Iterator[None]:
        """Starts the services, and stops them however the block ends."""
        self._supervisor.start(self._plan.services, self._plan.environ)
        try:
            yield
        finally:
            self._stop()

    def wait_until_ready(self, url: str) -> bool:
        """Waits for the edge and all its backends; False: told to stop before."""
        deadline = time.monotonic() + START_SECONDS
        answer = readiness.Readiness("starting")
        while time.monotonic() < deadline:
            for process in self._processes():
                if process.state in ("BACKOFF", "FATAL", "EXITED"):
                    raise CommandFailed(self._failure(process.name))
            answer = readiness.ask(url)
            if answer.up:
                workers = asyncio.run(readiness.worker_addresses(self._plan.settings))
                report.show(self._console, self._plan, answer.backends, workers)
                return True
            if self._signals.wait(_POLL_SECONDS):
                return False
        raise CommandFailed(f"it is not ready after {START_SECONDS:g} s: {answer.detail}")

    def watch(self) -> None:
        """Says what happens to the services until told to stop."""
        while not self._signals.wait(_WATCH_SECONDS):
            for process in self._processes():
                self._note(process)

    def _processes(self) -> list[Process]:
        """The services' processes; remembers each one's pid."""
        try:
            processes = self._supervisor.processes()
        except SupervisorGone as error:
            if self._supervisor.ended:
                raise CommandFailed("supervisord has ended: everything stops") from error
            return []
        for process in processes:
            if process.pid and process.name not in self._pids:
                self._pids[process.name] = process.pid
        return processes

    def _note(self, process: Process) -> None:
        name, known = process.name, self._pids.get(process.name)
        if process.pid == known:
            return
        if name not in self._down:
            self._down.add(name)
            why = self._supervisor.why_ended(name)
            self._say(f"{name} has ended{f' ({why})' if why else ''}: starting it again")
            if known is not None:
                # What it may have started and left behind.
                kill_group(known, signal.SIGKILL)
        if process.pid and process.state in ("STARTING", "RUNNING"):
            self._down.discard(name)
            self._pids[name] = process.pid
            self._say(f"{name} runs again (process {process.pid})")

    def _failure(self, name: str) -> str:
        log = self._supervisor.log_of(name)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        why = self._supervisor.why_ended(name)
        tail = "".join(f"\n  {line}" for line in lines[-_LOG_LINES:])
        return f"{name} does not start{f' ({why})' if why else ''}; the end of {log}:{tail}"

    def _stop(self) -> None:
        """Stops everything, edge first, and leaves no process behind."""
        self._say("Stopping; Ctrl-C again stops at once.")
        self._signals.forget()
        deadline = time.monotonic() + self._plan.drain_seconds * 2 + START_SECONDS
        asked = False
        while not self._supervisor.ended and time.monotonic() < deadline:
            try:
                if asked:
                    # supervisord works when it is asked something, and else once a second.
                    self._supervisor.answers()
                else:
                    self._pids.update({process.name: process.pid for process in self._processes() if process.pid})
                    self._supervisor.shut_down()
                    asked = True
            except (SupervisorGone, CommandFailed):
                asked = False
            if self._signals.wait(_POLL_SECONDS):
                break
        self._end_what_is_left(gently=self._supervisor.ended and not asked)
        self._say("Stopped.")

    def _end_what_is_left(self, *, gently: bool) -> None:
        """Ends the services' process groups, and supervisord itself when it has not done so."""
        if gently:
            # supervisord was killed: the services are on their own, and drain.
            left = {pid for pid in self._pids.values() if kill_group(pid, signal.SIGTERM)}
            deadline = time.monotonic() + self._plan.drain_seconds
            while left and time.monotonic() < deadline and not self._signals.wait(_POLL_SECONDS):
                left = {pid for pid in left if kill_group(pid, 0)}
        self._supervisor.kill()
        for pid in self._pids.values():
            kill_group(pid, signal.SIGKILL)

    def _say(self, text: str) -> None:
        try:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        except OSError:
            # The terminal is gone: nobody listens, but the system still has to be stopped.
            self._console = Console(file=io.StringIO())


class _Signals:
    """SIGINT, SIGTERM and SIGHUP, as something to wait for."""

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = [signal.signal(number, self._received) for number in self._NUMBERS]
        self._told = False
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(self._NUMBERS, self._before, strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()

    def wait(self, seconds: float) -> bool:
        """Waits for a signal, for so long; whether there was one."""
        if not self._told:
            select.select([self._reader], [], [], seconds)
        return self._told

    def forget(self) -> None:
        """From now on only another signal counts."""
        self._told = False
        while select.select([self._reader], [], [], 0)[0]:
            self._reader.recv(64)

    def _received(self, number: int, frame: object) -> None:
        self._told = True
