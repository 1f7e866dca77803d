"""Tool calls with their results right behind them, for providers that refuse one without the other.

The Responses API takes messages between a call and its output, and clients that shorten a conversation, or break off a
turn, leave calls without results and results without calls.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from patchbay.canonical import ROLE_ASSISTANT, ROLE_USER, Block, Message, Text, ToolResult

NO_RESULT = "[There is no result of this call.]"


def paired(messages: Iterable[Message]) -> Iterator[Message]:
    """The messages, those that need no change as they are.

    A result that comes later than right behind the calls of its turn moves up. A call without a result gets one that
    says so, and a result without a call becomes a text of the user's.
    """
    calls: list[str] = []
    for is_assistant, group in groupby(messages, lambda message: message.role == ROLE_ASSISTANT):
        turn = list(group)
        if is_assistant:
            calls = [block.tool_use.id for message in turn for block in message.blocks if block.HasField("tool_use")]
            yield from turn
        else:
            yield from _heard(calls, turn)
            calls = []
    if calls:
        yield from _heard(calls, [])


def without_call(result: ToolResult) -> list[Block]:
    """What a result says where its call is missing."""
    return [Block(text=Text(text=f"Result of tool call {result.tool_use_id}:")), *result.blocks]


def _heard(calls: Sequence[str], messages: Sequence[Message]) -> Iterator[Message]:
    """What the model hears after it has made the calls."""
    if _are_paired(calls, messages):
        yield from messages
        return
    missing = Counter(calls)
    results: dict[str, deque[Block]] = {call: deque() for call in calls}
    rest: list[Message] = []
    for message in messages:
        kept: list[Block] = []
        for block in message.blocks:
            call = block.tool_result.tool_use_id
            if not block.HasField("tool_result"):
                kept.append(block)
            elif missing[call]:
                missing[call] -= 1
                results[call].append(block)
            else:
                kept += without_call(block.tool_result)
        if kept or not message.blocks:
            rest.append(Message(role=message.role, name=_name(message), blocks=kept, extensions=message.extensions))
    if calls:
        yield Message(
            role=ROLE_USER, blocks=[results[call].popleft() if results[call] else _none(call) for call in calls]
        )
    yield from rest


def _are_paired(calls: Sequence[str], messages: Iterable[Message]) -> bool:
    """Whether the messages begin with the results of the calls, and have no others."""
    heard = [block for message in messages for block in message.blocks or [Block()]]
    begun = Counter(block.tool_result.tool_use_id for block in heard[: len(calls)] if block.HasField("tool_result"))
    return begun == Counter(calls) and not any(block.HasField("tool_result") for block in heard[len(calls) :])


def _name(message: Message) -> str | None:
    return message.name if message.HasField("name") else None


def _none(call: str) -> Block:
    return Block(tool_result=ToolResult(tool_use_id=call, blocks=[Block(text=Text(text=NO_RESULT))]))
