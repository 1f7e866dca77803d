"""What an agent is told: a client's whole conversation, or only what is new in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from patchbay.canonical import ROLE_ASSISTANT, Chat, Message, Reasoning, Warning
from patchbay.dialects.anthropic import DIALECT
from patchbay.errors import InvalidRequest
from patchbay.state.conversations import ConversationRecord
from patchbay_claude_worker.agent.activity import formatted_result, formatted_use

# The JSON boundary: messages of the Messages API.
Fields = dict[str, Any]

_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to tell an agent.

    Attributes:
        system: The client's system prompt, to follow the agent's own; empty: none.
        history: Messages of the Messages API that the agent has to know first, oldest first.
        content: The content blocks of the message to answer.
        environment: Variables that say how to think.
        warnings: What of the request an agent cannot honour.
    """

    system: str
    history: tuple[Fields, ...]
    content: tuple[Fields, ...]
    environment: dict[str, str]
    warnings: tuple[Warning, ...]


def read_prompt(chat: Chat, model: str, *, goes_on: bool) -> Prompt:
    """Reads what an agent is to be told.

    Args:
        chat: The client's request.
        model: The model to ask.
        goes_on: The agent knows the conversation up to its last answer already.

    Raises:
        InvalidRequest: The last message is not the user's.
    """
    written = DIALECT.write_request(chat, model, DIALECT.quirks)
    body = msgspec.json.decode(written.body, type=Fields)
    messages: list[Fields] = [_plain(message) for message in body["messages"]]
    last = max((index for index, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    new = messages[last + 1 :]
    if not new:
        raise InvalidRequest("messages: the last message for an agent must be the user's", "messages")
    return Prompt(
        system="\n\n".join(block["text"] for block in body.get("system", ())),
        history=() if goes_on else tuple(messages[: last + 1]),
        content=tuple(block for message in new for block in message["content"]),
        environment=_thinking(chat),
        warnings=tuple(_warnings(chat)),
    )


def fingerprint(messages: Sequence[Message]) -> str:
    """A digest of what messages say: who, which texts, which calls. Cache marks, which clients move, do not count."""
    digest = hashlib.sha256()
    for message in messages:
        digest.update(f"\0{message.role}".encode())
        for block in message.blocks:
            kind = block.WhichOneof("kind") or ""
            said = {
                "text": block.text.text,
                "tool_use": block.tool_use.id,
                "tool_result": block.tool_result.tool_use_id,
            }.get(kind, "")
            digest.update(f"\0{kind}\0{said}".encode())
    return digest.hexdigest()


def is_continued(chat: Chat, record: ConversationRecord) -> bool:
    """Whether a request goes on with a conversation: it repeats what was said, or says only what is new."""
    if not any(message.role == ROLE_ASSISTANT for message in chat.messages):
        return True
    return fingerprint(chat.messages[: record.messages]) == record.fingerprint


def _plain(message: Fields) -> Fields:
    """A message as the program takes it: without cache marks, and an earlier answer's tool activity as text."""
    blocks = []
    for block in message["content"]:
        if block["type"] == "mcp_tool_use":
            block = {"type": "text", "text": formatted_use(block["id"], block["name"], block["input"])}
        elif block["type"] == "mcp_tool_result":
            text = formatted_result(block["tool_use_id"], block.get("content"), is_error=block.get("is_error", False))
            block = {"type": "text", "text": text}
        blocks.append({name: value for name, value in block.items() if name != "cache_control"})
    # A system message inside the conversation has no place of its own in what the program reads.
    role = "assistant" if message["role"] == "assistant" else "user"
    return {"role": role, "content": blocks}


def _thinking(chat: Chat) -> dict[str, str]:
    reasoning = chat.reasoning
    environment = {}
    if reasoning.effort in _EFFORTS:
        environment["CLAUDE_CODE_EFFORT_LEVEL"] = _EFFORTS[reasoning.effort]
    if reasoning.mode == Reasoning.MODE_DISABLED or reasoning.effort == "none":
        environment["CLAUDE_CODE_DISABLE_THINKING"] = "1"
    elif reasoning.HasField("budget_tokens"):
        environment["MAX_THINKING_TOKENS"] = str(reasoning.budget_tokens)
    return environment


def _warnings(chat: Chat) -> list[Warning]:
    asked = {
        "tools": bool(chat.tools),
        "tool_choice": chat.HasField("tool_choice"),
        "response_format": bool(chat.response_format.type),
        "temperature": chat.sampling.HasField("temperature"),
        "top_p": chat.sampling.HasField("top_p"),
        "top_k": chat.sampling.HasField("top_k"),
        "stop": bool(chat.sampling.stop),
        "n": chat.sampling.n > 1,
    }
    message = "is not supported by an agent, which works with its own tools and settings"
    return [Warning(parameter=name, message=message) for name, is_asked in asked.items() if is_asked]
