"""The peers' own virtual environments, made by uv: the only place where their versions are pinned."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

# From PyPI, each into an environment of its own.
PINS: Final = {
    "litellm": ("litellm[proxy]==1.106.2",),
    "ccproxy": ("ccproxy-api==0.2.10",),
    "profiler": ("py-spy==0.4.3",),
}

_INSTALL_SECONDS: Final = 300


class NotInstalled(Exception):
    """An environment cannot be made; the message says why."""


def find_uv(named: str | None, home: Path) -> str:
    """uv: as named, else on the path, else where the Makefile puts it.

    Raises:
        NotInstalled: When there is none.
    """
    found = named or shutil.which("uv") or shutil.which("uv", path=str(home.parent / ".tools" / "bin"))
    if found is None:
        raise NotInstalled("uv is neither on the path nor in .tools/bin: name it with --uv")
    return found


def environment(name: str, *, home: Path, uv: str | None) -> Path:
    """The `bin` folder of an environment, made first when it is not there or its pins have changed.

    Args:
        name: One of `PINS`.
        home: The bench's folder; environments are under its `.envs`.
        uv: The program, when it is not on the path.

    Raises:
        NotInstalled: When uv is missing or fails.
    """
    folder = home / ".envs" / name
    stamp = folder / "pins.txt"
    pins = "\n".join(PINS[name])
    if not stamp.exists() or stamp.read_text() != pins:
        program = find_uv(uv, home)
        _uv(program, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
        _uv(program, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *PINS[name])
        stamp.write_text(pins)
    return folder / "bin"


def _uv(program: str, *arguments: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    try:
        done = subprocess.run(
            [program, *arguments], env=environ, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"uv {arguments[0]}: {error}") from error
    if done.returncode:
        raise NotInstalled(f"uv {arguments[0]}: {done.stderr.strip()[-500:]}")
