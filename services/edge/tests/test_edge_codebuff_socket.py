"""Codebuff's WebSocket at the edge."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame as WebSocketFrame
from websockets.frames import Opcode

from patchbay.state.registry import Announcer
from patchbay.testing.codebuff import ScriptedCodebuff
from patchbay.testing.eventually import eventually, hold, settled, stays
from patchbay.testing.valkey import ValkeyProcess
from patchbay_edge.codebuff.frames import Budget, Frames

StartEdge = Callable[..., AbstractAsyncContextManager[Any]]
Json = dict[str, Any]

KEYS = {"require_api_key": True, "api_keys": [{"key": "pb-one", "id": "k1"}, {"key": "pb-two", "id": "k2"}]}


@asynccontextmanager
async def socket(port: int, path: str = "/ws", **headers: str) -> AsyncIterator[ClientConnection]:
    async with connect(
        f"ws://127.0.0.1:{port}{path}", additional_headers=headers, compression=None, max_size=None
    ) as connection:
        yield connection


async def say(connection: ClientConnection, **fields: object) -> None:
    await connection.send(json.dumps(fields))


async def hear(connection: ClientConnection) -> Json:
    async with asyncio.timeout(5):
        heard: Json = json.loads(await connection.recv())
    return heard


async def ask(connection: ClientConnection, **fields: object) -> Json:
    await say(connection, **fields)
    return await hear(connection)


async def closed(connection: ClientConnection, *, seconds: float = 5) -> tuple[int, str]:
    """Reads up to the close: its code and reason."""

    async def read() -> None:
        while True:
            await connection.recv()

    with pytest.raises(ConnectionClosed) as raised:
        await asyncio.wait_for(read(), seconds)
    assert raised.value.rcvd is not None
    return raised.value.rcvd.code, raised.value.rcvd.reason


async def refused(port: int, path: str = "/ws", **headers: str) -> int:
    """The status that an upgrade is refused with."""
    with pytest.raises(InvalidStatus) as raised:
        async with socket(port, path, **headers):
            pass
    response = raised.value.response
    assert json.loads(response.body or b"")["error"]["message"]
    if response.status_code == 503:
        assert "retry-after" in response.headers
    return response.status_code


async def test_frames_go_both_ways(start_edge: StartEdge) -> None:
    worker = ScriptedCodebuff()
    async with start_edge(worker, security=KEYS) as running:
        headers = {"authorization": "Bearer pb-one", "x-other": "1"}
        async with socket(running.port, **headers) as connection:
            for number in (1, 2, 3):
                answer = await ask(connection, txid=number)
                assert answer == {"ack": number, "worker": "w0", "number": number, "again": False}
            await say(connection, prompt="p1", say=2)
            heard = [await hear(connection) for _ in range(4)]
            assert [next(iter(one)) for one in heard] == ["ack", "chunk", "chunk", "end"]
        (attach,) = worker.attaches
        assert (len(attach.connection_id), dict(attach.headers)) == (32, {"authorization": "Bearer pb-one"})
        assert (attach.again, list(attach.lost_prompts)) == (False, [])
        assert attach.login_page == f"http://127.0.0.1:{running.port}/codebuff/login"
        assert attach.client_address == "127.0.0.1"
        async with socket(running.port, **{"x-forwarded-proto": "wss", "x-forwarded-host": "pb.test, x"}):
            await eventually(lambda: len(worker.attaches) == 2)
        assert worker.attaches[1].login_page == "https://pb.test/codebuff/login"
        await eventually(lambda: not worker.running)
        await running.idle()


async def test_an_upgrade_is_refused_with_a_status(start_edge: StartEdge) -> None:
    async with start_edge(ScriptedCodebuff(), codebuff={"websocket_path": "/socket"}) as running:
        assert await refused(running.port, "/ws") == 404
        async with socket(running.port, "/socket") as connection:
            assert (await ask(connection, txid=1))["ack"] == 1
        for origin in ("https://evil.test", "null"):
            assert await refused(running.port, "/socket", origin=origin) == 403
        async with socket(running.port, "/socket", origin=f"http://127.0.0.1:{running.port}"):
            pass


async def test_disabled_there_is_nothing(start_edge: StartEdge) -> None:
    async with start_edge(ScriptedCodebuff(), codebuff={"enabled": False}) as running:
        assert await refused(running.port) == 404


async def test_two_edges_share_the_limit(start_edge: StartEdge) -> None:
    limits = {"max_connections": 5, "max_connections_per_key": 4}
    async with start_edge(ScriptedCodebuff(), codebuff=limits, security=KEYS) as running, running.another() as other:
        ports = [running.port, other.base_url.port]
        async with AsyncExitStack() as stack:

            async def opened(index: int, **headers: str) -> int:
                try:
                    await stack.enter_async_context(socket(ports[index % 2], **headers))
                except InvalidStatus as error:
                    return error.response.status_code
                return 101

            results = await asyncio.gather(*(opened(index, authorization="Bearer pb-one") for index in range(12)))
            assert sorted(results) == [101] * 4 + [503] * 8, "of one key"
            results = await asyncio.gather(*(opened(index, authorization="Bearer pb-two") for index in range(4)))
            assert sorted(results) == [101] + [503] * 3, "of all"
            # Their requests are counted apart from their sockets.
            assert (await running.edge.admission.gauges())["connections"] == 0
            gauges = await running.edge.codebuff_admission.gauges()
            assert gauges == {"connections": 5, "concurrency:key:k1": 4, "concurrency:key:k2": 1}
        await running.idle()
        async with socket(ports[1]) as connection:
            assert (await ask(connection, txid=1))["ack"] == 1
            assert "concurrency:address:127.0.0.1" in await running.edge.codebuff_admission.gauges()
        # A key that is not known is the business of the first prompt.
        async with socket(ports[1], authorization="Bearer wrong"):
            pass


async def test_only_text_and_no_frame_that_is_too_large(start_edge: StartEdge) -> None:
    async with (
        start_edge(ScriptedCodebuff(), codebuff={"max_frame_bytes": 1000}) as running,
        socket(running.port) as other,
    ):
        async with socket(running.port) as connection:
            await connection.send(b"\x00")
            assert (await closed(connection))[0] == 1003
        for text in ("x" * 1001, "ö" * 501):
            async with socket(running.port) as connection:
                await connection.send("x" * 1000)
                assert (await hear(connection))["number"] == 1
                await connection.send(text)
                assert (await closed(connection))[0] == 1009
        assert (await ask(other, txid=1))["ack"] == 1


async def test_a_client_that_says_nothing_is_gone(start_edge: StartEdge) -> None:
    async with (
        start_edge(ScriptedCodebuff(), codebuff={"heartbeat_timeout_seconds": 0.6}) as running,
        socket(running.port) as silent,
        socket(running.port) as alive,
    ):

        async def beats() -> None:
            while True:
                await ask(alive, txid=1)
                await hold(0.1)

        beating = asyncio.create_task(beats())
        code, reason = await closed(silent)
        assert (code, "heard" in reason) == (1001, True)
        await stays(lambda: not beating.done(), seconds=0.8)
        beating.cancel()
        await asyncio.wait([beating])


async def test_a_client_whose_frame_takes_long_to_come_is_there(start_edge: StartEdge) -> None:
    async with (
        start_edge(ScriptedCodebuff(), codebuff={"heartbeat_timeout_seconds": 0.6}) as running,
        socket(running.port) as connection,
    ):
        data = WebSocketFrame(Opcode.TEXT, json.dumps({"txid": 1, "pad": "x" * 100_000}).encode()).serialize(mask=True)
        for start in range(0, len(data), 12_000):
            connection.transport.write(data[start : start + 12_000])
            await hold(0.15)
        assert (await hear(connection))["ack"] == 1


async def test_frames_are_compressed_only_where_that_is_set(start_edge: StartEdge) -> None:
    for compression in (False, True):
        async with (
            start_edge(ScriptedCodebuff(), codebuff={"compression": compression}) as running,
            connect(f"ws://127.0.0.1:{running.port}/ws") as connection,
        ):
            assert ("permessage-deflate" in str(connection.response.headers)) is compression
            assert (await ask(connection, txid=1))["ack"] == 1


async def test_another_replica_takes_over_what_is_not_done(start_edge: StartEdge) -> None:
    first, second = ScriptedCodebuff(), ScriptedCodebuff(draining=True)
    async with start_edge(first, second) as running, socket(running.port) as idle, socket(running.port) as busy:
        assert (await ask(idle, txid=1))["worker"] == "w0"
        await say(busy, prompt="ended", say=1)
        assert [next(iter(await hear(busy))) for _ in range(3)] == ["ack", "chunk", "end"]
        await say(busy, prompt="begun", hold=True)
        await say(busy, prompt="said", say=1, hold=True)
        assert [next(iter(await hear(busy))) for _ in range(3)] == ["ack", "ack", "chunk"]
        await say(busy, stuck=True)
        await eventually(lambda: len(first.frames) == 5)
        second.draining = False
        await running.announce(second)
        await running.stop_worker(first)

        lost = await hear(busy)
        assert lost == {"lost": "said"}
        # What had been acknowledged is not acknowledged again; what had not begun to speak is begun anew.
        await say(busy, release="begun")
        answers = [await hear(busy), await hear(busy)]
        assert {"end": "begun", "worker": "w1"} in answers
        assert {"ack": None, "worker": "w1", "number": 5, "again": False} in answers
        assert [(frame.number, frame.again, frame.acknowledged) for frame in second.frames] == [
            (2, True, True),
            (4, True, False),
            (5, False, False),
        ]
        attaches = {attach.connection_id: attach for attach in second.attaches}
        assert all(attach.again for attach in attaches.values())
        assert sorted(list(attach.lost_prompts) for attach in attaches.values()) == [[], ["said"]]
        assert attaches.keys() == {attach.connection_id for attach in first.attaches}
        assert (await ask(idle, txid=2)) == {"ack": 2, "worker": "w1", "number": 2, "again": False}


async def test_a_socket_waits_for_a_replica(start_edge: StartEdge) -> None:
    worker = ScriptedCodebuff()
    async with start_edge(worker) as running, socket(running.port) as connection:
        assert (await ask(connection, txid=1))["worker"] == "w0"
        # The replica is done with it: else the next one would acknowledge it once more.
        await eventually(lambda: not running.edge.codebuff_sockets.budget.used)
        await running.stop_worker(worker)
        for number in range(2, 100):
            await say(connection, txid=number)
        async with socket(running.port) as newcomer, AsyncExitStack() as stack:
            await say(newcomer, txid=1)
            replacement = ScriptedCodebuff(id="w9")
            await stack.enter_async_context(replacement.serving())
            await running.announce(replacement)
            assert [(await hear(connection))["ack"] for _ in range(2, 100)] == list(range(2, 100))
            assert (await hear(newcomer))["worker"] == "w9"
            await eventually(lambda: len(replacement.attaches) == 2)
            assert sorted(attach.again for attach in replacement.attaches) == [False, True]


async def test_what_waits_for_a_replica_is_bounded(start_edge: StartEdge) -> None:
    async with (
        start_edge(codebuff={"max_frame_bytes": 1_000_000}) as running,
        socket(running.port) as many,
        socket(running.port) as large,
    ):
        for number in range(1001):
            await say(many, txid=number)
        assert (await closed(many))[0] == 1013
        for _ in range(6):
            await large.send("x" * 1_000_000)
        code, reason = await closed(large)
        assert (code, bool(reason)) == (1013, True)


async def test_what_all_sockets_keep_is_bounded(start_edge: StartEdge) -> None:
    worker = ScriptedCodebuff()
    limits = {"max_frame_bytes": 1_000_000, "max_kept_bytes": 3_000_000}
    async with start_edge(worker, codebuff=limits) as running, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(socket(running.port)) for _ in range(6)]
        budget = running.edge.codebuff_sockets.budget
        # A prompt is kept, and so is what has come of a frame.
        prompt = json.dumps({"prompt": "p", "hold": True, "pad": "x" * 990_000})
        for number, client in enumerate(clients[:2], 1):
            await client.send(prompt)
            assert "ack" in await hear(client)
            assert number * 990_000 < budget.used < number * 1_000_000
        whole = WebSocketFrame(Opcode.TEXT, b"x" * 999_999).serialize(mask=True)
        part, rest = whole[:-1], whole[-1:]
        clients[2].transport.write(part)
        await eventually(lambda: budget.used > 2_950_000)
        assert (await ask(clients[3], txid=1))["ack"] == 1
        await clients[3].send("x" * 100_000)
        assert (await closed(clients[3]))[0] == 1013
        clients[4].transport.write(part)
        assert (await closed(clients[4]))[0] == 1013
        for client in clients[:2]:
            await say(client, release="p")
            assert {"end": "p", "worker": "w0"} in [await hear(client), await hear(client)]
        clients[2].transport.write(rest)
        assert (await hear(clients[2]))["number"] == 1
        await eventually(lambda: budget.used == 0)
        clients[5].transport.write(part)
        await eventually(lambda: budget.used > 900_000)
        clients[5].transport.abort()
        await eventually(lambda: budget.used == 0)


async def test_a_large_frame_comes_in_pieces_and_whole(start_edge: StartEdge) -> None:
    worker = ScriptedCodebuff()
    async with start_edge(worker) as running, socket(running.port) as connection:
        for pad in ("x" * 262_144, "ö€😀" * 200_000, "x" + "😀" * 65_536):
            frame = json.dumps({"txid": 1, "pad": pad}, ensure_ascii=False)
            await connection.send(frame)
            assert (await hear(connection))["ack"] == 1
            assert worker.frames[-1].text == frame
        assert worker.pieces == 8


def test_a_frame_that_was_written_in_part_is_written_again_from_its_beginning() -> None:
    budget = Budget(1)
    frames = Frames(budget)
    data = "ö€😀".encode() * 200_000
    frames.add(data)
    assert (budget.used, budget.is_exceeded) == (frames.size, True)
    first = frames.next()
    assert first is not None
    assert (first.continued, first.again, frames.has_unsent) == (True, False, True)
    assert frames.rewind() == 1
    pieces = []
    while (piece := frames.next()) is not None:
        pieces.append(piece)
    assert "".join(piece.text for piece in pieces).encode() == data
    assert [piece.continued for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert all(piece.again and piece.number == 1 for piece in pieces)
    assert not frames.has_unsent


def test_a_prompt_that_has_said_something_takes_as_much_as_its_name() -> None:
    budget = Budget(1000)
    frames = Frames(budget)
    frames.add(b"a prompt")
    frames.prompt_begun(1, "p" * 500)
    for _ in range(2):
        frames.prompt_said("p" * 500)
        assert (frames.size, budget.used, frames.idle) == (500, 500, False)
    for _ in range(2):
        frames.prompt_ended("p" * 500)
        assert (frames.size, budget.used, frames.idle) == (0, 0, True)


async def test_a_worker_that_is_slow_slows_its_client(start_edge: StartEdge) -> None:
    worker = ScriptedCodebuff()
    async with start_edge(worker) as running, socket(running.port) as connection, socket(running.port) as other:
        assert (await ask(other, txid=1))["ack"] == 1
        worker.gate.clear()
        sent = 0

        async def flood() -> None:
            nonlocal sent
            for number in range(4000):
                await connection.send(json.dumps({"txid": number, "pad": "x" * 10_000}))
                sent += 1

        flooding = asyncio.create_task(flood())
        stopped_at = await settled(lambda: sent)
        assert 50 < stopped_at < 2000
        worker.gate.set()
        for number in range(4000):
            assert (await hear(connection))["ack"] == number
        await flooding
        assert (await ask(other, txid=2))["ack"] == 2


async def test_a_client_that_does_not_read_slows_the_worker(start_edge: StartEdge) -> None:
    worker = ScriptedCodebuff()
    async with start_edge(worker) as running, socket(running.port) as connection, socket(running.port) as other:
        total = 4000
        await say(connection, prompt="p", say=total, size=20_000)
        written = await settled(lambda: worker.written)
        assert written < total * 20_000 / 3
        assert (await ask(other, txid=2))["ack"] == 2
        heard = 0
        while "end" not in await hear(connection):
            heard += 1
        assert heard == total + 1


async def test_a_drain_of_the_worker_moves_its_sockets(start_edge: StartEdge) -> None:
    first, second = ScriptedCodebuff(), ScriptedCodebuff(draining=True)
    async with start_edge(first, second) as running, socket(running.port) as idle, socket(running.port) as busy:
        assert (await ask(idle, txid=1))["worker"] == "w0"
        await say(busy, prompt="p", say=1, hold=True)
        assert [next(iter(await hear(busy))) for _ in range(2)] == ["ack", "chunk"]
        first.draining, second.draining = True, False
        await running.announce(second)
        await running.announce(first)
        await eventually(lambda: (first.running, second.running) == (1, 1))
        assert (await ask(idle, txid=2))["worker"] == "w1"
        await say(busy, release="p")
        heard = [await hear(busy), await hear(busy)]
        assert {"end": "p", "worker": "w0"} in heard
        await eventually(lambda: (first.running, second.running) == (0, 2))
        assert first.moved == 2
        assert (await ask(busy, txid=3))["worker"] == "w1"
        assert not any(attach.lost_prompts for attach in second.attaches)


async def test_a_worker_that_drains_alone_keeps_its_sockets(start_edge: StartEdge) -> None:
    worker = ScriptedCodebuff()
    async with start_edge(worker) as running, socket(running.port) as connection:
        assert (await ask(connection, txid=1))["worker"] == "w0"
        worker.draining = True
        await running.announce(worker)
        assert (await ask(connection, txid=2))["worker"] == "w0"
        assert len(worker.attaches) == 1


async def test_a_worker_that_refuses_is_not_the_only_one(start_edge: StartEdge) -> None:
    full, fine = ScriptedCodebuff(refuses=grpc.StatusCode.RESOURCE_EXHAUSTED), ScriptedCodebuff()
    async with start_edge(full, fine) as running:
        for _ in range(4):
            async with socket(running.port) as connection:
                assert (await ask(connection, txid=1))["worker"] == "w1"


async def test_a_frame_that_no_replica_survives_ends_its_socket(start_edge: StartEdge) -> None:
    worker = ScriptedCodebuff()

    def die() -> None:
        raise RuntimeError("a defect")

    worker.on_death = die
    async with start_edge(worker) as running, socket(running.port) as connection, socket(running.port) as other:
        await say(connection, die=True)
        assert (await closed(connection, seconds=15))[0] == 1011
        assert len(worker.frames) == 5
        assert (await ask(other, txid=1))["ack"] == 1


async def test_a_replica_that_fails_while_it_is_written_to_is_left(start_edge: StartEdge) -> None:
    worker = ScriptedCodebuff()

    def die() -> None:
        raise RuntimeError("a defect")

    worker.on_death = die
    async with start_edge(worker) as running, socket(running.port) as connection:
        assert (await ask(connection, txid=1))["ack"] == 1
        worker.gate.clear()
        await say(connection, die=True)
        # It does not read on, so that this is written in part.
        await say(connection, txid=2, pad="x" * 8_000_000)
        await eventually(lambda: len(worker.frames) == 2)
        worker.gate.set()
        assert (await closed(connection, seconds=15))[0] == 1011


async def test_a_drain_lets_prompts_end_and_closes_the_idle(start_edge: StartEdge) -> None:
    worker = ScriptedCodebuff()
    async with start_edge(worker) as running, socket(running.port) as busy, socket(running.port) as idle:
        assert (await ask(idle, txid=1))["ack"] == 1
        await say(busy, prompt="p", hold=True)
        assert "ack" in await hear(busy)
        running.server._drain()
        assert (await closed(idle, seconds=2))[0] == 1001
        assert await refused(running.port) == 503
        await say(busy, release="p")
        assert "ack" in await hear(busy)
        assert "end" in await hear(busy)
        assert (await closed(busy, seconds=2))[0] == 1001
        await asyncio.wait_for(running.serving, 10)
    assert worker.running == 0


async def test_a_socket_that_comes_while_a_drain_begins_is_refused(
    start_edge: StartEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = ScriptedCodebuff()
    async with start_edge(worker) as running, socket(running.port) as busy:
        await say(busy, prompt="p", hold=True)
        assert "ack" in await hear(busy)
        admission = running.edge.codebuff_admission
        admit = admission.admit

        async def admit_late(**asked: Any) -> Any:
            lease = await admit(**asked)
            running.server._drain()
            return lease

        monkeypatch.setattr(admission, "admit", admit_late)
        assert await refused(running.port) == 503
        assert (await admission.gauges())["connections"] == 1
        await say(busy, release="p")
        assert (await closed(busy, seconds=2))[0] == 1001
        await asyncio.wait_for(running.serving, 10)


async def test_a_drain_has_an_end(start_edge: StartEdge) -> None:
    async with (
        start_edge(ScriptedCodebuff(), flags=("--server.drain_seconds=0.5",)) as running,
        socket(running.port) as busy,
    ):
        await say(busy, prompt="p", hold=True)
        assert "ack" in await hear(busy)
        running.server._drain()
        assert (await closed(busy, seconds=3))[0] == 1001
        await asyncio.wait_for(running.serving, 10)


async def test_a_drain_without_a_worker_does_not_wait(start_edge: StartEdge) -> None:
    async with start_edge() as running, socket(running.port) as connection:
        running.server._drain()
        assert (await closed(connection, seconds=1))[0] == 1001
        await asyncio.wait_for(running.serving, 10)


def _bad_frames(chance: random.Random) -> list[str | bytes]:
    good = json.dumps({"type": "action", "txid": 7, "data": {"type": "prompt", "promptId": "p", "sessionState": {}}})
    frames: list[str | bytes] = ["", "null", "[]", "7", '"x"', "{" * 10_000, "[" * 100_000, '{"a":' * 50_000, "\x00"]
    frames += [good[: chance.randrange(len(good))] for _ in range(20)]
    frames += [json.dumps({"txid": value, "prompt": value, "say": 0}) for value in ({}, [], 1e400, None, -1, True)]
    frames += ["".join(map(chr, (chance.randrange(1, 0xD800) for _ in range(200)))) for _ in range(20)]
    frames += ["x" * 999_999, "ö" * 499_999, "x" * 1_000_001, chance.randbytes(100), b""]
    chance.shuffle(frames)
    return frames


async def test_what_is_broken_concerns_no_other_client(start_edge: StartEdge) -> None:
    chance = random.Random(5)
    worker = ScriptedCodebuff()
    async with start_edge(worker, codebuff={"max_frame_bytes": 1_000_000}) as running:

        async def fuzz(frames: list[str | bytes]) -> None:
            while frames:
                async with socket(running.port) as connection:
                    try:
                        while frames:
                            await connection.send(frames.pop())
                            if chance.random() < 0.1:
                                # Without a close.
                                connection.transport.abort()
                    except ConnectionClosed:
                        continue

        async def raw(data: bytes) -> None:
            """What is no WebSocket, after an upgrade that is one."""
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(
                b"GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            writer.write(data)
            writer.close()
            await writer.wait_closed()

        async with socket(running.port) as bystander:
            tasks = [asyncio.create_task(fuzz(_bad_frames(chance))) for _ in range(3)]
            tasks += [asyncio.create_task(raw(chance.randbytes(chance.randrange(1, 3000)))) for _ in range(20)]
            number = 0
            while not all(task.done() for task in tasks):
                number += 1
                assert (await ask(bystander, txid=number))["ack"] == number
            for task in tasks:
                error = task.exception()
                assert error is None or isinstance(error, (ConnectionError, asyncio.IncompleteReadError))
            assert number > 10
        await eventually(lambda: not worker.running)
        await running.idle()


async def test_kill_9_is_not_noticed(start_edge: StartEdge, valkey: ValkeyProcess) -> None:
    async with start_edge() as running, AsyncExitStack() as stack:

        async def start(name: str) -> asyncio.subprocess.Process:
            command = [sys.executable, "-m", "patchbay.testing.codebuff", "--redis", valkey.url, "--id", name]
            process = await asyncio.create_subprocess_exec(*command)

            async def end() -> None:
                if process.returncode is None:
                    process.kill()
                await process.wait()

            stack.push_async_callback(end)
            return process

        first = await start("k1")
        await eventually(lambda: len(running.edge.directory.workers) == 1, seconds=20)
        clients = [await stack.enter_async_context(socket(running.port)) for _ in range(40)]
        for client in clients:
            assert (await ask(client, txid=1))["worker"] == "k1"
        spoken, begun, idle = clients[:5], clients[5:10], clients[10:]
        for client in spoken:
            await say(client, prompt="p", say=1, hold=True)
            assert [next(iter(await hear(client))) for _ in range(2)] == ["ack", "chunk"]
        for client in begun:
            await say(client, prompt="p", hold=True)
            assert "ack" in await hear(client)
        await start("k2")
        await eventually(lambda: len(running.edge.directory.workers) == 2, seconds=20)
        first.kill()
        async with asyncio.timeout(5):
            for client in spoken:
                assert await hear(client) == {"lost": "p"}
            for client in begun:
                await say(client, release="p")
                heard = [await hear(client), await hear(client)]
                assert {"end": "p", "worker": "k2"} in heard
            for client in idle:
                assert (await ask(client, txid=2))["worker"] == "k2"
        for client in clients:
            await client.close()


async def test_the_registry_is_not_needed_for_who_is_attached(start_edge: StartEdge) -> None:
    worker = ScriptedCodebuff()
    async with start_edge(worker) as running, socket(running.port) as connection:
        assert (await ask(connection, txid=1))["ack"] == 1
        await Announcer(running.edge.redis, worker.record, timeout=2).withdraw()
        await eventually(lambda: not running.edge.directory.workers)
        assert (await ask(connection, txid=2))["ack"] == 2
