"""Stop reasons of the Messages API, to and from canonical ones."""

from __future__ import annotations

from typing import TypeAlias

from patchbay.canonical import Finished

StopReason: TypeAlias = "Finished.StopReason.ValueType"

_READ: dict[str, StopReason] = {
    "end_turn": Finished.STOP_REASON_END_TURN,
    "max_tokens": Finished.STOP_REASON_MAX_TOKENS,
    "stop_sequence": Finished.STOP_REASON_STOP_SEQUENCE,
    "tool_use": Finished.STOP_REASON_TOOL_USE,
    "pause_turn": Finished.STOP_REASON_PAUSE_TURN,
    "refusal": Finished.STOP_REASON_REFUSAL,
    "model_context_window_exceeded": Finished.STOP_REASON_CONTEXT_WINDOW,
}
_WRITTEN: dict[StopReason, str] = {reason: name for name, reason in _READ.items()} | {
    Finished.STOP_REASON_CONTENT_FILTER: "refusal"
}
# Reasons of the API that no canonical one stands for.
_OTHER = frozenset({"compaction"})


def read_stop_reason(name: str | None, *, has_tool: bool) -> Finished:
    """The canonical reason; a provider that gives none has ended its turn."""
    if name is None:
        return Finished(
            stop_reason=Finished.STOP_REASON_TOOL_USE if has_tool else Finished.STOP_REASON_END_TURN,
        )
    reason = _READ.get(name)
    return (
        Finished(stop_reason=Finished.STOP_REASON_OTHER, raw=name) if reason is None else Finished(stop_reason=reason)
    )


def stop_reason_name(finished: Finished, *, has_tool: bool, has_refusal: bool) -> str:
    """The reason's name in the API, true to what the answer holds: a turn with tool calls ends with `tool_use`."""
    name = _WRITTEN.get(finished.stop_reason, "end_turn")
    if finished.stop_reason == Finished.STOP_REASON_OTHER and finished.raw in _OTHER:
        name = finished.raw
    if name == "end_turn":
        if has_tool:
            return "tool_use"
        if has_refusal:
            return "refusal"
    return name
