"""Which system runs in a state directory: held by a lock, so that a killed one leaves nothing to clean up."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from patchbay_cli.problems import CommandFailed


@dataclass(frozen=True)
class Running:
    """The running system: the process to tell, and the edge's URL."""

    pid: int
    url: str


class RunLock:
    """Makes a state directory one system's own for as long as the block runs.

    Raises:
        CommandFailed: Another system runs there.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / "running.json"
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise CommandFailed(
                "it already runs here: see `patchbay status`, or stop it with `patchbay down`"
            ) from None
        self._file = file
        self.write("")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()

    def write(self, url: str) -> None:
        """Tells other commands who runs here."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.write(json.dumps(asdict(Running(os.getpid(), url))))
            self._file.flush()


def find(state: Path) -> Running | None:
    """The system that runs in a state directory."""
    try:
        with (state / "running.json").open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                told = json.loads(file.read())
                return Running(int(told["pid"]), str(told["url"]))
    except FileNotFoundError:
        return None
    return None
