"""Agent mode end to end: the official SDKs, two edges, two workers, the real `claude` program, a person who answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import anthropic
import httpx
import openai
import psutil
import pytest
from redis import Redis

from patchbay.testing.cluster import Cluster, ServiceProcess
from patchbay.testing.eventually import eventually, wait_until
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin.testing import StandinProcess

pytestmark = pytest.mark.timeout(120)

NOTE = "the colour of the day is ultramarine"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("work")
    (directory / "note.txt").write_text(NOTE + "\n")
    return directory


def config_of(url: str, work: Path, **agent: object) -> dict[str, object]:
    backend = {
        "kind": "claude-cli",
        "mode": "agent",
        "base_url": url,
        "api_key": "sk-ant-made-up",
        "cwd": str(work),
        "tools": ["Bash", "Read"],
        "allowed_tools": ["Read"],
        "pool": {"min_spare": 1, "max_processes": 4},
        **agent,
    }
    keys = [{"key": "boss-key", "id": "boss", "operator": True}, {"key": "alice-key", "id": "alice"}]
    return {"backends": {"coder": backend}, "security": {"api_keys": keys}}


@pytest.fixture(scope="module")
def cluster(shared_valkey: ValkeyProcess, standin: StandinProcess, work: Path) -> Iterator[Cluster]:
    """Two edges and two workers."""
    url = shared_valkey.url.removesuffix("0") + "5"
    with Cluster(config_of(standin.url, work), redis_url=url, edges=2, workers=2, kinds=("claude-worker",)) as running:
        yield running


def use_tool(name: str, **tool_input: object) -> str:
    return f"please use tool {name} {json.dumps(tool_input)}"


def cat(words: str = "cat note.txt; touch made") -> str:
    # What only reads, Claude Code does without asking.
    return use_tool("Bash", command=words, description="x")


async def ask(edge: ServiceProcess, prompt: str, *, session: str, key: str = "alice-key") -> httpx.Response:
    body = {"model": "standin", "max_tokens": 500, "messages": [{"role": "user", "content": prompt}]}
    headers = {"x-api-key": key, "anthropic-version": "2023-06-01", "x-patchbay-session": session}
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        return await client.post("/sdk/v1/messages", json=body, headers=headers)


async def pending(edge: ServiceProcess, session: str, key: str = "boss-key") -> dict[str, Any] | None:
    async with httpx.AsyncClient(base_url=edge.url) as client:
        listed = (await client.get("/permissions", headers={"x-api-key": key})).json()["data"]
    return next((request for request in listed if request["session"] == session), None)


async def respond(edge: ServiceProcess, request: dict[str, Any], answer: dict[str, Any], key: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=edge.url) as client:
        path = f"/permissions/{request['id']}/respond"
        return await client.post(path, json=answer, headers={"x-api-key": key})


async def test_asked_on_one_edge_answered_on_the_other(cluster: Cluster) -> None:
    first, second = cluster.edges
    answering = asyncio.create_task(ask(first, cat(), session="s-allow"))
    asked = await eventually(lambda: pending(second, "s-allow"), seconds=30, what="the question on the other edge")
    assert asked is not None
    assert asked.keys() == {"id", "backend", "session", "tool_name", "input", "created_at", "expires_at"}
    assert (asked["backend"], asked["tool_name"]) == ("coder", "Bash")
    assert asked["input"]["command"] == "cat note.txt; touch made"
    # Whose agent asks may answer for it.
    assert (await respond(second, asked, {"decision": "allow"}, "alice-key")).status_code == 200
    body = (await answering).json()
    assert [block["type"] for block in body["content"]] == ["mcp_tool_use", "mcp_tool_result", "text"]
    assert body["content"][1]["content"] == [{"type": "text", "text": NOTE}]
    assert body["stop_reason"] == "end_turn"


async def test_a_denial_reaches_the_agent_with_its_reason(cluster: Cluster, work: Path) -> None:
    first, second = cluster.edges
    answering = asyncio.create_task(ask(second, cat("touch denied"), session="s-deny"))
    asked = await eventually(lambda: pending(first, "s-deny"), seconds=30, what="the question")
    assert asked is not None
    await respond(first, asked, {"decision": "deny", "reason": "not on a Friday"}, "boss-key")
    body = (await answering).json()
    assert body["content"][1]["is_error"] is True
    assert "not on a Friday" in body["content"][-1]["text"]
    assert not (work / "denied").exists()


async def test_nobody_answers_for_somebody_elses_agent(cluster: Cluster) -> None:
    first, second = cluster.edges
    answering = asyncio.create_task(ask(first, cat(), session="s-boss", key="boss-key"))
    asked = await eventually(lambda: pending(second, "s-boss"), seconds=30, what="the question")
    assert asked is not None
    assert await pending(second, "s-boss", key="alice-key") is None
    assert (await respond(second, asked, {"decision": "allow"}, "alice-key")).status_code == 404
    await respond(second, asked, {"allowed": True}, "boss-key")
    assert (await answering).status_code == 200


def _is_stored(valkey: ValkeyProcess, words: str) -> bool:
    with Redis.from_url(valkey.url) as redis:
        names = list(redis.scan_iter("*:transcript:*"))
        return any(words.encode() in entry for name in names for entry in redis.lrange(name, 0, -1))


async def test_a_worker_killed_while_it_asks(standin: StandinProcess, valkey: ValkeyProcess, work: Path) -> None:
    config = config_of(standin.url, work)
    with Cluster(config, redis_url=valkey.url, edges=2, workers=1, kinds=("claude-worker",)) as cluster:
        first, second = cluster.edges
        [worker] = cluster.workers["claude-worker"]
        answering = asyncio.create_task(ask(first, cat("touch killed"), session="s-killed"))
        asked = await eventually(lambda: pending(second, "s-killed"), seconds=30, what="the question")
        assert asked is not None
        # What was said is stored beside the answer: the worker is killed once it is.
        await eventually(lambda: _is_stored(valkey, "touch killed"), seconds=10, what="the prompt in Redis")
        programs = [child for child in psutil.Process(worker.pid).children(recursive=True) if child.name() == "claude"]
        assert programs
        killed = time.monotonic()
        worker.kill()
        answer = await answering
        assert answer.status_code in (502, 503)
        assert answer.json()["type"] == "error"
        assert time.monotonic() - killed < 15

        async def gone() -> bool:
            return await pending(second, "s-killed") is None

        await eventually(gone, seconds=15, what="the question gone")
        refused = await respond(second, asked, {"decision": "allow"}, "boss-key")
        assert refused.status_code in (404, 409)
        wait_until(lambda: not any(program.is_running() for program in programs), what="no claude left", seconds=5)
        assert not (work / "killed").exists()

        # Another worker goes on with what was said.
        cluster.add_worker("claude-worker")
        wait_until(lambda: cluster.replicas(first, "coder") == 1, what="a new worker", log=cluster.logs)
        standin.reset()
        answer = await ask(first, "what now?", session="s-killed")
        assert answer.status_code == 200
        assert "touch killed" in json.dumps(standin.requests()[-1].body)


SdkClient = TypeVar("SdkClient", anthropic.AsyncAnthropic, openai.AsyncOpenAI)
Opened = Callable[[SdkClient], SdkClient]


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    """Closes the clients of a test at its end: left to the collector, they would fail in another test's loop."""
    async with AsyncExitStack() as stack:

        def keep(client: SdkClient) -> SdkClient:
            stack.push_async_callback(client.close)
            return client

        yield keep


async def test_a_conversation_survives_its_worker(cluster: Cluster, standin: StandinProcess, opened: Opened) -> None:
    standin.reset()
    first, second = cluster.edges
    client = opened(
        anthropic.AsyncAnthropic(
            base_url=first.url + "/sdk",
            api_key="alice-key",
            default_headers={"x-patchbay-session": "s-long"},
            max_retries=0,
        )
    )
    said: list[Any] = [{"role": "user", "content": use_tool("Read", file_path="note.txt")}]
    for words in ("second", "third"):
        async with client.messages.stream(model="standin", max_tokens=500, messages=said) as stream:
            message = await stream.get_final_message()
        assert message.stop_reason == "end_turn"
        said += [{"role": "assistant", "content": message.content}, {"role": "user", "content": words}]
    # Each of the workers goes, so that the one that has the conversation is among them.
    client = client.with_options(base_url=second.url + "/sdk")
    for number, worker in enumerate(list(cluster.workers["claude-worker"])):
        worker.kill()
        wait_until(lambda: cluster.replicas(second, "coder") == 1, what="one worker left", log=cluster.logs)
        before = len(standin.requests())
        message = await client.messages.create(model="standin", max_tokens=500, messages=said)
        assert message.content[-1].text.endswith(f"Your last message was: {said[-1]['content']}")
        told = json.dumps(standin.requests()[before].body)
        assert all(words in told for words in ("note.txt", "second", "third"))
        said += [{"role": "assistant", "content": message.content}, {"role": "user", "content": f"again {number}"}]
        cluster.add_worker("claude-worker")
        wait_until(lambda: cluster.replicas(second, "coder") == 2, what="two workers", log=cluster.logs)


async def test_an_openai_client_sees_the_tools_as_text(
    cluster: Cluster, standin: StandinProcess, opened: Opened
) -> None:
    standin.reset()
    url = cluster.edges[1].url + "/sdk/v1"
    client = opened(openai.AsyncOpenAI(base_url=url, api_key="alice-key", max_retries=0))
    prompt = use_tool("Read", file_path="note.txt")
    text = ""
    stream = await client.chat.completions.create(
        model="standin", messages=[{"role": "user", "content": prompt}], stream=True
    )
    finish = None
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
            assert not choice.delta.tool_calls
    assert finish == "stop"
    assert '<tool_use id="' in text
    assert text.count(NOTE) == 2
    assert text.index("</tool_result>") < text.index("The tool answered: ")
