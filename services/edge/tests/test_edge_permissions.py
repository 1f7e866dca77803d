from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import httpx
import msgspec
import pytest

from patchbay.dialects.sse import FrameSplitter, parse_frames
from patchbay.state.permissions import Decision
from patchbay.testing.eventually import eventually
from patchbay.testing.valkey import ValkeyProcess

StartEdge = Callable[..., AbstractAsyncContextManager]

KEYS = {
    "require_api_key": True,
    "api_keys": [
        {"key": "boss-key", "id": "boss", "operator": True},
        {"key": "alice-key", "id": "alice"},
        {"key": "bob-key", "id": "bob"},
    ],
}
BOSS, ALICE, BOB = ({"x-api-key": f"{name}-key"} for name in ("boss", "alice", "bob"))
INPUT = {"command": "make clean", "nested": {"list": []}}
CHECK = {"tool_name": "Bash", "input": INPUT, "tool_use_id": "toolu_1"}


def ask(running, *, key_id: str = "alice", **changed) -> asyncio.Task[Decision]:
    """Asks as a worker does."""
    question = {
        "backend": "claude",
        "session": "s-1",
        "key_id": key_id,
        "worker_id": "w1",
        "tool_name": "Bash",
        "input": msgspec.Raw(json.dumps(INPUT).encode()),
        "timeout_seconds": 60.0,
        **changed,
    }
    return asyncio.ensure_future(running.edge.permissions.ask(**question))


async def the_only(running, headers: dict[str, str]) -> dict:
    async def found() -> list[dict]:
        return (await running.client.get("/permissions", headers=headers)).json()["data"]

    (request,) = await eventually(found)
    return request


Events = AsyncIterator[tuple[str, dict]]


@asynccontextmanager
async def streaming(running, headers: dict[str, str]) -> AsyncIterator[Events]:
    """The events of `/permissions/stream`; a ping is `("", {})`."""
    async with running.client.stream("GET", "/permissions/stream", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-request-id"].startswith("req_")

        async def events() -> Events:
            splitter = FrameSplitter()
            async for data in response.aiter_bytes():
                frames = splitter.feed(data)
                for frame in parse_frames(frames):
                    yield frame.event.decode(), json.loads(frame.data)
                if b": ping" in frames:
                    yield "", {}

        async with aclosing(events()) as found:
            yield found


async def test_a_request_is_listed_shown_and_answered(start_edge: StartEdge) -> None:
    async with start_edge(security=KEYS) as running:
        assert (await running.client.get("/permissions", headers=BOSS)).json() == {"data": []}
        asked = ask(running)
        request = await the_only(running, BOSS)
        assert request.keys() == {"id", "backend", "session", "tool_name", "input", "created_at", "expires_at"}
        assert (request["backend"], request["session"], request["tool_name"]) == ("claude", "s-1", "Bash")
        assert request["input"] == INPUT
        assert request["expires_at"] - request["created_at"] == pytest.approx(60)
        path = f"/permissions/{request['id']}"
        assert (await running.client.get(path, headers=ALICE)).json() == request
        answer = {"decision": "allow", "updated_input": {"command": "ls"}, "reason": "safer"}
        answered = await running.client.post(path + "/respond", json=answer, headers=BOSS)
        resolution = {"id": request["id"], "decision": "allow", "reason": "safer", "by": "boss"}
        assert (answered.status_code, answered.json()) == (200, resolution)
        decision = await asked
        assert (decision.allowed, bytes(decision.updated_input), decision.by) == (True, b'{"command":"ls"}', "boss")
        shown = (await running.client.get(path, headers=BOSS)).json()
        assert shown == request | resolution | {"updated_input": {"command": "ls"}}
        again = await running.client.post(path + "/respond", json={"decision": "deny"}, headers=ALICE)
        assert again.status_code == 409
        assert again.json()["error"]["message"] == "already resolved: allow by boss (safer)"
        assert again.json()["error"]["code"] == "already_resolved"


@pytest.mark.parametrize(
    ("body", "allowed"),
    [
        ({"decision": "allow"}, True),
        ({"decision": "deny", "updated_input": None, "reason": None}, False),
        ({"allowed": True}, True),
        ({"allowed": False, "reason": "no"}, False),
    ],
)
async def test_every_form_of_an_answer(start_edge: StartEdge, body: dict, allowed: bool) -> None:
    async with start_edge() as running:
        asked = ask(running)
        request = await the_only(running, {})
        answered = await running.client.post(f"/permissions/{request['id']}/respond", json=body)
        assert answered.status_code == 200
        assert answered.json()["by"] == "operator", "without keys, whoever sits at this machine"
        assert (await asked).allowed is allowed


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "decision"),
        ({"decision": "maybe"}, "decision"),
        ({"allowed": "yes"}, "allowed"),
        ({"decision": "deny", "allowed": True}, "allowed"),
        ({"decision": "allow", "updated_input": "ls"}, "updated_input"),
        ({"decision": "allow", "updated_input": [1]}, "updated_input"),
        ({"decision": "deny", "updated_input": {}}, "updated_input"),
        ({"decision": "allow", "updatedInput": {}}, "updatedInput"),
        ({"decision": "allow", "reason": 1}, "reason"),
        ({"decision": "allow", "reason": "x" * 3000}, "reason"),
        ([], None),
        (b"{", None),
        (b'{"decision": "\xff"}', None),
        (b"[" * 100_000, None),
    ],
)
async def test_a_bad_answer_names_the_field_and_answers_nothing(
    start_edge: StartEdge, body: object, field: str | None
) -> None:
    async with start_edge() as running:
        asked = ask(running)
        request = await the_only(running, {})
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        refused = await running.client.post(f"/permissions/{request['id']}/respond", content=data, headers=headers)
        assert refused.status_code == 400, refused.text
        assert refused.json()["error"]["param"] == field
        assert await the_only(running, {}) == request
        asked.cancel()
        await asyncio.wait((asked,))


async def test_a_form_that_a_web_page_can_send_answers_nothing(start_edge: StartEdge) -> None:
    async with start_edge() as running:
        asked = ask(running)
        request = await the_only(running, {})
        for path in (f"/permissions/{request['id']}/respond", "/mcp/permission/check"):
            refused = await running.client.post(path, content=b'{"decision":"allow"}')
            assert refused.status_code == 403
        assert not asked.done()
        asked.cancel()
        await asyncio.wait((asked,))


async def test_a_body_that_is_too_large_is_refused(start_edge: StartEdge) -> None:
    async with start_edge() as running:
        body = {"decision": "allow", "reason": "x" * 3_000_000}
        assert (await running.client.post("/permissions/perm_1/respond", json=body)).status_code == 413


async def test_who_sees_what(start_edge: StartEdge) -> None:
    security = {**KEYS, "require_api_key": False}
    async with start_edge(security=security) as running:
        asked = ask(running, key_id="alice")
        request = await the_only(running, ALICE)
        path = f"/permissions/{request['id']}"
        assert (await running.client.get("/permissions", headers=BOB)).json() == {"data": []}
        assert (await running.client.get(path, headers=BOB)).status_code == 404
        refused = await running.client.post(path + "/respond", json={"decision": "allow"}, headers=BOB)
        assert refused.status_code == 404
        for anonymous in (
            await running.client.get("/permissions"),
            await running.client.get("/permissions/stream"),
            await running.client.get(path),
            await running.client.post(path + "/respond", json={"decision": "allow"}),
            await running.client.post("/mcp/permission/check", json=CHECK),
            await running.client.get("/permissions/audit"),
            await running.client.get("/permissions/audit", headers=ALICE),
        ):
            assert anonymous.status_code == 403, anonymous.url
            assert anonymous.json()["error"]["code"] == "permission_denied"
        answered = await running.client.post(path + "/respond", json={"decision": "deny"}, headers=ALICE)
        assert answered.json()["by"] == "alice"
        assert not (await asked).allowed


async def test_a_wrong_key_is_refused(start_edge: StartEdge) -> None:
    async with start_edge(security=KEYS) as running:
        for headers in ({}, {"x-api-key": "guess"}):
            assert (await running.client.get("/permissions", headers=headers)).status_code == 401


async def test_what_is_not_known_is_404(start_edge: StartEdge) -> None:
    async with start_edge() as running:
        assert (await running.client.get("/permissions/perm_none")).status_code == 404
        unknown = await running.client.post("/permissions/perm_none/respond", json={"decision": "allow"})
        assert unknown.status_code == 404
        assert "perm_none" in unknown.json()["error"]["message"]
        assert (await running.client.delete("/permissions/perm_none")).status_code == 405


# -- the stream -------------------------------------------------------------------------------------------------------


async def test_the_stream_begins_with_what_is_pending_and_goes_on_live(start_edge: StartEdge) -> None:
    async with start_edge(security=KEYS) as running:
        first = ask(running, session="first")
        pending = await the_only(running, BOSS)
        async with streaming(running, BOSS) as events, streaming(running, BOB) as bobs:
            assert await anext(events) == ("permission_request", pending)
            second = ask(running, key_id="bob", session="second")
            kind, later = await anext(events)
            assert (kind, later["session"]) == ("permission_request", "second")
            assert await anext(bobs) == ("permission_request", later)
            path = f"/permissions/{pending['id']}/respond"
            answered = await running.client.post(path, json={"decision": "deny", "reason": "no"}, headers=BOSS)
            resolution = {"id": pending["id"], "decision": "deny", "reason": "no", "by": "boss"}
            assert await anext(events) == ("permission_resolved", resolution)
            assert answered.json() == resolution
            second.cancel()
            withdrawn = ("permission_resolved", later["id"], "withdrawn")
            for watcher in (events, bobs):
                kind, data = await anext(watcher)
                assert (kind, data["id"], data["by"]) == withdrawn
        assert not (await first).allowed
        await asyncio.wait((second,))


async def test_a_silent_stream_gets_pings(start_edge: StartEdge) -> None:
    async with start_edge(server={"keep_alive_ping_seconds": 0.05}) as running, streaming(running, {}) as events:
        assert [await anext(events) for _ in range(3)] == [("", {})] * 3


async def test_a_stream_ends_with_its_client(start_edge: StartEdge) -> None:
    async with start_edge() as running:
        async with streaming(running, {}):
            await eventually(lambda: running.edge.permissions._notices._listeners)
        started = time.monotonic()
        await eventually(lambda: not running.edge.permissions._notices._listeners)
        assert time.monotonic() - started < 1, "not at the next ping"


async def test_a_stream_ends_properly_when_the_edge_drains(start_edge: StartEdge) -> None:
    async with start_edge() as running:
        async with streaming(running, {}) as events:
            running.server._drain()
            assert [event async for event in events] == []
        await asyncio.wait_for(running.serving, 5)


async def test_a_draining_edge_refuses_new_streams_and_questions(start_edge: StartEdge) -> None:
    async with start_edge() as running:
        running.edge.gateway.draining = True
        assert (await running.client.get("/permissions/stream")).status_code == 503
        assert (await running.client.post("/mcp/permission/check", json=CHECK)).status_code == 503


# -- Claude Code elsewhere --------------------------------------------------------------------------------------------


async def test_claude_code_elsewhere_asks_and_waits(start_edge: StartEdge) -> None:
    async with start_edge(security=KEYS) as running:
        headers = {**ALICE, "x-claude-code-session-id": "cc-7"}
        for answer, expected in (
            ({"decision": "allow"}, {"behavior": "allow", "updatedInput": INPUT}),
            (
                {"decision": "allow", "updated_input": {"command": "ls"}},
                {"behavior": "allow", "updatedInput": {"command": "ls"}},
            ),
            ({"decision": "deny", "reason": "not now"}, {"behavior": "deny", "message": "not now"}),
            ({"decision": "deny"}, {"behavior": "deny", "message": "permission was denied"}),
        ):
            asked = asyncio.ensure_future(running.client.post("/mcp/permission/check", json=CHECK, headers=headers))
            request = await the_only(running, BOSS)
            assert (request["backend"], request["session"], request["tool_name"]) == ("mcp", "cc-7", "Bash")
            assert request["input"] == INPUT
            assert request["expires_at"] - request["created_at"] == pytest.approx(300)
            await running.client.post(f"/permissions/{request['id']}/respond", json=answer, headers=BOSS)
            response = await asked
            assert (response.status_code, response.json()) == (200, expected)


async def test_a_question_nobody_answers_is_denied(start_edge: StartEdge) -> None:
    async with start_edge() as running:
        response = await running.client.post("/mcp/permission/check", json={**CHECK, "timeout_seconds": 0.1})
        assert response.json() == {"behavior": "deny", "message": "nobody answered in time"}


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"tool_name": None}, "tool_name"),
        ({"tool_name": ""}, "tool_name"),
        ({"input": "ls"}, "input"),
        ({"input": None}, "input"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": 1e9}, "timeout_seconds"),
    ],
)
async def test_a_bad_question_names_the_field(start_edge: StartEdge, changed: dict, field: str) -> None:
    async with start_edge() as running:
        refused = await running.client.post("/mcp/permission/check", json=CHECK | changed)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == field
        missing = await running.client.post("/mcp/permission/check", json={"tool_name": "Bash"})
        assert missing.json()["error"]["param"] == "input"


async def test_a_question_is_withdrawn_when_its_client_leaves(start_edge: StartEdge) -> None:
    async with start_edge() as running:
        async with httpx.AsyncClient(base_url=running.client.base_url) as client:
            asked = asyncio.ensure_future(client.post("/mcp/permission/check", json=CHECK))
            request = await the_only(running, {})
            asked.cancel()
            await asyncio.wait((asked,))

        async def is_withdrawn() -> bool:
            shown = (await running.client.get(f"/permissions/{request['id']}")).json()
            return shown.get("by") == "withdrawn"

        await eventually(is_withdrawn)

        async def is_released() -> bool:
            return await running.edge.admission.gauges() == {"connections": 0}

        await eventually(is_released)


async def test_a_question_ends_with_the_edge_and_is_withdrawn(start_edge: StartEdge) -> None:
    async with start_edge(server={"drain_seconds": 0.1}) as running:
        asked = asyncio.ensure_future(running.client.post("/mcp/permission/check", json=CHECK))
        request = await the_only(running, {})
        running.server._drain()
        response = await asked
        assert response.status_code == 503
        assert "shutting down" in response.json()["error"]["message"]
        await asyncio.wait_for(running.serving, 5)
        assert request["id"]


async def test_a_question_holds_a_place_like_every_request(start_edge: StartEdge) -> None:
    async with start_edge(limits={"concurrent_requests": 1}) as running:
        asked = asyncio.ensure_future(running.client.post("/mcp/permission/check", json=CHECK))
        request = await the_only(running, {})
        assert (await running.client.post("/mcp/permission/check", json=CHECK)).status_code == 429
        await running.client.post(f"/permissions/{request['id']}/respond", json={"allowed": True})
        assert (await asked).json()["behavior"] == "allow"


# -- the audit, and Redis that is away --------------------------------------------------------------------------------


async def test_operators_read_the_audit(start_edge: StartEdge) -> None:
    async with start_edge(security=KEYS) as running:
        asked = ask(running)
        request = await the_only(running, BOSS)
        await running.client.post(
            f"/permissions/{request['id']}/respond", json={"decision": "deny", "reason": "no"}, headers=BOSS
        )
        await asked
        entries = (await running.client.get("/permissions/audit", headers=BOSS)).json()["data"]
        assert [entry.pop("at") >= request["created_at"] for entry in entries] == [True, True]
        about = {"id": request["id"], "backend": "claude", "session": "s-1", "tool_name": "Bash", "key_id": "alice"}
        about["worker_id"] = "w1"
        assert entries == [
            {"event": "resolved", **about, "decision": "deny", "reason": "no", "by": "boss"},
            {"event": "asked", **about},
        ]
        last = await running.client.get("/permissions/audit?limit=1", headers=BOSS)
        assert [entry["event"] for entry in last.json()["data"]] == ["resolved"]
        for limit in ("0", "-1", "x", "1001", "9" * 5000):
            refused = await running.client.get(f"/permissions/audit?limit={limit}", headers=BOSS)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "limit")


async def test_without_redis_nothing_is_allowed(start_edge: StartEdge, valkey: ValkeyProcess) -> None:
    async with start_edge(flags=("--redis.timeout_seconds=0.1",)) as running:
        valkey.pause()
        try:
            checked = await running.client.post("/mcp/permission/check", json=CHECK)
            assert checked.json()["behavior"] == "deny"
            assert "Redis is away" in checked.json()["message"]
            for response in (
                await running.client.get("/permissions"),
                await running.client.get("/permissions/perm_1"),
                await running.client.post("/permissions/perm_1/respond", json={"decision": "allow"}),
                await running.client.get("/permissions/audit"),
            ):
                assert response.status_code == 503
        finally:
            valkey.resume()
