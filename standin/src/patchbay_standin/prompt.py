"""What the stand-in needs to know of a request, whatever its protocol."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from patchbay_standin.script import JsonObject

_REMINDER: Final = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)

Choice: TypeAlias = Literal["auto", "none", "any", "tool"]


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool that the client offers; `schema` is the JSON schema of its input."""

    name: str
    schema: JsonObject
    # The group that it is offered in, where the protocol has groups.
    namespace: str = ""
    # Whether its input is free text instead of JSON.
    is_custom: bool = False

    def is_called(self, name: str) -> bool:
        """Whether it is known by a name, with or without its group."""
        return name == self.name or (
            bool(self.namespace) and name in (f"{self.namespace}.{self.name}", f"{self.namespace}__{self.name}")
        )


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The client's answer to a tool call."""

    text: str
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One request."""

    model: str
    stream: bool = False
    # The texts of the messages after the last assistant message, in order.
    texts: tuple[str, ...] = ()
    # The tool results among them.
    tool_results: tuple[ToolResult, ...] = ()
    tools: tuple[OfferedTool, ...] = ()
    choice: Choice = "auto"
    # The tool that must be called, with choice `tool`.
    chosen_tool: str = ""
    # Whether several tools may be called at once.
    parallel: bool = True
    # The schema that the answer must fit; empty: any JSON object; None: no JSON asked for.
    schema: JsonObject | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    # Estimated length in tokens.
    tokens: int = 0
    # OpenAI: usage in the stream, number of answers, alternatives per token (None: no log probabilities).
    include_usage: bool = False
    answers: int = 1
    top_logprobs: int | None = None
    # Responses: whether there are tools with free text as input, whether the history is to be compacted instead of
    # answered, and whether the request only prepares the next one.
    custom_tools: bool = False
    compacts: bool = False
    warms_up: bool = False


def estimate_tokens(characters: int) -> int:
    """A deterministic estimate: four characters to a token, at least one."""
    return max(1, -(-characters // 4))


def written_texts(texts: Iterable[str]) -> Iterator[str]:
    """What a user wrote, as one text; none when there is nothing.

    Coding agents add reminders of their own to it, which are left out unless there is nothing else.
    """
    everything = list(texts)
    written = [text for text in map(without_reminders, everything) if text] or everything
    if written:
        yield "\n".join(written)


def without_reminders(text: str) -> str:
    """A text without the reminders that a coding agent added to it."""
    return _REMINDER.sub("", text).strip() if "<system-reminder>" in text else text
