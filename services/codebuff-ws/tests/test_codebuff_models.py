from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import grpc
import pytest
from loop_fakes import FakeClient, session
from prometheus_client import REGISTRY

from patchbay.canonical import ROLE_USER, Block, Chat, ChatEvent, Message, Text, Usage
from patchbay.errors import OVERLOADED, UPSTREAM, Code, PatchbayError, make_error
from patchbay.settings import load
from patchbay.state.codebuff_runs import CodebuffRuns
from patchbay.state.connection import connect
from patchbay.state.registry import Announcer
from patchbay.telemetry import metrics
from patchbay.testing.eventually import eventually
from patchbay.testing.valkey import ValkeyProcess
from patchbay.testing.worker import BLOCK, FINISHED, HANG, STARTED, ScriptedWorker, Step, answer, failed, text
from patchbay.worker.runtime import Shared
from patchbay_codebuff_ws.loop import make_loop
from patchbay_codebuff_ws.models import Dispatch
from patchbay_codebuff_ws.ports import Prompt
from patchbay_proto.v1.provider_pb2 import Caller, Credential

CHAT = Chat(messages=[Message(role=ROLE_USER, blocks=[Block(text=Text(text="hi"))])], stream=True)
BACKENDS = {
    "a": {"kind": "openai-compatible", "base_url": "http://127.0.0.1:1", "credentials": "pass_through"},
    "b": {"kind": "openai-compatible", "base_url": "http://127.0.0.1:2", "credentials": "pass_through"},
}
ROUTES = [
    {"match": ["one"], "backend": "a", "model": "upstream-one", "fallbacks": ["b"]},
    {"match": ["mine"], "prefix": "/codebuff", "backend": "b"},
]
FLAGS = [
    *(f"--backends.{name}={json.dumps(backend)}" for name, backend in BACKENDS.items()),
    f"--routes={json.dumps(ROUTES)}",
]


@pytest.fixture(scope="module")
def valkey() -> AsyncIterator[ValkeyProcess]:
    with ValkeyProcess() as server:
        yield server  # type: ignore[misc]


@asynccontextmanager
async def dispatching(valkey: ValkeyProcess, *workers: ScriptedWorker) -> AsyncIterator[Dispatch]:
    redis = connect(valkey.url, timeout=5.0)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(redis.aclose)
        for worker in workers:
            await stack.enter_async_context(worker.serving())
            announcer = Announcer(redis, worker.record, timeout=5.0)
            await announcer.announce_now()
            stack.push_async_callback(announcer.withdraw)
        dispatch = Dispatch(load(FLAGS, {}), redis)
        stack.push_async_callback(dispatch.aclose)
        await dispatch.start()
        yield dispatch


async def said(dispatch: Dispatch, model: str, *, credential: Credential | None = None) -> str:
    stream = dispatch.stream(
        CHAT,
        model=model,
        caller=Caller(key_id="k"),
        request_id="r1",
        session_id="s1",
        credential=credential,
    )
    async with aclosing(stream) as windows:
        return "".join([event.text_delta.text async for events in windows for event in events])


async def test_a_chat_goes_where_the_routes_say(valkey: ValkeyProcess) -> None:
    worker = ScriptedWorker([answer("hello")], backends=(("a", ""), ("b", "")))
    async with dispatching(valkey, worker) as dispatch:
        assert await said(dispatch, "one") == "hello"
        assert await said(dispatch, "mine") == "hello"
        assert await said(dispatch, "b/other") == "hello"
    seen = [(request.backend, request.model) for request in worker.requests]
    assert seen == [("a", "upstream-one"), ("b", "mine"), ("b", "other")]
    first = worker.requests[0]
    assert (first.caller.key_id, first.request_id, first.session_id) == ("k", "r1", "s1")
    assert first.chat == CHAT


async def test_another_backend_answers_when_the_first_cannot(valkey: ValkeyProcess) -> None:
    busy = failed(make_error(OVERLOADED, "busy", retry_after=60))
    first = ScriptedWorker([[busy]], id="w1", backends=(("a", ""),))
    second = ScriptedWorker([answer("from b")], id="w2", backends=(("b", ""),))
    secret = Credential(scheme=Credential.SCHEME_BEARER, secret="own")
    async with dispatching(valkey, first, second) as dispatch:
        assert await said(dispatch, "one", credential=secret) == "from b"
    # The caller's credential is for the provider that was meant.
    assert first.requests[0].credential.secret == "own"
    assert not second.requests[0].HasField("credential")


async def test_a_dead_replica_is_passed_over(valkey: ValkeyProcess) -> None:
    dead = ScriptedWorker([[grpc.StatusCode.UNAVAILABLE]], id="w1")
    live = ScriptedWorker([answer("hello")], id="w2")
    async with dispatching(valkey, dead, live) as dispatch:
        for _ in range(4):
            assert await said(dispatch, "one") == "hello"
    assert len(live.requests) == 4


@pytest.mark.parametrize(
    "script",
    [
        [[STARTED, BLOCK, text("par")], failed(make_error(UPSTREAM, "it broke"))],
        [[STARTED, BLOCK, text("par")]],
        [[STARTED, BLOCK, text("par")], grpc.StatusCode.UNAVAILABLE],
    ],
)
async def test_an_answer_that_breaks_is_an_error(valkey: ValkeyProcess, script: list[Step]) -> None:
    worker = ScriptedWorker([script])
    async with dispatching(valkey, worker) as dispatch:
        with pytest.raises(PatchbayError):
            await said(dispatch, "one")
    # What the client has seen of it is not asked for again.
    assert len(worker.requests) == 1


async def test_what_came_with_an_error_comes_before_it(valkey: ValkeyProcess) -> None:
    broken = ScriptedWorker([[[STARTED, BLOCK, text("so"), *failed(make_error(UPSTREAM, "broken"))]]])
    async with dispatching(valkey, broken) as dispatch:
        stream = dispatch.stream(CHAT, model="one", caller=Caller(), request_id="r1", session_id="s1")
        async with aclosing(stream) as windows:
            assert "so" in [event.text_delta.text for event in await anext(windows)]
            with pytest.raises(PatchbayError, match="broken"):
                await anext(windows)


async def test_closing_the_stream_stops_the_upstream(valkey: ValkeyProcess) -> None:
    worker = ScriptedWorker([[[STARTED, BLOCK, text("par")], HANG]])
    async with dispatching(valkey, worker) as dispatch:
        task = asyncio.create_task(said(dispatch, "one"))
        await eventually(lambda: worker.running and worker.played)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: worker.cancelled)


async def test_the_loop_of_a_replica_answers_prompts(valkey: ValkeyProcess) -> None:
    redis = connect(valkey.url, timeout=5.0)
    worker = ScriptedWorker([answer("hello")])
    settings = load([*FLAGS, "--codebuff.models.default=one"], {})
    loop = make_loop(settings, Shared(redis=redis, worker_id="w"))
    announcer = Announcer(redis, worker.record, timeout=5.0)
    client = FakeClient()
    try:
        async with worker.serving():
            await announcer.announce_now()
            await loop.start()
            prompt = Prompt(prompt_id="p1", text="hi", session_state=session(), caller=Caller(key_id="k"), owner="o")
            result = await loop.run(prompt, client)
            await announcer.withdraw()
            run_id = result.session_state["mainAgentState"]["runId"]
            run = await CodebuffRuns(redis, ttl_seconds=60.0, timeout=5.0).find(run_id)
    finally:
        await loop.aclose()
        await redis.aclose()
    assert result.output == {"type": "lastMessage", "value": "hello"}
    assert client.text == "hello"
    [request] = worker.requests
    assert (request.backend, request.model, request.caller.key_id) == ("a", "upstream-one", "k")
    assert request.chat.tools
    # What ran is known to all replicas.
    assert run is not None
    assert run.end is not None
    assert (run.start.agent_id, run.start.owner, run.end.status) == ("base", "o", "completed")
    assert [step.number for step in run.steps] == [1]


async def test_each_answer_counts_once_for_its_caller(valkey: ValkeyProcess) -> None:
    usage = ChatEvent(usage=Usage(input_tokens=7, output_tokens=3, extensions={"openai": '{"cost": 0.05}'}))
    begun: Step = [STARTED, BLOCK, text("hello"), usage]
    worker = ScriptedWorker([failing(OVERLOADED), [begun, [usage, FINISHED]], [begun, *failing(UPSTREAM)]])
    before = counted()
    async with dispatching(valkey, worker) as dispatch:
        assert await said(dispatch, "one") == "hello"
        assert counted(before) == {"input": 7, "output": 3, "credits": 5}
        with pytest.raises(PatchbayError):
            await said(dispatch, "one")
    assert len(worker.requests) == 3
    assert counted(before) == {"input": 14, "output": 6, "credits": 10}


def failing(code: Code) -> list[Step]:
    return [failed(make_error(code, "no", retry_after=0))]


def counted(before: Mapping[str, float] | None = None) -> dict[str, float]:
    """What the metrics say that the caller of `said` has used at backend a, over `before`."""
    # Metrics have names for so many models, of which other tests may have used all.
    labels = {"key_id": "k", "backend": "a", "model": metrics.MODELS.label("upstream-one")}

    def value(name: str, **more: str) -> float:
        return REGISTRY.get_sample_value(f"patchbay_codebuff_{name}_total", labels | more) or 0.0

    now = {kind: value("tokens", kind=kind) for kind in ("input", "output")} | {"credits": value("credits")}
    return {kind: amount - (before or {}).get(kind, 0) for kind, amount in now.items()}
