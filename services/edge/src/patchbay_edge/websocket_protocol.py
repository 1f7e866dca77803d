"""The edge's side of a WebSocket, below ASGI: uvicorn's, but for how a client is told that what it sends is refused."""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket.

    Uvicorn closes the connection as soon as it has said why, for example that a frame is too large. The system then
    answers what the client still sends with a reset, and the client never reads the close code. Here only our direction
    is closed at once; the other one is read from, and forgotten, until the client has closed it or its time is up.
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
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)
