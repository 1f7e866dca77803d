"""Messages for every Codebuff client that follows a topic, whichever replica has its socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import msgspec
import structlog

from patchbay.state import keys
from patchbay.state.connection import Client, deadline
from patchbay.state.notices import messages

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 0.5

Listener: TypeAlias = "Callable[[dict[str, Any]], None]"


class _Message(msgspec.Struct, frozen=True):
    origin: str
    topic: str
    message: dict[str, Any]


class Topics:
    """Who follows which topic here, and the way to those elsewhere.

    Those at this replica are reached without Redis. A message is lost to replicas that cannot hear Redis when it is
    published.

    Args:
        redis: The client, from `connect`.
        replica_id: Unique to this process.
        timeout: Seconds that Redis may take for one call.
    """

    def __init__(self, redis: Client, *, replica_id: str, timeout: float = 0.5) -> None:
        self._redis = redis
        self._replica_id = replica_id
        self._timeout = timeout
        self._listeners: dict[str, set[Listener]] = {}
        self.listening = asyncio.Event()
        """Set once this replica hears what others publish."""

    def follow(self, topic: str, listener: Listener) -> None:
        """Has `listener` called with each message of a topic, once however often it follows."""
        self._listeners.setdefault(topic, set()).add(listener)

    def leave(self, topic: str, listener: Listener) -> None:
        """Ends what `follow` began; without it, does nothing."""
        if listeners := self._listeners.get(topic):
            listeners.discard(listener)
            if not listeners:
                del self._listeners[topic]

    async def publish(self, topic: str, message: dict[str, Any]) -> None:
        """Gives a message to all who follow the topic.

        Raises:
            RedisUnavailable: Only those at this replica have it.
        """
        self._deliver(topic, message)
        encoded = msgspec.json.encode(_Message(self._replica_id, topic, message))
        async with deadline(self._timeout):
            await self._redis.execute_command("PUBLISH", keys.CODEBUFF_TOPICS, encoded)

    async def run(self) -> None:
        """Listens to the other replicas until cancelled, through outages of Redis."""
        heard = messages(self._redis, keys.CODEBUFF_TOPICS, timeout=self._timeout, retry_seconds=_RETRY_SECONDS)
        async with aclosing(heard):
            async for text in heard:
                if text is None:
                    self.listening.set()
                else:
                    self._hear(text)

    def _hear(self, text: str) -> None:
        try:
            message = msgspec.json.decode(text, type=_Message)
        except msgspec.DecodeError as error:
            log.warning("no message for a topic", error=str(error))
            return
        if message.origin != self._replica_id:
            self._deliver(message.topic, message.message)

    def _deliver(self, topic: str, message: dict[str, Any]) -> None:
        for listener in tuple(self._listeners.get(topic, ())):
            listener(message)
