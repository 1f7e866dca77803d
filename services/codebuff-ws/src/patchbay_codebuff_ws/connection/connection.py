"""One client's socket at this replica: reads its frames and says how far it has come.

frames -> _frame -> acknowledged, then done at once: ping, topics, project, answers to requests
                 -> or begun: a prompt, in a task of its own until its end (see `runner`)
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import grpc
import msgspec
import structlog

from patchbay.dispatch.callers import Identity
from patchbay.errors import PatchbayError
from patchbay_codebuff_ws.connection import wire
from patchbay_codebuff_ws.connection.legacy import LegacyProtocol
from patchbay_codebuff_ws.connection.memory import Memory
from patchbay_codebuff_ws.connection.outbox import Outbox
from patchbay_codebuff_ws.connection.parts import Parts
from patchbay_codebuff_ws.connection.project import Project, read_project
from patchbay_codebuff_ws.connection.prompt_client import PromptClient
from patchbay_codebuff_ws.connection.prompts import custom_tools, read_prompt
from patchbay_codebuff_ws.connection.requests import Requests
from patchbay_codebuff_ws.connection.runner import Run, Runner
from patchbay_codebuff_ws.connection.wire import text_of
from patchbay_codebuff_ws.ports import JsonObject, Prompt
from patchbay_proto.v1.codebuff_pb2 import (
    Attach,
    Attached,
    ClientFrame,
    ConnectRequest,
    ConnectResponse,
    FramesDone,
    Idle,
)

log = structlog.get_logger(__name__)

LOST = (
    "The service was restarted while it answered, and what it had not said yet is lost. Send the prompt again to go on."
)
_MOST_TOPICS = 1_000
# Of their names together: they are kept for whoever asks for it.
_MOST_TOPIC_CHARACTERS = 20_000
_LONGEST_NAME = 1_000
# What a slow socket has to take the last of what it is told, once its edge has ended the call.
_FLUSH_SECONDS = 0.5


class Call(Protocol):
    """The server's side of one `Connect`."""

    async def read(self) -> object:
        """The next `ConnectRequest`, or grpc.aio.EOF."""

    async def write(self, message: ConnectResponse) -> None: ...


class Connection:
    """One socket.

    Args:
        attach: The call's first message.
    """

    def __init__(self, attach: Attach, parts: Parts) -> None:
        self._attach = attach
        self._parts = parts
        self._capture = parts.capture(attach.connection_id, attach.headers)
        self._outbox = Outbox(observer=self._capture.server if self._capture is not None else None)
        self._requests = Requests()
        self._memory = Memory(attach.connection_id, parts.sessions, again=attach.again, room=parts.room)
        self._runner = Runner(
            parts, headers=attach.headers, outbox=self._outbox, memory=self._memory, on_idle=self._on_idle
        )
        self._legacy = LegacyProtocol(
            parts, attach, outbox=self._outbox, requests=self._requests, memory=self._memory, runner=self._runner
        )
        self._leaving = False
        self._moved = asyncio.Event()

    def drain(self) -> None:
        """Lets the prompts end that run; then the socket goes to another replica."""
        self._runner.draining = True
        if not self._runner.running:
            self._on_idle()

    def break_off(self) -> None:
        """Ends the prompts that run with an error, now."""
        self._runner.break_off()

    async def run(self, call: Call) -> bool:
        """Serves the socket. True: it is to go to another replica; False: it is gone."""
        writing = asyncio.create_task(self._outbox.run(call.write), name="codebuff-writing")
        reading = asyncio.create_task(self._read(call), name="codebuff-reading")
        moved = asyncio.create_task(self._moved.wait(), name="codebuff-moved")
        try:
            await asyncio.wait((writing, reading, moved), return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                # The end of a prompt, with its whole session, is worth the time that the drain itself has.
                await self._flush(writing, None if moved.done() else _FLUSH_SECONDS)
            return moved.done()
        finally:
            await self._close((writing, reading, moved))

    async def _flush(self, writing: asyncio.Task[None], seconds: float | None) -> None:
        """Sends what has been said so far: another replica does not know of it."""
        flushed = asyncio.create_task(self._outbox.flushed(), name="codebuff-flushed")
        try:
            await asyncio.wait((flushed, writing), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            flushed.cancel()

    async def _close(self, tasks: tuple[asyncio.Task[Any], ...]) -> None:
        for topic in self._memory.record.topics:
            self._parts.topics.leave(topic, self._tell)
        ending = {*tasks, *self._runner.tasks}
        for task in ending:
            task.cancel()
        try:
            await asyncio.wait(ending)
        finally:
            self._memory.close()
            if self._capture is not None:
                self._capture.close()
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                _log_end(error)

    async def _read(self, call: Call) -> None:
        self._outbox.put(ConnectResponse(attached=Attached(worker_id=self._parts.worker_id)))
        if self._attach.again:
            await self._memory.restore()
            for topic in self._memory.record.topics:
                self._parts.topics.follow(topic, self._tell)
        for prompt_id in self._attach.lost_prompts:
            say = self._legacy.prompt_error if self._memory.record.legacy else wire.prompt_error
            self._runner.end(prompt_id, say(prompt_id, LOST))
        pieces: list[str] = []
        while True:
            await self._outbox.readable()
            request = await call.read()
            if not isinstance(request, ConnectRequest):
                return
            if request.HasField("frame"):
                pieces.append(request.frame.text)
                if not request.frame.continued:
                    text = "".join(pieces)
                    pieces.clear()
                    await self._frame(request.frame, text)
                    del text
            elif request.HasField("leave"):
                self._leaving = True
                if not self._runner.running:
                    self._on_idle()

    async def _frame(self, frame: ClientFrame, text: str) -> None:
        if self._capture is not None:
            self._capture.client(text)
        try:
            message = wire.read(text)
        except wire.Unreadable:
            self._outbox.put_frame(wire.ack(None, success=False))
        else:
            if not frame.acknowledged:
                self._outbox.put_frame(wire.ack(message.txid))
            try:
                await self._handle(message, frame)
            except Exception:
                # One frame, however odd, ends neither the socket nor what else runs for it.
                log.exception("codebuff_frame_crashed", kind=message.kind)
        self._outbox.put(ConnectResponse(frames_done=FramesDone(number=frame.number)))

    async def _handle(self, message: wire.Message, frame: ClientFrame) -> None:
        if message.kind == "action":
            await self._act(message.action, frame)
        elif message.kind in ("subscribe", "unsubscribe"):
            await self._follow(message.body.get("topics"), leave=message.kind == "unsubscribe")
        elif message.kind == "ping":
            await self._memory.stay()
        elif message.kind == "identify":
            session = text_of(message.body.get("clientSessionId"))[:_LONGEST_NAME]
            if session:
                await self._memory.remember(msgspec.structs.replace(self._memory.record, session=session))

    async def _act(self, action: JsonObject, frame: ClientFrame) -> None:
        kind = text_of(action.get("type"))
        if kind == "prompt":
            ask = _Ask(action, self._outbox, self._requests, self._runner, self._parts)
            if wire.is_id(ask.prompt_id):
                self._runner.begin(ask, frame)
            else:
                message = f"A prompt needs a `promptId` of at most {wire.LONGEST_ID} characters."
                self._outbox.put_frame(wire.prompt_error(ask.prompt_id, message))
        elif kind in ("read-files-response", "tool-call-response", "mcp-tool-data"):
            self._requests.answer(action)
        elif kind == "cancel-user-input":
            self._runner.cancel(text_of(action.get("promptId")))
        elif self._legacy.speaks(kind, action):
            await self._legacy.act(kind, action, frame)
        elif kind == "init":
            await self._init(action)

    async def _init(self, action: JsonObject) -> None:
        project = read_project(action.get("fileContext"))
        identity = self._known(action)
        # Of whoever may not ask for anything, nothing is kept.
        if project is not None and identity is not None:
            await self._memory.keep(project, identity)
        used = self._runner.used if identity is None else await self._runner.usage(identity)
        self._outbox.put_frame(wire.init_response(used))

    def _known(self, action: JsonObject) -> Identity | None:
        try:
            return self._runner.identify(action.get("authToken"))
        except PatchbayError:
            # That is said when a prompt comes.
            return None

    async def _follow(self, topics: object, *, leave: bool) -> None:
        names = [name[:_LONGEST_NAME] for name in topics if isinstance(name, str)] if isinstance(topics, list) else []
        followed = dict.fromkeys(self._memory.record.topics)
        size = sum(map(len, followed))
        for name in names:
            if leave:
                followed.pop(name, None)
                self._parts.topics.leave(name, self._tell)
            elif name not in followed and len(followed) < _MOST_TOPICS and size + len(name) <= _MOST_TOPIC_CHARACTERS:
                followed[name] = None
                size += len(name)
                self._parts.topics.follow(name, self._tell)
        await self._memory.remember(msgspec.structs.replace(self._memory.record, topics=tuple(followed)))

    def _tell(self, message: JsonObject) -> None:
        if self._outbox.is_full:
            log.warning("codebuff_topic_message_dropped", reason="the socket takes nothing")
            return
        self._outbox.put_frame(wire.action(message))

    def _on_idle(self) -> None:
        """Does what waits for the last prompt's end."""
        if self._leaving:
            self._outbox.put_frame(wire.request_reconnect())
            self._outbox.put(ConnectResponse(idle=Idle()))
        if self._runner.draining:
            self._moved.set()


class _Ask:
    """A prompt of the protocol's second generation."""

    def __init__(self, action: JsonObject, outbox: Outbox, requests: Requests, runner: Runner, parts: Parts) -> None:
        self._action = action
        self._outbox = outbox
        self._requests = requests
        self._runner = runner
        self._parts = parts
        self.prompt_id = text_of(action.get("promptId"))
        self.token = action.get("authToken")

    def open(
        self, run: Run, *, kept: Project | None, identity: Identity, request_id: str
    ) -> tuple[Prompt, PromptClient]:
        """See `Ask.open`."""
        prompt, files = read_prompt(self._action, kept=kept, identity=identity, request_id=request_id)
        client = PromptClient(
            prompt.prompt_id,
            outbox=self._outbox,
            requests=self._requests,
            timeout_seconds=self._parts.settings.codebuff.request_timeout_seconds,
            custom_tools=custom_tools(prompt.session_state),
            files=files,
            on_cost=run.spend,
        )
        return prompt, client

    def refused(self, prompt_id: str, message: str) -> str:
        """See `Ask.refused`."""
        return wire.prompt_error(prompt_id, message)

    def usage(self, used: int) -> str | None:
        """See `Ask.usage`."""
        return wire.usage_response(used)


def _log_end(error: BaseException) -> None:
    if not isinstance(error, (grpc.aio.UsageError, grpc.aio.InternalError, grpc.aio.AbortError)):
        log.error("codebuff_connection_crashed", exc_info=error)
