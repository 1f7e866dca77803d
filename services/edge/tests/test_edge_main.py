from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from patchbay.canonical import BlockStop, ChatEvent
from patchbay.testing.cluster import ServiceProcess
from patchbay.testing.eventually import eventually, settled, stays
from patchbay.testing.ports import free_port
from patchbay.testing.valkey import ValkeyProcess
from patchbay.testing.worker import BLOCK, FINISHED, HANG, STARTED, ScriptedWorker, answer, text

StartEdge = Callable[..., AbstractAsyncContextManager]

STREAM = {"model": "m", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
STOP = ChatEvent(block_stop=BlockStop(index=0))
ENVIRON = {"PATH": os.environ["PATH"], "PATCHBAY__TELEMETRY__LOG_FORMAT": "json"}


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def test_sigterm_lets_running_answers_end(start_edge: StartEdge) -> None:
    gate = asyncio.Event()
    worker = ScriptedWorker([[[STARTED, BLOCK, text("half")], gate, [text("whole"), STOP, FINISHED]]])
    async with start_edge(worker) as running:
        # A connection that has served and now idles.
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", running.port)
        idle_writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        await idle_reader.readuntil(b'{"status":"ok"}')
        streams = [asyncio.create_task(running.client.post("/v1/messages", json=STREAM)) for _ in range(20)]
        await eventually(lambda: worker.running == 20)
        terminate()
        assert await asyncio.wait_for(idle_reader.read(), 5) == b""
        idle_writer.close()
        await eventually(lambda: running.edge.gateway.draining)
        await eventually(lambda: _refuses(running.port))
        # A second signal changes nothing.
        terminate()
        await stays(lambda: not any(stream.done() for stream in streams), seconds=0.3)
        gate.set()
        for stream in streams:
            response = await stream
            assert response.status_code == 200
            assert response.text.rstrip().endswith('{"type":"message_stop"}')
        await asyncio.wait_for(running.serving, 5)


async def test_sigterm_ends_what_runs_on_after_the_drain(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([[[STARTED, BLOCK, text("half")], HANG]])
    async with start_edge(worker, server={"drain_seconds": 0.3}) as running:
        stream = asyncio.create_task(running.client.post("/v1/messages", json=STREAM))
        await eventually(lambda: worker.running == 1)
        terminate()
        assert "event: error" in (await stream).text
        await asyncio.wait_for(running.serving, 5)


async def test_a_client_that_does_not_read_does_not_hold_up_the_end(start_edge: StartEdge) -> None:
    window = [ChatEvent(text_delta=text("x" * 65536).text_delta)]
    worker = ScriptedWorker([[[STARTED, BLOCK], *[window] * 800, HANG]])
    async with start_edge(worker, server={"drain_seconds": 0.2}) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=4096)
        body = json.dumps(STREAM).encode()
        writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        await reader.readline()
        played = await settled(lambda: worker.played, quiet=0.2)
        assert played < 800, "the worker waits for a client that does not read"
        terminate()
        await asyncio.wait_for(running.serving, 6)
        assert worker.played <= played + 1
        writer.transport.abort()


def _refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def start(tmp_path: Path, config: dict[str, object], *, port: int) -> ServiceProcess:
    path = tmp_path / "patchbay.json"
    path.write_text(json.dumps(config))
    return ServiceProcess("edge", config=path, environ=ENVIRON, log=tmp_path / "edge.log", port=port)


async def serves(process: ServiceProcess) -> None:
    await eventually(lambda: not _refuses(process.port) or not process.alive, seconds=20)
    assert process.alive, process.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_ends_with_0(valkey: ValkeyProcess, tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, {"redis": {"url": valkey.url}}, port=free_port())
    await serves(process)
    os.kill(process.pid, number)
    assert process.wait(10) == 0
    assert "Traceback" not in process.output()


async def test_a_port_that_is_taken_ends_it(valkey: ValkeyProcess, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start(tmp_path, {"redis": {"url": valkey.url}}, port=taken.getsockname()[1])
        assert process.wait(20) == 3
        assert "address already in use" in process.output()


async def test_a_redis_that_runs_no_scripts_ends_it_with_the_reason(tmp_path: Path) -> None:
    with ValkeyProcess(options={"rename-command": "EVAL ''"}) as valkey:
        process = start(tmp_path, {"redis": {"url": valkey.url}}, port=free_port())
        assert process.wait(20) == 1
        assert "does not run Lua scripts" in process.output()


async def test_it_starts_and_stops_without_redis(tmp_path: Path) -> None:
    config: dict[str, object] = {"redis": {"url": f"redis://127.0.0.1:{free_port()}"}}
    process = start(tmp_path, config, port=free_port())
    await serves(process)
    process.terminate()
    assert process.wait(10) == 0


async def test_work_beside_the_requests_that_fails_ends_it(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("x")])
    async with start_edge(worker) as running:
        directory = next(task for task in asyncio.all_tasks() if task.get_name() == "directory")
        running.edge.directory.refresh = _broken
        await asyncio.wait([directory])
        await asyncio.wait_for(running.serving, 5)
        assert running.edge.failure is directory.exception() is not None


async def _broken() -> None:
    raise ValueError("a defect")
