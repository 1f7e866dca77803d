"""Change notices from a Redis channel, for any number of listeners over one connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import cast

import structlog

from patchbay.state.connection import REDIS_ERRORS, Client, RedisUnavailable, deadline

log = structlog.get_logger(__name__)

_SILENCE_SECONDS = 10.0


async def messages(
    redis: Client, channel: str, *, timeout: float, retry_seconds: float
) -> AsyncGenerator[str | None, None]:
    """The messages of a channel, through outages of Redis; None whenever a subscription stands, before its messages.

    Args:
        redis: The client, from `connect`.
        timeout: Seconds that Redis may take to subscribe.
        retry_seconds: Seconds between attempts.
    """
    while True:
        try:
            async with deadline(timeout):
                await redis.initialize()  # a cluster has no place to subscribe at before it knows its slots
            async with aclosing(redis.pubsub(ignore_subscribe_messages=True)) as subscription:
                await subscription.subscribe(channel)
                _go_if_cancelled()
                yield None
                while True:
                    message = await subscription.get_message(timeout=_SILENCE_SECONDS)
                    _go_if_cancelled()
                    if message is not None:
                        yield cast(bytes, message["data"]).decode()
        except (*REDIS_ERRORS, RedisUnavailable) as error:
            log.debug("no change notices from redis", channel=channel, error=str(error))
            _go_if_cancelled()
        await asyncio.sleep(retry_seconds)


def _go_if_cancelled() -> None:
    # redis-py awaits `asyncio.wait_for`, which before Python 3.12 forgets a cancellation that comes together with its
    # result (https://github.com/python/cpython/issues/86296): whoever waits for this task's end would wait for ever.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class Notices:
    """Subscribes while somebody listens.

    A notice may be lost, so a listener looks by itself now and then; a notice only lets it look at once.

    Args:
        redis: The client, from `connect`.
        channel: The channel, whose messages are `<event> <id>`.
        timeout: Seconds that Redis may take to subscribe.
        retry_seconds: Seconds between attempts to subscribe.
    """

    def __init__(self, redis: Client, channel: str, *, timeout: float, retry_seconds: float) -> None:
        self._redis = redis
        self._channel = channel
        self._timeout = timeout
        self._retry_seconds = retry_seconds
        self._listeners: dict[asyncio.Event, str | None] = {}
        self._subscription: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def listening(self, about: str | None = None) -> AsyncIterator[asyncio.Event]:
        """An event that is set on each notice about the id `about` (None: about any), and when some may be lost."""
        wake = asyncio.Event()
        self._listeners[wake] = about
        if self._subscription is None:
            self._subscription = asyncio.create_task(self._listen(), name="notices")
        try:
            yield wake
        finally:
            del self._listeners[wake]
            if not self._listeners:
                subscription, self._subscription = self._subscription, None
                subscription.cancel()
                await asyncio.wait((subscription,))

    async def _listen(self) -> None:
        async with aclosing(
            messages(self._redis, self._channel, timeout=self._timeout, retry_seconds=self._retry_seconds)
        ) as heard:
            async for message in heard:
                # With a new subscription: some may be lost.
                self._wake(None if message is None else message.partition(" ")[2])

    def _wake(self, about: str | None) -> None:
        for wake, wanted in self._listeners.items():
            if about is None or wanted is None or wanted == about:
                wake.set()
