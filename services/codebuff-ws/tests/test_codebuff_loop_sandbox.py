from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest
from loop_fakes import Definition, FakeClient, FakeModels, Json, World

from patchbay.settings.codebuff import CodebuffSteps
from patchbay.testing.eventually import eventually, wait_until
from patchbay_codebuff_ws.loop import sandbox
from patchbay_codebuff_ws.loop.sandbox import Sandbox, SandboxProgram
from patchbay_codebuff_ws.loop.steps import CallTool, Ended, LogEntry, Step, StepsError, StepText, Yield

MIB = 1024 * 1024
LIMITS = CodebuffSteps(memory_bytes=16 * MIB, seconds=20, max_programs=30)
IMPATIENT = CodebuffSteps(memory_bytes=16 * MIB, seconds=0.2, max_programs=30)
STATE: Json = {"agentState": {"messageHistory": []}, "prompt": "hi", "params": {"n": 1}}


class Bench:
    """Starts programs, and keeps what they log."""

    def __init__(self, limits: CodebuffSteps = LIMITS) -> None:
        self.sandbox = Sandbox(limits)
        self.logs: list[LogEntry] = []
        self._programs: list[SandboxProgram] = []

    async def start(self, body: str, state: Json = STATE) -> SandboxProgram:
        """Starts a generator with this body."""
        source = f"function* ({{ agentState, prompt, params, logger }}) {{ {body} }}"
        self._programs.append(await self.sandbox.start(source, state, log=self.log))
        return self._programs[-1]

    async def first(self, body: str) -> Yield:
        return await (await self.start(body)).advance(None)

    async def failure(self, body: str) -> str:
        with pytest.raises(StepsError) as failure:
            await self.first(body)
        return str(failure.value)

    async def log(self, entry: LogEntry) -> None:
        self.logs.append(entry)

    async def aclose(self) -> None:
        for program in self._programs:
            await program.aclose()
            await program.aclose()
        assert not self.sandbox.running
        assert not [child for child in psutil.Process().children() if "sandbox_child.py" in " ".join(child.cmdline())]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with aclosing(Bench()) as bench:
        yield bench


async def test_a_program_gets_results_and_keeps_its_state(bench: Bench) -> None:
    program = await bench.start(
        """
        let sum = params.n
        for (;;) {
            const { toolResult, agentState } = yield { toolName: prompt, input: { sum }, includeToolCall: false }
            if (toolResult === null) return
            sum += toolResult[0].value + agentState.messageHistory.length
        }
        """
    )
    assert await program.advance(None) == CallTool("hi", {"sum": 1}, shown=False)
    state = {"messageHistory": [1, 2]}
    assert await program.advance({"agentState": state, "toolResult": [{"value": 10}]}) == CallTool(
        "hi", {"sum": 13}, shown=False
    )
    assert await program.advance({"agentState": state, "toolResult": None}) == Ended()


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ('{ toolName: "a", input: { no: undefined, nan: NaN, inf: -Infinity, at: new Date(0), of: [, () => 1] } }',
         CallTool("a", {"nan": None, "inf": None, "at": "1970-01-01T00:00:00.000Z", "of": [None, None]})),
        ('new Proxy({}, { get: (_, name) => name === "toJSON" ? () => "STEP" : 1 })', Step()),
        ('{ get type() { return "STEP_TEXT" }, text: "a\\ud83d\\u0000" }', StepText("a\ufffd\0")),
        ('{ type: "STEP_TEXT", text: "\\ud83d\\ude00".repeat(1e5) }', StepText("\U0001f600" * 100_000)),
        ('{ type: "STEP_TEXT", text: typeof globalThis.require + typeof process + typeof fetch + typeof std }',
         StepText("undefined" * 4)),
        # It may spoil its own objects, and nothing else.
        ('(JSON.stringify = JSON.parse = Reflect.apply = Array.prototype.join = () => 1, "STEP")', Step()),
        ('(Object.prototype.toJSON = () => "STEP", console.log(1), {})', Step()),
        ('(Object.prototype.done = true, "STEP")', Step()),
        ('(Object.getPrototypeOf(function* () {}).prototype.next = () => 1, "STEP")', Step()),
    ],
)  # fmt: skip
async def test_what_it_yields_comes_over_as_plain_json(bench: Bench, value: str, read: Yield) -> None:
    assert await bench.first(f"yield {value}") == read


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("throw new TypeError('of my own')", "TypeError: of my own"),
        ("throw { toString() { throw 1 } }", "cannot be put into words"),
        ("yield { get toolName() { throw new Error('got') } }", "Error: got"),
        ("const a = {}; a.a = a; yield a", "circular"),
        ("yield 1n", "BigInt"),
        ("await 1", "SyntaxError"),
        ("require('fs')", "require is not defined"),
        ("yield undefined", "neither a step nor a tool call"),
        ("const a = []; while (true) a.push(new Array(1000).fill(1))", "memory"),
        ("new ArrayBuffer(1 << 30)", "memory"),
        ("yield { type: 'STEP_TEXT', text: 'x'.repeat(4.2e6) }", "yielded more than 4194304 bytes"),
        ("yield { toolName: 'a', input: { a: Array(6e5).fill([]) } }", "more than 500000 lists and objects"),
        ("function f() { return f() + 1 } f()", "call stack"),
        ("let d = []; for (let i = 0; i < 1e5; i++) d = [d]; yield d", "call stack"),
        ("let d = []; for (let i = 0; i < 1e3; i++) d = [d]; yield d", "nested too deeply"),
    ],
)  # fmt: skip
async def test_a_program_that_fails_says_why(bench: Bench, body: str, said: str) -> None:
    assert said in await bench.failure(body)
    # Its process is gone already, and others are not touched by it.
    assert not bench.sandbox.running
    assert await bench.first("yield 'STEP'") == Step()


@pytest.mark.parametrize(
    "body",
    [
        "while (true) {}",
        "try { while (true) {} } catch {} finally { while (true) {} }",
        "/(a+)+$/.test('a'.repeat(40) + 'b')",
        "yield new Proxy({}, { get() { while (true); } })",
        # Here the engine does not look at the time.
        "Array(4e9).join('x')",
    ],
)
async def test_a_program_that_computes_for_ever_is_stopped(body: str) -> None:
    async with aclosing(Bench(IMPATIENT)) as bench:
        assert "computed for more than 0.2 s" in await bench.failure(body)
        assert not bench.sandbox.running


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("async function* () {}", "async generator"),
        ("() => 1", "function*"),
        ("", "function*"),
        ("function () {}", "function*"),
    ],
)
async def test_only_generators_are_programs(bench: Bench, source: str, said: str) -> None:
    with pytest.raises(StepsError, match=said.replace("*", r"\*")):
        await bench.sandbox.start(source, STATE, log=bench.log)
    assert not bench.sandbox.running


async def test_a_conversation_has_to_fit(bench: Bench) -> None:
    program = await bench.start("yield 'STEP'", {"agentState": "x" * 5 * MIB})
    with pytest.raises(StepsError, match="too long for a program"):
        await program.advance(None)


async def test_what_it_logs_arrives_also_before_it_fails(bench: Bench) -> None:
    assert "late" in await bench.failure(
        """
        console.log("one", 2); console.debug({ a: [1] }); console.error(new Error("e"))
        logger.info({ b: 1 }, "said"); logger.warn(undefined)
        const a = {}; a.a = a; logger.error(a)
        throw new Error("late")
        """
    )
    *entries, circular = bench.logs
    assert entries == [
        LogEntry("info", ["one", 2]),
        LogEntry("debug", {"a": [1]}),
        LogEntry("error", "Error: e"),
        LogEntry("info", {"b": 1}, "said"),
        LogEntry("warn"),
    ]
    assert "circular" in str(circular.data)


async def test_what_it_logs_is_bounded(bench: Bench) -> None:
    assert await bench.first("for (let i = 0; i < 1e5; i++) console.log('x'.repeat(100)); yield 'STEP'") == Step()
    assert 100 < len(bench.logs) < 1000
    assert "more was logged" in str(bench.logs[-1].data)


async def test_programs_share_nothing(bench: Bench) -> None:
    body = "globalThis.seen ??= 0; for (;;) yield { type: 'STEP_TEXT', text: `${prompt} ${globalThis.seen++}` }"
    one, other = [await bench.start(body, {"prompt": name}) for name in ("one", "other")]
    said = [await program.advance(result) for result in (None, {}) for program in (one, other)]
    assert said == [StepText("one 0"), StepText("other 0"), StepText("one 1"), StepText("other 1")]


async def test_a_process_that_dies_fails_its_program_only(bench: Bench) -> None:
    one, other = await bench.start("yield 'STEP'; yield 'STEP'"), await bench.start("yield 'STEP'; yield 'STEP'")
    assert await one.advance(None) == Step()
    os.kill(one.pid, signal.SIGKILL)
    with pytest.raises(StepsError, match="its process died"):
        await one.advance({})
    assert [await other.advance(None), await other.advance({})] == [Step(), Step()]


async def test_a_waiting_program_costs_nothing_and_may_do_nothing(bench: Bench) -> None:
    program = await bench.start("yield 'STEP'")
    await program.advance(None)
    process = psutil.Process(program.pid)
    assert process.environ() == {}
    assert process.num_threads() == 1
    # Programs that compute leave the worker its time.
    assert process.nice() == min(psutil.Process().nice() + 5, 19)
    before = process.cpu_times()
    await eventually(lambda: process.status() == psutil.STATUS_SLEEPING)
    assert sum(before[:2]) < 0.4
    assert process.memory_info().rss < 30 * MIB
    # Its input, its output, and where errors vanish.
    assert process.num_fds() == 3
    if psutil.LINUX:
        limits = {
            name: process.rlimit(getattr(psutil, f"RLIMIT_{name}"))[1] for name in ("CORE", "NPROC", "FSIZE", "NOFILE")
        }
        assert limits == {"CORE": 0, "NPROC": 0, "FSIZE": 0, "NOFILE": 3}
        assert process.rlimit(psutil.RLIMIT_AS)[0] < 200 * MIB


# What a program could try once it has got out of the engine.
ESCAPES = """
import os, runpy, socket, sys
runpy.run_path(sys.argv[1])["_confine"](1 << 24)
import resource
for escape in (
    lambda: (os.close(2), os.open("/etc/passwd", os.O_RDONLY)),
    lambda: socket.socketpair(),
    lambda: os.kill(os.getppid(), 0),
    lambda: os.fork(),
    lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU),
):
    try:
        escape()
        os.write(1, b"out")
    except OSError as error:
        os.write(1, b"refused ")
resource.setrlimit(resource.RLIMIT_CPU, resource.getrlimit(resource.RLIMIT_CPU))
os.write(1, b"and well")
"""


if psutil.LINUX:

    def test_the_kernel_refuses_what_the_engine_does_not_need() -> None:
        command = [sys.executable, "-I", "-S", "-c", ESCAPES, str(Path(sandbox.__file__).with_name("sandbox_child.py"))]
        ran = subprocess.run(command, capture_output=True, env={}, timeout=20, check=False)
        assert ran.stdout == b"refused " * 5 + b"and well", ran.stderr.decode()


async def test_a_process_ends_with_its_connection(bench: Bench) -> None:
    program = await bench.start("yield 'STEP'")
    await program.advance(None)
    process = psutil.Process(program.pid)
    program._writer.transport.abort()
    await eventually(lambda: process.status() == psutil.STATUS_ZOMBIE)


WORKER = """
import asyncio

from patchbay.settings.codebuff import CodebuffSteps
from patchbay_codebuff_ws.loop.sandbox import Sandbox


async def main():
    sandbox = Sandbox(CodebuffSteps(seconds=1))
    source = "function* () { yield 'STEP'; for (;;) {} }"
    waiting, computing = [await sandbox.start(source, {}, log=print) for _ in range(2)]
    await waiting.advance(None)
    await computing.advance(None)
    print(waiting.pid, computing.pid, flush=True)
    await computing.advance({})


asyncio.run(main())
"""


def test_programs_end_when_their_worker_is_killed() -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, env={})
    try:
        assert worker.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in worker.stdout.readline().split()]
        wait_until(lambda: sum(processes[1].cpu_times()[:2]) > 0.2, what="the one that computes")
    finally:
        worker.kill()
        worker.communicate()
    # One waits for its worker, the other one for nobody: it has its limit of CPU time.
    wait_until(lambda: not any(map(runs, processes)), seconds=30, what="the ends of the programs")


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_who_is_cancelled_ends_the_program(bench: Bench) -> None:
    program = await bench.start("Array(4e9).join('x')")
    task = asyncio.create_task(program.advance(None))
    process = psutil.Process(program.pid)
    await eventually(lambda: sum(process.cpu_times()[:2]) > 0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not bench.sandbox.running
    await eventually(lambda: process.status() == psutil.STATUS_ZOMBIE)


async def test_many_programs_run_at_once_and_no_more(bench: Bench) -> None:
    programs = await asyncio.gather(*(bench.start(f"yield {{ type: 'STEP_TEXT', text: '{n}' }}") for n in range(30)))
    assert len({program.pid for program in programs}) == 30
    with pytest.raises(StepsError, match="as many programs"):
        await bench.start("yield 'STEP'")
    # On a busy machine thirty interpreters need their time, so a few at once.
    said: list[Yield] = []
    for few in range(0, 30, 5):
        said += await asyncio.gather(*(program.advance(None) for program in programs[few : few + 5]))
    assert said == [StepText(str(n)) for n in range(30)]
    await programs[0].aclose()
    assert await bench.first("yield 'STEP'") == Step()


# With the loop.


def world_of(body: str, *turns: Any, client: FakeClient | None = None, limits: CodebuffSteps = LIMITS) -> World:
    names = ("set_output", "add_message")
    agent = Definition(id="base", tool_names=names, handle_steps=f"function* ({{ logger }}) {{ {body} }}")
    return World(FakeModels(*turns), client or FakeClient(), [agent], steps=Sandbox(limits))


async def test_an_agent_is_run_by_its_program() -> None:
    world = world_of(
        """
        yield "STEP"
        const { agentState } = yield { toolName: "set_output", input: { n: 1 } }
        logger.info(agentState.output, "output")
        yield { type: "STEP_TEXT", text: JSON.stringify(agentState.output) }
        """,
        ["One"],
    )
    assert (await world.run()).output == {"type": "lastMessage", "value": '{"n":1}'}
    assert world.client.logs == [("info", {"n": 1}, "output")]


async def test_a_program_of_no_use_fails_its_agent() -> None:
    output = (await world_of("while (true) {}", limits=IMPATIENT).run()).output
    assert output["type"] == "error"
    assert "computed for more than" in output["message"]


async def test_a_user_who_cancels_does_not_wait_for_the_program() -> None:
    client = FakeClient()
    sandbox = Sandbox(LIMITS)
    world = world_of("yield { toolName: 'set_output', input: {} }; Array(4e9).join('x')", client=client)
    world.steps = sandbox
    task = asyncio.create_task(world.run())
    await eventually(lambda: bool(client.events("tool_result")))
    began = time.monotonic()
    client.cancelled = True
    await task
    assert time.monotonic() - began < 10
    assert not sandbox.running
