"""Requests of any client for any upstream, and whether the upstream would take them."""

from __future__ import annotations

import json
import re
from typing import Any

from anthropic.types.beta import message_create_params
from openai.types.chat import completion_create_params
from pydantic import TypeAdapter

from patchbay.dialects.base import WrittenRequest
from patchbay.testing.dialect_pairs import DIALECTS, Json

# As the official SDKs describe a request.
_SHAPES: dict[str, TypeAdapter[Any]] = {
    "anthropic": TypeAdapter(message_create_params.MessageCreateParamsStreaming),
    "openai_chat": TypeAdapter(completion_create_params.CompletionCreateParamsStreaming),
}
_MODELS = {"anthropic": "claude-sonnet-4-5", "openai_chat": "gpt-5"}


def write_request(client: str, upstream: str, body: Json, model: str = "") -> WrittenRequest:
    dialect = DIALECTS[upstream]
    chat = DIALECTS[client].read_request(json.dumps(body).encode())
    chat.stream = True
    return dialect.write_request(chat, model or _MODELS[upstream], dialect.quirks)


def check_request(upstream: str, written: WrittenRequest) -> Json:
    """The body, once it is clear that the upstream takes it."""
    body: Json = json.loads(written.body)
    _SHAPES[upstream].validate_python(body)
    (_check_messages if upstream == "anthropic" else _check_chat)(body["messages"])
    return body


def _check_messages(messages: list[Json]) -> None:
    """Results come first in the message behind their calls, one for each; ids and names are in the API's letters."""
    waiting: list[str] = []
    for message in messages:
        content = message["content"]
        assert content
        results = [block["tool_use_id"] for block in content if block["type"] == "tool_result"]
        assert [block["type"] for block in content[: len(results)]] == ["tool_result"] * len(results)
        assert sorted(results) == sorted(waiting)
        waiting = [block["id"] for block in content if block["type"] == "tool_use"]
        for block in content:
            assert block["type"] != "text" or block["text"].strip()
            assert block["type"] != "tool_use" or re.fullmatch("[a-zA-Z0-9_-]{1,128}", block["name"])
    calls = [block["id"] for message in messages for block in message["content"] if block["type"] == "tool_use"]
    assert len(set(calls)) == len(calls)
    assert all(re.fullmatch("[a-zA-Z0-9_-]+", call) for call in calls)


def _check_chat(messages: list[Json]) -> None:
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
            continue
        assert not waiting
        assert message["content"] is not None or message.get("tool_calls")
        waiting = [call["id"] for call in message.get("tool_calls", ())]
        for call in message.get("tool_calls", ()):
            assert len(call["id"]) <= 40
            assert len(call["function"]["name"]) <= 64
    assert not waiting
