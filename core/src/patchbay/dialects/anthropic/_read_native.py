"""Passes answers of the Messages API on untouched, reading only what the accounts and the edge need to know."""

from __future__ import annotations

import re

import msgspec

from patchbay.canonical import ChatEvent, Finished, Native
from patchbay.dialects.anthropic._errors import ERRORS, cut_off, unreadable
from patchbay.dialects.anthropic._json import NULL, is_null
from patchbay.dialects.anthropic._stop_reasons import read_stop_reason
from patchbay.dialects.anthropic._usage import UsageReader
from patchbay.dialects.sse import FrameSplitter, FrameTooLarge, cut_frames, parse_frames

# Frames worth a look: all but the deltas, which are nearly all of a stream. Text in a delta cannot look like this, as
# its quotes are escaped; should it do so all the same, the frame is looked at in vain.
_NOTABLE = re.compile(rb'event: ?(?:message_|error)|"type"\s*:\s*"(?:message_|error")|\{"error"')
# What an answer has beyond its opening and signs of life. The start of a text or of thinking holds nothing yet, and a
# provider may still say behind it that it is overloaded.
_BEYOND_PREAMBLE = re.compile(
    rb"content_block_(?:delta|stop)|message_(?:delta|stop)"
    rb'|"content_block"\s*:\s*\{\s*"type"\s*:\s*"(?!text"|thinking")'
)

# Of a plain body no more than this is kept to read its usage.
_MAX_KEPT_BYTES = 8 * 1024 * 1024
# Enough of a body to see that it is an error.
_HEAD_BYTES = 64
_ERROR_BODY = re.compile(rb'\s*\{\s*"(?:type"\s*:\s*"error"|error"\s*:)')


class _Delta(msgspec.Struct):
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Message(msgspec.Struct):
    usage: msgspec.Raw = NULL


class _Event(msgspec.Struct):
    type: str = ""
    message: _Message | None = None
    delta: _Delta | None = None
    usage: msgspec.Raw = NULL
    error: msgspec.Raw = NULL


class _Body(msgspec.Struct):
    usage: msgspec.Raw = NULL
    stop_reason: str | None = None
    stop_sequence: str | None = None


_decode = msgspec.json.Decoder(_Event).decode
_decode_body = msgspec.json.Decoder(_Body).decode


class NativeStreamReader:
    """Passes whole frames on as they come; an error frame becomes an Error event instead."""

    def __init__(self) -> None:
        self._splitter = FrameSplitter()
        self._usage = UsageReader()
        self._stop = _Delta()
        self._preamble = True
        self._finished = False
        self._ended = False
        # What is read out of the frames at hand, to follow them.
        self._events: list[ChatEvent] = []

    def feed(self, data: bytes) -> list[ChatEvent]:
        if self._ended:
            return []
        try:
            frames = self._splitter.feed(data)
        except FrameTooLarge:
            self._ended = True
            return [ChatEvent(error=unreadable())]
        return self._pass(frames) if frames else []

    def close(self) -> list[ChatEvent]:
        rest = self._splitter.close()
        if self._ended:
            return []
        events: list[ChatEvent] = []
        if self._finished:
            events = [ChatEvent(native=Native(data=rest))] if rest else []
        elif b"message_stop" in rest:
            # Some servers leave out the empty line after the last event.
            events = self._pass(rest + b"\n\n")
        self._ended = True
        return events if self._finished else [*events, ChatEvent(error=cut_off())]

    def _pass(self, frames: bytes) -> list[ChatEvent]:
        passed = frames
        # Two plain searches are much cheaper than one pattern, and rule out nearly every frame.
        if (b"message_" in frames or b"error" in frames) and _NOTABLE.search(frames):
            passed = self._look(frames)
        if self._preamble and _BEYOND_PREAMBLE.search(passed):
            self._preamble = False
        events, self._events = self._events, []
        return [ChatEvent(native=Native(data=passed, preamble=self._preamble)), *events] if passed else events

    def _look(self, frames: bytes) -> bytes:
        """Reads the notable frames; gives those before an error, which is the end."""
        passed = 0
        for frame in cut_frames(frames):
            # What follows the end says nothing more that counts.
            if not self._finished and _NOTABLE.search(frame) and not self._read(frame):
                self._ended = True
                return frames[:passed]
            passed += len(frame)
        return frames

    def _read(self, frame: bytes) -> bool:
        """Reads one frame; False when it is an error."""
        for parsed in parse_frames(frame):
            try:
                event = _decode(parsed.data)
                is_error = event.type == "error" or (not event.type and not is_null(event.error))
                if not is_error:
                    self._take(event)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                # What the client makes of a frame that is not understood here is the client's affair.
                is_error = False
            if is_error or parsed.event == b"error":
                self._events.append(ChatEvent(error=ERRORS.read(200, {}, parsed.data)))
                return False
        return True

    def _take(self, event: _Event) -> None:
        match event.type:
            case "message_start":
                self._report(event.message.usage if event.message else NULL)
            case "message_delta":
                self._report(event.usage)
                if event.delta is not None and event.delta.stop_reason is not None:
                    self._stop = event.delta
            case "message_stop" if not self._finished:
                self._finished = True
                finished = _finished(self._stop.stop_reason, self._stop.stop_sequence)
                self._events.append(ChatEvent(finished=finished))

    def _report(self, raw: msgspec.Raw) -> None:
        usage = None if is_null(raw) else self._usage.read(raw)
        if usage is not None:
            self._events.append(ChatEvent(usage=usage))


class NativeBodyReader:
    """Passes a plain body on as it comes, and reads its usage at the end. An error inside a 200 is not passed on."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._size = 0
        # None: too little has come to tell.
        self._is_error: bool | None = None
        self._closed = False

    def feed(self, data: bytes) -> list[ChatEvent]:
        if not data or self._closed:
            return []
        self._size += len(data)
        if self._size <= _MAX_KEPT_BYTES:
            self._kept.append(data)
        else:
            self._kept.clear()
        if self._is_error is None:
            if self._size < _HEAD_BYTES:
                return []
            data = b"".join(self._kept) or data
            self._is_error = _ERROR_BODY.match(data) is not None
        return [] if self._is_error else [ChatEvent(native=Native(data=data))]

    def close(self) -> list[ChatEvent]:
        if self._closed:
            return []
        self._closed = True
        body = b"".join(self._kept)
        self._kept.clear()
        events: list[ChatEvent] = []
        if self._is_error is None and body:
            self._is_error = _ERROR_BODY.match(body) is not None
            events = [ChatEvent(native=Native(data=body))]
        if self._is_error:
            return [ChatEvent(error=ERRORS.read(200, {}, body))]
        if self._size > _MAX_KEPT_BYTES:
            return [ChatEvent(finished=Finished())]
        try:
            read = _decode_body(body)
            usage = None if is_null(read.usage) else UsageReader().read(read.usage)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return [*events, ChatEvent(error=unreadable() if body.rstrip().endswith(b"}") else cut_off())]
        if usage is not None:
            events.append(ChatEvent(usage=usage))
        return [*events, ChatEvent(finished=_finished(read.stop_reason, read.stop_sequence))]


def _finished(reason: str | None, sequence: str | None) -> Finished:
    finished = read_stop_reason(reason, has_tool=False)
    if sequence is not None:
        finished.stop_sequence = sequence
    return finished
