"""The output items of a response, made of the parts of an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import msgspec

from patchbay_standin.answer import Answer, Part
from patchbay_standin.openai.message import token_logprobs
from patchbay_standin.openai_responses.request import Request
from patchbay_standin.openai_responses.sealing import PREFIX, seal
from patchbay_standin.script import JsonObject, Script

ItemKind: TypeAlias = Literal["message", "reasoning", "function_call", "custom_tool_call", "hosted_call", "compaction"]

_PREFIXES: Final[dict[ItemKind, str]] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "hosted_call": "ws",
    "compaction": "cmp",
}
_BLANK_LINE: Final = "\n\n"


@dataclass(frozen=True, slots=True)
class Shown:
    """What of an answer the client asked to see."""

    summaries: bool
    encrypted: bool
    # Reasoning as it is, instead of summaries.
    raw_reasoning: bool
    top_logprobs: int | None
    # Whom encrypted content is made for.
    owner: str

    @classmethod
    def of(cls, request: Request, script: Script, owner: str) -> Shown:
        """What a request asks for."""
        return cls(
            summaries=request.shows_summary,
            encrypted=request.includes("reasoning.encrypted_content"),
            raw_reasoning=script.reasoning_field == "reasoning_text",
            top_logprobs=(request.top_logprobs or 0) if request.includes("message.output_text.logprobs") else None,
            owner=owner,
        )


@dataclass(slots=True)
class OutputItem:
    """One item, in full; `parts` are the content parts of a message, else one part."""

    kind: ItemKind
    id: str
    index: int
    parts: list[Part]
    shown: Shown
    status: str = "completed"
    phase: str = "final_answer"
    # The pieces of each part of a reasoning item's summary or content.
    passages: list[list[str]] = field(default_factory=list)

    def begun(self) -> JsonObject:
        """The item when it is added: without content."""
        base: JsonObject = {"id": self.id, "type": self.kind}
        part = self.parts[0]
        match self.kind:
            case "message":
                return {**base, "status": "in_progress", "role": "assistant", "phase": self.phase, "content": []}
            case "reasoning":
                content: JsonObject = {"content": []} if self.shown.raw_reasoning else {}
                secret: JsonObject = {"encrypted_content": ""} if self.shown.encrypted else {}
                return {**base, "summary": [], **content, **secret}
            case "function_call":
                return {**base, "status": "in_progress", "arguments": "", **_callee(part)}
            case "custom_tool_call":
                return {**base, "status": "in_progress", "input": "", **_callee(part)}
            case "hosted_call":
                return {**base, "type": f"{part.name}_call", "status": "in_progress"}
            case "compaction":
                return {**base, "encrypted_content": ""}

    def whole(self) -> JsonObject:
        """The item with all it says."""
        item, part = self.begun(), self.parts[0]
        match self.kind:
            case "message":
                item.update(status=self.status, content=[self.content(part) for part in self.parts])
            case "reasoning":
                passages = ["".join(pieces) for pieces in self.passages]
                if self.shown.raw_reasoning:
                    item["content"] = [{"type": "reasoning_text", "text": text} for text in passages]
                else:
                    item["summary"] = [{"type": "summary_text", "text": text} for text in passages]
                if self.shown.encrypted:
                    item["encrypted_content"] = self._secret()
            case "function_call":
                item.update(status=self.status, arguments=part.text)
            case "custom_tool_call":
                item.update(status=self.status, input=part.text)
            case "hosted_call":
                item.update(status=self.status, **_action(part))
            case "compaction":
                item["encrypted_content"] = seal(self.id, self.shown.owner)
        return item

    def content(self, part: Part, *, empty: bool = False) -> JsonObject:
        """A content part of a message."""
        text = "" if empty else part.text
        if part.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {
            "type": "output_text",
            "annotations": [] if empty else part.citations,
            "logprobs": [] if empty else self.logprobs(part.pieces),
            "text": text,
        }

    def logprobs(self, pieces: Sequence[str]) -> list[JsonObject]:
        """The log probabilities of some text, where they were asked for."""
        top = self.shown.top_logprobs
        return [] if top is None else [token_logprobs(piece, top) for piece in pieces]

    def _secret(self) -> str | None:
        """What only the provider can read: the script's own, or a made-up one; None: nothing."""
        part = self.parts[0]
        if part.kind == "redacted_thinking":
            return part.data if part.data.startswith(PREFIX) else seal(part.data, self.shown.owner)
        if part.is_unsigned:
            return seal(part.text, self.shown.owner)
        return part.signature or None


def output_items(answer: Answer, shown: Shown, nonce: str) -> list[OutputItem]:
    """The items of an answer, in order. `nonce` makes ids unique among processes."""
    items: list[OutputItem] = []
    for part in answer.parts:
        kind = _kind(part)
        if kind == "message" and items and items[-1].kind == "message":
            items[-1].parts.append(part)
            continue
        index = len(items)
        identity = f"{_PREFIXES[kind]}_{nonce}{answer.number:010x}{index:04x}"
        item = OutputItem(kind, identity, index, [part], shown)
        if kind == "reasoning" and (shown.summaries or shown.raw_reasoning):
            item.passages = list(_passages(part.pieces))
        items.append(item)
    last_message = max((item.index for item in items if item.kind == "message"), default=-1)
    for item in items[:last_message]:
        item.phase = "commentary"
    if any(item.kind in ("function_call", "custom_tool_call") for item in items[last_message + 1 :]):
        items[last_message].phase = "commentary"
    return items


def _kind(part: Part) -> ItemKind:
    match part.kind:
        case "text" | "refusal":
            return "message"
        case "thinking" | "redacted_thinking":
            return "reasoning"
        case "tool_call":
            return "custom_tool_call" if part.is_custom else "function_call"
        case "server_tool_use":
            return "hosted_call"
        case "compaction":
            return "compaction"


def _passages(pieces: Sequence[str]) -> Iterator[list[str]]:
    """The pieces of reasoning, one list for each of its paragraphs."""
    passage: list[str] = []
    for piece in pieces:
        first, *others = piece.split(_BLANK_LINE)
        if first:
            passage.append(first)
        for text in others:
            if passage:
                yield passage
            passage = [text] if text else []
    if passage:
        yield passage


def _callee(part: Part) -> JsonObject:
    callee: JsonObject = {"call_id": part.id, "name": part.name}
    if part.namespace:
        callee["namespace"] = part.namespace
    return callee


def _action(part: Part) -> JsonObject:
    """What a tool of the provider's own did."""
    value = msgspec.json.decode(part.text)
    if part.name == "web_search":
        return {"action": {"type": "search", **value}}
    return {"input": value, "result": part.result}
