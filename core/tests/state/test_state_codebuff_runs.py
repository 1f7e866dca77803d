from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from redis.asyncio import Redis

from patchbay.state.codebuff_runs import CodebuffRuns, cancellation
from patchbay.state.connection import RedisUnavailable
from patchbay.testing.valkey import ValkeyProcess


async def test_a_run_is_kept_with_its_steps(redis: Redis) -> None:
    runs = CodebuffRuns(redis, ttl_seconds=60)
    await runs.start("r", agent_id="base", ancestor_run_ids=["a", "b"], owner="k1")
    for number in (2, 1, 1):
        await runs.step(
            "r",
            number=number,
            model="m",
            input_tokens=10,
            output_tokens=5,
            cost=3,
            child_run_ids=["c"],
            tool_calls=[("look", False), ("x" * 900, True)] * 200,
            error="",
        )
    run = await runs.find("r")
    assert run is not None
    assert run.start.owner == "k1"
    shown = run.described()
    assert [step["number"] for step in shown["steps"]] == [1, 2]
    calls = shown["steps"][0]["tool_calls"]
    assert list(calls[:2]) == [{"name": "look", "failed": False}, {"name": "x" * 200, "failed": True}]
    assert len(calls) == 100
    assert (shown["input_tokens"], shown["output_tokens"], shown["direct_credits"]) == (20, 10, 6)
    assert (shown["status"], shown["parent_run_id"], shown["total_credits"]) == ("running", "b", None)
    await runs.finish("r", status="failed", total_steps=2, direct_credits=6, total_credits=9, error="x" * 9000)
    run = await runs.find("r")
    assert run is not None
    shown = run.described()
    assert (shown["status"], shown["total_credits"], len(shown["error"])) == ("failed", 9, 2000)


async def test_answers_are_parts_of_the_step_that_they_were_for(redis: Redis) -> None:
    runs = CodebuffRuns(redis, ttl_seconds=60)
    await runs.start("r", agent_id="base", ancestor_run_ids=(), owner="k1")
    step = {"model": "", "input_tokens": 0, "output_tokens": 0, "cost": 0, "child_run_ids": ()}
    answers = [("q1", 0, 100), ("q2", 0, 20), ("q3", 1, 3), ("q4", 4, 4)]
    for request_id, after, tokens in answers:
        await runs.chat("r", request_id, after=after, model="m", input_tokens=tokens, output_tokens=1)
    # Steps without a model are counted as well, and one may be told of twice.
    for number in (1, 3, 4, 1):
        await runs.step("r", number=number, **step)  # type: ignore[arg-type]
    run = await runs.find("r")
    assert run is not None
    assert run.last_step == 4
    shown = run.described()
    told = [(step["number"], step["model"], step["input_tokens"], step["output_tokens"]) for step in shown["steps"]]
    assert told == [(1, "m", 120, 2), (3, "m", 3, 1), (4, "", 0, 0)]
    # Those of a step that has not ended count as well.
    assert (shown["input_tokens"], shown["output_tokens"]) == (127, 4)


async def test_a_run_is_forgotten(redis: Redis, valkey: ValkeyProcess) -> None:
    runs = CodebuffRuns(redis, ttl_seconds=60)
    assert await runs.find("r") is None
    await runs.finish("r", status="completed", total_steps=1, direct_credits=0, total_credits=0)
    assert await runs.find("r") is None, "a run without a beginning"
    await runs.start("r", agent_id="base", ancestor_run_ids=(), owner="k1")
    (name,) = await redis.keys("pb:codebuff-run:*")
    assert 50_000 < await redis.pttl(name) <= 60_000


async def test_a_run_goes_on_without_redis(redis: Redis, valkey: ValkeyProcess) -> None:
    runs = CodebuffRuns(redis, ttl_seconds=60)
    valkey.kill()
    await runs.start("r", agent_id="base", ancestor_run_ids=(), owner="k1")
    with pytest.raises(RedisUnavailable):
        await runs.find("r")


async def test_replicas_hear_of_what_is_cancelled(redis: Redis) -> None:
    runs = CodebuffRuns(redis, ttl_seconds=60)
    async with aclosing(runs.cancellations()) as heard:
        waiting = asyncio.ensure_future(anext(heard))
        while not waiting.done():
            await runs.cancel("k1", "r")
            await asyncio.wait((waiting,), timeout=0.05)
        assert waiting.result() == cancellation("k1", "r")
    assert cancellation("k1", "r") != cancellation("k2", "r")
