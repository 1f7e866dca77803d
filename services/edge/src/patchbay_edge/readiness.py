"""Whether this edge can serve: each enabled backend with its live replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patchbay.settings import KINDS
from patchbay_edge.conditions import condition, record_of

if TYPE_CHECKING:
    from patchbay_edge.app import Edge


def readiness(edge: Edge) -> tuple[int, dict[str, object]]:
    """The status and body of `/ready`: 200 when every enabled backend has a live replica and nothing is draining.

    A backend of a kind that is signed in to, such as `claude-cli`, is named when no replica can answer, with the words
    of its workers. Only when no backend at all can answer is that a 503: the others, and the way to sign in, need this
    edge. Redis being away does not make an edge unready: it goes on with the last known workers.
    """
    backends = {name: _backend(edge, name) for name in edge.backends}
    missing = [name for name, backend in backends.items() if not backend["replicas"]]
    unable = [
        name
        for name, backend in backends.items()
        if KINDS[edge.backends[name].kind].signs_in and backend["replicas"] and not backend["signed_in"]
    ]
    if edge.gateway.draining:
        status = "draining"
    elif missing or not backends:
        status = "waiting"
    elif len(unable) == len(backends):
        status = "unable"
    else:
        status = "ready"
    body: dict[str, object] = {
        "status": status,
        "backends": backends,
        "redis": "away" if edge.admission.degraded or edge.directory.stale else "ok",
    }
    details = [f"no live worker for: {', '.join(missing)}"] if missing else []
    details += [f"{name}: {backends[name]['detail']}" for name in unable]
    if not backends:
        details = ["no backend is configured: set a provider's key or a backend in the configuration"]
    if details:
        body["detail"] = "; ".join(details)
    return (200 if status == "ready" else 503), body


def _backend(edge: Edge, name: str) -> dict[str, object]:
    backend = edge.backends[name]
    workers = edge.directory.for_backend(name)
    records = [record for worker in workers if (record := record_of(worker, name)) is not None]
    is_now = condition(backend, records)
    return {
        "kind": backend.kind,
        "replicas": len(workers),
        "workers": [worker.id for worker in workers],
        "signed_in": is_now.signed_in,
        "detail": is_now.detail,
    }
