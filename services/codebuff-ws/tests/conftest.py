from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from patchbay.settings import Settings, load
from patchbay.testing.valkey import ValkeyProcess


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[ValkeyProcess]:
    with ValkeyProcess() as process:
        yield process


@pytest.fixture
def valkey(shared_valkey: ValkeyProcess) -> ValkeyProcess:
    """A server with nothing in it."""
    shared_valkey.command("FLUSHALL")
    return shared_valkey


@pytest.fixture
def settings_with(valkey: ValkeyProcess, tmp_path: Path) -> Callable[..., Settings]:
    """The settings of a replica on this Valkey; keyword arguments replace whole sections."""

    def build(**sections: object) -> Settings:
        path = tmp_path / "patchbay.yaml"
        path.write_text(yaml.safe_dump({"redis": {"url": valkey.url, "timeout_seconds": 5}, **sections}))
        return load(["--config", str(path)], {})

    return build
