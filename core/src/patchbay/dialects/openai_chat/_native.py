"""Passes answers of the client's own dialect on untouched, and readies its requests.

Of the stream only the frames that may report usage, an end or an error are looked into, once content has begun.
"""

from __future__ import annotations

import msgspec

from patchbay.canonical import ChatEvent, Error, Finished, Native
from patchbay.dialects.answer_errors import cut_short, too_large
from patchbay.dialects.base import NativeEdit, ReadOptions
from patchbay.dialects.json_text import dump, dump_object, load_object
from patchbay.dialects.native import set_top_level
from patchbay.dialects.native_body import BodyEnd, NativeBodyReader
from patchbay.dialects.openai_chat._chunks import Chunk, decode_chunk, is_present
from patchbay.dialects.openai_chat._errors import read_error
from patchbay.dialects.openai_chat._quirks import OpenAIChatQuirks
from patchbay.dialects.openai_chat._stop_reasons import read_finish_reason
from patchbay.dialects.openai_chat._usage import read_usage
from patchbay.dialects.sse import FrameSplitter, FrameTooLarge, cut_frames, parse_frames
from patchbay.dialects.surrogates import mend_text
from patchbay.dialects.tool_names import has_longer_name
from patchbay.errors import InvalidRequest

_DONE = b"[DONE]"


class _StreamHead(msgspec.Struct):
    stream: msgspec.Raw = msgspec.Raw(b"null")
    stream_options: msgspec.Raw = msgspec.Raw(b"null")


class _PeekChoice(msgspec.Struct, gc=False):
    delta: dict[str, msgspec.Raw] | None = None
    finish_reason: object = None


class _Peek(msgspec.Struct, gc=False):
    choices: list[_PeekChoice] | None = None


_decode_head = msgspec.json.Decoder(_StreamHead).decode
_decode_peek = msgspec.json.Decoder(_Peek).decode

_EMPTY = (b"null", b'""', b"[]", b"{}")


def edit_native(body: bytes, model: str | None, quirks: OpenAIChatQuirks) -> NativeEdit:
    """Readies a client's own body: its model, if another is wanted, and a usage report in every stream.

    Every other byte stays as it was.

    Raises:
        InvalidRequest: When the body is not a JSON object.
    """
    try:
        head = _decode_head(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest("The body of your request must be a JSON object.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"We could not parse the JSON body of your request: {error}") from error
    fields: dict[str, bytes] = {}
    if model is not None:
        fields["model"] = dump(model)
    hide_usage = False
    if bytes(head.stream) == b"true":
        options = bytes(head.stream_options)
        asked = load_object(options) if options.startswith(b"{") else {}
        if asked.get("include_usage") != b"true" and (asked or options in (b"null", b"{}")):
            asked["include_usage"] = b"true"
            fields["stream_options"] = dump_object(asked)
            hide_usage = True
    is_unfit = has_longer_name(body, quirks.max_tool_name)
    return NativeEdit(set_top_level(body, fields) if fields else body, hide_usage, is_unfit=is_unfit)


class NativeStreamReader:
    """Passes whole frames on."""

    def __init__(self, options: ReadOptions) -> None:
        self._hide_usage = options.hide_usage
        self._splitter = FrameSplitter()
        self._has_content = False
        self._done = False
        self._finish: dict[int, str] = {}
        self._usage = b""

    def feed(self, data: bytes) -> list[ChatEvent]:
        if self._done:
            return []
        try:
            frames = self._splitter.feed(data)
        except FrameTooLarge:
            self._done = True
            return [ChatEvent(error=too_large())]
        if not frames:
            return []
        if self._has_content and not _needs_reading(frames):
            return [ChatEvent(native=Native(data=frames))]
        return self._read(cut_frames(frames))

    def close(self) -> list[ChatEvent]:
        if self._done:
            return []
        events: list[ChatEvent] = []
        rest = self._splitter.close()
        # The last frame may lack its empty line. A part of a frame is not passed on.
        if any(frame.data == _DONE or _decode(frame.data) is not None for frame in parse_frames(rest)):
            events = self._read([rest])
        return events if self._done else events + self._end()

    def _read(self, frames: list[bytes]) -> list[ChatEvent]:
        events: list[ChatEvent] = []
        passed: list[bytes] = []
        ending: list[ChatEvent] = []
        for frame in frames:
            keep, found, ending = self._look_into(frame)
            events += found
            if keep:
                passed.append(frame)
            if self._done:
                break
        if passed:
            events.append(ChatEvent(native=Native(data=b"".join(passed), preamble=not self._has_content)))
        return events + ending

    def _look_into(self, raw: bytes) -> tuple[bool, list[ChatEvent], list[ChatEvent]]:
        """Whether to pass the frame on, what to say before it, and what ends the answer after it."""
        if self._has_content and not _needs_reading(raw):
            return True, [], []
        parsed = parse_frames(raw)
        if not parsed:
            return True, [], []
        event, data = parsed[0]
        if data == _DONE:
            ending = self._end()
            return bool(self._finish), [], ending
        if event == b"error":
            return False, [], self._fail(data)
        chunk = _decode(data)
        if chunk is None:
            return True, [], []
        if chunk.is_error:
            return False, [], self._fail(data)
        self._has_content = self._has_content or _has_content(data)
        for choice in chunk.choices or ():
            if choice.finish_reason:
                self._finish[choice.number] = str(choice.finish_reason)
        usage_only = not chunk.choices and is_present(chunk.usage)
        return not (usage_only and self._hide_usage), self._usage_of(chunk), []

    def _usage_of(self, chunk: Chunk) -> list[ChatEvent]:
        raw = bytes(chunk.usage)
        if raw in (b"null", self._usage):
            return []
        self._usage = raw
        usage = read_usage(raw)
        return [] if usage is None else [ChatEvent(usage=usage)]

    def _fail(self, data: bytes) -> list[ChatEvent]:
        self._done = True
        return [ChatEvent(error=read_error(200, {}, data))]

    def _end(self) -> list[ChatEvent]:
        self._done = True
        if not self._finish:
            return [ChatEvent(error=cut_short())]
        return [finished(choice, reason) for choice, reason in sorted(self._finish.items())]


def native_body_reader() -> NativeBodyReader:
    """A reader that passes a plain answer on."""
    return NativeBodyReader(_read_body, lambda body: read_error(200, {}, body), cut_short, finished(0, ""))


def _read_body(body: bytes) -> BodyEnd | Error | None:
    chunk = _decode(body)
    if chunk is None:
        return None
    if chunk.is_error:
        return read_error(200, {}, body)
    usage = read_usage(bytes(chunk.usage)) if is_present(chunk.usage) else None
    endings = [finished(choice.number, str(choice.finish_reason or "stop")) for choice in chunk.choices or ()]
    return BodyEnd([] if usage is None else [ChatEvent(usage=usage)], endings or [finished(0, "")])


def finished(choice: int, reason: str) -> ChatEvent:
    read = read_finish_reason(reason, has_tool=reason in ("tool_calls", "function_call"), has_refusal=False)
    raw = reason if read == Finished.STOP_REASON_OTHER else ""
    return ChatEvent(finished=Finished(stop_reason=read, choice=choice, raw=raw))


def _needs_reading(frames: bytes) -> bool:
    """Whether some frame may say more than content. Inside a JSON string these words' quotes would be escaped."""
    # Errors, the closing word and whatever else is no chunk have no choices.
    if frames.count(b'"choices"') != frames.count(b"\n\n"):
        return True
    return _has_value(frames, b'"finish_reason"') or _has_value(frames, b'"usage"') or b'"error"' in frames


def _has_value(frames: bytes, name: bytes) -> bool:
    """Whether the field is there with anything but null."""
    there = frames.count(name)
    if not there or there == frames.count(name + b":null"):
        return False
    return there != frames.count(name + b":null") + frames.count(name + b": null")


def _decode(data: bytes) -> Chunk | None:
    try:
        return decode_chunk(mend_text(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _has_content(data: bytes) -> bool:
    """Whether a chunk brings anything but its role."""
    try:
        choices = _decode_peek(data).choices or ()
    except (msgspec.DecodeError, UnicodeDecodeError):
        # What cannot be judged is taken for content: it cannot be taken back once it has been passed on.
        return True
    for choice in choices:
        if choice.finish_reason:
            return True
        if any(name != "role" and bytes(value) not in _EMPTY for name, value in (choice.delta or {}).items()):
            return True
    return False
