"""How the tests are shared out between processes that run them side by side (`pytest -n 2 --no-loadscope-reorder`)."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# Their tests start clusters and `claude` processes, which are more than enough for two cores.
_CROWDED = ("tests/", "bench/", "services/claude-worker/")


class _InRows(LoadFileScheduling):
    """Keeps the tests of a file together, and those of the crowded folders in one row."""

    def _split_scope(self, nodeid: str) -> str:
        return "crowded" if nodeid.startswith(_CROWDED) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _InRows:
    return _InRows(config, log)
