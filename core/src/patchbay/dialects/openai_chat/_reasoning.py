"""OpenRouter's `reasoning_details`, which carry signatures and encrypted reasoning, and Google's `extra_content`.

Formats: https://openrouter.ai/docs/use-cases/reasoning-tokens#preserving-reasoning-blocks and
https://ai.google.dev/gemini-api/docs/thought-signatures

A provider wants both back, and a client of any dialect keeps redacted thinking, so that is where they travel. Data that
needs more than itself to be sent back (OpenAI's has an id) travels as the whole entry, and an `extra_content` as an
object with that one field; a provider's own data is base64 and never starts with a brace.
"""

from __future__ import annotations

import msgspec

from patchbay.canonical import Block, Opaque, RedactedThinking, Thinking
from patchbay.dialects.json_text import Object, dump, dump_object, load_object, object_text
from patchbay.dialects.openai_chat._quirks import NAME
from patchbay.dialects.openai_fields import Fields
from patchbay.dialects.signatures import is_openai_made

# Only Anthropic's data needs no more than itself.
_SIGNED_FORMAT = b'"anthropic-claude-v1"'
_OPENAI_FORMAT = b'"openai-responses-v1"'

_TEXT_FIELDS = {"reasoning.text": "text", "reasoning.summary": "summary"}


def read_detail(raw: bytes, path: str) -> Block:
    """Reads one entry of a client's `reasoning_details`.

    Raises:
        InvalidRequest: When a field has the wrong type.
    """
    fields = Fields.of(raw, path)
    kind = fields.required_string("type")
    if kind == "reasoning.encrypted":
        return Block(redacted_thinking=RedactedThinking(data=encrypted_data(raw)))
    if kind not in _TEXT_FIELDS:
        entry = {name: value for name, value in load_object(raw).items() if name != "index"}
        return Block(opaque=Opaque(dialect=NAME, json=object_text(entry)))
    block = Block(thinking=Thinking(text=fields.string(_TEXT_FIELDS[kind]) or ""))
    signature = fields.string("signature")
    if signature:
        block.thinking.signature = signature
    fields.raw("index")
    written_format = fields.raw("format")
    rest: Object = {} if kind == "reasoning.text" else {"type": dump(kind)}
    if written_format is not None and not (signature and written_format == _format_of(signature)):
        rest["format"] = written_format
    rest.update(fields.rest())
    if rest:
        block.extensions[NAME] = object_text(rest)
    return block


def encrypted_data(raw: bytes) -> str:
    """What an entry of type `reasoning.encrypted` becomes as redacted thinking.

    Raises:
        msgspec.DecodeError: When its data is not a string.
    """
    entry = {name: value for name, value in load_object(raw).items() if name != "index" and value != b"null"}
    data = msgspec.json.decode(entry.get("data", b'""'), type=str)
    more = {name for name, value in entry.items() if (name, value) != ("format", _SIGNED_FORMAT)}
    return data if more <= {"type", "data"} else object_text(entry)


def extra_content_data(raw: bytes) -> str:
    """What the `extra_content` of a tool call becomes as redacted thinking."""
    return object_text({"extra_content": raw})


def extra_content_of(data: str) -> bytes | None:
    """The `extra_content` that redacted thinking carries, if that is what it is."""
    fields = _carried(data)
    return None if fields is None else fields.get("extra_content")


def text_detail(text: str, signature: str | None, index: int, rest: Object | None = None) -> bytes:
    """Writes thinking as an entry of `reasoning_details`."""
    rest = dict(rest or {})
    kind = rest.pop("type", b'"reasoning.text"')
    name = "summary" if kind == b'"reasoning.summary"' else "text"
    entry: Object = {"type": kind, name: dump(text)}
    if signature is not None:
        entry["signature"] = dump(signature)
        entry["format"] = _format_of(signature)
    entry.update(rest)
    entry["index"] = dump(index)
    return dump_object(entry)


def encrypted_detail(data: str, index: int) -> bytes:
    """Writes redacted thinking as an entry of `reasoning_details`."""
    entry = _carried(data)
    if entry is None or "type" not in entry:
        entry = {"type": b'"reasoning.encrypted"', "data": dump(data), "format": _SIGNED_FORMAT}
    entry["index"] = dump(index)
    return dump_object(entry)


def _format_of(signature: str) -> bytes:
    """Whose reasoning text a signature signs: Anthropic's, or what stands beside OpenAI's encrypted reasoning."""
    return _OPENAI_FORMAT if is_openai_made(signature) else _SIGNED_FORMAT


def _carried(data: str) -> Object | None:
    if not data.startswith("{"):
        return None
    try:
        return load_object(data)
    except msgspec.DecodeError:
        return None
