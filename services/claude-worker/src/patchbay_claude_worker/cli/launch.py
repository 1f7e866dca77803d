"""Starts a program that ends with its parent, whichever way that ends: `launch.py PARENT_PID PROGRAM ARGUMENT...`.

The program takes this process's place. On Linux the kernel kills it when its parent dies (man 2 PR_SET_PDEATHSIG);
elsewhere the guardian has to do. Run by its path and with nothing but the standard library: it stands in the way of
every start, and a `preexec_fn` instead would run Python between fork and exec beside gRPC's threads.
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        import ctypes

        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    # The parent may have died before the kernel was asked.
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    os.execv(program, sys.argv[2:])


if __name__ == "__main__":
    main()
