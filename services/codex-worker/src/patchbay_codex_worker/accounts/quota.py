"""How much of an account's limits is used: from the headers of every answer, and from the provider's own page of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from patchbay.state.codex_limits import Cooling, Quota, Window
from patchbay.upstream.transport import Upstream
from patchbay_codex_worker.accounts.pages import read_page

USAGE_PATH = "/wham/usage"
WINDOWS = ("primary", "secondary")
# The end of the year 9999: a time beyond it is none.
_LATEST = 253_402_300_799.0
# How long an account rests that is at its limit, where nothing says how long that takes.
DEFAULT_COOLING_SECONDS = 300.0


class _PageWindow(msgspec.Struct):
    used_percent: float = 0.0
    limit_window_seconds: float = 0.0
    reset_at: float = 0.0
    reset_after_seconds: float = 0.0


class _PageLimit(msgspec.Struct):
    allowed: bool = True
    limit_reached: bool = False
    primary_window: _PageWindow | None = None
    secondary_window: _PageWindow | None = None


class _Page(msgspec.Struct):
    plan_type: str | None = None
    rate_limit: _PageLimit | None = None


_decode_page = msgspec.json.Decoder(_Page, strict=False).decode


@dataclass(frozen=True, slots=True)
class Usage:
    """What the provider's page says: the quota, and whether the account may go on."""

    quota: Quota
    cooling: Cooling | None


def from_headers(headers: Mapping[str, str], before: Quota | None, now: float) -> Quota | None:
    """The quota that an answer's headers tell (names in lower case); None: they tell nothing."""
    windows = []
    for name in WINDOWS:
        used = _number(headers.get(f"x-codex-{name}-used-percent"))
        if used is None:
            continue
        resets_at = _number(headers.get(f"x-codex-{name}-reset-at"))
        if resets_at is None and (after := _number(headers.get(f"x-codex-{name}-reset-after-seconds"))) is not None:
            resets_at = sound(now + after)
        minutes = _number(headers.get(f"x-codex-{name}-window-minutes")) or 0
        windows.append(Window(name, used, int(minutes), resets_at or 0.0))
    if not windows:
        return None
    return Quota(tuple(windows), now, headers.get("x-codex-plan-type") or (before.plan if before else ""))


async def ask(upstream: Upstream, headers: Mapping[str, str], now: float) -> Usage | None:
    """What the provider says of an account's usage; None: nothing that can be read."""
    body = await read_page(upstream, USAGE_PATH, headers)
    try:
        page = _decode_page(body) if body is not None else _Page()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    limit = page.rate_limit
    if limit is None:
        return None
    windows = [
        Window(
            name,
            sound(window.used_percent) or 0.0,
            int((sound(window.limit_window_seconds) or 0) // 60),
            sound(window.reset_at)
            or (sound(now + window.reset_after_seconds) if window.reset_after_seconds > 0 else None)
            or 0.0,
        )
        for name, window in zip(WINDOWS, (limit.primary_window, limit.secondary_window), strict=True)
        if window is not None
    ]
    quota = Quota(tuple(windows), now, page.plan_type or "")
    is_at_limit = limit.limit_reached or not limit.allowed
    return Usage(quota, Cooling(cooled_until(quota, now), "usage_limit_reached") if is_at_limit else None)


def cooled_until(quota: Quota | None, now: float) -> float:
    """When an account at its limit may go on, as far as its windows say."""
    windows = quota.windows if quota is not None else ()
    resets = [window.resets_at for window in windows if window.used_percent >= 100 and window.resets_at > now]
    return max(resets, default=now + DEFAULT_COOLING_SECONDS)


def _number(text: str | None) -> float | None:
    try:
        return sound(float(text)) if text else None
    except ValueError:
        return None


def sound(number: float) -> float | None:
    """The number, where it is one that a time, a length or a share may have: all replicas will count with it."""
    return number if math.isfinite(number) and 0 <= number < _LATEST else None
