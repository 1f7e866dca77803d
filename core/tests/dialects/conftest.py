"""What the tests of pairs of dialects share: the pipeline of an answer, and the official SDKs as its clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from patchbay.canonical import ChatEvents
from patchbay.dialects import anthropic as anthropic_dialect
from patchbay.dialects import openai_chat
from patchbay.dialects.base import AnswerOptions, Dialect, ReadOptions
from patchbay.errors import PatchbayError

DIALECTS: Mapping[str, Dialect[Any]] = {
    dialect.name: dialect for dialect in (anthropic_dialect.DIALECT, openai_chat.DIALECT)
}
_MESSAGES: Any = [{"role": "user", "content": "hi"}]


def _windows(upstream: str, pieces: Iterable[bytes], names: Mapping[str, str]) -> list[ChatEvents]:
    """What the worker sends: the events of each piece of the upstream's stream, through the wire's own bytes."""
    reader = DIALECTS[upstream].read_events(ReadOptions(names=names))
    windows = [ChatEvents(events=reader.feed(piece)) for piece in pieces]
    windows.append(ChatEvents(events=reader.close()))
    return [ChatEvents.FromString(window.SerializeToString()) for window in windows]


def _write(client: str, windows: Iterable[ChatEvents], *, stream: bool) -> bytes:
    options = AnswerOptions(stream=stream, include_usage=True, model="asked", fallback_id="fallback", created=9)
    writer = DIALECTS[client].write_events(options)
    return b"".join([writer.feed(window.events) for window in windows]) + writer.close()


def _transport(status: int, body: bytes, content_type: str) -> httpx2.Client:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=body, headers={"content-type": content_type})

    return httpx2.Client(transport=httpx2.MockTransport(answer))


def _parse(client: str, body: bytes, *, stream: bool, status: int = 200) -> dict[str, Any]:
    """What the client's official SDK makes of an answer."""
    transport = _transport(status, body, "text/event-stream" if stream else "application/json")
    if client == "anthropic":
        messages = anthropic.Anthropic(api_key="none", base_url="http://t", http_client=transport, max_retries=0).beta
        if not stream:
            return messages.messages.create(model="m", max_tokens=9, messages=_MESSAGES).to_dict(mode="json")
        with messages.messages.stream(model="m", max_tokens=9, messages=_MESSAGES) as events:
            return events.get_final_message().to_dict(mode="json")
    completions = openai.OpenAI(api_key="none", base_url="http://t", http_client=transport, max_retries=0).chat
    if not stream:
        return completions.completions.create(model="m", messages=_MESSAGES).to_dict(mode="json")
    with completions.completions.stream(
        model="m", messages=_MESSAGES, stream_options={"include_usage": True}
    ) as chunks:
        for _ in chunks:
            pass
        return chunks.current_completion_snapshot.to_dict(mode="json")


def _answer(
    upstream: str,
    pieces: Iterable[bytes],
    client: str,
    *,
    stream: bool,
    names: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """An upstream's stream as the client's SDK has it in the end.

    Raises:
        anthropic.APIError, openai.APIError: The SDK's own exceptions.
    """
    windows = _windows(upstream, pieces, names or {})
    try:
        body, status = _write(client, windows, stream=stream), 200
    except PatchbayError as error:
        written = DIALECTS[client].errors.write(error.error, "req_1")
        return _parse(client, written.body, stream=False, status=written.status)
    return _parse(client, body, stream=stream, status=status)


@pytest.fixture(scope="session")
def dialects() -> Mapping[str, Dialect[Any]]:
    return DIALECTS


@pytest.fixture(scope="session")
def answer() -> Callable[..., dict[str, Any]]:
    return _answer
