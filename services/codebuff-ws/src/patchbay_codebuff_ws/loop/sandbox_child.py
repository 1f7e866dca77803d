"""The process of one program, which `sandbox` starts: a script, which imports little, since it has to start fast.

    python -I -S sandbox_child.py DIRECTORY MEMORY SECONDS MOST

Args:
    DIRECTORY: Where the engine is.
    MEMORY: Bytes that the engine may use.
    SECONDS: How long, of CPU time, it may take for each answer.
    MOST: Bytes of an answer.

It reads and writes texts, with their length in UTF-8 before them (4 bytes, big-endian), over a socket that is its
standard input and output: for each request (JSON, see sandbox.js) one answer. An answer that begins with `!` is the
engine's own word for why there is no other. It ends when there is nothing more to read.
"""

from __future__ import annotations

import os
import resource
import sys

# Of the engine's own stack; that of the process is larger.
_STACK_BYTES = 512 * 1024
# Over the engine's memory: the same texts outside of it, in the forms that they take on their way.
_MEMORY_FACTOR = 3
# Its input, its output, and where errors vanish.
_FILES = 3
# The worker that has started it comes first: it works for all the others.
_NICENESS = 5

# For machines as `uname` names them: their number in linux/audit.h, that of prlimit64, and those of the system calls
# that are left: read, write, memory (mmap, mprotect, munmap, brk, mremap, madvise), signals (rt_sigaction,
# rt_sigprocmask, rt_sigreturn), time (getrusage, gettimeofday, clock_gettime), futex, exit, exit_group, getrandom.
_SYSTEM_CALLS = {
    "x86_64": (0xC000003E, 302, (0, 1, 9, 10, 11, 12, 25, 28, 13, 14, 15, 98, 96, 228, 202, 60, 231, 318)),
    "aarch64": (0xC00000B7, 261, (63, 64, 222, 226, 215, 214, 216, 233, 134, 135, 139, 165, 169, 113, 98, 93, 94, 278)),
}
# linux/prctl.h, linux/seccomp.h and linux/bpf_common.h.
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050001, 0x7FFF0000
_LOAD, _EQUALS, _RETURN = 0x20, 0x15, 0x06
# Where it is told of a call: its number, the machine, the lower half of the first argument.
_NUMBER, _MACHINE, _ARGUMENT = 0, 4, 16


def main() -> None:
    """Answers until there is nothing more to answer."""
    directory, memory, seconds, most = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    sys.path.append(directory)
    import _quickjs  # type: ignore[import-not-found]  # it has no types

    context = _quickjs.Context()
    context.set_memory_limit(memory)
    context.set_max_stack_size(_STACK_BYTES)
    context.set_time_limit(seconds)
    with open(os.path.join(os.path.dirname(__file__), "sandbox.js"), encoding="utf-8") as script:
        advance = context.eval(script.read())
    _confine(memory)
    while (request := _read()) is not None:
        _allow_cpu(seconds)
        try:
            answer = advance(request).encode()
        except (_quickjs.JSException, _quickjs.StackOverflow, MemoryError, TypeError) as error:
            answer = b"!" + (str(error) or "out of memory").encode(errors="replace")
        _write(answer if len(answer) <= most else b"!too long")


def _confine(memory: int) -> None:
    """Gives up what the engine does not need, for the case that a program gets out of it."""
    os.nice(_NICENESS)
    try:
        # Some kernels schedule each session as one, by a niceness of its own.
        with open("/proc/self/autogroup", "w") as niceness:
            niceness.write(str(_NICENESS))
    except OSError:
        pass  # Others have no such file; and it takes only so many changes a second.
    if sys.platform == "linux":
        # macOS does not hold a process to it; there the engine's own limit has to do.
        with open("/proc/self/statm") as status:
            pages = int(status.read().split()[0])
        size = pages * os.sysconf("SC_PAGE_SIZE") + _MEMORY_FACTOR * memory
        _limit(resource.RLIMIT_AS, size)
        if (system_calls := _SYSTEM_CALLS.get(os.uname().machine)) is not None:
            _forbid_system_calls(*system_calls)
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, _FILES),
    ):
        _limit(kind, value)


def _limit(kind: int, value: int, *, for_good: bool = True) -> None:
    """Sets a limit of this process, or leaves it as low as it is."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value if for_good else hard))


def _forbid_system_calls(machine: int, prlimit: int, allowed: tuple[int, ...]) -> None:
    """Has the kernel refuse all other system calls; where it knows no such filter, the limits have to do."""
    import ctypes
    import struct

    steps = [(_LOAD, 0, 0, _MACHINE), (_EQUALS, 1, 0, machine), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    for number in allowed:
        steps += [(_EQUALS, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    # Its own limits only: those of the worker are not its business.
    steps += [(_EQUALS, 1, 0, prlimit), (_RETURN, 0, 0, _REFUSE), (_LOAD, 0, 0, _ARGUMENT)]
    steps += [(_EQUALS, 1, 0, 0), (_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    prctl(_NO_NEW_PRIVS, 1, None, 0, 0)
    prctl(_SET_SECCOMP, _FILTER, struct.pack("HP", len(steps), ctypes.addressof(program)), 0, 0)


def _allow_cpu(seconds: float) -> None:
    """Ends the process if it computes much longer than the engine lets it: not all of the engine looks at the time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime + seconds) + 2, for_good=False)


def _read() -> str | None:
    size = _read_bytes(4)
    return None if size is None else str(_read_bytes(int.from_bytes(size)) or b"", "utf-8")


def _read_bytes(size: int) -> bytearray | None:
    text = bytearray()
    while len(text) < size:
        piece = os.read(0, min(size - len(text), 1 << 20))
        if not piece:
            return None
        text += piece
    return text


def _write(text: bytes) -> None:
    view = memoryview(len(text).to_bytes(4) + text)
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    main()
