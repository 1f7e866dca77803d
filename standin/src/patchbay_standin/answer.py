"""The answer to a prompt: its parts, already cut into deltas, before a protocol gives them their shape."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import msgspec

from patchbay_standin.default_answer import default_blocks
from patchbay_standin.prompt import OfferedTool, Prompt, estimate_tokens
from patchbay_standin.script import (
    MODEL_PREFIX,
    Block,
    JsonObject,
    RedactedThinking,
    Refusal,
    Script,
    ServerToolUse,
    Text,
    Thinking,
    ToolCall,
)

PartKind: TypeAlias = Literal[
    "text", "thinking", "redacted_thinking", "tool_call", "refusal", "server_tool_use", "compaction"
]

# A token is a word with the space before it, much as in real tokenizers.
_WORD: Final = re.compile(r"\s*\S+|\s+$")
_ARGUMENT_SIZE: Final = 12
_HUGE_SIZE: Final = 1024

_FILLER: Final = "the quick brown fox jumps over the lazy dog and runs along the river until it reaches the sea"

# What the OpenAI protocol calls the reasons for which an answer ends, and back.
STOP_OF_FINISH: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


@dataclass(slots=True)
class Part:
    """One block of an answer."""

    kind: PartKind
    # The content, delta by delta: text, reasoning, or a tool's input.
    pieces: Sequence[str] = ()
    id: str = ""
    name: str = ""
    # Of a tool call: the group of the tool, and whether its input is free text instead of JSON.
    namespace: str = ""
    is_custom: bool = False
    signature: str = ""
    # The signature was made up, since the script has none.
    is_unsigned: bool = False
    # Of redacted reasoning.
    data: str = ""
    citations: list[JsonObject] = field(default_factory=list)
    # Of a server tool.
    result: list[JsonObject] | JsonObject | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What the answer cost. `input` holds all prompt tokens, cached ones included."""

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0


@dataclass(slots=True)
class Answer:
    """One whole answer."""

    # Unique in this process.
    number: int
    # Seconds since the epoch.
    created: int
    model: str
    parts: list[Part]
    # In Anthropic's words.
    stop_reason: str
    stop_sequence: str | None
    usage: TokenCounts

    @property
    def deltas(self) -> int:
        return sum(len(part.pieces) for part in self.parts)


def compose(prompt: Prompt, script: Script, *, number: int, created: int, call_prefix: str) -> Answer:
    """The answer that a script gives to a prompt.

    Args:
        prompt: The request.
        script: What the answer is to be.
        number: Unique in this process; ids are made of it.
        created: Seconds since the epoch.
        call_prefix: What ids of tool calls begin with.
    """
    if prompt.warms_up or prompt.compacts:
        return _wordless(prompt, script, number=number, created=created)
    blocks, stop_reason, stop_sequence = _content(prompt, script)
    parts = [
        _part(block, script, prompt, f"{call_prefix}standin_{number:06d}_{index}") for index, block in enumerate(blocks)
    ]
    if script.huge is not None:
        size = script.delta_size or _HUGE_SIZE
        # One string many times over: a gigabyte costs a list of references.
        parts.append(Part("text", [_filler_text(size)] * max(1, round(script.huge * 1_000_000 / size))))
    if script.deltas is not None and script.text is None and script.blocks is None:
        parts.insert(0, Part("text", _filler_words(script.deltas)))
    return Answer(
        number=number,
        created=created,
        model=script.model or _answering_model(prompt.model),
        parts=parts,
        stop_reason=_stop_reason(script, parts) if stop_reason is None else stop_reason,
        stop_sequence=script.stop_sequence if stop_sequence is None else stop_sequence,
        usage=_usage(prompt, script, parts),
    )


def _wordless(prompt: Prompt, script: Script, *, number: int, created: int) -> Answer:
    """The answer to a request that asks for no words: whatever the script says, it is the provider's own."""
    parts = [Part("compaction")] if prompt.compacts else []
    return Answer(
        number=number,
        created=created,
        model=script.model or _answering_model(prompt.model),
        parts=parts,
        stop_reason="end_turn",
        stop_sequence=None,
        usage=TokenCounts(input=prompt.tokens, output=len(parts)),
    )


def _answering_model(asked: str) -> str:
    """The model asked for; a script in its place is too long to be repeated in every frame."""
    return "standin-script" if asked.startswith(MODEL_PREFIX) else asked


def _content(prompt: Prompt, script: Script) -> tuple[list[Block], str | None, str | None]:
    """The blocks of the answer, and why it ends where the script does not say."""
    stop_reason = stop_sequence = None
    if script.text is not None:
        blocks: list[Block] = [Refusal(text=script.text) if script.stop_reason == "refusal" else Text(text=script.text)]
    elif script.blocks is not None:
        blocks = list(script.blocks)
    elif script.deltas is not None or script.huge is not None:
        blocks = []
    else:
        default = default_blocks(prompt)
        blocks = list(default.blocks)
        if script.stop_reason is None:
            stop_reason, stop_sequence = default.stop_reason, default.stop_sequence
        return blocks, stop_reason, stop_sequence
    if script.echo and prompt.texts:
        blocks.append(Text(text=prompt.texts[-1]))
    return blocks, stop_reason, stop_sequence


def _part(block: Block, script: Script, prompt: Prompt, call_id: str) -> Part:
    match block:
        case Text():
            return Part("text", _cut(block.text, script), citations=block.citations)
        case Thinking():
            signature = _signature(block.text) if block.signature is None else block.signature
            pieces = _cut(block.text, script)
            return Part("thinking", pieces, signature=signature, is_unsigned=block.signature is None)
        case RedactedThinking():
            return Part("redacted_thinking", data=block.data)
        case Refusal():
            return Part("refusal", _cut(block.text, script))
        case ToolCall():
            return _call(block, script, prompt, call_id)
        case ServerToolUse():
            arguments = msgspec.json.encode(block.input).decode()
            identity = block.id or f"srv{call_id}"
            pieces = _cut(arguments, script, word_size=_ARGUMENT_SIZE)
            return Part("server_tool_use", pieces, id=identity, name=block.name, result=block.result)


def _call(block: ToolCall, script: Script, prompt: Prompt, call_id: str) -> Part:
    tool = _offered(block, prompt.tools)
    is_custom = tool.is_custom if tool is not None else prompt.custom_tools and block.text is not None
    if block.arguments is not None:
        text = block.arguments
    elif not is_custom:
        value = block.input if block.text is None else {"input": block.text}
        text = msgspec.json.encode(value).decode()
    elif block.text is not None:
        text = block.text
    else:
        free = block.input.get("input")
        text = free if isinstance(free, str) else msgspec.json.encode(block.input).decode()
    return Part(
        "tool_call",
        _cut(text, script, word_size=_ARGUMENT_SIZE),
        id=block.id or call_id,
        name=block.name,
        namespace=block.namespace if block.namespace is not None else tool.namespace if tool is not None else "",
        is_custom=is_custom,
    )


def _offered(block: ToolCall, tools: Sequence[OfferedTool]) -> OfferedTool | None:
    """The offered tool that a call is for: a name may stand for a function and for a custom tool."""
    wanted = block.text is not None
    found = [tool for tool in tools if tool.name == block.name and block.namespace in (None, tool.namespace)]
    return next((tool for tool in found if tool.is_custom == wanted), found[0] if found else None)


def _cut(text: str, script: Script, *, word_size: int | None = None) -> Sequence[str]:
    """Cuts a text as the script says; else into words, or pieces of `word_size` characters."""
    if not text:
        return ()
    if script.deltas is not None:
        count = min(script.deltas, len(text))
        bounds = [index * len(text) // count for index in range(count + 1)]
        return [text[start:end] for start, end in itertools.pairwise(bounds)]
    size = script.delta_size or word_size
    if size is not None:
        return [text[start : start + size] for start in range(0, len(text), size)]
    return _WORD.findall(text)


@functools.lru_cache(maxsize=32)
def _filler_words(count: int) -> tuple[str, ...]:
    words = itertools.islice(itertools.cycle(_FILLER.split()), count)
    return tuple(word if index == 0 else f" {word}" for index, word in enumerate(words))


def _filler_text(size: int) -> str:
    sentence = f"{_FILLER}. "
    return (sentence * (size // len(sentence) + 1))[:size]


def _signature(text: str) -> str:
    return base64.b64encode(hashlib.sha512(text.encode()).digest() * 2).decode()


def _stop_reason(script: Script, parts: Sequence[Part]) -> str:
    if script.stop_reason is not None:
        return STOP_OF_FINISH.get(script.stop_reason, script.stop_reason)
    kinds = {part.kind for part in parts}
    if "tool_call" in kinds:
        return "tool_use"
    if "refusal" in kinds:
        return "refusal"
    return "end_turn" if script.stop_sequence is None else "stop_sequence"


def _usage(prompt: Prompt, script: Script, parts: Sequence[Part]) -> TokenCounts:
    asked = script.usage
    output = sum(_output_tokens(parts)) or 1
    if asked is None:
        reasoning = sum(_output_tokens([part for part in parts if part.kind == "thinking"]))
        return TokenCounts(input=prompt.tokens, output=output, reasoning=reasoning)
    return TokenCounts(
        input=prompt.tokens if asked.input is None else asked.input,
        output=output if asked.output is None else asked.output,
        cache_read=asked.cache_read,
        cache_write=asked.cache_write,
        reasoning=asked.reasoning,
    )


def _output_tokens(parts: Sequence[Part]) -> Iterator[int]:
    for part in parts:
        if part.kind == "redacted_thinking":
            yield estimate_tokens(len(part.data))
        else:
            yield len(part.pieces)
