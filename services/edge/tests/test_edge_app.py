from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from prometheus_client import REGISTRY

from patchbay.canonical import ChatEvent, Usage
from patchbay.state.registry import BackendRecord
from patchbay.testing.eventually import eventually
from patchbay.testing.worker import BLOCK, FINISHED, STARTED, ScriptedWorker, answer, text
from patchbay_proto.v1.provider_pb2 import Credential, Model

StartEdge = Callable[..., AbstractAsyncContextManager]

TWO = {
    "one": {"kind": "openai-compatible", "base_url": "http://one.test"},
    "two": {"kind": "anthropic", "base_url": "http://two.test", "api_key": "sk-ant-1"},
    "default_backend": "one",
}


def worker(*backends: str, models: tuple[str, ...] = ()) -> ScriptedWorker:
    listed = [Model(id=name, backend=backend, created=1) for backend in backends for name in models]
    return ScriptedWorker([answer("x")], backends=[(name, "") for name in backends], models=listed)


async def test_is_alive(start_edge: StartEdge) -> None:
    async with start_edge() as running:
        for method in ("GET", "HEAD"):
            for path in ("/", "/health"):
                response = await running.client.request(method, path)
                assert response.status_code == 200
                assert response.headers["request-id"] == response.headers["x-request-id"]
        assert (await running.client.get("/health")).json() == {"status": "ok"}


async def test_is_ready_once_every_backend_has_a_worker(start_edge: StartEdge) -> None:
    async with start_edge(worker("one"), backends=TWO) as running:
        response = await running.client.get("/ready")
        body = response.json()
        assert (response.status_code, body["status"]) == (503, "waiting")
        assert body["detail"] == "no live worker for: two"
        assert (body["backends"]["one"]["replicas"], body["backends"]["one"]["workers"]) == (1, ["w0"])
    async with start_edge(worker("one"), worker("one", "two"), backends=TWO) as running:
        response = await running.client.get("/ready")
        assert (response.status_code, response.json()["status"]) == (200, "ready")
        assert response.json()["backends"]["one"]["replicas"] == 2
        assert (await running.client.head("/ready")).status_code == 200


async def test_is_not_ready_while_no_replica_of_a_backend_can_answer(start_edge: StartEdge) -> None:
    def says(*, signed_in: bool, detail: str) -> list[BackendRecord]:
        return [BackendRecord("cli", "claude-cli", "", signed_in, detail)]

    missing = "the claude program is missing: pip install claude-agent-sdk"
    one, two = (ScriptedWorker([answer("x")], records=says(signed_in=False, detail=missing)) for _ in range(2))
    backends = {"cli": {"kind": "claude-cli", "api_key": "sk-ant-1"}, "default_backend": "cli"}
    async with start_edge(one, two, backends=backends) as running:
        response = await running.client.get("/ready")
        body = response.json()
        assert (response.status_code, body["status"], body["detail"]) == (503, "unable", f"cli: {missing}")
        described = body["backends"]["cli"]
        assert (described["replicas"], described["signed_in"], described["detail"]) == (2, False, missing)
        one.records = says(signed_in=True, detail="")
        await running.announce(one)
        response = await running.client.get("/ready")
        body = response.json()
        assert (response.status_code, body["status"]) == (200, "ready")
        assert "detail" not in body
        described = body["backends"]["cli"]
        assert (described["signed_in"], described["detail"]) == (True, f"1 of 2 replicas: {missing}")


async def test_one_backend_that_cannot_answer_takes_no_edge_from_the_others(start_edge: StartEdge) -> None:
    detail = "not signed in: POST /auth/login"
    records = [BackendRecord("cli", "claude-cli", "", signed_in=False, detail=detail)]
    backends = {
        "cli": {"kind": "claude-cli", "credentials": "signed_in", "config_dir": "/c"},
        "one": {"kind": "openai-compatible", "base_url": "http://127.0.0.1:1"},
        "default_backend": "one",
    }
    async with start_edge(ScriptedWorker([answer("x")], records=records), worker("one"), backends=backends) as running:
        response = await running.client.get("/ready")
        body = response.json()
        assert (response.status_code, body["status"], body["detail"]) == (200, "ready", f"cli: {detail}")
        assert body["backends"]["cli"]["signed_in"] is False


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "anthropic"),
    [
        ("GET", "/nothing", {}, 404, False),
        ("POST", "/nothing", {}, 404, False),
        ("GET", "/nothing", {"anthropic-version": "2023-06-01"}, 404, True),
        ("POST", "/v1/messages/batches", {}, 404, True),
        ("POST", "/other/v1/messages", {}, 404, True),
        ("POST", "/v1/messages/", {}, 404, True),
        ("GET", "/v1/messages", {}, 405, True),
        ("DELETE", "/v1/messages/count_tokens", {}, 405, True),
        ("PUT", "/api/v1/messages", {}, 405, True),
        ("OPTIONS", "/v1/chat/completions", {}, 405, False),
        ("GET", "/v1/chat/completions", {}, 405, False),
        ("POST", "/health", {}, 405, False),
        ("POST", "/v1/models", {}, 405, False),
        ("GET", "/v1/models/there-is-none", {}, 404, False),
        ("GET", "/v1/models/there-is-none", {"anthropic-version": "2023-06-01"}, 404, True),
        ("GET", "/%0d%0aset-cookie:%20a", {}, 404, False),
    ],
)
async def test_what_nothing_serves_is_said_in_the_clients_dialect(
    start_edge: StartEdge, method: str, path: str, headers: dict[str, str], status: int, anthropic: bool
) -> None:
    async with start_edge(worker("a")) as running:
        response = await running.client.request(method, path, headers=headers)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/json"
        body = response.json()
        if anthropic:
            assert body["type"] == "error"
            assert body["request_id"] == response.headers["request-id"]
        else:
            assert body.keys() == {"error"}
        if status == 405:
            assert response.headers["allow"]
        assert "set-cookie" not in response.headers


async def test_a_get_without_a_body_says_so_for_head_too(start_edge: StartEdge) -> None:
    async with start_edge() as running:
        response = await running.client.head("/v1/messages")
        assert (response.status_code, response.content) == (405, b"")


# -- models -----------------------------------------------------------------------------------------------------------


async def test_lists_models_in_the_clients_shape(start_edge: StartEdge) -> None:
    both = worker("one", "two", models=("m-1",))
    routes = [
        {"match": "m-1", "backend": "one"},
        {"match": ["alias"], "backend": "two", "model": "m-1"},
        {"match": "sdk-only", "prefix": "/sdk", "backend": "one"},
    ]
    async with start_edge(both, backends=TWO, routes=routes) as running:
        listed = (await running.client.get("/v1/models")).json()
        assert listed["object"] == "list"
        assert [model["id"] for model in listed["data"]] == ["m-1", "alias", "two/m-1"]
        assert listed["data"][2] == {"id": "two/m-1", "object": "model", "created": 1, "owned_by": "two"}
        under_sdk = (await running.client.get("/sdk/v1/models")).json()
        assert [model["id"] for model in under_sdk["data"]] == ["sdk-only", "one/m-1"]
        headers = {"anthropic-version": "2023-06-01"}
        listed = (await running.client.get("/api/v1/models", headers=headers)).json()
        assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, "m-1", "two/m-1")
        assert listed["data"][2] == {
            "type": "model",
            "id": "two/m-1",
            "display_name": "two/m-1",
            "created_at": "1970-01-01T00:00:01Z",
        }
        one = (await running.client.get("/v1/models/two/m-1")).json()
        assert one["id"] == "two/m-1"
        # Each backend was asked once for all of these.
        assert len(both.list_requests) == 2


async def test_lists_models_under_sdk_and_without_the_version(start_edge: StartEdge) -> None:
    backends = {**TWO, "model": {"kind": "claude-cli"}, "agent": {"kind": "claude-cli", "mode": "agent", "cwd": "/"}}
    all_of_them = worker("one", "two", "model", "agent", models=("m",))
    async with start_edge(all_of_them, backends=backends) as running:
        for path in ("/sdk/v1/models", "/sdk/models"):
            listed = (await running.client.get(path)).json()
            assert [model["id"] for model in listed["data"]] == ["model/m", "m"]
            assert [model["owned_by"] for model in listed["data"]] == ["model", "agent"]
        headers = {"anthropic-version": "2023-06-01"}
        assert (await running.client.get("/sdk/models", headers=headers)).json()["first_id"] == "model/m"
        whole = (await running.client.get("/api/v1/models")).json()
        assert (await running.client.get("/api/models")).json() == whole
        assert len(whole["data"]) == 4
        assert (await running.client.get("/models")).status_code == 404


async def test_without_a_claude_cli_backend_sdk_has_no_models(start_edge: StartEdge) -> None:
    async with start_edge(worker("one"), backends=TWO) as running:
        response = await running.client.get("/sdk/models")
        assert response.status_code == 404
        assert "kind: claude-cli" in response.json()["error"]["message"]


async def test_a_key_is_wanted_for_the_list_as_well(start_edge: StartEdge) -> None:
    keys = {"require_api_key": True, "api_keys": ["pb-secret"]}
    async with start_edge(worker("a", models=("m",)), security=keys) as running:
        assert (await running.client.get("/v1/models")).status_code == 401
        assert (await running.client.get("/v1/models", headers={"x-api-key": "pb-secret"})).status_code == 200


@pytest.mark.parametrize(("second_url", "meant"), [("http://one.test", True), ("http://two.test", False)])
async def test_a_credential_is_shown_for_a_list_only_where_one_provider_can_be_meant(
    start_edge: StartEdge, second_url: str, meant: bool
) -> None:
    both = worker("one", "two", "three")
    backends = {
        "one": {"kind": "openai-compatible", "base_url": "http://one.test", "credentials": "pass_through"},
        "two": {"kind": "openai-compatible", "base_url": second_url, "credentials": "pass_through"},
        "three": {"kind": "openai-compatible", "base_url": "http://three.test"},
        "default_backend": "one",
    }
    async with start_edge(both, backends=backends) as running:
        await running.client.get("/v1/models", headers={"authorization": "Bearer sk-mine"})
        shown = {request.backend: request.credential for request in both.list_requests}
        sent = Credential(scheme=Credential.SCHEME_BEARER, secret="sk-mine") if meant else Credential()
        assert shown == {"one": sent, "two": sent, "three": Credential()}


# -- metrics ----------------------------------------------------------------------------------------------------------


async def test_names_from_clients_do_not_grow_the_metrics(start_edge: StartEdge) -> None:
    used = ChatEvent(usage=Usage(input_tokens=1))
    script = ScriptedWorker([[[STARTED, BLOCK, text("x"), used, FINISHED]]])
    async with start_edge(script) as running:
        before = _series()
        for _ in range(260):
            await running.client.post("/v1/chat/completions", json={"model": uuid.uuid4().hex, "messages": []})
        # Names of models; the rest comes from the configuration.
        assert _series() - before <= 2 * 201 + 40
        other = {"backend": "a", "model": "other", "kind": "input"}
        assert REGISTRY.get_sample_value("patchbay_edge_tokens_total", other) >= 60
        for path in ("/x" + uuid.uuid4().hex, "/v1/models/" + uuid.uuid4().hex):
            seen = _series()
            await running.client.get(path)
            assert _series() - seen == 0


def _series() -> int:
    return sum(len(metric.samples) for metric in REGISTRY.collect())


async def test_metrics_say_what_is_refused_and_whether_redis_is_there(start_edge: StartEdge) -> None:
    def refused(limit: str) -> float:
        return REGISTRY.get_sample_value("patchbay_edge_denied_total", {"limit": limit}) or 0.0

    before = refused("key")
    async with start_edge(worker("a"), limits={"requests_per_minute": 1}) as running:
        for _ in range(3):
            await running.client.post("/v1/chat/completions", json={"model": "m", "messages": []})
        assert refused("key") == before + 2
        await eventually(lambda: REGISTRY.get_sample_value("patchbay_redis_down") == 0)
        assert REGISTRY.get_sample_value("patchbay_edge_in_flight") == 0
