"""Signing in from Codebuff's CLI: what the CLI asks, and the page in the browser, without one."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest

from patchbay.state.codebuff_logins import MOST_PER_MINUTE, MOST_TRIES

StartEdge = Callable[..., AbstractAsyncContextManager[Any]]

KEY = "pb-höchst-secret"
KEYS = {"require_api_key": True, "api_keys": [{"key": KEY, "id": "k1", "user": "me@example.test"}]}
FINGERPRINT = "codebuff-cli-x_Y+/9="


async def begin(client: httpx.AsyncClient, fingerprint: str = FINGERPRINT, **headers: str) -> dict[str, Any]:
    # The CLI says it is text.
    head = {"content-type": "text/plain;charset=UTF-8", **headers}
    body = f'{{"fingerprintId": "{fingerprint}", "referralCode": null}}'
    answered = await client.post("/api/auth/cli/code", content=body, headers=head)
    assert answered.status_code == 200, answered.text
    assert answered.headers["cache-control"] == "no-store"
    said: dict[str, Any] = answered.json()
    assert said.keys() == {"fingerprintId", "fingerprintHash", "loginUrl", "expiresAt"}
    return said


async def status(client: httpx.AsyncClient, begun: dict[str, Any], **changed: str) -> httpx.Response:
    asked = {name: begun[name] for name in ("fingerprintId", "fingerprintHash", "expiresAt")}
    return await client.get("/api/auth/cli/status", params={**asked, **changed})


async def test_a_key_signs_in_once_across_edges(start_edge: StartEdge, capsys: pytest.CaptureFixture[str]) -> None:
    async with start_edge(security=KEYS) as edge, edge.another() as other:
        begun = await begin(edge.client)
        url = begun["loginUrl"]
        assert url.startswith(f"http://127.0.0.1:{edge.port}/codebuff/login/")
        # Who sees the address cannot ask for what comes of it.
        assert begun["fingerprintHash"] not in url
        assert (await status(edge.client, begun)).status_code == 401
        page = await other.get(httpx.URL(url).path)
        assert page.status_code == 200
        assert f"<code>{FINGERPRINT}</code>" in page.text
        assert f"<code>{url[-9:]}</code>" in page.text
        assert 'type="password"' in page.text
        assert "without_key" not in page.text
        assert "<script" not in page.text
        _is_locked_down(page)
        origin = f"http://{other.base_url.host}:{other.base_url.port}"
        done = await other.post(httpx.URL(url).path, data={"key": f" {KEY} "}, headers={"origin": origin})
        assert (done.status_code, "go back to your terminal" in done.text) == (200, True)
        _is_locked_down(done)
        again = await edge.client.post(httpx.URL(url).path, data={"key": KEY})
        assert again.status_code == 409
        names = [name.decode() for name in await edge.edge.redis.execute_command("KEYS", "*")]
        token_name = next(name for name in names if "login-token" in name)
        assert KEY.encode() not in await edge.edge.redis.execute_command("GET", token_name)
        assert 0 < await edge.edge.redis.execute_command("PTTL", token_name) <= 300_000
        for wrong in ({"fingerprintHash": "0" * 64}, {"fingerprintId": "another"}):
            assert (await status(edge.client, begun, **wrong)).status_code == 401
        signed_in = await status(edge.client, begun)
        assert signed_in.headers["cache-control"] == "no-store"
        assert signed_in.json()["user"] == {
            "id": "k1",
            "email": "me@example.test",
            "name": "me@example.test",
            "authToken": KEY,
            "fingerprintId": FINGERPRINT,
            "fingerprintHash": begun["fingerprintHash"],
        }
        assert (await status(edge.client, begun)).status_code == 401
        assert (await edge.client.get(httpx.URL(url).path)).status_code == 404
        left = [name.decode() for name in await edge.edge.redis.execute_command("KEYS", "pb:codebuff-login*")]
        assert not [name for name in left if re.match("pb:codebuff-login(-token)?:", name)]
    said = capsys.readouterr()
    assert "codebuff_login" in said.out + said.err
    assert KEY not in said.out + said.err
    assert begun["fingerprintHash"] not in said.out + said.err


def _is_locked_down(page: httpx.Response) -> None:
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "form-action 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize("fingerprint", ["<b>&", "Your administrator asks you to go on.", "x" * 101])
async def test_whoever_sends_the_address_has_no_word_on_the_page(start_edge: StartEdge, fingerprint: str) -> None:
    async with start_edge(security=KEYS) as edge:
        begun = await begin(edge.client, fingerprint)
        page = (await edge.client.get(httpx.URL(begun["loginUrl"]).path)).text
        assert fingerprint not in page
        assert html.escape(fingerprint) not in page
        assert "A client began this at" in page


async def test_what_does_not_sign_in(start_edge: StartEdge) -> None:
    async with start_edge(security=KEYS) as edge:
        begun = await begin(edge.client)
        path = httpx.URL(begun["loginUrl"]).path
        for origin in ("http://evil.test", "null", f"http://localhost:{edge.port}"):
            foreign = await edge.client.post(path, data={"key": KEY}, headers={"origin": origin})
            assert foreign.status_code == 403
        assert (await edge.client.post(path, data={"key": "x" * 9000})).status_code == 400
        assert (await edge.client.post(path, content="a=1&" * 20)).status_code == 400
        for nowhere in ("/codebuff/login/x", path[:-1] + ("0" if path[-1] != "0" else "1")):
            assert (await edge.client.get(nowhere)).status_code == 404
            assert (await edge.client.post(nowhere, data={"key": KEY})).status_code == 404
        tries: list[dict[str, str]] = [{"without_key": "1"}, {"key": "wrong"}, {"key": "é€"}, {"key": ""}, {"key": "a"}]
        assert len(tries) == MOST_TRIES
        for data in tries:
            refused = await edge.client.post(path, data=data)
            assert (refused.status_code, "no key of this Patchbay" in refused.text) == (403, True)
            assert "wrong" not in refused.text
        assert (await edge.client.post(path, data={"key": KEY})).status_code == 429
        assert (await status(edge.client, begun)).status_code == 401
        for body in ("", "{}", '{"fingerprintId": ""}', '{"fingerprintId": 7}', f'{{"fingerprintId": "{"x" * 501}"}}'):
            assert (await edge.client.post("/api/auth/cli/code", content=body)).status_code == 400


async def test_logging_out_ends_what_is_under_way(start_edge: StartEdge) -> None:
    async with start_edge(security=KEYS) as edge:
        begun = await begin(edge.client)
        path = httpx.URL(begun["loginUrl"]).path
        assert (await edge.client.post(path, data={"key": KEY})).status_code == 200
        ids = {name: begun[name] for name in ("fingerprintId", "fingerprintHash")}
        # Another client's logout does nothing to this one.
        for fields in ({**ids, "fingerprintHash": "0"}, {"authToken": KEY}, {**ids, "fingerprintHash": None}):
            assert (await edge.client.post("/api/auth/cli/logout", json=fields)).json() == {"success": True}
        assert (await edge.client.get(path)).status_code == 200
        logout = {"authToken": KEY, "userId": "k1", **ids}
        assert (await edge.client.post("/api/auth/cli/logout", json=logout)).json() == {"success": True}
        assert (await edge.client.get(path)).status_code == 404
        assert (await status(edge.client, begun)).status_code == 401
        # The key is the user's own, as it was.
        me = await edge.client.get("/api/v1/me?fields=id", headers={"authorization": f"Bearer {KEY}".encode()})
        assert me.json() == {"id": "k1"}


@pytest.mark.parametrize("keys", [[], KEYS["api_keys"]])
async def test_no_key_where_none_is_needed(start_edge: StartEdge, keys: list[dict[str, str]]) -> None:
    async with start_edge(security={"require_api_key": False, "api_keys": keys}) as edge:
        begun = await begin(edge.client)
        path = httpx.URL(begun["loginUrl"]).path
        page = (await edge.client.get(path)).text
        assert ("without_key" in page, 'type="password"' in page) == (True, bool(keys))
        assert (await edge.client.post(path, data={"key": "unknown"})).status_code == 403
        assert (await edge.client.post(path, data={"without_key": "1"})).status_code == 200
        user = (await status(edge.client, begun)).json()["user"]
        assert (user["id"], user["email"], user["name"]) == ("local", "", "local")
        token = user["authToken"]
        assert token.startswith("local-")
        me = await edge.client.get("/api/v1/me?fields=id", headers={"authorization": f"Bearer {token}"})
        assert me.json() == {"id": "local"}


async def test_where_the_page_is(start_edge: StartEdge) -> None:
    async with start_edge() as edge:
        begun = await begin(edge.client, host="patchbay.test:81")
        assert begun["loginUrl"].startswith("http://patchbay.test:81/codebuff/login/")
        proxied = {"x-forwarded-proto": "https", "x-forwarded-host": "ai.example.test, inner.test"}
        begun = await begin(edge.client, **proxied)
        assert begun["loginUrl"].startswith("https://ai.example.test/codebuff/login/")
        path = httpx.URL(begun["loginUrl"]).path
        head = {**proxied, "origin": "https://ai.example.test"}
        assert (await edge.client.post(path, data={"without_key": "1"}, headers=head)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "ai.example.test:443", "origin": "https://ai.example.test"}, 200),
        ({"x-forwarded-host": "ai.example.test:443", "origin": "https://ai.example.test"}, 200),
        ({"host": "ai.example.test:80", "origin": "http://ai.example.test"}, 200),
        ({"host": "ai.example.test:80", "origin": "https://ai.example.test"}, 403),
        ({"host": "ai.example.test:443", "origin": "https://ai.example.test:4443"}, 403),
        ({"host": "ai.example.test:443", "origin": "https://example.test"}, 403),
        ({"host": "", "origin": "null"}, 403),
    ],
)
async def test_a_proxy_may_name_the_port(start_edge: StartEdge, headers: dict[str, str], status: int) -> None:
    async with start_edge() as edge:
        path = httpx.URL((await begin(edge.client))["loginUrl"]).path
        done = await edge.client.post(path, data={"without_key": "1"}, headers=headers)
        assert done.status_code == status


async def test_sign_ins_are_limited_and_need_redis(start_edge: StartEdge) -> None:
    async with start_edge() as edge:
        begun = await begin(edge.client)
        codes = [
            (await edge.client.post("/api/auth/cli/code", json={"fingerprintId": "f"})).status_code
            # The minute may end within.
            for _ in range(2 * MOST_PER_MINUTE)
        ]
        assert set(codes) == {200, 429}
        name = f"pb:codebuff-login-token:{begun['loginUrl'][-34:]}"
        await edge.edge.redis.execute_command("SADD", name, "what no command here takes")
        assert (await status(edge.client, begun)).status_code == 503
        login = name.replace("-token", "")
        await edge.edge.redis.execute_command("DEL", login)
        await edge.edge.redis.execute_command("SADD", login, "x")
        path = httpx.URL(begun["loginUrl"]).path
        assert (await edge.client.get(path)).status_code == 503
