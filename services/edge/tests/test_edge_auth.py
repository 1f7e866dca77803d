from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import grpc
import pytest
from structlog.testing import capture_logs

from patchbay.errors import AUTHENTICATION, INVALID_REQUEST, NOT_FOUND, UPSTREAM, make_error
from patchbay.state.registry import BackendRecord
from patchbay.testing.worker import ScriptedWorker, answer
from patchbay_proto.v1.provider_pb2 import (
    AccountStatus,
    BackendStatus,
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    QuotaWindow,
)

StartEdge = Callable[..., AbstractAsyncContextManager]

BACKENDS = {
    "claude": {"kind": "claude-cli", "credentials": "signed_in", "config_dir": "/c"},
    "api": {"kind": "anthropic", "api_key": "sk-ant-1"},
    "default_backend": "claude",
}
OUT = "not signed in: POST /auth/login"
PAGE = LoginResponse(login_id="l1", url="https://claude.test/page", detail="visit the page")
IN = LoginResponse(signed_in=True, detail="signed in as me")
CODE = "the-code-that-nobody-may-log"
KEYS = {"api_keys": [{"id": "boss", "key": "boss-key", "operator": True}, {"id": "dev", "key": "dev-key"}]}


def worker(*logins: LoginResponse | grpc.StatusCode, signed_in: bool = False) -> ScriptedWorker:
    record = BackendRecord("claude", "claude-cli", "", signed_in, "" if signed_in else OUT)
    api = BackendRecord("api", "anthropic", "anthropic", signed_in=True)
    return ScriptedWorker([answer("x")], records=[record, api], logins=list(logins))


async def test_signs_in_in_two_steps_through_any_edge(start_edge: StartEdge) -> None:
    workers = [worker(PAGE, IN) for _ in range(3)]
    async with start_edge(*workers, backends=BACKENDS) as running, running.another() as elsewhere:
        with capture_logs() as lines:
            begun = await running.client.post("/auth/login", json={"backend": "claude"})
            (asked,) = [one for one in workers if one.login_requests]
            assert (begun.status_code, begun.json()) == (
                200,
                {
                    "backend": "claude",
                    "login_id": f"{asked.id}.l1",
                    "url": "https://claude.test/page",
                    "detail": "visit the page",
                    "signed_in": False,
                },
            )
            body = {"backend": "claude", "login_id": begun.json()["login_id"], "code": f" {CODE}\n"}
            ended = await elsewhere.post("/auth/login", json=body)
        assert (ended.status_code, ended.json()) == (
            200,
            {"backend": "claude", "login_id": "", "url": "", "detail": "signed in as me", "signed_in": True},
        )
        assert asked.login_requests == [
            LoginRequest(backend="claude"),
            LoginRequest(backend="claude", login_id="l1", code=CODE),
        ]
        assert sum(len(one.login_requests) for one in workers) == 2
        assert [line["step"] for line in lines if line["event"] == "login"] == ["begin", "end"]
        assert CODE not in json.dumps(lines, default=repr)


async def test_the_replicas_without_a_sign_in_come_first(start_edge: StartEdge) -> None:
    done, without = worker(signed_in=True), worker(*[PAGE] * 10)
    async with start_edge(done, without, backends=BACKENDS) as running:
        for _ in range(10):
            assert (await running.client.post("/auth/login", json={"backend": "claude"})).status_code == 200
        assert not done.login_requests


@pytest.mark.parametrize("gone", ["from the registry", "unreachable", "draining"])
async def test_a_login_whose_worker_is_gone_begins_again(start_edge: StartEdge, gone: str) -> None:
    # What a worker that drains says.
    asked, other = worker(PAGE, grpc.StatusCode.UNAVAILABLE), worker(PAGE, signed_in=True)
    async with start_edge(asked, other, backends=BACKENDS) as running:
        login_id = (await running.client.post("/auth/login", json={"backend": "claude"})).json()["login_id"]
        if gone == "from the registry":
            login_id = login_id.replace(asked.id, "w9")
        elif gone == "unreachable":
            await running.stop_worker(asked)
        body = {"backend": "claude", "login_id": login_id, "code": CODE}
        with capture_logs() as lines:
            response = await running.client.post("/auth/login", json=body)
        assert response.status_code == 410
        error = response.json()["error"]
        assert "is gone or stopping" in error["message"]
        assert 'begin again, with {"backend": "claude"}' in error["message"]
        assert CODE not in response.text + json.dumps(lines, default=repr)
        assert not other.login_requests


@pytest.mark.parametrize(
    ("response", "status", "message"),
    [
        (LoginResponse(error=make_error(AUTHENTICATION, "the code is wrong")), 401, "the code is wrong"),
        (LoginResponse(error=make_error(UPSTREAM, "no page came")), 502, "no page came"),
        (grpc.StatusCode.UNIMPLEMENTED, 400, "there is nothing to sign in to"),
        (grpc.StatusCode.UNAVAILABLE, 503, "the worker serving this request went away"),
    ],
)
async def test_what_the_worker_refuses_is_said(
    start_edge: StartEdge, response: LoginResponse | grpc.StatusCode, status: int, message: str
) -> None:
    async with start_edge(worker(response), backends=BACKENDS) as running:
        answered = await running.client.post("/auth/login", json={"backend": "claude"})
        assert (answered.status_code, answered.json()["error"]["message"]) == (status, message)


LOGIN, LOGOUT = "/auth/login", "/auth/logout"


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        (LOGIN, "{", 400, None),
        (LOGIN, "[]", 400, None),
        (LOGIN, b"\xff", 400, None),
        (LOGIN, {}, 400, "backend"),
        (LOGIN, {"backend": ""}, 400, "backend"),
        (LOGIN, {"backend": 7}, 400, "backend"),
        (LOGIN, {"backend": "claude", "cod": CODE}, 400, "cod"),
        (LOGIN, {"backend": "claude", "login_id": "w0.l1", "code": 7}, 400, "code"),
        (LOGIN, {"backend": "claude", "login_id": "w0.l1"}, 400, "code"),
        (LOGIN, {"backend": "claude", "login_id": "w0.l1", "code": " "}, 400, "code"),
        (LOGIN, {"backend": "claude", "code": CODE}, 400, "login_id"),
        (LOGIN, {"backend": "claude", "login_id": "l1", "code": CODE}, 400, "login_id"),
        (LOGIN, {"backend": "claude", "login_id": ".l1", "code": CODE}, 400, "login_id"),
        (LOGIN, {"backend": "nobody"}, 404, "backend"),
        (LOGIN, {"backend": "x" * 70_000}, 413, None),
        (LOGOUT, {}, 400, "backend"),
        (LOGOUT, {"backend": "claude", "code": CODE}, 400, "code"),
        (LOGOUT, {"backend": "nobody"}, 404, "backend"),
    ],
)
async def test_a_bad_body_is_said_with_its_field(
    start_edge: StartEdge, path: str, body: object, status: int, field: str | None
) -> None:
    only = worker()
    async with start_edge(only, backends=BACKENDS) as running:
        content = body if isinstance(body, str | bytes) else json.dumps(body)
        with capture_logs() as lines:
            response = await running.client.post(path, content=content, headers={"content-type": "application/json"})
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert error["param"] == field
        assert field is None or field in error["message"]
        assert CODE not in response.text + json.dumps(lines, default=repr)
        assert not only.login_requests
        assert not only.logout_requests


async def test_without_a_worker_nothing_can_be_asked(start_edge: StartEdge) -> None:
    async with start_edge(backends=BACKENDS) as running:
        for path in (LOGIN, LOGOUT):
            response = await running.client.post(path, json={"backend": "claude"})
            assert (response.status_code, response.headers["retry-after"]) == (503, "2")
            assert response.json()["error"]["message"] == "no live worker serves the backend `claude`"


# -- where a provider sends the browser back to -----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/oauth/callback", "/auth/callback"])
async def test_a_browser_that_comes_back_ends_the_login_where_it_began(start_edge: StartEdge, path: str) -> None:
    workers = [worker(IN), worker(IN)]
    async with start_edge(*workers, backends=BACKENDS, security=KEYS) as running:
        with capture_logs() as lines:
            response = await running.client.get(path, params={"code": CODE, "state": "claude.w1.l-_1"})
    assert (response.status_code, response.text) == (200, "signed in as me. You may close this page.\n")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-type"].startswith("text/plain")
    assert workers[1].login_requests == [
        LoginRequest(backend="claude", login_id="l-_1", code=f"code={CODE}&state=claude.w1.l-_1")
    ]
    assert not workers[0].login_requests
    assert CODE not in json.dumps(lines, default=repr)


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({}, 400, "state: is not that of a login which was begun here"),
        ({"state": "x", "code": CODE}, 400, "state: is not that of a login which was begun here"),
        ({"state": "nobody.w0.l1", "code": CODE}, 400, "state: is not that of a login which was begun here"),
        ({"state": "claude.w0.l1", "error": "access_denied"}, 401, "the provider has refused the login: access_denied"),
        ({"state": "claude.w9.l1", "code": CODE}, 410, "is gone or stopping"),
        ({"state": "claude.w0.l1", "code": CODE}, 401, "the code is wrong"),
    ],
)
async def test_a_browser_that_comes_back_with_something_else_is_told(
    start_edge: StartEdge, query: dict[str, str], status: int, message: str
) -> None:
    only = worker(LoginResponse(error=make_error(AUTHENTICATION, "the code is wrong")))
    async with start_edge(only, backends=BACKENDS) as running:
        response = await running.client.get("/oauth/callback", params=query)
    assert response.status_code == status
    assert message in response.json()["error"]["message"]
    assert CODE not in response.text


# -- signing out ------------------------------------------------------------------------------------------------------


async def test_signs_out_everywhere(start_edge: StartEdge) -> None:
    workers = [worker(signed_in=True), worker(signed_in=True)]
    for one in workers:
        one.logout = LogoutResponse(signed_in=False, detail="signed out")
    async with start_edge(*workers, backends=BACKENDS) as running:
        response = await running.client.post("/auth/logout", json={"backend": "claude"})
        described = {"signed_in": False, "detail": "signed out"}
        assert (response.status_code, response.json()) == (
            200,
            {"backend": "claude", **described, "workers": [{"id": "w0"} | described, {"id": "w1"} | described]},
        )
    assert all(one.logout_requests == [LogoutRequest(backend="claude")] for one in workers)


async def test_begins_with_a_code_to_type_and_asks_until_it_was_typed(start_edge: StartEdge) -> None:
    waits = LoginResponse(login_id="l1", url="https://chatgpt.test/device", user_code="ABCD-1234", detail="type it")
    only = worker(waits, waits, IN)
    async with start_edge(only, backends=BACKENDS) as running:
        body: dict[str, object] = {"backend": "claude", "device": True, "account": "team-b"}
        for _ in range(2):
            told = (await running.client.post("/auth/login", json=body)).json()
            assert (told["user_code"], told["url"], told["signed_in"]) == ("ABCD-1234", waits.url, False)
            body = {"backend": "claude", "device": True, "login_id": told["login_id"]}
        ended = (await running.client.post("/auth/login", json=body)).json()
        assert (ended["login_id"], ended["signed_in"], "user_code" in ended) == ("", True, False)
    begun, *asked = only.login_requests
    assert begun == LoginRequest(backend="claude", device=True, account="team-b")
    assert [request.login_id for request in asked] == ["l1", "l1"]


async def test_takes_a_sign_in_from_elsewhere_and_says_nothing_of_it(start_edge: StartEdge) -> None:
    only = worker(IN, LoginResponse(error=make_error(INVALID_REQUEST, "sign_in: is none", parameter="sign_in")))
    auth_json = {"tokens": {"access_token": CODE}}
    async with start_edge(only, backends=BACKENDS, security=KEYS) as running:
        boss = {"x-api-key": "boss-key"}
        body = {"backend": "claude", "sign_in": auth_json, "account": "a"}
        with capture_logs() as lines:
            taken = await running.client.post("/auth/import", json=body, headers=boss)
            refused = await running.client.post("/auth/import", json=body, headers=boss)
        assert (taken.status_code, taken.json()["signed_in"]) == (200, True)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "sign_in")
        missing = await running.client.post("/auth/import", json={"backend": "claude"}, headers=boss)
        assert missing.status_code == 400
        other = await running.client.post("/auth/import", json=body, headers={"x-api-key": "dev-key"})
        assert other.status_code == 403
    assert json.loads(only.login_requests[0].sign_in) == auth_json
    assert only.login_requests[0].account == "a"
    assert CODE not in json.dumps(lines, default=repr)


async def test_signs_one_account_out(start_edge: StartEdge) -> None:
    first, second = worker(signed_in=True), worker(signed_in=True)
    first.logout = LogoutResponse(signed_in=True, detail="signed out: team-b")
    second.logout = LogoutResponse(error=make_error(NOT_FOUND, "there is no account `team-b` here"))
    async with start_edge(first, second, backends=BACKENDS) as running:
        body = {"backend": "claude", "account": "team-b"}
        out = await running.client.post("/auth/logout", json=body)
        assert (out.status_code, out.json()["detail"]) == (200, "signed out: team-b")
        first.logout = second.logout
        assert (await running.client.post("/auth/logout", json=body)).status_code == 404
    assert first.logout_requests[0] == LogoutRequest(backend="claude", account="team-b")


@pytest.mark.parametrize(
    ("logout", "status", "message"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, 400, "there is nothing to sign out of"),
        (LogoutResponse(error=make_error(UPSTREAM, "the program failed")), 502, "the program failed"),
    ],
)
async def test_a_worker_that_cannot_sign_out_keeps_no_other_from_it(
    start_edge: StartEdge, logout: LogoutResponse | grpc.StatusCode, status: int, message: str
) -> None:
    failing, other = worker(), worker()
    failing.logout = logout
    async with start_edge(failing, other, backends=BACKENDS) as running:
        response = await running.client.post("/auth/logout", json={"backend": "claude"})
        assert (response.status_code, response.json()["error"]["message"]) == (status, message)
    assert other.logout_requests


# -- status and rights ------------------------------------------------------------------------------------------------


async def test_says_who_is_signed_in(start_edge: StartEdge) -> None:
    async with start_edge(worker(), worker(signed_in=True), backends=BACKENDS) as running:
        assert (await running.client.get("/auth/status")).json() == {
            "backends": {
                "claude": {
                    "kind": "claude-cli",
                    "credentials": "signed_in",
                    "signed_in": True,
                    "detail": f"1 of 2 replicas: {OUT}",
                    "workers": [
                        {"id": "w0", "signed_in": False, "detail": OUT},
                        {"id": "w1", "signed_in": True, "detail": ""},
                    ],
                },
                "api": {
                    "kind": "anthropic",
                    "credentials": "api_key",
                    "signed_in": True,
                    "detail": "",
                    "workers": [
                        {"id": "w0", "signed_in": True, "detail": ""},
                        {"id": "w1", "signed_in": True, "detail": ""},
                    ],
                },
            }
        }


async def test_says_which_accounts_there_are(start_edge: StartEdge) -> None:
    window = QuotaWindow(name="primary", used_percent=12.5, minutes=300, resets_at=2_000)
    mine = AccountStatus(name="me@x.test", plan="plus", signed_in=True, windows=[window], cooling_until=1_000)
    other = AccountStatus(name="/home/me/auth.json", detail="it has ended")
    workers = [worker(signed_in=True), worker(signed_in=True), worker(signed_in=True)]
    workers[0].statuses = [BackendStatus(name="claude", signed_in=True, accounts=[mine])]
    workers[1].statuses = [BackendStatus(name="claude", signed_in=True, accounts=[mine, other])]
    workers[2].statuses = grpc.StatusCode.UNAVAILABLE
    async with start_edge(*workers, backends=BACKENDS) as running:
        backends = (await running.client.get("/auth/status")).json()["backends"]
    assert "accounts" not in backends["api"]
    assert backends["claude"]["accounts"] == [
        {
            "name": "me@x.test",
            "plan": "plus",
            "signed_in": True,
            "detail": "",
            "windows": [{"name": "primary", "used_percent": 12.5, "minutes": 300, "resets_at": 2000}],
            "cooling_until": 1000,
        },
        {
            "name": "/home/me/auth.json",
            "plan": "",
            "signed_in": False,
            "detail": "it has ended",
            "windows": [],
            "cooling_until": 0,
        },
    ]


async def test_is_for_operators(start_edge: StartEdge) -> None:
    only = worker(PAGE)
    async with start_edge(only, backends=BACKENDS, security=KEYS) as running:
        for headers in ({"x-api-key": "dev-key"}, {}):
            for method, path in (("GET", "/auth/status"), ("POST", LOGIN), ("POST", LOGOUT)):
                response = await running.client.request(method, path, json={"backend": "claude"}, headers=headers)
                assert response.status_code == 403
        assert not only.login_requests
        boss = {"x-api-key": "boss-key"}
        assert (await running.client.get("/auth/status", headers=boss)).status_code == 200
        assert (await running.client.post(LOGIN, json={"backend": "claude"}, headers=boss)).status_code == 200
        for path in (LOGIN, LOGOUT):
            plain = {**boss, "content-type": "text/plain"}
            response = await running.client.post(path, content='{"backend": "claude"}', headers=plain)
            assert response.status_code == 403
            assert (await running.client.get(path, headers=boss)).status_code == 405
