from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from patchbay.canonical import ChatEvent, Usage
from patchbay.errors import OVERLOADED, QUOTA_EXCEEDED, make_error
from patchbay.testing.eventually import eventually
from patchbay.testing.worker import BLOCK, HANG, STARTED, ScriptedWorker, answer, failed, text
from patchbay_edge.codebuff import http

StartEdge = Callable[..., AbstractAsyncContextManager[Any]]

CHAT = "/api/v1/chat/completions"
RUNS = "/api/v1/agent-runs"
KEYS = {
    "require_api_key": True,
    "api_keys": [
        {"key": "pb-one", "id": "k1"},
        {"key": "pb-two", "id": "k2"},
        {"key": "pb-ops", "id": "ops", "operator": True},
    ],
}
ONE, TWO, OPS = ({"authorization": f"Bearer pb-{name}"} for name in ("one", "two", "ops"))


async def start_run(client: httpx.AsyncClient, agent: str = "base", headers: dict[str, str] | None = None) -> str:
    body = json.dumps({"action": "START", "agentId": agent, "ancestorRunIds": ["parent"]})
    head = {"content-type": "text/plain;charset=UTF-8", **(headers or {})}
    answered = await client.post(RUNS, content=body, headers=head)
    assert answered.status_code == 200, answered.text
    run_id: str = answered.json()["runId"]
    return run_id


def chat(run_id: str, **fields: Any) -> dict[str, Any]:
    metadata = {"run_id": run_id, "client_id": "p", "cost_mode": fields.pop("cost_mode", "normal")}
    metadata |= fields.pop("metadata", {})
    return {
        "model": "some/model",
        "messages": [{"role": "user", "content": "hi"}],
        "codebuff_metadata": metadata,
        "provider": {"allow_fallbacks": True},
        "usage": {"include": True},
        "stop": ['"cb_easp"'],
        **fields,
    }


async def test_says_who_calls_and_that_it_is_well(start_edge: StartEdge) -> None:
    async with start_edge(security=KEYS) as edge:
        assert (await edge.client.get("/api/healthz")).json() == {"status": "ok"}
        said = await edge.client.get("/api/v1/me?fields=id,email", headers=ONE)
        assert said.json() == {"id": "k1", "email": None}
        refused = await edge.client.get("/api/v1/me?fields=id")
        assert refused.status_code == 401
        assert refused.json()["error"]["message"]
        by_own_header = await edge.client.get("/api/v1/me", headers={"x-codebuff-api-key": "pb-two"})
        assert by_own_header.json() == {"id": "k2"}


async def test_gives_out_agents(start_edge: StartEdge) -> None:
    async with start_edge() as edge:
        for version in ("latest", "1.0.0"):
            said = (await edge.client.get(f"/api/v1/agents/codebuff/base/{version}")).json()
            assert said["version"] == "1.0.0"
            assert said["data"]["id"] == "base"
            assert said["data"]["systemPrompt"]
        for path in ("codebuff/none/latest", "other/base/latest", "codebuff/base/9.9.9"):
            missing = await edge.client.get(f"/api/v1/agents/{path}")
            assert missing.status_code == 404
            assert "there is no agent" in missing.json()["error"]["message"]


async def test_keeps_runs_for_those_who_made_them(start_edge: StartEdge) -> None:
    async with start_edge(security=KEYS) as edge:
        run_id = await start_run(edge.client, headers=ONE)
        step = {"stepNumber": 1, "credits": 3, "childRunIds": ["child"], "messageId": None, "status": "completed"}
        stepped = await edge.client.post(f"{RUNS}/{run_id}/steps", json=step, headers=ONE)
        assert stepped.json() == {"stepId": f"{run_id}:1"}
        url = f"/v1/codebuff/runs/{run_id}"
        shown = (await edge.client.get(url, headers=ONE)).json()
        assert (shown["status"], shown["agent_id"], shown["parent_run_id"]) == ("running", "base", "parent")
        finish: dict[str, object] = {"action": "FINISH", "runId": run_id, "status": "completed"}
        finish |= {"totalSteps": 2, "directCredits": 3, "totalCredits": 5.2}
        assert (await edge.client.post(RUNS, json=finish, headers=TWO)).status_code == 404
        assert (await edge.client.post(RUNS, json=finish, headers=ONE)).status_code == 200
        shown = (await edge.client.get(url, headers=OPS)).json()
        assert (shown["status"], shown["total_steps"], shown["total_credits"]) == ("completed", 2, 5)
        assert shown["steps"][0]["child_run_ids"] == ["child"]
        assert (await edge.client.get(url, headers=TWO)).status_code == 404
        assert (await edge.client.get("/v1/codebuff/runs/none", headers=ONE)).status_code == 404


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"action": "START"}', '{"action": "FINISH"}', '{"action": "X"}'])
async def test_refuses_what_is_no_run(start_edge: StartEdge, body: str) -> None:
    async with start_edge() as edge:
        refused = await edge.client.post(RUNS, content=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("", {"directCredits": None, "totalCredits": None, "errorMessage": None, "status": "cancelled"}, 200),
        ("", {"directCredits": 1e300}, 400),
        ("", {"totalCredits": -1e300}, 400),
        ("", {"totalSteps": 10**30}, 400),
        ("", {"totalSteps": -1}, 400),
        ("/steps", {"stepNumber": 10**30}, 400),
        ("/steps", {"stepNumber": 1, "credits": 1e300}, 400),
        ("/steps", {"stepNumber": 1, "childRunIds": ["x" * 501]}, 400),
    ],
)
async def test_what_is_said_of_a_run_has_bounds(
    start_edge: StartEdge, path: str, fields: dict[str, object], status: int
) -> None:
    async with start_edge() as edge:
        run_id = await start_run(edge.client)
        if path:
            answered = await edge.client.post(f"{RUNS}/{run_id}{path}", json=fields)
        else:
            answered = await edge.client.post(RUNS, json={"action": "FINISH", "runId": run_id, **fields})
        assert answered.status_code == status, answered.text


async def test_a_chat_goes_to_the_model_of_its_agent(start_edge: StartEdge) -> None:
    models = {"agents": {"thinker": "deep"}, "cost_modes": {"max": "big"}}
    worker = ScriptedWorker([answer("hello")])
    async with start_edge(worker, codebuff={"models": models}) as edge:
        thinker = await start_run(edge.client, "codebuff/thinker@1.0.0")
        base = await start_run(edge.client)
        cases = [
            (chat(thinker, cost_mode="max"), "deep"),
            (chat(base, cost_mode="max"), "big"),
            (chat(base), "some/model"),
            (chat(base, model="3808739064941641728"), "anthropic/claude-haiku-4-5"),
            (chat("unknown"), "some/model"),
        ]
        for body, _ in cases:
            answered = await edge.client.post(CHAT, json=body)
            assert answered.json()["choices"][0]["message"]["content"] == "hello"
        assert [request.model for request in worker.requests] == [model for _, model in cases]
        first = worker.requests[0].chat
        assert not first.sampling.stop
        assert not first.extensions


@pytest.mark.parametrize("field", [b'"stop": "\xff"', b'"stop": ["\xff"]', b'"codebuff_metadata": {"run_id": "\xff"}'])
async def test_a_field_that_is_no_text_is_named(start_edge: StartEdge, field: bytes) -> None:
    async with start_edge() as edge:
        body = b'{"model": "m", "messages": [], "codebuff_metadata": {}, ' + field + b"}"
        refused = await edge.client.post(CHAT, content=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == field.split(b'"')[1].decode()


async def test_other_chats_are_left_as_they_are(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("hello")])
    async with start_edge(worker, codebuff={"models": {"default": "other"}}) as edge:
        body = {"model": "m", "stop": ['"cb_easp"'], "messages": [{"role": "user", "content": "codebuff_metadata"}]}
        assert (await edge.client.post(CHAT, json=body)).status_code == 200
        (request,) = worker.requests
        assert request.model == "m"
        assert list(request.chat.sampling.stop) == ['"cb_easp"']


async def test_several_answers_are_one_array(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("one"), answer("two"), answer("three")])
    async with start_edge(worker) as edge:
        run_id = await start_run(edge.client)
        answered = await edge.client.post(CHAT, json=chat(run_id, metadata={"n": 3}))
        assert sorted(json.loads(answered.json()["choices"][0]["message"]["content"])) == ["one", "three", "two"]
        refused = await edge.client.post(CHAT, json=chat(run_id, metadata={"n": 100}))
        assert refused.status_code == 400


async def test_what_several_answers_used_is_added_up(start_edge: StartEdge) -> None:
    said = {"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.02, "other": None}}
    usage = Usage(input_tokens=5, cache_read_tokens=3, output_tokens=2)
    usage.extensions["openai_chat"] = json.dumps(said)
    events = answer("a")
    worker = ScriptedWorker([[*events[:-1], [ChatEvent(usage=usage)], events[-1]]])
    async with start_edge(worker) as edge:
        body = chat(await start_run(edge.client), metadata={"n": 3})
        used = (await edge.client.post(CHAT, json=body)).json()["usage"]
        assert used["cost"] == pytest.approx(0.03)
        # The client counts this part as well.
        assert used["cost_details"] == {"upstream_inference_cost": pytest.approx(0.06)}
        assert (used["prompt_tokens"], used["prompt_tokens_details"]["cached_tokens"]) == (24, 9)
        assert "is_byok" not in used


async def test_one_of_several_answers_fails(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("one"), [failed(make_error(QUOTA_EXCEEDED, "no money", http_status=402))]])
    async with start_edge(worker) as edge:
        run_id = await start_run(edge.client)
        answered = await edge.client.post(CHAT, json=chat(run_id, metadata={"n": 2}))
        assert answered.status_code == 402
        assert answered.json()["error"]["message"] == "no money"


@pytest.mark.parametrize(("code", "status"), [(QUOTA_EXCEEDED, 402), (OVERLOADED, 503)])
async def test_errors_are_told_in_their_shape(start_edge: StartEdge, code: Any, status: int) -> None:
    worker = ScriptedWorker([[failed(make_error(code, "no", http_status=status, retryable=False))]])
    async with start_edge(worker) as edge:
        answered = await edge.client.post(CHAT, json=chat(await start_run(edge.client), stream=True))
        assert answered.status_code == status
        assert answered.json()["error"]["message"] == "no"


def used(said: str, tokens: int) -> Any:
    events = answer(said)
    usage = ChatEvent(usage=Usage(input_tokens=tokens, cache_read_tokens=1, output_tokens=2))
    return [*events[:-1], [usage], events[-1]]


async def test_what_the_answers_of_a_run_used_is_kept(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([used("a", 10), used("b", 20), used("c", 30), used("d", 40)])
    async with start_edge(worker) as edge:
        run_id = await start_run(edge.client)
        streamed = await edge.client.post(CHAT, json=chat(run_id, stream=True, model="m1"))
        # The client counts its credits by it, and does not ask for it.
        assert '"usage":{' in streamed.text
        step = {"stepNumber": 1, "credits": 0, "childRunIds": [], "status": "completed"}
        assert (await edge.client.post(f"{RUNS}/{run_id}/steps", json=step)).status_code == 200
        await edge.client.post(CHAT, json=chat(run_id, metadata={"n": 3}, model="m2"))
        await edge.client.post(f"{RUNS}/{run_id}/steps", json={**step, "stepNumber": 2})

        async def is_kept() -> bool:
            run = (await edge.client.get(f"/v1/codebuff/runs/{run_id}")).json()
            told = [(step["model"], step["input_tokens"], step["output_tokens"]) for step in run["steps"]]
            return told == [("m1", 11, 2), ("m2", 93, 6)]

        await eventually(is_kept)


async def test_time_passes_in_blank_thoughts(start_edge: StartEdge) -> None:
    go_on = asyncio.Event()
    worker = ScriptedWorker([[[STARTED, BLOCK, text("a")], go_on, *answer("b")[1:]]])
    async with start_edge(worker, server={"keep_alive_ping_seconds": 0.05}) as edge:
        body = chat(await start_run(edge.client), stream=True)
        chunks = []
        async with edge.client.stream("POST", CHAT, json=body) as answered:
            async for line in answered.aiter_lines():
                if not line:
                    continue
                assert line.startswith("data: ")
                chunks.append(line)
                if '"delta":{"reasoning_content":" "},"finish_reason":null' in line:
                    go_on.set()
        assert go_on.is_set()
        assert chunks[-1] == "data: [DONE]"


async def test_a_cancelled_run_ends_its_answer_at_any_edge(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([[[STARTED, BLOCK, text("a")], HANG]])
    async with start_edge(worker, security=KEYS) as edge, edge.another() as other:
        run_id = await start_run(edge.client, headers=ONE)
        cancel = {"action": "FINISH", "runId": run_id, "status": "cancelled"}
        async with edge.client.stream("POST", CHAT, json=chat(run_id, stream=True), headers=ONE) as answered:
            lines = answered.aiter_lines()
            assert "data: " in await anext(lines)
            assert (await other.post(RUNS, json=cancel, headers=TWO)).status_code == 404
            assert worker.running == 1
            assert (await other.post(RUNS, json=cancel, headers=ONE)).status_code == 200
            assert [line async for line in lines if line][-1] == "data: [DONE]"
        await eventually(lambda: worker.cancelled == 1)
        refused = await edge.client.post(CHAT, json=chat(run_id), headers=ONE)
        assert refused.status_code == 409
        assert refused.json()["error"]["message"] == "this run was cancelled"


async def test_a_run_is_cancelled_before_its_answer_began(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([[HANG]])
    async with start_edge(worker) as edge:
        run_id = await start_run(edge.client)
        asked = asyncio.create_task(edge.client.post(CHAT, json=chat(run_id)))
        await eventually(lambda: worker.running == 1)
        await edge.client.post(RUNS, json={"action": "FINISH", "runId": run_id, "status": "cancelled"})
        assert (await asked).status_code == 409
        await eventually(lambda: worker.cancelled == 1)


def disconnects() -> float:
    return REGISTRY.get_sample_value("patchbay_edge_disconnects_total") or 0


@pytest.mark.parametrize("path", [RUNS, "/api/v1/token-count", f"/codebuff/login/{'0' * 24}-0000-0000"])
async def test_a_client_that_leaves_in_its_request_is_no_failure(
    start_edge: StartEdge, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    async with start_edge() as edge:
        gone = disconnects()
        _, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{".encode())
        await writer.drain()
        writer.close()
        await eventually(lambda: disconnects() == gone + 1)
    assert not [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


async def test_what_is_no_conversation_is_counted_or_refused(start_edge: StartEdge) -> None:
    async with start_edge() as edge:
        odd = {"system": {"type": []}, "messages": [[], {"type": {}}, 1, None]}
        assert (await edge.client.post("/api/v1/token-count", json=odd)).json()["inputTokens"] < 40
        # So large a conversation fits no model, and takes long to look through: the client estimates it itself.
        refused = await edge.client.post("/api/v1/token-count", content=b" " * (16 * 1024 * 1024 + 1))
        assert refused.status_code == 413


async def test_others_go_on_while_tokens_are_counted(start_edge: StartEdge) -> None:
    async with start_edge() as edge:
        body = b'{"messages":[' + b"[]," * 300_000 + b"1]}"
        counting = asyncio.create_task(edge.client.post("/api/v1/token-count", content=body, timeout=60))
        answered = 0
        while not counting.done():
            assert (await edge.client.get("/api/healthz")).status_code == 200
            answered += 1
        assert (await counting).json()["inputTokens"] == 1_200_007
        assert answered > 5


async def test_counts_tokens(start_edge: StartEdge) -> None:
    async with start_edge() as edge:
        small = {"messages": [{"role": "user", "content": "x" * 300}], "system": "s", "model": "m"}
        large = {"messages": [{"role": "user", "content": [{"type": "image", "image": "x" * 90_000}]}]}
        assert 100 <= (await edge.client.post("/api/v1/token-count", json=small)).json()["inputTokens"] < 130
        assert 1600 <= (await edge.client.post("/api/v1/token-count", json=large)).json()["inputTokens"] < 1630
        assert (await edge.client.post("/api/v1/token-count", content="{")).status_code == 400


@pytest.mark.parametrize(
    ("path", "body"), [("web-search", {"query": "q"}), ("docs-search", {"libraryTitle": "l", "topic": "t"})]
)
async def test_searches_that_are_not_configured_say_so(start_edge: StartEdge, path: str, body: object) -> None:
    async with start_edge() as edge:
        refused = await edge.client.post(f"/api/v1/{path}", json=body)
        assert refused.status_code == 400
        assert refused.json() == {"error": "This search is not configured on this server."}
        assert (await edge.client.post(f"/api/v1/{path}", json={})).status_code == 400


async def test_a_search_ends_before_its_client_asks_again(
    start_edge: StartEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert http.SEARCH_SECONDS < 30
    monkeypatch.setattr(http, "SEARCH_SECONDS", 0.1)

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with start_edge(codebuff={"web_search": {"url": url}}) as edge:
            late = await edge.client.post("/api/v1/web-search", json={"query": "q"})
    # A status that it does not try again for.
    assert (late.status_code, late.json()) == (400, {"error": "The search service cannot be reached."})


async def test_nothing_is_there_when_it_is_not_enabled(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("hello")])
    async with start_edge(worker, codebuff={"enabled": False}) as edge:
        assert (await edge.client.get("/api/v1/me")).status_code == 404
        assert (await edge.client.post(RUNS, json={"action": "START", "agentId": "base"})).status_code == 404
