"""Why an answer ended, to and from a Response's `status` and `incomplete_details.reason`."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from patchbay.canonical import Finished

StopReason: TypeAlias = "Finished.StopReason.ValueType"

_INCOMPLETE: dict[str, StopReason] = {
    "max_output_tokens": Finished.STOP_REASON_MAX_TOKENS,
    # Some servers say it as Chat Completions does.
    "max_tokens": Finished.STOP_REASON_MAX_TOKENS,
    "length": Finished.STOP_REASON_MAX_TOKENS,
    "content_filter": Finished.STOP_REASON_CONTENT_FILTER,
}

# Reasons of the API that no canonical one stands for.
_OTHER = frozenset({"max_messages", "steered"})


class Ending(NamedTuple):
    """How a Response says that it ended."""

    # The reason why it is incomplete; None: it is complete.
    incomplete: str | None = None
    # The model has not ended its turn: the client is to ask it to go on.
    goes_on: bool = False


def read_ending(incomplete: str | None, *, has_tool: bool, has_refusal: bool, goes_on: bool) -> Finished:
    """Reads how an answer ended, in the light of what it holds.

    Args:
        incomplete: The reason why it is incomplete, empty where it does not say; None: it is complete.
        goes_on: Whether it says `"end_turn": false`.
    """
    if incomplete in _OTHER:
        return Finished(stop_reason=Finished.STOP_REASON_OTHER, raw=incomplete)
    if incomplete is not None:
        # Cut off for whatever reason: to other dialects' clients it must not look complete.
        return Finished(stop_reason=_INCOMPLETE.get(incomplete, Finished.STOP_REASON_MAX_TOKENS))
    if has_tool:
        return Finished(stop_reason=Finished.STOP_REASON_TOOL_USE)
    if goes_on:
        return Finished(stop_reason=Finished.STOP_REASON_PAUSE_TURN)
    if has_refusal:
        return Finished(stop_reason=Finished.STOP_REASON_REFUSAL)
    return Finished(stop_reason=Finished.STOP_REASON_END_TURN)


def write_ending(finished: Finished, *, has_tool: bool, has_refusal: bool) -> Ending:
    """Writes how an answer ended.

    A refusal that is in the answer completes it, as OpenAI's do; one that is only a stop reason (Anthropic's) is a
    filtered answer here.
    """
    match finished.stop_reason:
        case Finished.STOP_REASON_MAX_TOKENS | Finished.STOP_REASON_CONTEXT_WINDOW:
            return Ending("max_output_tokens")
        case Finished.STOP_REASON_CONTENT_FILTER:
            return Ending("content_filter")
        case Finished.STOP_REASON_REFUSAL if not has_refusal:
            return Ending("content_filter")
        case Finished.STOP_REASON_PAUSE_TURN if not has_tool:
            return Ending(goes_on=True)
        case Finished.STOP_REASON_OTHER if finished.raw in _OTHER:
            return Ending(finished.raw)
        case _:
            return Ending()
