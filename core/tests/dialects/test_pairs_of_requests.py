"""Requests of real clients for upstreams of the other dialect: whole bodies, and nothing lost without a word."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from patchbay.dialects.tool_names import ClientTool
from patchbay.errors import InvalidRequest
from patchbay.testing.dialect_pairs import Json
from patchbay.testing.request_pairs import check_request, write_request

PNG = "iVBORw0KGgo="


LONG_NAME = "mcp__plugin_a_rather_long_name_of_a_server__and_an_even_longer_name_of_its_tool"

CLAUDE_CODE: Json = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 32000,
    "stream": True,
    "thinking": {"type": "enabled", "budget_tokens": 31999},
    "output_config": {"effort": "medium"},
    "temperature": 1,
    "metadata": {"user_id": "user_" + "0123456789abcdef" * 8},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.329.abc; cc_entrypoint=cli; cch=1a2b3;"},
        {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ],
    "tools": [
        {
            "name": "Read",
            "description": "Reads a file.",
            "input_schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {"file_path": {"type": "string"}, "limit": {"type": "integer", "exclusiveMinimum": 0}},
                "required": ["file_path"],
                "additionalProperties": False,
            },
            "eager_input_streaming": True,
        },
        {"name": LONG_NAME, "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}},
    ],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "messages": [
        {"role": "user", "content": "Look at a.py and b.png"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Both at once.", "signature": "EqQB"},
                {"type": "redacted_thinking", "data": "EmwK"},
                {"type": "text", "text": "I'll look.", "citations": None},
                {
                    "type": "tool_use",
                    "id": "toolu_01",
                    "name": "Read",
                    "input": {"file_path": "a.py"},
                    "caller": {"type": "direct"},
                },
                {"type": "tool_use", "id": "toolu_02", "name": "Read", "input": {"file_path": "b.png"}},
                {"type": "tool_use", "id": "toolu_03", "name": LONG_NAME, "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_01", "content": "1\tprint()", "is_error": False},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_02",
                    "content": [
                        {"type": "text", "text": "b.png:"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                    ],
                },
                {"type": "tool_result", "tool_use_id": "toolu_03", "content": "No such thing", "is_error": True},
                {
                    "type": "text",
                    "text": "<system-reminder>\nstay calm\n</system-reminder>",
                    "cache_control": {"type": "ephemeral"},
                },
            ],
        },
    ],
}

SHORT_NAME = "mcp__plugin_a_rather_long_name_of_a_server__and_an_even_longer_name_of_its_tool"[:55] + "_6a1e4f1c"

CLAUDE_CODE_AT_OPENAI: Json = {
    "model": "gpt-5",
    "max_completion_tokens": 32000,
    "stream": True,
    "stream_options": {"include_usage": True},
    "reasoning_effort": "medium",
    "temperature": 1,
    "user": "SHORTENED",
    "parallel_tool_calls": False,
    "tool_choice": "auto",
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "Read",
                "description": "Reads a file.",
                "parameters": CLAUDE_CODE["tools"][0]["input_schema"],
            },
        },
        {"type": "function", "function": {"name": "SHORTENED", "parameters": {"properties": {}, "type": "object"}}},
    ],
    "messages": [
        {
            "role": "system",
            "content": [{"type": "text", "text": "You are Claude Code."}, {"type": "text", "text": "Be brief."}],
        },
        {"role": "user", "content": "Look at a.py and b.png"},
        {
            "role": "assistant",
            "content": "I'll look.",
            "tool_calls": [
                {
                    "id": "toolu_01",
                    "type": "function",
                    "function": {"name": "Read", "arguments": '{"file_path": "a.py"}'},
                },
                {
                    "id": "toolu_02",
                    "type": "function",
                    "function": {"name": "Read", "arguments": '{"file_path": "b.png"}'},
                },
                {"id": "toolu_03", "type": "function", "function": {"name": "SHORTENED", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "toolu_01", "content": "1\tprint()"},
        {"role": "tool", "tool_call_id": "toolu_02", "content": "b.png:"},
        {"role": "tool", "tool_call_id": "toolu_03", "content": "No such thing"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Content of the result of tool call toolu_02:"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                {"type": "text", "text": "<system-reminder>\nstay calm\n</system-reminder>"},
            ],
        },
    ],
}


def test_claude_code_at_openai() -> None:
    """No warning: a backend with `strict_parameters` takes what Claude Code sends with every request."""
    written = write_request("anthropic", "openai_chat", CLAUDE_CODE)
    assert written.warnings == ()
    body = check_request("openai_chat", written)
    ((short, long),) = written.names.items()
    assert (len(short), long) == (64, ClientTool(LONG_NAME))
    assert len(body["user"]) == 64
    text = written.body.decode().replace(short, "SHORTENED").replace(body["user"], "SHORTENED")
    assert json.loads(text) == CLAUDE_CODE_AT_OPENAI


AGENTS_SDK: Json = {
    "model": "gpt-5",
    "messages": [
        {"role": "developer", "content": "You are an agent."},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "What is it like there?"}]},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "audio": None,
            "function_call": None,
            "annotations": [],
            "tool_calls": [
                {
                    "id": "call_0",
                    "type": "function",
                    "function": {"name": "get.weather", "arguments": '{"city":"Rome"}'},
                },
                {"id": "functions.time:1", "type": "function", "function": {"name": "time", "arguments": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_0", "content": [{"type": "text", "text": "Sunny"}]},
        {"role": "tool", "tool_call_id": "functions.time:1", "content": "noon"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "call_0", "type": "function", "function": {"name": "time", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_0", "content": ""},
        {"role": "system", "content": "Answer in JSON."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And this?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "high"}},
            ],
        },
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "get.weather",
                "description": "Says the weather.",
                "strict": True,
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string", "minLength": 1}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
            },
        },
        {"type": "function", "function": {"name": "time"}},
    ],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "answer",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"maximum": {"type": "number", "maximum": 9}},
                "required": ["maximum"],
                "additionalProperties": False,
            },
        },
    },
    "max_completion_tokens": 4000,
    "temperature": 0.2,
    "stop": ["END", "\n"],
    "store": False,
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "stream_options": {"include_usage": True, "include_obfuscation": False},
    "logit_bias": {},
    "user": "u",
}


def test_an_agents_sdk_at_anthropic() -> None:
    written = write_request("openai_chat", "anthropic", AGENTS_SDK)
    assert [warning.parameter for warning in written.warnings] == [
        "name",
        "messages",
        "stop",
        "response_format",
        "tools",
    ]
    body = check_request("anthropic", written)
    ((weather, name),) = written.names.items()
    assert name == ClientTool("get.weather")
    first, odd = (block["id"] for block in body["messages"][1]["content"])
    (again,) = (block["id"] for block in body["messages"][3]["content"])
    assert first == "call_0"
    assert body == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 4000,
        "stream": True,
        "temperature": 0.2,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u"},
        "system": [{"type": "text", "text": "You are an agent."}],
        "output_config": {
            "format": {
                "type": "json_schema",
                "schema": {
                    "type": "object",
                    "properties": {"maximum": {"type": "number"}},
                    "required": ["maximum"],
                    "additionalProperties": False,
                },
            }
        },
        "tools": [
            {
                "name": weather,
                "description": "Says the weather.",
                "input_schema": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
                "strict": True,
            },
            {"name": "time", "input_schema": {"type": "object"}},
        ],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What is it like there?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "call_0", "name": weather, "input": {"city": "Rome"}},
                    {"type": "tool_use", "id": odd, "name": "time", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_0", "content": [{"type": "text", "text": "Sunny"}]},
                    {"type": "tool_result", "tool_use_id": odd, "content": [{"type": "text", "text": "noon"}]},
                ],
            },
            {"role": "assistant", "content": [{"type": "tool_use", "id": again, "name": "time", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": again}]},
            {"role": "user", "content": [{"type": "text", "text": "Answer in JSON."}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "And this?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                ],
            },
        ],
    }


# What may be left out without a word, as `patchbay.dialects.hints` says; and the model, which is the caller's to read.
SILENT = {
    "anthropic": re.compile(
        r"model|stream|context_management.*|.*cache_control.*|.*eager_input_streaming|.*caller.*|.*signature|.*\.data"
        r"|.*\.thinking|system\.0\.text|.*is_error|thinking.*"
    ),
    "openai_chat": re.compile(
        r"model|stream|stream_options.*|store|prompt_cache_key|safety_identifier|.*\.detail"
        # Required by the protocol, and with no meaning to the other.
        r"|response_format\.json_schema\.(name|strict)"
    ),
}


def leaves(value: object, path: str = "") -> Iterator[str]:
    if isinstance(value, dict | list) and value:
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{path}.{name}" if path else str(name))
    elif value not in (None, [], {}):
        yield path


def changed(body: Json, path: str, *, remove: bool) -> Json:
    """The body with one of its values changed, or without it."""
    body = copy.deepcopy(body)
    *way, last = path.split(".")
    place: Any = body
    for name in way:
        place = place[int(name) if isinstance(place, list) else name]
    key: Any = int(last) if isinstance(place, list) else last
    old = place[key]
    if remove:
        del place[key]
    elif isinstance(old, bool):
        place[key] = not old
    else:
        place[key] = old + ("x" if isinstance(old, str) else 1)
    return body


LOSSES = [
    pytest.param(client, upstream, body, path, id=f"{client}-{path}")
    for client, upstream, body in (("anthropic", "openai_chat", CLAUDE_CODE), ("openai_chat", "anthropic", AGENTS_SDK))
    for path in leaves(body)
]


@pytest.mark.parametrize(("client", "upstream", "body", "path"), LOSSES)
def test_nothing_is_lost_without_a_word(client: str, upstream: str, body: Json, path: str) -> None:
    """Whatever a client changes or leaves out shows in the upstream's body or in a warning, or is refused."""
    if SILENT[client].fullmatch(path):
        return
    before = write_request(client, upstream, body)
    refusals = 0
    for remove in (False, True):
        try:
            after = write_request(client, upstream, changed(body, path, remove=remove))
        except InvalidRequest:
            refusals += 1
            continue
        if (after.body, after.warnings) != (before.body, before.warnings):
            return
    # A call's type is refused when it is another, and may be left out.
    assert refusals == 2 or (refusals == 1 and path.endswith(".type"))


def test_an_older_claude_enforces_no_schema() -> None:
    written = write_request("openai_chat", "anthropic", AGENTS_SDK, "claude-sonnet-4-20250514")
    body = check_request("anthropic", written)
    assert "output_config" not in body
    assert [tool.get("strict") for tool in body["tools"]] == [None, None]
    assert {"response_format", "tools.function.strict"} <= {warning.parameter for warning in written.warnings}
