from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from patchbay.testing.eventually import eventually
from patchbay.testing.scripted_claude import ScriptedClaude
from patchbay_claude_worker.cli.messages import control_request, user_message
from patchbay_claude_worker.cli.process import CliProcess, ProcessDied, ProcessHangs
from patchbay_claude_worker.cli.program import Command

Spawn = Callable[[], Awaitable[CliProcess]]


@pytest.fixture
def claude(tmp_path: Path) -> Iterator[ScriptedClaude]:
    scripted = ScriptedClaude(tmp_path)
    yield scripted
    assert scripted.running() == []


@pytest.fixture
async def spawn(claude: ScriptedClaude, tmp_path: Path) -> AsyncIterator[Spawn]:
    """Starts a scripted process; all are cleared at the end, and leave no home and no open file."""
    homes = tmp_path / "homes"
    homes.mkdir()
    spawned: list[CliProcess] = []

    async def start() -> CliProcess:
        process = await CliProcess.spawn(
            lambda home: Command((claude.path,), {"PATH": os.environ["PATH"], "HOME": str(home)}, str(home)),
            directory=homes,
            marker="test-marker",
        )
        spawned.append(process)
        return process

    opened = psutil.Process().num_fds()
    yield start
    await asyncio.gather(*(asyncio.wait_for(process.clear(), timeout=10) for process in spawned))
    assert list(homes.iterdir()) == []
    await eventually(lambda: psutil.Process().num_fds() <= opened + 1, what="its pipes closed")


async def test_it_answers_and_serves_a_chat(claude: ScriptedClaude, spawn: Spawn) -> None:
    claude.plan(garbage=3)
    process = await spawn()
    await process.check(5)
    await process.send([user_message("hi")], seconds=5)
    result = await process.wait_for(lambda message: message.type == "result", seconds=5)
    assert result.result == "hello there"
    assert (process.alive, process.crashed) == (True, False)
    assert process.rss_bytes > 1_000_000


async def test_it_has_a_home_and_a_group_of_its_own_and_no_other_variables(
    claude: ScriptedClaude, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_SECRET", "x")
    process = await spawn()
    await process.check(5)
    [start] = claude.starts()
    environ = start["environ"]
    assert isinstance(environ, dict)
    assert environ["HOME"] == str(process.home)
    assert environ["PATCHBAY_POOL"].startswith("test-marker.")
    assert "SOME_SECRET" not in environ
    assert os.getpgid(process.pid) == process.pid == start["pid"]


@pytest.mark.parametrize(
    ("plan", "status", "words"),
    [
        ({"exit": 3}, 3, "ended with status 3: no luck today"),
        ({"check": "die"}, -signal.SIGKILL, "ended with status -9"),
    ],
)
async def test_one_that_ends_says_how(
    claude: ScriptedClaude, spawn: Spawn, plan: dict[str, object], status: int, words: str
) -> None:
    claude.plan(**plan)
    process = await spawn()
    with pytest.raises(ProcessDied) as raised:
        await process.check(5)
    assert (raised.value.status, words in raised.value.detail) == (status, True), raised.value.detail
    assert "luck" not in str(raised.value)
    assert process.crashed


async def test_one_that_closes_its_output_and_lives_on_is_ended(claude: ScriptedClaude, spawn: Spawn) -> None:
    claude.plan(close=True)
    process = await spawn()
    await process.check(5)
    with pytest.raises(ProcessDied):
        await asyncio.wait_for(process.read(), timeout=5)
    assert not process.alive


async def test_one_that_does_not_answer_hangs(claude: ScriptedClaude, spawn: Spawn) -> None:
    claude.plan(check="hang")
    process = await spawn()
    with pytest.raises(ProcessHangs, match=r"did not answer for 0\.2 s"):
        await process.check(0.2)
    assert process.alive


async def test_one_that_does_not_read_hangs(claude: ScriptedClaude, spawn: Spawn) -> None:
    claude.plan(read=False)
    process = await spawn()
    with pytest.raises(ProcessHangs, match=r"did not read its input for 0\.3 s"):
        await process.send([b"x" * (8 << 20)], seconds=0.3)


async def test_what_is_left_unread_does_not_hold_up_its_end(claude: ScriptedClaude, spawn: Spawn) -> None:
    claude.plan(answer="flood")
    process = await spawn()
    await process.check(5)
    await process.send([user_message("hi")], seconds=5)
    await process.wait_for(lambda message: message.type == "stream_event", seconds=5)
    # The transport has stopped reading: the pipe is full.
    await asyncio.wait_for(process.clear(), timeout=5)
    assert not process.alive


async def test_what_it_started_ends_with_it(claude: ScriptedClaude, spawn: Spawn) -> None:
    claude.plan(child=True)
    process = await spawn()
    await process.check(5)
    assert len(claude.running()) == 2
    await asyncio.wait_for(process.clear(), timeout=5)
    assert claude.running() == []


async def test_a_crash_is_noticed_even_while_its_tools_hold_its_output(claude: ScriptedClaude, spawn: Spawn) -> None:
    claude.plan(child=True, read=False)
    process = await spawn()
    await eventually(claude.starts)
    os.kill(process.pid, signal.SIGKILL)
    await eventually(lambda: process.crashed)
    await asyncio.wait_for(process.clear(), timeout=5)


async def test_what_several_send_at_once_arrives_line_by_line(claude: ScriptedClaude, spawn: Spawn) -> None:
    process = await spawn()
    await process.check(5)
    lines = [control_request(f"{number}", "x", filler="y" * 600_000) for number in range(4)]
    sending = asyncio.gather(*(process.send([line], seconds=5) for line in lines))
    answered: set[str] = set()
    while len(answered) < 4:
        answered |= {message.response.request_id for message in await process.read() if message.response}
    await sending
    assert answered == {"0", "1", "2", "3"}


async def test_clearing_while_somebody_reads_ends_both(claude: ScriptedClaude, spawn: Spawn) -> None:
    process = await spawn()
    await process.check(5)

    async def listen() -> None:
        while await process.read():
            continue

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0)
    await asyncio.wait_for(process.clear(), timeout=5)
    with pytest.raises(ProcessDied):
        await asyncio.wait_for(listening, timeout=5)
    assert not process.crashed


async def test_a_start_that_is_cancelled_leaves_nothing(claude: ScriptedClaude, spawn: Spawn, tmp_path: Path) -> None:
    for turns in range(12):
        starting = asyncio.ensure_future(spawn())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
    # The fixture clears those that came after all, and looks for homes and processes of the others.
