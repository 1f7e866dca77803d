"""Every built-in scenario does what its row in the README says."""

from __future__ import annotations

import http.client
from typing import Any

import pytest

from patchbay_standin import SCENARIOS
from patchbay_standin.testing import StandinProcess

# Name: status, outcome, deltas (None: not the point), when streamed.
PLAYED: dict[str, tuple[int, str, int | None]] = {
    "standin-echo": (200, "completed", 19),
    "standin-thinking": (200, "completed", 14),
    "standin-tool": (200, "completed", 8),
    "standin-parallel-tools": (200, "completed", 9),
    "standin-json": (200, "completed", 6),
    "standin-refusal": (200, "completed", 5),
    "standin-max-tokens": (200, "completed", 7),
    "standin-overloaded-in-stream": (200, "error", 0),
    "standin-error-in-stream": (200, "error", 5),
    "standin-cut": (200, "cut", 5),
    "standin-cut-before-head": (0, "cut", 0),
    "standin-huge": (200, "completed", 15625),
    "standin-bench-paced": (200, "completed", 100),
    "standin-bench-burst": (200, "completed", 100),
    "standin-bench-burst-split": (200, "completed", 100),
    "standin-slow": (200, "completed", 19),
    **{
        name: (int(name[-3:]), "error", 0)
        for name in SCENARIOS
        if name.startswith("standin-error-") and name[-3:].isdigit()
    },
}
# These wait for seconds or for ever; that they end when their client leaves is proven with the faults.
WAITING = {"standin-slow-first-byte", "standin-slow-first-event", "standin-silence", "standin-silence-at-once"}


def test_none_is_forgotten() -> None:
    assert set(PLAYED) | WAITING == set(SCENARIOS)


@pytest.mark.parametrize("protocol", ["anthropic", "openai", "responses", "codebuddy"])
@pytest.mark.parametrize("name", PLAYED)
def test_scenario(name: str, protocol: str, ask: Any, standin: StandinProcess) -> None:
    try:
        ask(protocol, name, stream=True, **({"reasoning": {"summary": "auto"}} if protocol == "responses" else {}))
    except (http.client.IncompleteRead, http.client.RemoteDisconnected):
        assert PLAYED[name][1] == "cut"
    (request,) = standin.wait_for(lambda standin: [r for r in standin.requests() if r.outcome])
    assert (request.status, request.outcome, request.deltas) == PLAYED[name]
