"""The load generator as the benchmark drives it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import msgspec

from patchbay_bench.jobs import Job, JobResult


class GeneratorFailed(Exception):
    """The load generator is gone."""


class LoadGenerator:
    """A generator process, which ends with the `with` block or with this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "patchbay_bench.generator"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        process = self._running
        self._process = None
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running.pid

    def run(self, job: Job) -> JobResult:
        """Runs a job to its end. Raises GeneratorFailed."""
        self._write(msgspec.json.encode(job))
        return self._read()

    @contextmanager
    def held(self, job: Job) -> Iterator[JobResult]:
        """Keeps a job's streams open while the block runs; then what was given says how that ended.

        Raises:
            GeneratorFailed: It is gone.
        """
        self._write(msgspec.json.encode(msgspec.structs.replace(job, hold=True)))
        result = self._read()
        try:
            yield result
        finally:
            self._write(b"")
            ended = self._read()
            result.completed, result.failed, result.failures = ended.completed, ended.failed, ended.failures

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise GeneratorFailed("not running")
        return self._process

    def _write(self, line: bytes) -> None:
        pipe = self._running.stdin
        assert pipe is not None
        try:
            pipe.write(line + b"\n")
            pipe.flush()
        except BrokenPipeError as error:
            raise GeneratorFailed("it ended early") from error

    def _read(self) -> JobResult:
        pipe = self._running.stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            raise GeneratorFailed("it ended early")
        return msgspec.json.decode(line, type=JobResult)
