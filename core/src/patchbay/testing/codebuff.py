"""A scripted codebuff-ws for tests of the edge: real gRPC on loopback, inside the test's event loop or as a process.

    python -m patchbay.testing.codebuff --redis redis://127.0.0.1:6379/0 --id w1

Its clients say in their frames what it is to do, in JSON; all fields may be left out:

    {"txid": 1}                       an acknowledgement, as for every frame
    {"prompt": "p1", "say": 2,        a prompt that says two things, with `size` characters each
     "hold": true}                    and ends only when another frame has {"release": "p1"}
    {"stuck": true}                   a frame that is never done
    {"die": true}                     a frame that no replica survives

Each acknowledgement says which replica it is from and what came with the frame.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from patchbay.state.connection import connect
from patchbay.state.registry import Announcer, WorkerRecord
from patchbay_proto.v1 import codebuff_pb2_grpc
from patchbay_proto.v1.codebuff_pb2 import (
    Attach,
    Attached,
    ClientFrame,
    ConnectRequest,
    ConnectResponse,
    FramesDone,
    Idle,
    PromptBegun,
    PromptEnded,
    ServerFrame,
)

Context: TypeAlias = "grpc.aio.ServicerContext[ConnectRequest, ConnectResponse]"
Json: TypeAlias = "dict[str, Any]"


@dataclass
class ScriptedCodebuff(codebuff_pb2_grpc.CodebuffServicer):
    """One replica.

    Attributes:
        attaches: What it was given so far.
        frames: The clients' frames so far, of all of them.
        running: How many sockets it has.
        moved: How many it has given away because the edge wanted it.
        refuses: A status that it answers every call with.
        written: How many bytes it has got rid of.
        pieces: How many messages had a piece of a frame, but for the last ones.
        gate: While it is not set, frames are read and not done.
        on_death: What a frame that kills does.
    """

    id: str = "w1"
    capacity: int = 10_000
    draining: bool = False
    address: str = ""
    attaches: list[Attach] = field(default_factory=list)
    frames: list[ClientFrame] = field(default_factory=list)
    running: int = 0
    moved: int = 0
    written: int = 0
    pieces: int = 0
    refuses: grpc.StatusCode | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    on_death: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.gate.set()

    def record(self) -> WorkerRecord:
        """What the worker would say of itself in the registry."""
        return WorkerRecord(
            id=self.id,
            service="codebuff-ws",
            address=self.address,
            version="0",
            started_at=0.0,
            capacity=self.capacity,
            in_flight=self.running,
            draining=self.draining,
            backends=(),
        )

    async def Connect(  # type: ignore[override]  # noqa: N802
        self, requests: AsyncIterator[ConnectRequest], context: Context
    ) -> None:
        if self.refuses is not None:
            await context.abort(self.refuses, "refused")
        self.running += 1
        call = _Call(self, context)
        try:
            await call.serve(requests)
            self.moved += 1
        finally:
            self.running -= 1
            call.close()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[grpc.aio.Server]:
        """Runs while the context is open; `address` is set. Stopping the server given is the worker's death."""
        server = grpc.aio.server(options=(("grpc.max_receive_message_length", -1),))
        codebuff_pb2_grpc.add_CodebuffServicer_to_server(self, server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield server
        finally:
            await server.stop(None)


class _Call:
    """One client's call."""

    def __init__(self, worker: ScriptedCodebuff, context: Context) -> None:
        self._worker = worker
        self._context = context
        self._prompts: dict[str, asyncio.Task[None]] = {}
        self._released: dict[str, asyncio.Event] = {}
        self._writing = asyncio.Lock()
        self._leaving: asyncio.Task[None] | None = None

    async def serve(self, requests: AsyncIterator[ConnectRequest]) -> None:
        pieces: list[str] = []
        async for request in requests:
            if request.frame.continued:
                pieces.append(request.frame.text)
                self._worker.pieces += 1
                continue
            match request.WhichOneof("message"):
                case "attach":
                    await self._attach(request.attach)
                case "frame":
                    request.frame.text = "".join([*pieces, request.frame.text])
                    pieces.clear()
                    await self._frame(request.frame)
                case "leave":
                    self._leaving = asyncio.create_task(self._idle())

    def close(self) -> None:
        for task in (*self._prompts.values(), self._leaving):
            if task is not None:
                task.cancel()

    async def _attach(self, attach: Attach) -> None:
        self._worker.attaches.append(attach)
        await self._write(ConnectResponse(attached=Attached(worker_id=self._worker.id)))
        for prompt_id in attach.lost_prompts:
            await self._say({"lost": prompt_id}, prompt_id=prompt_id, ends=True)
            await self._write(ConnectResponse(prompt_ended=PromptEnded(prompt_id=prompt_id)))

    async def _frame(self, frame: ClientFrame) -> None:
        self._worker.frames.append(frame)
        await self._worker.gate.wait()
        asked = _read(frame.text)
        if asked.get("die"):
            self._worker.on_death()
            return
        if asked.get("stuck"):
            return
        if not frame.acknowledged:
            await self._say(
                {"ack": asked.get("txid"), "worker": self._worker.id, "number": frame.number, "again": frame.again}
            )
        if (release := asked.get("release")) in self._released:
            self._released[release].set()
        prompt_id = asked.get("prompt")
        if isinstance(prompt_id, str):
            await self._write(ConnectResponse(prompt_begun=PromptBegun(number=frame.number, prompt_id=prompt_id)))
            self._released[prompt_id] = asyncio.Event()
            self._prompts[prompt_id] = asyncio.create_task(self._prompt(prompt_id, asked))
        await self._write(ConnectResponse(frames_done=FramesDone(number=frame.number)))

    async def _prompt(self, prompt_id: str, asked: Json) -> None:
        for number in range(asked.get("say", 0)):
            await self._say({"chunk": number, "text": "x" * asked.get("size", 1)}, prompt_id=prompt_id)
        if asked.get("hold"):
            await self._released[prompt_id].wait()
        await self._say({"end": prompt_id, "worker": self._worker.id}, prompt_id=prompt_id, ends=True)
        await self._write(ConnectResponse(prompt_ended=PromptEnded(prompt_id=prompt_id)))

    async def _idle(self) -> None:
        if self._prompts:
            await asyncio.wait(self._prompts.values())
        await self._write(ConnectResponse(idle=Idle()))

    async def _say(self, what: Json, *, prompt_id: str = "", ends: bool = False) -> None:
        text = json.dumps(what)
        await self._write(ConnectResponse(frame=ServerFrame(text=text, prompt_id=prompt_id, ends_prompt=ends)))
        self._worker.written += len(text)

    async def _write(self, message: ConnectResponse) -> None:
        async with self._writing:
            await self._context.write(message)


def _read(text: str) -> Json:
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis", required=True)
    parser.add_argument("--id", required=True)
    options = parser.parse_args()
    worker = ScriptedCodebuff(id=options.id, on_death=lambda: os._exit(1))
    redis = connect(options.redis, timeout=2)
    async with worker.serving():
        await Announcer(redis, worker.record, timeout=2).run()


if __name__ == "__main__":
    asyncio.run(_main())
