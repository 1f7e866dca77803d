"""Reads content blocks of the Messages API."""

from __future__ import annotations

from typing import Protocol

import msgspec

from patchbay.canonical import Block, CacheMark, Source
from patchbay.dialects.anthropic._json import NULL, Fields, dump, is_null, load_items, load_string, object_text, text_of
from patchbay.dialects.anthropic._quirks import NAME
from patchbay.dialects.anthropic._shapes import Shape
from patchbay.errors import InvalidRequest


class _Cache(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    ttl: str | None = None


class _AnyBlock(msgspec.Struct, tag_field="type", tag="", forbid_unknown_fields=True, kw_only=True):
    cache_control: msgspec.Raw = NULL


class _Text(_AnyBlock, tag="text"):
    text: str
    citations: list[msgspec.Raw] | None = None


class _Image(_AnyBlock, tag="image"):
    source: msgspec.Raw


class _Document(_AnyBlock, tag="document"):
    source: msgspec.Raw
    title: str | None = None
    context: str | None = None
    citations: msgspec.Raw = NULL


class _ToolUse(_AnyBlock, tag="tool_use"):
    id: str
    name: str
    input: msgspec.Raw


class _ToolResult(_AnyBlock, tag="tool_result"):
    tool_use_id: str
    content: msgspec.Raw = NULL
    is_error: bool | None = None


class _Thinking(_AnyBlock, tag="thinking"):
    thinking: str
    signature: str | None = None


class _RedactedThinking(_AnyBlock, tag="redacted_thinking"):
    data: str


class _AnySource(msgspec.Struct, tag_field="type", tag="", forbid_unknown_fields=True):
    pass


class _Base64(_AnySource, tag="base64"):
    data: str
    media_type: str = ""


class _Url(_AnySource, tag="url"):
    url: str


class _File(_AnySource, tag="file"):
    file_id: str


class _PlainText(_AnySource, tag="text"):
    data: str
    media_type: str = ""


class _Content(_AnySource, tag="content"):
    content: msgspec.Raw


class _CitationsConfig(msgspec.Struct, forbid_unknown_fields=True):
    enabled: bool | None = None


_BLOCK: Shape[_AnyBlock] = Shape(_Text, _ToolUse, _ToolResult, _Image, _Document, _Thinking, _RedactedThinking)
_SOURCE: Shape[_AnySource] = Shape(_Base64, _Url, _File, _PlainText, _Content)
_CITATIONS = Shape(_CitationsConfig)
_CACHE = Shape(_Cache)

# Results and documents may hold blocks. The API allows one level; a message that travels on may not nest without end.
_DEEPEST = 8

_QUOTE, _BRACKET = ord('"'), ord("[")


class Blocks(Protocol):
    """Where blocks are added: a repeated field of a message."""

    def add(self) -> Block: ...


def read_content(raw: msgspec.Raw, blocks: Blocks, path: str) -> None:
    """Adds the blocks of a `content` (or `system`) that is a string or a list of blocks.

    Raises:
        InvalidRequest: It is neither, or a block in it cannot be read.
    """
    if path.count(".content") > _DEEPEST:
        raise InvalidRequest(f"{path}: content is nested too deeply", path)
    first = memoryview(raw)[0]
    if first == _QUOTE:
        text = load_string(raw)
        if text:
            blocks.add().text.text = text
        return
    if first != _BRACKET:
        raise InvalidRequest(f"{path}: Input should be a valid list", path)
    for index, item in enumerate(load_items(raw)):
        _read_block(item, blocks.add(), f"{path}.{index}")


def _read_block(raw: msgspec.Raw, block: Block, path: str) -> None:
    """Reads one content block; of a type that is not known here the whole of it, untouched."""
    read, rest = _BLOCK.read(raw, path)
    if read is None or not _fill(block, read, rest, path):
        block.Clear()
        block.opaque.dialect = NAME
        block.opaque.json = text_of(raw)
        return
    if not is_null(read.cache_control):
        read_cache(read.cache_control, block.cache, f"{path}.cache_control")
    if rest:
        block.extensions[NAME] = object_text(rest)


def read_cache(raw: msgspec.Raw, mark: CacheMark, path: str) -> None:
    """Reads a `cache_control` that is not null."""
    mark.SetInParent()
    cache, rest = _CACHE.read(raw, path)
    assert cache is not None  # only a tagged shape may be of no known type
    if cache.ttl is not None:
        mark.ttl = cache.ttl
    if cache.type != "ephemeral":
        rest = {"type": msgspec.Raw(dump(cache.type)), **rest}
    if rest:
        mark.extra_json = object_text(rest)


def _fill(block: Block, read: _AnyBlock, rest: Fields, path: str) -> bool:
    """Fills in the block's kind; False when a part of it is of a type that is not known here."""
    match read:
        case _Text():
            block.text.text = read.text
            for citation in read.citations or ():
                block.text.citations.add(dialect=NAME, json=text_of(citation))
        case _ToolUse():
            use = block.tool_use
            use.id = read.id
            use.name = read.name
            use.input_json = _object(read.input, f"{path}.input")
        case _ToolResult():
            result = block.tool_result
            result.tool_use_id = read.tool_use_id
            result.is_error = bool(read.is_error)
            if not is_null(read.content):
                read_content(read.content, result.blocks, f"{path}.content")
        case _Image():
            block.image.SetInParent()
            return _fill_source(block.image.source, read.source, rest, f"{path}.source")
        case _Document():
            return _fill_document(block, read, rest, path)
        case _Thinking():
            block.thinking.text = read.thinking
            # Some clients keep an unsigned block with an empty signature.
            if read.signature:
                block.thinking.signature = read.signature
        case _RedactedThinking():
            block.redacted_thinking.data = read.data
        case _:
            return False
    return True


def _fill_document(block: Block, read: _Document, rest: Fields, path: str) -> bool:
    document = block.document
    if read.title is not None:
        document.title = read.title
    if read.context is not None:
        document.context = read.context
    if not is_null(read.citations):
        config, more = _CITATIONS.read(read.citations, f"{path}.citations")
        if config is not None and config.enabled is not None:
            document.citations = config.enabled
        if more:
            rest["citations"] = msgspec.Raw(dump(more))
    source, more = _SOURCE.read(read.source, f"{path}.source")
    if isinstance(source, _Content):
        document.content.SetInParent()
        read_content(source.content, document.content.blocks, f"{path}.source.content")
        _set_apart(rest, more)
        return True
    return _fill_source(document.source, read.source, rest, f"{path}.source")


def _fill_source(target: Source, raw: msgspec.Raw, rest: Fields, path: str) -> bool:
    source, more = _SOURCE.read(raw, path)
    match source:
        case _Base64():
            target.base64, target.media_type = source.data, source.media_type
        case _PlainText():
            target.text, target.media_type = source.data, source.media_type
        case _Url():
            target.url = source.url
        case _File():
            target.file_id = source.file_id
        case _:
            return False
    _set_apart(rest, more)
    return True


def _set_apart(rest: Fields, more: Fields) -> None:
    if more:
        rest["source"] = msgspec.Raw(dump(more))


def _object(raw: msgspec.Raw, path: str) -> str:
    if memoryview(raw)[0] != ord("{"):
        raise InvalidRequest(f"{path}: Input should be a valid dictionary", path)
    return text_of(raw)
