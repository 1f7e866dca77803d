"""The Responses API over a WebSocket: one connection, one response after the other.

Each `response.create` frame is a request like any other. What the connection adds is its memory of the last response,
so that the next frame need not repeat what was said, even where nothing is stored.

https://platform.openai.com/docs/guides/websocket-mode
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass

import msgspec
from uvicorn.protocols.utils import ClientDisconnected

from patchbay.canonical import ChatEvent, Finished, Started, Usage
from patchbay.dialects.base import AnswerOptions, ErrorBody
from patchbay.dialects.openai_responses import DIALECT as RESPONSES
from patchbay.dialects.surrogates import mend_text
from patchbay.dispatch.callers import Callers
from patchbay.errors import NOT_FOUND, UNAVAILABLE, InvalidRequest, PatchbayError, make_error
from patchbay.settings import Settings
from patchbay.state.admission import Admission, Lease, Limits
from patchbay.telemetry import metrics
from patchbay_edge import upgrades
from patchbay_edge.endpoints import Endpoint, Endpoints, Operation
from patchbay_edge.exchange import ClientGone, Receive, Scope, Send
from patchbay_edge.gateway import Gateway
from patchbay_edge.responses.frames import FrameExchange, error_frame
from patchbay_edge.responses.turns import Memory

# Frames that wait for the response before them; together they may be as large as one request.
_MOST_WAITING = 16
_GOING_AWAY = 1001
_UNSUPPORTED_DATA = 1003
_POLICY_VIOLATION = 1008
_INTERNAL_ERROR = 1011
# What uvicorn raises for a message to a client that is gone, and to one that it has closed the connection to itself.
_IS_CLOSED = (ClientDisconnected, RuntimeError)
# A socket is a connection of the cluster. A key's own limits are for responses, each of which is admitted by itself.
_NO_LIMITS = Limits()
_NO_KEY = "#sockets"
# What belongs to a frame and not to the request in it.
_FRAME_FIELDS = ("type", "event_id", "generate", "stream_id")

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Sockets:
    """Serves the WebSockets of one edge.

    Args:
        endpoints: Which paths there are.
    """

    def __init__(
        self, settings: Settings, *, endpoints: Endpoints, callers: Callers, admission: Admission, gateway: Gateway
    ) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._callers = callers
        self._admission = admission
        self._gateway = gateway
        self._open: set[_Connection] = set()
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one WebSocket from its upgrade to its close."""
        request_id = f"req_{uuid.uuid4().hex}"
        headers = upgrades.headers_of(scope)
        await receive()
        lease: Lease | None = None
        try:
            endpoint = self._endpoint(scope["path"])
            upgrades.check_origin(headers)
            self._check_not_draining()
            self._callers.identify(headers)
            lease = await self._admission.admit(request_id=request_id, key_id=_NO_KEY, limits=_NO_LIMITS)
            # A drain that began meanwhile has not seen this socket, and would wait for its end in vain.
            self._check_not_draining()
        except PatchbayError as error:
            if lease is not None:
                await lease.release()
            await upgrades.refuse(send, RESPONSES.errors.write(error.error, request_id))
        connection = _Connection(scope, endpoint, self._gateway, self._settings, receive, send)
        self._open.add(connection)
        self._all_closed.clear()
        metrics.EDGE_SOCKETS.set(len(self._open))
        try:
            await send({"type": "websocket.accept", "headers": [(b"x-request-id", request_id.encode())]})
            await connection.run()
        finally:
            self._open.discard(connection)
            metrics.EDGE_SOCKETS.set(len(self._open))
            if not self._open:
                self._all_closed.set()
            await lease.release()

    async def drain(self) -> None:
        """Closes every socket as soon as it answers nothing, and returns when all are closed.

        Uvicorn would cut them off at once, in the middle of their answers.
        """
        for connection in list(self._open):
            connection.drain()
        await self._all_closed.wait()

    def _check_not_draining(self) -> None:
        if self._gateway.draining:
            raise PatchbayError(make_error(UNAVAILABLE, "this server is shutting down; try again", retry_after=1))

    def _endpoint(self, path: str) -> Endpoint:
        endpoint = self._endpoints.find(path)
        if endpoint is None or endpoint.dialect is not RESPONSES or endpoint.operation is not Operation.CHAT:
            raise PatchbayError(make_error(NOT_FOUND, f"there is no WebSocket at {path}"))
        return endpoint


@dataclass(slots=True)
class _Frame:
    """One `response.create`."""

    body: bytes
    # False: nothing is to be generated, only remembered.
    generate: bool


class _Connection:
    """One accepted socket."""

    def __init__(
        self, scope: Scope, endpoint: Endpoint, gateway: Gateway, settings: Settings, receive: Receive, send: Send
    ) -> None:
        self._scope = scope
        self._endpoint = endpoint
        self._gateway = gateway
        self._settings = settings
        self._receive = receive
        self._send = send
        self._memory = Memory(settings.limits.max_request_bytes)
        # None: the end.
        self._waiting: asyncio.Queue[str | None] = asyncio.Queue()
        self._waiting_size = 0
        self._gone = asyncio.Event()
        self._answering = False
        self._draining = False

    async def run(self) -> None:
        """Answers frames until the client leaves or the edge drains."""
        reader = asyncio.create_task(self._read(), name="socket-reader")
        try:
            while not self._gone.is_set():
                text = await self._waiting.get()
                if text is None:
                    break
                self._waiting_size -= len(text)
                self._answering = True
                await self._answer(text)
                self._answering = False
                if self._draining:
                    break
            if not self._gone.is_set():
                await self._close(_GOING_AWAY, "shutting down")
        finally:
            reader.cancel()
            await asyncio.wait([reader])

    def drain(self) -> None:
        """Closes the socket, after the response that is being answered."""
        self._draining = True
        if not self._answering:
            self._waiting.put_nowait(None)

    async def _read(self) -> None:
        """Takes frames as they come: while one waited to be taken, the client could not be seen to leave."""
        try:
            while True:
                message = await self._receive()
                if message["type"] == "websocket.disconnect":
                    return
                text = message.get("text")
                if text is None:
                    await self._close(_UNSUPPORTED_DATA, "only text frames")
                    return
                if not self._has_room(text):
                    await self._close(_POLICY_VIOLATION, "too many frames wait for their answers")
                    return
                self._waiting_size += len(text)
                self._waiting.put_nowait(text)
        finally:
            self._gone.set()
            self._waiting.put_nowait(None)

    def _has_room(self, text: str) -> bool:
        most = self._settings.limits.max_request_bytes
        return self._waiting.qsize() < _MOST_WAITING and self._waiting_size + len(text) <= most

    async def _close(self, code: int, reason: str) -> None:
        self._gone.set()
        with suppress(*_IS_CLOSED):
            await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _answer(self, text: str) -> None:
        request_id = f"req_{uuid.uuid4().hex}"
        try:
            frame = _read_frame(text, self._settings.limits.max_request_bytes)
            if frame.generate:
                await self._generate(frame.body, request_id)
            else:
                await self._warm_up(frame.body, request_id)
        except PatchbayError as error:
            await self._say_error(RESPONSES.errors.write(error.error, request_id))
        except ClientGone:
            metrics.EDGE_DISCONNECTS.inc()

    async def _generate(self, body: bytes, request_id: str) -> None:
        exchange = FrameExchange(self._scope, body, self._say, self._gone, request_id=request_id, memory=self._memory)
        await self._gateway.serve(self._endpoint, exchange)
        if exchange.started and not exchange.ended:
            # No frame says so, and the client would wait for the end.
            await self._close(_INTERNAL_ERROR, "the answer broke off")

    async def _say_error(self, error: ErrorBody) -> None:
        with suppress(ClientGone):
            await self._say(error_frame(error))

    async def _say(self, text: str) -> None:
        try:
            await self._send({"type": "websocket.send", "text": text})
        except _IS_CLOSED as error:
            self._gone.set()
            raise ClientGone from error

    async def _warm_up(self, body: bytes, request_id: str) -> None:
        """Remembers what the next frame will go on from. It costs nothing, so no backend is asked."""
        exchange = FrameExchange(self._scope, body, self._say, self._gone, request_id=request_id, memory=self._memory)
        turn = await self._gateway.begin_warm_up(self._endpoint, exchange)
        model = msgspec.json.decode(_decode_fields(body).get("model", b'""'))
        options = AnswerOptions(
            stream=True,
            model=model if isinstance(model, str) else "",
            fallback_id=request_id,
            created=int(time.time()),
            echo=turn.echo,
        )
        writer = RESPONSES.write_events(options)
        nothing = [
            ChatEvent(started=Started()),
            ChatEvent(usage=Usage(input_tokens=0, output_tokens=0)),
            ChatEvent(finished=Finished(stop_reason=Finished.STOP_REASON_END_TURN)),
        ]
        said = exchange.frames(writer.feed(nothing) + writer.close())
        turn.warm_up(exchange.response_id)
        for frame in said:
            await self._say(frame)


def _read_frame(text: str, max_bytes: int) -> _Frame:
    """Reads a client's frame.

    Raises:
        InvalidRequest: It is no `response.create`.
    """
    data = text.encode()
    if len(data) > max_bytes:
        raise InvalidRequest(f"The frame is larger than {max_bytes} bytes.")
    try:
        fields = _read_fields(data)
        kind = msgspec.json.decode(fields.get("type", msgspec.Raw(b"null")))
        generate = msgspec.json.decode(fields.get("generate", msgspec.Raw(b"true")))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequest(f"We could not parse the JSON of your frame: {error}") from error
    if kind != "response.create":
        raise InvalidRequest(f"Invalid value: '{kind}'. Supported values are: 'response.create'.", "type")
    if not isinstance(generate, bool):
        raise InvalidRequest("Invalid type for 'generate': expected a boolean.", "generate")
    request = {name: value for name, value in fields.items() if name not in _FRAME_FIELDS}
    request["stream"] = msgspec.Raw(b"true")
    return _Frame(msgspec.json.encode(request), generate)


def _read_fields(data: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _decode_fields(data)
    except msgspec.DecodeError:
        # JavaScript clients leave halves of cut emoji behind, which no JSON decoder takes.
        return _decode_fields(mend_text(data))
