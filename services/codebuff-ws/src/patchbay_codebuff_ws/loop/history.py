"""From the conversation that clients keep to the canonical one, and from a model's answer back.

What a model is shown grows at its end alone from step to step and from run to run, so that a provider's prompt cache
finds it again: the same messages always give the same blocks.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from patchbay.canonical import (
    ROLE_ASSISTANT,
    ROLE_USER,
    Block,
    Document,
    Image,
    Message,
    Opaque,
    RedactedThinking,
    Source,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
)
from patchbay.dialects.tool_names import fitted
from patchbay_codebuff_ws.loop.answer import Answer, TextPiece, ThoughtPiece, ToolCall
from patchbay_codebuff_ws.ports import JsonObject, Part

# Under it a message keeps what a provider wants back and the client's schema has no field for.
_OPTIONS = "patchbay"
_LONGEST_NAME = 64
_NO_RESULT = "[There is no result of this call.]"


def json_text(value: object) -> str:
    """JSON as models are shown it."""
    return msgspec.json.encode(value).decode()


def user_message(text: str, *, ttl: str | None = None, keep: bool = False) -> JsonObject:
    """A user message of the client's conversation; `ttl` is `agentStep` or `userPrompt`."""
    message: JsonObject = {"role": "user", "content": text}
    if ttl is not None:
        message["timeToLive"] = ttl
    if keep:
        message["keepDuringTruncation"] = True
    return message


def session_of(messages: Iterable[Mapping[str, Any]]) -> str:
    """The name of the conversation that one of its messages keeps; empty: none does."""
    for message in messages:
        options = message.get("providerOptions")
        kept = options.get(_OPTIONS) if isinstance(options, dict) else None
        if isinstance(kept, dict) and isinstance(kept.get("session"), str):
            return str(kept["session"])
    return ""


def with_session(message: JsonObject, session: str) -> JsonObject:
    """A message that keeps the conversation's name for later prompts."""
    return {**message, "providerOptions": {_OPTIONS: {"session": session}}}


def system_notice(text: str) -> str:
    """How the system speaks to a model within the conversation."""
    return f"<system>{text}</system>"


def tool_message(call_id: str, name: str, output: Sequence[Part]) -> JsonObject:
    """The result of a tool call. The client takes one object, no array."""
    result = {"type": "tool-result", "toolCallId": call_id, "toolName": name, "output": list(output)}
    return {"role": "tool", "content": result}


def assistant_message(answer: Answer, *, model: str) -> JsonObject | None:
    """A model's answer in the client's conversation; None when it has said nothing."""
    parts: list[JsonObject] = []
    kept: list[JsonObject] = []
    for piece in answer.pieces:
        match piece:
            case TextPiece(text=text) if text.strip():
                parts.append({"type": "text", "text": text})
            case ThoughtPiece():
                parts.append({"type": "reasoning", "text": piece.text})
                kept.append(dict(piece.kept))
            case ToolCall():
                parts.append(
                    {
                        "type": "tool-call",
                        "toolCallId": piece.id,
                        "toolName": piece.name,
                        "input": piece.input if piece.input is not None else {},
                    }
                )
            case _:
                pass
    if not parts:
        return None
    message: JsonObject = {"role": "assistant", "content": parts}
    if any(kept):
        message["providerOptions"] = {_OPTIONS: {"model": model, "reasoning": kept}}
    return message


def both_ends(text: str, most: int) -> str:
    """A text as a model is shown it: of one with more than `most` characters, the beginning and the end."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"


def readable_message(message: Mapping[str, Any]) -> JsonObject:
    """A message as it can be read where it is text itself: without media, and without what is for providers alone."""
    content = message.get("content")
    if isinstance(content, list):
        content = [_readable_part(part) for part in content]
    elif isinstance(content, dict):
        content = {**content, "output": [_readable_part(part) for part in content.get("output") or ()]}
    return {"role": message.get("role"), "content": content}


def _readable_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    if part.get("type") in ("image", "file", "media"):
        return {"type": part["type"], "leftOut": True}
    return part


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, without what else it has."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(part.get("text", "") for part in content if part.get("type") == "text")


def tool_calls(message: Mapping[str, Any]) -> list[JsonObject]:
    """The tool calls of an assistant message."""
    content = message.get("content")
    if message.get("role") != "assistant" or not isinstance(content, list):
        return []
    return [part for part in content if part.get("type") == "tool-call"]


def last_answer(history: Sequence[JsonObject]) -> JsonObject | None:
    """The last message of an assistant."""
    return next((message for message in reversed(history) if message.get("role") == "assistant"), None)


def name_calls(calls: Iterable[ToolCall], history: Iterable[JsonObject]) -> None:
    """Gives ids to the calls that have none, or that of another one: clients know by it which result is whose."""
    seen = {str(call.get("toolCallId")) for message in history for call in tool_calls(message)}
    for call in calls:
        if not call.id or call.id in seen:
            call.id = f"call_{uuid.uuid4().hex[:20]}"
        seen.add(call.id)


def tool_result(message: Mapping[str, Any]) -> JsonObject | None:
    """The result that a tool message holds."""
    content = message.get("content")
    return content if message.get("role") == "tool" and isinstance(content, dict) else None


def canonical(messages: Sequence[Mapping[str, Any]], *, model: str) -> list[Message]:
    """What a model is shown of a conversation.

    Each call has its result right after it, and each result its call: what lacks its other half, as the conversations
    of other servers do, becomes text.
    """
    result: list[Message] = []
    calls: list[str] = []
    answers: dict[str, Block] = {}
    others: list[Block] = []

    def settle() -> None:
        blocks = [answers.get(call) or _result_block(call, [Block(text=Text(text=_NO_RESULT))]) for call in calls]
        blocks += others
        _append(result, ROLE_USER, blocks)
        calls.clear()
        answers.clear()
        others.clear()

    for message in messages:
        if message.get("role") == "assistant":
            settle()
            blocks = list(_assistant_blocks(message, model))
            calls.extend(block.tool_use.id for block in blocks if block.HasField("tool_use"))
            _append(result, ROLE_ASSISTANT, blocks)
            continue
        found = tool_result(message)
        if found is None:
            others.extend(_user_blocks(message))
        elif (call := str(found.get("toolCallId"))) in calls and call not in answers:
            answers[call] = _result_block(call, list(_output_blocks(found.get("output") or [])))
        else:
            others.extend(_orphan_blocks(found))
    settle()
    return result


def _append(messages: list[Message], role: Any, blocks: list[Block]) -> None:
    if not blocks:
        return
    has_calls = messages and any(block.HasField("tool_use") for block in messages[-1].blocks)
    if messages and messages[-1].role == role and not has_calls:
        messages[-1].blocks.extend(blocks)
    else:
        messages.append(Message(role=role, blocks=blocks))


def _assistant_blocks(message: Mapping[str, Any], model: str) -> Iterable[Block]:
    content = message.get("content")
    if isinstance(content, str):
        if content.strip():
            yield Block(text=Text(text=content))
        return
    options = message.get("providerOptions")
    options = options.get(_OPTIONS) if isinstance(options, dict) else None
    # What one provider has signed means nothing to another.
    own = options if isinstance(options, dict) and options.get("model") == model else {}
    kept = iter(own.get("reasoning") or ())
    for part in content or ():
        match part.get("type"):
            case "text" if str(part.get("text", "")).strip():
                yield Block(text=Text(text=part["text"]))
            case "reasoning":
                yield from _thought(str(part.get("text", "")), next(kept, {}))
            case "tool-call":
                yield Block(
                    tool_use=ToolUse(
                        id=str(part.get("toolCallId")),
                        name=model_name(str(part.get("toolName"))),
                        input_json=json_text(part.get("input") or {}),
                    )
                )


def _thought(text: str, kept: Mapping[str, Any]) -> Iterable[Block]:
    if "redacted" in kept:
        yield Block(redacted_thinking=RedactedThinking(data=kept["redacted"]))
    elif "json" in kept:
        yield Block(opaque=Opaque(dialect=kept.get("dialect", ""), json=kept["json"]))
    elif text or "signature" in kept:
        yield Block(thinking=Thinking(text=text, signature=kept.get("signature")))


def _user_blocks(message: Mapping[str, Any]) -> Iterable[Block]:
    content = message.get("content")
    if isinstance(content, str):
        if content.strip():
            is_system = message.get("role") == "system"
            yield Block(text=Text(text=system_notice(content) if is_system else content))
        return
    for part in content or ():
        match part.get("type"):
            case "text" if str(part.get("text", "")).strip():
                yield Block(text=Text(text=part["text"]))
            case "image":
                yield _media(str(part.get("image", "")), part.get("mediaType") or "image/png")
            case "file" | "media":
                yield _media(str(part.get("data", "")), part.get("mediaType") or "", part.get("filename"))


def _media(data: str, media_type: str, title: str | None = None) -> Block:
    if data.startswith("data:"):
        head, _, data = data.removeprefix("data:").partition(",")
        media_type = head.partition(";")[0] or media_type
    if data.startswith(("http://", "https://")):
        source = Source(url=data, media_type=media_type)
    else:
        source = Source(base64=data, media_type=media_type)
    if media_type.startswith("image/"):
        return Block(image=Image(source=source))
    return Block(document=Document(source=source, title=title))


def _result_block(call: str, blocks: list[Block]) -> Block:
    return Block(tool_result=ToolResult(tool_use_id=call, blocks=blocks))


def _output_blocks(output: Iterable[Mapping[str, Any]]) -> Iterable[Block]:
    for part in output:
        if part.get("type") == "media":
            yield _media(str(part.get("data", "")), part.get("mediaType") or "")
        else:
            yield Block(text=Text(text=json_text(part.get("value"))))


def _orphan_blocks(found: Mapping[str, Any]) -> Iterable[Block]:
    output = found.get("output") or []
    values = [part for part in output if part.get("type") != "media"]
    shown = {"toolName": found.get("toolName"), "toolCallId": found.get("toolCallId"), "output": values}
    yield Block(text=Text(text=f"<tool_result>\n{json_text(shown)}\n</tool_result>"))
    yield from _output_blocks(part for part in output if part.get("type") == "media")


def model_name(tool: str) -> str:
    """A tool's name as every provider takes it; of long ones, such as those of MCP servers, no two become the same."""
    signs = (sign if sign.isascii() and (sign.isalnum() or sign in "_-") else "_" for sign in tool)
    return fitted("".join(signs), _LONGEST_NAME)
