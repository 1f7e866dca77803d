"""Codebuff's clients as the fault tests need them: many sockets that speak the SDK's protocol and keep what they hear.

async with open_sockets(cluster.edges[0], 200) as sockets:
    await asyncio.gather(*(one.ping() for one in sockets))
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from typing import Any

import psutil
from streaming import script
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from patchbay.state import keys
from patchbay.state.admission import Admission, Limits
from patchbay.state.connection import connect as connect_redis
from patchbay.testing.cluster import Cluster, ServiceProcess
from patchbay.testing.eventually import eventually

Json = dict[str, Any]

KINDS = ("openai-worker", "codebuff-ws")

FILE_CONTEXT: Json = {
    "projectRoot": "/home/me/project",
    "cwd": "/home/me/project",
    "fileTree": [{"name": "a.py", "type": "file", "filePath": "a.py"}],
    "fileTokenScores": {},
    "knowledgeFiles": {},
    "agentTemplates": {},
    "customToolDefinitions": {},
    "gitChanges": {"status": "", "diff": "", "diffCached": "", "lastCommitMessages": ""},
    "changesSinceLastChat": {},
    "shellConfigFiles": {},
    "systemInfo": {"platform": "linux", "shell": "bash", "nodeVersion": "20", "arch": "x64", "homedir": "/", "cpus": 2},
}


def config_on(url: str, *, codebuff: Json | None = None, **sections: object) -> Json:
    """A configuration over the stand-in at `url`: `base` echoes, and agents of a prompt's own see `agent`."""
    return {
        "backends": {
            "default_backend": "openai",
            "openai": {"base_url": f"{url}/v1", "api_key": "sk-made-up"},
        },
        # A stalled machine is no outage of Redis.
        "redis": {"timeout_seconds": 5},
        "codebuff": {
            "models": {"agents": {"base": "openai/standin-echo"}},
            "max_connections_per_key": 1000,
            **(codebuff or {}),
        },
        **sections,
    }


def agent(**fields: object) -> Json:
    """The definition of an agent whose model plays a script of the stand-in."""
    return {"id": "tester", "displayName": "Tester", "model": f"openai/{script(**fields)}", "toolNames": []}


# Models that say something all the time, and too much.
LONG = agent(deltas=150, delta_delay_ms=20)
MUCH = agent(huge=32)


def prompt_action(prompt_id: str, text: str = "hi", *, definition: Json | None = None, **data: Any) -> Json:
    """A prompt as the published SDK sends it; with a definition, for that agent."""
    context = FILE_CONTEXT if definition is None else {**FILE_CONTEXT, "agentTemplates": {"tester": definition}}
    state = {
        "agentId": "main-agent",
        "agentType": None,
        "agentContext": {},
        "subagents": [],
        "messageHistory": [],
        "stepsRemaining": 25,
    }
    return {
        "type": "prompt",
        "promptId": prompt_id,
        "prompt": text,
        "fingerprintId": "codebuff-sdk-abc",
        "costMode": "normal",
        "sessionState": {"mainAgentState": state, "fileContext": context},
        "toolResults": [],
        "agentId": "base" if definition is None else "tester",
        "authToken": "made-up",
        **data,
    }


class Socket:
    """One open socket.

    Attributes:
        connection: For what no client would send.
        heard: What came, in order: acknowledgements, and the data of actions.
    """

    def __init__(self, connection: ClientConnection, *, listens: bool = True) -> None:
        self.connection = connection
        self.heard: list[Json] = []
        self._txids = count()
        self._prompts = count(1)
        self._news = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(), name="listening") if listens else None

    @property
    def is_open(self) -> bool:
        return self._listening is not None and not self._listening.done()

    async def say(self, **message: Any) -> int:
        """Sends a message; its txid."""
        txid = next(self._txids)
        await self.connection.send(json.dumps({"txid": txid, **message}))
        return txid

    async def act(self, data: Json) -> int:
        return await self.say(type="action", data=data)

    async def acked(self, txid: int, *, seconds: float = 10) -> None:
        """Waits until a message is acknowledged, as clients can bear it."""
        ack = await self.until(lambda one: one["type"] == "ack" and one.get("txid") == txid, seconds=seconds)
        assert ack == {"type": "ack", "txid": txid, "success": True}

    async def ping(self, *, seconds: float = 10) -> None:
        """Sends a ping and waits until it is acknowledged."""
        await self.acked(await self.say(type="ping"), seconds=seconds)

    async def init(self, context: Json, *, seconds: float = 10) -> None:
        """Tells of a project."""
        await self.act({"type": "init", "fingerprintId": "f", "authToken": "made-up", "fileContext": context})
        await self.until(lambda one: one["type"] == "init-response", seconds=seconds)

    async def prompt(self, text: str = "hi", *, definition: Json | None = None, **data: Any) -> str:
        """Sends a prompt; its id."""
        prompt_id = f"p{next(self._prompts)}"
        await self.act(prompt_action(prompt_id, text, definition=definition, **data))
        return prompt_id

    async def ask(self, text: str = "hi", *, definition: Json | None = None, seconds: float = 10, **data: Any) -> Json:
        """Sends a prompt and waits for its end, which it has once."""
        return await self.ended(await self.prompt(text, definition=definition, **data), seconds=seconds)

    async def begun(self, prompt_id: str, *, seconds: float = 10) -> None:
        """Waits for the first text of a prompt's answer."""
        await self.until(lambda one: bool(texts([one], prompt_id)), seconds=seconds)

    async def ended(self, prompt_id: str, *, seconds: float = 10) -> Json:
        """Waits for a prompt's end, which it has once."""
        await self.until(lambda one: _ends(one, prompt_id), seconds=seconds)
        [end] = self.ends(prompt_id)
        return end

    def ends(self, prompt_id: str) -> list[Json]:
        """The ends that a prompt has had so far."""
        return [one for one in self.heard if _ends(one, prompt_id)]

    def of_type(self, kind: str) -> list[Json]:
        return [one for one in self.heard if one["type"] == kind]

    async def until(self, wanted: Callable[[Json], bool], *, seconds: float = 10) -> Json:
        """The first message, heard before or not, that is wanted."""
        index = 0
        async with asyncio.timeout(seconds):
            while True:
                while index < len(self.heard):
                    if wanted(self.heard[index]):
                        return self.heard[index]
                    index += 1
                assert self.is_open, f"closed: {self.connection.close_code} {self.connection.close_reason}"
                self._news.clear()
                await self._news.wait()

    async def closed(self, *, seconds: float = 10) -> int:
        """Waits until the other side has closed the socket; the code."""
        assert self._listening is not None
        await asyncio.wait_for(asyncio.shield(self._listening), seconds)
        assert self.connection.close_code is not None
        return self.connection.close_code

    async def aclose(self) -> None:
        await self.connection.close()
        if self._listening is not None:
            await asyncio.wait((self._listening,))

    async def _listen(self) -> None:
        try:
            async for text in self.connection:
                message = json.loads(text)
                self.heard.append(message["data"] if message["type"] == "action" else message)
                self._news.set()
        except ConnectionClosed:
            # `closed` tells the code.
            return
        finally:
            self._news.set()


def texts(heard: list[Json], prompt_id: str) -> list[str]:
    """The pieces of a prompt's answer."""
    return [
        one["chunk"]
        for one in heard
        if one["type"] == "response-chunk" and one["userInputId"] == prompt_id and isinstance(one["chunk"], str)
    ]


def answer_of(end: Json) -> str:
    """The text that a prompt has ended well with."""
    assert end["type"] == "prompt-response", end
    assert end["output"]["type"] == "lastMessage", end["output"]
    value: str = end["output"]["value"]
    return value


def _ends(one: Json, prompt_id: str) -> bool:
    return (one["type"] == "prompt-response" and one["promptId"] == prompt_id) or (
        one["type"] == "prompt-error" and one["userInputId"] == prompt_id
    )


async def dial(edge: ServiceProcess, *, headers: Mapping[str, str] | None = None, **options: Any) -> ClientConnection:
    """Opens a WebSocket without limits of its own."""
    settings = {"compression": None, "max_size": None, "ping_interval": None, "open_timeout": 30, **options}
    return await connect(f"ws://127.0.0.1:{edge.port}/ws", additional_headers=headers, **settings)


async def knock(edge: ServiceProcess, *, key: str) -> Socket | int:
    """A socket, or the status that it is refused with."""
    try:
        return Socket(await dial(edge, headers={"x-api-key": key}))
    except InvalidStatus as refused:
        response = refused.response
    assert json.loads(response.body or b"")["error"]["message"]
    assert response.status_code != 503 or int(response.headers["retry-after"]) >= 1
    return response.status_code


@asynccontextmanager
async def open_socket(edge: ServiceProcess, **options: Any) -> AsyncIterator[Socket]:
    """One socket, closed at the end."""
    opened = Socket(await dial(edge, **options))
    try:
        yield opened
    finally:
        await opened.aclose()


@asynccontextmanager
async def open_sockets(edges: list[ServiceProcess], number: int) -> AsyncIterator[list[Socket]]:
    """So many sockets, one edge after the other, closed at the end."""
    async with AsyncExitStack() as stack:
        opening = (stack.enter_async_context(open_socket(edges[n % len(edges)])) for n in range(number))
        yield list(await asyncio.gather(*opening))


class RawSocket:
    """A WebSocket whose client can send what no library sends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, edge: ServiceProcess) -> RawSocket:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{edge.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        return cls(reader, writer)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hear(self) -> tuple[int, bytes]:
        """The next frame: its opcode and payload."""
        first, length = await self._reader.readexactly(2)
        if length >= 126:
            length = int.from_bytes(await self._reader.readexactly(2 if length == 126 else 8))
        return first & 15, await self._reader.readexactly(length)

    async def close_code(self) -> int:
        """Reads up to the frame that closes: its code."""
        async with asyncio.timeout(20):
            while True:
                opcode, payload = await self.hear()
                if opcode == CLOSE:
                    return int.from_bytes(payload[:2])

    async def aclose(self) -> None:
        self.writer.close()


CONTINUATION, TEXT, BINARY, CLOSE, PING = 0, 1, 2, 8, 9


def raw_frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bool = True, bits: int = 0) -> bytes:
    """One frame of a WebSocket; the mask is one that changes nothing."""
    size = len(payload)
    masked = 0x80 if mask else 0
    head = bytes([(0x80 if fin else 0) | bits | opcode])
    if size < 126:
        head += bytes([masked | size])
    elif size < 2**16:
        head += bytes([masked | 126]) + size.to_bytes(2)
    else:
        head += bytes([masked | 127]) + size.to_bytes(8)
    return head + (bytes(4) if mask else b"") + payload


async def dial_deaf(edge: ServiceProcess) -> ClientConnection:
    """A client that reads nothing, with little room in the system, so that what waits waits in Patchbay."""
    raw = socket.create_connection(("127.0.0.1", edge.port))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    connection = await dial(edge, sock=raw)
    connection.transport.pause_reading()
    return connection


def has_connection(edge: ServiceProcess, connection: ClientConnection) -> bool:
    """Whether an edge still has its side of a client's connection."""
    port = connection.local_address[1]
    return any(one.raddr and one.raddr.port == port for one in psutil.Process(edge.pid).net_connections("tcp"))


def reset(connection: ClientConnection) -> None:
    """Vanishes with a TCP reset."""
    lingering = struct.pack("ii", 1, 0)
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
    connection.transport.abort()


def rss(service: ServiceProcess) -> int:
    """The memory that a process has, in bytes."""
    size: int = psutil.Process(service.pid).memory_info().rss
    return size


def complaints(service: ServiceProcess) -> list[str]:
    """What a process has logged as its own failure; uvicorn takes a client's invalid UTF-8 for one."""
    lines = (line for line in service.output().splitlines() if re.search(r'"level": "(error|critical)"', line))
    return [line for line in lines if "Invalid UTF-8 sequence received from client" not in line]


async def sockets_held(redis_url: str) -> int:
    """The sockets that hold a place in the whole cluster."""
    redis = connect_redis(redis_url, timeout=5)
    try:
        observer = Admission(redis, replica_id="observer", limits=Limits(), timeout=5, names=keys.CODEBUFF_SOCKETS)
        return (await observer.gauges())["connections"]
    finally:
        await redis.aclose()


def replicas(cluster: Cluster) -> list[ServiceProcess]:
    """The replicas of codebuff-ws that live."""
    return [worker for worker in cluster.workers["codebuff-ws"] if worker.alive]


async def until_known(cluster: Cluster) -> None:
    """Waits until every edge gives sockets to every replica of codebuff-ws."""

    async def gives(edge: ServiceProcess, replica: ServiceProcess) -> bool:
        async with open_sockets([edge], 2) as sockets:
            await asyncio.gather(*(one.ping() for one in sockets))
        return _calls(edge, replica)

    for edge in cluster.edges:
        for replica in replicas(cluster):
            what = f"{edge.log.name} knows {replica.log.name}"
            await eventually(partial(gives, edge, replica), seconds=20, what=what)


def _calls(edge: ServiceProcess, replica: ServiceProcess) -> bool:
    """Whether an edge has a connection to a replica: it opens one when it gives it its first socket."""
    serving = psutil.Process(replica.pid).net_connections("tcp")
    ports = {one.laddr.port for one in serving if one.status == psutil.CONN_LISTEN}
    return any(one.raddr and one.raddr.port in ports for one in psutil.Process(edge.pid).net_connections("tcp"))
