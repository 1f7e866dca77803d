"""The edge's side of a WebSocket, below ASGI: uvicorn's, but for how it comes to an end."""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

# What a client has to take the last of what it is told. One that reads nothing would keep the connection for ever.
_LAST_WORDS_SECONDS = 2.0


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket.

    Uvicorn closes the connection as soon as it has refused what a client sends, for example a frame that is too large.
    The system then answers what still comes with a reset, and the client never reads the close code. Here only our
    direction is closed at once; the other one is read from, and forgotten, until the client has closed it as well.

    Uvicorn closes a connection once the client has taken all that it was told. Here there is an end to that.

    Uvicorn keeps each piece of a message by itself, however small, and answers each ping of one that does not read.
    Here a message takes no more than its size, and such a client gets the last pong when it reads again.
    """

    _refused = False
    _pong = b""

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def handle_cont(self, event: Frame) -> None:
        if not isinstance(self.frames[0], bytearray):
            # It is joined, measured and decoded like the bytes that uvicorn says there are.
            self.frames = cast("list[bytes]", [bytearray(self.frames[0])])
        self.frames[0] += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        # The answers to all pings that came together; then none for the others of them.
        pongs = self.conn.data_to_send()
        if self.writable.is_set():
            self.transport.write(b"".join(pongs))
        elif pongs:
            self._pong = pongs[-1]

    def resume_writing(self) -> None:
        if self._pong:
            self.transport.write(self._pong)
            self._pong = b""
        super().resume_writing()

    def handle_parser_exception(self) -> None:
        self._refused = True
        close = self.conn.close_sent
        assert close is not None
        self.queue.put_nowait({"type": "websocket.disconnect", "code": close.code, "reason": close.reason})
        self.stop_keepalive()
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.write_eof()
        # From now on, who sends is told that the client is gone.
        self.close_sent = self.disconnected = True
        self.writable.set()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        if self.close_timer is not None:
            # The client's answer to our close is waited for.
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)
        elif self.transport.get_write_buffer_size():
            self.loop.call_later(_LAST_WORDS_SECONDS, self.transport.abort)

    def shutdown(self) -> None:
        super().shutdown()
        self.loop.call_later(_LAST_WORDS_SECONDS / 2, self.transport.abort)
