"""Streams through Patchbay as the fault tests need them: many at once, watched delta by delta."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

# The four ways a client and an upstream can meet: (client's path, backend).
PAIRS = (
    ("/v1/messages", "anthropic"),
    ("/v1/messages", "openai"),
    ("/v1/chat/completions", "openai"),
    ("/v1/chat/completions", "anthropic"),
)


def script(**fields: object) -> str:
    """A model name that makes the stand-in play a script."""
    return "script:" + json.dumps(fields)


def body_for(model: str, text: str = "hello", *, stream: bool = True) -> dict[str, object]:
    """A request that every dialect here accepts."""
    return {
        "model": model,
        "stream": stream,
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": text}],
    }


@dataclass(slots=True)
class Seen:
    """What a client saw of one answer."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    finished: bool = False
    error: dict[str, object] | None = None
    pings: int = 0
    deltas: int = 0

    @property
    def complete(self) -> bool:
        return self.status == 200 and self.finished and self.error is None


@asynccontextmanager
async def open_client() -> AsyncIterator[httpx.AsyncClient]:
    """A client without limits or retries of its own."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=30, headers={"x-api-key": "made-up"}) as client:
        yield client


async def watch(
    client: httpx.AsyncClient,
    url: str,
    body: dict[str, object],
    *,
    seen: Seen | None = None,
    first: asyncio.Event | None = None,
    headers: dict[str, str] | None = None,
) -> Seen:
    """Streams one answer to its end; `first` is set at the first delta."""
    seen = seen or Seen()
    async with client.stream("POST", url, json=body, headers=headers) as response:
        seen.status = response.status_code
        seen.headers = dict(response.headers)
        if response.status_code != 200:
            seen.error = json.loads(await response.aread())["error"]
            return seen
        async for line in response.aiter_lines():
            _read_line(line, seen)
            if first is not None and seen.deltas:
                first.set()
    return seen


def _read_line(line: str, seen: Seen) -> None:
    if line.startswith(": ping") or line == "event: ping":
        seen.pings += 1
    if not line.startswith("data: "):
        return
    if line == "data: [DONE]":
        seen.finished = True
        return
    event = json.loads(line.removeprefix("data: "))
    if "error" in event:
        seen.error = event["error"]
        return
    piece = event.get("delta", {}).get("text")
    for choice in event.get("choices", ()):
        piece = choice["delta"].get("content")
    if piece:
        seen.text += piece
        seen.deltas += 1
    if event.get("type") == "message_stop":
        seen.finished = True
