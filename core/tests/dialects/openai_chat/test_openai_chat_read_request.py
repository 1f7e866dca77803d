"""Requests as clients send them, read into chats."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import text_format

from patchbay.canonical import Chat
from patchbay.dialects.openai_chat import DIALECT
from patchbay.errors import InvalidRequest

HI = [{"role": "user", "content": "hi"}]
HI_CHAT = 'messages { role: ROLE_USER blocks { text { text: "hi" } } }'


def read(body: object) -> Chat:
    return DIALECT.read_request(json.dumps({"model": "m", **body} if isinstance(body, dict) else body).encode())


def chat(text: str) -> Chat:
    return text_format.Parse(text, Chat())


MESSAGES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "leading system and developer messages are the system prompt": (
        [
            {"role": "system", "content": "a"},
            {"role": "developer", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
            *HI,
            {"role": "system", "content": "d"},
            {"role": "developer", "content": "e"},
        ],
        'system { text { text: "a" } } system { text { text: "b" } } system { text { text: "c" } } '
        + HI_CHAT
        + 'messages { role: ROLE_SYSTEM blocks { text { text: "d" } } }'
        'messages { role: ROLE_DEVELOPER blocks { text { text: "e" } } }',
    ),
    "a named system message is part of the conversation": (
        [{"role": "system", "name": "example_user", "content": "a"}, {"role": "system", "content": "b"}],
        (
            'messages { role: ROLE_SYSTEM name: "example_user" blocks { text { text: "a" } } }'
            'messages { role: ROLE_SYSTEM blocks { text { text: "b" } } }'
        ),
    ),
    "every kind of part": (
        [
            {
                "role": "user",
                "name": "ann",
                "content": [
                    {"type": "text", "text": "a"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                    {"type": "image_url", "image_url": {"url": "data:text/plain,x"}},
                    {"type": "input_audio", "input_audio": {"data": "BB==", "format": "wav"}},
                    {
                        "type": "file",
                        "file": {"file_data": "data:application/pdf;base64,CC==", "filename": "a.pdf"},
                    },
                    {"type": "file", "file": {"file_data": "DD=="}},
                    {"type": "file", "file": {"file_data": "https://x/y.pdf", "filename": "y.pdf"}},
                    {"type": "file", "file": {"file_id": "file-1"}},
                    {"type": "video_url", "video_url": {"url": "u"}},
                ],
            }
        ],
        (
            'messages { role: ROLE_USER name: "ann" blocks { text { text: "a" } }'
            'blocks { image { source { base64: "AA==" media_type: "image/png" } detail: "low" } }'
            'blocks { image { source { url: "https://x/y.png" } } }'
            'blocks { image { source { url: "data:text/plain,x" } } }'
            'blocks { audio { base64: "BB==" format: "wav" } }'
            'blocks { document { source { base64: "CC==" media_type: "application/pdf" } title: "a.pdf" } }'
            'blocks { document { source { base64: "DD==" } } }'
            'blocks { document { source { url: "https://x/y.pdf" } title: "y.pdf" } }'
            'blocks { document { source { file_id: "file-1" } } }'
            'blocks { opaque { dialect: "openai_chat" '
            'json: "{\\"type\\": \\"video_url\\", \\"video_url\\": {\\"url\\": \\"u\\"}}" } } }'
        ),
    ),
    "tool calls and their results": (
        [
            {
                "role": "assistant",
                "content": "so",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1'}},
                    {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "ls"}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "two"}]},
            {"role": "tool", "tool_call_id": "c3", "content": ""},
            *HI,
        ],
        'messages { role: ROLE_ASSISTANT blocks { text { text: "so" } }'
        'blocks { tool_use { id: "c1" name: "f" input_json: "{\\"a\\": 1" } }'
        'blocks { tool_use { id: "c2" name: "g" text_input: "ls" } } }'
        'messages { role: ROLE_USER blocks { tool_result { tool_use_id: "c1" blocks { text { text: "one" } } } }'
        'blocks { tool_result { tool_use_id: "c2" blocks { text { text: "two" } } } }'
        'blocks { tool_result { tool_use_id: "c3" } } }' + HI_CHAT,
    ),
    "the deprecated functions": (
        [
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "one"},
        ],
        (
            'messages { role: ROLE_ASSISTANT blocks { tool_use { id: "call_0_f" name: "f" input_json: "{}" } } }'
            'messages { role: ROLE_USER blocks { tool_result { tool_use_id: "call_0_f" '
            'blocks { text { text: "one" } } } } }'
        ),
    ),
    "an assistant's refusal": (
        [
            {"role": "assistant", "content": None, "refusal": "no"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "assistant", "content": "", "refusal": None},
        ],
        (
            'messages { role: ROLE_ASSISTANT blocks { refusal { text: "no" } } }'
            'messages { role: ROLE_ASSISTANT blocks { refusal { text: "no" } } }'
            "messages { role: ROLE_ASSISTANT }"
        ),
    ),
    "reasoning": (
        [
            {"role": "assistant", "content": "a", "reasoning_content": "r"},
            {"role": "assistant", "content": "a", "reasoning": "r"},
            {
                "role": "assistant",
                "content": "a",
                "reasoning": "r",
                "reasoning_details": [
                    {
                        "type": "reasoning.text",
                        "text": "r",
                        "signature": "S",
                        "format": "anthropic-claude-v1",
                        "index": 0,
                    },
                    {"type": "reasoning.encrypted", "data": "EE==", "format": "anthropic-claude-v1", "index": 1},
                ],
            },
        ],
        (
            'messages { role: ROLE_ASSISTANT blocks { thinking { text: "r" } } blocks { text { text: "a" } } }'
            'messages { role: ROLE_ASSISTANT blocks { thinking { text: "r" } } blocks { text { text: "a" } } }'
            'messages { role: ROLE_ASSISTANT blocks { thinking { text: "r" signature: "S" } }'
            'blocks { redacted_thinking { data: "EE==" } } blocks { text { text: "a" } } }'
        ),
    ),
    "cache marks on parts and messages": (
        [
            {"role": "system", "content": "a", "cache_control": {"type": "ephemeral"}},
            {
                "role": "user",
                "content": [{"type": "text", "text": "b", "cache_control": {"type": "ephemeral", "ttl": "1h", "x": 1}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "d", "cache_control": {"type": "ephemeral"}},
        ],
        (
            'system { text { text: "a" } cache {} }'
            'messages { role: ROLE_USER blocks { text { text: "b" } cache { ttl: "1h" extra_json: "{\\"x\\":1}" } } }'
            'messages { role: ROLE_USER blocks { tool_result { tool_use_id: "c" '
            'blocks { text { text: "d" } } } cache {} } }'
        ),
    ),
    "unknown fields": (
        [
            {"role": "user", "content": [{"type": "text", "text": "a", "p": [1.0]}], "q": {"b": 1, "a": None}},
            {
                "role": "assistant",
                "audio": {"id": "x"},
                "tool_calls": [
                    {"id": "c", "type": "function", "x": 1, "function": {"name": "f", "arguments": "", "y": 2}}
                ],
            },
        ],
        (
            'messages { role: ROLE_USER blocks { text { text: "a" } '
            'extensions { key: "openai_chat" value: "{\\"p\\":[1.0]}" } }'
            'extensions { key: "openai_chat" value: "{\\"q\\":{\\"b\\": 1, \\"a\\": null}}" } }'
            'messages { role: ROLE_ASSISTANT blocks { tool_use { id: "c" name: "f" } '
            'extensions { key: "openai_chat" value: "{\\"x\\":1,\\"function\\":{\\"y\\":2}}" } }'
            'extensions { key: "openai_chat" value: "{\\"audio\\":{\\"id\\": \\"x\\"}}" } }'
        ),
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name: str) -> None:
    messages, expected = MESSAGES[name]
    assert read({"messages": messages}) == chat(expected)


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "sampling": (
        {
            "max_tokens": 5,
            "temperature": 1,
            "top_p": 0.5,
            "top_k": 4,
            "stop": ["a", "b"],
            "seed": -3,
            "presence_penalty": 0.25,
            "frequency_penalty": -0.25,
            "n": 2,
            "logprobs": True,
            "top_logprobs": 3,
        },
        (
            "sampling { max_tokens: 5 temperature: 1 top_p: 0.5 top_k: 4 stop: 'a' stop: 'b' seed: -3 "
            "presence_penalty: 0.25 frequency_penalty: -0.25 n: 2 logprobs: true top_logprobs: 3 }"
        ),
    ),
    "the newer limit wins": ({"max_tokens": 5, "max_completion_tokens": 6}, "sampling { max_tokens: 6 }"),
    "one stop sequence": ({"stop": "a"}, "sampling { stop: 'a' }"),
    "no top_k": ({"top_k": -1}, ""),
    "null is absent": ({"temperature": None, "stop": None, "tools": None, "user": None, "stream": None}, ""),
    "effort": ({"reasoning_effort": "xhigh"}, "reasoning { effort: 'xhigh' }"),
    "no effort": ({"reasoning_effort": "none"}, "reasoning { mode: MODE_DISABLED effort: 'none' }"),
    "reasoning with a budget": (
        {"reasoning": {"max_tokens": 9, "exclude": True}},
        "reasoning { mode: MODE_ENABLED budget_tokens: 9 display: 'omitted' }",
    ),
    "reasoning off": ({"reasoning": {"enabled": False}}, "reasoning { mode: MODE_DISABLED }"),
    "reasoning by effort": (
        {"reasoning": {"enabled": True, "effort": "low"}},
        "reasoning { mode: MODE_ENABLED effort: 'low' }",
    ),
    "text": ({"response_format": {"type": "text"}}, "response_format { type: TYPE_TEXT }"),
    "any JSON": ({"response_format": {"type": "json_object"}}, "response_format { type: TYPE_JSON_OBJECT }"),
    "a schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "s", "description": "d", "strict": True, "schema": {"b": 1.0, "a": 2}},
            }
        },
        (
            "response_format { type: TYPE_JSON_SCHEMA name: 's' description: 'd' strict: true "
            'schema_json: "{\\"b\\": 1.0, \\"a\\": 2}" }'
        ),
    ),
    "a format of one server": (
        {"response_format": {"type": "grammar", "grammar": "x"}},
        (
            'extensions { key: "openai_chat" '
            'value: "{\\"response_format\\":{\\"type\\":\\"grammar\\",\\"grammar\\":\\"x\\"}}" }'
        ),
    ),
    "tools": (
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
                    "cache_control": {"type": "ephemeral"},
                },
                {"type": "function", "function": {"name": "g"}},
                {"type": "custom", "custom": {"name": "h"}},
                {"type": "x", "x": {"name": "i"}},
            ],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        },
        (
            "tools { function { name: 'f' description: 'd' strict: true "
            'input_schema_json: "{\\"type\\": \\"object\\"}" } cache {} }'
            "tools { function { name: 'g' } }"
            "tools { custom { name: 'h' } }"
            'tools { opaque { dialect: "openai_chat" '
            'json: "{\\"type\\": \\"x\\", \\"x\\": {\\"name\\": \\"i\\"}}" } }'
            "tool_choice { mode: MODE_ANY } parallel_tool_calls: false"
        ),
    ),
    "one tool chosen": (
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        "tool_choice { mode: MODE_TOOL name: 'f' }",
    ),
    "a custom tool": (
        {
            "tools": [
                {
                    "type": "custom",
                    "custom": {
                        "name": "h",
                        "description": "d",
                        "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "g"}},
                        "x": 1,
                    },
                },
                {"type": "custom", "custom": {"name": "i", "format": {"type": "text"}}},
            ],
            "tool_choice": {"type": "custom", "custom": {"name": "h"}},
        },
        (
            "tools { custom { name: 'h' description: 'd' format_json: "
            '"{\\"type\\":\\"grammar\\",\\"syntax\\":\\"lark\\",\\"definition\\":\\"g\\"}" } '
            'extensions { key: "openai_chat" value: "{\\"custom\\":{\\"x\\":1}}" } }'
            "tools { custom { name: 'i' format_json: '{\"type\":\"text\"}' } }"
            "tool_choice { mode: MODE_TOOL name: 'h' custom: true }"
        ),
    ),
    "some tools allowed": (
        {"tool_choice": {"type": "allowed_tools"}},
        'tool_choice { opaque { dialect: "openai_chat" json: "{\\"type\\": \\"allowed_tools\\"}" } }',
    ),
    "deprecated functions": (
        {"functions": [{"name": "f", "parameters": {}}], "function_call": {"name": "f"}},
        "tools { function { name: 'f' input_schema_json: '{}' } } tool_choice { mode: MODE_TOOL name: 'f' }",
    ),
    "streaming": (
        {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        (
            "stream: true include_usage: true "
            'extensions { key: "openai_chat" value: "{\\"stream_options\\":{\\"include_obfuscation\\":false}}" }'
        ),
    ),
    "the rest": (
        {"user": "u", "metadata": {"k": "v"}, "service_tier": "flex", "store": False, "verbosity": "low"},
        (
            "user: 'u' metadata { key: 'k' value: 'v' } service_tier: 'flex' "
            'extensions { key: "openai_chat" value: "{\\"store\\":false,\\"verbosity\\":\\"low\\"}" }'
        ),
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str) -> None:
    options, expected = OPTIONS[name]
    assert read({"messages": HI, **options}) == chat(HI_CHAT + expected)


def test_carried_json_keeps_its_bytes() -> None:
    body = (
        '{"model":"m","messages":[],"logit_bias":{"5": -1.50, "6":1e2},'
        '"tools":[{"type":"function","function":{"name":"f","parameters":{ "b":1.0,  "a":"\\u00e9" }}}]}'
    )
    read_chat = DIALECT.read_request(body.encode())
    assert read_chat.tools[0].function.input_schema_json == '{ "b":1.0,  "a":"\\u00e9" }'
    assert read_chat.sampling.logit_bias_json == '{"5":-1.50,"6":1e2}'


INVALID: list[tuple[object, str | None, str]] = [
    ({}, "messages", "Missing required parameter: 'messages'."),
    ({"messages": "hi"}, "messages", "Invalid type for 'messages': expected an array, but got a string instead."),
    (
        {"messages": ["hi"]},
        "messages[0]",
        "Invalid type for 'messages[0]': expected an object, but got a string instead.",
    ),
    ({"messages": [{"content": "hi"}]}, "messages[0].role", "Missing required parameter: 'messages[0].role'."),
    (
        {"messages": [{"role": "robot", "content": "hi"}]},
        "messages[0].role",
        "Invalid value: 'robot'. Supported values are: 'system', 'developer', 'user', 'assistant', 'tool', 'function'.",
    ),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "Missing required parameter: 'messages[0].content'."),
    (
        {"messages": [*HI, {"role": "user", "content": 5}]},
        "messages[1].content",
        (
            "Invalid type for 'messages[1].content': "
            "expected one of a string or array of objects, but got an integer instead."
        ),
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
        "Missing required parameter: 'messages[0].content[0].text'.",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 1.5}}]}]},
        "messages[0].content[0].image_url.url",
        "Invalid type for 'messages[0].content[0].image_url.url': expected a string, but got a number instead.",
    ),
    (
        {"messages": [{"role": "tool", "content": "x"}]},
        "messages[0].tool_call_id",
        "Missing required parameter: 'messages[0].tool_call_id'.",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": {}}]}]},
        "messages[0].tool_calls[0].function.name",
        "Missing required parameter: 'messages[0].tool_calls[0].function.name'.",
    ),
    (
        {"messages": HI, "temperature": "hot"},
        "temperature",
        "Invalid type for 'temperature': expected a number, but got a string instead.",
    ),
    (
        {"messages": HI, "max_tokens": -1},
        "max_tokens",
        "Invalid 'max_tokens': expected an integer from 0 to 9223372036854775807, but got -1.",
    ),
    ({"messages": HI, "n": 1.5}, "n", "Invalid type for 'n': expected an integer, but got a number instead."),
    (
        {"messages": HI, "stream": 1},
        "stream",
        "Invalid type for 'stream': expected a boolean, but got an integer instead.",
    ),
    (
        {"messages": HI, "stop": [1]},
        "stop",
        "Invalid type for 'stop': expected a string or an array of strings, but got an array instead.",
    ),
    (
        {"messages": HI, "metadata": {"k": 1}},
        "metadata.k",
        "Invalid type for 'metadata.k': expected a string, but got an integer instead.",
    ),
    (
        {"messages": HI, "tools": [{"type": "function"}]},
        "tools[0].function",
        "Missing required parameter: 'tools[0].function'.",
    ),
    (
        {"messages": HI, "tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
        "tools[0].function.parameters",
        "Invalid type for 'tools[0].function.parameters': expected an object, but got an array instead.",
    ),
    (
        {"messages": HI, "tool_choice": "maybe"},
        "tool_choice",
        "Invalid value: 'maybe'. Supported values are: 'auto', 'none', 'required'.",
    ),
    (
        {"messages": HI, "response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "Missing required parameter: 'response_format.json_schema'.",
    ),
    ([], None, "The body of your request must be a JSON object."),
]


@pytest.mark.parametrize(("body", "parameter", "message"), INVALID)
def test_invalid_requests(body: object, parameter: str | None, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(body)
    error = caught.value.error
    assert (error.message, error.parameter or None) == (message, parameter)
    assert error.http_status == 400


@pytest.mark.parametrize("body", [b"", b"{", b'{"messages":[}', b'{"messages":["\xff"]}', b"[" * 100_000, b"{}{}"])
def test_bodies_that_are_no_json(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        DIALECT.read_request(body)


def test_half_a_surrogate_pair_is_replaced() -> None:
    body = rb'{"model":"m","messages":[{"role":"user","content":"a\ud83d"}]}'
    assert DIALECT.read_request(body).messages[0].blocks[0].text.text == "a\ufffd"
