"""Requests of real clients for upstreams of the other dialect: whole bodies, and nothing lost without a word."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from patchbay.dialects.openai_responses._quirks import CHATGPT, OpenAIResponsesQuirks
from patchbay.dialects.tool_names import ClientTool, fitted
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

SHORT_NAME = fitted(LONG_NAME, 64)

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


CODEX: Json = json.loads((Path(__file__).parent / "openai_responses/codex.json").read_text())

# What Codex sends for a model that has tools of its own, besides what is in the recording.
OLDER_CODEX: Json = {
    name: value for name, value in CODEX.items() if name not in ("input", "parallel_tool_calls", "reasoning")
} | {
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "service_tier": "auto",
    "tools": [
        {
            "type": "function",
            "name": "exec_command",
            "description": "Runs a command.",
            "strict": False,
            "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"]},
        },
        {
            "type": "custom",
            "name": "apply_patch",
            "description": "Patches files.",
            "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
        },
        {"type": "tool_search", "execution": "client", "description": "Finds tools."},
        {"type": "web_search", "external_web_access": False, "search_content_types": ["text"]},
    ],
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "You are Codex."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Mend it."}]},
        {
            "type": "custom_tool_call",
            "call_id": "call_1",
            "name": "apply_patch",
            "input": "*** Begin Patch",
            "id": "ctc_1",
        },
        {"type": "custom_tool_call_output", "call_id": "call_1", "output": "Done"},
    ],
    "text": {
        "verbosity": "low",
        "format": {
            "type": "json_schema",
            "name": "codex_output_schema",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"a": {"type": "string"}},
                "required": ["a"],
                "additionalProperties": False,
            },
        },
    },
}


@pytest.mark.parametrize("upstream", ["anthropic", "openai_chat"])
@pytest.mark.parametrize("model", ["", "claude-opus-5"])
def test_codex_is_warned_of_hosted_tools_only(upstream: str, model: str) -> None:
    """And not so that a backend with `strict_parameters` would refuse it."""
    written = write_request("openai_responses", upstream, CODEX, model)
    assert (written.warnings, written.notes) == ((), ())
    written = write_request("openai_responses", upstream, OLDER_CODEX, model)
    check_request(upstream, written)
    assert written.warnings == ()
    assert [note.message.split()[2] for note in written.notes] == ["tool_search", "web_search"]


def test_codex_at_anthropic() -> None:
    written = write_request("openai_responses", "anthropic", CODEX)
    body = check_request("anthropic", written)
    assert written.names == {
        "functions__exec": ClientTool("exec", "functions", is_wrapped=True),
        "functions__wait": ClientTool("wait", "functions"),
        "clock__now": ClientTool("now", "clock"),
    }
    assert [block["text"] for block in body["system"]] == ["You are Codex.", "The sandbox is read-only.", "Ask first."]
    assert body["tools"][0]["description"].startswith("[functions: Code mode.]\n\nRuns JavaScript.\n\n")
    assert body["tools"][0]["input_schema"]["required"] == ["input"]
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {
                    "type": "tool_use",
                    "id": "call_1",
                    "name": "functions__exec",
                    "input": {"input": 'text(await tools.exec_command({cmd: "ls"}))'},
                },
                {"type": "tool_use", "id": "call_2", "name": "functions__wait", "input": {"seconds": 1.5}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "a.py"}]},
                {"type": "tool_result", "tool_use_id": "call_2", "content": [{"type": "text", "text": "waited"}]},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "There is a.py."}]},
        {"role": "user", "content": [{"type": "text", "text": "The sandbox is open."}]},
        {"role": "user", "content": [{"type": "text", "text": "Mend it."}]},
    ]


def test_codex_at_openai_chat() -> None:
    written = write_request("openai_responses", "openai_chat", CODEX)
    body = check_request("openai_chat", written)
    assert written.names["functions__exec"] == ClientTool("exec", "functions")
    assert body["tools"][0]["custom"]["format"] == {
        "type": "grammar",
        "grammar": {"syntax": "lark", "definition": "start: /.+/"},
    }
    assert body["reasoning_effort"] == "high"
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "tool", "assistant", "developer", "user"]
    assert body["messages"][2]["tool_calls"] == [
        {
            "id": "call_1",
            "type": "custom",
            "custom": {"name": "functions__exec", "input": 'text(await tools.exec_command({cmd: "ls"}))'},
        },
        {"id": "call_2", "type": "function", "function": {"name": "functions__wait", "arguments": '{"seconds": 1.50}'}},
    ]


def _text(role: str, *texts: str) -> Json:
    kind = "output_text" if role == "assistant" else "input_text"
    parts: list[Json] = [{"type": kind, "text": text} for text in texts]
    for part in parts if role == "assistant" else ():
        part["annotations"] = []
    return {"type": "message", "role": role, "content": parts}


CLAUDE_CODE_ITEMS: list[Json] = [
    _text("user", "Look at a.py and b.png"),
    _text("assistant", "I'll look."),
    {"type": "function_call", "call_id": "toolu_01", "name": "Read", "arguments": '{"file_path": "a.py"}'},
    {"type": "function_call", "call_id": "toolu_02", "name": "Read", "arguments": '{"file_path": "b.png"}'},
    {"type": "function_call", "call_id": "toolu_03", "name": SHORT_NAME, "arguments": "{}"},
    {"type": "function_call_output", "call_id": "toolu_01", "output": "1\tprint()"},
    {
        "type": "function_call_output",
        "call_id": "toolu_02",
        "output": [
            {"type": "input_text", "text": "b.png:"},
            {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
        ],
    },
    {"type": "function_call_output", "call_id": "toolu_03", "output": "Error: No such thing"},
    _text("user", "<system-reminder>\nstay calm\n</system-reminder>"),
]


@pytest.mark.parametrize("quirks", [OpenAIResponsesQuirks(), CHATGPT], ids=["platform", "chatgpt"])
def test_claude_code_at_openai_responses(quirks: OpenAIResponsesQuirks) -> None:
    written = write_request("anthropic", "openai_responses", CLAUDE_CODE, quirks=quirks)
    assert written.warnings == ()
    body = check_request("openai_responses", written)
    assert written.names == {SHORT_NAME: ClientTool(LONG_NAME)}
    schema = dict(CLAUDE_CODE["tools"][0]["input_schema"])
    expected: Json = {
        "model": "gpt-5",
        "stream": True,
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": "medium", "summary": "auto"},
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "input": CLAUDE_CODE_ITEMS,
    }
    if quirks is CHATGPT:
        del schema["$schema"]
        expected |= {"instructions": "", "input": [_text("developer", "You are Claude Code.", "Be brief.")]}
        expected["input"] += CLAUDE_CODE_ITEMS
    else:
        expected |= {"instructions": "You are Claude Code.\n\nBe brief.", "max_output_tokens": 32000}
        expected["user"] = body["user"]
    bare = {"type": "object", "properties": {}}
    expected["tools"] = [
        {"type": "function", "name": "Read", "description": "Reads a file.", "strict": False, "parameters": schema},
        {"type": "function", "name": SHORT_NAME, "strict": False, "parameters": bare},
    ]
    assert body == expected


@pytest.mark.parametrize("quirks", [OpenAIResponsesQuirks(), CHATGPT], ids=["platform", "chatgpt"])
def test_a_schema_of_anthropics_at_openai_responses(quirks: OpenAIResponsesQuirks) -> None:
    schema: Json = {
        "type": "object",
        "properties": {"maximum": {"type": "number"}, "city": {"type": "string", "minLength": 1}},
        "required": ["maximum", "city"],
        "additionalProperties": False,
    }
    format_: Json = {"type": "json_schema", "schema": schema}
    asked = CLAUDE_CODE | {"output_config": {"effort": "medium", "format": format_}}
    written = write_request("anthropic", "openai_responses", asked, quirks=quirks)
    assert written.warnings == ()
    body = check_request("openai_responses", written)
    # Anthropic's has no name, which is required here.
    assert body["text"]["format"] == {"type": "json_schema", "name": "response", "schema": schema}
    assert body["reasoning"]["effort"] == "medium"


def test_an_agents_sdk_at_openai_responses() -> None:
    written = write_request("openai_chat", "openai_responses", AGENTS_SDK)
    assert [warning.parameter for warning in written.warnings] == ["stop", "name"]
    body = check_request("openai_responses", written)
    ((weather, name),) = written.names.items()
    assert name == ClientTool("get.weather")
    assert body["text"]["format"] == {"type": "json_schema"} | AGENTS_SDK["response_format"]["json_schema"]
    assert body["tools"][0] == {"type": "function"} | AGENTS_SDK["tools"][0]["function"] | {"name": weather}
    assert (body["prompt_cache_key"], body["safety_identifier"], body["store"]) == ("k", "s", False)
    kinds = [item.get("role") or (item["type"], item["call_id"]) for item in body["input"]]
    assert body["instructions"] == "You are an agent."
    assert kinds == [
        "user",
        ("function_call", "call_0"),
        ("function_call", "functions.time:1"),
        ("function_call_output", "call_0"),
        ("function_call_output", "functions.time:1"),
        ("function_call", "call_0.2"),
        ("function_call_output", "call_0.2"),
        "system",
        "user",
    ]


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
    "openai_responses": re.compile(
        r"model|stream|store|include.*|prompt_cache_key|text\.verbosity|client_metadata.*|reasoning\.context"
        r"|.*\.id|.*\.status|.*\.phase|.*\.summary.*|.*\.encrypted_content|.*metadata_passthrough.*"
        # Of the item that brings tools; and how closely to look at an image, where it is not less than usual.
        r"|input\.0\.role|.*\.detail"
        # A custom tool's output may be called a function's, and that there is a grammar shows in its text.
        r"|input\.\d+\.type|.*\.format\.type"
        # That the model may choose is what happens anyway.
        r"|tool_choice"
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
    pytest.param(client, upstream, body, path, id=f"{client}-{upstream}-{path}")
    for client, upstream, body in (
        ("anthropic", "openai_chat", CLAUDE_CODE),
        ("anthropic", "openai_responses", CLAUDE_CODE),
        ("openai_chat", "anthropic", AGENTS_SDK),
        ("openai_chat", "openai_responses", AGENTS_SDK),
        ("openai_responses", "anthropic", CODEX),
        ("openai_responses", "openai_chat", CODEX),
    )
    for path in leaves(body)
]


@pytest.mark.parametrize(("client", "upstream", "body", "path"), LOSSES)
def test_nothing_is_lost_without_a_word(client: str, upstream: str, body: Json, path: str) -> None:
    """Whatever a client changes or leaves out shows in the upstream's body or in a warning, or is refused."""
    if SILENT[client].fullmatch(path):
        return
    before = write_request(client, upstream, body)
    # Of a list that is left out as a whole the warning says as much.
    if path.startswith("stop.") and "stop" in {warning.parameter for warning in before.warnings}:
        return
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
