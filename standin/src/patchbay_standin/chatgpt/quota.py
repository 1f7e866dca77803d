"""What the ChatGPT backend tells of an account's quota: in headers, in frames, and when asked."""

from __future__ import annotations

import time

from patchbay_standin.errors import ProviderError
from patchbay_standin.exchange import Headers
from patchbay_standin.oauth import Holder
from patchbay_standin.oauth.accounts import Window
from patchbay_standin.script import JsonObject


def quota_headers(holder: Holder) -> Headers:
    """The `x-codex-*` headers of every answer."""
    return [
        *_window_headers("primary", holder.primary),
        *_window_headers("secondary", holder.secondary),
        (b"x-codex-active-limit", b"codex"),
        (b"x-codex-plan-type", holder.report.plan.encode()),
        (b"x-codex-credits-has-credits", b"False"),
        (b"x-codex-credits-unlimited", b"False"),
        (b"x-codex-credits-balance", b""),
    ]


def rate_limits_frame(holder: Holder) -> JsonObject:
    """The frame that tells them over a WebSocket."""
    return {
        "type": "codex.rate_limits",
        "plan_type": holder.report.plan,
        "rate_limits": {
            "allowed": holder.exhausted is None,
            "limit_reached": holder.exhausted is not None,
            "primary": _window_limits(holder.primary),
            "secondary": _window_limits(holder.secondary),
        },
        "credits": _credits(),
    }


def usage(holder: Holder) -> JsonObject:
    """The answer of `GET /backend-api/wham/usage`."""
    return {
        "plan_type": holder.report.plan,
        "rate_limit": {
            "allowed": holder.exhausted is None,
            "limit_reached": holder.exhausted is not None,
            "primary_window": _window_usage(holder.primary),
            "secondary_window": _window_usage(holder.secondary),
        },
        "credits": _credits(),
    }


def usage_limit(holder: Holder) -> ProviderError:
    """The error of a used-up quota."""
    full = holder.exhausted or holder.primary
    return ProviderError(
        status=429,
        message="The usage limit has been reached",
        type="usage_limit_reached",
        fields={
            "plan_type": holder.report.plan,
            "resets_at": int(full.resets_at),
            "resets_in_seconds": _seconds_left(full),
        },
    )


def _window_headers(name: str, window: Window) -> Headers:
    used = window.used_percent
    return [
        (f"x-codex-{name}-used-percent".encode(), f"{used:g}".encode()),
        (f"x-codex-{name}-window-minutes".encode(), str(window.minutes).encode()),
        (f"x-codex-{name}-reset-at".encode(), str(int(window.resets_at)).encode()),
        (f"x-codex-{name}-reset-after-seconds".encode(), str(_seconds_left(window)).encode()),
    ]


def _window_limits(window: Window) -> JsonObject:
    used = window.used_percent
    return {"used_percent": used, "window_minutes": window.minutes, "reset_at": int(window.resets_at)}


def _window_usage(window: Window) -> JsonObject:
    used = window.used_percent
    return {
        "used_percent": used,
        "limit_window_seconds": window.minutes * 60,
        "reset_after_seconds": _seconds_left(window),
        "reset_at": int(window.resets_at),
    }


def _credits() -> JsonObject:
    return {"has_credits": False, "unlimited": False, "balance": None}


def _seconds_left(window: Window) -> int:
    return max(0, int(window.resets_at - time.time()))
