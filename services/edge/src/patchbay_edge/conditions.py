"""Whether a backend can answer, and what to do if it cannot: as its workers say, where only they know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from patchbay.settings import KINDS, Backend
from patchbay.state.registry import BackendRecord, WorkerRecord


class Said(Protocol):
    """What one replica says of a backend: its record in the registry, or its answer when asked."""

    @property
    def signed_in(self) -> bool: ...

    @property
    def detail(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Condition:
    """How a backend is.

    Attributes:
        signed_in: Whether some replica has what it takes to answer.
        detail: What is missing and how to mend it; empty: nothing.
    """

    signed_in: bool
    detail: str


def condition(backend: Backend, replicas: Sequence[Said]) -> Condition:
    """The condition of a backend with these live replicas.

    For most kinds the settings know whether a credential is there. Whether there is a `claude` program, or an
    operator's sign-in, only the workers know.
    """
    if not KINDS[backend.kind].signs_in:
        return Condition(backend.signed_in, backend.detail)
    if not replicas:
        known = backend.signed_in and backend.credentials != "signed_in"
        return Condition(known, backend.detail or ("" if known else "no live worker says whether it is signed in"))
    words = list(dict.fromkeys(replica.detail for replica in replicas if replica.detail))
    signed_in = any(replica.signed_in for replica in replicas)
    if not signed_in and not words:
        words = [backend.detail or "its workers are not signed in"]
    troubled = sum(1 for replica in replicas if replica.detail or not replica.signed_in)
    some = f"{troubled} of {len(replicas)} replicas: " if words and troubled < len(replicas) else ""
    return Condition(signed_in, some + "; ".join(words))


def record_of(worker: WorkerRecord, backend: str) -> BackendRecord | None:
    """What a worker's last heartbeat says of a backend; None: the worker does not serve it."""
    return next((record for record in worker.backends if record.name == backend), None)
