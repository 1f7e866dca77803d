"""WebSocket mode of the Responses API.

Each `response.create` frame is answered as a request over HTTP would be: the events of its stream become frames, and an
answer with an error status an error frame. https://platform.openai.com/docs/guides/websocket-mode
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import msgspec

from patchbay_standin.answering import JSON, Answering
from patchbay_standin.errors import ProviderError, invalid_request
from patchbay_standin.exchange import ClientGone, Exchange, Headers, Message, Receive, Scope, Send
from patchbay_standin.library import HEADER, Library
from patchbay_standin.openai_responses import ResponsesCall
from patchbay_standin.records import Outcome
from patchbay_standin.script import JsonObject, ScriptError

# How the records call a frame that asks for a response.
METHOD: Final = "WEBSOCKET"

_CREATE: Final = "response.create"
_DATA: Final = b"data: "
_END: Final = b"\n\n"

_encode = msgspec.json.Encoder().encode

# Serves one request with what is given, and records it.
Recorded: TypeAlias = Callable[[Scope, Receive, Send, Callable[[Exchange], Awaitable[Outcome]]], Awaitable[None]]
NewCall: TypeAlias = Callable[[], ResponsesCall]


class WebSocketMode:
    """Serves connections."""

    def __init__(self, answering: Answering, library: Library, recorded: Recorded) -> None:
        self._answering = answering
        self._library = library
        self._recorded = recorded

    async def serve(self, scope: Scope, receive: Receive, send: Send, new_call: NewCall | None) -> None:
        """Serves one connection; `new_call` makes the wire of a frame, None: nothing is at the path."""
        await receive()
        upgrade = _Upgrade(send)
        await self._recorded(
            {**scope, "method": "GET"},
            receive,
            upgrade.send,
            lambda exchange: self._upgrade(exchange, upgrade, new_call),
        )
        if upgrade.is_accepted and new_call is not None:
            await _Connection(scope, receive, send, self._answering, self._recorded, new_call).run()

    async def _upgrade(self, exchange: Exchange, upgrade: _Upgrade, new_call: NewCall | None) -> Outcome:
        if new_call is None:
            await exchange.reply(404, [JSON], b'{"detail":"Not Found"}')
            return "error"
        call = new_call()
        exchange.entry.protocol = call.name
        try:
            call.authenticate(exchange.headers)
            refused = self._refused(exchange)
        except ProviderError as error:
            return await self._answering.refuse(exchange, call, error)
        except ScriptError as error:
            return await self._answering.refuse(exchange, call, invalid_request(str(error)))
        if refused is not None:
            return await self._answering.refuse(exchange, call, refused)
        await upgrade.accept(call.headers(exchange.entry.number))
        exchange.entry.status = 101
        return "completed"

    def _refused(self, exchange: Exchange) -> ProviderError | None:
        header = exchange.headers.get(HEADER)
        if header is None:
            return None
        script = self._library.peek(header)
        return ProviderError.scripted(script.upgrade) if script.upgrade is not None else None


class _Upgrade:
    """Turns the answer to the upgrade into what ASGI wants of it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_accepted = False

    async def accept(self, headers: Headers) -> None:
        """Opens the connection."""
        self.is_accepted = True
        await self._send({"type": "websocket.accept", "headers": headers})

    async def send(self, message: Message) -> None:
        """Refuses, as an HTTP response does."""
        await self._send({**message, "type": f"websocket.{message['type']}"})


class _Connection:
    """One open connection: one response at a time."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, answering: Answering, recorded: Recorded, new_call: NewCall
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._answering = answering
        self._recorded = recorded
        self._new_call = new_call
        self._gone = asyncio.Event()
        self._answer: _Frames | None = None

    async def run(self) -> None:
        """Serves frames until the client leaves."""
        async with asyncio.TaskGroup() as tasks:
            while (message := await self._receive())["type"] == "websocket.receive":
                text = message.get("text")
                reason = self._objection(text)
                if reason is not None or text is None:
                    await self._complain(reason or "")
                    continue
                call = self._new_call()
                self._answer = answer = _Frames(self._send, call)
                tasks.create_task(self._respond(text.encode(), call, answer))
            self._gone.set()

    def _objection(self, text: str | None) -> str | None:
        """What is wrong with a frame before it is looked into."""
        if text is None:
            return "Binary frames are not supported."
        try:
            kind = msgspec.json.decode(text, type=dict[str, object]).get("type")
        except msgspec.DecodeError as error:
            return f"The frame is no JSON object: {error}"
        if kind != _CREATE:
            return f"Unknown frame type: {kind!r}. Supported is '{_CREATE}'."
        if self._answer is not None and not self._answer.is_done:
            return "A response is already in progress on this connection."
        return None

    async def _complain(self, reason: str) -> None:
        error = {"type": "invalid_request_error", "code": "invalid_request", "message": reason, "param": None}
        frame = _encode({"type": "error", "status": 400, "error": error})
        await self._send({"type": "websocket.send", "text": frame.decode()})

    async def _respond(self, frame: bytes, call: ResponsesCall, answer: _Frames) -> None:
        given = False

        async def receive() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": frame}
            await self._gone.wait()
            return {"type": "http.disconnect"}

        await self._recorded(
            {**self._scope, "method": METHOD},
            receive,
            answer.send,
            lambda exchange: self._answering.answer(exchange, call),
        )


class _Frames:
    """Turns the response of a frame's request into frames."""

    def __init__(self, send: Send, call: ResponsesCall) -> None:
        self._send = send
        self._call = call
        self._status = 0
        self._headers: Headers = ()
        self._is_stream = False
        self._rest = b""
        # Whether the next frame may ask for a response.
        self.is_done = False

    async def send(self, message: Message) -> None:
        """Takes a message of an HTTP response. Raises ClientGone."""
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], message["headers"]
            self._is_stream = self._status == 200 and JSON not in self._headers
            preface = self._call.socket_preface() if self._is_stream else None
            if preface is not None:
                await self._frame(_encode(preface))
            return
        self._rest += message.get("body", b"")
        # Before the frame that tells the client so.
        self.is_done = not message.get("more_body")
        if self._is_stream:
            # What a cut leaves of an event is no frame.
            *events, self._rest = self._rest.split(_END)
            for event in events:
                _, found, data = event.partition(_DATA)
                if found:
                    await self._frame(data)
        elif self.is_done:
            await self._frame(_encode(self._error()))

    def _error(self) -> JsonObject:
        try:
            body = msgspec.json.decode(self._rest, type=JsonObject)
        except msgspec.DecodeError:
            body = {"detail": self._rest.decode()}
        error = body.get("error", {"type": "invalid_request_error", "code": None, "message": body.get("detail")})
        headers = {
            name.decode(): value.decode("latin-1") for name, value in self._headers if not name.startswith(b"content-")
        }
        return {"type": "error", "status": self._status, "error": error, "headers": headers}

    async def _frame(self, data: bytes) -> None:
        try:
            await self._send({"type": "websocket.send", "text": data.decode()})
        except OSError:
            raise ClientGone from None
