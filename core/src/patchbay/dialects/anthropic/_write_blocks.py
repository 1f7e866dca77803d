"""Writes content blocks of the Messages API."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from patchbay.canonical import Block, CacheMark, Document, Image, Source, Text, ToolResult, ToolUse
from patchbay.dialects.anthropic._call_ids import FORBIDDEN
from patchbay.dialects.anthropic._json import Object, add_missing, carried, load_fields
from patchbay.dialects.anthropic._quirks import NAME
from patchbay.dialects.anthropic._tool_input import free_input, tool_input
from patchbay.dialects.call_ids import CallIds
from patchbay.dialects.request_warnings import Warnings
from patchbay.dialects.signatures import is_openai_made
from patchbay.dialects.tool_names import ToolNames

# How the base64 text of an image begins, by its type.
_IMAGE_TYPES = {"/9j/": "image/jpeg", "iVBOR": "image/png", "R0lG": "image/gif", "UklGR": "image/webp"}

_NO_AUDIO = "[An audio recording was here. It could not be passed on to this model.]"


def cache_control(mark: CacheMark) -> Object:
    written: Object = {"type": "ephemeral"}
    if mark.HasField("ttl"):
        written["ttl"] = mark.ttl
    if mark.extra_json:
        written.update(load_fields(mark.extra_json))
    return written


# A block as an object, or as JSON that is only carried.
Written: TypeAlias = Object | msgspec.Raw


def type_of(block: Written) -> str:
    """The type of a block; empty for one that is only carried."""
    return str(block["type"]) if isinstance(block, dict) else ""


class BlockWriter:
    """Writes blocks as objects; what cannot be said becomes a warning, or a text in its place."""

    def __init__(self, warnings: Warnings, names: ToolNames) -> None:
        self._warnings = warnings
        self._names = names
        self._ids = CallIds(FORBIDDEN)

    def blocks(self, blocks: Iterable[Block]) -> list[Written]:
        """The blocks in order, without those that have no place in the API."""
        return [written for block in blocks if (written := self.block(block)) is not None]

    def block(self, block: Block) -> Written | None:
        written = self._kind(block)
        if not isinstance(written, dict):
            return written
        if block.HasField("cache"):
            written["cache_control"] = cache_control(block.cache)
        if block.extensions:
            add_missing(written, load_fields(self._warnings.own_extension(block.extensions)))
        return written

    def _kind(self, block: Block) -> Written | None:
        match block.WhichOneof("kind"):
            case "text":
                return self._text(block.text)
            case "image":
                return self._image(block.image)
            case "document":
                return self._document(block.document)
            case "audio":
                self._warnings.add("input_audio", "audio is not supported by this backend; a note stands in its place")
                return {"type": "text", "text": _NO_AUDIO}
            case "tool_use":
                return self._tool_use(block.tool_use)
            case "tool_result":
                return self._tool_result(block.tool_result)
            case "thinking":
                # A provider refuses thinking that it has not signed itself, and a signature cannot be made up.
                if not block.thinking.signature or is_openai_made(block.thinking.signature):
                    return None
                return {"type": "thinking", "thinking": block.thinking.text, "signature": block.thinking.signature}
            case "redacted_thinking":
                # A JSON object is another provider's state that travelled with an Anthropic client: refused here too.
                if block.redacted_thinking.data.startswith("{"):
                    return None
                return {"type": "redacted_thinking", "data": block.redacted_thinking.data}
            case "refusal":
                return {"type": "text", "text": block.refusal.text} if block.refusal.text.strip() else None
            case "opaque" if block.opaque.dialect == NAME:
                return carried(block.opaque.json)
            case "opaque":
                self._warnings.dropped("content", f"of a kind that only the {block.opaque.dialect} API knows")
        return None

    def _text(self, text: Text) -> Object | None:
        # The API refuses text without a visible character, and it says nothing.
        if not text.text.strip():
            return None
        written: Object = {"type": "text", "text": text.text}
        citations = [carried(citation.json) for citation in text.citations if citation.dialect == NAME]
        if citations:
            written["citations"] = citations
        if len(citations) < len(text.citations):
            self._warnings.dropped("citations", "of another API cannot be passed on to this backend")
        return written

    def _image(self, image: Image) -> Object:
        # A closer look than this is what happens anyway.
        if image.detail == "low":
            self._warnings.dropped("detail")
        source = _source(image.source)
        if source["type"] == "base64":
            source["media_type"] = _image_type(image.source)
        return {"type": "image", "source": source}

    def _document(self, document: Document) -> Object:
        written: Object = {"type": "document"}
        if document.WhichOneof("body") == "content":
            written["source"] = {"type": "content", "content": self.blocks(document.content.blocks)}
        else:
            written["source"] = _document_source(document.source)
        if document.HasField("title"):
            written["title"] = document.title
        if document.HasField("context"):
            written["context"] = document.context
        if document.HasField("citations"):
            written["citations"] = {"enabled": document.citations}
        return written

    def _tool_use(self, use: ToolUse) -> Object:
        if use.HasField("text_input"):
            content: object = free_input(use.text_input)
        else:
            content, is_object = tool_input(use.input_json)
            if not is_object:
                self._warnings.add(
                    "arguments", "the arguments of a tool call are not a JSON object; they are sent as text inside one"
                )
        tool = self._names.of(use.name, use.namespace, custom=use.HasField("text_input"))
        return {"type": "tool_use", "id": self._ids.of_call(use.id), "name": tool.name, "input": content}

    def _tool_result(self, result: ToolResult) -> Object:
        written: Object = {"type": "tool_result", "tool_use_id": self._ids.of_result(result.tool_use_id)}
        content = self.blocks(result.blocks)
        if content:
            written["content"] = content
        if result.is_error:
            written["is_error"] = True
        return written


def _source(source: Source) -> Object:
    match source.WhichOneof("origin"):
        case "url":
            return {"type": "url", "url": source.url}
        case "file_id":
            return {"type": "file", "file_id": source.file_id}
        case "text":
            return {"type": "text", "media_type": source.media_type or "text/plain", "data": source.text}
        case _:
            return {"type": "base64", "media_type": source.media_type, "data": source.base64}


def _image_type(source: Source) -> str:
    if source.media_type == "image/jpg":
        return "image/jpeg"
    if source.media_type:
        return source.media_type
    return next((kind for start, kind in _IMAGE_TYPES.items() if source.base64.startswith(start)), "image/png")


def _document_source(source: Source) -> Object:
    written = _source(source)
    if written["type"] != "base64":
        return written
    # In base64 the API takes PDF only.
    if source.media_type.startswith("text/"):
        try:
            text = base64.b64decode(source.base64, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return written
        return {"type": "text", "media_type": "text/plain", "data": text}
    return written | {"media_type": source.media_type or "application/pdf"}
