"""Script calls to Redis in one order, many to a round trip, none of them touched by a caller's cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

from patchbay.state.connection import Client, RedisUnavailable, deadline
from patchbay.state.scripts import Script, is_refused

Arguments: TypeAlias = tuple[Sequence[str], Sequence["str | int"]]
"""Keys and arguments of a script."""

_BATCH = 256


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    script: Script
    arguments: Callable[[], Arguments]
    reply: asyncio.Future[object]
    abandoned: Callable[[object], None] | None


class CommandQueue:
    """Sends script calls in the order they are submitted.

    One batch is under way at a time; calls that come meanwhile are the next batch. So concurrent callers share a round
    trip and a connection, a later call is never run before an earlier one, and a server that stops answering costs all
    who wait no more than the one timeout. The task that sends owns the connection.

    Args:
        redis: The client.
        timeout: Seconds for a batch, connecting included.
    """

    def __init__(self, redis: Client, *, timeout: float) -> None:
        self._redis = redis
        self._timeout = timeout
        self._waiting: list[_Call] = []
        self._sender: asyncio.Task[None] | None = None
        self._by_sha = True

    def submit(
        self,
        script: Script,
        arguments: Callable[[], Arguments],
        *,
        abandoned: Callable[[object], None] | None = None,
    ) -> asyncio.Future[object]:
        """Queues a call and returns its reply to come, which fails with `RedisUnavailable`.

        Args:
            script: What to run.
            arguments: Gives keys and arguments at the moment of sending, so that a call which had to wait or to be sent
                again is up to date.
            abandoned: Called with the reply, or the `RedisUnavailable`, when the future was cancelled after the call
                had been sent. A call whose future is cancelled before is not sent.
        """
        loop = asyncio.get_running_loop()
        call = _Call(script, arguments, loop.create_future(), abandoned)
        self._waiting.append(call)
        if self._sender is None or self._sender.done():
            self._sender = loop.create_task(self._send_all(), name="redis-commands")
        return call.reply

    async def _send_all(self) -> None:
        batch: list[_Call] = []
        try:
            while self._waiting:
                batch = [call for call in self._waiting[:_BATCH] if not call.reply.done()]
                del self._waiting[:_BATCH]
                if batch:
                    await self._send(batch)
        finally:
            # Reached with calls left only when this task is cancelled or has a defect: no caller may wait forever.
            for call in (*batch, *self._waiting):
                call.reply.cancel()
            self._waiting.clear()

    async def _send(self, batch: list[_Call]) -> None:
        try:
            async with deadline(self._timeout):
                try:
                    replies = await self._exchange(batch)
                except RedisConnectionError:
                    # The server may have closed an idle connection, or a failover may have moved it. Every script gives
                    # the same when it is run again, so that a second try is safe.
                    replies = await self._exchange(batch)
        except RedisUnavailable as error:
            for call in (*batch, *self._waiting):
                if not call.reply.done():
                    call.reply.set_exception(RedisUnavailable(str(error)))
                elif call.abandoned is not None:
                    call.abandoned(error)
            self._waiting.clear()
            return
        for call, reply in zip(batch, replies, strict=True):
            if isinstance(reply, Exception):
                reply = RedisUnavailable(f"{call.script.name}: {reply}")
            if call.reply.cancelled():
                if call.abandoned is not None:
                    call.abandoned(reply)
            elif isinstance(reply, RedisUnavailable):
                call.reply.set_exception(reply)
            else:
                call.reply.set_result(reply)

    async def _exchange(self, batch: list[_Call]) -> list[object]:
        replies = await self._pipeline(batch, by_source=set() if self._by_sha else None)
        if any(map(is_refused, replies)):
            self._by_sha = False
        again = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError) or is_refused(reply)]
        if again:
            missing = {batch[index].script for index in again}
            calls = [batch[index] for index in again]
            for index, reply in zip(
                again, await self._pipeline(calls, by_source=missing if self._by_sha else None), strict=True
            ):
                replies[index] = reply
        return replies

    async def _pipeline(self, calls: list[_Call], *, by_source: set[Script] | None) -> list[object]:
        """One round trip. The first call of each script in `by_source` (None: every call) carries the text of it."""
        pipeline = self._redis.pipeline(transaction=False)
        for call in calls:
            keys, args = call.arguments()
            script = call.script
            if by_source is None or script in by_source:
                pipeline.execute_command("EVAL", script.source, len(keys), *keys, *args)
                if by_source is not None:
                    by_source.discard(script)
            else:
                pipeline.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
        return list(await pipeline.execute(raise_on_error=False))
