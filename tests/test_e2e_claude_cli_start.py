"""Starting `claude` processes from a worker that runs gRPC."""

from __future__ import annotations

import httpx
import pytest

from patchbay.testing.cluster import Cluster
from patchbay_standin.testing import StandinProcess

pytestmark = pytest.mark.timeout(90)


def test_nothing_of_grpc_runs_in_what_becomes_the_program(claude_cluster: Cluster, upstream: StandinProcess) -> None:
    """Its handlers of a fork say so each time they are called, and now and then crash the child they are called in."""
    body = {"model": "cli/standin", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
    for _ in range(6):
        answer = httpx.post(f"{claude_cluster.url}/v1/messages", json=body, timeout=60)
        assert answer.status_code == 200

    (worker,) = claude_cluster.workers["claude-worker"]
    assert "fork_posix" not in worker.output()
    assert "claude_does_not_start" not in worker.output()
