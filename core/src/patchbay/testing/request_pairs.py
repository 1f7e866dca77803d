"""Requests of any client for any upstream, and whether the upstream would take them."""

from __future__ import annotations

import json
import re
from typing import Any

from anthropic.types.beta import message_create_params
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params
from pydantic import TypeAdapter

from patchbay.dialects.base import WrittenRequest
from patchbay.testing.dialect_pairs import DIALECTS, Json

# As the official SDKs describe a request.
_SHAPES: dict[str, TypeAdapter[Any]] = {
    "anthropic": TypeAdapter(message_create_params.MessageCreateParamsStreaming),
    "openai_chat": TypeAdapter(completion_create_params.CompletionCreateParamsStreaming),
    "openai_responses": TypeAdapter(response_create_params.ResponseCreateParamsStreaming),
}
_MODELS = {"anthropic": "claude-sonnet-4-5", "openai_chat": "gpt-5", "openai_responses": "gpt-5"}


def write_request(client: str, upstream: str, body: Json, model: str = "", quirks: object = None) -> WrittenRequest:
    chat = DIALECTS[client].read_request(json.dumps(body).encode())
    chat.stream = True
    dialect = DIALECTS[upstream]
    return dialect.write_request(chat, model or _MODELS[upstream], quirks or dialect.quirks)


def check_request(upstream: str, written: WrittenRequest) -> Json:
    """The body, once it is clear that the upstream takes it."""
    body: Json = json.loads(written.body)
    match upstream:
        case "anthropic":
            _SHAPES[upstream].validate_python(body)
            _check_messages(body["messages"])
        case "openai_chat":
            _SHAPES[upstream].validate_python(body)
            _check_chat(body["messages"])
        case _:
            _SHAPES[upstream].validate_python(body | {"input": [_identified(item) for item in body["input"]]})
            _check_items(body["input"])
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
            assert len(call[call["type"]]["name"]) <= 64
    assert not waiting


def _identified(item: Json) -> Json:
    """The item as the SDK's type has it, which wants ids that the server does not, and takes no null."""
    item = {name: value for name, value in item.items() if value is not None}
    if item["type"] == "message" and item["role"] == "assistant":
        return {"id": "msg_1", "status": "completed"} | item
    return {"id": "rs_1"} | item if item["type"] == "reasoning" else item


def _check_items(items: list[Json]) -> None:
    """Each call has one output, of its own kind, behind it; none is without its call."""
    waiting: dict[str, str] = {}
    seen: set[str] = set()
    for item in items:
        match item["type"]:
            case "function_call" | "custom_tool_call":
                assert item["call_id"] not in seen
                assert 0 < len(item["call_id"]) <= 64
                assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", item["name"])
                seen.add(item["call_id"])
                waiting[item["call_id"]] = item["type"]
            case "function_call_output" | "custom_tool_call_output":
                assert item["type"] == waiting.pop(item["call_id"]) + "_output"
            case "message" if item["role"] in ("user", "assistant"):
                assert item["role"] == "assistant" or not waiting
                assert item["content"]
            case "reasoning":
                assert item["encrypted_content"].startswith("gAAAA")
    assert not waiting
