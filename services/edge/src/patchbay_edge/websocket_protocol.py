"""The edge's side of a WebSocket, below ASGI: uvicorn's, but for how it comes to an end."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# What a client has to take the last of what it is told. One that reads nothing would keep the connection for ever.
_LAST_WORDS_SECONDS = 2.0


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket.

    Uvicorn closes the connection as soon as it has refused what a client sends, for example a frame that is too large.
    The system then answers what still comes with a reset, and the client never reads the close code. Here only our
    direction is closed at once; the other one is read from, and forgotten, until the client has closed it as well.

    Uvicorn closes a connection once the client has taken all that it was told. Here there is an end to that.
    """

    _refused = False

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

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
