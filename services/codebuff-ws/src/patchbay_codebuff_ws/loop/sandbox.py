"""Runs `handleSteps` programs: the `Steps` of this service.

Any client may send a program, so none is trusted. Each runs in QuickJS (quickjs-ng), which has no I/O, in a small
process of its own, which has no environment, may open no file, start no process and use no more than its memory; on
Linux the kernel refuses it nearly all system calls. What goes in and out is JSON text of bounded length. A program
that breaks the engine, or keeps it from looking at the time (not all of its built-in functions do), ends with its
process and takes nothing along.

    worker --{"source", "argument"}, then {"result"}--> sandbox_child.py (sandbox.js, the program)
           <--{"logs", and "yielded", "done" or "error"}--

A process takes some 30 ms of CPU to start and 4 MB of its own, and no CPU while the program waits for the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from patchbay.dialects.surrogates import mend_text
from patchbay.settings.codebuff import CodebuffSteps
from patchbay_codebuff_ws.loop.steps import Ended, Log, LogEntry, StepsError, Yield, read_yield
from patchbay_codebuff_ws.ports import JsonObject

log = structlog.get_logger(__name__)

_CHILD = Path(__file__).with_name("sandbox_child.py")
_GENERATOR = re.compile(r"\s*function\s*\*")
_ASYNC_GENERATOR = re.compile(r"\s*async\s+function\s*\*")
# The limit is on what a program computes; on a busy machine that takes longer.
_PATIENCE = 2
# A text in the engine takes up to twice its length, and what it is read into twice that again.
_PART_OF_MEMORY = 4
# Of lists and objects in what comes out, those signs within its texts included: the worker makes all of them at once,
# and everybody waits meanwhile.
_MOST_VALUES = 500_000
# Of what a program has thrown.
_MOST_SAID = 2000
_BROKEN = "its process said what makes no sense"


class Sandbox:
    """Starts programs, each in a process of its own.

    Args:
        limits: What a program may use, and how many there may be.
    """

    def __init__(self, limits: CodebuffSteps) -> None:
        self._limits = limits
        self._programs: set[SandboxProgram] = set()

    @property
    def running(self) -> int:
        """How many programs have a process."""
        return len(self._programs)

    async def start(self, source: str, state: JsonObject, *, log: Log) -> SandboxProgram:
        """See `Steps.start`."""
        if _ASYNC_GENERATOR.match(source):
            raise StepsError("handleSteps is an async generator; it has to be a plain one (`function*`)")
        if not _GENERATOR.match(source):
            raise StepsError("handleSteps has to be the text of a generator: it has to begin with `function*`")
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                reader, writer = await asyncio.open_unix_connection(sock=ours)
            except BaseException:
                ours.close()
                raise
            try:
                process = self._spawn(theirs)
            except BaseException:
                writer.transport.abort()
                raise
        program = SandboxProgram(
            process,
            (reader, writer),
            {"source": source, "argument": state},
            limits=self._limits,
            log=log,
            on_end=self._programs.discard,
        )
        self._programs.add(program)
        return program

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        limits = self._limits
        if len(self._programs) >= limits.max_programs:
            raise StepsError("as many programs run here as may run at a time; try again shortly")
        numbers = map(str, (limits.memory_bytes, limits.seconds, _most_bytes(limits)))
        try:
            return subprocess.Popen(
                # No variables, no packages, no files beside the script.
                [sys.executable, "-I", "-S", str(_CHILD), _engine_directory(), *numbers],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                # Ctrl-C is for the worker, which lets prompts end.
                start_new_session=True,
            )
        except OSError as error:
            raise StepsError(f"its process cannot be started: {error.strerror}") from error


class SandboxProgram:
    """One program: the `Program` of `steps`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        first: JsonObject,
        *,
        limits: CodebuffSteps,
        log: Log,
        on_end: Callable[[SandboxProgram], None],
    ) -> None:
        self._process = process
        self._reader, self._writer = streams
        self._first = first
        self._limits = limits
        self._log = log
        self._on_end = on_end

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    async def advance(self, result: JsonObject | None) -> Yield:
        """See `Program.advance`. Whoever is cancelled in it ends the program."""
        try:
            first, self._first = self._first, {}
            reply = await self._ask(first if result is None else {"result": result})
            for entry in _entries(reply.get("logs")):
                await self._log(entry)
            if "error" in reply:
                raise StepsError(str(reply["error"])[:_MOST_SAID])
            return Ended() if reply.get("done") else read_yield(reply.get("yielded"))
        except BaseException:
            self.kill()
            raise

    async def _ask(self, request: JsonObject) -> JsonObject:
        text = msgspec.json.encode(request)
        most = _most_bytes(self._limits)
        if len(text) > most:
            raise StepsError(f"the conversation is too long for a program: {len(text)} bytes of at most {most}")
        seconds = self._limits.seconds
        try:
            async with asyncio.timeout(_PATIENCE * seconds):
                self._writer.write(len(text).to_bytes(4) + text)
                await self._writer.drain()
                size = int.from_bytes(await self._reader.readexactly(4))
                if size > most:
                    raise StepsError(_BROKEN)
                reply = await self._reader.readexactly(size)
        except TimeoutError:
            raise StepsError(f"it computed for more than {seconds:g} s without a yield") from None
        except (OSError, asyncio.IncompleteReadError):
            self.kill()
            code = await self._reap()
            log.warning("program_process_died", code=code)
            raise StepsError(f"its process died (exit code {code}): it broke the limits of time or memory") from None
        if reply.startswith(b"!"):
            raise StepsError(self._in_words(reply[1:].decode(errors="replace")))
        return _decoded(reply)

    def _in_words(self, problem: str) -> str:
        first = problem.partition("\n")[0].strip()
        if "interrupted" in first:
            return f"it computed for more than {self._limits.seconds:g} s without a yield"
        # Without memory there is none for the exception either.
        if first == "null" or "out of memory" in first:
            return f"it used more than its {self._limits.memory_bytes} bytes of memory"
        if first == "too long":
            return f"it yielded more than {_most_bytes(self._limits)} bytes"
        return first

    def kill(self) -> None:
        """Ends its process."""
        self._process.kill()
        self._on_end(self)

    async def _reap(self) -> int:
        return await asyncio.get_running_loop().run_in_executor(None, self._process.wait)

    async def aclose(self) -> None:
        """See `Program.aclose`."""
        self.kill()
        self._writer.transport.abort()
        await self._reap()


@functools.cache
def _engine_directory() -> str:
    found = importlib.util.find_spec("_quickjs")
    if found is None or found.origin is None:
        raise StepsError("there is no JavaScript engine here: the package quickjs-ng is missing")
    return str(Path(found.origin).parent)


def _most_bytes(limits: CodebuffSteps) -> int:
    """The longest text that goes in or out."""
    return limits.memory_bytes // _PART_OF_MEMORY


def _decoded(reply: bytes) -> JsonObject:
    if reply.count(b"[") + reply.count(b"{") > _MOST_VALUES:
        raise StepsError(f"it yielded more than {_MOST_VALUES} lists and objects")
    try:
        try:
            value = msgspec.json.decode(reply)
        except (msgspec.DecodeError, UnicodeError):
            # JavaScript cuts emoji in half; no decoder takes the halves.
            value = msgspec.json.decode(mend_text(reply))
    except RecursionError:
        raise StepsError("it yielded what is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeError):
        raise StepsError(_BROKEN) from None
    if not isinstance(value, dict):
        raise StepsError(_BROKEN)
    return value


def _entries(logged: object) -> list[LogEntry]:
    """What a program has logged; what is no entry, since it has meddled with objects, is left out."""
    entries = []
    for entry in logged if isinstance(logged, list) else ():
        with contextlib.suppress(msgspec.ValidationError):
            entries.append(msgspec.convert(entry, LogEntry))
    return entries
