"""Sends an answer as its script says: paced, silent, failing, cut."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Final

import msgspec

from patchbay_standin.answer import Answer, Part
from patchbay_standin.errors import ProviderError
from patchbay_standin.exchange import Exchange, Headers
from patchbay_standin.prompt import Prompt
from patchbay_standin.records import Outcome
from patchbay_standin.script import Script
from patchbay_standin.wire import Frame, Wire

# Frames that are ready at the same time are joined up to so many bytes in one write.
_JOIN_BYTES: Final = 32 * 1024
_HUGE_PLACE: Final = "standin-huge-text-goes-here"

_NO_CACHE: Final = (b"cache-control", b"no-cache")
_JSON: Final = ((b"content-type", b"application/json"),)


class Playback:
    """One answer on its way to the client."""

    def __init__(self, exchange: Exchange, wire: Wire, script: Script, *, number: int) -> None:
        self._exchange = exchange
        self._wire = wire
        self._script = script
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._buffer: list[bytes] = []
        self._buffered = 0
        # When the next paced delta is due, on the loop's clock.
        self._due = 0.0

    async def stream(self, answer: Answer, prompt: Prompt, headers: Headers) -> Outcome:
        """Streams an answer. Raises ClientGone."""
        kind = self._wire.stream_type
        types = [] if kind is None else [(b"content-type", kind)]
        await self._exchange.start(200, [*types, _NO_CACHE, *headers])
        await self._wait(self._script.first_event_delay_ms)
        return await self._play(self._wire.frames(answer, prompt, self._script))

    async def whole(self, answer: Answer, prompt: Prompt, headers: Headers) -> Outcome:
        """Sends an answer in one piece, after the time that streaming it would have taken. Raises ClientGone."""
        script, exchange = self._script, self._exchange
        await self._wait(script.first_event_delay_ms + script.delta_delay_ms * max(0, answer.deltas - 1))
        if script.silence_after is not None:
            await self._silence()
        if script.error_event is not None:
            error = ProviderError.scripted(script.error_event)
            await exchange.reply(error.status, [*_JSON, *headers], self._wire.error_body(error, self._number))
            return "error"
        if script.huge is not None:
            return await self._whole_huge(answer, prompt, headers)
        body = self._wire.body(answer, prompt, script)
        if script.cut_after is not None:
            await exchange.start(200, [*_JSON, *headers, (b"content-length", str(len(body)).encode())])
            await exchange.write(body[: len(body) // 2])
            await exchange.cut()
            return "cut"
        await exchange.reply(200, [*_JSON, *headers], body)
        exchange.entry.deltas = answer.deltas
        return "completed"

    async def _play(self, frames: Iterator[Frame]) -> Outcome:
        script, entry = self._script, self._exchange.entry
        delay = script.delta_delay_ms / 1000
        # The number of deltas before the next thing that goes wrong; -1: nothing does.
        fault = _first_fault(script)
        sent = 0
        for data, is_delta in frames:
            if is_delta:
                if sent == fault:
                    entry.deltas = sent
                    outcome = await self._fail(sent, data)
                    if outcome is not None:
                        return outcome
                    fault = -1
                if delay and sent:
                    entry.deltas = sent
                    await self._pace(delay)
                sent += 1
            self._buffer.append(data)
            self._buffered += len(data)
            if self._buffered >= _JOIN_BYTES or script.separate_sends:
                entry.deltas = sent
                await self._flush()
        entry.deltas = sent
        if fault >= 0:
            outcome = await self._fail(fault, b"data: {}\n\n")
            if outcome is not None:
                return outcome
        await self._flush(last=True)
        return "completed"

    async def _fail(self, sent: int, data: bytes) -> Outcome | None:
        """Does what is to go wrong after `sent` deltas; None: the stream goes on."""
        script = self._script
        if script.cut_after is not None and sent >= script.cut_after:
            self._buffer.append(data[: len(data) // 2])
            await self._flush()
            await self._exchange.cut()
            return "cut"
        if script.error_event is not None and sent >= script.error_event.after:
            error = ProviderError.scripted(script.error_event)
            self._buffer.append(self._wire.error_frame(error, self._number))
            await self._flush(last=True)
            return "error"
        await self._flush()
        await self._silence()
        return None

    async def _silence(self) -> None:
        if self._script.silence_ms is None:
            await self._hold()
        else:
            await self._wait(self._script.silence_ms)

    async def _pace(self, delay: float) -> None:
        await self._flush()
        now = self._loop.time()
        if not self._due:
            self._due = now
        # Against the schedule, so that late timers do not stretch the stream; after a pause, from now on.
        self._due = max(self._due + delay, now)
        if self._due > now:
            await self._sleep_until(self._due)

    async def _flush(self, *, last: bool = False) -> None:
        if self._buffer or last:
            data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
            self._buffer.clear()
            self._buffered = 0
            await self._exchange.write(data, last=last)

    async def _wait(self, milliseconds: float) -> None:
        if milliseconds:
            await self._sleep_until(self._loop.time() + milliseconds / 1000)

    async def _hold(self) -> None:
        await self._sleep_until(None)

    async def _sleep_until(self, when: float | None) -> None:
        """Sleeps, with a keep-alive now and then inside a stream where the script says so. None: for ever."""
        every = self._script.keepalive_ms
        if every is not None and self._exchange.entry.status:
            beat = self._loop.time() + every / 1000
            while when is None or beat < when:
                await self._exchange.sleep_until(beat)
                await self._exchange.write(self._wire.keepalive)
                beat += every / 1000
        if when is None:
            await self._exchange.hold()
        else:
            await self._exchange.sleep_until(when)

    async def _whole_huge(self, answer: Answer, prompt: Prompt, headers: Headers) -> Outcome:
        """The same body, its huge last part made while it is sent."""
        pieces = answer.parts[-1].pieces
        answer.parts[-1] = Part("text", [_HUGE_PLACE])
        before, after = self._wire.body(answer, prompt, self._script).split(_HUGE_PLACE.encode())
        await self._exchange.start(200, [*_JSON, *headers])
        encoded = msgspec.json.encode(pieces[0])[1:-1]
        joined = max(1, _JOIN_BYTES // len(encoded))
        await self._exchange.write(before)
        for first in itertools.count(0, joined):
            if first >= len(pieces):
                break
            await self._exchange.write(encoded * min(joined, len(pieces) - first))
            self._exchange.entry.deltas = min(first + joined, len(pieces))
        await self._exchange.write(after, last=True)
        return "completed"


def _first_fault(script: Script) -> int:
    """After how many deltas the next thing goes wrong; -1: nothing does."""
    faults = [script.silence_after, script.cut_after, script.error_event.after if script.error_event else None]
    return min((fault for fault in faults if fault is not None), default=-1)
