"""What the stand-in says when no script tells it what to say.

It says what it is, which model was asked for, and repeats the last user text, so that a reader sees that his request
arrived, and a test finds its marker. It calls a tool when the user says so in plain words:

    use tool Read {"file_path": "/etc/hostname"}

and quotes the result when it comes back. Asked for JSON, it answers the smallest value of the schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from patchbay_standin.json_schema import smallest_instance
from patchbay_standin.prompt import OfferedTool, Prompt
from patchbay_standin.script import Block, JsonObject, Text, ToolCall

_INSTRUCTION: Final = re.compile(r"use tool ([\w.:/-]+)\s*(?=\{)")
# Of a long text, so much is repeated from either end.
_QUOTED: Final = 2000
_WORD: Final = re.compile(r"\s*\S+|\s+$")

_raw_decoder = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class DefaultAnswer:
    """Blocks, and why the answer ends; None: for the usual reason."""

    blocks: Sequence[Block]
    stop_reason: str | None = None
    stop_sequence: str | None = None


def default_blocks(prompt: Prompt) -> DefaultAnswer:
    """The unscripted answer to a prompt."""
    calls = _tool_calls(prompt)
    if calls:
        return DefaultAnswer(calls)
    if prompt.schema is not None:
        return DefaultAnswer([Text(text=msgspec.json.encode(smallest_instance(prompt.schema)).decode())])
    return _limited(_text(prompt), prompt)


def _tool_calls(prompt: Prompt) -> list[Block]:
    if prompt.tool_results or prompt.choice == "none":
        return []
    calls: list[Block] = [
        _call(tool, value)
        for text in prompt.texts
        for name, value in _instructions(text)
        for tool in [next((tool for tool in prompt.tools if tool.is_called(name)), None)]
        if tool is not None
    ]
    if calls or prompt.choice == "auto":
        return calls if prompt.parallel else calls[:1]
    chosen = _must_call(prompt)
    if chosen is None:
        return []
    value = {"input": "text"} if chosen.is_custom else smallest_instance(chosen.schema)
    return [_call(chosen, value if isinstance(value, dict) else {})]


def _call(tool: OfferedTool, value: JsonObject) -> ToolCall:
    """A call of a tool; the text for one that takes free text is the value's `input`."""
    namespace = tool.namespace or None
    if not tool.is_custom:
        return ToolCall(name=tool.name, input=value, namespace=namespace)
    text = value.get("input")
    return ToolCall(
        name=tool.name,
        text=text if isinstance(text, str) else msgspec.json.encode(value).decode(),
        namespace=namespace,
    )


def _must_call(prompt: Prompt) -> OfferedTool | None:
    if prompt.choice == "tool":
        return next((tool for tool in prompt.tools if tool.is_called(prompt.chosen_tool)), None)
    return next(iter(prompt.tools), None)


def _instructions(text: str) -> list[tuple[str, JsonObject]]:
    found = []
    for match in _INSTRUCTION.finditer(text):
        try:
            value, _ = _raw_decoder.raw_decode(text, match.end())
        except json.JSONDecodeError:
            continue
        found.append((match.group(1), value))
    return found


def _text(prompt: Prompt) -> str:
    if prompt.tool_results:
        results = [
            f"{'The tool failed' if result.is_error else 'The tool answered'}: {_quote(result.text)}"
            for result in prompt.tool_results
        ]
        return "\n".join(results)
    last = prompt.texts[-1] if prompt.texts else ""
    return (
        f"This is patchbay-standin, a scripted provider and not a language model. You asked {prompt.model}."
        f" Your last message was: {_quote(last)}"
    )


def _quote(text: str) -> str:
    if len(text) <= 2 * _QUOTED:
        return text
    return f"{text[:_QUOTED]} [...] {text[-_QUOTED:]}"


def _limited(text: str, prompt: Prompt) -> DefaultAnswer:
    """Cuts the text at the first stop sequence or the token limit, whichever comes first."""
    reason = sequence = None
    if prompt.max_tokens is not None:
        words = _WORD.findall(text)
        if len(words) > prompt.max_tokens:
            text, reason = "".join(words[: prompt.max_tokens]), "max_tokens"
    ends = [(text.find(stop), stop) for stop in prompt.stop if stop and stop in text]
    if ends:
        end, sequence = min(ends)
        text, reason = text[:end], "stop_sequence"
    return DefaultAnswer([Text(text=text)], reason, sequence)
