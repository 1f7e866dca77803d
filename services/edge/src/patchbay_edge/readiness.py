"""Whether this edge can serve: each enabled backend with its live replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patchbay_edge.app import Edge


def readiness(edge: Edge) -> tuple[int, dict[str, object]]:
    """The status and body of `/ready`: 200 when every enabled backend has a live replica and nothing is draining.

    Redis being away does not make an edge unready: it goes on with the last known workers.
    """
    backends = {name: _backend(edge, name) for name in edge.backends}
    missing = [name for name, backend in backends.items() if not backend["replicas"]]
    if edge.gateway.draining:
        status = "draining"
    elif missing or not backends:
        status = "waiting"
    else:
        status = "ready"
    body: dict[str, object] = {
        "status": status,
        "backends": backends,
        "redis": "away" if edge.admission.degraded or edge.directory.stale else "ok",
    }
    if missing:
        body["detail"] = f"no live worker for: {', '.join(missing)}"
    elif not backends:
        body["detail"] = "no backend is configured: set a provider's key or a backend in the configuration"
    return (200 if status == "ready" else 503), body


def _backend(edge: Edge, name: str) -> dict[str, object]:
    backend = edge.backends[name]
    workers = edge.directory.for_backend(name)
    return {
        "kind": backend.kind,
        "replicas": len(workers),
        "workers": [worker.id for worker in workers],
        "signed_in": backend.signed_in,
        "detail": backend.detail,
    }
