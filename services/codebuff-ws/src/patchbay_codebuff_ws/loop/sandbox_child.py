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
            answer = f"!{error or 'out of memory'}".encode(errors="replace")
        _write(answer if len(answer) <= most else b"!too long")


def _confine(memory: int) -> None:
    """Gives up what the engine does not need, for the case that a program gets out of it."""
    if sys.platform == "linux":
        # macOS does not hold a process to it; there the engine's own limit has to do.
        with open("/proc/self/statm") as status:
            pages = int(status.read().split()[0])
        size = pages * os.sysconf("SC_PAGE_SIZE") + _MEMORY_FACTOR * memory
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, _FILES),
    ):
        resource.setrlimit(limit, (value, value))


def _allow_cpu(seconds: float) -> None:
    """Ends the process if it computes much longer than the engine lets it: not all of the engine looks at the time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    most = int(usage.ru_utime + usage.ru_stime + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


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


main()
