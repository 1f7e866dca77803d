from __future__ import annotations

import json

import pytest

from patchbay.settings import load
from patchbay.state.registry import BackendRecord
from patchbay.testing.worker import ScriptedWorker
from patchbay_edge.conditions import Condition, condition, record_of

SIGNED_IN = {"kind": "claude-cli", "credentials": "signed_in", "config_dir": "/c"}
WITH_KEY = {"kind": "claude-cli", "api_key": "sk-ant-1"}
WITHOUT = {"kind": "claude-cli"}
OTHER = {"kind": "anthropic"}


def says(*, signed_in: bool, detail: str = "") -> BackendRecord:
    return BackendRecord("a", "claude-cli", "", signed_in, detail)


IN, OUT, MISSING = (
    says(signed_in=True),
    says(signed_in=False, detail="sign in"),
    says(signed_in=False, detail="install"),
)


@pytest.mark.parametrize(
    ("config", "replicas", "expected"),
    [
        # Only the workers know.
        (SIGNED_IN, [IN], Condition(True, "")),
        (SIGNED_IN, [OUT, OUT], Condition(False, "sign in")),
        (SIGNED_IN, [OUT, MISSING], Condition(False, "sign in; install")),
        (SIGNED_IN, [IN, OUT, IN], Condition(True, "1 of 3 replicas: sign in")),
        (SIGNED_IN, [says(signed_in=False)], Condition(False, "its workers are not signed in")),
        (SIGNED_IN, [says(signed_in=True, detail="expires soon")], Condition(True, "expires soon")),
        (SIGNED_IN, [], Condition(False, "no live worker says whether it is signed in")),
        # A key is there, a program is not.
        (WITH_KEY, [MISSING], Condition(False, "install")),
        (WITH_KEY, [], Condition(True, "")),
        (WITHOUT, [], Condition(False, "no credential: set ANTHROPIC_API_KEY or backends.a.api_key")),
        # The settings know.
        (OTHER, [IN], Condition(False, "no credential: set ANTHROPIC_API_KEY or backends.a.api_key")),
        (OTHER | {"api_key": "sk-ant-1"}, [OUT], Condition(True, "")),
    ],
)
def test_how_a_backend_is(config: dict[str, str], replicas: list[BackendRecord], expected: Condition) -> None:
    backend = load([f"--backends.a={json.dumps(config)}"], {}).enabled_backends()["a"]
    assert condition(backend, replicas) == expected


def test_what_a_worker_says_of_a_backend() -> None:
    worker = ScriptedWorker([], records=[OUT]).record()
    assert record_of(worker, "a") == OUT
    assert record_of(worker, "b") is None
