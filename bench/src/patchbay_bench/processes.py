"""A peer's process: nothing of this process's environment, a home of its own, and no trace when it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_STOP_SECONDS: Final = 5
_POLL_SECONDS: Final = 0.05
_LOG_END: Final = 1500


class NotStarted(Exception):
    """The process does not serve; the message ends with its log."""


class CleanProcess:
    """Runs a command in an empty environment until the `with` block ends.

    Its home and temporary folder are a new one, and its path an empty folder in it, so that it finds no other program.

    Args:
        command: Absolute, with its arguments; `{home}` in an argument is its home.
        environ: The variables it gets beside HOME, PATH and TMPDIR; `{home}` as above.
        files: Files in its home, by relative path.
        port: Where it will listen on 127.0.0.1.
    """

    def __init__(
        self, command: Sequence[str], *, environ: Mapping[str, str], files: Mapping[str, str], port: int
    ) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="patchbay-bench-")
        home = Path(self._home.name)
        for name, content in files.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(content)
        (home / "nothing").mkdir()
        self._command = [argument.replace("{home}", str(home)) for argument in command]
        self._environ = {
            "HOME": str(home),
            "PATH": str(home / "nothing"),
            "TMPDIR": str(home),
            **{name: value.replace("{home}", str(home)) for name, value in environ.items()},
        }
        self._log = home / "log"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """The end of what it has said."""
        return self._log.read_text(errors="replace")[-_LOG_END:]

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environ,
                cwd=self._home.name,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        process = self._process
        if process is not None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            # Its own session, so that no child of its outlives it.
            self._signal(signal.SIGKILL)
            process.wait()
        self._home.cleanup()

    def wait_ready(self, *, seconds: float) -> None:
        """Waits until it listens. Raises NotStarted."""
        give_up_at = time.monotonic() + seconds
        while not _listens(self._port):
            if self._process is None or self._process.poll() is not None:
                raise NotStarted(f"ended at once:\n{self.log()}")
            if time.monotonic() > give_up_at:
                raise NotStarted(f"does not listen after {seconds:g} s:\n{self.log()}")
            time.sleep(_POLL_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
