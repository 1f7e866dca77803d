"""An operator's messages to all who follow a topic, and a caller's usage, over an edge and two replicas."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from patchbay.testing.cluster import Cluster
from patchbay.testing.eventually import eventually, wait_until
from patchbay.testing.valkey import ValkeyProcess

Json: TypeAlias = dict[str, Any]

KEYS = [{"key": "pb-one", "id": "k1"}, {"key": "pb-ops", "id": "ops", "operator": True}]
ONE, OPS = ({"authorization": f"Bearer pb-{name}"} for name in ("one", "ops"))
TOPIC = "team/news"
PATH = f"/v1/codebuff/topics/{TOPIC}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One edge and two replicas of codebuff-ws; nothing here asks a model."""
    config: Json = {
        "backends": {"a": {"kind": "openai-compatible", "base_url": "http://127.0.0.1:1"}, "default_backend": "a"},
        "security": {"require_api_key": True, "api_keys": KEYS},
        "redis": {"timeout_seconds": 5},
    }
    with ValkeyProcess() as valkey:
        running = Cluster(config, redis_url=valkey.url, kinds=("codebuff-ws",))
        try:
            for _ in range(2):
                running.add_worker("codebuff-ws")
            edge = running.add_edge()
            wait_until(lambda: running.ready(edge), what="the edge", log=running.logs)
            yield running
        finally:
            running.stop()


class Follower:
    """A client's socket, and what came to it of `news`."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.news: list[Json] = []
        self.inits: list[Json] = []
        self.acks = 0
        self.ended = 0

    async def say(self, **message: Any) -> None:
        await self._socket.send(json.dumps({"txid": 0, **message}))

    async def act(self, kind: str, **data: Any) -> None:
        await self.say(type="action", data={"type": kind, "fingerprintId": "f", "authToken": "pb-one", **data})

    async def listen(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            self.acks += message["type"] == "ack"
            data = message.get("data", {})
            kinds = {"news": self.news, "init-response": self.inits}
            kinds.get(data.get("type"), []).append(data)
            self.ended += data.get("type") == "prompt-error"


@asynccontextmanager
async def follower(cluster: Cluster, prompt_id: str) -> AsyncIterator[Follower]:
    """A socket that follows the topic and has had one prompt, of an agent that there is not."""
    url = cluster.url.replace("http:", "ws:") + "/ws"
    async with connect(url) as socket:
        one = Follower(socket)
        listening = asyncio.create_task(one.listen())
        try:
            await one.say(type="subscribe", topics=[TOPIC, "other"])
            await one.act("prompt", promptId=prompt_id, prompt="hi", sessionState={}, agentId="no-such-agent")
            await eventually(lambda: one.ended, seconds=20)
            yield one
        finally:
            listening.cancel()
            await asyncio.wait((listening,))


def on_both_replicas(cluster: Cluster, *prompt_ids: str) -> bool:
    return all(any(name in worker.output() for name in prompt_ids) for worker in cluster.workers["codebuff-ws"])


async def test_an_operators_message_reaches_followers_at_all_replicas(cluster: Cluster) -> None:
    async with httpx.AsyncClient(base_url=cluster.url, timeout=10) as client, follower(cluster, "prompt-a") as a:
        # The edge gives a socket to the replica that has fewer, once it knows of both.
        tries = 0
        while True:
            tries += 1
            async with follower(cluster, f"prompt-b{tries}") as b:
                if not on_both_replicas(cluster, "prompt-a", f"prompt-b{tries}"):
                    assert tries < 50, cluster.logs()
                    continue
                await _tells(client, a, b)
                break


async def _tells(client: httpx.AsyncClient, a: Follower, b: Follower) -> None:
    async def heard_by_both() -> bool:
        # A replica hears nothing of what was published before it listened.
        said = await client.post(PATH, json={"type": "news", "number": 0}, headers=OPS)
        assert (said.status_code, said.json()) == (202, {"topic": TOPIC})
        return bool(a.news and b.news)

    await eventually(heard_by_both, seconds=20)
    for refused, code in (
        (await client.post(PATH, json={"type": "news", "number": 9}), 401),
        (await client.post(PATH, json={"type": "news", "number": 9}, headers=ONE), 403),
        (await client.post(PATH, content='{"type": "news"}', headers=OPS), 403),
        (await client.post(PATH, json=["news"], headers=OPS), 400),
        (await client.post(f"/v1/codebuff/topics/{'x' * 1001}", json={}, headers=OPS), 400),
    ):
        assert refused.status_code == code, refused.text
    assert (await client.post("/v1/codebuff/topics/else", json={"type": "news"}, headers=OPS)).status_code == 202
    acks = a.acks
    await a.say(type="unsubscribe", topics=[TOPIC])
    await eventually(lambda: a.acks > acks)
    await client.post("/v1/codebuff/topics/other", json={"type": "news", "number": 1, "text": "é"}, headers=OPS)
    await client.post(PATH, json={"type": "news", "number": 2}, headers=OPS)
    await client.post("/v1/codebuff/topics/other", json={"type": "news", "number": 3}, headers=OPS)
    for one in (a, b):
        await eventually(lambda one=one: one.news[-1]["number"] == 3)  # type: ignore[misc]
    told = [[news for news in one.news if news["number"]] for one in (a, b)]
    first, last = {"type": "news", "number": 1, "text": "é"}, {"type": "news", "number": 3}
    assert told == [[first, last], [first, {"type": "news", "number": 2}, last]]


async def test_usage_is_one_for_sockets_and_http(cluster: Cluster) -> None:
    async with httpx.AsyncClient(base_url=cluster.url, timeout=10, headers=ONE) as client:
        start = {"action": "START", "agentId": "base", "ancestorRunIds": []}
        run_id = (await client.post("/api/v1/agent-runs", json=start)).json()["runId"]
        finish = {"action": "FINISH", "runId": run_id, "directCredits": 4, "totalCredits": 4}
        assert (await client.post("/api/v1/agent-runs", json=finish)).status_code == 200
        over_http = (await client.get("/api/v1/usage")).json()
        async with follower(cluster, "prompt-c") as one:
            await one.act("init", fileContext={})
            [over_socket] = await eventually(lambda: one.inits)
        assert over_http == {**over_socket, "type": "usage-response"}
        assert over_http["usage"] == 4
