"""Joins a stream of the Messages API to the one body that the API gives to who does not stream.

https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

from typing import Any

import msgspec

from patchbay.dialects.sse import parse_frames

# What a delta adds to its block, by the delta's type: the delta's field, and the block's.
_TEXTS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
}

# The JSON boundary: blocks of types that only their provider knows pass through here.
Fields = dict[str, Any]


def whole_answer(frames: bytes) -> bytes:
    """The body of an answer whose stream is complete.

    Raises:
        msgspec.DecodeError: An event is no JSON object.
    """
    message: Fields = {}
    blocks: dict[int, Fields] = {}
    inputs: dict[int, list[str]] = {}
    for frame in parse_frames(frames):
        event = msgspec.json.decode(frame.data, type=Fields)
        match event.get("type"):
            case "message_start":
                message = event["message"]
            case "content_block_start":
                blocks[event["index"]] = event["content_block"]
            case "content_block_delta":
                _add(blocks[event["index"]], event["delta"], inputs.setdefault(event["index"], []))
            case "message_delta":
                _end(message, event)
    for index, parts in inputs.items():
        if parts:
            blocks[index]["input"] = _input("".join(parts))
    message["content"] = [blocks[index] for index in sorted(blocks)]
    return msgspec.json.encode(message)


def _input(text: str) -> object:
    """A tool's input; one that is no JSON object, as when the answer was cut off in it, is a text inside one.

    https://platform.claude.com/docs/en/agents-and-tools/tool-use/fine-grained-tool-streaming
    """
    try:
        msgspec.json.decode(text or "{}", type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return {"INVALID_JSON": text}
    return msgspec.Raw(text.encode() or b"{}")


def _add(block: Fields, delta: Fields, input_parts: list[str]) -> None:
    kind = delta.get("type", "")
    if kind in _TEXTS:
        source, target = _TEXTS[kind]
        block[target] = (block.get(target) or "") + delta.get(source, "")
    elif kind == "input_json_delta":
        input_parts.append(delta.get("partial_json", ""))
    elif kind == "citations_delta":
        block["citations"] = [*(block.get("citations") or ()), delta.get("citation")]
    else:
        block.update((name, value) for name, value in delta.items() if name != "type")


def _end(message: Fields, event: Fields) -> None:
    message.update(event.get("delta") or {})
    message["usage"] = {**(message.get("usage") or {}), **(event.get("usage") or {})}
    message.update((name, value) for name, value in event.items() if name not in ("type", "delta", "usage"))
