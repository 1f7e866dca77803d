"""Where the embedded Valkey is found: a socket in the state directory, which only its owner may enter."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

STATE_VARIABLE = "PATCHBAY_STATE_DIR"
# The kernel's limit is 107 bytes (man 7 unix).
_LONGEST_SOCKET_PATH = 100


def state_directory(environ: Mapping[str, str] | None = None) -> Path:
    """Where a running system keeps its sockets, process ids and logs: `.patchbay` here, unless told otherwise."""
    named = (os.environ if environ is None else environ).get(STATE_VARIABLE)
    return Path(named).expanduser().absolute() if named else Path.cwd() / ".patchbay"


def embedded_socket(state: Path) -> Path:
    """The embedded Valkey's socket for a state directory; elsewhere when the path would be too long for a socket."""
    socket = state / "valkey.sock"
    if len(os.fsencode(socket)) <= _LONGEST_SOCKET_PATH:
        return socket
    digest = hashlib.sha256(os.fsencode(state)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"patchbay-{os.getuid()}-{digest}" / "valkey.sock"


def embedded_url() -> str:
    """The URL of the embedded Valkey of the current state directory."""
    return f"unix://{embedded_socket(state_directory())}"
