"""The limits of an API key and of the cluster, and the limiter that a replica falls back on without Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

_UNIT = 60_000_000
_MOST_REQUESTS_PER_MINUTE = 100_000_000
_MOST_BUCKETS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is admitted; None is without limit.

    Attributes:
        requests_per_minute: Per API key. A key that was idle may send that many at once; they come back evenly over the
            following minute.
        concurrent_requests: Per API key.
        max_connections: In the whole cluster, all keys together.
    """

    requests_per_minute: int | None = None
    concurrent_requests: int | None = None
    max_connections: int | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "concurrent_requests", "max_connections"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is at least 1, or none at all; not {value}")
        # Above this the integers of the rate bucket no longer fit a double, which is all the numbers Lua has.
        if self.requests_per_minute is not None and self.requests_per_minute > _MOST_REQUESTS_PER_MINUTE:
            raise ValueError(f"requests_per_minute is at most {_MOST_REQUESTS_PER_MINUTE:,}")

    def share(self, replicas: int) -> Limits:
        """The part of these limits that one of `replicas` replicas may grant by itself: at least 1 of each."""
        return Limits(
            requests_per_minute=_share(self.requests_per_minute, replicas),
            concurrent_requests=_share(self.concurrent_requests, replicas),
            max_connections=_share(self.max_connections, replicas),
        )


def _share(limit: int | None, replicas: int) -> int | None:
    return None if limit is None else max(1, limit // max(1, replicas))


class Denial(IntEnum):
    """Which limit is in the way, by the numbers that the admission script answers with."""

    REQUESTS_PER_MINUTE = 1
    CONCURRENT_REQUESTS = 2
    MAX_CONNECTIONS = 3


class LocalRates:
    """Request-rate buckets in this process's memory, by the rule of `admit_v1.lua`.

    Args:
        clock: Nanoseconds of a clock that never steps back.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[int, int]] = {}

    def wait(self, key_id: str, requests_per_minute: int) -> float:
        """Seconds until this key may send a request; 0 is now. Charges nothing."""
        over = self._level(key_id, requests_per_minute) + _UNIT - requests_per_minute * _UNIT
        return max(0.0, over / requests_per_minute / 1e6)

    def charge(self, key_id: str, requests_per_minute: int) -> None:
        """Counts one request."""
        level = self._level(key_id, requests_per_minute) + _UNIT
        if len(self._buckets) >= _MOST_BUCKETS:
            self._forget_idle()
        self._buckets[key_id] = (self._clock() // 1000, level)

    def clear(self) -> None:
        """Forgets every request."""
        self._buckets.clear()

    def _level(self, key_id: str, requests_per_minute: int) -> int:
        last, level = self._buckets.get(key_id, (0, 0))
        return max(0, level - (self._clock() // 1000 - last) * requests_per_minute)

    def _forget_idle(self) -> None:
        # A full bucket drains within a minute at its own rate.
        horizon = self._clock() // 1000 - 60_000_000
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if bucket[0] > horizon}
