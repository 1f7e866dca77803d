"""A token estimate for upstreams that have no counter.

It errs on the high side: a client that trusts too low a count overruns the context window, with too high a one it only
compacts a little early. It never runs a tokenizer, which would hold up the event loop for long prompts.
"""

from __future__ import annotations

from collections.abc import Iterable

from patchbay.canonical import Block, Chat, Tool

# English prose is about 4 bytes a token, code and JSON about 3, CJK text about 3 bytes (one character).
_BYTES_PER_TOKEN = 3
_MESSAGE_TOKENS = 4
# A picture scaled to a provider's usual limit.
_IMAGE_TOKENS = 1600
# A page of a PDF as text and picture, and how many base64 bytes a page takes at least.
_PAGE_TOKENS = 2500
_BASE64_BYTES_PER_PAGE = 50_000
# Ten tokens a second, of speech compressed as far as it goes.
_BASE64_BYTES_PER_AUDIO_TOKEN = 500


def estimate_tokens(chat: Chat) -> int:
    """The input tokens of a chat, system prompt and tools included; about 10 to 30 % above the real number."""
    tokens = _blocks(chat.system) + sum(_tool(tool) for tool in chat.tools)
    for message in chat.messages:
        tokens += _MESSAGE_TOKENS + _blocks(message.blocks)
    return tokens + _text(chat.response_format.schema_json)


def _blocks(blocks: Iterable[Block]) -> int:
    return sum(_block(block) for block in blocks)


def _block(block: Block) -> int:
    match block.WhichOneof("kind"):
        case "text":
            return _text(block.text.text)
        case "thinking":
            # Without its text it is in its signature, encrypted.
            return _text(block.thinking.text or block.thinking.signature)
        case "refusal":
            return _text(block.refusal.text)
        case "tool_use":
            return _text(block.tool_use.name + block.tool_use.input_json + block.tool_use.text_input)
        case "tool_result":
            return _blocks(block.tool_result.blocks)
        case "image":
            return _IMAGE_TOKENS
        case "document":
            document = block.document
            if document.WhichOneof("body") == "content":
                return _blocks(document.content.blocks)
            pages = 1 + len(document.source.base64) // _BASE64_BYTES_PER_PAGE
            return _text(document.source.text) if document.source.text else pages * _PAGE_TOKENS
        case "audio":
            return -(-len(block.audio.base64) // _BASE64_BYTES_PER_AUDIO_TOKEN)
        case "redacted_thinking":
            return _text(block.redacted_thinking.data)
        case "opaque":
            return _text(block.opaque.json)
        case _:
            return 0


def _tool(tool: Tool) -> int:
    if tool.WhichOneof("kind") == "opaque":
        return _text(tool.opaque.json)
    if tool.WhichOneof("kind") == "custom":
        custom = tool.custom
        return _MESSAGE_TOKENS + _text(custom.name + custom.description + custom.format_json)
    function = tool.function
    return _MESSAGE_TOKENS + _text(function.name + function.description + function.input_schema_json)


def _text(text: str) -> int:
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)
