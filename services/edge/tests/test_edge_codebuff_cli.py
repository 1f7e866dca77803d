"""What Codebuff's CLI asks over HTTP beside signing in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx

StartEdge = Callable[..., AbstractAsyncContextManager[Any]]

KEYS = {
    "require_api_key": True,
    "api_keys": [
        {"key": "pb-one", "id": "k1", "user": "one@example.test", "organization": "org"},
        {"key": "pb-two", "id": "k2", "user": "Two"},
    ],
}
ONE, TWO = ({"authorization": f"Bearer pb-{name}"} for name in ("one", "two"))
OWN = {"x-codebuff-api-key": "pb-one"}


async def run(client: httpx.AsyncClient, direct: float, total: float, ends: int = 1) -> None:
    """A run with its end, said so many times at once."""
    path = "/api/v1/agent-runs"
    start = {"action": "START", "agentId": "base", "ancestorRunIds": []}
    run_id = (await client.post(path, json=start, headers=ONE)).json()["runId"]
    finish = {"action": "FINISH", "runId": run_id, "directCredits": direct, "totalCredits": total}
    told = await asyncio.gather(*(client.post(path, json=finish, headers=ONE) for _ in range(ends)))
    assert [answered.status_code for answered in told] == [200] * ends


async def test_usage_is_what_the_callers_runs_said(start_edge: StartEdge) -> None:
    async with start_edge(security=KEYS) as edge, edge.another() as other:
        await run(edge.client, 3, 5, ends=5)
        await run(other, 2, 2)
        await run(edge.client, -7, 0)
        text = {"content-type": "text/plain;charset=UTF-8"}
        asked = [
            await edge.client.get("/api/v1/usage", headers=ONE),
            await other.post("/api/v1/usage", json={"fingerprintId": "f"}, headers=ONE),
            await edge.client.post("/api/v1/usage", headers=OWN),
            await edge.client.post("/api/usage", content='{"fingerprintId":"f","authToken":"pb-one"}', headers=text),
        ]
        for answered in asked:
            assert answered.status_code == 200
            assert answered.json() == {
                "type": "usage-response",
                "usage": 5,
                "remainingBalance": 1_000_000,
                "balanceBreakdown": {},
                "next_quota_reset": None,
            }
        assert (await edge.client.get("/api/v1/usage", headers=TWO)).json()["usage"] == 0
        for refused in (
            await edge.client.post("/api/usage", json={"fingerprintId": "f", "authToken": None}),
            await edge.client.post("/api/usage", json={"authToken": "pb-wrong"}),
            await edge.client.get("/api/v1/usage"),
        ):
            assert refused.status_code == 401
            assert "API key" in refused.json()["message"]
        assert (await edge.client.post("/api/usage", content="[]", headers=ONE)).status_code == 400
        [name] = await edge.edge.redis.execute_command("KEYS", "pb:codebuff-usage:*")
        assert await edge.edge.redis.execute_command("PTTL", name) > 31 * 24 * 3_600_000
        await edge.edge.redis.execute_command("DEL", name)
        # What Redis refuses is not counted, and keeps no run from its end.
        await edge.edge.redis.execute_command("SADD", name, "x")
        await run(edge.client, 1, 1)
        assert (await edge.client.get("/api/v1/usage", headers=ONE)).status_code == 503


async def test_says_what_is_known_of_the_caller(start_edge: StartEdge) -> None:
    async with start_edge(security=KEYS) as edge:
        path = "/api/v1/me?fields=id,email,name,discord_id,referral_code"
        assert (await edge.client.get(path, headers=ONE)).json() == {
            "id": "k1",
            "email": "one@example.test",
            "name": "one@example.test",
            "discord_id": None,
            "referral_code": None,
        }
        said = (await edge.client.get(path, headers=TWO)).json()
        assert (said["name"], said["email"]) == ("Two", None)


async def test_knows_its_agents_and_no_repository(start_edge: StartEdge) -> None:
    async with start_edge(security=KEYS) as edge:
        client = edge.client
        builtin = {"valid": True, "source": "builtin", "normalizedId": "base", "displayName": "Base"}
        for name in ("base", "codebuff/base", "codebuff/base@1.0.0"):
            said = (await client.get("/api/agents/validate-name", params={"agentId": name}, headers=OWN)).json()
            assert said == {**builtin, "displayName": said["displayName"]}
            assert said["displayName"]
        for name in ("no-such-agent", "other/base"):
            said = await client.get("/api/agents/validate-name", params={"agentId": name}, headers=ONE)
            assert said.json() == {"valid": False}
        assert (await client.get("/api/agents/validate-name", headers=ONE)).status_code == 400
        assert (await client.get("/api/agents/validate-name?agentId=base")).status_code == 403
        repo = {"owner": "me", "repo": "mine", "remoteUrl": "https://git.example.test/me/mine"}
        covered = await client.post("/api/orgs/is-repo-covered", json=repo, headers=OWN)
        assert covered.json() == {"isCovered": False}
        assert (await client.post("/api/orgs/is-repo-covered", json=repo)).status_code == 401
        well = await client.get("/healthz")
        assert (well.status_code, well.text) == (200, "ok")


async def test_nothing_of_it_where_codebuff_is_not_served(start_edge: StartEdge) -> None:
    async with start_edge(codebuff={"enabled": False}) as edge:
        for path in ("/healthz", "/api/v1/usage", "/codebuff/login/x", "/api/auth/cli/status"):
            assert (await edge.client.get(path)).status_code == 404
