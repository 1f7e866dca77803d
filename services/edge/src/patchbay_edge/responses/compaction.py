"""Compaction: one item that stands for a conversation which has grown too long, whatever backend had it.

OpenAI's servers answer a request that ends in a `compaction_trigger` with a `compaction` item that only they can read.
Every other backend is asked for a summary, and the item holds that, for any backend to go on from.

https://platform.openai.com/docs/api-reference/responses/compact
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec

from patchbay.canonical import BlockStart, BlockStop, ChatEvent, OpaqueStart
from patchbay.dialects.base import EventWriter
from patchbay.dialects.openai_responses import DIALECT
from patchbay.errors import UPSTREAM, InvalidRequest, PatchbayError, make_error
from patchbay_edge.responses.body import ResponsesBody

# What the `encrypted_content` of an item of ours begins with.
_MARK = "patchbay-summary:"
_MARK_BYTES = _MARK.encode()

_ASK = (
    "Write a summary of this whole conversation, from its beginning to this point. It takes the conversation's place: "
    "whoever goes on from it knows nothing else, so that what you leave out is lost. Say what was asked for, with "
    "every rule and wish that still holds; what was found out, with the exact names, paths, commands, numbers and "
    "error messages that matter; what was done and how it turned out; what was decided and why; and what remains to be "
    "done, beginning with the very next step. Answer with the summary alone, in plain text, and use no tool."
)
_TELL = "What was said so far has been summed up. The summary stands for it:\n\n"
_TRIGGER = b'{"type":"compaction_trigger"}'


class _Item(msgspec.Struct):
    type: object = "message"
    role: object = None
    encrypted_content: object = None


class _Answer(msgspec.Struct):
    """What of a Response a compacted one has too."""

    id: str = ""
    created_at: int | float | None = None
    output: list[msgspec.Raw] = []
    usage: msgspec.Raw = msgspec.Raw(b"null")


_decode_item = msgspec.json.Decoder(_Item).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def compacting(request: ResponsesBody) -> ResponsesBody:
    """The request of `/responses` that a request of `/responses/compact` stands for."""
    items = [*request.items, _TRIGGER]
    body = request.written(items, goes_on=True, fields={"stream": b"false", "store": b"false"})
    return replace(request, body=body, items=items, store=False)


def is_trigger(item: bytes) -> bool:
    """Whether an item asks for compaction."""
    return b"compaction_trigger" in item and _read(item).type == "compaction_trigger"


def since_last(items: Sequence[bytes]) -> tuple[bytes, ...]:
    """The items from the last compaction on, which stands for those before it; what the system says stays."""
    for position in range(len(items) - 1, -1, -1):
        if _is_compaction(items[position]):
            lasting = [item for item in items[:position] if _read(item).role in ("system", "developer")]
            return (*lasting, *items[position:])
    return tuple(items)


def opened(items: Iterable[bytes]) -> list[bytes]:
    """The items with a summary of ours in the words that any model reads."""
    return [_opened(item) if _MARK_BYTES in item else item for item in items]


def summary_request(items: Sequence[bytes]) -> list[bytes]:
    """The items of a request that ends in a trigger, with the request for a summary in its place."""
    return [*items[:-1], _message(_ASK)]


def check_readable(items: Iterable[bytes]) -> None:
    """Refuses what only the server that made it can read: without it the conversation would go on from nothing.

    Raises:
        InvalidRequest: There is an item that another provider has compacted.
    """
    for number, item in enumerate(items):
        if _is_compaction(item):
            raise InvalidRequest(
                "This conversation was compacted by a provider that alone can read the result. Go on with a model of "
                "that provider, or begin a new conversation.",
                f"input[{number}]",
            )


class SummaryEvents:
    """Turns the events of an answer that is a summary into those of a compaction."""

    def __init__(self) -> None:
        self._texts: set[int] = set()
        self._summary: list[str] = []
        # The backend has made an item of its own.
        self._is_there = False

    def feed(self, events: Iterable[ChatEvent]) -> list[ChatEvent]:
        """The events without the answer's content; before its end, the item that holds it."""
        passed: list[ChatEvent] = []
        for event in events:
            match event.WhichOneof("event"):
                case "block_start":
                    if event.block_start.HasField("text"):
                        self._texts.add(event.block_start.index)
                    elif event.block_start.HasField("opaque"):
                        self._is_there = True
                        passed += [event, ChatEvent(block_stop=BlockStop(index=event.block_start.index))]
                case "text_delta":
                    if event.text_delta.index in self._texts:
                        self._summary.append(event.text_delta.text)
                case "thinking_delta" | "signature_delta" | "tool_input_delta" | "citation_delta" | "block_stop":
                    pass
                case "finished":
                    passed += [] if self._is_there else self._compaction()
                    passed.append(event)
                case _:
                    passed.append(event)
        return passed

    def _compaction(self) -> list[ChatEvent]:
        summary = "".join(self._summary).strip()
        if not summary:
            return [ChatEvent(error=make_error(UPSTREAM, "the model gave no summary of the conversation"))]
        start = BlockStart(opaque=OpaqueStart(dialect=DIALECT.name, json=_compaction_of(summary)))
        return [ChatEvent(block_start=start), ChatEvent(block_stop=BlockStop())]


class CompactedWriter:
    """Writes the object that `/responses/compact` answers with, from the Response that another writer writes.

    Args:
        writer: Of an answer that is not streamed.
        items: What the conversation was, each item as JSON.
    """

    def __init__(self, writer: EventWriter, items: Sequence[bytes]) -> None:
        self._writer = writer
        self._items = items
        self._body = bytearray()
        self.content_type = writer.content_type

    def feed(self, events: Iterable[ChatEvent]) -> bytes:
        """Nothing: it is all in the end."""
        self._body += self._writer.feed(events)
        return b""

    def close(self) -> bytes:
        """The whole object.

        Raises:
            PatchbayError: The answer ended in an error, or holds no compaction.
        """
        self._body += self._writer.close()
        try:
            answer = _decode_answer(self._body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise PatchbayError(make_error(UPSTREAM, f"the backend's answer cannot be read: {error}")) from error
        compactions = [item for item in answer.output if _is_compaction(bytes(item))]
        if not compactions:
            raise PatchbayError(make_error(UPSTREAM, "the backend has not compacted the conversation"))
        said = [msgspec.Raw(_as_output(item)) for item in self._items if _read(item).role == "user"]
        compacted = {
            "id": answer.id,
            "object": "response.compaction",
            "created_at": int(answer.created_at or time.time()),
            "output": [*said, compactions[-1]],
            "usage": answer.usage,
        }
        return msgspec.json.encode(compacted)

    def ping(self) -> bytes:
        """Nothing: nothing is streamed."""
        return b""


def _read(item: bytes) -> _Item:
    try:
        return _decode_item(item)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Item(type=None)


def _is_compaction(item: bytes) -> bool:
    return b"compaction" in item and _read(item).type == "compaction"


def _compaction_of(summary: str) -> str:
    content = _MARK + base64.urlsafe_b64encode(summary.encode()).decode()
    item = {"id": f"cmp_{uuid.uuid4().hex}", "type": "compaction", "encrypted_content": content}
    return msgspec.json.encode(item).decode()


def _opened(item: bytes) -> bytes:
    content = _read(item).encrypted_content
    if not _is_compaction(item) or not isinstance(content, str) or not content.startswith(_MARK):
        return item
    try:
        summary = base64.b64decode(content.removeprefix(_MARK), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise InvalidRequest("A compaction item is damaged: what it stands for cannot be read.", "input") from error
    return _message(_TELL + summary)


def _message(text: str) -> bytes:
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    return msgspec.json.encode(message)


def _as_output(item: bytes) -> bytes:
    """A message of the user's as the API answers with it: with an id, a state, and its content as a list of parts."""
    fields = _fields_of(item)
    content = fields.get("content", msgspec.Raw(b"null"))
    if bytes(content).startswith(b'"'):
        content = msgspec.Raw(b'[{"type":"input_text","text":' + bytes(content) + b"}]")
    made = f"msg_{hashlib.sha256(item).hexdigest()[:48]}"
    own = {"id": made, "type": "message", "status": "completed", "role": "user"}
    return msgspec.json.encode({**own, **fields, "content": content})
