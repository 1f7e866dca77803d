from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from patchbay_standin import Script, write_script
from patchbay_standin.testing import StandinProcess
from patchbay_standin.timers import TimerWheel

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}


async def arrivals(standin: StandinProcess, script: Script) -> list[float]:
    """Seconds from the request to the head, and to each piece of the body."""
    headers = {"authorization": "Bearer k", "x-standin-script": write_script(script).decode()}
    started = time.monotonic()
    async with (
        httpx.AsyncClient() as client,
        client.stream("POST", f"{standin.url}/v1/chat/completions", json=BODY, headers=headers) as answer,
    ):
        times = [time.monotonic() - started]
        async for _ in answer.aiter_raw():
            times.append(time.monotonic() - started)
    return times


async def test_paced_deltas(standin: StandinProcess) -> None:
    times = await arrivals(standin, Script(deltas=20, delta_delay_ms=20))
    # One piece per delta: the first at once, the last with the end of the stream.
    assert len(times) == 1 + 20
    # 19 pauses, from the first delta on. A busy client notes the first delta late, so that the lower bound is for the
    # time since the request; the upper bounds only catch a pace that is wrong.
    assert 0.375 < times[-1] < 2
    assert times[1] < times[-1] / 2


async def test_many_paced_streams_keep_their_time(standin: StandinProcess) -> None:
    script = Script(deltas=40, delta_delay_ms=10)
    for times in await asyncio.gather(*(arrivals(standin, script) for _ in range(16))):
        assert 0.38 < times[-1] < 2


async def test_delays_before_head_and_event(standin: StandinProcess) -> None:
    head, first, *_ = await arrivals(standin, Script(first_byte_delay_ms=150, first_event_delay_ms=200))
    assert 0.14 < head < first
    assert 0.34 < first < 1.5


async def test_joined_and_separate_sends(standin: StandinProcess) -> None:
    host, port = standin.url.removeprefix("http://").split(":")
    for script, chunks in ((Script(deltas=50), 1), (Script(deltas=50, separate_sends=True), 53)):
        body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true}'
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer k\r\n"
            b"x-standin-script: %b\r\ncontent-length: %d\r\n\r\n%b" % (write_script(script), len(body), body)
        )
        answer = await reader.read()
        writer.close()
        content = answer.partition(b"\r\n\r\n")[2]
        sizes = 0
        while (size := int(content.partition(b"\r\n")[0], 16)) > 0:
            content = content.partition(b"\r\n")[2][size + 2 :]
            sizes += 1
        assert sizes == chunks


def test_a_whole_answer_takes_the_time_of_its_stream(standin: StandinProcess, ask: Any) -> None:
    script = Script(deltas=11, delta_delay_ms=20)
    started = time.monotonic()
    ask("anthropic", "m", headers={"x-standin-script": write_script(script).decode()})
    assert 0.19 < time.monotonic() - started < 1.5


@pytest.mark.parametrize("delays", [[0.005, 0.001, 0.003, 0.001], [0.0, 0.002]])
async def test_the_wheel_wakes_in_order_and_not_too_early(delays: list[float]) -> None:
    loop = asyncio.get_running_loop()
    wheel = TimerWheel(loop)
    woken: list[tuple[float, float]] = []
    started = loop.time()

    async def sleeper(delay: float) -> None:
        waiter: asyncio.Future[None] = loop.create_future()
        wheel.wake_at(started + delay, waiter)
        await waiter
        woken.append((delay, loop.time() - started))

    await asyncio.gather(*(sleeper(delay) for delay in delays))
    assert [delay for delay, _ in woken] == sorted(delays)
    for delay, took in woken:
        assert took > delay - 0.001


async def test_the_wheel_forgets_who_no_longer_waits() -> None:
    loop = asyncio.get_running_loop()
    wheel = TimerWheel(loop)
    gone: asyncio.Future[None] = loop.create_future()
    wheel.wake_at(loop.time() + 0.002, gone)
    gone.cancel()
    waiter: asyncio.Future[None] = loop.create_future()
    wheel.wake_at(loop.time() + 0.004, waiter)
    await asyncio.wait_for(waiter, 5)
    assert gone.cancelled()
