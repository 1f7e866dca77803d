"""Why an answer ended, to and from `finish_reason`."""

from __future__ import annotations

from typing import TypeAlias

from patchbay.canonical import Finished

StopReason: TypeAlias = Finished.StopReason.ValueType

# OpenAI's five, and the words of servers that are nearly compatible.
_READ: dict[str, StopReason] = {
    "stop": Finished.STOP_REASON_END_TURN,
    "length": Finished.STOP_REASON_MAX_TOKENS,
    "tool_calls": Finished.STOP_REASON_TOOL_USE,
    "function_call": Finished.STOP_REASON_TOOL_USE,
    "content_filter": Finished.STOP_REASON_CONTENT_FILTER,
    "end_turn": Finished.STOP_REASON_END_TURN,
    "eos": Finished.STOP_REASON_END_TURN,
    "eos_token": Finished.STOP_REASON_END_TURN,
    "max_tokens": Finished.STOP_REASON_MAX_TOKENS,
    "stop_sequence": Finished.STOP_REASON_STOP_SEQUENCE,
    "tool_use": Finished.STOP_REASON_TOOL_USE,
}

# The words for a tool call.
TOOL_REASONS = frozenset(word for word, reason in _READ.items() if reason == Finished.STOP_REASON_TOOL_USE)

_WRITTEN: dict[StopReason, str] = {
    Finished.STOP_REASON_END_TURN: "stop",
    Finished.STOP_REASON_MAX_TOKENS: "length",
    Finished.STOP_REASON_STOP_SEQUENCE: "stop",
    Finished.STOP_REASON_TOOL_USE: "tool_calls",
    Finished.STOP_REASON_REFUSAL: "content_filter",
    Finished.STOP_REASON_CONTENT_FILTER: "content_filter",
    Finished.STOP_REASON_PAUSE_TURN: "stop",
    Finished.STOP_REASON_CONTEXT_WINDOW: "length",
}


def read_finish_reason(reason: str, *, has_tool: bool, has_refusal: bool) -> StopReason:
    """Reads a `finish_reason`, in the light of what the answer holds.

    Some servers say `stop` after calling a tool. The other way round there is nothing for the client to run, and one
    that was told to would wait for ever.
    """
    read = _READ.get(reason, Finished.STOP_REASON_OTHER)
    if read == Finished.STOP_REASON_END_TURN and has_tool:
        return Finished.STOP_REASON_TOOL_USE
    if read == Finished.STOP_REASON_END_TURN and has_refusal:
        return Finished.STOP_REASON_REFUSAL
    if read == Finished.STOP_REASON_TOOL_USE and not has_tool:
        return Finished.STOP_REASON_END_TURN
    return read


def write_finish_reason(reason: StopReason, *, has_tool: bool, has_refusal: bool) -> str:
    """Writes a `finish_reason`: one of OpenAI's five, whatever the upstream said.

    A refusal that is in the answer ends with `stop`, as OpenAI's do; one that is only a stop reason (Anthropic's) is a
    filtered answer here.
    """
    if reason == Finished.STOP_REASON_TOOL_USE and not has_tool:
        return "stop"
    if reason == Finished.STOP_REASON_REFUSAL and has_refusal:
        return "stop"
    return _WRITTEN.get(reason, "tool_calls" if has_tool else "stop")
