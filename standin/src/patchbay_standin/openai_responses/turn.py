"""What a Responses request's items say to the stand-in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from patchbay_standin.openai_responses.items import CALLS, OUTPUTS, kind_of
from patchbay_standin.openai_responses.tools import offered
from patchbay_standin.prompt import OfferedTool, ToolResult, without_reminders, written_texts
from patchbay_standin.script import JsonObject


@dataclass(frozen=True, slots=True)
class Turn:
    """The items after the last ones of the assistant, and what counts of all."""

    texts: tuple[str, ...]
    tool_results: tuple[ToolResult, ...]
    tools: tuple[OfferedTool, ...]
    compacts: bool
    characters: int


def read_turn(items: Sequence[JsonObject]) -> Turn:
    """Reads checked items."""
    last = _last_turn(items)
    return Turn(
        texts=tuple(text for item in last if _is_of(item, "user") for text in written_texts(texts(item["content"]))),
        tool_results=tuple(
            ToolResult(without_reminders("\n".join(texts(item["output"])))) for item in last if kind_of(item) in OUTPUTS
        ),
        tools=tuple(tool for item in items for tool in _additional(item)),
        compacts=bool(items) and kind_of(items[-1]) == "compaction_trigger",
        characters=sum(16 + length(item) for item in items),
    )


def texts(content: object) -> list[str]:
    """The texts of a message's content or of a tool's output."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [str(part["text"]) for part in parts if isinstance(part, dict) and "text" in part]


def length(item: JsonObject) -> int:
    """How many characters an item says."""
    said = texts(item.get("content")) + texts(item.get("output"))
    return sum(map(len, said)) + sum(len(str(item.get(field) or "")) for field in ("name", "arguments", "input"))


def _is_of(item: JsonObject, role: str) -> bool:
    return kind_of(item) == "message" and item.get("role") == role


def _is_answer(item: JsonObject) -> bool:
    kind = kind_of(item)
    return kind in (*CALLS, "reasoning", "compaction") or kind.endswith("_call") or _is_of(item, "assistant")


def _last_turn(items: Sequence[JsonObject]) -> Sequence[JsonObject]:
    start = len(items)
    while start and not _is_answer(items[start - 1]):
        start -= 1
    return items[start:]


def _additional(item: JsonObject) -> Iterator[OfferedTool]:
    tools = item.get("tools")
    if kind_of(item) == "additional_tools" and isinstance(tools, list):
        yield from offered(tools)
