"""Passes answers of the client's own dialect on untouched.

Of the stream only the frames that may be an item, an end or an error are looked into, once content has begun. One thing
is mended: the ChatGPT backend leaves the output out of the Response at the end, which the official SDK takes for all of
it.
"""

from __future__ import annotations

import re

import msgspec

from patchbay.canonical import ChatEvent, Error, Finished, Native
from patchbay.dialects.answer_errors import cut_short, too_large
from patchbay.dialects.json_text import load_object, one_line
from patchbay.dialects.native import set_top_level
from patchbay.dialects.native_body import BodyEnd, NativeBodyReader
from patchbay.dialects.openai_responses._answer import FAILED, UNENDED, incomplete_reason, is_answer
from patchbay.dialects.openai_responses._errors import is_error_event, read_error, read_failure
from patchbay.dialects.openai_responses._events import (
    Response,
    decode_event,
    decode_response,
    is_present,
    objects_in,
    text_of,
)
from patchbay.dialects.openai_responses._read_output import CALLS
from patchbay.dialects.openai_responses._stop_reasons import read_ending
from patchbay.dialects.openai_responses._usage import read_usage
from patchbay.dialects.openai_responses.recording import ResponseRecorder
from patchbay.dialects.sniffing import is_whole_json
from patchbay.dialects.sse import Frame, FrameSplitter, FrameTooLarge, cut_frames, parse_frames
from patchbay.dialects.surrogates import mend_text

# Frames worth a look once content has begun. Only those that tell of the whole Response have a field of this name, and
# inside a JSON string its quotes would be escaped.
_NOTABLE = re.compile(
    rb'"response"\s*:|^event: ?(?:error|response\.(?:completed|incomplete|failed|cancelled|done))'
    rb'|"type"\s*:\s*"error"|^data: ?\{\s*"(?:error|detail)"',
    re.MULTILINE,
)

# What comes before all content: an upstream may still say behind it that it is overloaded.
_PREAMBLE = frozenset(
    {
        "response.created",
        "response.in_progress",
        "response.queued",
        "response.metadata",
        "codex.rate_limits",
        "codex.response.metadata",
        "keepalive",
        "ping",
    }
)
_ITEM_DONE = b"response.output_item.done"
_ENDS = {f"response.{status}": status for status in ("completed", "incomplete", "failed", "cancelled", "done")}


class NativeStreamReader:
    """Passes whole frames on."""

    def __init__(self) -> None:
        self._splitter = FrameSplitter()
        self._has_content = False
        self._done = False
        # Whether a call was seen: the end does not tell where its output is left out.
        self._has_tool = False
        self._recorder = ResponseRecorder()

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
        if self._has_content and _has_only_deltas(frames):
            return [ChatEvent(native=Native(data=frames))]
        if _ITEM_DONE in frames:
            self._recorder.frames(frames)
        self._has_tool = self._has_tool or b'"function_call"' in frames or b'"custom_tool_call"' in frames
        if self._has_content and not _needs_reading(frames):
            return [ChatEvent(native=Native(data=frames))]
        return self._read(cut_frames(frames))

    def close(self) -> list[ChatEvent]:
        if self._done:
            return []
        events: list[ChatEvent] = []
        rest = self._splitter.close()
        # The last frame may lack its empty line, without which the Codex CLI does not see it. A part is not passed on.
        if any(is_whole_json(frame.data) for frame in parse_frames(rest)):
            events = self._read([rest.rstrip(b"\r\n") + b"\n\n"])
        if self._done:
            return events
        self._done = True
        return [*events, ChatEvent(error=cut_short())]

    def _read(self, frames: list[bytes]) -> list[ChatEvent]:
        before: list[ChatEvent] = []
        passed: list[bytes] = []
        after: list[ChatEvent] = []
        for raw in frames:
            keep = True
            if not self._has_content or _needs_reading(raw):
                parsed = parse_frames(raw)
                if parsed:
                    keep = self._look_into(parsed[0], before, after)
                    raw = self._mended(raw, parsed[0]) if keep and after else raw
            if keep:
                passed.append(raw)
            if after:
                self._done = True
                break
        if passed:
            before.append(ChatEvent(native=Native(data=b"".join(passed), preamble=not self._has_content)))
        return before + after

    def _look_into(self, frame: Frame, before: list[ChatEvent], after: list[ChatEvent]) -> bool:
        """Whether to pass a frame on. Adds what to say before it, and what ends the answer after it."""
        try:
            data = mend_text(frame.data)
            event = decode_event(data)
            type_ = text_of(event.type) or frame.event.decode(errors="replace")
            if type_ == "error" or (not type_ and is_error_event(data)):
                after.append(ChatEvent(error=read_error(200, {}, data)))
                return False
            if type_ in _ENDS:
                response = decode_response(event.response) if is_present(event.response) else Response()
                return self._end(response, _ENDS[type_], before, after)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # What cannot be judged is taken for content: it cannot be taken back once it has been passed on.
            type_ = ""
        self._has_content = self._has_content or type_ not in _PREAMBLE
        return True

    def _mended(self, raw: bytes, end: Frame) -> bytes:
        """The frame with the end of an answer, its output put in where it was left out."""
        self._recorder.event(end.data)
        recorded = self._recorder.close()
        if recorded is None or recorded.is_as_sent:
            return raw
        data = set_top_level(end.data, {"response": recorded.json})
        return (b"event: " + end.event + b"\n" if end.event else b"") + b"data: " + one_line(data) + b"\n\n"

    def _end(self, response: Response, status: str, before: list[ChatEvent], after: list[ChatEvent]) -> bool:
        had_content = self._has_content
        self._has_content = True
        end = _end_of(response, text_of(response.status) or "completed" if status == "done" else status, self._has_tool)
        if isinstance(end, Error):
            after.append(ChatEvent(error=end))
            # Its own words for the client, unless there is still time for a status.
            return had_content
        before += end.usage
        after += end.finished
        return True


def native_body_reader() -> NativeBodyReader:
    """A reader that passes a plain answer on."""
    unread = ChatEvent(finished=Finished(stop_reason=Finished.STOP_REASON_END_TURN))
    return NativeBodyReader(_read_body, lambda body: read_error(200, {}, body), cut_short, unread)


def _read_body(body: bytes) -> BodyEnd | Error | None:
    try:
        body = mend_text(body)
        response = decode_response(body)
        if not is_answer(response):
            return read_error(200, {}, body)
        status = text_of(response.status) or "completed"
        # A Response in the background, which its client asks for again.
        return _end_of(response, "completed" if status in UNENDED else status, has_tool=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _end_of(response: Response, status: str, has_tool: bool) -> BodyEnd | Error:
    if status in FAILED:
        return read_failure(bytes(response.error))
    usage = read_usage(bytes(response.usage)) if is_present(response.usage) else None
    types = [load_object(item).get("type", b"").strip(b'"').decode() for item in objects_in(response.output)]
    finished = read_ending(
        incomplete_reason(response) if status == "incomplete" else None,
        has_tool=has_tool or any(type_ in CALLS for type_ in types),
        has_refusal=False,
        goes_on=response.end_turn is False,
    )
    return BodyEnd([] if usage is None else [ChatEvent(usage=usage)], [ChatEvent(finished=finished)])


def _has_only_deltas(frames: bytes) -> bool:
    """Whether every frame is plainly a delta by its `event:` line, as nearly all of OpenAI's are."""
    return 0 < frames.count(b".delta\ndata: {") == frames.count(b"\n\n") and b"\r" not in frames


def _needs_reading(frames: bytes) -> bool:
    # Two plain searches are much cheaper than the pattern, and rule out nearly every frame.
    return (b'"response"' in frames or b"error" in frames or b"detail" in frames) and bool(_NOTABLE.search(frames))
