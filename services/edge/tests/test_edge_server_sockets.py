"""Uvicorn's WebSockets as the edge has them: what is left out of them is not missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import Frame, Opcode

from patchbay.testing.eventually import eventually
from patchbay_edge.exchange import Receive, Scope, Send
from patchbay_edge.server_sockets import OWN_HEARTBEAT, LeanWebSocket

_LARGE = "x" * 1_000_000


class CountingConnection(ClientConnection):
    pings = 0

    def process_event(self, event: object) -> None:
        if isinstance(event, Frame) and event.opcode is Opcode.PING:
            self.pings += 1
        super().process_event(event)  # type: ignore[arg-type]


class Echo:
    """Answers each frame with itself, and `many` with large ones; `/quiet` has a heartbeat of its own."""

    def __init__(self) -> None:
        self.sent = 0
        self.parts: list[int] = []
        self.connections: set[Any] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if scope["path"] == "/quiet":
            scope["extensions"][OWN_HEARTBEAT] = self.parts.append
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            many = message["text"] == "many"
            for _ in range(20 if many else 1):
                await send({"type": "websocket.send", "text": _LARGE if many else message["text"]})
                self.sent += 1


@asynccontextmanager
async def serving(app: Echo, *, ping_interval: float = 20.0) -> AsyncIterator[str]:
    config = uvicorn.Config(
        app,
        port=0,
        ws=LeanWebSocket,
        ws_ping_interval=ping_interval,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
    )
    server = uvicorn.Server(config)
    app.connections = server.server_state.connections
    running = asyncio.create_task(server.serve())
    try:
        await eventually(lambda: server.started)
        yield f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


async def test_frames_that_come_together_are_read_in_order() -> None:
    async with serving(Echo()) as url, connect(url, compression=None) as connection:
        said = [str(number) for number in range(200)]
        for text in said:
            await connection.send(text)
        assert [await connection.recv() for _ in said] == said


async def test_who_does_not_read_is_not_written_to_for_ever() -> None:
    app = Echo()
    async with serving(app) as url, connect(url, compression=None, max_size=None, max_queue=1) as connection:
        await connection.send("many")
        await eventually(lambda: app.sent > 0)
        heard: list[str | bytes] = []
        for _ in range(20):
            # What the system's buffers and the client's hold is far less than the rest.
            assert app.sent < len(heard) + 15
            heard.append(await connection.recv())
        assert heard == [_LARGE] * 20
        await connection.send("more")
        assert await connection.recv() == "more"


async def test_only_those_without_a_heartbeat_of_their_own_are_pinged() -> None:
    async with (
        serving(Echo(), ping_interval=0.05) as url,
        connect(f"{url}/quiet", create_connection=CountingConnection) as quiet,
        connect(f"{url}/other", create_connection=CountingConnection) as other,
    ):
        assert isinstance(quiet, CountingConnection)
        assert isinstance(other, CountingConnection)
        await eventually(lambda: other.pings > 3)
        assert quiet.pings == 0
        await quiet.send("still there")
        assert await quiet.recv() == "still there"


async def test_small_pieces_of_a_message_take_no_more_than_it_does() -> None:
    app = Echo()
    async with serving(app) as url, connect(url, compression=None) as connection:
        (server_side,) = app.connections
        pieces = [Frame(Opcode.TEXT, b"", fin=False), *[Frame(Opcode.CONT, b"ab", fin=False)] * 5000]
        connection.transport.write(b"".join(piece.serialize(mask=True) for piece in pieces))
        await eventually(lambda: sum(map(len, server_side.frames)) == 10_000)
        assert len(server_side.frames) == 1
        connection.transport.write(Frame(Opcode.CONT, "ö".encode()).serialize(mask=True))
        assert await connection.recv() == "ab" * 5000 + "ö"
        await connection.send(["several", " ", "pieces"])
        assert await connection.recv() == "several pieces"


async def test_who_pings_and_does_not_read_is_not_answered_for_ever() -> None:
    app = Echo()
    async with serving(app) as url, connect(url, create_connection=CountingConnection, max_queue=1) as connection:
        (server_side,) = app.connections
        connection.transport.pause_reading()
        many = Frame(Opcode.PING, b"x" * 125).serialize(mask=True) * 1000
        sent = 0
        while (waiting := server_side.transport.get_write_buffer_size()) == 0 or sent < 20_000_000:
            connection.transport.write(many)
            sent += len(many)
            await eventually(lambda: connection.transport.get_write_buffer_size() == 0)
        assert waiting < 1_000_000
        last = await connection.ping(b"last")
        connection.transport.resume_reading()
        await asyncio.wait_for(last, 5)
        await connection.send("still there")
        assert await connection.recv() == "still there"
