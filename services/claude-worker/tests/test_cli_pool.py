from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from patchbay.errors import OVERLOADED, UNAVAILABLE, PatchbayError
from patchbay.settings import load
from patchbay.settings.claude_cli import Pool as PoolSettings
from patchbay.testing.eventually import eventually, stays
from patchbay.testing.scripted_claude import ScriptedClaude
from patchbay_claude_worker.cli import pool as pool_module
from patchbay_claude_worker.cli.pool import Pool
from patchbay_claude_worker.cli.process import CliProcess
from patchbay_claude_worker.cli.program import Command, ProgramMissing, find_program
from patchbay_claude_worker.cli.waiting import CommandFor
from patchbay_claude_worker.model.command import command

Start = Callable[..., Awaitable[Pool]]


def command_of(claude: ScriptedClaude) -> CommandFor:
    return lambda home: Command((find_program(claude.path),), {"PATH": os.environ["PATH"]}, str(home))


@pytest.fixture
def claude(tmp_path: Path) -> ScriptedClaude:
    return ScriptedClaude(tmp_path)


@pytest.fixture
def tending(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done every few seconds is done at once."""
    monkeypatch.setattr(pool_module, "_TEND_SECONDS", 0.05)
    monkeypatch.setattr(pool_module, "_CHECK_SECONDS", 0.1)


@pytest.fixture
async def start(claude: ScriptedClaude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Starts pools of the scripted program; closing them leaves nothing, and no error was left to itself."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    pools: list[Pool] = []
    lost: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))

    async def begin(command_for: CommandFor | None = None, **options: object) -> Pool:
        settings = PoolSettings.model_validate({"silence_seconds": 5, "acquire_timeout": 10, **options})
        pool = Pool("x", settings, command_for or command_of(claude))
        pools.append(pool)
        await pool.start()
        return pool

    with capture_logs() as logged:
        yield begin
        for pool in pools:
            await asyncio.wait_for(pool.aclose(), timeout=20)
            status = pool.status()
            assert (status.spare, status.busy, status.idle, status.starting, status.waiting) == (0, 0, 0, 0, 0)
            with pytest.raises(PatchbayError, match="stopping"):
                await pool.take()
    assert [line for line in logged if line["event"] == "pool_task_failed"] == []
    assert claude.running() == []
    assert list(temporary.iterdir()) == []
    gc.collect()
    await asyncio.sleep(0)
    assert lost == []


async def spares(pool: Pool, number: int) -> None:
    """Waits for as many spares, with nothing more to come."""
    await eventually(lambda: pool.status().spare == number and not pool.status().starting, what=f"{pool.status()}")


def signal_of(process: CliProcess, number: signal.Signals) -> None:
    os.kill(process.pid, number)


async def test_spares_are_started_ahead_and_replaced_when_taken(start: Start) -> None:
    pool = await start(min_spare=2, max_processes=4)
    await spares(pool, 2)
    first = await pool.take()
    await spares(pool, 2)
    second = await pool.take()
    await spares(pool, 2)
    assert pool.status().busy == 2
    # Four there may be, and the fifth has to wait.
    third, fourth = await pool.take(), await pool.take()
    await stays(lambda: pool.status().starting == 0 and pool.status().spare == 0, seconds=0.2)
    for process in (first, second, third, fourth):
        pool.give_back(process)
        pool.give_back(process)
    await spares(pool, 2)
    assert (pool.status().retired, pool.status().crashed, pool.status().max) == (4, 0, 4)


async def test_without_spares_one_is_started_for_each_chat(start: Start) -> None:
    pool = await start(min_spare=0, max_processes=2)
    await stays(lambda: pool.status().starting == 0, seconds=0.1)
    pool.give_back(await pool.take())
    await eventually(lambda: pool.status().retired == 1)
    assert (pool.status().spawned, pool.status().spare) == (1, 0)
    assert pool.status().wait_seconds > 0


@pytest.mark.parametrize("parallelism", [1, 3])
async def test_no_more_start_at_a_time_than_may(claude: ScriptedClaude, start: Start, parallelism: int) -> None:
    claude.plan(start_delay=1.5)
    await start(min_spare=6, max_processes=6, spawn_parallelism=parallelism)
    await eventually(lambda: len(claude.starts()) == parallelism)
    await stays(lambda: len(claude.starts()) <= parallelism, seconds=0.2)
    await eventually(lambda: len(claude.starts()) > parallelism)


async def test_who_waits_gets_the_next_one_in_turn(start: Start) -> None:
    pool = await start(min_spare=0, max_processes=1)
    process = await pool.take()
    order: list[int] = []

    async def borrow(number: int) -> None:
        borrowed = await pool.take()
        order.append(number)
        pool.give_back(borrowed)

    waiting = []
    for number in range(4):
        waiting.append(asyncio.create_task(borrow(number)))
        await eventually(lambda: pool.status().waiting == len(waiting))
    pool.give_back(process)
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3]


async def test_who_waits_too_long_is_told_when_to_come_again(start: Start) -> None:
    pool = await start(min_spare=0, max_processes=1, acquire_timeout=0.2)
    process = await _first(pool)
    with pytest.raises(PatchbayError) as raised:
        await pool.take()
    error = raised.value.error
    assert (error.code, error.retryable, error.retry_after >= 1) == (OVERLOADED, True, True)
    assert "every process of the backend `x` is busy" in error.message
    assert pool.status().waiting == 0
    pool.give_back(process)


async def _first(pool: Pool) -> CliProcess:
    """A process, however long the first one takes to start."""
    while True:
        try:
            return await pool.take()
        except PatchbayError as error:
            if error.error.code != OVERLOADED:
                raise


async def test_who_leaves_while_waiting_or_at_the_hand_over_loses_nothing(start: Start) -> None:
    pool = await start(min_spare=0, max_processes=1)
    for turns in range(6):
        process = await pool.take()
        leaving = asyncio.create_task(pool.take())
        staying = asyncio.create_task(pool.take())
        await eventually(lambda: pool.status().waiting == 2)
        pool.give_back(process)
        # The moment of the hand-over, and the turns of the loop around it.
        await eventually(lambda: pool.status().waiting < 2)
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        if not leaving.cancelled():
            pool.give_back(leaving.result())
        process = await asyncio.wait_for(staying, timeout=5)
        assert (pool.status().busy, process.alive) == (1, True)
        pool.give_back(process)


@pytest.mark.parametrize("seed", range(3))
async def test_fifty_at_once_with_some_that_leave_lose_nothing_and_never_have_too_many(
    claude: ScriptedClaude, start: Start, seed: int
) -> None:
    chance = random.Random(seed)
    most = 4
    pool = await start(min_spare=2, max_processes=most, spawn_parallelism=2, acquire_timeout=60)
    lent: set[CliProcess] = set()
    served = 0

    async def chat(number: int) -> None:
        nonlocal served
        await asyncio.sleep(chance.random() * 0.5)
        conversation = f"conversation-{number % 7}" if number % 3 == 0 else None
        # Some have one started for them alone.
        process = await pool.take(conversation, command_of(claude) if number % 5 == 0 else None)
        assert process not in lent
        assert process.alive
        lent.add(process)
        try:
            await asyncio.sleep(chance.random() * 0.05)
        finally:
            lent.discard(process)
            served += 1
            pool.give_back(process, keep_for=conversation)

    def fits() -> None:
        status = pool.status()
        assert status.spare + status.busy + status.idle + status.starting <= most
        assert status.busy >= len(lent)
        assert len(claude.running()) <= most

    chats = [asyncio.create_task(chat(number)) for number in range(50)]
    left = 0
    while not all(task.done() for task in chats):
        fits()
        await asyncio.sleep(chance.random() * 0.02)
        if chance.random() < 0.3:
            left += chance.choice(chats).cancel()
    results = await asyncio.gather(*chats, return_exceptions=True)
    assert [result for result in results if result is not None and not isinstance(result, asyncio.CancelledError)] == []
    assert left > 5
    assert served > 10
    for number in range(7):
        conversation = f"conversation-{number}"
        if pool.keeps(conversation):
            pool.give_back(await pool.take(conversation))
    await spares(pool, 2)
    await eventually(lambda: len(claude.running()) == 2)
    status = pool.status()
    assert (status.busy, status.idle, status.waiting) == (0, 0, 0)
    assert status.spawned - status.retired == 2


@pytest.mark.usefixtures("tending")
async def test_a_dead_spare_is_replaced(start: Start) -> None:
    pool = await start(min_spare=2, max_processes=2)
    await spares(pool, 2)
    victim = pool._spares[0]
    signal_of(victim, signal.SIGKILL)
    await eventually(lambda: pool.status().crashed == 1)
    await spares(pool, 2)
    assert victim not in pool._spares


async def test_a_dead_spare_is_never_lent(start: Start) -> None:
    pool = await start(min_spare=2, max_processes=4)
    await spares(pool, 2)
    victim, other = pool._spares
    signal_of(victim, signal.SIGKILL)
    await eventually(lambda: not victim.alive)
    assert await pool.take() is other
    assert pool.status().crashed == 1


@pytest.mark.usefixtures("tending")
async def test_spares_that_hang_are_replaced_and_do_not_wait_for_each_other(
    claude: ScriptedClaude, start: Start
) -> None:
    claude.plan({"check": "hang", "checks": 1}, {"check": "hang", "checks": 1}, {"check": "hang", "checks": 1})
    pool = await start(min_spare=3, max_processes=3, silence_seconds=0.6, spawn_parallelism=1)
    await eventually(lambda: pool.status().retired >= 3, what="three replaced")
    await eventually(lambda: pool.status().spare == 3)
    assert pool.status().crashed == 0


@pytest.mark.usefixtures("tending")
async def test_a_spare_that_has_grown_too_large_is_replaced(claude: ScriptedClaude, start: Start) -> None:
    claude.plan({"grow_mb": 120})
    pool = await start(min_spare=1, max_processes=2, max_rss_mb=80)
    await eventually(lambda: pool.status().retired == 1)
    await eventually(lambda: pool.status().spare == 1)
    await stays(lambda: pool.status().retired == 1, seconds=0.3)
    assert 0 < pool.status().rss_bytes < 80 << 20


@pytest.mark.usefixtures("tending")
async def test_spares_beyond_the_wanted_ones_go_after_a_while(claude: ScriptedClaude, start: Start) -> None:
    claude.plan(start_delay=0.3)
    pool = await start(min_spare=1, max_processes=4, idle_seconds=1.0)
    await spares(pool, 1)
    pool.give_back(await pool.take())
    waiting = [asyncio.create_task(pool.take()) for _ in range(3)]
    # One has its spawn under way and one more starts beside it; the third one's never begins.
    await eventually(lambda: len(claude.starts()) == 3)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    await spares(pool, 2)
    await eventually(lambda: pool.status().retired == 2)
    # The last one stays, however old.
    await stays(lambda: pool.status().retired == 2, seconds=1.2)
    assert len(claude.starts()) == 3


async def test_a_conversation_gets_its_own_process_again(start: Start) -> None:
    pool = await start(min_spare=1, max_processes=3)
    process = await pool.take("a")
    pool.give_back(process, keep_for="a")
    assert pool.status().idle == 1
    other = await pool.take("b")
    assert other is not process
    assert await pool.take("a") is process
    pool.give_back(process, keep_for="a")
    pool.give_back(other, keep_for="a")
    # There is one to a conversation: the later one.
    await eventually(lambda: not process.alive)
    assert pool.keeps("a")
    assert not pool.keeps("b")
    assert not pool.keeps(None)
    pool.give_back(await pool.take("a"))
    assert not pool.keeps("a")
    await eventually(lambda: not other.alive)
    assert pool.status().idle == 0


async def test_who_needs_a_process_of_its_own_gets_one_in_place_of_a_spare(
    claude: ScriptedClaude, start: Start
) -> None:
    pool = await start(min_spare=2, max_processes=2)
    await spares(pool, 2)
    homes: list[Path] = []

    def command_for(home: Path) -> Command:
        homes.append(home)
        return command_of(claude)(home)

    one, two = await asyncio.gather(pool.take(None, command_for), pool.take(None, command_for))
    assert {one.home, two.home} == set(homes)
    assert len(claude.starts()) == 4
    # A spare that comes back is nothing for who waits for its own.
    third = asyncio.create_task(pool.take(None, command_for))
    await eventually(lambda: pool.status().waiting == 1)
    pool.give_back(one)
    assert (await third).home == homes[2]
    pool.give_back(two)
    pool.give_back(await third)


async def test_who_leaves_takes_the_process_of_its_own_along(claude: ScriptedClaude, start: Start) -> None:
    claude.plan(start_delay=0.2)
    pool = await start(min_spare=0, max_processes=1)
    waiting = asyncio.create_task(pool.take(None, command_of(claude)))
    await eventually(lambda: len(claude.starts()) == 1)
    waiting.cancel()
    await eventually(lambda: pool.status().retired == 1)
    assert (pool.status().spare, pool.status().busy, pool.status().waiting) == (0, 0, 0)
    pool.give_back(await pool.take())


async def test_a_process_of_its_own_that_does_not_start_is_said_at_once(claude: ScriptedClaude, start: Start) -> None:
    pool = await start(min_spare=1, max_processes=3)
    await spares(pool, 1)

    def command_for(_: Path) -> Command:
        raise ProgramMissing("there is no claude program here")

    with pytest.raises(PatchbayError, match="there is no claude program here"):
        await pool.take(None, command_for)
    # It was that one's own trouble: nobody else hears of it.
    assert pool.trouble == ""
    pool.give_back(await pool.take())


async def test_conversations_leave_room_for_the_spares(start: Start) -> None:
    pool = await start(min_spare=1, max_processes=3)
    for number in range(4):
        pool.give_back(await pool.take(), keep_for=f"conversation-{number}")
    await spares(pool, 1)
    assert pool.status().idle == 2
    assert [pool.keeps(f"conversation-{number}") for number in range(4)] == [False, False, True, True]
    pool.drop("conversation-3")
    pool.drop("conversation-3")
    assert pool.status().idle == 1


async def test_a_conversation_whose_process_has_died_gets_another(start: Start) -> None:
    pool = await start(min_spare=1, max_processes=3)
    process = await pool.take("a")
    pool.give_back(process, keep_for="a")
    signal_of(process, signal.SIGKILL)
    await eventually(lambda: not process.alive)
    again = await pool.take("a")
    assert (again is process, again.alive, pool.status().crashed) == (False, True, 1)


async def test_conversations_give_way_to_those_who_wait_the_oldest_first(start: Start) -> None:
    pool = await start(min_spare=0, max_processes=3)
    kept = {}
    for name in "abc":
        kept[name] = await pool.take(name)
    for name in "bac":
        pool.give_back(kept[name], keep_for=name)
    # Two at once: neither has to wait until the other is served.
    first, second = await asyncio.gather(pool.take(), pool.take())
    assert [name for name in "abc" if kept[name].alive] == ["c"]
    third = asyncio.create_task(pool.take())
    await eventually(lambda: not kept["c"].alive)
    pool.give_back(first)
    pool.give_back(second)
    await third


async def test_a_process_given_back_goes_on_to_who_waits_rather_than_be_kept(start: Start) -> None:
    pool = await start(min_spare=0, max_processes=1)
    process = await pool.take("a")
    waiting = asyncio.create_task(pool.take())
    await eventually(lambda: pool.status().waiting)
    pool.give_back(process, keep_for="a")
    assert await asyncio.wait_for(waiting, timeout=5) is not process


@pytest.mark.usefixtures("tending")
@pytest.mark.parametrize("limit", ["idle_seconds", "max_requests", "max_rss_mb"])
async def test_a_conversations_process_does_not_live_for_ever(claude: ScriptedClaude, start: Start, limit: str) -> None:
    claude.plan(grow_mb=120 if limit == "max_rss_mb" else 0)
    options: dict[str, object] = {"idle_seconds": {"idle_seconds": 0.3}, "max_requests": {"max_requests": 2}}.get(
        limit, {"max_rss_mb": 80}
    )  # type: ignore[assignment]
    pool = await start(min_spare=0, max_processes=2, **options)
    process = await pool.take("a")
    process.requests = 1
    pool.give_back(process, keep_for="a")
    if limit == "max_requests":
        assert await pool.take("a") is process
        process.requests = 2
        pool.give_back(process, keep_for="a")
    await eventually(lambda: not process.alive)
    assert pool.status().idle == 0


async def test_a_missing_program_is_said_at_once_and_found_when_it_appears(
    claude: ScriptedClaude, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_LONGEST_BACKOFF_SECONDS", 0.3)
    claude.disappear()
    pool = await start(min_spare=2, max_processes=6)
    asked = asyncio.get_running_loop().time()
    answers = await asyncio.gather(*(pool.take() for _ in range(4)), return_exceptions=True)
    assert asyncio.get_running_loop().time() - asked < 1
    for answer in answers:
        assert isinstance(answer, PatchbayError)
        assert answer.error.code == UNAVAILABLE
        assert "there is no claude program at cli_path" in answer.error.message
        assert "npm install" in answer.error.message
    assert "there is no claude program" in pool.trouble
    claude.appear()
    await spares(pool, 2)
    assert pool.trouble == ""
    assert (await pool.take()).alive


async def test_a_program_that_ends_at_once_is_said_at_once(
    claude: ScriptedClaude, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_LONGEST_BACKOFF_SECONDS", 0.3)
    claude.plan(exit=7)
    pool = await start(min_spare=2, max_processes=8)
    asked = asyncio.get_running_loop().time()
    answers = await asyncio.gather(*(pool.take() for _ in range(8)), return_exceptions=True)
    assert asyncio.get_running_loop().time() - asked < 1.5
    assert {str(answer) for answer in answers} == {"the claude process ended with status 7: no luck today"}
    # Each is counted once.
    status = pool.status()
    assert status.crashed == status.retired
    assert status.crashed <= len(claude.starts())
    claude.plan()
    await spares(pool, 2)


async def test_one_that_fails_beside_others_that_do_not_is_nobodys_trouble(
    claude: ScriptedClaude, start: Start
) -> None:
    claude.plan({"exit": 7}, start_delay=0.2)
    pool = await start(min_spare=0, max_processes=3)
    processes = await asyncio.gather(pool.take(), pool.take())
    assert all(process.alive for process in processes)


async def test_closing_refuses_who_waits_and_ends_what_starts(claude: ScriptedClaude, start: Start) -> None:
    claude.plan({"start_delay": 0}, start_delay=30)
    pool = await start(min_spare=0, max_processes=3)
    process = await pool.take()
    waiting = [asyncio.create_task(pool.take()) for _ in range(3)]
    await eventually(lambda: len(claude.starts()) == 3)
    await asyncio.wait_for(pool.aclose(), timeout=10)
    for task in waiting:
        with pytest.raises(PatchbayError, match="stopping"):
            await task
    # Its borrower may still have it, and gives it back to nobody.
    pool.give_back(process)
    assert not process.alive


async def test_closing_at_any_moment_leaves_nothing(start: Start) -> None:
    for turns in (0, 1, 2, 3, 5, 8, 13, 21):
        pool = await start(min_spare=2, max_processes=3)
        taking = asyncio.create_task(pool.take())
        for _ in range(turns):
            await asyncio.sleep(0.01)
        await asyncio.wait_for(pool.aclose(), timeout=10)
        await asyncio.wait([taking])
        assert taking.exception() is None or isinstance(taking.exception(), PatchbayError)


@pytest.mark.usefixtures("tending")
async def test_the_real_program_is_started_asked_replaced_and_ended(start: Start) -> None:
    flag = json.dumps({"kind": "claude-cli", "base_url": "http://127.0.0.1:9", "api_key": "made-up"})
    backend = load([f"--backends.x={flag}"], {}).enabled_backends()["x"]
    pool = await start(lambda home: command(backend, home), min_spare=1, max_processes=2, silence_seconds=20)
    await eventually(lambda: pool.status().spare == 1, seconds=20)
    process = await pool.take()
    assert process.rss_bytes > 50 << 20
    await process.check(20)
    # It has been asked, as spares are, for a while.
    await eventually(lambda: pool.status().spare == 1, seconds=20)
    pool.give_back(process)
    await eventually(lambda: not process.home.exists(), seconds=10)
    spare = next(iter(pool._processes()))
    signal_of(spare, signal.SIGKILL)
    await eventually(lambda: pool.status().crashed == 1, seconds=10)
    await eventually(lambda: pool.status().spare == 1, seconds=20)
    assert pool.status().spawn_seconds > 0.1
