"""One client's socket and the call to the replica that has it: frames both ways, and another replica after that one.

Two tasks: `run`, in the socket's own, reads the client and writes to the replica; the relay reads the replica and
writes to the client. Each waits for its other side, so that who is slow slows whoever sends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container, Mapping

import structlog

from patchbay.dispatch.transport import Connections, SocketCall, WorkerFailure
from patchbay.errors import PatchbayError
from patchbay.state.registry import WorkerRecord
from patchbay.telemetry import metrics
from patchbay_edge.codebuff.frames import Budget, Frames
from patchbay_edge.codebuff.replicas import Replicas
from patchbay_edge.exchange import Receive, Send
from patchbay_proto.v1.codebuff_pb2 import Attach, ConnectRequest, ConnectResponse, Leave

log = structlog.get_logger(__name__)

# https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number
GOING_AWAY = 1001
_UNSUPPORTED_DATA = 1003
_TOO_BIG = 1009
_INTERNAL_ERROR = 1011
_TRY_AGAIN_LATER = 1013
_SHUTTING_DOWN = "shutting down"
_TOO_MUCH = (_TRY_AGAIN_LATER, "too much waits to be answered")

# What a replica may have of a client that it is not done with; prompts that run do not count.
_WINDOW_FRAMES = 64
_WINDOW_BYTES = 512 * 1024
# What is kept of one client in all: so many frames, and the largest frame with some others.
_MOST_KEPT = 1_000
_ROOM_BYTES = 4 * 1024 * 1024
# A frame that no replica has outlived so many times is likely to be why.
_MOST_ATTEMPTS = 5
# How long a replica may take to take a connection over, and to end a call whose connection moves.
_ATTACH_SECONDS = 2.0
_MOVE_SECONDS = 2.0
# Between attempts: doubled each time up to the latter, as long as no replica keeps the connection.
_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_STEADY_SECONDS = 2.0
# How long the client may take for the last words.
_CLOSE_SECONDS = 1.0


class Relay:
    """One accepted socket.

    Args:
        connection_id: The same at every replica.
        headers: Those of the upgrade that say who calls.
        login_page: Where its user may sign in.
        address: The client's.
        attaching: Bounds how many sockets are given to replicas at a time.
        max_frame_bytes: The largest frame of the client.
        budget: What all sockets may keep.
    """

    __slots__ = (
        "_address",
        "_attaching",
        "_budget",
        "_call",
        "_connections",
        "_frames",
        "_headers",
        "_heard",
        "_id",
        "_leave_said",
        "_leaving",
        "_login_page",
        "_max_frame_bytes",
        "_mover",
        "_moving",
        "_nothing_runs",
        "_receive",
        "_receiving",
        "_replicas",
        "_room",
        "_send",
        "_sending",
        "_task",
        "_verdict",
        "_worker_id",
        "_writer",
        "_writing",
    )

    def __init__(
        self,
        connection_id: str,
        headers: Mapping[str, str],
        receive: Receive,
        send: Send,
        *,
        login_page: str,
        address: str,
        replicas: Replicas,
        connections: Connections,
        attaching: asyncio.Semaphore,
        max_frame_bytes: int,
        budget: Budget,
    ) -> None:
        self._id = connection_id
        self._headers = headers
        self._login_page = login_page
        self._address = address
        self._receive = receive
        self._send = send
        self._replicas = replicas
        self._connections = connections
        self._attaching = attaching
        self._max_frame_bytes = max_frame_bytes
        self._budget = budget
        self._frames = Frames(budget)
        # None: no replica has the connection, or it is being moved.
        self._call: SocketCall | None = None
        self._worker_id = ""
        self._writing = False
        self._writer: asyncio.Task[None] | None = None
        self._room: asyncio.Event | None = None
        self._mover: asyncio.Task[None] | None = None
        self._moving: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._verdict: tuple[int, str] | None = None
        self._leaving = False
        self._leave_said = False
        self._nothing_runs = False
        self._heard = time.monotonic()
        self._receiving = self._sending = False

    async def run(self) -> None:
        """Serves the accepted socket until either side closes it."""
        if self._leaving:
            await self._close(GOING_AWAY, _SHUTTING_DOWN)
            return
        self._task = asyncio.current_task()
        relay = asyncio.create_task(self._relay(), name="codebuff-relay")
        relay.add_done_callback(self._on_relay_end)
        try:
            await self._read_client()
        except asyncio.CancelledError:
            if self._verdict is None:
                raise
            if self._task is not None:
                self._task.uncancel()
        finally:
            self._task = None
            tasks = [task for task in (relay, self._writer, self._mover) if task is not None]
            for task in tasks:
                task.cancel()
            try:
                await asyncio.wait(tasks)
            finally:
                self._frames.give_back()
        if self._verdict is not None:
            await self._close(*self._verdict)

    def end(self, code: int, reason: str) -> None:
        """Closes the socket."""
        if self._verdict is None and self._task is not None:
            self._verdict = (code, reason)
            self._task.cancel()

    def hear_part(self, size: int) -> None:
        """Notes that the client is sending a frame, of which so many bytes are there: a large one may take minutes."""
        if self._task is not None:
            self._heard = time.monotonic()
            self._frames.coming(size)
            if self._budget.is_exceeded:
                self.end(*_TOO_MUCH)

    def end_if_silent(self, seconds: float) -> None:
        """Closes the socket if the client has sent nothing for so long. While it is not read from, it cannot."""
        if (self._receiving or self._sending) and time.monotonic() - self._heard > seconds:
            self.end(GOING_AWAY, "nothing was heard for too long")

    def leave(self) -> None:
        """Closes the socket as soon as nothing is under way in it."""
        self._leaving = True
        if self._frames.idle and self._call is None:
            self.end(GOING_AWAY, _SHUTTING_DOWN)
        else:
            self._write_soon()

    def move_from(self, worker_ids: Container[str]) -> None:
        """Has another replica take the connection, once nothing is under way, if it is at one of these."""
        if self._worker_id in worker_ids:
            self._move_if_idle()

    # The client's side.

    async def _read_client(self) -> None:
        while True:
            self._heard = time.monotonic()
            self._receiving = True
            message = await self._receive()
            self._receiving = False
            self._heard = time.monotonic()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                self._verdict = (_UNSUPPORTED_DATA, "only text frames")
                return
            data = text.encode()
            if len(data) > self._max_frame_bytes:
                self._verdict = (_TOO_BIG, "the frame is too large")
                return
            self._frames.add(data)
            # What waits for the next frame keeps nothing of this one.
            del message, text, data
            too_large = self._frames.size > self._max_frame_bytes + _ROOM_BYTES
            if too_large or len(self._frames) > _MOST_KEPT or self._budget.is_exceeded:
                self._verdict = _TOO_MUCH
                return
            await self._write()
            await self._window()

    async def _window(self) -> None:
        """Waits while the replica has as much as it may have. While there is none, frames wait here."""
        frames = self._frames
        while self._call is not None and (frames.undone >= _WINDOW_FRAMES or frames.undone_size > _WINDOW_BYTES):
            self._room = asyncio.Event()
            await self._room.wait()
        self._room = None

    def _look_at_window(self) -> None:
        if self._room is not None:
            self._room.set()

    async def _close(self, code: int, reason: str) -> None:
        metrics.EDGE_CODEBUFF_CLOSED.labels(str(code)).inc()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except (TimeoutError, OSError) as error:
            # It is gone, or does not read.
            log.debug("codebuff_close_not_heard", connection_id=self._id, error=repr(error))

    # The replica's side.

    async def _write(self) -> None:
        """Writes what is to be written. Only one task does, the others leave theirs to it."""
        if self._writing:
            return
        self._writing = True
        try:
            while (call := self._call) is not None:
                request = self._next_request()
                if request is None:
                    return
                try:
                    await call.write(request)
                except PatchbayError:
                    # The relay finds how the call has ended, and what was written to it is written again.
                    if self._call is call:
                        return
        finally:
            self._writing = False

    def _next_request(self) -> ConnectRequest | None:
        if (frame := self._frames.next()) is not None:
            return ConnectRequest(frame=frame)
        if self._leaving and not self._leave_said:
            self._leave_said = True
            return ConnectRequest(leave=Leave())
        return None

    def _write_soon(self) -> None:
        """Writes beside the task of the socket, which may wait for its client."""
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="codebuff-writer")

    async def _relay(self) -> None:
        """Gives the connection to one replica after the other."""
        again = False
        pause = _PAUSE_SECONDS
        metrics.EDGE_CODEBUFF_UNATTACHED.inc()
        try:
            while True:
                started = time.monotonic()
                if (attached := await self._attach(again=again)) is not None:
                    again = True
                    await self._stay(*attached)
                    if time.monotonic() - started > _STEADY_SECONDS:
                        pause = _PAUSE_SECONDS
                await self._replicas.changed(seconds=pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        finally:
            metrics.EDGE_CODEBUFF_UNATTACHED.dec()

    async def _attach(self, *, again: bool) -> tuple[WorkerRecord, SocketCall] | None:
        """Gives the connection to a replica. None: there is none, or it did not take it."""
        async with self._attaching:
            worker = self._replicas.pick()
            if worker is None:
                return None
            call = self._connections.get(worker.address).connect()
            try:
                async with asyncio.timeout(_ATTACH_SECONDS):
                    await self._hand_over(call, again=again)
            except (PatchbayError, TimeoutError) as error:
                call.close()
                self._avoid(worker, error)
                log.debug("codebuff_replica_not_there", worker_id=worker.id, error=str(error))
                return None
            except BaseException:
                call.close()
                raise
            return worker, call

    async def _stay(self, worker: WorkerRecord, call: SocketCall) -> None:
        """Relays for as long as a replica has the connection."""
        reason = "moved"
        metrics.EDGE_CODEBUFF_UNATTACHED.dec()
        try:
            self._begin(worker, call)
            await self._read_replica(call)
        except PatchbayError as error:
            reason = "lost"
            self._avoid(worker, error)
            log.info("codebuff_replica_lost", connection_id=self._id, worker_id=worker.id, error=str(error))
        finally:
            metrics.EDGE_CODEBUFF_UNATTACHED.inc()
            self._finish(call)
        metrics.EDGE_CODEBUFF_REATTACHED.labels(reason).inc()

    def _avoid(self, worker: WorkerRecord, error: Exception) -> None:
        # A replica that is full is there, and has room again before long.
        if not (isinstance(error, WorkerFailure) and error.full):
            self._replicas.quarantine(worker)

    async def _hand_over(self, call: SocketCall, *, again: bool) -> None:
        attach = Attach(
            connection_id=self._id,
            headers=self._headers,
            again=again,
            lost_prompts=self._frames.lost_prompts,
            login_page=self._login_page,
            client_address=self._address,
        )
        await call.write(ConnectRequest(attach=attach))
        first = await call.read()
        if first is None or first.WhichOneof("message") != "attached":
            raise WorkerFailure("the replica did not take the connection")

    def _begin(self, worker: WorkerRecord, call: SocketCall) -> None:
        if self._frames.rewind() >= _MOST_ATTEMPTS:
            self.end(_INTERNAL_ERROR, "no replica could answer this")
            return
        self._call = call
        self._worker_id = worker.id
        self._leave_said = self._nothing_runs = False
        if self._frames.has_unsent or self._leaving:
            self._write_soon()
        if self._replicas.drains(self._worker_id):
            self._move_if_idle()

    def _finish(self, call: SocketCall) -> None:
        self._call = None
        self._worker_id = ""
        if self._moving is not None:
            self._moving.cancel()
            self._moving = None
        call.close()
        self._look_at_window()
        if self._leaving and self._frames.idle:
            self.end(GOING_AWAY, _SHUTTING_DOWN)

    async def _read_replica(self, call: SocketCall) -> None:
        pieces: list[str] = []
        while (message := await call.read()) is not None:
            if message.frame.continued:
                pieces.append(message.frame.text)
                continue
            await self._heard_from_replica(message, pieces)
            if self._nothing_runs and self._frames.idle:
                self.end(GOING_AWAY, _SHUTTING_DOWN)
            elif self._replicas.drains(self._worker_id):
                self._move_if_idle()

    async def _heard_from_replica(self, message: ConnectResponse, pieces: list[str]) -> None:
        frames = self._frames
        match message.WhichOneof("message"):
            case "frame":
                frame = message.frame
                if frame.prompt_id and frame.ends_prompt:
                    frames.prompt_ended(frame.prompt_id)
                elif frame.prompt_id:
                    frames.prompt_said(frame.prompt_id)
                self._look_at_window()
                pieces.append(frame.text)
                text = "".join(pieces)
                pieces.clear()
                await self._say(text)
            case "frames_done":
                frames.done(message.frames_done.number)
                self._look_at_window()
            case "prompt_begun":
                frames.prompt_begun(message.prompt_begun.number, message.prompt_begun.prompt_id)
                self._look_at_window()
            case "prompt_ended":
                frames.prompt_ended(message.prompt_ended.prompt_id)
                self._look_at_window()
            case "idle":
                self._nothing_runs = True

    async def _say(self, text: str) -> None:
        self._sending = True
        try:
            await self._send({"type": "websocket.send", "text": text})
        finally:
            self._sending = False

    def _move_if_idle(self) -> None:
        """Ends our side of the call, so that the replica ends its own, and the relay goes on with another one."""
        if self._call is None or not self._frames.idle or self._leaving:
            return
        call, self._call = self._call, None
        self._moving = asyncio.get_running_loop().call_later(_MOVE_SECONDS, call.close)
        self._mover = asyncio.create_task(_end(call), name="codebuff-mover")

    def _on_relay_end(self, relay: asyncio.Task[None]) -> None:
        if relay.cancelled() or (error := relay.exception()) is None:
            return
        if isinstance(error, OSError):
            # What the server raises when the client is gone.
            self.end(GOING_AWAY, "the client is gone")
            return
        log.error("codebuff_relay_failed", connection_id=self._id, exc_info=error)
        self.end(_INTERNAL_ERROR, "internal error")


async def _end(call: SocketCall) -> None:
    try:
        await call.end()
    except WorkerFailure as error:
        log.debug("codebuff_call_had_ended", error=str(error))
