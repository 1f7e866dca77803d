"""How much to think, in the words of OpenAI's servers."""

from __future__ import annotations

from collections.abc import Sequence

# Every effort there is, weakest first.
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

# Thinking budgets in tokens, up to and including -> the effort that comes closest.
_EFFORT_OF_BUDGET = ((4_096, "low"), (16_384, "medium"))
_EFFORT_OF_LARGER_BUDGET = "high"


def effort_of_budget(tokens: int) -> str:
    for limit, effort in _EFFORT_OF_BUDGET:
        if tokens <= limit:
            return effort
    return _EFFORT_OF_LARGER_BUDGET


def nearest_effort(effort: str, known: Sequence[str]) -> str:
    """The one of the efforts a server knows that comes closest; one that nobody knows stays as it is."""
    if effort in known or effort not in EFFORTS or not known:
        return effort
    rank = EFFORTS.index(effort)
    # Reasoning that was asked for is not switched off.
    others = [name for name in known if name in EFFORTS and name != "none"] or list(known)
    return min(others, key=lambda name: abs(EFFORTS.index(name) - rank) if name in EFFORTS else len(EFFORTS))
