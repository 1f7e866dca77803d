"""Reads an upstream's answer, streamed or whole, into events."""

from __future__ import annotations

from patchbay.dialects.answer_readers import BodyReader, StreamReader
from patchbay.dialects.base import EventReader, ReadOptions
from patchbay.dialects.openai_responses._answer import AnswerReader
from patchbay.dialects.openai_responses._native_answers import NativeStreamReader, native_body_reader
from patchbay.dialects.sniffing import SniffingReader


def read_events(options: ReadOptions) -> EventReader:
    """A reader for one answer of an upstream. The ChatGPT backend names no media type: the first byte tells."""
    if options.native:
        return SniffingReader(options.content_type, NativeStreamReader, native_body_reader)
    return SniffingReader(
        options.content_type,
        lambda: StreamReader(AnswerReader(options.names)),
        lambda: BodyReader(AnswerReader(options.names, whole=True)),
    )
