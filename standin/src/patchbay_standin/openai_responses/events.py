"""The events of a streamed response.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from patchbay_standin.answer import Answer, Part
from patchbay_standin.openai_responses.output import OutputItem
from patchbay_standin.openai_responses.response import ended, failed, final_status
from patchbay_standin.script import JsonObject, Script
from patchbay_standin.wire import Frame

_encode = msgspec.json.Encoder().encode

# What a call's input is called in its events.
_INPUT_EVENTS: Final = {
    "function_call": ("response.function_call_arguments", "arguments"),
    "custom_tool_call": ("response.custom_tool_call_input", "input"),
}
_PADDING: Final = "standin"


class Events:
    """Writes the events of one response.

    Args:
        response: The response before it has any output.
        items: All that it will say.
        answer: What the items were made of.
        script: How the answer is told.
        padded: Whether deltas are padded, so that their length tells nothing.
        shows_output: Whether the last event repeats the output.
    """

    def __init__(
        self,
        response: JsonObject,
        items: Sequence[OutputItem],
        answer: Answer,
        *,
        script: Script,
        padded: bool,
        shows_output: bool,
    ) -> None:
        self._response = response
        self._items = items
        self._answer = answer
        self._script = script
        self._padding: JsonObject = {"obfuscation": _PADDING} if padded else {}
        self._shows_output = shows_output
        self._number = 0
        self._done: list[JsonObject] = []

    def opening(self) -> Iterator[Frame]:
        """The response has begun."""
        for name in ("response.created", "response.in_progress"):
            yield Frame(self._event(name, response=self._response))
        for event in self._script.extra_events:
            yield Frame(b"event: %b\ndata: %b\n\n" % (str(event.get("type")).encode(), _encode(event)))

    def content(self) -> Iterator[Frame]:
        """Item after item; calls that are next to each other in turn, where the script says so."""
        if not self._script.interleave_tools:
            yield from _held_until_delta(frame for item in self._items for frame in self._item(item))
            return
        groups = itertools.groupby(self._items, key=lambda item: item.kind in _INPUT_EVENTS)
        yield from _held_until_delta(
            frame
            for calls, group in groups
            for frame in (self._in_turn(list(group)) if calls else (f for item in group for f in self._item(item)))
        )

    def closing(self) -> Frame:
        """The response has ended."""
        output = self._done if self._shows_output else []
        response = ended(self._response, self._answer, output)
        if self._script.usage_on == "none":
            response["usage"] = None
        return Frame(self._event(f"response.{final_status(self._answer)}", response=response))

    def failed(self, code: str, message: str) -> bytes:
        """The response has failed."""
        return self._event("response.failed", response=failed(self._response, code, message, self._done))

    def error(self, code: str | None, message: str, param: str | None) -> bytes:
        """An error that is told beside the response."""
        return self._event("error", code=code, message=message, param=param)

    def _in_turn(self, calls: Sequence[OutputItem]) -> Iterator[Frame]:
        for item in calls:
            yield Frame(self._added(item))
        for frames in itertools.zip_longest(*(self._input(item) for item in calls)):
            yield from (frame for frame in frames if frame is not None)
        for item in calls:
            yield Frame(self._finished(item))

    def _item(self, item: OutputItem) -> Iterator[Frame]:
        yield Frame(self._added(item))
        match item.kind:
            case "message":
                for index, part in enumerate(item.parts):
                    yield from self._text(item, part, index)
            case "reasoning":
                yield from self._reasoning(item)
            case "function_call" | "custom_tool_call":
                yield from self._input(item)
            case "hosted_call":
                for state in ("in_progress", "searching", "completed"):
                    yield Frame(self._of(f"response.{item.parts[0].name}_call.{state}", item))
            case "compaction":
                yield Frame(self._of("response.compaction.compacting", item))
        yield Frame(self._finished(item))

    def _text(self, item: OutputItem, part: Part, index: int) -> Iterator[Frame]:
        place: JsonObject = {"content_index": index}
        yield Frame(self._of("response.content_part.added", item, **place, part=item.content(part, empty=True)))
        is_refusal = part.kind == "refusal"
        kind = "response.refusal" if is_refusal else "response.output_text"
        if item.shown.top_logprobs is None or is_refusal:
            extra: JsonObject = {} if is_refusal else {"logprobs": []}
            yield from self._deltas(f"{kind}.delta", item, part.pieces, **place, **extra)
        else:
            for piece in part.pieces:
                logprobs = item.logprobs([piece])
                data = self._of(f"{kind}.delta", item, **place, delta=piece, logprobs=logprobs, **self._padding)
                yield Frame(data, True)
        for number, citation in enumerate(part.citations):
            yield Frame(
                self._of(
                    "response.output_text.annotation.added",
                    item,
                    **place,
                    annotation_index=number,
                    annotation=citation,
                )
            )
        whole: JsonObject = (
            {"refusal": part.text} if is_refusal else {"text": part.text, "logprobs": item.logprobs(part.pieces)}
        )
        yield Frame(self._of(f"{kind}.done", item, **place, **whole))
        yield Frame(self._of("response.content_part.done", item, **place, part=item.content(part)))

    def _reasoning(self, item: OutputItem) -> Iterator[Frame]:
        raw = item.shown.raw_reasoning
        part = "response.content_part" if raw else "response.reasoning_summary_part"
        text = "response.reasoning_text" if raw else "response.reasoning_summary_text"
        kind = "reasoning_text" if raw else "summary_text"
        for index, pieces in enumerate(item.passages):
            place: JsonObject = {"content_index" if raw else "summary_index": index}
            whole = "".join(pieces)
            yield Frame(self._of(f"{part}.added", item, **place, part={"type": kind, "text": ""}))
            yield from self._deltas(f"{text}.delta", item, pieces, **place)
            yield Frame(self._of(f"{text}.done", item, **place, text=whole))
            yield Frame(self._of(f"{part}.done", item, **place, part={"type": kind, "text": whole}))

    def _input(self, item: OutputItem) -> Iterator[Frame]:
        kind, field = _INPUT_EVENTS[item.kind]
        part = item.parts[0]
        yield from self._deltas(f"{kind}.delta", item, part.pieces)
        yield Frame(self._of(f"{kind}.done", item, **{field: part.text}))

    def _added(self, item: OutputItem) -> bytes:
        return self._event("response.output_item.added", output_index=item.index, item=item.begun())

    def _finished(self, item: OutputItem) -> bytes:
        whole = item.whole()
        self._done.append(whole)
        return self._event("response.output_item.done", output_index=item.index, item=whole)

    def _deltas(self, name: str, item: OutputItem, pieces: Sequence[str], **fields: object) -> Iterator[Frame]:
        """Deltas that differ in nothing but their text: everything around it is encoded once."""
        kind = name.encode()
        head = b'event: %b\ndata: {"type":"%b","sequence_number":' % (kind, kind)
        rest = _encode({"item_id": item.id, "output_index": item.index, **fields, **self._padding})[1:-1]
        middle = b"," + rest + b',"delta":'
        for piece in pieces:
            number = self._number
            self._number += 1
            yield Frame(b"%b%d%b%b}\n\n" % (head, number, middle, _encode(piece)), True)

    def _of(self, name: str, item: OutputItem, **fields: object) -> bytes:
        return self._event(name, item_id=item.id, output_index=item.index, **fields)

    def _event(self, name: str, **fields: object) -> bytes:
        number = self._number
        self._number += 1
        data = _encode({"type": name, "sequence_number": number, **fields})
        return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def _held_until_delta(frames: Iterator[Frame]) -> Iterator[Frame]:
    """The frames, those before the first delta held back for it: what fails before any content has sent none."""
    held: list[bytes] = []
    for frame in frames:
        held.append(frame.data)
        if frame.is_delta:
            yield Frame(b"".join(held), True)
            break
    else:
        if held:
            yield Frame(b"".join(held))
    yield from frames
