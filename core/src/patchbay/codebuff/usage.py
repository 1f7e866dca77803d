"""What models' answers cost, in credits of a US cent, and what clients are told of what they have used."""

from __future__ import annotations

from typing import Any

import msgspec

from patchbay.canonical import Usage

# There is nothing to pay here, and clients warn of a small balance.
_BALANCE = 1_000_000


def usage_report(used: int) -> dict[str, Any]:
    """The fields of a usage response.

    Args:
        used: The caller's credits of this month.
    """
    return {"usage": used, "remainingBalance": _BALANCE, "balanceBreakdown": {}, "next_quota_reset": None}


def dollars(usage: Usage) -> float | None:
    """What an answer has cost, where the provider says so (OpenRouter's `usage.cost`, in US dollars)."""
    for text in usage.extensions.values():
        try:
            extension = msgspec.json.decode(text)
        except msgspec.DecodeError:
            continue
        cost = extension.get("cost") if isinstance(extension, dict) else None
        if isinstance(cost, int | float) and not isinstance(cost, bool) and cost >= 0:
            details = extension.get("cost_details")
            upstream = details.get("upstream_inference_cost") if isinstance(details, dict) else None
            return cost + (upstream if isinstance(upstream, int | float) and upstream > 0 else 0)
    return None


def credits_of(usage: Usage, margin: float) -> int | None:
    """What an answer has cost, in credits; None when nobody says.

    Args:
        margin: Credits over the price: 0.1 is 10 %.
    """
    cost = dollars(usage)
    return None if cost is None else round(cost * 100 * (1 + margin))
