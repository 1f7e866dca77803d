"""Writes one choice of a whole answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from patchbay.canonical import Finished
from patchbay.dialects.fold import FoldedBlock
from patchbay.dialects.openai_chat._json import Object, dump, dump_array, dump_object, load_array, load_object
from patchbay.dialects.openai_chat._quirks import NAME
from patchbay.dialects.openai_chat._reasoning import encrypted_detail, text_detail
from patchbay.dialects.openai_chat._stop_reasons import write_finish_reason

# The fields of a streamed audio answer that come in pieces.
_PIECEWISE = ("data", "transcript")


def write_choice(number: int, blocks: Sequence[FoldedBlock], finished: Finished) -> bytes:
    """Writes an entry of `choices`; `blocks` are those of this choice, in order."""
    message: Object = {"role": b'"assistant"'}
    message["content"] = _text(blocks, "text")
    message["refusal"] = _text(blocks, "refusal")
    thinking = _text(blocks, "thinking")
    if thinking != b"null":
        message["reasoning_content"] = thinking
    details = _details(blocks)
    if details:
        message["reasoning_details"] = dump_array(details)
    calls = [_tool_call(block) for block in blocks if block.kind == "tool_use"]
    if calls:
        message["tool_calls"] = dump_array(calls)
    annotations = [
        citation.json.encode() for block in blocks for citation in block.citations if citation.dialect == NAME
    ]
    if annotations:
        message["annotations"] = dump_array(annotations)
    for block in blocks:
        if block.kind == "opaque" and block.start.opaque.dialect == NAME:
            add_own_fields(message, block.start.opaque.json)
    reason = write_finish_reason(
        finished.stop_reason, has_tool=bool(calls), has_refusal=any(block.kind == "refusal" for block in blocks)
    )
    return dump_object(
        {
            "index": dump(number),
            "message": dump_object(message),
            "logprobs": _logprobs(blocks),
            "finish_reason": dump(reason),
        }
    )


def add_own_fields(message: Object, text: str) -> None:
    """Adds the message fields of an opaque block of this dialect, after those that came before it."""
    for name, value in load_object(text).items():
        old = message.get(name)
        if old is None:
            message[name] = value
        elif old.startswith(b"[") and value.startswith(b"["):
            message[name] = dump_array(load_array(old) + load_array(value))
        elif old.startswith(b"{") and value.startswith(b"{"):
            message[name] = dump_object(_joined(load_object(old), load_object(value)))


def _joined(old: Object, new: Object) -> Object:
    for name, value in new.items():
        if name in _PIECEWISE and name in old:
            old[name] = dump(msgspec.json.decode(old[name], type=str) + msgspec.json.decode(value, type=str))
        else:
            old[name] = value
    return old


def _text(blocks: Iterable[FoldedBlock], kind: str) -> bytes:
    texts = [block.text for block in blocks if block.kind == kind]
    return dump("".join(texts)) if any(texts) else b"null"


def _details(blocks: Iterable[FoldedBlock]) -> list[bytes]:
    details: list[bytes] = []
    for block in blocks:
        if block.kind == "thinking" and block.signature:
            details.append(text_detail(block.text, block.signature, len(details)))
        elif block.kind == "redacted_thinking":
            details.append(encrypted_detail(block.start.redacted_thinking.data, len(details)))
    return details


def _tool_call(block: FoldedBlock) -> bytes:
    use = block.start.tool_use
    fields: Object = {"id": dump(use.id)}
    if use.text_input:
        fields["type"] = b'"custom"'
        fields["custom"] = dump_object({"name": dump(use.name), "input": dump(block.text)})
    else:
        fields["type"] = b'"function"'
        fields["function"] = dump_object({"name": dump(use.name), "arguments": dump(block.text)})
    return dump_object(fields)


def _logprobs(blocks: Iterable[FoldedBlock]) -> bytes:
    content: list[bytes] = []
    refusal: list[bytes] = []
    for block in blocks:
        for text in block.logprobs:
            (refusal if block.kind == "refusal" else content).extend(load_array(text))
    if not content and not refusal:
        return b"null"
    return dump_object(
        {
            "content": dump_array(content) if content else b"null",
            "refusal": dump_array(refusal) if refusal else b"null",
        }
    )
