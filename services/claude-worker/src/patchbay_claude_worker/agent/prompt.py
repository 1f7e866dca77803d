"""What an agent is told: a client's whole conversation, or only what is new in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from patchbay.canonical import ROLE_ASSISTANT, Block, Chat, Message, Reasoning, Warning
from patchbay.dialects.anthropic import DIALECT
from patchbay.dialects.hints import is_attribution
from patchbay.errors import InvalidRequest
from patchbay.state.conversations import ConversationRecord
from patchbay_claude_worker.agent.activity import formatted_result, formatted_use

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

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


def read_prompt(chat: Chat, model: str, *, known: ConversationRecord | None) -> Prompt:
    """Reads what an agent is to be told.

    Args:
        chat: The client's request.
        model: The model to ask.
        known: Where the conversation stands that the agent knows already; None: it knows nothing.

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
        history=() if known is not None else tuple(messages[: last + 1]),
        content=tuple(block for message in new for block in message["content"]),
        environment=_thinking(chat),
        warnings=tuple(_warnings(chat, known)),
    )


def fingerprint(messages: Sequence[Message]) -> str:
    """A digest of what messages say. Cache marks, which clients move, and thinking, which they drop, do not count."""
    digest = hashlib.sha256()
    for message in messages:
        digest.update(f"\0{message.role}".encode())
        _digest_blocks(digest, message.blocks)
    return digest.hexdigest()


def _digest_blocks(digest: Hash, blocks: Iterable[Block]) -> None:
    for block in blocks:
        kind = block.WhichOneof("kind")
        if kind is None or "thinking" in kind:
            continue
        digest.update(f"\0{kind}\0".encode())
        if kind == "text":
            digest.update(block.text.text.encode())
        elif kind == "tool_result":
            digest.update(block.tool_result.tool_use_id.encode())
            _digest_blocks(digest, block.tool_result.blocks)
        else:
            digest.update(getattr(block, kind).SerializeToString(deterministic=True))


def system_digest(chat: Chat) -> str:
    """A digest of the client's system prompt, without the line in Claude Code's that is another one each time."""
    texts = [block.text.text for block in chat.system if not is_attribution(block.text.text)]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def story_of(chat: Chat) -> str:
    """How a conversation begins, by which those of one session are told apart."""
    return system_digest(chat) + fingerprint(chat.messages[:1])


def is_continued(chat: Chat, record: ConversationRecord, *, is_named: bool) -> bool:
    """Whether a request goes on with a conversation where it stands.

    Either it repeats what was said, with one answer and something new behind it (or nothing, where no answer has come
    yet); or it says only what is new, in a session that the client has named for that. All else is another story: a
    turn that somebody else has answered, an answer to be given anew, a history that was edited.

    Args:
        is_named: Whether the client has named the session so that it need not repeat what was said.
    """
    known, rest = chat.messages[: record.messages], chat.messages[record.messages :]
    if fingerprint(known) == record.fingerprint:
        roles = [message.role == ROLE_ASSISTANT for message in rest]
        if record.is_under_way and not rest:
            return True
        if roles and roles[0] and not roles[-1] and roles == sorted(roles, reverse=True):
            return True
    has_answers = any(message.role == ROLE_ASSISTANT for message in chat.messages)
    return is_named and not has_answers and system_digest(chat) == record.system


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
    """How to think, all of it every time: what one turn has set would hold for the next one."""
    reasoning = chat.reasoning
    environment = {"CLAUDE_CODE_EFFORT_LEVEL": "", "CLAUDE_CODE_DISABLE_THINKING": "", "MAX_THINKING_TOKENS": ""}
    if reasoning.effort in _EFFORTS:
        environment["CLAUDE_CODE_EFFORT_LEVEL"] = _EFFORTS[reasoning.effort]
    if reasoning.mode == Reasoning.MODE_DISABLED or reasoning.effort == "none":
        environment["CLAUDE_CODE_DISABLE_THINKING"] = "1"
    elif reasoning.HasField("budget_tokens"):
        environment["MAX_THINKING_TOKENS"] = str(reasoning.budget_tokens)
    return environment


def _warnings(chat: Chat, known: ConversationRecord | None) -> list[Warning]:
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
    warnings = [Warning(parameter=name, message=message) for name, is_asked in asked.items() if is_asked]
    if known is not None and chat.system and system_digest(chat) != known.system:
        message = "is not taken up in the middle of a conversation, which keeps the one it began with"
        warnings.append(Warning(parameter="system", message=message))
    return warnings
