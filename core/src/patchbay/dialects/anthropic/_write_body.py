"""Writes a folded answer as one body of the Messages API."""

from __future__ import annotations

import msgspec

from patchbay.canonical import Finished
from patchbay.dialects.anthropic._call_ids import FORBIDDEN
from patchbay.dialects.anthropic._errors import no_tool_call
from patchbay.dialects.anthropic._json import Object, carried, dump, load_fields, load_string
from patchbay.dialects.anthropic._quirks import NAME
from patchbay.dialects.anthropic._stop_reasons import stop_reason_name
from patchbay.dialects.anthropic._tool_input import free_input, tool_input
from patchbay.dialects.anthropic._usage import usage_object
from patchbay.dialects.base import AnswerOptions
from patchbay.dialects.fold import Answer, FoldedBlock
from patchbay.dialects.tool_names import fitted
from patchbay.errors import PatchbayError


def message_body(answer: Answer, finished: Finished, options: AnswerOptions) -> bytes:
    """The body of an answer that has come to its end.

    Raises:
        PatchbayError: It ended in order to call a tool, but calls none.
    """
    has_tool = any(block.kind == "tool_use" for block in answer.blocks)
    has_own_tool = any(block.kind == "opaque" and is_tool_use(block.start.opaque.json) for block in answer.blocks)
    if finished.stop_reason == Finished.STOP_REASON_TOOL_USE and not (has_tool or has_own_tool):
        raise PatchbayError(no_tool_call())
    has_refusal = any(block.kind == "refusal" for block in answer.blocks)
    body: Object = {
        "id": answer.started.id or options.fallback_id,
        "type": "message",
        "role": "assistant",
        "model": answer.started.model or options.model,
        "content": [_block(block) for block in answer.blocks],
        "stop_reason": stop_reason_name(finished, has_tool=has_tool, has_refusal=has_refusal),
        "stop_sequence": finished.stop_sequence if finished.HasField("stop_sequence") else None,
        "usage": usage_object(answer.usage),
    }
    if NAME in finished.extensions:
        for name, value in load_fields(finished.extensions[NAME]).items():
            body.setdefault(name, value)
    return dump(body)


def _block(block: FoldedBlock) -> object:
    start = block.start
    match block.kind:
        case "thinking":
            return {"type": "thinking", "thinking": block.text, "signature": block.signature or ""}
        case "redacted_thinking":
            return {"type": "redacted_thinking", "data": start.redacted_thinking.data}
        case "tool_use":
            return {
                "type": "tool_use",
                "id": fitted(start.tool_use.id, forbidden=FORBIDDEN),
                "name": start.tool_use.name,
                "input": free_input(block.text) if start.tool_use.text_input else tool_input(block.text)[0],
            }
        case "opaque":
            # What came in deltas is the block's input.
            if not block.pieces:
                return carried(start.opaque.json)
            return dict(load_fields(start.opaque.json)) | {"input": tool_input(block.text)[0]}
        case _:
            written: Object = {"type": "text", "text": block.text}
            citations = [carried(citation.json) for citation in block.citations if citation.dialect == NAME]
            if citations:
                written["citations"] = citations
            return written


def is_tool_use(block_json: str) -> bool:
    """Whether a block that only this API knows is a tool call of some kind."""
    try:
        return load_string(load_fields(block_json)["type"]).endswith("tool_use")
    except (msgspec.DecodeError, KeyError):
        return False
