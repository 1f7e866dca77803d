"""How much to think, in the words of OpenAI's servers."""

from __future__ import annotations

from collections.abc import Sequence

from patchbay.canonical import Reasoning

# Every effort there is, weakest first.
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

# Thinking budgets in tokens, up to and including -> the effort that comes closest.
_EFFORT_OF_BUDGET = ((4_096, "low"), (16_384, "medium"))
_EFFORT_OF_LARGER_BUDGET = "high"


def _effort_of_budget(tokens: int) -> str:
    for limit, effort in _EFFORT_OF_BUDGET:
        if tokens <= limit:
            return effort
    return _EFFORT_OF_LARGER_BUDGET


def effort_of(reasoning: Reasoning, known: Sequence[str], disabled: str | None) -> str | None:
    """The effort for a server; None: how much to think is the model's own choice, if nobody says more than that.

    Args:
        known: The efforts the server knows, weakest first.
        disabled: The effort that stands for "do not think" when the client said only that.
    """
    if reasoning.HasField("effort"):
        return nearest_effort(reasoning.effort, known)
    if reasoning.mode == Reasoning.MODE_DISABLED:
        return disabled
    if reasoning.HasField("budget_tokens"):
        return nearest_effort(_effort_of_budget(reasoning.budget_tokens), known)
    return None


def nearest_effort(effort: str, known: Sequence[str]) -> str:
    """The one of the efforts a server knows that comes closest; one that nobody knows stays as it is."""
    if effort in known or effort not in EFFORTS or not known:
        return effort
    rank = EFFORTS.index(effort)
    # Reasoning that was asked for is not switched off.
    others = [name for name in known if name in EFFORTS and name != "none"] or list(known)
    return min(others, key=lambda name: abs(EFFORTS.index(name) - rank) if name in EFFORTS else len(EFFORTS))
