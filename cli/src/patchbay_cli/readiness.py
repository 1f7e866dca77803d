"""What the edge says of itself, and the registry of the workers."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request

import msgspec

from patchbay.settings import Settings
from patchbay.state.connection import connect
from patchbay.state.registry import Directory

# The edge is on this machine: no proxy stands between.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class BackendReadiness(msgspec.Struct, frozen=True):
    """A backend's live replicas, and whether it has a credential (`detail` says what is missing)."""

    replicas: int
    signed_in: bool
    detail: str = ""


class Readiness(msgspec.Struct, frozen=True):
    """The edge's `/ready`."""

    status: str
    detail: str = ""
    backends: dict[str, BackendReadiness] = {}

    @property
    def ready(self) -> bool:
        return self.status == "ready"

    @property
    def up(self) -> bool:
        """Whether everything runs, if only to tell the operator what a backend lacks, and to be signed in through."""
        return self.status in ("ready", "unable")


_decoder = msgspec.json.Decoder(Readiness)


def ask(url: str, *, timeout: float = 2.0) -> Readiness:
    """Asks the edge at `url` whether it is ready."""
    try:
        with _direct.open(f"{url}/ready", timeout=timeout) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:
        # Not ready is a 503 with the same body.
        with error:
            body = error.read()
    except (OSError, http.client.HTTPException) as error:
        return Readiness("away", f"the edge does not answer ({error})")
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError:
        return Readiness("unknown", f"{url}/ready is not answered by an edge")


async def worker_addresses(settings: Settings) -> dict[str, list[str]]:
    """Where each kind of worker listens, from the registry; empty while Redis is away."""
    redis = connect(settings.redis.connect_url(), timeout=settings.redis.timeout_seconds)
    try:
        directory = Directory(redis, timeout=settings.redis.timeout_seconds)
        await directory.refresh()
        addresses: dict[str, list[str]] = {}
        for worker in directory.workers:
            addresses.setdefault(worker.service, []).append(worker.address)
        return addresses
    finally:
        await redis.aclose()
