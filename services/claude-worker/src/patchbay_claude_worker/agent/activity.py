"""How an agent's own tool activity is shown to a client: never as calls that the client would have to run.

- forward: blocks `mcp_tool_use` and `mcp_tool_result`, which is how the Messages API shows tools that others have run
  (https://platform.claude.com/docs/en/agents-and-tools/mcp-connector); clients of other dialects get the next one
- formatted: text, JSON between tags
- ignore: nothing
"""

from __future__ import annotations

from typing import Any

import msgspec

from patchbay.canonical import BlockStart, BlockStop, ChatEvent, OpaqueStart, TextDelta, TextStart

SERVER_NAME = "claude-code"
_DIALECT = "anthropic"


def formatted_use(use_id: str, name: str, tool_input: Any) -> str:
    """A call as text."""
    return f'<tool_use id="{_attribute(use_id)}" name="{_attribute(name)}">{_json(tool_input)}</tool_use>\n'


def formatted_result(use_id: str, content: Any, *, is_error: bool) -> str:
    """A call's result as text."""
    error = ' is_error="true"' if is_error else ""
    return f'<tool_result tool_use_id="{_attribute(use_id)}"{error}>{_json(content)}</tool_result>\n'


def use_block(use_id: str, name: str, tool_input: Any) -> dict[str, object]:
    """A call as a block."""
    return {"type": "mcp_tool_use", "id": use_id, "name": name, "server_name": SERVER_NAME, "input": tool_input}


def result_block(use_id: str, content: Any, *, is_error: bool) -> dict[str, object]:
    """A call's result as a block. What is no text in it is only named: such a block has room for nothing else."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    texts = [
        part if part.get("type") == "text" else {"type": "text", "text": f"[{part.get('type')}]"}
        for part in parts
        if isinstance(part, dict)
    ]
    return {"type": "mcp_tool_result", "tool_use_id": use_id, "is_error": is_error, "content": texts}


def block_events(index: int, block: dict[str, object]) -> list[ChatEvent]:
    """The events of a block that is complete."""
    start = BlockStart(index=index, opaque=OpaqueStart(dialect=_DIALECT, json=_json(block)))
    return [ChatEvent(block_start=start), ChatEvent(block_stop=BlockStop(index=index))]


def text_events(index: int, text: str) -> list[ChatEvent]:
    """The events of a text that is complete."""
    return [
        ChatEvent(block_start=BlockStart(index=index, text=TextStart())),
        ChatEvent(text_delta=TextDelta(index=index, text=text)),
        ChatEvent(block_stop=BlockStop(index=index)),
    ]


def _json(value: Any) -> str:
    # No tag can be closed from inside.
    return msgspec.json.encode(value).decode().replace("<", "\\u003c")


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
