"""Keeps the services running, with supervisord: https://supervisord.org/configuration.html."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import socket
import subprocess
import sys
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from patchbay.settings import embedded_socket
from patchbay_cli import launch
from patchbay_cli.plan import Service
from patchbay_cli.problems import CommandFailed

_RPC_SECONDS = 5.0
_EXITED = re.compile(r" exited: (?P<name>\S+) \((?P<why>[^;]*);")
# Start a dead service again for as long as the system is up; supervisord waits a second more each time it fails.
_TRIES = 1_000_000
_RPC_FACTORY = "supervisor.rpcinterface:make_main_rpcinterface"


@dataclass(frozen=True)
class Process:
    """A service's process, as supervisord sees it.

    Attributes:
        state: One of supervisord's: STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL, STOPPED.
        pid: 0: none now.
    """

    name: str
    state: str
    pid: int


class _ProcessInfo(TypedDict):
    name: str
    statename: str
    pid: int


class SupervisorGone(Exception):
    """supervisord does not answer: it has ended, or is about to."""


class Supervisor:
    """A supervisord and its services, in one state directory.

    Args:
        state: The directory of its socket, its configuration and all logs.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        # Sockets live together, where a path is short enough for one.
        self._socket = embedded_socket(state).with_name("supervisor.sock")
        self._child: subprocess.Popen[bytes] | None = None

    def log_of(self, name: str) -> Path:
        return self._state / "logs" / f"{name}.log"

    def start(self, services: Sequence[Service], environ: Mapping[str, str]) -> None:
        """Starts supervisord, which starts the services, all in a session of their own.

        Secrets are in `environ` only, never in a file.
        """
        for directory in (self._socket.parent, self._state / "logs"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_own(self._socket.parent)
        self._own_log.unlink(missing_ok=True)
        configuration = self._state / "supervisord.conf"
        configuration.write_text(self._configuration(services), encoding="utf-8")
        python = [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(configuration)]
        with (self._state / "logs" / "supervisord.err").open("wb") as errors:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", launch.__file__, *python],
                env={**environ, launch.PARENT_VARIABLE: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        """Whether the supervisord started here has ended."""
        return self._child is not None and self._child.poll() is not None

    def answers(self) -> bool:
        """Whether a supervisord runs in this state directory."""
        try:
            self._call("supervisor.getState")
        except SupervisorGone:
            return False
        return True

    def processes(self) -> list[Process]:
        """The services' processes.

        Raises:
            SupervisorGone: supervisord has ended, or is shutting down.
        """
        infos = cast("list[_ProcessInfo]", self._call("supervisor.getAllProcessInfo"))
        return [Process(info["name"], info["statename"], info["pid"]) for info in infos]

    def shut_down(self) -> None:
        """Tells supervisord to stop the services, those started last first, and then itself."""
        self._call("supervisor.shutdown")

    def kill(self) -> None:
        """Ends supervisord at once. Its services are told to stop by the kernel, not by it."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def why_ended(self, name: str) -> str:
        """How a service's last process ended, in supervisord's words; empty when it has not said."""
        try:
            log = self._own_log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        reasons = [match["why"] for match in _EXITED.finditer(log) if match["name"] == name]
        return reasons[-1] if reasons else ""

    @property
    def _own_log(self) -> Path:
        return self._state / "logs" / "supervisord.log"

    def _call(self, method: str) -> object:
        transport = _SocketTransport(self._socket)
        proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=transport)
        try:
            result: object = cast("Callable[[], object]", getattr(proxy, method))()
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise SupervisorGone(str(error)) from error
        finally:
            transport.close()
        return result

    def _configuration(self, services: Sequence[Service]) -> str:
        # `%` starts an expansion in supervisord's configuration.
        state, socket_path, logs = (
            str(path).replace("%", "%%") for path in (self._state, self._socket, self._state / "logs")
        )
        sections = [
            f"[unix_http_server]\nfile={socket_path}\nchmod=0700",
            f"[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory={_RPC_FACTORY}",
            f"[supervisord]\nnodaemon=true\nsilent=true\npidfile={state}/supervisord.pid\nchildlogdir={logs}",
            f"logfile={logs}/supervisord.log\nlogfile_maxbytes=1MB\nlogfile_backups=1",
        ]
        for order in sorted({service.order for service in services}):
            members = [service for service in services if service.order == order]
            names = ",".join(service.name for service in members)
            sections.append(f"[group:{order}]\nprograms={names}\npriority={order}")
            sections += [self._program(service) for service in members]
        return "\n".join(sections) + "\n"

    def _program(self, service: Service) -> str:
        launched = (sys.executable, "-I", "-S", launch.__file__, *service.command)
        options = {
            "command": shlex.join(launched).replace("%", "%%"),
            "priority": service.order,
            "autorestart": "true",
            "startsecs": 1,
            "startretries": _TRIES,
            "stopsignal": "TERM",
            "stopwaitsecs": service.stop_seconds,
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": str(self.log_of(service.name)).replace("%", "%%"),
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": 2,
        }
        return f"[program:{service.name}]\n" + "\n".join(f"{name}={value}" for name, value in options.items())


def kill_group(pid: int, number: int) -> bool:
    """Signals a service's whole process group (0: only asks); False: there is none left."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return False
    return True


def _require_own(directory: Path) -> None:
    if directory.stat().st_uid != os.getuid():
        raise CommandFailed(f"{directory} belongs to another user: choose a directory with PATCHBAY_STATE_DIR")


class _SocketTransport(xmlrpc.client.Transport):
    """XML-RPC over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: object) -> http.client.HTTPConnection:
        return _SocketConnection(self._path)


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_RPC_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_RPC_SECONDS)
        self.sock.connect(str(self._path))
