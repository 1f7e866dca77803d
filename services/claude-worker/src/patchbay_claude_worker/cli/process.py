"""One `claude` process."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from patchbay.upstream.silence import SilenceWatch
from patchbay_claude_worker.cli import launch
from patchbay_claude_worker.cli.guardian import MARKER_VARIABLE, end_marked, list_elsewhere
from patchbay_claude_worker.cli.messages import Message, control_request, read_message
from patchbay_claude_worker.cli.program import Command

_READ_BYTES = 256 * 1024
_KEPT_STDERR_BYTES = 4096
# More than this in one line is no message that the protocol knows.
_LONGEST_LINE = 256 * 1024 * 1024
# How long a process that has closed its output has to end by itself.
_DYING_SECONDS = 1.0
# How long its pipes may take to close once it is killed; then somebody else holds them.
_CLOSING_SECONDS = 0.5
_POLL_SECONDS = 0.01


class ProcessDied(Exception):
    """The process ended although it was still needed.

    Args:
        status: Its exit status; negative for the signal that ended it.
        stderr: The last of its errors.
    """

    def __init__(self, status: int | None, stderr: str) -> None:
        super().__init__(f"the claude process ended with status {status}")
        self.status = status
        self.stderr = stderr

    @property
    def detail(self) -> str:
        """What happened with the program's last words, which are for the operator and no client."""
        said = f": {self.stderr.strip().splitlines()[-1][:300]}" if self.stderr.strip() else ""
        return f"{self}{said}"


class ProcessHangs(Exception):
    """The process does not answer."""


class CliProcess:
    """A `claude` process in a home of its own, with a process group of its own.

    Attributes:
        spawned_at: When it was started, on the monotonic clock.
        requests: How many chats it has served or begun.
    """

    def __init__(self, process: Process, home: Path, marker: str) -> None:
        self.home = home
        self._marker = marker
        self.spawned_at = time.monotonic()
        self.requests = 0
        self._process = process
        self._control_count = 0
        self._stderr = bytearray()
        self._reading_stderr = asyncio.create_task(self._read_stderr(), name="claude-stderr")
        self._rest = bytearray()
        self._writing = asyncio.Lock()
        # What came together with a message that was waited for.
        self._unread: list[Message] = []
        self._elsewhere: set[Path] = set()
        # The directory of a sign-in; empty: everything is in its home.
        self._config = ""
        self._killed = False

    @classmethod
    async def spawn(cls, command_for: Callable[[Path], Command], *, directory: Path, marker: str) -> CliProcess:
        """Starts a process.

        Args:
            command_for: Gives the command, knowing the new process's home.
            directory: Where homes are made.
            marker: What its guardian knows it by; the home's name is added to it.

        Raises:
            OSError: It cannot be started.
            ProgramMissing: There is none.
        """
        home = Path(tempfile.mkdtemp(prefix="home-", dir=directory))
        own_marker = f"{marker}.{home.name}"
        try:
            # It may have transcripts to write.
            command = await asyncio.to_thread(command_for, home)
            (home / "tmp").mkdir()
            process = await start_program(command, own_marker)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        started = cls(process, home, own_marker)
        started._config = command.environ.get("CLAUDE_CONFIG_DIR", "")
        started._elsewhere.update(command.elsewhere)
        return started

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    @property
    def crashed(self) -> bool:
        """Whether it has ended without being told to."""
        return not self.alive and not self._killed

    @property
    def rss_bytes(self) -> int:
        """Its memory; 0 once it is gone."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def next_id(self) -> str:
        """An id for a control request."""
        self._control_count += 1
        return f"patchbay-{self._control_count}"

    async def check(self, seconds: float) -> None:
        """Makes sure that it answers, before it has been told anything.

        Raises:
            ProcessHangs: Not within `seconds`.
            ProcessDied: It has ended.
        """
        request_id = self.next_id()
        await self.send([control_request(request_id, "mcp_status")], seconds=seconds)
        await self.wait_for(lambda message: _answers(message, request_id), seconds=seconds)

    async def send(self, lines: Iterable[bytes], *, seconds: float) -> None:
        """Writes lines to it.

        Args:
            seconds: How long it may read nothing at all.

        Raises:
            ProcessHangs: It does not read.
            ProcessDied: It has ended.
        """
        try:
            with SilenceWatch(seconds) as watch:
                # A long line is written in pieces, between which nobody else's may come.
                async with self._writing:
                    await self._write(lines, watch)
        except TimeoutError as error:
            raise ProcessHangs(f"the claude process did not read its input for {seconds:g} s") from error
        except (ConnectionError, RuntimeError) as error:
            raise await self.death() from error

    async def _write(self, lines: Iterable[bytes], watch: SilenceWatch) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        for line in lines:
            for start in range(0, len(line), _READ_BYTES):
                stdin.write(line[start : start + _READ_BYTES])
                await stdin.drain()
                watch.heard()

    async def wait_for(self, wanted: Callable[[Message], bool], *, seconds: float) -> Message:
        """The first message that is wanted; those before it are passed over.

        Raises:
            ProcessHangs: It does not come within `seconds`.
            ProcessDied: The process has ended.
        """
        try:
            async with asyncio.timeout(seconds):
                while True:
                    messages = await self.read()
                    for index, message in enumerate(messages):
                        if wanted(message):
                            self._unread = messages[index + 1 :]
                            return message
        except TimeoutError as error:
            raise ProcessHangs(f"the claude process did not answer for {seconds:g} s") from error

    async def read(self) -> list[Message]:
        """The next messages, as many as have come.

        Raises:
            ProcessDied: The process has ended, or talks nonsense.
        """
        if self._unread:
            unread, self._unread = self._unread, []
            return unread
        while True:
            data = await self.read_output()
            if not data:
                raise await self.death()
            self._rest += data
            if b"\n" not in data:
                if len(self._rest) > _LONGEST_LINE:
                    self.kill()
                    raise await self.death()
                continue
            *lines, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
            messages = [message for line in lines if (message := read_message(line)) is not None]
            if messages:
                return messages

    async def read_output(self) -> bytes:
        """The next of what it says, whatever that is; empty: nothing more will come."""
        stdout = self._process.stdout
        assert stdout is not None
        return await stdout.read(_READ_BYTES)

    def kill(self) -> None:
        """Ends it at once, with all that it has started in its group. The upstream sees its connection close."""
        if not self.alive:
            # Its number may be another's by now.
            return
        self._killed = True
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        except PermissionError:
            # Not yet the leader of a group of its own.
            if self.alive:
                self._process.kill()

    def removes(self, path: Path) -> None:
        """Has a file outside of its home removed with it."""
        if path in self._elsewhere or path.is_relative_to(self.home):
            return
        self._elsewhere.add(path)
        list_elsewhere(self.home.parent, path)

    async def clear(self) -> None:
        """Kills it if it lives, waits for its end and that of all it has started, and removes its home."""
        self.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        # As long as there is something unread in its pipes, asyncio keeps them open and does not say that it has ended.
        emptying = asyncio.create_task(self._empty(), name="claude-empty")
        closing = {self._reading_stderr, emptying}
        await asyncio.wait(closing, timeout=_CLOSING_SECONDS)
        # Its tools have groups of their own, and may outlive it.
        await asyncio.to_thread(end_marked, self._marker)
        _, held = await asyncio.wait(closing, timeout=_CLOSING_SECONDS)
        if held:
            self._close_pipes()
            for task in held:
                task.cancel()
            await asyncio.wait(held)
        await self._process.wait()
        await asyncio.to_thread(self._remove_files)

    def _remove_files(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        for path in self._elsewhere:
            path.unlink(missing_ok=True)
        if self._config:
            # It lists itself there, as a session that others may find, and one that is killed stays listed.
            for path in Path(self._config, "sessions").glob(f"{self.pid}.*"):
                path.unlink(missing_ok=True)

    async def _empty(self) -> None:
        try:
            while await self.read_output():
                continue
        except RuntimeError:
            # Whoever it was lent to still reads, and sees its end.
            return

    def _close_pipes(self) -> None:
        """Lets go of pipes that some process which was not to be found holds open."""
        # Nothing public closes the pipes of a process that has ended.
        self._process._transport.close()  # type: ignore[attr-defined]

    async def death(self) -> ProcessDied:
        """Why nothing more can come from it. One that has closed its pipes and lives on is of no use: it is killed."""
        give_up_at = time.monotonic() + _DYING_SECONDS
        # Not waited for: that would last until whoever else has its pipes has closed them.
        while self.alive:
            if time.monotonic() > give_up_at:
                self.kill()
            await asyncio.sleep(_POLL_SECONDS)
        await asyncio.wait([self._reading_stderr], timeout=0.2)
        return ProcessDied(self._process.returncode, self._stderr.decode(errors="replace"))

    async def _read_stderr(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        while data := await stderr.read(_READ_BYTES):
            self._stderr += data
            del self._stderr[:-_KEPT_STDERR_BYTES]


class Guardian:
    """The process that clears up behind this one: see `guardian.py`.

    Attributes:
        directory: Where homes are made; it goes with all in it.
        marker: How the environment variable MARKER_VARIABLE of what it watches over begins.
    """

    def __init__(self) -> None:
        self.marker = uuid.uuid4().hex
        self.directory = Path(tempfile.mkdtemp(prefix="patchbay-claude-"))
        self._process: Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "patchbay_claude_worker.cli.guardian",
            str(self.directory),
            self.marker,
            stdin=PIPE,
            stdout=DEVNULL,
            start_new_session=True,
        )

    async def dismiss(self) -> None:
        """Has it clear up now, and waits for that."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            await self._process.wait()
        # It may have been killed itself.
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)


async def start_program(command: Command, marker: str) -> Process:
    """Starts a program that ends with this process, with pipes to it and in a group of its own.

    Raises:
        OSError: It cannot be started.
    """
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        launch.__file__,
        str(os.getpid()),
        *command.arguments,
        env={**command.environ, MARKER_VARIABLE: marker},
        cwd=command.cwd,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )


def _answers(message: Message, request_id: str) -> bool:
    return message.response is not None and message.response.request_id == request_id
