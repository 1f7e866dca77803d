"""One client's socket at this replica: reads its frames, runs its prompts, and says how far it has come.

frames -> _frame -> acknowledged, then done at once: ping, topics, project, answers to requests
                 -> or begun: a prompt, in a task of its own until its end
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import msgspec
import structlog

from patchbay.dispatch.callers import Callers, Identity
from patchbay.errors import OVERLOADED, RATE_LIMITED, PatchbayError, make_error
from patchbay.settings import Settings
from patchbay.state.admission import Admission, Lease
from patchbay.state.codebuff_sessions import CodebuffSessions, ConnectionRecord
from patchbay.state.codebuff_topics import Topics
from patchbay.state.connection import RedisUnavailable
from patchbay_codebuff_ws.connection import wire
from patchbay_codebuff_ws.connection.outbox import Outbox
from patchbay_codebuff_ws.connection.project import Project, read_project
from patchbay_codebuff_ws.connection.prompt_client import PromptClient, Stop
from patchbay_codebuff_ws.connection.prompts import (
    SHUTTING_DOWN,
    custom_tools,
    identify,
    read_prompt,
    run_to_end,
)
from patchbay_codebuff_ws.connection.requests import Requests
from patchbay_codebuff_ws.connection.wire import text_of
from patchbay_codebuff_ws.ports import JsonObject, Loop, Prompt
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
)

log = structlog.get_logger(__name__)

LOST = (
    "The service was restarted while it answered, and what it had not said yet is lost. Send the prompt again to go on."
)
_MOST_TOPICS = 1_000
_MOST_PROMPTS = 50
_LONGEST_NAME = 1_000
# What a slow socket has to take the last of what it is told.
_FLUSH_SECONDS = 0.5


class Call(Protocol):
    """The server's side of one `Connect`."""

    async def read(self) -> object:
        """The next `ConnectRequest`, or grpc.aio.EOF."""

    async def write(self, message: ConnectResponse) -> None: ...


class Capture(Protocol):
    """Where the frames of a socket are written."""

    def client(self, text: str) -> None: ...

    def server(self, text: str) -> None: ...

    def close(self) -> None: ...


class Stoppable(Protocol):
    """A prompt that is under way."""

    def cancel(self, why: Stop = Stop.CANCELLED) -> None: ...


class Load(Protocol):
    """How busy this replica is."""

    def begin(self) -> None:
        """A prompt begins. Raises PatchbayError (OVERLOADED) if there are as many as there may be."""

    def end(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What all connections share."""

    settings: Settings
    loop: Loop
    callers: Callers
    admission: Admission
    sessions: CodebuffSessions
    topics: Topics
    load: Load
    worker_id: str
    capture: Callable[[str], Capture | None]


class Connection:
    """One socket.

    Args:
        attach: The call's first message.
    """

    def __init__(self, attach: Attach, parts: Parts) -> None:
        self._id = attach.connection_id
        self._attach = attach
        self._parts = parts
        self._capture = parts.capture(self._id)
        self._outbox = Outbox(observer=self._capture.server if self._capture is not None else None)
        self._requests = Requests()
        self._running: dict[str, Stoppable] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._record = ConnectionRecord()
        # What the client has told of its project, as JSON: prompts are rare, and idle sockets many.
        self._project: bytes | None = None
        self._project_is_kept = False
        # Whether another replica, or another socket of the session, may know of a project that is not known here.
        self._may_be_elsewhere = attach.again
        self._used = 0
        self._leaving = False
        self._draining = False
        self._moved = asyncio.Event()

    @property
    def running(self) -> int:
        """How many prompts are under way."""
        return len(self._running)

    def drain(self) -> None:
        """Lets the prompts end that run; then the socket goes to another replica."""
        self._draining = True
        self._settle()

    def break_off(self) -> None:
        """Ends the prompts that run with an error, now."""
        for client in tuple(self._running.values()):
            client.cancel(Stop.SHUTDOWN)

    async def run(self, call: Call) -> bool:
        """Serves the socket. True: it is to go to another replica; False: it is gone."""
        writing = asyncio.create_task(self._outbox.run(call.write), name="codebuff-writing")
        reading = asyncio.create_task(self._read(call), name="codebuff-reading")
        moved = asyncio.create_task(self._moved_on(), name="codebuff-moved")
        try:
            await asyncio.wait((writing, reading, moved), return_when=asyncio.FIRST_COMPLETED)
            return moved.done()
        finally:
            await self._close((writing, reading, moved))

    async def _moved_on(self) -> None:
        await self._moved.wait()
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._outbox.flushed()
        except TimeoutError:
            log.warning("codebuff_socket_moved_with_words_unsaid")

    async def _close(self, tasks: tuple[asyncio.Task[Any], ...]) -> None:
        for topic in self._record.topics:
            self._parts.topics.leave(topic, self._tell)
        ending = {*tasks, *self._tasks}
        for task in ending:
            task.cancel()
        try:
            await asyncio.wait(ending)
        finally:
            if self._capture is not None:
                self._capture.close()
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                _log_end(error)

    async def _read(self, call: Call) -> None:
        self._outbox.put(ConnectResponse(attached=Attached(worker_id=self._parts.worker_id)))
        if self._attach.again:
            await self._restore()
        for prompt_id in self._attach.lost_prompts:
            self._end(prompt_id, wire.prompt_error(prompt_id, LOST))
        while True:
            await self._outbox.readable()
            request = await call.read()
            if not isinstance(request, ConnectRequest):
                return
            if request.HasField("frame"):
                await self._frame(request.frame)
            elif request.HasField("leave"):
                self._leaving = True
                self._settle()

    async def _restore(self) -> None:
        try:
            self._record = await self._parts.sessions.connection(self._id)
        except RedisUnavailable as error:
            log.warning("codebuff_session_not_restored", error=str(error))
        for topic in self._record.topics:
            self._parts.topics.follow(topic, self._tell)

    async def _frame(self, frame: ClientFrame) -> None:
        if self._capture is not None:
            self._capture.client(frame.text)
        try:
            message = wire.read(frame.text)
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
        elif message.kind == "identify":
            session = text_of(message.body.get("clientSessionId"))[:_LONGEST_NAME]
            if session and session != self._record.session:
                self._may_be_elsewhere = True
                await self._remember(msgspec.structs.replace(self._record, session=session))

    async def _act(self, action: JsonObject, frame: ClientFrame) -> None:
        kind = text_of(action.get("type"))
        if kind == "prompt":
            self._begin(action, frame)
        elif kind in ("read-files-response", "tool-call-response", "mcp-tool-data"):
            self._requests.answer(action)
        elif kind == "cancel-user-input":
            client = self._running.get(text_of(action.get("promptId")))
            if client is not None:
                client.cancel()
        elif kind == "init":
            await self._init(action)

    # Topics

    async def _follow(self, topics: object, *, leave: bool) -> None:
        names = [name[:_LONGEST_NAME] for name in topics if isinstance(name, str)] if isinstance(topics, list) else []
        followed = dict.fromkeys(self._record.topics)
        for name in names:
            if leave:
                followed.pop(name, None)
                self._parts.topics.leave(name, self._tell)
            elif len(followed) < _MOST_TOPICS:
                followed[name] = None
                self._parts.topics.follow(name, self._tell)
        if tuple(followed) != self._record.topics:
            await self._remember(msgspec.structs.replace(self._record, topics=tuple(followed)))

    def _tell(self, message: JsonObject) -> None:
        if self._outbox.is_full:
            log.warning("codebuff_topic_message_dropped", reason="the socket takes nothing")
            return
        self._outbox.put_frame(wire.action(message))

    async def _remember(self, record: ConnectionRecord) -> None:
        self._record = record
        try:
            await self._parts.sessions.save_connection(self._id, record)
        except RedisUnavailable as error:
            log.warning("codebuff_session_not_kept", error=str(error))

    # The project

    async def _init(self, action: JsonObject) -> None:
        project = read_project(action.get("fileContext"))
        if project is not None:
            self._project = msgspec.json.encode(project)
            self._may_be_elsewhere = False
            await self._keep_project(self._known(action))
        self._outbox.put_frame(wire.init_response(self._used))

    def _known(self, action: JsonObject) -> Identity | None:
        try:
            return identify(self._parts.callers, self._attach.headers, action.get("authToken"))
        except PatchbayError:
            # That is said when a prompt comes.
            return None

    async def _keep_project(self, identity: Identity | None) -> None:
        if self._project is None:
            return
        sessions = self._parts.sessions
        try:
            # Too large a one stays with this replica.
            self._project_is_kept = True
            if not await sessions.save_project("", self._id, self._project):
                log.warning("codebuff_project_too_large_to_keep", bytes=len(self._project))
            elif identity is not None and self._record.session:
                await sessions.save_project(_owner(identity), self._record.session, self._project)
        except RedisUnavailable as error:
            self._project_is_kept = False
            log.warning("codebuff_project_not_kept", error=str(error))

    async def _offered_project(self, identity: Identity) -> Project | None:
        """The project that the client told of, here or elsewhere."""
        sessions = self._parts.sessions
        try:
            if self._project is None and self._may_be_elsewhere:
                self._project = await sessions.project("", self._id)
                if self._project is None and self._record.session:
                    self._project = await sessions.project(_owner(identity), self._record.session)
                self._project_is_kept = self._project is not None
                self._may_be_elsewhere = False
            elif self._project is not None and not (self._project_is_kept and await sessions.renew(self._id)):
                await self._keep_project(identity)
        except RedisUnavailable as error:
            log.warning("codebuff_project_not_looked_up", error=str(error))
        return None if self._project is None else msgspec.json.decode(self._project, type=Project)

    # Prompts

    def _begin(self, action: JsonObject, frame: ClientFrame) -> None:
        prompt_id = text_of(action.get("promptId"))
        if not prompt_id:
            self._outbox.put_frame(wire.prompt_error("", "A prompt needs a `promptId`."))
            return
        if prompt_id in self._running:
            # Said twice, it is still one prompt, with one end.
            return
        self._outbox.put(ConnectResponse(prompt_begun=PromptBegun(number=frame.number, prompt_id=prompt_id)))
        if self._draining:
            # Another replica runs it.
            self._settle()
            return
        if len(self._running) >= _MOST_PROMPTS:
            message = f"A connection may have {_MOST_PROMPTS} prompts under way at a time."
            self._end(prompt_id, wire.prompt_error(prompt_id, message))
            return
        client = _Pending(prompt_id)
        self._running[prompt_id] = client
        task = asyncio.create_task(self._run(action, client, again=frame.again), name=f"codebuff-{prompt_id[:40]}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, action: JsonObject, pending: _Pending, *, again: bool) -> None:
        request_id = f"req_{uuid.uuid4().hex}"
        prompt_id = pending.prompt_id
        started = time.monotonic()
        outcome = "gone"
        try:
            outcome, ending = await self._answer(action, pending, request_id, again=again)
            self._end(prompt_id, ending)
            self._outbox.put_frame(wire.usage_response(self._used))
        finally:
            del self._running[prompt_id]
            log.info(
                "prompt",
                request_id=request_id,
                prompt_id=prompt_id[:_LONGEST_NAME],
                outcome=outcome,
                seconds=round(time.monotonic() - started, 4),
            )
            self._settle()

    async def _answer(self, action: JsonObject, pending: _Pending, request_id: str, *, again: bool) -> tuple[str, str]:
        """Runs a prompt: how it ended, in a word, and the frame that ends it."""
        load = self._parts.load
        try:
            identity = identify(self._parts.callers, self._attach.headers, action.get("authToken"))
            load.begin()
        except PatchbayError as error:
            return "refused", wire.prompt_error(pending.prompt_id, error.error.message)
        try:
            lease = await self._admit(identity, request_id, again=again)
            try:
                self._outbox.put_frame(wire.usage_response(self._used))
                return await self._run_admitted(action, pending, identity, request_id)
            finally:
                await lease.release()
        except PatchbayError as error:
            return "refused", wire.prompt_error(pending.prompt_id, error.error.message)
        except Exception:
            log.exception("prompt_crashed", request_id=request_id)
            message = f"The service failed; its log has the details under {request_id}."
            return "crashed", wire.prompt_error(pending.prompt_id, message)
        finally:
            load.end()

    async def _run_admitted(
        self, action: JsonObject, pending: _Pending, identity: Identity, request_id: str
    ) -> tuple[str, str]:
        kept = await self._offered_project(identity)
        prompt, files = read_prompt(action, kept=kept, identity=identity, request_id=request_id)
        if pending.stop is Stop.SHUTDOWN:
            return "shutdown", wire.prompt_error(prompt.prompt_id, SHUTTING_DOWN)
        client = self._client_of(prompt, files)
        if pending.stop is not None:
            client.cancel(pending.stop)
        self._running[prompt.prompt_id] = client
        outcome, ending = await run_to_end(self._parts.loop, prompt, client)
        client.before_end()
        return outcome, ending

    def _client_of(self, prompt: Prompt, files: Mapping[str, str]) -> PromptClient:
        return PromptClient(
            prompt.prompt_id,
            outbox=self._outbox,
            requests=self._requests,
            timeout_seconds=self._parts.settings.codebuff.request_timeout_seconds,
            custom_tools=custom_tools(prompt.session_state),
            files=files,
            on_cost=self._spend,
        )

    async def _admit(self, identity: Identity, request_id: str, *, again: bool) -> Lease:
        """Admits a prompt. One that another replica had begun waits until the place it held there is free."""
        key_id = identity.caller.key_id
        give_up_at = time.monotonic() + self._parts.settings.limits.lease_seconds
        while True:
            try:
                return await self._parts.admission.admit(request_id=request_id, key_id=key_id, limits=identity.limits)
            except PatchbayError as error:
                held_elsewhere = again and error.error.code in (RATE_LIMITED, OVERLOADED)
                if not held_elsewhere or time.monotonic() > give_up_at:
                    raise
                await asyncio.sleep(error.error.retry_after or 1.0)

    def _spend(self, amount: int) -> None:
        self._used += amount

    def _end(self, prompt_id: str, ending: str) -> None:
        self._outbox.put_frame(ending, prompt_id=prompt_id, ends_prompt=True)
        self._outbox.put(ConnectResponse(prompt_ended=PromptEnded(prompt_id=prompt_id)))

    def _settle(self) -> None:
        """Does what waits for the last prompt's end."""
        if self._running:
            return
        if self._leaving:
            self._outbox.put_frame(wire.request_reconnect())
            self._outbox.put(ConnectResponse(idle=Idle()))
        if self._draining:
            self._moved.set()


class _Pending:
    """A prompt that has not got as far as to its loop: only whether it is to stop."""

    def __init__(self, prompt_id: str) -> None:
        self.prompt_id = prompt_id
        self.stop: Stop | None = None

    def cancel(self, why: Stop = Stop.CANCELLED) -> None:
        self.stop = why


def _owner(identity: Identity) -> str:
    # Never empty: that is what sockets' own projects are kept under.
    return f"owner:{identity.owner}"


def _log_end(error: BaseException) -> None:
    if not isinstance(error, (grpc.aio.UsageError, grpc.aio.InternalError, grpc.aio.AbortError)):
        log.error("codebuff_connection_crashed", exc_info=error)


def full() -> PatchbayError:
    """Why a prompt is refused by a replica that has as many as it may have."""
    return PatchbayError(make_error(OVERLOADED, "This service runs as many prompts as it can; try again shortly."))
