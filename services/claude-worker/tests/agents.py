"""What the agent tests share: providers over a real Valkey, the stand-in and the real `claude` program."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from patchbay.canonical import ChatEvent
from patchbay.dialects.anthropic import DIALECT
from patchbay.settings import load
from patchbay.state.connection import Client
from patchbay.worker.runtime import Shared
from patchbay_claude_worker.agent.provider import AgentProvider
from patchbay_claude_worker.providers import build
from patchbay_proto.v1.provider_pb2 import Caller, ChatRequest

SYSTEM = "You work for the harbour office."


def request(
    *messages: tuple[str, str],
    session: str = "s1",
    key: str = "alice",
    model: str = "standin",
    client: str = "anthropic",
    named: bool = True,
    **fields: object,
) -> ChatRequest:
    """A request of these messages, each a role and a text; `named`: in a session named for us."""
    body = {
        "model": model,
        "max_tokens": 1000,
        "system": SYSTEM,
        "messages": [{"role": role, "content": text} for role, text in messages],
        **fields,
    }
    chat = DIALECT.read_request(json.dumps(body).encode())
    return ChatRequest(
        backend="agent",
        model=model,
        chat=chat,
        session_id=session,
        session_named=named and bool(session),
        caller=Caller(key_id=key),
        client_dialect=client,
    )


@asynccontextmanager
async def agent(
    redis: Client, url: str, cwd: object, *, worker: str = "w1", **config: object
) -> AsyncIterator[AgentProvider]:
    """A provider whose agents work in `cwd`."""
    backend = {
        "kind": "claude-cli",
        "mode": "agent",
        "cwd": str(cwd),
        "api_key": "sk-ant-made-up",
        "base_url": url,
        "pool": {"min_spare": 0, "max_processes": 3},
        **config,
    }
    settings = load([f"--backends.agent={json.dumps(backend)}"], {})
    [built] = build(settings, Shared(redis=redis, worker_id=worker))
    assert isinstance(built, AgentProvider)
    await built.start()
    try:
        yield built
    finally:
        await built.aclose()


async def answer(provider: AgentProvider, asked: ChatRequest) -> list[ChatEvent]:
    """All events of one turn."""
    async with aclosing(provider.chat(asked)) as events:
        return [event async for some in events for event in some]


def text_of(events: Sequence[ChatEvent]) -> str:
    return "".join(event.text_delta.text for event in events if event.HasField("text_delta"))


def opaque_of(events: Sequence[ChatEvent]) -> list[dict[str, object]]:
    """The blocks that only their dialect knows."""
    return [
        json.loads(event.block_start.opaque.json)
        for event in events
        if event.HasField("block_start") and event.block_start.HasField("opaque")
    ]


def use_tool(name: str, **tool_input: object) -> str:
    """Words that make the stand-in call a tool."""
    return f"please use tool {name} {json.dumps(tool_input)}"
