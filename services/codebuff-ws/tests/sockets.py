"""A replica of codebuff-ws in this process, and the edge's side of a socket: real gRPC, real Valkey, scripted loops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from patchbay.settings import Settings
from patchbay.state.connection import connect
from patchbay.testing.eventually import eventually
from patchbay.worker.runtime import Shared
from patchbay_codebuff_ws.ports import Client, Prompt, PromptResult
from patchbay_codebuff_ws.service import CodebuffService
from patchbay_proto.v1 import codebuff_pb2_grpc
from patchbay_proto.v1.codebuff_pb2 import Attach, ClientFrame, ConnectRequest, ConnectResponse, Leave

Json: TypeAlias = dict[str, Any]
Script: TypeAlias = Callable[[Prompt, Client], Awaitable[PromptResult]]

# So much the edge writes at a time.
PIECE_CHARACTERS = 256 * 1024
FILE_CONTEXT: Json = {
    "projectRoot": "/home/me/project",
    "cwd": "/home/me/project",
    "fileTree": [{"name": "a.py", "type": "file", "filePath": "a.py"}],
    "fileTokenScores": {},
    "knowledgeFiles": {},
    "agentTemplates": {},
    "customToolDefinitions": {"my_tool": {"inputJsonSchema": {"type": "object"}}},
    "gitChanges": {"status": "", "diff": "", "diffCached": "", "lastCommitMessages": ""},
    "changesSinceLastChat": {},
    "shellConfigFiles": {},
    "systemInfo": {"platform": "linux", "shell": "bash", "nodeVersion": "20", "arch": "x64", "homedir": "/", "cpus": 2},
}
SESSION_STATE: Json = {
    "mainAgentState": {
        "agentId": "main-agent",
        "agentType": None,
        "agentContext": {},
        "subagents": [],
        "messageHistory": [],
        "stepsRemaining": 25,
    },
    "fileContext": FILE_CONTEXT,
}


# What a client may say of its project, and what it may not.
CONTEXTS: list[Any] = [
    FILE_CONTEXT,
    {},
    {"a.py": "text", "a.py/b": ""},
    {"cwd": 7, "systemInfo": {"cpus": "x"}},
    [],
    "x",
]


async def say_hello(prompt: Prompt, client: Client) -> PromptResult:
    """The shortest run."""
    await client.chunk({"type": "start", "agentId": "base", "messageHistoryLength": 0})
    await client.chunk("Hel")
    await client.chunk("lo")
    await client.chunk({"type": "text", "text": "Hello"})
    await client.chunk({"type": "finish", "agentId": "base", "totalCost": 0})
    return PromptResult(session_state=prompt.session_state, output={"type": "lastMessage", "value": "Hello"})


async def hang(prompt: Prompt, client: Client) -> PromptResult:
    """Begins and says nothing more."""
    await client.chunk({"type": "start", "agentId": "base", "messageHistoryLength": 0})
    await asyncio.Event().wait()
    raise AssertionError("waits for ever")


@dataclass
class ScriptedLoop:
    """A `Loop` that plays the next script for each prompt, and the last one for ever."""

    scripts: list[Script] = field(default_factory=lambda: [say_hello])
    prompts: list[Prompt] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    running: int = 0

    async def start(self) -> None:
        return

    async def aclose(self) -> None:
        return

    async def run(self, prompt: Prompt, client: Client) -> PromptResult:
        self.prompts.append(prompt)
        self.clients.append(client)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        self.running += 1
        try:
            return await script(prompt, client)
        finally:
            self.running -= 1


@dataclass
class Socket:
    """One call of the edge for one socket."""

    call: grpc.aio.StreamStreamCall[ConnectRequest, ConnectResponse]
    received: list[ConnectResponse] = field(default_factory=list)
    number: int = 0
    txid: int = 0

    async def say(self, message: Json | str, **more: Any) -> int:
        """Sends a frame of the client; its number."""
        if not isinstance(message, str):
            message = json.dumps({"txid": self.txid, **message})
            self.txid += 1
        self.number += 1
        fields = {"number": self.number, **more}
        while len(message) > PIECE_CHARACTERS:
            piece, message = message[:PIECE_CHARACTERS], message[PIECE_CHARACTERS:]
            await self.call.write(ConnectRequest(frame=ClientFrame(text=piece, continued=True, **fields)))
        frame = ClientFrame(text=message, **fields)
        await self.call.write(ConnectRequest(frame=frame))
        return frame.number

    async def act(self, kind: str, **data: Any) -> int:
        """Sends an action."""
        return await self.say({"type": "action", "data": {"type": kind, **data}})

    async def prompt(self, prompt_id: str = "p1", text: str = "hi", **data: Any) -> int:
        """Sends a prompt as the published SDK does."""
        return await self.act("prompt", **prompt_action(prompt_id, text, **data))

    async def leave(self) -> None:
        await self.call.write(ConnectRequest(leave=Leave()))

    async def next(self) -> ConnectResponse | None:
        """The next message; None: the call is over."""
        pieces: list[str] = []
        while True:
            message = await asyncio.wait_for(self.call.read(), 10)
            if message is grpc.aio.EOF:
                return None
            assert isinstance(message, ConnectResponse)
            assert message.ByteSize() < 2_000_000
            if not message.frame.continued:
                break
            pieces.append(message.frame.text)
        if pieces:
            message.frame.text = "".join([*pieces, message.frame.text])
        self.received.append(message)
        return message

    async def until(self, wanted: Callable[[ConnectResponse], object], *, what: str = "") -> ConnectResponse:
        """Reads up to and with the first message that is wanted."""
        while True:
            message = await self.next()
            assert message is not None, f"the call ended before {what}: {self.frames()}"
            if wanted(message):
                return message

    async def until_frame(self, kind: str, **fields: Any) -> Json:
        """Reads up to and with the first frame of a kind: an `ack`, or else an action."""

        def wanted(message: ConnectResponse) -> bool:
            said = _said(message)
            return said.get("type") == kind and all(said.get(name) == value for name, value in fields.items())

        return _said(await self.until(wanted, what=kind))

    async def until_ended(self, prompt_id: str = "p1") -> Json:
        """Reads up to and with a prompt's end."""
        await self.until(lambda message: message.prompt_ended.prompt_id == prompt_id, what=f"the end of {prompt_id}")
        [end] = self.ends(prompt_id)
        return end

    async def drained(self) -> grpc.StatusCode:
        """Reads to the call's end; how it ended."""
        try:
            while await self.next() is not None:
                pass
        except grpc.aio.AioRpcError:
            pass
        return await self.call.code()

    def frames(self) -> list[Json]:
        """What the client has been told: acknowledgements, and the data of actions."""
        return [_said(message) for message in self.received if message.HasField("frame")]

    def kinds(self) -> list[str]:
        return [frame["type"] for frame in self.frames()]

    def ends(self, prompt_id: str) -> list[Json]:
        """The ends that a prompt has had."""
        return [
            frame
            for frame in self.frames()
            if (frame["type"] == "prompt-response" and frame["promptId"] == prompt_id)
            or (frame["type"] == "prompt-error" and frame["userInputId"] == prompt_id)
        ]

    def chunks(self) -> list[Any]:
        return [frame["chunk"] for frame in self.frames() if frame["type"] == "response-chunk"]


def prompt_action(prompt_id: str = "p1", text: str = "hi", **data: Any) -> Json:
    return {
        "promptId": prompt_id,
        "prompt": text,
        "fingerprintId": "codebuff-sdk-abc",
        "costMode": "normal",
        "sessionState": SESSION_STATE,
        "toolResults": [],
        "agentId": "base",
        "authToken": "test-key-123",
        **data,
    }


def _said(message: ConnectResponse) -> Json:
    if not message.HasField("frame"):
        return {}
    frame: Json = json.loads(message.frame.text, parse_constant=_refuse)
    return frame["data"] if frame["type"] == "action" else frame


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@dataclass
class Replica:
    """One replica that serves."""

    service: CodebuffService
    loop: ScriptedLoop
    stub: codebuff_pb2_grpc.CodebuffAsyncStub
    server: grpc.aio.Server

    @asynccontextmanager
    async def socket(
        self,
        connection_id: str = "c1",
        *,
        headers: Mapping[str, str] | None = None,
        again: bool = False,
        lost: Sequence[str] = (),
    ) -> AsyncIterator[Socket]:
        """A socket, attached."""
        call = self.stub.Connect()
        attach = Attach(
            connection_id=connection_id,
            headers=headers or {},
            again=again,
            lost_prompts=lost,
            login_page="http://edge.test/codebuff/login",
            client_address="192.0.2.1",
        )
        await call.write(ConnectRequest(attach=attach))
        socket = Socket(call)
        await socket.until(lambda message: message.HasField("attached"))
        try:
            yield socket
        finally:
            call.cancel()

    async def idle(self) -> None:
        """Waits until no prompt runs and every place is given back."""
        admission = self.service.admission
        await eventually(lambda: not self.service.in_flight and not admission.held and not self.loop.running)


@asynccontextmanager
async def replica(
    settings: Settings, *, loop: ScriptedLoop | None = None, worker_id: str = "w1"
) -> AsyncIterator[Replica]:
    """Runs a replica while the context is open."""
    loop = loop or ScriptedLoop()
    redis = connect(settings.redis.connect_url(), timeout=5)
    service = CodebuffService(settings, Shared(redis=redis, worker_id=worker_id), loop)
    options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    server = grpc.aio.server(options=options)
    service.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await service.start()
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        try:
            yield Replica(service, loop, codebuff_pb2_grpc.CodebuffStub(channel), server)  # type: ignore[arg-type]
        finally:
            await server.stop(None)
            await service.aclose()
            await redis.aclose()
