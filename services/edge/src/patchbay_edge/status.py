"""`GET /sdk/status` and `GET /api/status`: the backends behind each prefix and their workers, as they are now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request

from patchbay.dispatch.routing import SDK_PREFIX
from patchbay.errors import PatchbayError
from patchbay.settings import Backend
from patchbay.state.registry import BackendRecord, PoolRecord, WorkerRecord
from patchbay_edge.conditions import condition, record_of
from patchbay_edge.endpoints import API_PREFIX
from patchbay_proto.v1.provider_pb2 import BackendStatus, PoolStatus, StatusResponse

if TYPE_CHECKING:
    from patchbay_edge.app import Edge

# A worker that is slower than this is described by its last heartbeat.
_TIMEOUT_SECONDS = 1.0
_POOL_FIELDS = tuple(field.name for field in PoolStatus.DESCRIPTOR.fields)


def status_router(edge: Edge) -> APIRouter:
    """The endpoints, for whoever may use the API."""
    router = APIRouter()

    @router.get(f"{SDK_PREFIX}/status")
    async def sdk_status(request: Request) -> dict[str, object]:
        edge.callers.identify(request.headers)
        return await _status(edge, [one for one in edge.backends.values() if one.kind == "claude-cli"])

    @router.get(f"{API_PREFIX}/status")
    async def api_status(request: Request) -> dict[str, object]:
        edge.callers.identify(request.headers)
        return await _status(edge, [one for one in edge.backends.values() if one.kind != "claude-cli"])

    return router


async def _status(edge: Edge, backends: Sequence[Backend]) -> dict[str, object]:
    names = {backend.name for backend in backends}
    workers = [worker for worker in edge.directory.workers if any(one.name in names for one in worker.backends)]
    answers = await asyncio.gather(*(ask_worker(edge, worker) for worker in workers))
    by_id = {worker.id: answer for worker, answer in zip(workers, answers, strict=True) if answer is not None}
    troubled = len(by_id) < len(workers)
    able = 0
    described: dict[str, object] = {}
    for backend in backends:
        views = [view for worker in workers if (view := _View.of(backend.name, worker, by_id.get(worker.id)))]
        taking = [view.said for view in views if not view.draining]
        is_now = condition(backend, taking)
        able += bool(taking) and is_now.signed_in
        troubled = troubled or bool(is_now.detail) or not all(said.signed_in for said in taking)
        described[backend.name] = {
            "kind": backend.kind,
            "mode": backend.claude_cli.mode if backend.claude_cli is not None else "",
            "credentials": backend.credentials,
            "signed_in": is_now.signed_in,
            "detail": is_now.detail,
            "replicas": len(taking),
            "workers": [view.described() for view in views],
        }
    status = "unavailable" if not able else "degraded" if troubled or able < len(backends) else "ok"
    return {"status": status, "backends": described}


async def ask_worker(edge: Edge, worker: WorkerRecord) -> StatusResponse | None:
    """What a worker says; None when it does not answer in time, or another answers at its address."""
    try:
        answer = await edge.connections.get(worker.address).status(timeout=_TIMEOUT_SECONDS)
    except PatchbayError:
        return None
    return answer if answer.worker_id == worker.id else None


class _View:
    """One worker and one of its backends: its own answer where there is one, else its last heartbeat."""

    def __init__(
        self, worker: WorkerRecord, answer: StatusResponse | None, said: BackendStatus | BackendRecord
    ) -> None:
        self.said = said
        self._worker = worker
        self._now = worker if answer is None else answer

    @classmethod
    def of(cls, backend: str, worker: WorkerRecord, answer: StatusResponse | None) -> _View | None:
        """The view; None: the worker does not serve the backend."""
        if answer is not None:
            for status in answer.backends:
                if status.name == backend:
                    return cls(worker, answer, status)
        record = record_of(worker, backend)
        return None if record is None else cls(worker, answer, record)

    @property
    def draining(self) -> bool:
        return self._now.draining

    def described(self) -> dict[str, object]:
        return {
            "id": self._worker.id,
            "version": self._now.version,
            "capacity": self._now.capacity,
            "in_flight": self._now.in_flight,
            "draining": self._now.draining,
            "pool": self._pool(),
        }

    def _pool(self) -> Mapping[str, object] | None:
        pool: PoolStatus | PoolRecord | None = self.said.pool
        if pool is None or (isinstance(self.said, BackendStatus) and not self.said.HasField("pool")):
            return None
        # A heartbeat holds but the few that picking needs.
        return {name: getattr(pool, name, None) for name in _POOL_FIELDS}
