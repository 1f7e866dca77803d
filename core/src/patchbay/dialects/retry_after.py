"""How long an upstream asks to wait, from the headers of its answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait; None: it does not say. A date counts from the upstream's own clock, its `date` header."""
    milliseconds = read_seconds(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    seconds = read_seconds(value)
    if seconds is not None:
        return seconds
    until, now = read_http_date(value), read_http_date(headers.get("date", ""))
    return None if until is None or now is None else seconds_between(now, until)


def write_retry_after(seconds: float) -> str:
    """The header's value: whole seconds, and never too few."""
    return str(max(0, math.ceil(seconds)))


def read_seconds(value: str) -> float | None:
    """A number of seconds that makes sense as a wait."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def read_http_date(value: str) -> datetime | None:
    try:
        return parsedate_to_datetime(value)
    except ValueError:
        return None


def seconds_between(now: datetime, until: datetime) -> float | None:
    """The wait until a moment, which may be past; None: one of the two has no time zone."""
    try:
        return max(0.0, (until - now).total_seconds())
    except TypeError:
        return None
