"""Codebuff's WebSocket: upgrades, limits, heartbeat and drain. What is said in it is the business of codebuff-ws."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Mapping

from starlette.requests import HTTPConnection

from patchbay.addresses import network_of
from patchbay.dialects.openai_responses import DIALECT as RESPONSES
from patchbay.dispatch.callers import KEY_HEADER, Callers
from patchbay.dispatch.transport import Connections
from patchbay.errors import NOT_FOUND, OVERLOADED, RATE_LIMITED, UNAVAILABLE, PatchbayError, make_error
from patchbay.settings import Settings
from patchbay.state.admission import Admission, Lease
from patchbay.state.registry import Directory
from patchbay.telemetry import metrics
from patchbay_edge import upgrades
from patchbay_edge.codebuff.frames import Budget
from patchbay_edge.codebuff.login import page_url
from patchbay_edge.codebuff.relay import GOING_AWAY, Relay
from patchbay_edge.codebuff.replicas import Replicas
from patchbay_edge.exchange import Receive, Scope, Send
from patchbay_edge.server_sockets import OWN_HEARTBEAT

# The headers that say who calls.
_CALLER_HEADERS = ("authorization", "x-api-key", KEY_HEADER)
# How many sockets are given to replicas at a time: after the death of one, all that it had are.
_ATTACHING = 64


class CodebuffSockets:
    """Serves the WebSockets of Codebuff's clients at one edge.

    Args:
        admission: With the limits of `codebuff`, and keys of its own.
        draining: Whether the edge is about to shut down.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        callers: Callers,
        admission: Admission,
        directory: Directory,
        connections: Connections,
        draining: Callable[[], bool],
    ) -> None:
        self._settings = settings.codebuff
        self._callers = callers
        self._admission = admission
        self._connections = connections
        self._draining = draining
        self._replicas = Replicas(directory, connections, on_drain=self._move)
        self._attaching = asyncio.Semaphore(_ATTACHING)
        self.budget = Budget(self._settings.max_kept_bytes)
        self._open: set[Relay] = set()
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    @property
    def path(self) -> str:
        return self._settings.websocket_path

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one WebSocket from its upgrade to its close."""
        request_id = f"req_{uuid.uuid4().hex}"
        await receive()
        try:
            headers = upgrades.headers_of(scope)
            lease = await self._admit(scope, headers, request_id)
        except PatchbayError as error:
            await upgrades.refuse(send, RESPONSES.errors.write(error.error, request_id))
        relay = Relay(
            uuid.uuid4().hex,
            {name: headers[name] for name in _CALLER_HEADERS if name in headers},
            receive,
            send,
            login_page=page_url(HTTPConnection(scope)),
            address=_address(scope),
            replicas=self._replicas,
            connections=self._connections,
            attaching=self._attaching,
            max_frame_bytes=self._settings.max_frame_bytes,
            budget=self.budget,
        )
        # The server keeps the scope for as long as the socket is open; nobody reads these any more, and they are large.
        del headers
        scope["headers"] = []
        # Clients ping by themselves. While one may not write, its answer to a ping would not be read either.
        scope["extensions"][OWN_HEARTBEAT] = relay.hear_part
        self._open.add(relay)
        self._all_closed.clear()
        metrics.EDGE_CODEBUFF_SOCKETS.set(len(self._open))
        try:
            await send({"type": "websocket.accept", "headers": [(b"x-request-id", request_id.encode())]})
            await relay.run()
        finally:
            self._open.discard(relay)
            metrics.EDGE_CODEBUFF_SOCKETS.set(len(self._open))
            if not self._open:
                self._all_closed.set()
            await lease.release()

    async def run(self) -> None:
        """Closes the sockets of clients that are gone, until cancelled."""
        seconds = self._settings.heartbeat_timeout_seconds
        while True:
            await asyncio.sleep(min(seconds / 10, 1.0))
            for relay in list(self._open):
                relay.end_if_silent(seconds)

    async def drain(self, seconds: float) -> None:
        """Closes every socket as soon as nothing runs in it, at the latest after so long."""
        for relay in list(self._open):
            relay.leave()
        try:
            async with asyncio.timeout(seconds):
                await self._all_closed.wait()
        except TimeoutError:
            for relay in list(self._open):
                relay.end(GOING_AWAY, "shutting down")
            await self._all_closed.wait()

    async def _admit(self, scope: Scope, headers: Mapping[str, str], request_id: str) -> Lease:
        if not self._settings.enabled:
            raise PatchbayError(make_error(NOT_FOUND, f"there is no WebSocket at {scope['path']}"))
        upgrades.check_origin(headers)
        self._check_not_draining()
        try:
            lease = await self._admission.admit(request_id=request_id, key_id=self._caller(scope, headers))
        except PatchbayError as error:
            raise _refused(error) from error
        try:
            # A drain that began meanwhile has not seen this socket, and would wait for its end in vain.
            self._check_not_draining()
        except PatchbayError:
            await lease.release()
            raise
        return lease

    def _check_not_draining(self) -> None:
        if self._draining():
            raise PatchbayError(make_error(UNAVAILABLE, "this server is shutting down; try again", retry_after=1))

    def _caller(self, scope: Scope, headers: Mapping[str, str]) -> str:
        """Whose socket it is. Most clients say who they are only in their first prompt."""
        try:
            key_id = self._callers.identify(headers).caller.key_id
        except PatchbayError:
            key_id = ""
        if key_id:
            return f"key:{key_id}"
        return f"address:{network_of(_address(scope))}"

    def _move(self, worker_ids: Collection[str]) -> None:
        for relay in list(self._open):
            relay.move_from(worker_ids)


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _refused(error: PatchbayError) -> PatchbayError:
    denied = {OVERLOADED: "codebuff_connections", RATE_LIMITED: "codebuff_connections_per_key"}
    metrics.EDGE_DENIED.labels(denied.get(error.error.code, "redis_down")).inc()
    if error.error.code not in denied:
        return error
    message = "there are as many WebSockets as there may be"
    if error.error.code == RATE_LIMITED:
        message = "this caller has as many WebSockets as it may have"
    return PatchbayError(make_error(OVERLOADED, message, retry_after=error.error.retry_after or 1.0))
