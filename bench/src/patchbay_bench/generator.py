"""The load generator: a process of its own that reads jobs, one a line, and answers each with one line.

python -m patchbay_bench.generator

A job with `hold` gets two answers: one when its streams are open, and one, after the next line, when they are dropped.
The second one of a job that pings says which connections were still there.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from dataclasses import dataclass, field

import msgspec
import uvloop

from patchbay_bench.jobs import Job, JobResult
from patchbay_bench.socket_client import CodebuffSocket, ResponsesSocket, frame_of
from patchbay_bench.stream import RawAnswer, StreamBroken, StreamClient
from patchbay_bench.wire import read_answer

# Connections opened at the same time while none is measured.
_CONNECTING = 64
_ERROR_BYTES = 200
# Then a slot gives up: nobody is there, and asking without end would only heat the machine.
_BROKEN_IN_A_ROW = 3


@dataclass(slots=True)
class _Run:
    """A job on its way."""

    job: Job
    request: bytes
    started_at: float
    result: JobResult = field(default_factory=JobResult)
    begun: int = 0
    last_at: float = 0.0

    def may_begin(self) -> bool:
        job = self.job
        if self.begun >= job.most:
            return False
        return self.begun < job.streams or time.perf_counter() - self.started_at < job.seconds

    def failed(self, reason: str) -> None:
        self.result.failed += 1
        if reason not in self.result.failures:
            self.result.failures.append(reason)

    def take(self, answer: RawAnswer) -> None:
        """Checks an answer and counts it."""
        body = b"".join(answer.pieces)
        self.last_at = max(self.last_at, answer.ended_at)
        if answer.status != 200:
            self.failed(f"HTTP {answer.status}: {body[:_ERROR_BYTES].decode(errors='replace')}")
            return
        read = read_answer(self.job.dialect, body)
        if read.problem:
            self.failed(f"the answer {read.problem}")
        elif read.text != self.job.expected:
            self.failed(f"the answer's text is not the stand-in's: {read.deltas} deltas, {len(read.text)} characters")
        elif answer.first_byte_at is None or answer.first_content_at is None:
            self.failed("the answer's first content was not seen")
        else:
            result = self.result
            result.completed += 1
            result.deltas += read.deltas
            result.received += len(body)
            result.pieces += len(answer.pieces)
            result.first_byte.append(answer.first_byte_at - answer.sent_at)
            result.first_content.append(answer.first_content_at - answer.sent_at)
            result.duration.append(answer.ended_at - answer.sent_at)


def main() -> None:
    """Serves jobs until standard input closes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(_serve())


async def _serve() -> None:
    lines = asyncio.StreamReader(limit=64 * 1024 * 1024)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        job = msgspec.json.decode(line, type=Job)
        if job.hold and job.ping_seconds:
            await _hold_idle(job, lines)
        elif job.hold:
            await _hold(job, lines)
        else:
            _say(await run(job))


def _say(result: JobResult) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
    sys.stdout.buffer.flush()


async def run(job: Job) -> JobResult:
    """Runs one job to its end. Streams that do not end within the job's patience count as failed."""
    clients = [None] * job.concurrency if job.fresh else await _connect(job)
    cpu = time.process_time()
    run = _Run(job, _request(job), time.perf_counter())
    slots = [asyncio.create_task(_slot(run, client, index)) for index, client in enumerate(clients)]
    done, late = await asyncio.wait(slots, timeout=job.patience)
    for task in late:
        task.cancel()
        run.failed(f"no end within {job.patience:g} s")
    if late:
        await asyncio.wait(late)
    for task in done:
        task.result()
    for client in clients:
        if client is not None:
            client.close()
    run.result.wall = max(run.last_at, run.started_at) - run.started_at
    run.result.cpu = time.process_time() - cpu
    return run.result


async def _slot(run: _Run, client: StreamClient | None, index: int) -> None:
    job = run.job
    if job.spread:
        await asyncio.sleep(job.spread * index / job.concurrency)
    broken = 0
    while broken < _BROKEN_IN_A_ROW and run.may_begin():
        run.begun += 1
        started_at = time.perf_counter()
        try:
            if client is None or not client.open:
                client = await _open(job)
            answer = await client.start(run.request)
        except (OSError, StreamBroken) as error:
            broken += 1
            run.failed(str(error))
        else:
            broken = 0
            if job.fresh:
                answer.sent_at = started_at
                client.close()
                client = None
            run.take(answer)
    if client is not None:
        client.close()


async def _hold(job: Job, lines: asyncio.StreamReader) -> None:
    result = JobResult()
    clients = await _connect(job)
    request = _request(job)
    for client in clients:
        client.start(request)
    opened = await asyncio.gather(
        *(asyncio.wait_for(client.first_content(), job.patience) for client in clients), return_exceptions=True
    )
    result.failures = sorted({repr(error) for error in opened if error is not None})
    result.failed = sum(error is not None for error in opened)
    result.completed = len(opened) - result.failed
    _say(result)
    await lines.readline()
    for client in clients:
        client.close()
    _say(result)


async def _hold_idle(job: Job, lines: asyncio.StreamReader) -> None:
    clients = []
    for client in await _connect(job):
        assert isinstance(client, CodebuffSocket)
        clients.append(client)
    _say(await _ping_all(job, clients))
    pinging = asyncio.create_task(_ping_in_turn(job, clients))
    await lines.readline()
    pinging.cancel()
    _say(await _ping_all(job, clients))
    for client in clients:
        client.close()


async def _ping_all(job: Job, clients: list[CodebuffSocket]) -> JobResult:
    """Pings in every connection; `completed` counts those where that is acknowledged."""
    gate = asyncio.Semaphore(_CONNECTING)

    async def ping(client: CodebuffSocket) -> None:
        async with gate, asyncio.timeout(job.patience):
            await client.ping()

    ended = await asyncio.gather(*map(ping, clients), return_exceptions=True)
    failures = [repr(error) for error in ended if error is not None]
    return JobResult(
        completed=len(clients) - len(failures), failed=len(failures), failures=sorted(dict.fromkeys(failures))
    )


async def _ping_in_turn(job: Job, clients: list[CodebuffSocket]) -> None:
    """Pings in each connection once in `ping_seconds`, evenly spread over that time."""
    started_at = time.perf_counter()
    turn = 0
    while True:
        client = clients[turn % len(clients)]
        turn += 1
        await asyncio.sleep(started_at + job.ping_seconds * turn / len(clients) - time.perf_counter())
        # One that is gone is found in the end.
        if client.open:
            client.ping()


async def _connect(job: Job) -> list[StreamClient]:
    gate = asyncio.Semaphore(_CONNECTING)

    async def connect() -> StreamClient:
        async with gate:
            return await _open(job)

    return await asyncio.gather(*(connect() for _ in range(job.concurrency)))


async def _open(job: Job) -> StreamClient:
    if job.dialect == "codebuff":
        return await CodebuffSocket.upgrade(job)
    if job.websocket:
        return await ResponsesSocket.upgrade(job)
    return await StreamClient.connect(job.host, job.port, job.dialect)


def _request(job: Job) -> bytes:
    body = job.body.encode()
    if job.dialect == "codebuff":
        return body
    if job.websocket:
        return frame_of(job.body)
    headers = {
        "host": f"{job.host}:{job.port}",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **job.headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {job.path} HTTP/1.1\r\n{head}\r\n".encode() + body


if __name__ == "__main__":
    main()
