"""How the tests are shared out between processes that run them side by side (`pytest -n 2 --no-loadscope-reorder`)."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# These start `claude` processes, or kill and stop clusters under load: more than enough for two cores.
_CROWDED = (
    "bench/",
    "services/claude-worker/",
    "tests/test_e2e_claude",
    "tests/test_e2e_edge_faults",
    "tests/test_e2e_permissions",
    "tests/test_e2e_worker_faults",
)


class _InRows(LoadFileScheduling):
    """Keeps the tests of a file together, and the crowded ones in one row."""

    def _split_scope(self, nodeid: str) -> str:
        return "crowded" if nodeid.startswith(_CROWDED) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _InRows:
    return _InRows(config, log)
