"""Writes a client's answer, whole: one `chat.completion` body.

Format: https://platform.openai.com/docs/api-reference/chat/object
"""

from __future__ import annotations

from collections.abc import Iterable

from patchbay.canonical import ChatEvent
from patchbay.dialects.answer_errors import unfinished
from patchbay.dialects.base import AnswerOptions, EventWriter
from patchbay.dialects.fold import Answer
from patchbay.dialects.json_text import Object, add_missing, dump, dump_array, dump_object, load_object
from patchbay.dialects.openai_chat._message import write_choice
from patchbay.dialects.openai_chat._quirks import NAME
from patchbay.dialects.openai_chat._usage import write_usage
from patchbay.dialects.openai_chat._write_stream import StreamWriter
from patchbay.errors import PatchbayError


def write_events(options: AnswerOptions) -> EventWriter:
    """A writer for one answer to a client."""
    return StreamWriter(options) if options.stream else _BodyWriter(options)


class _BodyWriter:
    content_type = "application/json"

    def __init__(self, options: AnswerOptions) -> None:
        self._options = options
        self._answer = Answer()
        self._native: list[bytes] = []

    def feed(self, events: Iterable[ChatEvent]) -> bytes:
        for event in events:
            if event.HasField("native"):
                self._native.append(event.native.data)
            else:
                self._answer.add((event,))
        return b""

    def close(self) -> bytes:
        answer = self._answer
        if answer.error is not None:
            raise PatchbayError(answer.error)
        choices = {block.start.choice for block in answer.blocks} | answer.finished.keys()
        if not choices or choices != answer.finished.keys():
            raise PatchbayError(unfinished())
        if self._native:
            return b"".join(self._native)
        return self._write(sorted(choices))

    def ping(self) -> bytes:
        return b""

    def _write(self, choices: list[int]) -> bytes:
        answer = self._answer
        started = answer.started
        is_xml = self._options.reasoning_format == "xml"
        written = [
            write_choice(
                number,
                [block for block in answer.blocks if block.start.choice == number],
                answer.finished[number],
                is_xml=is_xml,
            )
            for number in choices
        ]
        body: Object = {
            "id": dump(started.id or self._options.fallback_id),
            "object": b'"chat.completion"',
            "created": dump(started.created or self._options.created),
            "model": dump(started.model or self._options.model),
            "choices": dump_array(written),
            "usage": write_usage(answer.usage),
        }
        for number in choices:
            own = answer.finished[number].extensions
            if NAME in own:
                add_missing(body, load_object(own[NAME]))
        return dump_object(body)
