"""Asks models for the agents: through the workers of their backends, as the edge does for its clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import structlog

from patchbay.canonical import Chat, ChatEvent
from patchbay.codebuff.usage import credits_of
from patchbay.dispatch.attempts import Attempts
from patchbay.dispatch.picking import Picker
from patchbay.dispatch.routing import Router, Target
from patchbay.dispatch.transport import Connections
from patchbay.errors import UPSTREAM, PatchbayError, make_error
from patchbay.settings import Settings
from patchbay.state.connection import Client
from patchbay.state.registry import Directory, WorkerRecord
from patchbay.telemetry.meter import Meter
from patchbay_proto.v1.provider_pb2 import Caller, ChatRequest, Credential

log = structlog.get_logger(__name__)

# Routes may be for Codebuff's agents alone, with this prefix.
CODEBUFF_PREFIX = "/codebuff"


class Dispatch:
    """The `Models` of `ports`: every call goes to a backend's worker."""

    def __init__(self, settings: Settings, redis: Client) -> None:
        backends = settings.enabled_backends()
        self._directory = Directory(redis, timeout=settings.redis.timeout_seconds)
        self._connections = Connections()
        self._router = Router(settings.enabled_routes(), backends, settings.default_backend)
        self._attempts = Attempts(Picker(self._directory, self._connections), self._connections)
        self._cost_margin = settings.codebuff.cost_margin
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Learns which workers live, and keeps knowing it until `aclose`."""
        await self._directory.refresh()
        self._watching = asyncio.create_task(self._directory.run(), name="directory")

    async def aclose(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))
            self._watching = None
        await self._connections.aclose()

    async def stream(
        self,
        chat: Chat,
        *,
        model: str,
        caller: Caller,
        request_id: str,
        session_id: str,
        credential: Credential | None = None,
    ) -> AsyncGenerator[Sequence[ChatEvent], None]:
        """See `Models.stream`."""
        targets = self._router.targets(CODEBUFF_PREFIX, model)
        first = targets[0].backend

        def request_for(target: Target, _: WorkerRecord) -> ChatRequest:
            # The caller's credential is for the provider that was meant, and for no other.
            meant = target.backend.credentials == "pass_through" and target.backend.base_url == first.base_url
            return ChatRequest(
                caller=caller,
                request_id=request_id,
                session_id=session_id,
                backend=target.backend.name,
                model=target.model,
                chat=chat,
                credential=credential if meant else None,
            )

        # A session's name is the client's own choice: two callers that choose the same one must not meet.
        conversation = f"{len(caller.key_id)}:{caller.key_id}{session_id}" if session_id else ""
        opened = await self._attempts.open(targets, request_for, is_committed=lambda: False, conversation=conversation)
        meter = Meter()
        try:
            async with aclosing(opened.windows()) as windows:
                async for events in windows:
                    meter.see(events)
                    for number, event in enumerate(events):
                        if event.HasField("error"):
                            # What came before it in the same group has come as well.
                            yield events[:number]
                            raise PatchbayError(event.error)
                    yield events
        finally:
            opened.call.close()
            self._record(meter, opened.target, caller, request_id)
        if not meter.finished:
            raise PatchbayError(make_error(UPSTREAM, "the model's answer ended before its end"))

    def _record(self, meter: Meter, target: Target, caller: Caller, request_id: str) -> None:
        """Counts an answer, whole or not, once: in the metrics and in the log, each with its caller."""
        backend, model, key_id = target.backend.name, target.model, caller.key_id
        cost = credits_of(meter.usage, self._cost_margin) or 0
        meter.record_agent(backend, model, key_id=key_id, cost=cost)
        log.info(
            "agent_answer",
            request_id=request_id,
            key_id=key_id,
            backend=backend,
            model=model,
            complete=meter.finished,
            credits=cost,
            **meter.counts(),
        )
