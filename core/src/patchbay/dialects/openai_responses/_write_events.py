"""Writes a client's answer, streamed or whole; what the upstream said in this dialect passes untouched."""

from __future__ import annotations

from collections.abc import Iterable

from patchbay.canonical import ChatEvent, Error
from patchbay.dialects.base import AnswerOptions, EventWriter
from patchbay.dialects.openai_responses._errors import unfinished
from patchbay.dialects.openai_responses._write_stream import ResponseWriter
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
    """The Response that a stream of the same events would end with."""

    content_type = "application/json"

    def __init__(self, options: AnswerOptions) -> None:
        self._writer = ResponseWriter(options, streams=False)
        self._error: Error | None = None

    def feed(self, events: Iterable[ChatEvent]) -> bytes:
        for event in events:
            if self._error is not None or self._writer.ended:
                break
            if event.HasField("error"):
                self._error = event.error
            else:
                self._writer.feed((event,))
        return b""

    def close(self) -> bytes:
        if self._error is not None:
            raise PatchbayError(self._error)
        if not self._writer.ended:
            raise PatchbayError(unfinished())
        return self._writer.take() if self._writer.response is None else self._writer.response

    def ping(self) -> bytes:
        return b""
