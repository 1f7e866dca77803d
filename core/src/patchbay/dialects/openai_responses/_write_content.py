"""Writes content blocks as the parts of a Responses item."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from patchbay.canonical import Block, Document, Image
from patchbay.dialects.hints import is_attribution
from patchbay.dialects.json_text import Object, add_missing, dump, dump_array, dump_object, load_object
from patchbay.dialects.openai_responses._notes import INSTRUCTIONS, ITEM, PART
from patchbay.dialects.openai_responses._quirks import NAME, OpenAIResponsesQuirks
from patchbay.dialects.request_warnings import Warnings
from patchbay.dialects.sources import url_of

# Whose item the parts are for; a tool's are those of its output.
Speaker = Literal["system", "user", "assistant", "tool"]

_NO_AUDIO = "[An audio recording was here. It could not be passed on to this model.]"


def note_of(block: Block, name: str) -> bytes | None:
    """A note that this dialect left with a block."""
    return load_object(block.extensions[NAME]).get(name) if NAME in block.extensions else None


def rest_of(block: Block) -> Object | None:
    """The fields of the item that begins with the block; None: nothing says that one does."""
    note = note_of(block, ITEM)
    return None if note is None else load_object(note)


def is_part(block: Block) -> bool:
    """Whether an opaque block of this dialect is a content part; else it is an item."""
    return note_of(block, PART) is not None


class PartWriter:
    """Writes the parts of one request's items."""

    def __init__(self, quirks: OpenAIResponsesQuirks, warnings: Warnings) -> None:
        self._quirks = quirks
        self._warnings = warnings

    def parts(self, blocks: Iterable[Block], speaker: Speaker) -> list[Object]:
        """The parts in order. What cannot be said is left out with a warning."""
        parts: list[Object] = []
        for block in blocks:
            written = self._part(block, speaker)
            if written:
                self._finish(block, written[-1])
            parts += written
        return parts

    def texts(self, blocks: Iterable[Block], place: str) -> list[str]:
        """The same where only text may stand."""
        parts = self.parts(blocks, "system")
        texts = [msgspec.json.decode(part["text"], type=str) for part in parts if part.get("type") == b'"input_text"']
        if len(texts) < len(parts):
            self._warnings.dropped(place, "may hold only text with this backend; the rest is not supported")
        return texts

    def output(self, blocks: Iterable[Block], *, is_error: bool, as_array: bool) -> bytes:
        """The output of a tool call: one text as a string, anything else as an array of parts."""
        parts = self.parts(blocks, "tool")
        if is_error:
            _mark_error(parts)
        if as_array or len(parts) > 1:
            return _array(parts)
        if not parts:
            return b'""'
        (part,) = parts
        return part["text"] if part.keys() == {"type", "text"} and part["text"] != b'""' else _array(parts)

    def _finish(self, block: Block, part: Object) -> None:
        own = load_object(self._warnings.own_extension(block.extensions, "input.content."))
        for name in (ITEM, PART, INSTRUCTIONS, *self._quirks.unsupported_part_fields):
            own.pop(name, None)
        if part.get("annotations") == b"[]":
            del part["annotations"]
            own.setdefault("annotations", b"[]")
        add_missing(part, own)

    def _part(self, block: Block, speaker: Speaker) -> list[Object]:
        kind = block.WhichOneof("kind")
        if speaker == "assistant" and kind in ("image", "document", "audio"):
            self._warnings.add("input.content", f"an assistant message holds no {kind} here: it was left out")
            return []
        match kind:
            case "text":
                if speaker == "system" and is_attribution(block.text.text):
                    return []
                return [_output_text(block.text.text) if speaker == "assistant" else _text(block.text.text)]
            case "image":
                return [_image(block.image)]
            case "document":
                return self._document(block.document, speaker)
            case "audio":
                return self._audio(block, speaker)
            case "refusal":
                if speaker != "assistant":
                    return [_text(block.refusal.text)]
                return [{"type": b'"refusal"', "refusal": dump(block.refusal.text)}]
            case "opaque":
                return self._opaque(block)
            case _:
                # Thinking outside an assistant's message, or a block without content, says nothing here.
                return []

    def _audio(self, block: Block, speaker: Speaker) -> list[Object]:
        if speaker == "tool":
            self._warnings.add("input.output", "a tool's output holds no audio here; a note stands in its place")
            return [_text(_NO_AUDIO)]
        audio: Object = {"data": dump(block.audio.base64), "format": dump(block.audio.format)}
        return [{"type": b'"input_audio"', "input_audio": dump_object(audio)}]

    def _opaque(self, block: Block) -> list[Object]:
        if block.opaque.dialect == NAME and is_part(block):
            return [load_object(block.opaque.json)]
        content = msgspec.json.decode(block.opaque.json)
        kind = content.get("type") if isinstance(content, dict) else None
        name = kind or block.opaque.dialect
        self._warnings.add("input.content", f"{name} exists at another provider only and was left out")
        return []

    def _document(self, document: Document, speaker: Speaker) -> list[Object]:
        if document.citations:
            self._warnings.dropped("input.content.citations")
        heading = [text for text in (document.title, document.context) if text]
        if document.HasField("content"):
            parts = self.parts(document.content.blocks, speaker)
            return [_text("\n".join(heading)), *parts] if heading and parts else parts
        source = document.source
        file: Object = {"type": b'"input_file"'}
        match source.WhichOneof("origin"):
            case "text":
                return [_text("\n".join([*heading, source.text]))]
            case "file_id":
                file["file_id"] = dump(source.file_id)
            case "url":
                file["file_url"] = dump(source.url)
            case _:
                file["file_data"] = dump(url_of(source))
        if document.HasField("title"):
            file["filename"] = dump(document.title)
        elif "file_data" in file and source.media_type:
            # Required beside the data.
            file["filename"] = dump("document." + source.media_type.rpartition("/")[2])
        return [_text(document.context), file] if document.context else [file]


def _array(parts: Iterable[Object]) -> bytes:
    return dump_array([dump_object(part) for part in parts])


def _mark_error(parts: list[Object]) -> None:
    """Says that a call failed, for which there is no field, unless the text says so itself."""
    first = parts[0] if parts else {}
    if first.get("type") != b'"input_text"':
        parts.insert(0, _text("Error"))
        return
    text = msgspec.json.decode(first["text"], type=str)
    if not text.lower().startswith(("error", "<tool_use_error>")):
        first["text"] = dump(f"Error: {text}" if text else "Error")


def _text(text: str) -> Object:
    return {"type": b'"input_text"', "text": dump(text)}


def _output_text(text: str) -> Object:
    return {"type": b'"output_text"', "text": dump(text), "annotations": b"[]"}


def _image(image: Image) -> Object:
    part: Object = {"type": b'"input_image"'}
    if image.source.WhichOneof("origin") == "file_id":
        part["file_id"] = dump(image.source.file_id)
    else:
        part["image_url"] = dump(url_of(image.source))
    # Servers that check bodies by OpenAI's own types want it.
    part["detail"] = dump(image.detail if image.HasField("detail") else "auto")
    return part
