"""Writes content blocks as the parts of a Chat Completions message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from patchbay.canonical import Block, CacheMark, Document, Image
from patchbay.dialects.hints import is_attribution
from patchbay.dialects.json_text import Object, add_missing, dump, dump_object, load_object
from patchbay.dialects.openai_chat._quirks import NAME, OpenAIChatQuirks
from patchbay.dialects.request_warnings import Warnings
from patchbay.dialects.sources import url_of

# Whose message the parts are for. A tool's parts that are no text are moved by the caller.
Speaker = Literal["system", "user", "assistant", "tool"]


def cache_mark(mark: CacheMark, quirks: OpenAIChatQuirks) -> Object:
    """The mark as a field to add, for the servers that take it."""
    if not quirks.cache_control:
        return {}
    fields: Object = load_object(mark.extra_json) if mark.extra_json else {}
    written: Object = {"type": fields.pop("type", b'"ephemeral"')}
    if mark.HasField("ttl"):
        written["ttl"] = dump(mark.ttl)
    add_missing(written, fields)
    return {"cache_control": dump_object(written)}


class PartWriter:
    """Writes the parts of one request's messages."""

    def __init__(self, quirks: OpenAIChatQuirks, warnings: Warnings) -> None:
        self._quirks = quirks
        self._warnings = warnings

    def of_texts(self, blocks: Iterable[Block], speaker: Speaker) -> list[Object]:
        """The parts of a message that may hold only text."""
        parts = self.of_blocks(blocks, speaker)
        texts = [part for part in parts if part.get("type") == b'"text"']
        if len(texts) < len(parts):
            self._warnings.add("messages.content", f"a {speaker} message holds only text here: the rest was left out")
        return texts

    def of_blocks(self, blocks: Iterable[Block], speaker: Speaker) -> list[Object]:
        """The parts of a message's blocks, in order. What cannot be said is left out with a warning."""
        parts: list[Object] = []
        for block in blocks:
            written = self._part(block, speaker)
            if written:
                self._finish(block, written[-1])
            parts += written
        return parts

    def _finish(self, block: Block, part: Object) -> None:
        if block.HasField("cache"):
            part |= cache_mark(block.cache, self._quirks)
        add_missing(part, load_object(self._warnings.own_extension(block.extensions, "messages.content.")))

    def _part(self, block: Block, speaker: Speaker) -> list[Object]:
        kind = block.WhichOneof("kind")
        if speaker == "assistant" and kind in ("image", "document", "audio"):
            self._warnings.add("messages.content", f"an assistant message holds no {kind} here: it was left out")
            return []
        match kind:
            case "text":
                return [] if speaker == "system" and is_attribution(block.text.text) else [_text(block.text.text)]
            case "image":
                return self._image(block.image)
            case "document":
                return self._document(block.document, speaker)
            case "audio":
                audio: Object = {"data": dump(block.audio.base64), "format": dump(block.audio.format)}
                return [{"type": b'"input_audio"', "input_audio": dump_object(audio)}]
            case "refusal":
                if speaker != "assistant":
                    return [_text(block.refusal.text)]
                return [{"type": b'"refusal"', "refusal": dump(block.refusal.text)}]
            case "opaque":
                return self._opaque(block)
            case _:
                # Thinking outside an assistant's message, or a block without content, says nothing here.
                return []

    def _opaque(self, block: Block) -> list[Object]:
        if block.opaque.dialect == NAME:
            return [load_object(block.opaque.json)]
        content = msgspec.json.decode(block.opaque.json)
        kind = content.get("type") if isinstance(content, dict) else None
        name = kind or block.opaque.dialect
        self._warnings.add("messages.content", f"{name} exists at another provider only and was left out")
        return []

    def _image(self, image: Image) -> list[Object]:
        if image.source.WhichOneof("origin") not in ("base64", "url"):
            self._warnings.add("messages.content.image", "an image by file id cannot be sent here: it was left out")
            return []
        options: Object = {"url": dump(url_of(image.source))}
        if image.HasField("detail"):
            options["detail"] = dump(image.detail)
        return [{"type": b'"image_url"', "image_url": dump_object(options)}]

    def _document(self, document: Document, speaker: Speaker) -> list[Object]:
        if document.citations:
            self._warnings.dropped("messages.content.citations")
        heading = [text for text in (document.title, document.context) if text]
        if document.HasField("content"):
            parts = self.of_blocks(document.content.blocks, speaker)
            return [_text("\n".join(heading)), *parts] if heading and parts else parts
        source = document.source
        match source.WhichOneof("origin"):
            case "text":
                return [_text("\n".join([*heading, source.text]))]
            case "file_id":
                file: Object = {"file_id": dump(source.file_id)}
            case "base64":
                file = {"file_data": dump(url_of(source))}
            case "url" if self._quirks.document_urls:
                file = {"file_data": dump(source.url)}
            case _:
                self._warnings.add("messages.content.file", "a document by URL cannot be sent here: it was left out")
                return []
        if document.HasField("title"):
            file["filename"] = dump(document.title)
        elif "file_data" in file and source.media_type:
            # Required beside the data.
            file["filename"] = dump("document." + source.media_type.rpartition("/")[2])
        part: Object = {"type": b'"file"', "file": dump_object(file)}
        return [_text(document.context), part] if document.context else [part]


def _text(text: str) -> Object:
    return {"type": b'"text"', "text": dump(text)}
