"""Runs a command that ends when its parent ends, however the parent ends: `launch.py COMMAND ARGUMENT...`.

The command takes this process's place, so `ps` shows the command itself. On Linux the kernel sends it SIGTERM when its
parent dies (man 2 PR_SET_PDEATHSIG); elsewhere an orderly end of the parent has to do. Run by its path, with nothing
but the standard library, since it stands in the way of every start.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

PARENT_VARIABLE = "PATCHBAY_PARENT_PID"
_PR_SET_PDEATHSIG = 1


def main() -> None:
    if sys.platform == "linux":
        _end_with_parent()
    # Every stream is a socket or two: use as many as this user may.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    os.execv(sys.argv[1], sys.argv[1:])


def _end_with_parent() -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    parent = os.environ.get(PARENT_VARIABLE)
    # The parent may have died before the kernel was asked.
    if parent is not None and os.getppid() != int(parent):
        sys.exit("the parent is gone")


if __name__ == "__main__":
    main()
