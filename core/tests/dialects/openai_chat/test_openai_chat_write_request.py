"""Chats written as bodies for servers: whole bodies, and what they could not say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import text_format

from patchbay.canonical import Chat
from patchbay.dialects.base import WrittenRequest
from patchbay.dialects.openai_chat import DIALECT, OpenAIChatQuirks
from patchbay.dialects.tool_names import ClientTool
from patchbay.errors import InvalidRequest

QUIRKS = OpenAIChatQuirks()


def write(text: str, quirks: OpenAIChatQuirks = QUIRKS) -> WrittenRequest:
    return DIALECT.write_request(text_format.Parse(text, Chat()), "m", quirks)


def no_result(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "[There is no result of this call.]"}


def warned(written: WrittenRequest) -> list[str]:
    return [f"{warning.parameter}: {warning.message}" for warning in written.warnings]


def test_a_whole_body() -> None:
    written = write(
        """
        system { text { text: "be kind" } }
        messages { role: ROLE_USER blocks { text { text: "hi" } } }
        tools { function { name: "f" description: "d" strict: false
          input_schema_json: "{ \\"type\\":\\"object\\",\\"properties\\":{ }}" } }
        tool_choice { mode: MODE_ANY }
        parallel_tool_calls: false
        sampling { max_tokens: 5 temperature: 0.5 top_p: 1 stop: "x" seed: 3 presence_penalty: 1 frequency_penalty: 2
          logit_bias_json: "{\\"5\\":-1}" n: 2 logprobs: true top_logprobs: 4 }
        reasoning { effort: "low" }
        response_format { type: TYPE_JSON_SCHEMA name: "s" description: "d" schema_json: "{ }" strict: false }
        user: "u" metadata { key: "b" value: "2" } metadata { key: "a" value: "1" } service_tier: "flex"
        stream: true include_usage: true
        extensions { key: "openai_chat" value: "{\\"store\\":false,\\"stream_options\\":{\\"x\\":1}}" }
        """
    )
    assert written.body == (
        b'{"model":"m",'
        b'"messages":[{"role":"system","content":"be kind"},{"role":"user","content":"hi"}],'
        b'"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":'
        b'{ "type":"object","properties":{ }},'
        b'"strict":false}}],"tool_choice":"required","parallel_tool_calls":false,'
        b'"max_completion_tokens":5,"temperature":0.5,"top_p":1.0,"stop":["x"],"seed":3,"presence_penalty":1.0,'
        b'"frequency_penalty":2.0,"logit_bias":{"5":-1},"n":2,"logprobs":true,"top_logprobs":4,'
        b'"reasoning_effort":"low",'
        b'"response_format":{"type":"json_schema","json_schema":{"name":"s","description":"d","schema":{ },'
        b'"strict":false}},"user":"u","metadata":{"a":"1","b":"2"},"service_tier":"flex",'
        b'"stream":true,"stream_options":{"include_usage":true,"x":1},"store":false}'
    )
    assert written.warnings == ()


# Name -> (quirks, messages of the chat, messages of the body, warnings).
MESSAGES: dict[str, tuple[dict[str, Any], str, list[dict[str, Any]], list[str]]] = {
    "one system message from all blocks": (
        {},
        'system { text { text: "a" } } system { text { text: "b" } }',
        [{"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        [],
    ),
    "a developer's system prompt, as one string": (
        {"system_role": "developer", "joined_text": True},
        'system { text { text: "a" } } system { text { text: "b" } }',
        [{"role": "developer", "content": "a\n\nb"}],
        [],
    ),
    "a required system message": (
        {"system_required": "You are a helpful assistant."},
        'messages { role: ROLE_USER blocks { text { text: "hi" } } }',
        [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "hi"}],
        [],
    ),
    "no system message for a chat without messages": (
        {"system_required": "You are a helpful assistant."},
        "",
        [],
        [],
    ),
    "a required system message that is there": (
        {"system_required": "You are a helpful assistant."},
        'system { text { text: "a" } }',
        [{"role": "system", "content": "a"}],
        [],
    ),
    "system messages inside the conversation": (
        {"developer_role": False},
        (
            'messages { role: ROLE_USER blocks { text { text: "a" } } }'
            'messages { role: ROLE_SYSTEM blocks { text { text: "b" } } }'
            'messages { role: ROLE_DEVELOPER blocks { text { text: "c" } } }'
        ),
        [
            {"role": "user", "content": "a"},
            {"role": "system", "content": "b"},
            {"role": "system", "content": "c"},
        ],
        [],
    ),
    "parts": (
        {},
        (
            'messages { role: ROLE_USER name: "ann" blocks { text { text: "a" } }'
            'blocks { image { source { base64: "AA==" media_type: "image/png" } detail: "low" } }'
            'blocks { image { source { url: "u" } } }'
            'blocks { audio { base64: "BB==" format: "wav" } }'
            'blocks { document { source { base64: "CC==" media_type: "application/pdf" } } }'
            'blocks { document { source { file_id: "f" } title: "t" } }'
            'blocks { document { source { text: "body" media_type: "text/plain" } title: "t" context: "c" } }'
            'blocks { document { content { blocks { text { text: "x" } } } title: "t" } } }'
        ),
        [
            {
                "role": "user",
                "name": "ann",
                "content": [
                    {"type": "text", "text": "a"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": "u"}},
                    {"type": "input_audio", "input_audio": {"data": "BB==", "format": "wav"}},
                    {
                        "type": "file",
                        "file": {"file_data": "data:application/pdf;base64,CC==", "filename": "document.pdf"},
                    },
                    {"type": "file", "file": {"file_id": "f", "filename": "t"}},
                    {"type": "text", "text": "t\nc\nbody"},
                    {"type": "text", "text": "t"},
                    {"type": "text", "text": "x"},
                ],
            }
        ],
        [],
    ),
    "what has no word here": (
        {},
        (
            "messages { role: ROLE_USER "
            'blocks { text { text: "a" citations { dialect: "anthropic" json: "{}" } } cache {} }'
            'blocks { image { source { file_id: "f" } } }'
            'blocks { document { source { url: "u" } citations: true } }'
            'blocks { opaque { dialect: "anthropic" json: "{\\"type\\":\\"container_upload\\"}" } }'
            'extensions { key: "anthropic" value: "{\\"x\\":1}" } }'
            'messages { role: ROLE_ASSISTANT blocks { image { source { url: "u" } } } }'
        ),
        [{"role": "user", "content": "a"}],
        [
            "messages.content.image: an image by file id cannot be sent here: it was left out",
            "messages.content.citations: messages.content.citations is not supported by this backend and was left out",
            "messages.content.file: a document by URL cannot be sent here: it was left out",
            "messages.content: container_upload exists at another provider only and was left out",
            "messages.x: messages.x is not supported by this backend and was left out",
            "messages.content: an assistant message holds no image here: it was left out",
        ],
    ),
    "cache marks": (
        {"cache_control": True},
        (
            'system { text { text: "a" } cache {} }'
            'messages { role: ROLE_USER blocks { text { text: "b" } cache { ttl: "1h" extra_json: "{\\"x\\":1}" } } }'
        ),
        [
            {
                "role": "system",
                "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
            },
            {
                "role": "user",
                "content": [{"type": "text", "text": "b", "cache_control": {"type": "ephemeral", "ttl": "1h", "x": 1}}],
            },
        ],
        [],
    ),
    "tool calls and results": (
        {},
        (
            'messages { role: ROLE_ASSISTANT blocks { text { text: "so" } }'
            'blocks { tool_use { id: "c1" name: "f" input_json: "{\\"a\\": 1}" } }'
            'blocks { tool_use { id: "c2" name: "g" text_input: "ls" } }'
            'blocks { tool_use { id: "c3" name: "h" } } blocks { tool_use { id: "c4" name: "h" } } }'
            'messages { role: ROLE_USER blocks { text { text: "first" } }'
            'blocks { tool_result { tool_use_id: "c1" blocks { text { text: "one" } } is_error: true } }'
            'blocks { tool_result { tool_use_id: "c2" blocks { text { text: "x" } } blocks { text { text: "y" } } } }'
            'blocks { tool_result { tool_use_id: "c3" is_error: true } } blocks { tool_result { tool_use_id: "c4" } }'
            'blocks { text { text: "last" } } }'
        ),
        [
            {
                "role": "assistant",
                "content": "so",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
                    {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "ls"}},
                    {"id": "c3", "type": "function", "function": {"name": "h", "arguments": ""}},
                    {"id": "c4", "type": "function", "function": {"name": "h", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {
                "role": "tool",
                "tool_call_id": "c2",
                "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}],
            },
            {"role": "tool", "tool_call_id": "c3", "content": "Error"},
            {"role": "tool", "tool_call_id": "c4", "content": ""},
            {"role": "user", "content": [{"type": "text", "text": "first"}, {"type": "text", "text": "last"}]},
        ],
        [],
    ),
    "images of tool results follow in a user message": (
        {},
        (
            'messages { role: ROLE_ASSISTANT blocks { tool_use { id: "c1" name: "f" input_json: "{}" } }'
            'blocks { tool_use { id: "c2" name: "f" input_json: "{}" } } }'
            'messages { role: ROLE_USER blocks { tool_result { tool_use_id: "c1" blocks { text { text: "one" } }'
            'blocks { image { source { url: "u1" } } } } }'
            'blocks { tool_result { tool_use_id: "c2" blocks { image { source { url: "u2" } } } } }'
            'blocks { text { text: "see" } } }'
        ),
        [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
                    for call_id in ("c1", "c2")
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": "The result is in the next user message."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Content of the result of tool call c1:"},
                    {"type": "image_url", "image_url": {"url": "u1"}},
                    {"type": "text", "text": "Content of the result of tool call c2:"},
                    {"type": "image_url", "image_url": {"url": "u2"}},
                    {"type": "text", "text": "see"},
                ],
            },
        ],
        [],
    ),
    "thinking is left out": (
        {},
        (
            'messages { role: ROLE_ASSISTANT blocks { thinking { text: "r" signature: "S" } }'
            'blocks { redacted_thinking { data: "AA" } } blocks { text { text: "a" } } }'
            'messages { role: ROLE_ASSISTANT blocks { thinking { text: "r" signature: "S" } } }'
        ),
        [{"role": "assistant", "content": "a"}],
        [],
    ),
    "thinking as text": (
        {"echo_reasoning": "reasoning_content"},
        (
            'messages { role: ROLE_ASSISTANT blocks { thinking { text: "r" signature: "S" } } '
            'blocks { thinking { text: "s" } } blocks { tool_use { id: "c" name: "f" input_json: "{}" } } }'
        ),
        [
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "r\n\ns",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            no_result("c"),
        ],
        [],
    ),
    "thinking with signatures": (
        {"echo_reasoning": "reasoning_details"},
        (
            'messages { role: ROLE_ASSISTANT blocks { thinking { text: "r" signature: "S" } } '
            'blocks { redacted_thinking { data: "AA" } }'
            'blocks { redacted_thinking { data: "{\\"type\\":\\"reasoning.encrypted\\",\\"data\\":\\"BB\\",'
            '\\"id\\":\\"rs\\"}" } } blocks { thinking { text: "s" } } blocks { text { text: "a" } } }'
        ),
        [
            {
                "role": "assistant",
                "content": "a",
                "reasoning_details": [
                    {
                        "type": "reasoning.text",
                        "text": "r",
                        "signature": "S",
                        "format": "anthropic-claude-v1",
                        "index": 0,
                    },
                    {"type": "reasoning.encrypted", "data": "AA", "format": "anthropic-claude-v1", "index": 1},
                    {"type": "reasoning.encrypted", "data": "BB", "id": "rs", "index": 2},
                    {"type": "reasoning.text", "text": "s", "index": 3},
                ],
            }
        ],
        [],
    ),
    "Gemini gets its signatures back": (
        {"tool_extra_content": True},
        (
            'messages { role: ROLE_ASSISTANT blocks { redacted_thinking { data: "{\\"extra_content\\":{\\"g\\":1}}" } }'
            'blocks { tool_use { id: "c1" name: "f" input_json: "{}" } }'
            'blocks { tool_use { id: "c2" name: "f" input_json: "{}" } } }'
        ),
        [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "f", "arguments": "{}"},
                        "extra_content": {"g": 1},
                    },
                    {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                ],
            },
            no_result("c1"),
            no_result("c2"),
        ],
        [],
    ),
    "calls of other models, for Gemini": (
        {"tool_extra_content": True, "default_extra_content": '{"g":0}'},
        (
            'messages { role: ROLE_ASSISTANT blocks { tool_use { id: "c1" name: "f" input_json: "{}" } }'
            'blocks { tool_use { id: "c2" name: "f" input_json: "{}" } } }'
        ),
        [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "f", "arguments": "{}"},
                        "extra_content": {"g": 0},
                    },
                    {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                ],
            },
            no_result("c1"),
            no_result("c2"),
        ],
        [],
    ),
    "refusals": (
        {},
        (
            'messages { role: ROLE_ASSISTANT blocks { refusal { text: "no" } } }'
            'messages { role: ROLE_ASSISTANT blocks { refusal { text: "no" } } blocks { text { text: "a" } } }'
        ),
        [
            {"role": "assistant", "content": None, "refusal": "no"},
            {
                "role": "assistant",
                "content": [{"type": "refusal", "refusal": "no"}, {"type": "text", "text": "a"}],
            },
        ],
        [],
    ),
    "a document by its address, where that is known": (
        {"document_urls": True},
        'messages { role: ROLE_USER blocks { document { source { url: "https://x/y.pdf" } title: "y" } } }',
        [
            {
                "role": "user",
                "content": [{"type": "file", "file": {"file_data": "https://x/y.pdf", "filename": "y"}}],
            }
        ],
        [],
    ),
    "empty messages stay": (
        {},
        "messages { role: ROLE_USER } messages { role: ROLE_ASSISTANT }",
        [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}],
        [],
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name: str) -> None:
    quirks, chat, expected, warnings = MESSAGES[name]
    written = write(chat, replace(QUIRKS, **quirks))
    assert json.loads(written.body) == {"model": "m", "messages": expected}
    assert warned(written) == warnings


CUSTOM_TOOL = (
    "tools { custom { name: 'h' description: 'd' format_json: "
    '"{\\"type\\":\\"grammar\\",\\"syntax\\":\\"lark\\",\\"definition\\":\\"g\\"}" }'
)
CHOICE = "tool_choice { mode: MODE_TOOL name: 'h' custom: true }"


# Name -> (quirks, chat, body without model and messages, warnings).
OPTIONS: dict[str, tuple[dict[str, Any], str, dict[str, Any], list[str]]] = {
    "the older limit": ({"max_tokens_field": "max_tokens"}, "sampling { max_tokens: 5 }", {"max_tokens": 5}, []),
    "top_k": ({"top_k": True}, "sampling { top_k: 5 }", {"top_k": 5}, []),
    "no top_k": (
        {},
        "sampling { top_k: 5 }",
        {},
        ["top_k: top_k is not supported by this backend and was left out"],
    ),
    "parameters the server refuses": (
        {"unsupported": frozenset({"seed", "store", "user"})},
        'sampling { seed: 5 } user: "u" extensions { key: "openai_chat" value: "{\\"store\\":true}" }',
        {},
        [
            "seed: seed is not supported by this backend and was left out",
            "store: store is not supported by this backend and was left out",
            "user: user is not supported by this backend and was left out",
        ],
    ),
    "fields of another dialect": (
        {},
        'extensions { key: "anthropic" value: "{\\"container\\":\\"c\\",\\"mcp_servers\\":[]}" }',
        {},
        [
            "container: container is not supported by this backend and was left out",
            "mcp_servers: mcp_servers is not supported by this backend and was left out",
        ],
    ),
    "usage is always asked for in a stream": (
        {},
        "stream: true",
        {"stream": True, "stream_options": {"include_usage": True}},
        [],
    ),
    "unless the server does not know it": ({"stream_usage": False}, "stream: true", {"stream": True}, []),
    "usage without a stream": ({}, "include_usage: true", {}, []),
    "a budget as an effort": (
        {},
        "reasoning { mode: MODE_ENABLED budget_tokens: 4096 }",
        {"reasoning_effort": "low"},
        [],
    ),
    "a larger budget": (
        {},
        "reasoning { mode: MODE_ENABLED budget_tokens: 4097 }",
        {"reasoning_effort": "medium"},
        [],
    ),
    "the largest budget": (
        {},
        "reasoning { mode: MODE_ENABLED budget_tokens: 31999 }",
        {"reasoning_effort": "high"},
        [],
    ),
    "an effort the server does not know": (
        {"efforts": ("low", "medium", "high")},
        "reasoning { effort: 'max' }",
        {"reasoning_effort": "high"},
        [],
    ),
    "reasoning that is left to the model": ({}, "reasoning { mode: MODE_ADAPTIVE }", {}, []),
    "no reasoning": (
        {},
        "reasoning { mode: MODE_DISABLED }",
        {},
        [],
    ),
    "no reasoning, where that is known": (
        {"disabled_effort": "none"},
        "reasoning { mode: MODE_DISABLED }",
        {"reasoning_effort": "none"},
        [],
    ),
    "a server that does not reason": (
        {"reasoning_field": None},
        "reasoning { effort: 'low' }",
        {},
        ["reasoning: reasoning is not supported by this backend and was left out"],
    ),
    "OpenRouter's budget": (
        {"reasoning_field": "reasoning"},
        (
            "reasoning { mode: MODE_ENABLED budget_tokens: 100 display: 'omitted' }"
            'extensions { key: "openai_chat" value: "{\\"reasoning\\":{\\"x\\":1}}" }'
        ),
        {"reasoning": {"max_tokens": 100, "exclude": True, "x": 1}},
        [],
    ),
    "OpenRouter's effort": (
        {"reasoning_field": "reasoning"},
        "reasoning { effort: 'high' budget_tokens: 5 }",
        {"reasoning": {"effort": "high"}},
        [],
    ),
    "OpenRouter's switch": (
        {"reasoning_field": "reasoning"},
        "reasoning { mode: MODE_DISABLED }",
        {"reasoning": {"enabled": False}},
        [],
    ),
    "OpenRouter's reasoning left to the model": (
        {"reasoning_field": "reasoning"},
        "reasoning { mode: MODE_ADAPTIVE }",
        {"reasoning": {"enabled": True}},
        [],
    ),
    "OpenRouter's fields for a server without them": (
        {},
        'extensions { key: "openai_chat" value: "{\\"reasoning\\":{\\"x\\":1}}" }',
        {},
        ["reasoning: reasoning is not supported by this backend and was left out"],
    ),
    "a schema without a name": (
        {},
        'response_format { type: TYPE_JSON_SCHEMA schema_json: "{}" }',
        {"response_format": {"type": "json_schema", "json_schema": {"name": "response", "schema": {}}}},
        [],
    ),
    "a tool that only its provider runs is not the client's": (
        {},
        (
            'tools { opaque { dialect: "anthropic" '
            'json: "{\\"type\\":\\"web_search_20250305\\",\\"name\\":\\"w\\"}" } }'
            "tool_choice { mode: MODE_ANY } parallel_tool_calls: true"
        ),
        {},
        [
            "tools: the tool web_search_20250305 exists at another provider only and was left out",
            "tool_choice: tool_choice is not supported without tools and was left out",
        ],
    ),
    "a choice of a tool that was left out": (
        {},
        (
            'tools { opaque { dialect: "anthropic" json: "{\\"type\\":\\"x\\",\\"name\\":\\"w\\"}" } }'
            "tools { function { name: 'f' } } tool_choice { mode: MODE_TOOL name: 'w' }"
        ),
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        [
            "tools: the tool x exists at another provider only and was left out",
            "tool_choice: tool_choice is not supported by this backend and was left out",
        ],
    ),
    "this dialect's own tools and choices": (
        {},
        (
            'tools { opaque { dialect: "openai_chat" '
            'json: "{\\"type\\":\\"x\\",\\"x\\":{\\"name\\":\\"h\\"}}" } }'
            'tool_choice { opaque { dialect: "openai_chat" json: "{\\"type\\":\\"x\\"}" } }'
        ),
        {"tools": [{"type": "x", "x": {"name": "h"}}], "tool_choice": {"type": "x"}},
        [],
    ),
    "a custom tool": (
        {},
        CUSTOM_TOOL + ' extensions { key: "openai_chat" value: "{\\"custom\\":{\\"x\\":1}}" } }' + CHOICE,
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
                }
            ],
            "tool_choice": {"type": "custom", "custom": {"name": "h"}},
        },
        [],
    ),
    "a custom tool at a server that has none": (
        {"custom_tools": False},
        CUSTOM_TOOL + " }" + CHOICE,
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "h",
                        "description": (
                            "d\n\nPass the tool's input, which is free text, as the string `input`.\n\n"
                            "The text must be of this grammar (lark):\ng"
                        ),
                        "parameters": {
                            "type": "object",
                            "properties": {"input": {"type": "string", "description": "The tool's input."}},
                            "required": ["input"],
                            "additionalProperties": False,
                        },
                    },
                }
            ],
            "tool_choice": {"type": "function", "function": {"name": "h"}},
        },
        [],
    ),
    "tools in namespaces": (
        {},
        (
            "namespaces { key: 'fs' value: 'Files.' } tools { function { name: 'read' namespace: 'fs' } }"
            "tools { function { name: 'write' description: 'w' namespace: 'fs' } } tools { function { name: 'read' } }"
            "tool_choice { mode: MODE_TOOL name: 'read' namespace: 'fs' }"
        ),
        {
            "tools": [
                {"type": "function", "function": {"name": "fs__read", "description": "[fs: Files.]"}},
                {"type": "function", "function": {"name": "fs__write", "description": "w"}},
                {"type": "function", "function": {"name": "read"}},
            ],
            "tool_choice": {"type": "function", "function": {"name": "fs__read"}},
        },
        [],
    ),
    "tools that OpenAI's client always offers": (
        {},
        (
            'tools { opaque { dialect: "openai_responses" json: "{\\"type\\":\\"web_search\\"}" } }'
            "tools { function { name: 'f' } }"
        ),
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        [],
    ),
    "a cached tool": (
        {"cache_control": True},
        (
            "tools { function { name: 'f' } cache { ttl: '5m' } "
            'extensions { key: "openai_chat" value: "{\\"function\\":{\\"x\\":1},\\"y\\":2}" }'
            'extensions { key: "anthropic" value: "{\\"defer_loading\\":true,\\"input_examples\\":[]}" } }'
        ),
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "x": 1},
                    "cache_control": {"type": "ephemeral", "ttl": "5m"},
                    "y": 2,
                }
            ]
        },
        ["tools.input_examples: tools.input_examples is not supported by this backend and was left out"],
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str) -> None:
    quirks, chat, expected, warnings = OPTIONS[name]
    written = write(chat, replace(QUIRKS, **quirks))
    assert json.loads(written.body) == {"model": "m", "messages": [], **expected}
    assert warned(written) == warnings


def test_long_tool_names_are_shortened_everywhere() -> None:
    long = "mcp__server__" + "x" * 60
    written = write(
        f"""
        messages {{ role: ROLE_ASSISTANT blocks {{ tool_use {{ id: "c" name: "{long}" input_json: "{{}}" }} }} }}
        tools {{ function {{ name: "{long}" }} }} tools {{ function {{ name: "f" }} }}
        tool_choice {{ mode: MODE_TOOL name: "{long}" }}
        """
    )
    (shortened,) = written.names
    body = json.loads(written.body)
    assert written.names == {shortened: ClientTool(long)}
    assert len(shortened) == 64
    assert shortened.startswith(long[:55] + "_")
    assert body["tools"][0]["function"]["name"] == shortened
    assert body["tool_choice"]["function"]["name"] == shortened
    assert body["messages"][0]["tool_calls"][0]["function"]["name"] == shortened
    assert long not in written.body.decode()


def test_names_that_share_a_beginning_stay_apart() -> None:
    names = ["x" * 70, "x" * 71]
    written = write("".join(f"tools {{ function {{ name: '{name}' }} }}" for name in names))
    assert sorted(tool.name for tool in written.names.values()) == names


def test_a_malformed_extension_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        write('extensions { key: "openai_chat" value: "[" }')


def test_long_ids_are_shortened_alike() -> None:
    long = "call_" + "x" * 60
    written = write(
        f"""
        messages {{ role: ROLE_ASSISTANT blocks {{ tool_use {{ id: "{long}" name: "f" input_json: "{{}}" }} }} }}
        messages {{ role: ROLE_USER blocks {{ tool_result {{ tool_use_id: "{long}" }} }} }}
        user: "{"u" * 140}"
        """
    )
    body = json.loads(written.body)
    call_id = body["messages"][0]["tool_calls"][0]["id"]
    assert (len(call_id), call_id[:31]) == (40, long[:31])
    assert body["messages"][1]["tool_call_id"] == call_id
    assert (len(body["user"]), body["user"][:55]) == (64, "u" * 55)


def test_calls_of_custom_tools() -> None:
    text = """
        tools { custom { name: "g" namespace: "n" } }
        messages {
            role: ROLE_ASSISTANT
            blocks { tool_use { id: "c" name: "g" namespace: "n" text_input: "a\\n\\"b" } }
        }
        messages { role: ROLE_ASSISTANT blocks { tool_use { id: "d" name: "g" text_input: "" } } }
        messages { role: ROLE_ASSISTANT blocks { tool_use { id: "e" name: "g" input_json: "{}" } } }
    """
    native, wrapped = write(text), write(text, replace(QUIRKS, custom_tools=False))
    calls = [message["tool_calls"][0] for message in json.loads(native.body)["messages"][:3]]
    assert calls[0] == {"id": "c", "type": "custom", "custom": {"name": "n__g", "input": 'a\n"b'}}
    assert calls[1] == {"id": "d", "type": "custom", "custom": {"name": "n__g", "input": ""}}
    assert calls[2] == {"id": "e", "type": "function", "function": {"name": "g", "arguments": "{}"}}
    assert native.names == {"n__g": ClientTool("g", "n")}
    calls = [message["tool_calls"][0]["function"] for message in json.loads(wrapped.body)["messages"][:3]]
    assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [
        ("n__g", {"input": 'a\n"b'}),
        ("n__g", {"input": ""}),
        ("g", {}),
    ]
    assert wrapped.names == {"n__g": ClientTool("g", "n", is_wrapped=True)}


def test_what_is_told_without_refusing_the_request() -> None:
    written = write('tools { opaque { dialect: "openai_responses" json: "{\\"type\\":\\"tool_search\\"}" } }')
    assert written.warnings == ()
    assert [note.message for note in written.notes] == [
        "the tool tool_search exists at another provider only and was left out"
    ]


def test_reasoning_that_openai_signed_goes_to_nobody_else() -> None:
    blocks = "".join(f"blocks {{ thinking {{ text: 't' signature: '{made}' }} }}" for made in ("gAAAAB", "EqQB"))
    text = f"messages {{ role: ROLE_ASSISTANT {blocks} blocks {{ text {{ text: 'a' }} }} }}"
    written = write(text, replace(QUIRKS, echo_reasoning="reasoning_details"))
    details = json.loads(written.body)["messages"][0]["reasoning_details"]
    assert [detail["signature"] for detail in details] == ["EqQB"]
