"""Keeps the Response object of an answer that passes by."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from patchbay.dialects.json_text import Object, dump_array, dump_object, load_array, load_object
from patchbay.dialects.openai_responses._events import decode_event, decode_item, is_present, text_of
from patchbay.dialects.sse import MAX_FRAME_BYTES, FrameSplitter, FrameTooLarge, cut_frames, parse_frames

# The frames that hold an item or an end. In text inside a frame the quotes would be escaped.
_NOTABLE = re.compile(rb'"type"\s*:\s*"response\.(?:output_item\.done|completed|incomplete|failed)"')
_ENDS = ("response.completed", "response.incomplete", "response.failed")


class RecordedResponse(NamedTuple):
    """A whole Response object."""

    id: str
    # `completed`, `incomplete` or `failed`.
    status: str
    # The object as JSON text.
    json: bytes
    # Whether it is the very one that the stream ended with, or the body was.
    is_as_sent: bool = True


class ResponseRecorder:
    """Fed with the bytes that a client is sent, it has the whole Response in the end.

    Frames are only searched; those that hold an item or the end are read. Nothing here fails an answer: what cannot be
    read is not recorded.
    """

    def __init__(self) -> None:
        self._splitter = FrameSplitter()
        # A whole answer; None: a stream.
        self._body: list[bytes] | None = None
        self._has_begun = False
        self._size = 0
        # Output index -> item.
        self._items: dict[int, bytes] = {}
        self._recorded: RecordedResponse | None = None

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the answer's body, cut anywhere."""
        if not self._has_begun and data.strip():
            self._has_begun = True
            self._body = [] if data.lstrip().startswith(b"{") else None
        self._size += len(data)
        if self._body is not None:
            if self._size <= MAX_FRAME_BYTES:
                self._body.append(data)
            return
        try:
            frames = self._splitter.feed(data)
        except FrameTooLarge:
            return
        self.frames(frames)

    def frames(self, frames: bytes) -> None:
        """Takes whole frames of a stream."""
        if b"response." in frames and _NOTABLE.search(frames):
            for frame in cut_frames(frames):
                if _NOTABLE.search(frame):
                    for parsed in parse_frames(frame):
                        self.event(parsed.data)

    def event(self, data: bytes) -> None:
        """Takes one event's JSON, as a WebSocket carries it."""
        try:
            event = decode_event(data)
            type_ = text_of(event.type)
            if type_ == "response.output_item.done" and is_present(event.item):
                index = event.output_index if isinstance(event.output_index, int) else len(self._items)
                self._items[index] = bytes(event.item)
            elif type_ in _ENDS and is_present(event.response):
                self._recorded = self._whole(bytes(event.response), type_.removeprefix("response."))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return

    def close(self) -> RecordedResponse | None:
        """The Response; None: the answer was none, or has not come to an end."""
        if self._body is None or self._size > MAX_FRAME_BYTES:
            return self._recorded
        try:
            fields = load_object(b"".join(self._body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        status = _string(fields, "status") or "completed"
        if "output" not in fields or f"response.{status}" not in _ENDS:
            return None
        return RecordedResponse(_string(fields, "id"), status, b"".join(self._body).strip())

    def _whole(self, response: bytes, status: str) -> RecordedResponse:
        fields = load_object(response)
        mended = False
        if self._items and not _has_named_items(fields.get("output", b"null")):
            # The ChatGPT backend leaves the output out, or the ids in it.
            fields["output"] = dump_array(item for _, item in sorted(self._items.items()))
            response = dump_object(fields)
            mended = True
        return RecordedResponse(_string(fields, "id"), status, response, not mended)


def _has_named_items(output: bytes) -> bool:
    items = load_array(output) if output.startswith(b"[") else []
    return bool(items) and all(isinstance(decode_item(item).id, str) for item in items)


def _string(fields: Object, name: str) -> str:
    value = fields.get(name, b"")
    return msgspec.json.decode(value, type=str) if value.startswith(b'"') else ""
