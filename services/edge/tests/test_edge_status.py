from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import grpc
import pytest

from patchbay.state.registry import BackendRecord, PoolRecord
from patchbay.testing.worker import ScriptedWorker, answer
from patchbay_edge import status
from patchbay_proto.v1.provider_pb2 import BackendStatus, PoolStatus

StartEdge = Callable[..., AbstractAsyncContextManager]

BACKENDS = {
    "api": {"kind": "openai-compatible", "base_url": "http://api.test"},
    "cli": {"kind": "claude-cli", "mode": "agent", "cwd": "/", "credentials": "signed_in", "config_dir": "/c"},
    "default_backend": "api",
}
POOL = PoolStatus(
    spare=2, busy=1, idle=3, starting=1, max=8, waiting=0, rss_bytes=10**9, spawned=9, retired=1, crashed=1,
    spawn_seconds=1.5, wait_seconds=0.25,
)  # fmt: skip
OUT = "not signed in: POST /auth/login"


def cli(*, signed_in: bool = True, spare: int = 4) -> ScriptedWorker:
    """A worker of both; what it says when asked is newer than its heartbeat."""
    detail = "" if signed_in else OUT
    heartbeat = PoolRecord(spare=spare, busy=0, max=8)
    return ScriptedWorker(
        [answer("x")],
        records=[
            BackendRecord("api", "openai-compatible", "", signed_in=True),
            BackendRecord("cli", "claude-cli", "", signed_in, detail, mode="agent", pool=heartbeat),
        ],
        statuses=[
            BackendStatus(name="api", kind="openai-compatible", signed_in=True),
            BackendStatus(name="cli", kind="claude-cli", signed_in=signed_in, detail=detail, mode="agent", pool=POOL),
        ],
    )


async def test_asks_each_worker_how_it_is(start_edge: StartEdge) -> None:
    async with start_edge(cli(), backends=BACKENDS) as running:
        described = {"id": "w0", "version": "0", "capacity": 100, "in_flight": 0, "draining": False}
        response = await running.client.get("/sdk/status")
        assert response.json() == {
            "status": "ok",
            "backends": {
                "cli": {
                    "kind": "claude-cli",
                    "mode": "agent",
                    "credentials": "signed_in",
                    "signed_in": True,
                    "detail": "",
                    "replicas": 1,
                    "workers": [
                        described
                        | {
                            "pool": {
                                "spare": 2, "busy": 1, "idle": 3, "starting": 1, "max": 8, "waiting": 0,
                                "rss_bytes": 10**9, "spawned": 9, "retired": 1, "crashed": 1,
                                "spawn_seconds": 1.5, "wait_seconds": 0.25,
                            }
                        }
                    ],
                }
            },
        }  # fmt: skip
        assert (await running.client.get("/api/status")).json() == {
            "status": "ok",
            "backends": {
                "api": {
                    "kind": "openai-compatible",
                    "mode": "",
                    "credentials": "api_key",
                    "signed_in": True,
                    "detail": "",
                    "replicas": 1,
                    "workers": [described | {"pool": None}],
                }
            },
        }


@pytest.mark.parametrize("how", ["refuses", "hangs", "another answers", "away"])
async def test_the_last_heartbeat_speaks_for_a_worker_that_does_not(
    start_edge: StartEdge, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "_TIMEOUT_SECONDS", 0.3)
    silent, other = cli(spare=5), cli()
    async with start_edge(silent, other, backends=BACKENDS) as running:
        if how == "refuses":
            silent.statuses = grpc.StatusCode.UNIMPLEMENTED
        elif how == "hangs":
            silent.statuses = asyncio.Event()
        elif how == "another answers":
            silent.id = "w7"
        else:
            await running.stop_worker(silent)
        body = (await running.client.get("/sdk/status")).json()
        assert body["status"] == "degraded"
        backend = body["backends"]["cli"]
        assert (backend["signed_in"], backend["replicas"]) == (True, 2)
        first, second = backend["workers"]
        pool = dict.fromkeys(status._POOL_FIELDS) | {"spare": 5, "busy": 0, "max": 8, "waiting": 0}
        assert (first["id"], first["pool"]) == ("w0", pool)
        assert (second["id"], second["pool"]["rss_bytes"]) == ("w1", 10**9)


async def test_says_which_of_several_cannot_answer(start_edge: StartEdge) -> None:
    out, able = cli(signed_in=False), cli()
    async with start_edge(out, able, backends=BACKENDS) as running:
        body = (await running.client.get("/sdk/status")).json()
        backend = body["backends"]["cli"]
        assert (body["status"], backend["signed_in"]) == ("degraded", True)
        assert backend["detail"] == f"1 of 2 replicas: {OUT}"
        # One that drains takes no chats.
        able.draining = True
        await running.announce(able)
        body = (await running.client.get("/sdk/status")).json()
        backend = body["backends"]["cli"]
        assert (body["status"], backend["signed_in"], backend["detail"]) == ("unavailable", False, OUT)
        assert (backend["replicas"], [worker["draining"] for worker in backend["workers"]]) == (1, [False, True])
        assert (await running.client.get("/api/status")).json()["status"] == "ok"


async def test_without_a_worker_or_a_backend_nothing_is_available(start_edge: StartEdge) -> None:
    async with start_edge(backends=BACKENDS) as running:
        for path, name in (("/sdk/status", "cli"), ("/api/status", "api")):
            body = (await running.client.get(path)).json()
            assert body["status"] == "unavailable"
            assert (body["backends"][name]["replicas"], body["backends"][name]["workers"]) == (0, [])
    async with start_edge() as running:
        assert (await running.client.get("/sdk/status")).json() == {"status": "unavailable", "backends": {}}


async def test_a_key_is_wanted(start_edge: StartEdge) -> None:
    keys = {"require_api_key": True, "api_keys": ["pb-secret"]}
    async with start_edge(cli(), backends=BACKENDS, security=keys) as running:
        for path in ("/sdk/status", "/api/status"):
            assert (await running.client.get(path)).status_code == 401
            assert (await running.client.get(path, headers={"x-api-key": "pb-secret"})).status_code == 200
