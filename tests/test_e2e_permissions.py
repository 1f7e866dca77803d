"""Permission requests over two edges: asked anywhere, seen everywhere, answered once."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import claude_agent_sdk
import httpx
import msgspec
import pytest
from conftest import Config

from patchbay.dialects.sse import FrameSplitter, parse_frames
from patchbay.state.connection import connect
from patchbay.state.permissions import Permissions
from patchbay.testing.cluster import Cluster, ServiceProcess
from patchbay.testing.eventually import eventually
from patchbay.testing.valkey import ValkeyProcess

CLAUDE = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"

OPERATOR = {"x-api-key": "boss-key"}
ALICE = {"x-api-key": "alice-key"}
QUESTION = {"command": "rm -rf build", "timeout": 1.0}

KILLED = textwrap.dedent(
    """
    import asyncio, sys, msgspec
    from patchbay.state.connection import connect
    from patchbay.state.permissions import Permissions
    asyncio.run(Permissions(connect(sys.argv[1])).ask(
        backend="claude", session="s", key_id="alice", worker_id="w", tool_name="Bash",
        input=msgspec.Raw(b"{}"), timeout_seconds=600,
    ))
    """
)


# An MCP server with one tool, which asks the edge (argv: its URL and the tool call's key).
PROMPT_TOOL = textwrap.dedent(
    """
    import json, sys, urllib.request
    schema = {"type": "object", "properties": {"tool_name": {"type": "string"}, "input": {"type": "object"}}}
    for line in sys.stdin:
        call = json.loads(line)
        if "id" not in call:
            continue
        if call["method"] == "initialize":
            result = {"protocolVersion": call["params"]["protocolVersion"], "capabilities": {"tools": {}},
                      "serverInfo": {"name": "patchbay", "version": "1"}}
        elif call["method"] == "tools/list":
            result = {"tools": [{"name": "ask", "description": "Asks", "inputSchema": schema}]}
        elif call["method"] == "tools/call":
            body = json.dumps(call["params"]["arguments"]).encode()
            headers = {"content-type": "application/json", "x-api-key": sys.argv[2]}
            question = urllib.request.Request(sys.argv[1] + "/mcp/permission/check", body, headers)
            with urllib.request.urlopen(question) as answer:
                result = {"content": [{"type": "text", "text": answer.read().decode()}]}
        else:
            result = {}
        print(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result}), flush=True)
    """
)


@pytest.fixture(scope="module")
def pair(shared_valkey: ValkeyProcess, config_for: Callable[..., Config]) -> Iterator[tuple[Cluster, str]]:
    """Two edges, and the Redis they share."""
    config = config_for(
        security={
            "require_api_key": True,
            "api_keys": [
                {"key": "boss-key", "id": "boss", "operator": True},
                {"key": "alice-key", "id": "alice"},
            ],
        }
    )
    url = shared_valkey.url.removesuffix("0") + "4"
    with Cluster(config, redis_url=url, edges=2) as cluster:
        yield cluster, url


@pytest.fixture
async def worker(pair: tuple[Cluster, str]) -> AsyncIterator[Permissions]:
    """Asks as a worker does."""
    redis = connect(pair[1])
    yield Permissions(redis)
    await redis.aclose()


def ask(worker: Permissions, **changed: Any) -> asyncio.Task[Any]:
    question = {
        "backend": "claude",
        "session": "s-1",
        "key_id": "alice",
        "worker_id": "w1",
        "tool_name": "Bash",
        "input": msgspec.Raw(json.dumps(QUESTION).encode()),
        "timeout_seconds": 60.0,
        **changed,
    }
    return asyncio.ensure_future(worker.ask(**question))


Events = AsyncIterator[tuple[str, dict[str, Any]]]


@asynccontextmanager
async def stream(edge: ServiceProcess, headers: dict[str, str] = OPERATOR) -> AsyncIterator[Events]:
    async with (
        httpx.AsyncClient(base_url=edge.url, timeout=30) as client,
        client.stream("GET", "/permissions/stream", headers=headers) as response,
    ):
        assert response.status_code == 200

        async def events() -> Events:
            splitter = FrameSplitter()
            async for data in response.aiter_bytes():
                for frame in parse_frames(splitter.feed(data)):
                    yield frame.event.decode(), json.loads(frame.data)

        async with aclosing(events()) as found:
            yield found


async def respond(edge: ServiceProcess, request_id: str, answer: dict[str, Any]) -> httpx.Response:
    async with httpx.AsyncClient(base_url=edge.url) as client:
        return await client.post(f"/permissions/{request_id}/respond", json=answer, headers=OPERATOR)


async def test_a_workers_question_is_seen_on_both_edges_and_answered_on_either(
    pair: tuple[Cluster, str], worker: Permissions
) -> None:
    first, second = pair[0].edges
    async with stream(first) as here, stream(second) as there, stream(second, ALICE) as alices:
        for answering, answer in (
            (first, {"decision": "allow", "updated_input": {"command": "ls"}, "reason": "safer"}),
            (second, {"decision": "deny", "reason": "not today"}),
        ):
            asked = ask(worker)
            kind, request = await anext(here)
            assert kind == "permission_request"
            assert request.keys() == {"id", "backend", "session", "tool_name", "input", "created_at", "expires_at"}
            assert request["input"] == QUESTION
            assert await anext(there) == await anext(alices) == ("permission_request", request)
            answered = await respond(answering, request["id"], answer)
            assert answered.status_code == 200
            resolution = {"id": request["id"], "decision": answer["decision"], "reason": answer["reason"], "by": "boss"}
            assert await anext(here) == await anext(there) == await anext(alices) == ("permission_resolved", resolution)
            decision = await asked
            assert (decision.allowed, decision.reason) == (answer["decision"] == "allow", answer["reason"])
            assert (decision.updated_input is not None) == ("updated_input" in answer)


async def test_claude_code_elsewhere_asks_on_one_edge_and_is_answered_on_the_other(pair: tuple[Cluster, str]) -> None:
    first, second = pair[0].edges
    async with stream(second) as there, httpx.AsyncClient(base_url=first.url, timeout=30) as client:
        body = {"tool_name": "Write", "input": QUESTION, "tool_use_id": "toolu_1"}
        headers = {**ALICE, "x-claude-code-session-id": "cc-1"}
        asked = asyncio.ensure_future(client.post("/mcp/permission/check", json=body, headers=headers))
        _, request = await anext(there)
        assert (request["backend"], request["session"], request["tool_name"]) == ("mcp", "cc-1", "Write")
        assert (await respond(second, request["id"], {"allowed": True})).status_code == 200
        assert (await asked).json() == {"behavior": "allow", "updatedInput": QUESTION}


@pytest.mark.parametrize("answer", ["allow", "changed", "deny"])
async def test_the_real_claude_asks_through_its_permission_prompt_tool(
    pair: tuple[Cluster, str], tmp_path: Path, answer: str
) -> None:
    assert CLAUDE.exists(), "no claude program; install it: pip install --force-reinstall claude-agent-sdk"
    first, second = pair[0].edges
    note, other = tmp_path / "note.txt", tmp_path / "other.txt"
    call = {"file_path": str(note), "content": "ultramarine"}
    server = {"command": sys.executable, "args": ["-c", PROMPT_TOOL, first.url, "alice-key"]}
    claude = await asyncio.create_subprocess_exec(
        *(str(CLAUDE), "-p", f"Please use tool Write {json.dumps(call)}", "--model", "anthropic/standin"),
        *("--output-format", "json", "--permission-prompt-tool", "mcp__patchbay__ask"),
        *("--mcp-config", json.dumps({"mcpServers": {"patchbay": server}})),
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "ANTHROPIC_BASE_URL": first.url,
            "ANTHROPIC_API_KEY": "alice-key",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60), stream(second) as there:
            _, request = await anext(there)
            assert (request["backend"], request["tool_name"], request["input"]) == ("mcp", "Write", call)
            assert not note.exists()
            if answer == "deny":
                body: dict[str, Any] = {"decision": "deny", "reason": "never on a Thursday"}
            else:
                changed = {**call, "file_path": str(other)}
                body = {"decision": "allow"} | ({"updated_input": changed} if answer == "changed" else {})
            await respond(second, request["id"], body)
            output, _ = await claude.communicate()
    finally:
        if claude.returncode is None:
            claude.kill()
            await claude.wait()
    said = json.loads(output)
    assert (note.exists(), other.exists()) == (answer == "allow", answer == "changed")
    assert [denied["tool_name"] for denied in said["permission_denials"]] == ["Write"] * (answer == "deny")
    if answer == "deny":
        assert "never on a Thursday" in said["result"]


async def test_of_answers_on_both_edges_at_once_one_stands(pair: tuple[Cluster, str], worker: Permissions) -> None:
    first, second = pair[0].edges
    async with stream(first) as here:
        for _ in range(5):
            asked = ask(worker)
            _, request = await anext(here)
            answers = [{"decision": "allow"}, {"decision": "deny"}] * 4
            answered = await asyncio.gather(
                *(respond((first, second)[number % 2], request["id"], answer) for number, answer in enumerate(answers))
            )
            assert sorted(answer.status_code for answer in answered) == [200] + [409] * 7
            (stands,) = [answer.json()["decision"] for answer in answered if answer.status_code == 200]
            assert (await asked).allowed == (stands == "allow")
            _, resolution = await anext(here)
            assert resolution["decision"] == stands


async def test_nobody_answers(pair: tuple[Cluster, str], worker: Permissions) -> None:
    async with stream(pair[0].edges[1]) as there:
        asked = ask(worker, timeout_seconds=1.0)
        _, request = await anext(there)
        kind, resolution = await anext(there)
        assert (kind, resolution["id"], resolution["by"]) == ("permission_resolved", request["id"], "timeout")
        assert not (await asked).allowed
        assert (await respond(pair[0].edges[0], request["id"], {"decision": "allow"})).status_code == 409


async def test_what_a_killed_worker_asked_disappears_within_the_lease(pair: tuple[Cluster, str]) -> None:
    first, second = pair[0].edges
    async with stream(first) as here, stream(second) as there:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, pair[1], env={})
        try:
            _, request = await anext(here)
            assert await anext(there) == ("permission_request", request)
        finally:
            process.kill()
            await process.wait()
        killed = time.monotonic()
        for watcher in (here, there):
            kind, resolution = await anext(watcher)
            assert (kind, resolution["id"]) == ("permission_resolved", request["id"])
            assert (resolution["decision"], resolution["by"]) == ("deny", "lost")
        assert time.monotonic() - killed < 10.0 + 4.0
        refused = await respond(second, request["id"], {"decision": "allow"})
        assert refused.status_code == 409


async def test_an_edge_that_is_killed_takes_no_workers_question_with_it(
    pair: tuple[Cluster, str], worker: Permissions
) -> None:
    """What it asked for a client of its own is gone within the lease."""
    cluster, second = pair[0], pair[0].edges[1]
    dying = cluster.add_edge()
    try:
        await eventually(lambda: cluster.ready(dying), seconds=60, what="the third edge answers")
        async with stream(second) as there, httpx.AsyncClient(timeout=60) as client:
            async with stream(dying) as here:
                asked = ask(worker)
                _, workers = await anext(here)
                question = {"tool_name": "Bash", "input": {}}
                checked = asyncio.ensure_future(
                    client.post(dying.url + "/mcp/permission/check", json=question, headers=ALICE)
                )
                _, clients = await anext(here)
                assert [await anext(there), await anext(there)] == [
                    ("permission_request", workers),
                    ("permission_request", clients),
                ]
                dying.kill()
            with pytest.raises(httpx.TransportError):
                await checked
            assert (await respond(second, workers["id"], {"allowed": True})).status_code == 200
            assert (await asked).allowed
            assert (await anext(there))[1]["id"] == workers["id"]
            kind, resolution = await anext(there)
            assert (kind, resolution["id"], resolution["by"]) == ("permission_resolved", clients["id"], "lost")
    finally:
        if dying.alive:
            dying.kill()
        cluster.edges.remove(dying)


async def test_the_log_says_who_answered_and_not_what_was_asked(pair: tuple[Cluster, str], worker: Permissions) -> None:
    edge = pair[0].edges[0]
    async with stream(edge) as here:
        asked = ask(worker, session="for-the-log", input=msgspec.Raw(b'{"command":"very-private"}'))
        _, request = await anext(here)
        await respond(edge, request["id"], {"decision": "deny", "reason": "because"})
        await asked

    def line() -> dict[str, Any] | None:
        lines = (json.loads(text) for text in edge.output().splitlines() if "permission_resolved" in text)
        return next((said for said in lines if said["session"] == "for-the-log"), None)

    said = await eventually(line)
    assert said is not None
    assert (said["id"], said["decision"], said["by"], said["reason"]) == (request["id"], "deny", "boss", "because")
    assert "very-private" not in edge.output()
