"""A pool of `claude` processes: started ahead, lent to one chat at a time, never more than there may be.

    starting -> spare -> busy -> (kept -> busy)* -> retired

A process is lent with `take` and comes back with `give_back`. Then it is retired, unless it is kept for the next turn
of its conversation.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable

import structlog

from patchbay.errors import OVERLOADED, UNAVAILABLE, PatchbayError, make_error
from patchbay.settings.claude_cli import Pool as PoolSettings
from patchbay.telemetry import metrics
from patchbay_claude_worker.cli.kept import KeptProcesses
from patchbay_claude_worker.cli.process import CliProcess, Guardian, ProcessDied, ProcessHangs
from patchbay_claude_worker.cli.program import ProgramMissing
from patchbay_claude_worker.cli.waiting import CommandFor, Waiter, WaitingChats
from patchbay_proto.v1.provider_pb2 import PoolStatus

log = structlog.get_logger(__name__)

_TEND_SECONDS = 5.0
# A spare is asked this often whether it still answers.
_CHECK_SECONDS = 60.0
_FIRST_BACKOFF_SECONDS = 0.5
_RESTOCK_SECONDS = 0.3
_LONGEST_BACKOFF_SECONDS = 30.0
_MEBIBYTE = 1024 * 1024
_TENDER, _CLEAR = "pool-tender", "pool-clear"


class Pool:
    """The processes of one backend.

    Args:
        name: The backend's name.
        options: How many, and for how long.
        command_for: Gives the command of a process, knowing its home.
    """

    def __init__(self, name: str, options: PoolSettings, command_for: CommandFor) -> None:
        self._name = name
        self._options = options
        self._command_for = command_for
        self._guardian: Guardian | None = None
        self._spares: deque[CliProcess] = deque()
        self._busy: set[CliProcess] = set()
        self._kept = KeptProcesses()
        # Spares that are just being asked whether they still answer.
        self._checked: set[CliProcess] = set()
        # Of those that start: what will be a spare.
        self._starting = self._starting_spares = 0
        # Of those that start: not waiting for their turn any more.
        self._launched = 0
        self._clearing = 0
        self._waiters = WaitingChats()
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn_gate = asyncio.Semaphore(options.spawn_parallelism)
        self._backoff = 0.0
        self._closed = False
        self._checked_at = time.monotonic()
        self._rss_bytes = 0
        self._counts = {"spawned": 0, "retired": 0, "crashed": 0}
        self._spawn_seconds = self._wait_seconds = 0.0
        # Why no process can be started; empty: nothing is known to be wrong.
        self.trouble = ""

    @property
    def guardian(self) -> Guardian:
        """Who clears up behind the pool; for what else a backend starts. There after `start`."""
        assert self._guardian is not None
        return self._guardian

    async def start(self) -> None:
        """Starts the spares, and what watches over them, until `aclose`."""
        self._guardian = Guardian()
        await self._guardian.start()
        self._run(self._tend(), _TENDER)
        self._refill()

    async def aclose(self) -> None:
        """Kills every process and removes every home. Who still waits is refused."""
        self._closed = True
        self._waiters.refuse(_closing())
        for task in self._tasks:
            if task.get_name() != _CLEAR:
                task.cancel()
        for process in self._processes():
            self._retire(process, "closed")
        for group in (self._spares, self._checked, self._busy, self._kept):
            group.clear()
        while self._tasks:
            await asyncio.wait(self._tasks)
        # A task that is cancelled before it has begun has counted for nothing.
        self._starting = self._starting_spares = 0
        if self._guardian is not None:
            await self._guardian.dismiss()

    def status(self) -> PoolStatus:
        return PoolStatus(
            spare=len(self._spares),
            busy=len(self._busy),
            idle=len(self._kept),
            starting=self._starting + len(self._checked),
            max=self._options.max_processes,
            waiting=len(self._waiters),
            rss_bytes=self._rss_bytes,
            spawned=self._counts["spawned"],
            retired=self._counts["retired"],
            crashed=self._counts["crashed"],
            spawn_seconds=self._spawn_seconds,
            wait_seconds=self._wait_seconds,
        )

    async def take(self, conversation: str | None = None, command_for: CommandFor | None = None) -> CliProcess:
        """A process for one chat, to be given back with `give_back`.

        Args:
            conversation: Whose kept process to take, if there is one that lives. Its `requests` are then more than 0.
            command_for: Gives the command of a process that is to be started for this chat alone; None: any spare.

        Raises:
            PatchbayError: OVERLOADED when none was free in time, UNAVAILABLE when none can be started.
        """
        if self._closed:
            raise _closing()
        started = time.monotonic()
        process = self._retake(conversation) or (None if command_for else self._take_spare())
        process = process or await self._wait(Waiter(command_for))
        self._busy.add(process)
        self._wait_seconds = time.monotonic() - started
        metrics.CLI_WAIT_SECONDS.labels(self._name).observe(self._wait_seconds)
        # A start takes a second of processor time, which the chat that has just got its process needs first.
        asyncio.get_running_loop().call_later(_RESTOCK_SECONDS, self._refill)
        return process

    def give_back(self, process: CliProcess, *, keep_for: str | None = None, reason: str = "done") -> None:
        """Ends a loan.

        Args:
            keep_for: The conversation whose next turn is to have it; None: it is retired.
            reason: Why it is retired, for the metrics.
        """
        if process not in self._busy:
            # Given back before, or ended with the pool.
            return
        self._busy.discard(process)
        if keep_for is not None and self._may_keep(process):
            previous = self._kept.take(keep_for)
            if previous is not None:
                self._retire(previous, "replaced")
            self._kept.put(keep_for, process)
            self._make_room_for_spares()
            # Somebody may be waiting while this one only waits for its conversation.
            self._make_room()
        else:
            self._retire(process, reason)
        self._refill()

    def keeps(self, conversation: str | None) -> bool:
        """Whether a living process waits for the next turn of a conversation."""
        return conversation is not None and self._kept.has(conversation)

    def drop(self, conversation: str) -> None:
        """Retires the process kept for a conversation, which is not gone on with."""
        kept = self._kept.take(conversation)
        if kept is not None:
            self._retire(kept, "stale")
            self._refill()

    def _may_keep(self, process: CliProcess) -> bool:
        return (
            not self._closed
            and process.alive
            and process.requests < self._options.max_requests
            and not self._is_too_large(process)
        )

    def _is_too_large(self, process: CliProcess) -> bool:
        return process.rss_bytes > self._options.max_rss_mb * _MEBIBYTE

    def _retake(self, conversation: str | None) -> CliProcess | None:
        kept = self._kept.take(conversation) if conversation is not None else None
        if kept is None or kept.alive:
            return kept
        self._retire(kept, "crashed")
        return None

    def _take_spare(self) -> CliProcess | None:
        # Those who already wait come first.
        while self._spares and not self._waiters.for_any:
            process = self._spares.popleft()
            if process.alive:
                return process
            self._retire(process, "crashed")
        return None

    async def _wait(self, waiter: Waiter) -> CliProcess:
        if self.trouble:
            # Starting one is being tried all the time: nobody has to wait to hear that it does not work.
            raise self._unavailable()
        self._waiters.append(waiter)
        self._make_room()
        self._refill()
        try:
            await asyncio.wait([waiter.future], timeout=self._options.acquire_timeout)
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise
        if waiter.future.done():
            return waiter.future.result()
        self._abandon(waiter)
        message = f"every process of the backend `{self._name}` is busy"
        raise PatchbayError(make_error(OVERLOADED, message, http_status=529, retry_after=self._retry_after()))

    def _abandon(self, waiter: Waiter) -> None:
        """Nobody waits here any more; what has just come goes to the next one, unless it is of no use to others."""
        future = waiter.future
        if not future.done():
            self._waiters.remove(waiter)
            future.cancel()
        elif future.exception() is None and future.result() in self._busy:
            self._busy.discard(future.result())
            if waiter.takes_any:
                self._put_spare(future.result())
            else:
                self._retire(future.result(), "cancelled")

    def _retry_after(self) -> float:
        """About how long until one is free: nobody knows how long answers take, but a queue says something.

        No edge waits so long itself, to stand in the same queue again.
        """
        return float(min(30, 2 + len(self._waiters) // max(1, self._options.max_processes)))

    @property
    def _total(self) -> int:
        return self._starting + self._clearing + self._lent_or_ready

    @property
    def _lent_or_ready(self) -> int:
        return len(self._spares) + len(self._checked) + len(self._busy) + len(self._kept)

    def _make_room(self) -> None:
        """Where more wait than will get one by themselves, the conversations idle for longest give their own."""
        coming = self._options.max_processes - self._lent_or_ready + len(self._checked)
        for _ in range(min(len(self._waiters) - coming, len(self._kept))):
            self._retire(self._kept.take_oldest(), "evicted")
            coming += 1
        # A spare is of no use to who needs a process of its own.
        for _ in range(min(len(self._waiters) - self._waiters.for_any - coming, len(self._spares))):
            self._retire(self._spares.popleft(), "evicted")

    def _make_room_for_spares(self) -> None:
        """The conversations idle for longest give way to the spares that are wanted."""
        most = max(1, self._options.max_processes - self._options.min_spare)
        while len(self._kept) > most:
            self._retire(self._kept.take_oldest(), "evicted")

    def _refill(self) -> None:
        """Starts as many processes as are wanted and may be."""
        if self._closed:
            return
        for waiter in self._waiters:
            if not waiter.takes_any and not waiter.is_served and self._total < self._options.max_processes:
                waiter.is_served = True
                self._starting += 1
                self._run(self._spawn(waiter), "pool-spawn")
        allowed = self._options.max_processes - self._total
        for _ in range(min(self._wanted - self._starting_spares, allowed)):
            self._starting += 1
            self._starting_spares += 1
            self._run(self._spawn(None), "pool-spawn")

    @property
    def _wanted(self) -> int:
        """How many spares are to be starting. While none can be started, one is tried again and again."""
        if self.trouble:
            return 1
        return self._options.min_spare + self._waiters.for_any - len(self._spares) - len(self._checked)

    async def _spawn(self, waiter: Waiter | None) -> None:
        """Starts a process: for a waiter alone, or as a spare."""
        started = time.monotonic()
        try:
            async with self._spawn_gate:
                if self._backoff:
                    await asyncio.sleep(self._backoff)
                if self._is_needless(waiter):
                    self._has_started(waiter)
                    return
                started = time.monotonic()
                self._launched += 1
                try:
                    process = await self._launch((waiter and waiter.command_for) or self._command_for)
                finally:
                    self._launched -= 1
        except (OSError, ProgramMissing, ProcessDied, ProcessHangs) as error:
            self._has_started(waiter)
            self._failed(error, waiter)
            return
        except BaseException:
            self._has_started(waiter)
            raise
        self._has_started(waiter)
        self._spawn_seconds = time.monotonic() - started
        self._counts["spawned"] += 1
        metrics.CLI_SPAWN_SECONDS.labels(self._name).observe(self._spawn_seconds)
        if self.trouble:
            log.info("claude_starts_again", backend=self._name)
        self.trouble, self._backoff = "", 0.0
        if waiter is None:
            self._put_spare(process)
        elif waiter.future.done():
            self._retire(process, "cancelled")
        else:
            self._lend(process, waiter)
        # With the trouble gone there is more to start than the one that was tried.
        self._refill()

    def _is_needless(self, waiter: Waiter | None) -> bool:
        """Whether whom a process was to be for has left meanwhile."""
        return self._starting_spares > self._wanted if waiter is None else waiter.future.done()

    def _has_started(self, waiter: Waiter | None) -> None:
        self._starting -= 1
        if waiter is None:
            self._starting_spares -= 1

    async def _launch(self, command_for: CommandFor) -> CliProcess:
        """A process that has shown that it answers."""
        guardian = self.guardian
        process = await CliProcess.spawn(command_for, directory=guardian.directory, marker=guardian.marker)
        try:
            await process.check(self._options.silence_seconds)
        except (ProcessDied, ProcessHangs) as error:
            self._retire(process, _reason(error))
            raise
        except BaseException:
            self._retire(process, "closed")
            raise
        return process

    def _failed(self, error: Exception, waiter: Waiter | None) -> None:
        """A process did not start: say so once, and try again after a while."""
        if not isinstance(error, (ProcessDied, ProcessHangs)):
            self._count_crash()
        words = error.detail if isinstance(error, ProcessDied) else str(error)
        if waiter is not None:
            # Its own command may be at fault: that is no trouble of anybody else's.
            log.warning("claude_does_not_start", backend=self._name, error=words, alone=True)
            if not waiter.future.done():
                self._waiters.remove(waiter)
                waiter.future.set_exception(PatchbayError(make_error(UNAVAILABLE, str(error), retry_after=1)))
            self._refill()
            return
        if words != self.trouble:
            log.error("claude_does_not_start", backend=self._name, error=words)
        self.trouble = words
        self._backoff = min(_LONGEST_BACKOFF_SECONDS, self._backoff * 2 or _FIRST_BACKOFF_SECONDS)
        # Nobody is to wait for what does not come; those that were launched beside this one may yet be better.
        for one in list(self._waiters):
            if not self._launched:
                self._waiters.remove(one)
                one.future.set_exception(self._unavailable())
        self._refill()

    def _unavailable(self) -> PatchbayError:
        return PatchbayError(make_error(UNAVAILABLE, self.trouble, retry_after=max(1.0, self._backoff)))

    def _put_spare(self, process: CliProcess) -> None:
        if self._closed or not process.alive:
            self._retire(process, "crashed" if process.crashed else "closed")
            self._refill()
        elif (waiter := self._waiters.first_for_any()) is not None:
            self._lend(process, waiter)
        else:
            self._spares.append(process)
            self._make_room()

    def _lend(self, process: CliProcess, waiter: Waiter) -> None:
        # Lent from this moment on, and not only when its borrower comes to run.
        self._busy.add(process)
        self._waiters.remove(waiter)
        waiter.future.set_result(process)

    def _retire(self, process: CliProcess, reason: str) -> None:
        if process.crashed:
            self._count_crash()
        self._counts["retired"] += 1
        metrics.CLI_RETIRED.labels(self._name, reason).inc()
        process.kill()
        self._clearing += 1
        self._run(self._clear(process), _CLEAR)

    def _count_crash(self) -> None:
        self._counts["crashed"] += 1
        metrics.CLI_CRASHES.labels(self._name).inc()

    async def _clear(self, process: CliProcess) -> None:
        try:
            await process.clear()
        finally:
            self._clearing -= 1
        self._make_room()
        self._refill()

    async def _tend(self) -> None:
        """Replaces what has died, hangs, has grown too large, or has waited too long."""
        while True:
            await asyncio.sleep(_TEND_SECONDS)
            self._replace_unfit_spares()
            self._retire_old_conversations()
            if time.monotonic() - self._checked_at >= _CHECK_SECONDS:
                self._checked_at = time.monotonic()
                self._check_spares()
            self._rss_bytes = sum(process.rss_bytes for process in self._processes())
            self._report()
            self._refill()

    def _replace_unfit_spares(self) -> None:
        now = time.monotonic()
        for process in list(self._spares):
            is_old = now - process.spawned_at > self._options.idle_seconds
            reason = self._unfit(process)
            if not reason and is_old and len(self._spares) > self._options.min_spare:
                reason = "idle"
            if reason:
                self._spares.remove(process)
                self._retire(process, reason)

    def _retire_old_conversations(self) -> None:
        unfit = {process: reason for process in self._kept if (reason := self._unfit(process))}
        for process, reason in self._kept.take_if(unfit, idle_seconds=self._options.idle_seconds):
            self._retire(process, reason)

    def _unfit(self, process: CliProcess) -> str:
        """Why a process that waits cannot be used; empty: it can."""
        if not process.alive:
            return "crashed"
        return "memory" if self._is_too_large(process) else ""

    def _check_spares(self) -> None:
        """Asks every spare whether it answers, out of the pool: a chat would be answered among the answers to this."""
        for process in self._spares:
            self._checked.add(process)
            self._run(self._check(process), "pool-check")
        self._spares.clear()

    async def _check(self, process: CliProcess) -> None:
        try:
            await process.check(self._options.silence_seconds)
        except (ProcessDied, ProcessHangs) as error:
            log.warning("claude_spare_replaced", backend=self._name, error=str(error))
            self._checked.discard(process)
            self._retire(process, _reason(error))
        else:
            self._checked.discard(process)
            self._put_spare(process)
        self._refill()

    def _processes(self) -> list[CliProcess]:
        """All but those that start or end."""
        return [*self._spares, *self._checked, *self._busy, *self._kept]

    def _report(self) -> None:
        for state, count in (
            ("spare", len(self._spares)),
            ("busy", len(self._busy)),
            ("idle", len(self._kept)),
            ("starting", self._starting + len(self._checked)),
        ):
            metrics.CLI_PROCESSES.labels(self._name, state).set(count)
        metrics.CLI_RSS_BYTES.labels(self._name).set(self._rss_bytes)

    def _run(self, work: Awaitable[None], name: str) -> None:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        task.set_name(name)
        self._tasks.add(task)
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("pool_task_failed", backend=self._name, task=task.get_name(), exc_info=task.exception())


def _reason(error: ProcessDied | ProcessHangs) -> str:
    return "hung" if isinstance(error, ProcessHangs) else "crashed"


def _closing() -> PatchbayError:
    return PatchbayError(make_error(UNAVAILABLE, "this worker is stopping"))
