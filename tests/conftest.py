"""What the end-to-end tests share: one Valkey, one stand-in and one Patchbay for all that need nothing special."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from ways import Way
from wire_tap import WireTap

from patchbay.testing.cluster import Cluster
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin.testing import StandinProcess

Config = dict[str, object]

# The key of the Patchbay that wants one.
HOUSE_KEY = "pb-house-key"


def backends_on(url: str) -> Config:
    """Every kind of upstream, all of them the stand-in at `url`."""
    return {
        "default_backend": "openai",
        "openai": {"base_url": f"{url}/v1", "api_key": "sk-made-up"},
        "anthropic": {"base_url": url, "api_key": "sk-ant-made-up"},
        "local": {"kind": "openai-compatible", "base_url": f"{url}/v1", "api_key": "none"},
        "codebuddy": {"base_url": f"{url}/v2", "api_key": "ck_made.up"},
    }


@pytest.fixture(scope="session")
def standin() -> Iterator[StandinProcess]:
    with StandinProcess() as process:
        yield process


@pytest.fixture(scope="session")
def config_for(standin: StandinProcess) -> Callable[..., Config]:
    """A configuration over the stand-in; keyword arguments replace whole sections."""

    def build(**sections: object) -> Config:
        # A stalled machine is no outage of Redis: a test that wants one waits less.
        return {"backends": backends_on(standin.url), "redis": {"timeout_seconds": 5}, **sections}

    return build


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[ValkeyProcess]:
    with ValkeyProcess() as process:
        yield process


@pytest.fixture(scope="session")
def cluster(shared_valkey: ValkeyProcess, config_for: Callable[..., Config]) -> Iterator[Cluster]:
    """One edge and one replica of each worker, that no test may harm."""
    with Cluster(config_for(), redis_url=shared_valkey.url) as running:
        yield running


@pytest.fixture(scope="module")
def claude_cluster(standin: StandinProcess) -> Iterator[Cluster]:
    """One edge and one claude-worker: the stand-in behind `claude` processes (`cli`), and without (`anthropic`)."""
    upstream: Config = {"base_url": standin.url, "api_key": "sk-ant-made-up"}
    pool: Config = {"min_spare": 2, "max_processes": 6}
    config: Config = {
        "backends": {
            "default_backend": "cli",
            "cli": {"kind": "claude-cli", **upstream, "pool": pool},
            "anthropic": upstream,
        }
    }
    with ValkeyProcess() as own_valkey, Cluster(config, redis_url=own_valkey.url, kinds=("claude-worker",)) as running:
        yield running


@pytest.fixture
def valkey() -> Iterator[ValkeyProcess]:
    """A Valkey of the test's own, to pause or kill."""
    with ValkeyProcess() as process:
        yield process


@pytest.fixture
def upstream(standin: StandinProcess) -> StandinProcess:
    """The stand-in that the shared Patchbay asks, with nothing recorded yet."""
    standin.reset()
    return standin


@pytest.fixture
def way_to(request: pytest.FixtureRequest, upstream: StandinProcess) -> Callable[[str], Way]:
    """The way to a backend of the shared Patchbay; `direct-<protocol>`: past it, to the stand-in itself."""
    protocols = {"anthropic": "anthropic", "codebuddy": "codebuddy"}

    def build(name: str) -> Way:
        if name.startswith("direct-"):
            return Way(upstream.url, "", name.removeprefix("direct-"))
        running: Cluster = request.getfixturevalue("cluster")
        return Way(running.url, name, protocols.get(name, "openai"))

    return build


@pytest.fixture(scope="session")
def session_tap(standin: StandinProcess) -> Iterator[WireTap]:
    with WireTap(standin.url) as running:
        yield running


@pytest.fixture
def tap(session_tap: WireTap, upstream: StandinProcess) -> WireTap:
    """What goes over the wire between `house` and its upstreams, from this test on."""
    session_tap.reset()
    return session_tap


@pytest.fixture(scope="session")
def house(shared_valkey: ValkeyProcess, session_tap: WireTap) -> Iterator[Cluster]:
    """A Patchbay that wants a key (`HOUSE_KEY`), holds heads briefly, takes small bodies only, and has routes.

    Its upstreams are the stand-in behind a tap.
    """
    url = session_tap.url
    openai: Config = {"kind": "openai", "base_url": f"{url}/v1"}
    anthropic: Config = {"kind": "anthropic", "base_url": url}
    config: Config = {
        "server": {"head_hold_seconds": 1.0, "keep_alive_ping_seconds": 1.0},
        "security": {
            "require_api_key": True,
            "api_keys": [
                {"key": HOUSE_KEY, "id": "house"},
                "pb-another-key",
                *({"key": f"pb-twice-a-minute-{number}", "requests_per_minute": 2} for number in (1, 2)),
            ],
        },
        "limits": {"max_request_bytes": 4_000_000},
        "backends": {
            "default_backend": "house-openai",
            "house-openai": {**openai, "api_key": "sk-house"},
            "house-anthropic": {**anthropic, "api_key": "sk-ant-house"},
            "house-token": {**anthropic, "auth_token": "token-house"},
            "own-openai": {**openai, "credentials": "pass_through"},
            "own-anthropic": {**anthropic, "credentials": "pass_through"},
            "strict-openai": {**openai, "api_key": "sk-house", "strict_parameters": True},
            "strict-anthropic": {**anthropic, "api_key": "sk-ant-house", "strict_parameters": True},
            "pinned": {**openai, "api_key": "sk-house", "model": "standin-json"},
            "nowhere": {**openai, "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-house"},
        },
        "routes": [
            {"prefix": "/claude", "backend": "house-anthropic"},
            {"match": "renamed", "prefix": "/api", "backend": "house-anthropic", "model": "standin-json"},
            {"match": ["renamed", "other-*"], "backend": "house-openai", "model": "standin"},
            {"match": "safe", "backend": "nowhere", "fallbacks": ["house-anthropic/standin-json"]},
            {"match": "flaky-*", "backend": "house-openai", "fallbacks": ["house-anthropic/standin-json"]},
            {"match": "unlucky", "backend": "nowhere", "fallbacks": ["house-openai/standin-error-403", "pinned"]},
        ],
    }
    # In a database of its own, apart from the workers of the other Patchbay.
    with Cluster(config, redis_url=shared_valkey.url.removesuffix("0") + "1") as running:
        yield running
