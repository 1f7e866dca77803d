"""Clients for one streamed answer at a time over one WebSocket."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import Self

import msgspec
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from patchbay_bench.jobs import ClientDialect, Job
from patchbay_bench.stream import RawAnswer, StreamBroken, StreamClient
from patchbay_bench.wire import CODEBUFF_ENDS, ENDS


class _Response(msgspec.Struct, frozen=True):
    id: str = ""


class _Event(msgspec.Struct, frozen=True):
    type: str = ""
    response: _Response = _Response()


class _Action(msgspec.Struct, frozen=True):
    type: str = ""


class _Message(msgspec.Struct, frozen=True):
    type: str = ""
    data: _Action = _Action()


_decode = msgspec.json.Decoder(_Event).decode
_decode_message = msgspec.json.Decoder(_Message).decode


def frame_of(body: str, **fields: str) -> bytes:
    """A request as a frame, with more fields, each as JSON."""
    more = "".join(f',"{name}":{value}' for name, value in fields.items())
    return f'{{"type":"response.create"{more},{body[1:]}'.encode()


class SocketClient(StreamClient, ABC):
    """One connection. The frames of an answer are kept as the events of a stream would be."""

    def __init__(self, dialect: ClientDialect) -> None:
        super().__init__(dialect)
        self._protocol: ClientProtocol | None = None
        self._upgraded: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def upgrade(cls, job: Job) -> Self:
        """Opens a connection. Raises OSError, StreamBroken when the upgrade is refused."""
        client = await cls.connect(job.host, job.port, job.dialect)
        protocol = client._protocol = ClientProtocol(parse_uri(f"ws://{job.host}:{job.port}{job.path}"), max_size=None)
        request = protocol.connect()
        for name, value in job.headers.items():
            request.headers[name] = value
        protocol.send_request(request)
        client._flush()
        await client._upgraded
        return client

    def start(self, request: bytes) -> asyncio.Future[RawAnswer]:
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        self._content = loop.create_future()
        self._answer = RawAnswer(time.perf_counter(), status=200)
        self._send(request)
        return self._ended

    def data_received(self, data: bytes) -> None:
        protocol, answer = self._protocol, self._answer
        if protocol is None:
            return
        if answer is not None and answer.first_byte_at is None:
            answer.first_byte_at = time.perf_counter()
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Response):
                self._on_response(protocol)
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self._on_text(bytes(event.data))
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if not self._upgraded.done():
            self._upgraded.set_exception(StreamBroken("the connection ended before its upgrade"))

    def _on_response(self, protocol: ClientProtocol) -> None:
        if protocol.handshake_exc is None:
            self._upgraded.set_result(None)
        elif isinstance(protocol.handshake_exc, InvalidHandshake):
            self._upgraded.set_exception(StreamBroken(str(protocol.handshake_exc)))

    @abstractmethod
    def _on_text(self, event: bytes) -> None:
        """Takes a frame."""

    def _take(self, event: bytes, *, is_last: bool) -> None:
        """Adds a frame to the running answer."""
        self.on_body(b"data: " + event + b"\n\n")
        answer, ended = self._answer, self._ended
        if not is_last or answer is None or ended is None:
            return
        answer.ended_at = time.perf_counter()
        self._answer = self._ended = None
        if not ended.done():
            ended.set_result(answer)

    def _send(self, text: bytes) -> None:
        if self._protocol is None or not self.open:
            raise StreamBroken("not connected")
        self._protocol.send_text(text)
        self._flush()

    def _flush(self) -> None:
        if self._protocol is not None and self._transport is not None:
            for data in self._protocol.data_to_send():
                self._transport.write(data)


class ResponsesSocket(SocketClient):
    """A connection of the Responses API."""

    def __init__(self, dialect: ClientDialect) -> None:
        super().__init__(dialect)
        self._goes_on = False
        self._last_response = ""

    @classmethod
    async def upgrade(cls, job: Job) -> Self:
        client = await super().upgrade(job)
        if job.before:
            await client.start(frame_of(job.before, generate="false"))
            client._goes_on = True
        return client

    def start(self, request: bytes) -> asyncio.Future[RawAnswer]:
        if self._goes_on:
            request = request[:-1] + f',"previous_response_id":"{self._last_response}"}}'.encode()
        return super().start(request)

    def _on_text(self, event: bytes) -> None:
        decoded = _decode(event)
        is_last = decoded.type in ENDS
        if is_last:
            self._last_response = decoded.response.id
        self._take(event, is_last=is_last)


class CodebuffSocket(SocketClient):
    """A connection of Codebuff's, one prompt after the other. A request is a prompt's data without its id."""

    def __init__(self, dialect: ClientDialect) -> None:
        super().__init__(dialect)
        self._sent = 0
        self._acknowledged: asyncio.Future[None] | None = None

    def start(self, request: bytes) -> asyncio.Future[RawAnswer]:
        head = f'{{"type":"action","txid":{self._sent},"data":{{"type":"prompt","promptId":"bench{self._sent}",'
        self._sent += 1
        return super().start(head.encode() + request[1:] + b"}")

    def ping(self) -> asyncio.Future[None]:
        """Pings; the future is done when that is acknowledged. Raises StreamBroken."""
        self._acknowledged = asyncio.get_running_loop().create_future()
        self._send(f'{{"type":"ping","txid":{self._sent}}}'.encode())
        self._sent += 1
        return self._acknowledged

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        waiting = self._acknowledged
        if waiting is not None and not waiting.done():
            waiting.set_exception(StreamBroken("the connection ended before a ping was acknowledged"))
            waiting.exception()

    def _on_text(self, event: bytes) -> None:
        message = _decode_message(event)
        if message.type == "action":
            self._take(event, is_last=message.data.type in CODEBUFF_ENDS)
        elif message.type == "ack" and self._acknowledged is not None and not self._acknowledged.done():
            self._acknowledged.set_result(None)
