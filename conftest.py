"""What holds for all tests: how they are shared out between processes, and what a slow machine may do."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import certifi
import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# How long a machine takes to think of an example says nothing about the code: the first text alone takes seconds.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

# These start `claude` processes: more than enough for two cores.
_CROWDED = ("bench/", "services/claude-worker/", "tests/test_e2e_claude")
# These kill and stop clusters under load: at the end, when the rest beside the crowded ones is done.
_LAST = (
    "tests/test_e2e_codebuff_f",
    "tests/test_e2e_edge_faults",
    "tests/test_e2e_permissions",
    "tests/test_e2e_worker_faults",
)


class _InRows(LoadFileScheduling):
    """Keeps the tests of a file together, and the crowded ones in one row (with `--no-loadscope-reorder`)."""

    def _split_scope(self, nodeid: str) -> str:
        return "crowded" if nodeid.startswith(_CROWDED) else super()._split_scope(nodeid)


_END_OF_CERTIFICATE = "-----END CERTIFICATE-----\n"


def pytest_configure(config: pytest.Config) -> None:
    """Gives HTTP clients one certificate to trust: each would read those of the whole world, for loopback only."""
    with tempfile.NamedTemporaryFile("w", prefix="patchbay-certificate-", delete=False) as file:
        file.write(Path(certifi.where()).read_text().partition(_END_OF_CERTIFICATE)[0] + _END_OF_CERTIFICATE)
    config.add_cleanup(lambda: Path(file.name).unlink())
    # https://www.python-httpx.org/environment_variables/
    os.environ["SSL_CERT_FILE"] = file.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.nodeid.startswith(_LAST))


def pytest_collection_finish() -> None:
    """What was collected stays to the end: the collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _InRows:
    return _InRows(config, log)
