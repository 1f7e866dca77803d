"""A whole Patchbay on loopback, for tests and benchmarks: real edges, real workers, real processes.

    with ValkeyProcess() as valkey, Cluster(config, redis_url=valkey.url, edges=2, workers=2) as cluster:
        httpx.get(cluster.url + "/ready")

The services are found by their commands, installed beside the running interpreter: nothing of them is imported here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import httpx

from patchbay.testing import forking
from patchbay.testing.eventually import wait_until
from patchbay.testing.ports import free_port

_WORKERS = ("openai-worker", "claude-worker")


class ServiceProcess:
    """One running service.

    Args:
        forked: Start it as `patchbay.testing.forking` does, where that can be: ten times sooner.

    Attributes:
        name: Its command without `patchbay-`.
        port: The HTTP port of an edge; 0 for a worker.
    """

    def __init__(
        self,
        name: str,
        *,
        config: Path,
        environ: Mapping[str, str],
        log: Path,
        port: int = 0,
        forked: bool = False,
    ) -> None:
        self.name = name
        self.port = port
        self.log = log
        self._command = [str(Path(sysconfig.get_path("scripts"), f"patchbay-{name}")), "--config", str(config)]
        if port:
            self._command += ["--server.port", str(port)]
        self._environ = environ
        self._forked = forked and forking.AVAILABLE
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        self._process: subprocess.Popen[bytes] | forking.ForkedProcess
        if self._forked:
            self._process = forking.start(self._command, environ=self._environ, log=self.log)
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=dict(self._environ), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """Ends it as a crash would (SIGKILL)."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Asks it to drain (SIGTERM) without waiting."""
        self._process.terminate()

    def wait(self, timeout: float = 30.0) -> int:
        """Waits for its end; the exit code."""
        return self._process.wait(timeout)

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        """Everything it has logged."""
        return self.log.read_text(errors="replace")


class Cluster:
    """Edges and workers over one configuration.

    Args:
        config: The configuration, as the YAML file would hold it; `redis.url` is filled in.
        redis_url: The Redis they share.
        edges: How many edges.
        workers: How many replicas of each worker.
        kinds: Which workers to run.
        environ: Variables to add to the otherwise empty environment of every process.
        forked: How its services start; see `ServiceProcess`.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        *,
        redis_url: str,
        edges: int = 1,
        workers: int = 1,
        kinds: tuple[str, ...] = _WORKERS,
        environ: Mapping[str, str] | None = None,
        forked: bool = True,
    ) -> None:
        self._forked = forked
        self._directory = tempfile.TemporaryDirectory(prefix="patchbay-cluster-")
        self.directory = Path(self._directory.name)
        self._config = self.directory / "patchbay.json"
        redis = config.get("redis")
        merged = {**config, "redis": {**(redis if isinstance(redis, dict) else {}), "url": redis_url}}
        self._config.write_text(json.dumps(merged))
        self._environ = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": self._directory.name,
            "PATCHBAY__TELEMETRY__LOG_FORMAT": "json",
            **(environ or {}),
        }
        self._counts = (edges, workers)
        self._kinds = kinds
        self._started = 0
        self.edges: list[ServiceProcess] = []
        self.workers: dict[str, list[ServiceProcess]] = {kind: [] for kind in kinds}

    @property
    def url(self) -> str:
        """The first edge's URL."""
        return self.edges[0].url

    def add_edge(self) -> ServiceProcess:
        edge = self._spawn("edge", port=free_port())
        self.edges.append(edge)
        return edge

    def add_worker(self, kind: str) -> ServiceProcess:
        worker = self._spawn(kind)
        self.workers[kind].append(worker)
        return worker

    def ready(self, edge: ServiceProcess) -> dict[str, object]:
        """The body of an edge's `/ready`; empty while it does not answer."""
        try:
            body: dict[str, object] = httpx.get(edge.url + "/ready", timeout=2.0).json()
        except (httpx.TransportError, ValueError):
            return {}
        return body

    def replicas(self, edge: ServiceProcess, backend: str) -> int:
        """How many live replicas an edge sees for a backend."""
        backends = self.ready(edge).get("backends")
        found = backends.get(backend) if isinstance(backends, dict) else None
        return int(found["replicas"]) if isinstance(found, dict) else 0

    def wait_ready(self, *, replicas: int | None = None) -> None:
        """Waits until every live edge sees `replicas` (default: as many as were started) for each backend."""
        wanted = self._counts[1] if replicas is None else replicas
        for edge in self.edges:
            if edge.alive:
                wait_until(lambda edge=edge: self._sees(edge, wanted), what=f"{edge.url}/ready", log=self.logs)  # type: ignore[misc]

    def logs(self) -> str:
        """The end of every service's log."""
        services = [*self.edges, *(worker for group in self.workers.values() for worker in group)]
        return "\n".join(f"--- {service.log.name}\n{service.output()[-3000:]}" for service in services)

    def __enter__(self) -> Self:
        edges, workers = self._counts
        try:
            for kind in self._kinds:
                for _ in range(workers):
                    self.add_worker(kind)
            for _ in range(edges):
                self.add_edge()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kills what still runs and removes every file."""
        for service in [*self.edges, *(worker for group in self.workers.values() for worker in group)]:
            if service.alive:
                service.kill()
        self._directory.cleanup()

    def _sees(self, edge: ServiceProcess, wanted: int) -> bool:
        backends = self.ready(edge).get("backends")
        if not isinstance(backends, dict) or not backends:
            return False
        return all(backend["replicas"] == wanted for backend in backends.values())

    def _spawn(self, name: str, *, port: int = 0) -> ServiceProcess:
        self._started += 1
        log = self.directory / f"{name}-{self._started}.log"
        return ServiceProcess(name, config=self._config, environ=self._environ, log=log, port=port, forked=self._forked)
