"""Writes one choice of a whole answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from patchbay.canonical import Finished
from patchbay.dialects.fold import FoldedBlock
from patchbay.dialects.json_text import Object, dump, dump_array, dump_object, load_array
from patchbay.dialects.openai_chat._own_fields import OwnFields
from patchbay.dialects.openai_chat._quirks import NAME
from patchbay.dialects.openai_chat._reasoning import encrypted_detail, text_detail
from patchbay.dialects.openai_chat._stop_reasons import write_finish_reason

# The arguments of a call without any: clients parse them as JSON.
NO_ARGUMENTS = "{}"

# Around thinking that goes into the visible text, where a client asks for it. Markdown begins behind an empty line.
REASONING_START = "<reasoning>"
REASONING_END = "</reasoning>\n\n"


def write_choice(number: int, blocks: Sequence[FoldedBlock], finished: Finished, *, is_xml: bool = False) -> bytes:
    """Writes an entry of `choices`.

    Args:
        blocks: Those of this choice, in order.
        is_xml: Whether thinking goes into the visible text, as an element, and nowhere else.
    """
    message: Object = {"role": b'"assistant"'}
    message["content"] = _text_with_thinking(blocks) if is_xml else _text(blocks, "text")
    message["refusal"] = _text(blocks, "refusal")
    if not is_xml:
        _add_thinking(message, blocks)
    calls = [_tool_call(block) for block in blocks if block.kind == "tool_use"]
    if calls:
        message["tool_calls"] = dump_array(calls)
    own = OwnFields()
    for block in blocks:
        for citation in block.citations:
            if citation.dialect == NAME:
                own.add_annotation(citation.json)
        if block.kind == "opaque" and block.start.opaque.dialect == NAME:
            own.add(block.start.opaque.json)
    own.add_to(message)
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


def _text(blocks: Iterable[FoldedBlock], kind: str) -> bytes:
    texts = [block.text for block in blocks if block.kind == kind]
    return dump("".join(texts)) if any(texts) else b"null"


def _text_with_thinking(blocks: Iterable[FoldedBlock]) -> bytes:
    texts = []
    for block in blocks:
        if block.kind == "text":
            texts.append(block.text)
        elif block.kind == "thinking" and block.text:
            texts.append(REASONING_START + block.text + REASONING_END)
    return dump("".join(texts)) if any(texts) else b"null"


def _add_thinking(message: Object, blocks: Sequence[FoldedBlock]) -> None:
    thinking = _text(blocks, "thinking")
    if thinking != b"null":
        message["reasoning_content"] = thinking
    details = _details(blocks)
    if details:
        message["reasoning_details"] = dump_array(details)


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
        fields["function"] = dump_object({"name": dump(use.name), "arguments": dump(block.text or NO_ARGUMENTS)})
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
