"""Writes a client's answer, streamed or whole; what the upstream said in this dialect passes untouched."""

from __future__ import annotations

from collections.abc import Iterable

from patchbay.canonical import ChatEvent, Error
from patchbay.dialects.answer_errors import unfinished
from patchbay.dialects.base import AnswerOptions, EventWriter
from patchbay.dialects.openai_responses._write_stream import ResponseWriter
from patchbay.dialects.openai_responses.recording import ResponseRecorder
from patchbay.errors import PatchbayError


def write_events(options: AnswerOptions) -> EventWriter:
    """A writer for one answer to a client."""
    return StreamWriter(options) if options.stream else BodyWriter(options)


class StreamWriter:
    """The frames of one answer."""

    content_type = "text/event-stream"

    def __init__(self, options: AnswerOptions) -> None:
        self._writer = ResponseWriter(options, streams=True)

    def feed(self, events: Iterable[ChatEvent]) -> bytes:
        self._writer.feed(events)
        return self._writer.take()

    def close(self) -> bytes:
        if self._writer.ended:
            return b""
        self._writer.fail(unfinished())
        return self._writer.take()

    def ping(self) -> bytes:
        return b"" if self._writer.ended else b": ping\n\n"


class BodyWriter:
    """The Response that a stream of the same events would end with.

    So is one that the upstream streams in this dialect, as the ChatGPT backend does whether or not it is asked to.
    """

    content_type = "application/json"

    def __init__(self, options: AnswerOptions) -> None:
        self._writer = ResponseWriter(options, streams=False)
        # Of the upstream's own answer: its pieces if it is one body, else its recorder.
        self._native: list[bytes] = []
        self._recorder: ResponseRecorder | None = None
        self._error: Error | None = None

    def feed(self, events: Iterable[ChatEvent]) -> bytes:
        for event in events:
            if self._error is not None or self._writer.ended:
                break
            if event.HasField("error"):
                self._error = event.error
                continue
            if event.HasField("native"):
                self._pass(event.native.data)
            self._writer.feed((event,))
        self._writer.take()
        return b""

    def close(self) -> bytes:
        if self._error is not None:
            raise PatchbayError(self._error)
        if not self._writer.ended:
            raise PatchbayError(unfinished())
        if self._recorder is None:
            return b"".join(self._native) if self._writer.response is None else self._writer.response
        recorded = self._recorder.close()
        if recorded is None:
            raise PatchbayError(unfinished())
        return recorded.json

    def ping(self) -> bytes:
        return b""

    def _pass(self, data: bytes) -> None:
        if not self._native and self._recorder is None and not data.lstrip().startswith(b"{"):
            self._recorder = ResponseRecorder()
        if self._recorder is None:
            self._native.append(data)
        else:
            self._recorder.feed(data)
