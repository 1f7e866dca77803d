"""Everything that runs during a benchmark: the stand-in, Patchbay, and the peers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path as Folder
from typing import Final
from urllib.parse import urlsplit

import psutil

from patchbay.testing.cluster import Cluster
from patchbay.testing.valkey import ValkeyProcess
from patchbay_bench import paths
from patchbay_bench.environments import NotInstalled
from patchbay_bench.jobs import ClientDialect
from patchbay_bench.meters import Roles
from patchbay_bench.paths import LeftOut, Path
from patchbay_bench.peers import READY_SECONDS, CCProxy, LiteLLM
from patchbay_bench.processes import NotStarted
from patchbay_bench.wire import VERSION_HEADER
from patchbay_standin import Script
from patchbay_standin.testing import StandinProcess

PACED: Final = "standin-bench-paced"
BURST: Final = "standin-bench-burst-split"
JOINED: Final = "standin-bench-burst"
# The stand-in's own are for 100 deltas; these are registered with it.
SLOW: Final = "bench-slow"
SHORT: Final = "bench-short"
HELD: Final = "bench-held"
_SCRIPTS: Final = {
    SLOW: Script(deltas=20, delta_delay_ms=250),
    SHORT: Script(deltas=5),
    HELD: Script(deltas=20, silence_after=3),
}
MODELS: Final = (PACED, BURST, JOINED, *_SCRIPTS)

KEY: Final = "bench-key-made-up"
_WORKERS: Final = ("openai-worker", "claude-worker", "codex-worker")
# More than any run asks for, so that admission is at work and never says no.
_PLENTY: Final = 10_000_000


@dataclass(slots=True)
class Systems:
    """What runs.

    Attributes:
        standin: The upstream's processes.
        patchbay: Each of Patchbay's processes.
        paths: Every way through, the direct ones first.
    """

    standin: Roles
    patchbay: Roles
    paths: list[Path]
    left_out: list[LeftOut] = field(default_factory=list)

    def path(self, name: str) -> Path | None:
        """The path of this name, if it could be built."""
        return next((path for path in self.paths if path.name == name), None)


@contextmanager
def running(*, home: Folder, uv: str | None, peers: bool) -> Iterator[Systems]:
    """Starts everything, and stops everything it started.

    Args:
        home: The bench's folder.
        uv: The program, when it is not on the path.
        peers: Whether to run the peers as well.
    """
    with ExitStack() as stack:
        standin = stack.enter_context(StandinProcess(arguments=["--no-records"]))
        for name, script in _SCRIPTS.items():
            standin.script(name, script)
        systems = Systems(standin={"standin": [standin.pid]}, patchbay={}, paths=_direct(standin))
        started = _start_peers(stack, systems, home=home, uv=uv, upstream=standin.url) if peers else []
        valkey = stack.enter_context(ValkeyProcess())
        cluster = stack.enter_context(
            Cluster(configuration(_backends(standin.url)), redis_url=valkey.url, kinds=_WORKERS, forked=False)
        )
        systems.patchbay = {
            "edge": [edge.pid for edge in cluster.edges],
            **{kind: [worker.pid for worker in workers] for kind, workers in cluster.workers.items()},
            "valkey": _children("valkey"),
        }
        systems.paths += _patchbay(systems.patchbay, cluster.edges[0].port)
        for peer in started:
            try:
                peer.process.wait_ready(seconds=READY_SECONDS)
                systems.paths += peer.paths()
            except NotStarted as error:
                systems.left_out.append(LeftOut(type(peer).__name__, str(error)))
        yield systems


def _start_peers(
    stack: ExitStack, systems: Systems, *, home: Folder, uv: str | None, upstream: str
) -> list[LiteLLM | CCProxy]:
    started: list[LiteLLM | CCProxy] = []
    for name in ("LiteLLM", "CCProxy"):
        try:
            peer: LiteLLM | CCProxy = (
                LiteLLM(home=home, uv=uv, upstream=upstream, models=MODELS)
                if name == "LiteLLM"
                else CCProxy(home=home, uv=uv, upstream=upstream)
            )
        except NotInstalled as error:
            systems.left_out.append(LeftOut(name, str(error)))
            continue
        stack.enter_context(peer.process)
        started.append(peer)
    return started


def _children(name: str) -> list[int]:
    return [child.pid for child in psutil.Process().children() if name in child.name()]


def configuration(backends: dict[str, object]) -> dict[str, object]:
    """Patchbay with its features on: keys, limits, logs and metrics as an operator would have them."""
    return {
        "security": {"require_api_key": True, "api_keys": [KEY]},
        "limits": {"requests_per_minute": _PLENTY, "concurrent_requests": _PLENTY},
        "workers": {"capacity": 4000},
        "backends": backends,
    }


def _backends(upstream: str) -> dict[str, object]:
    return {
        "anthropic": {"base_url": upstream, "api_key": "made-up"},
        "openai": {"base_url": f"{upstream}/v1", "api_key": "made-up"},
        "responses": {"kind": "openai-responses", "base_url": f"{upstream}/v1", "api_key": "made-up"},
    }


def _direct(standin: StandinProcess) -> list[Path]:
    port = urlsplit(standin.url).port or 0
    return [
        Path(
            name=paths.DIRECT_ANTHROPIC,
            system="direct",
            client="anthropic",
            upstream="anthropic",
            port=port,
            headers={"x-api-key": "made-up", **VERSION_HEADER},
            roles={},
        ),
        Path(
            name=paths.DIRECT_OPENAI,
            system="direct",
            client="openai",
            upstream="openai",
            port=port,
            headers={"authorization": "Bearer made-up"},
            roles={},
        ),
        Path(
            name=paths.DIRECT_RESPONSES,
            system="direct",
            client="responses",
            upstream="responses",
            port=port,
            headers={"authorization": "Bearer made-up"},
            roles={},
        ),
    ]


def _patchbay(roles: Roles, port: int) -> list[Path]:
    headers: dict[ClientDialect, dict[str, str]] = {
        "anthropic": {"x-api-key": KEY, **VERSION_HEADER},
        "openai": {"authorization": f"Bearer {KEY}"},
        "responses": {"authorization": f"Bearer {KEY}"},
    }
    cost = {
        "edge": roles["edge"],
        "worker": [pid for worker in _WORKERS for pid in roles[worker]],
    }
    ways: tuple[tuple[str, ClientDialect, ClientDialect], ...] = (
        (paths.NATIVE_ANTHROPIC, "anthropic", "anthropic"),
        (paths.NATIVE_OPENAI, "openai", "openai"),
        (paths.OPENAI_TO_ANTHROPIC, "openai", "anthropic"),
        (paths.ANTHROPIC_TO_OPENAI, "anthropic", "openai"),
        (paths.NATIVE_RESPONSES, "responses", "responses"),
        (paths.RESPONSES_TO_ANTHROPIC, "responses", "anthropic"),
        (paths.SOCKET_RESPONSES, "responses", "responses"),
        (paths.SOCKET_TO_ANTHROPIC, "responses", "anthropic"),
    )
    sockets = (paths.SOCKET_RESPONSES, paths.SOCKET_TO_ANTHROPIC)
    return [
        Path(
            name=name,
            system="patchbay",
            client=client,
            upstream=upstream,
            websocket=name in sockets,
            port=port,
            model_prefix=f"{upstream}/",
            headers=headers[client],
            roles=cost,
        )
        for name, client, upstream in ways
    ]
