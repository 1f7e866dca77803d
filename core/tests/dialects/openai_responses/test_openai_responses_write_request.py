"""Chats written as bodies for servers: whole bodies, and what they could not say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import text_format

from patchbay.canonical import Chat
from patchbay.dialects.base import WrittenRequest
from patchbay.dialects.openai_responses._quirks import CHATGPT, OpenAIResponsesQuirks
from patchbay.dialects.openai_responses._write_request import write_request
from patchbay.dialects.tool_names import ClientTool
from patchbay.errors import InvalidRequest

QUIRKS = OpenAIResponsesQuirks()


def write(text: str, quirks: OpenAIResponsesQuirks = QUIRKS) -> WrittenRequest:
    return write_request(text_format.Parse(text, Chat()), "m", quirks)


def warned(written: WrittenRequest) -> list[str]:
    return [warning.parameter for warning in written.warnings]


def items(text: str, quirks: OpenAIResponsesQuirks = QUIRKS) -> tuple[list[Any], list[str]]:
    written = write(text, quirks)
    return json.loads(written.body)["input"], warned(written)


def said(role: str, *texts: str) -> dict[str, Any]:
    if role == "assistant":
        content = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    else:
        content = [{"type": "input_text", "text": text} for text in texts]
    return {"type": "message", "role": role, "content": content}


def call(call_id: str, name: str = "f", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def output(call_id: str, value: object, kind: str = "function_call_output") -> dict[str, Any]:
    return {"type": kind, "call_id": call_id, "output": value}


def own(text: str) -> str:
    return f"extensions {{ key: 'openai_responses' value: '{text}' }}"


USER = "messages { role: ROLE_USER blocks { text { text: 'hi' } } }"
CALL = "messages { role: ROLE_ASSISTANT blocks { tool_use { id: 'c' name: 'f' input_json: '{}' } } }"
RESULT = "messages { role: ROLE_USER blocks { tool_result { tool_use_id: 'c' blocks { text { text: 'r' } } } } }"
LONG_ID = '{"item":{"id":"fc_' + "x" * 62 + '"}}'
FAILED = "tool_result { tool_use_id: 'c' is_error: true"
NONE = "[There is no result of this call.]"

ITEMS: dict[str, tuple[str, list[dict[str, Any]], list[str]]] = {
    "parts": (
        """
        messages {
          role: ROLE_USER name: 'ann'
          blocks { text { text: 'a' } cache {} }
          blocks { image { source { base64: 'AA==' media_type: 'image/png' } detail: 'low' } }
          blocks { image { source { file_id: 'file-1' } } }
          blocks { document { source { base64: 'AA==' media_type: 'application/pdf' } context: 'c' } }
          blocks { document { source { url: 'https://x' } title: 't' citations: true } }
          blocks { document { source { text: 'd' } title: 't' } }
          blocks { document { content { blocks { text { text: 'e' } } } } }
          blocks { audio { base64: 'AA==' format: 'wav' } }
          blocks { refusal { text: 'no' } }
          blocks { opaque { dialect: 'anthropic' json: '{"type":"container_upload"}' } }
          extensions { key: 'openai_chat' value: '{"x":1}' }
        }
        """,
        [
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "a"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
                    {"type": "input_image", "file_id": "file-1", "detail": "auto"},
                    {"type": "input_text", "text": "c"},
                    {
                        "type": "input_file",
                        "file_data": "data:application/pdf;base64,AA==",
                        "filename": "document.pdf",
                    },
                    {"type": "input_file", "file_url": "https://x", "filename": "t"},
                    {"type": "input_text", "text": "t\nd"},
                    {"type": "input_text", "text": "e"},
                    {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                    {"type": "input_text", "text": "no"},
                ],
            }
        ],
        ["name", "input.x", "input.content.citations", "input.content"],
    ),
    "nothing said": (
        "messages { role: ROLE_USER } messages { role: ROLE_ASSISTANT } messages { role: ROLE_SYSTEM }",
        [
            {"type": "message", "role": "user", "content": ""},
            {"type": "message", "role": "system", "content": ""},
        ],
        [],
    ),
    "what the model said": (
        """
        messages {
          role: ROLE_ASSISTANT
          blocks { thinking { text: 'x' signature: 'EqQB' } }
          blocks { thinking { text: 'x' signature: 'gAAAAB' } }
          blocks { redacted_thinking { data: 'EmwK' } }
          blocks { text { text: 'a' } }
          blocks { text { text: 'b' } }
          blocks { image { source { url: 'u' } } }
          blocks { tool_use { id: 'c' name: 'f' input_json: '' } }
          blocks { tool_use { id: 'd' name: 'g' namespace: 'n' text_input: 'x' } }
          blocks { refusal { text: 'no' } }
        }
        messages {
          role: ROLE_USER
          blocks { text { text: 'so' } }
          blocks { tool_result { tool_use_id: 'd' blocks { text { text: 'r' } } } }
          blocks { tool_result { tool_use_id: 'c' } }
        }
        """,
        [
            {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAB"},
            said("assistant", "a", "b"),
            call("c"),
            {"type": "custom_tool_call", "call_id": "d", "name": "g", "namespace": "n", "input": "x"},
            {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            output("d", "r", "custom_tool_call_output"),
            output("c", ""),
            said("user", "so"),
        ],
        ["input.content"],
    ),
    "results that are more than a text": (
        CALL
        + """
        messages {
          role: ROLE_USER
          blocks {
            tool_result {
              tool_use_id: 'c' blocks { text { text: 'a' } } blocks { image { source { url: 'u' } } }
              blocks { audio { base64: 'AA==' format: 'wav' } }
            }
          }
        }
        """,
        [
            call("c"),
            output(
                "c",
                [
                    {"type": "input_text", "text": "a"},
                    {"type": "input_image", "image_url": "u", "detail": "auto"},
                    {
                        "type": "input_text",
                        "text": "[An audio recording was here. It could not be passed on to this model.]",
                    },
                ],
            ),
        ],
        ["input.output"],
    ),
    "errors": (
        "".join(
            f"{CALL} messages {{ role: ROLE_USER blocks {{ {FAILED} {blocks} }} }} }}"
            for blocks in (
                "",
                "blocks { text { text: 'broken' } }",
                "blocks { text { text: 'ERROR: no' } }",
                "blocks { image { source { url: 'u' } } }",
            )
        ),
        [
            call("c"),
            output("c", "Error"),
            call("c.2"),
            output("c.2", "Error: broken"),
            call("c.3"),
            output("c.3", "ERROR: no"),
            call("c.4"),
            output(
                "c.4",
                [
                    {"type": "input_text", "text": "Error"},
                    {"type": "input_image", "image_url": "u", "detail": "auto"},
                ],
            ),
        ],
        [],
    ),
    "a result without its call": (
        RESULT + USER,
        [said("user", "Result of tool call c:", "r"), said("user", "hi")],
        [],
    ),
    "a call without its result": (
        CALL + USER + RESULT,
        [call("c"), output("c", NONE), said("user", "hi"), said("user", "Result of tool call c:", "r")],
        [],
    ),
    "a call at the end": (USER + CALL, [said("user", "hi"), call("c"), output("c", NONE)], []),
    "one of two calls without its result": (
        """
        messages {
          role: ROLE_ASSISTANT
          blocks { tool_use { id: 'c' name: 'f' input_json: '{}' } }
          blocks { tool_use { id: 'd' name: 'f' text_input: '' } }
        }
        """
        + RESULT
        + "messages { role: ROLE_ASSISTANT blocks { text { text: 'a' } } }",
        [
            call("c"),
            {"type": "custom_tool_call", "call_id": "d", "name": "f", "input": ""},
            output("c", "r"),
            output("d", NONE, "custom_tool_call_output"),
            said("assistant", "a"),
        ],
        [],
    ),
    "a developer between a call and its result": (
        CALL + "messages { role: ROLE_DEVELOPER blocks { text { text: 'd' } } }" + CALL + RESULT + RESULT,
        [call("c"), said("developer", "d"), call("c.2"), output("c", "r"), output("c.2", "r")],
        [],
    ),
    "calls that go on beside the conversation": (
        f"""
        messages {{
          role: ROLE_ASSISTANT
          blocks {{ tool_use {{ id: 'c' name: 'f' text_input: '' }} {own('{"item":{"async":true}}')} }}
        }}
        {USER}
        messages {{
          role: ROLE_USER
          blocks {{ tool_result {{ tool_use_id: 'c' }} {own('{"item":{"type":"custom_tool_call_output"}}')} }}
        }}
        """,
        [
            {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "", "async": True},
            said("user", "hi"),
            output("c", "", "custom_tool_call_output"),
        ],
        [],
    ),
    "a result of what the server keeps": (
        own('{"previous_response_id":"resp_1"}')
        + """
        messages {
          role: ROLE_USER
          blocks {
            tool_result { tool_use_id: 'c' }
            extensions { key: 'openai_responses' value: '{"item":{"type":"custom_tool_call_output"}}' }
          }
        }
        """
        + RESULT,
        [output("c", "", "custom_tool_call_output"), output("c", "r")],
        [],
    ),
    "reasoning that the server keeps": (
        own('{"store":true}')
        + f"""
        messages {{
          role: ROLE_ASSISTANT
          blocks {{ thinking {{ text: 'a' }} {own('{"item":{"id":"rs_1"}}')} }}
          blocks {{ thinking {{ text: 'a' }} }}
        }}
        """,
        [{"type": "reasoning", "id": "rs_1", "summary": []}],
        [],
    ),
    "reasoning that it does not": (
        f"""messages {{ role: ROLE_ASSISTANT blocks {{ thinking {{ }} {own('{"item":{"id":"rs_1"}}')} }} }}""" + USER,
        [said("user", "hi")],
        [],
    ),
    "ids that belong elsewhere": (
        f"""
        messages {{
          role: ROLE_ASSISTANT
          blocks {{ text {{ text: 'a' }} {own('{"item":{"id":"chatcmpl-1"}}')} }}
          blocks {{ tool_use {{ id: 'c' name: 'f' input_json: '{{}}' }} {own(LONG_ID)} }}
        }}
        """
        + RESULT,
        [said("assistant", "a"), call("c"), output("c", "r")],
        [],
    ),
}


@pytest.mark.parametrize("name", ITEMS)
def test_items(name: str) -> None:
    text, expected, warnings = ITEMS[name]
    assert items(text) == (expected, warnings)


SYSTEM = f"""
    system {{ text {{ text: 'x-anthropic-billing-header: a' }} }}
    system {{ text {{ text: 'a' }} }} system {{ text {{ text: 'b' }} }}
    system {{ text {{ text: 'c' }} {own('{"item":{"role":"system"}}')} }} system {{ text {{ text: 'd' }} }}
    messages {{ role: ROLE_SYSTEM blocks {{ text {{ text: 'e' }} }} }}
"""


def test_where_the_system_prompt_goes() -> None:
    platform, chatgpt = json.loads(write(SYSTEM).body), json.loads(write(SYSTEM, CHATGPT).body)
    assert platform["instructions"] == "a\n\nb"
    assert platform["input"] == [said("system", "c", "d"), said("system", "e")]
    assert chatgpt["instructions"] == ""
    assert chatgpt["input"] == [said("developer", "a", "b"), said("developer", "c", "d"), said("developer", "e")]


def test_instructions_stay_instructions() -> None:
    text = f"""system {{ text {{ text: 'a' }} {own('{"instructions":true}')} }}"""
    assert json.loads(write(text, CHATGPT).body)["instructions"] == "a"
    assert "instructions" not in json.loads(write("").body)


FOR_CHATGPT = {"stream": True, "include": ["reasoning.encrypted_content"], "instructions": ""}
OPTIONS: dict[str, tuple[OpenAIResponsesQuirks, str, dict[str, Any], list[str]]] = {
    "sampling": (
        QUIRKS,
        """
        sampling {
          max_tokens: 5 temperature: 0.5 top_p: 1 top_k: 3 stop: 'a' seed: 1 presence_penalty: 1 frequency_penalty: 0
          logit_bias_json: '{}' n: 2 logprobs: true top_logprobs: 3
        }
        """,
        {
            "max_output_tokens": 16,
            "temperature": 0.5,
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 3,
        },
        ["top_k", "stop", "seed", "presence_penalty", "n"],
    ),
    "sampling at ChatGPT": (
        CHATGPT,
        "sampling { max_tokens: 32000 temperature: 0.5 top_p: 0.5 } user: 'u' metadata { key: 'a' value: 'b' }",
        FOR_CHATGPT,
        ["metadata", "temperature", "top_p"],
    ),
    "a limit at ChatGPT": (CHATGPT, "sampling { max_tokens: 100 temperature: 1 }", FOR_CHATGPT, ["max_output_tokens"]),
    "thinking": (
        QUIRKS,
        "reasoning { mode: MODE_ENABLED budget_tokens: 31999 }",
        {"reasoning": {"effort": "high", "summary": "auto"}, "include": ["reasoning.encrypted_content"]},
        [],
    ),
    "hidden thinking": (
        QUIRKS,
        "reasoning { mode: MODE_ADAPTIVE effort: 'max' display: 'omitted' }",
        {"reasoning": {"effort": "max"}, "include": ["reasoning.encrypted_content"]},
        [],
    ),
    "an effort": (
        replace(QUIRKS, efforts=("low", "high")),
        "reasoning { effort: 'medium' }",
        {"reasoning": {"effort": "low", "summary": "auto"}, "include": ["reasoning.encrypted_content"]},
        [],
    ),
    "no thinking": (QUIRKS, "reasoning { mode: MODE_DISABLED }", {}, []),
    "no thinking at ChatGPT": (
        CHATGPT,
        "reasoning { mode: MODE_DISABLED }",
        FOR_CHATGPT | {"reasoning": {"effort": "low"}},
        [],
    ),
    "what Chat Completions calls alike": (
        QUIRKS,
        (
            "extensions { key: 'openai_chat' value: "
            '\'{"store":true,"prompt_cache_key":"k","verbosity":"low","prediction":{},"x":1}\' }'
        ),
        {"store": True, "prompt_cache_key": "k", "text": {"verbosity": "low"}},
        ["x"],
    ),
    "a schema": (
        QUIRKS,
        "response_format { type: TYPE_JSON_SCHEMA name: 'a b' schema_json: '{}' strict: true }",
        {"text": {"format": {"type": "json_schema", "name": "a_b_c8687a08", "schema": {}, "strict": True}}},
        [],
    ),
    "a schema that is none": (
        QUIRKS,
        "response_format { type: TYPE_JSON_SCHEMA name: 'a' }",
        {"text": {"format": {"type": "json_object"}}},
        [],
    ),
    "tiers": (QUIRKS, "service_tier: 'standard_only'", {"service_tier": "default"}, []),
    "tiers at ChatGPT": (CHATGPT, "service_tier: 'fast'", FOR_CHATGPT | {"service_tier": "priority"}, []),
    "no tier at ChatGPT": (CHATGPT, "service_tier: 'auto'", FOR_CHATGPT, []),
    "an unknown tier at ChatGPT": (CHATGPT, "service_tier: 'flex'", FOR_CHATGPT, ["service_tier"]),
    "what ChatGPT does not keep": (
        CHATGPT,
        own(
            '{"store":true,"previous_response_id":"r","truncation":"disabled","prompt_cache_key":"k","generate":false}'
        ),
        FOR_CHATGPT | {"prompt_cache_key": "k"},
        ["previous_response_id"],
    ),
    "tools": (
        QUIRKS,
        """
        tools { function { name: 'f' description: 'd' } cache {} }
        tools { function { name: 'g' strict: true input_schema_json: '{"type":"object"}' } }
        tools { custom { name: 'g' format_json: '{"type":"text"}' } }
        tools { opaque { dialect: 'anthropic' json: '{"type":"bash_20250124","name":"bash"}' } }
        tools {
          opaque {
            dialect: 'anthropic'
            json: '{"type":"web_search_20250305","allowed_domains":["x"],"max_uses":5,"blocked_domains":[]}'
          }
        }
        tool_choice { mode: MODE_TOOL name: 'g' custom: true } parallel_tool_calls: false
        """,
        {
            "tools": [
                {
                    "type": "function",
                    "name": "f",
                    "description": "d",
                    "strict": False,
                    "parameters": {"type": "object", "properties": {}},
                },
                {
                    "type": "function",
                    "name": "g",
                    "strict": False,
                    "parameters": {"type": "object", "properties": {}},
                },
                {"type": "custom", "name": "g", "format": {"type": "text"}},
                {"type": "web_search", "filters": {"allowed_domains": ["x"]}},
            ],
            "tool_choice": {"type": "custom", "name": "g"},
            "parallel_tool_calls": False,
        },
        ["tools.strict", "tools"],
    ),
    "tools at ChatGPT": (
        CHATGPT,
        """
        tools { function { name: 'f' input_schema_json: '{"$schema":"s","type":"object","properties":{}}' } }
        tools { opaque { dialect: 'openai_responses' json: '{"type":"web_search_preview_2025_03_11","a":1}' } }
        tool_choice { opaque { dialect: 'openai_responses' json: '{"type":"web_search_preview"}' } }
        """,
        FOR_CHATGPT
        | {
            "tools": [
                {
                    "type": "function",
                    "name": "f",
                    "strict": False,
                    "parameters": {"type": "object", "properties": {}},
                },
                {"type": "web_search", "a": 1},
            ],
            "tool_choice": {"type": "web_search"},
        },
        [],
    ),
    "a choice without tools": (QUIRKS, "tool_choice { mode: MODE_ANY } parallel_tool_calls: true", {}, ["tool_choice"]),
    "a choice of what there is not": (
        QUIRKS,
        "tools { custom { name: 'f' } } tool_choice { mode: MODE_TOOL name: 'f' }",
        {"tools": [{"type": "custom", "name": "f"}]},
        ["tool_choice"],
    ),
    "a choice in a namespace": (
        QUIRKS,
        (
            "tools { custom { name: 'f' namespace: 'n' } } namespaces { key: 'n' value: 'd' }"
            "tool_choice { mode: MODE_TOOL name: 'f' namespace: 'n' custom: true }"
        ),
        {
            "tools": [
                {
                    "type": "namespace",
                    "name": "n",
                    "description": "d",
                    "tools": [{"type": "custom", "name": "f"}],
                }
            ],
            "tool_choice": {"type": "custom", "name": "f", "namespace": "n"},
        },
        [],
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str) -> None:
    quirks, text, expected, warnings = OPTIONS[name]
    written = write(text, quirks)
    assert json.loads(written.body) == {"model": "m", "store": False, "input": [], **expected}
    assert warned(written) == warnings


def test_items_that_chatgpt_refuses() -> None:
    text = f"""
        messages {{
          role: ROLE_ASSISTANT
          blocks {{ opaque {{ dialect: 'openai_responses' json: '{{"type":"item_reference","id":"msg_1"}}' }} }}
          blocks {{ opaque {{ dialect: 'openai_responses' json: '{{"type":"web_search_call", "id":"ws_1"}}' }} }}
        }}
        messages {{
          role: ROLE_USER blocks {{ text {{ text: 'a' }} {own('{"prompt_cache_breakpoint":{"mode":"explicit"}}')} }}
        }}
    """
    found, warnings = items(text, CHATGPT)
    assert found == [{"type": "web_search_call", "id": "ws_1"}, said("user", "a")]
    assert warnings == ["input.item_reference"]


def test_notes_of_codex_stay_with_openai() -> None:
    note = own('{"item":{"internal_chat_message_metadata_passthrough":{"turn_id":"1"}}}')
    text = f"messages {{ role: ROLE_USER blocks {{ text {{ text: 'a' }} }} {note} }}"
    assert items(text)[0] == [said("user", "a") | {"internal_chat_message_metadata_passthrough": {"turn_id": "1"}}]
    assert items(text, replace(QUIRKS, message_metadata=False)) == ([said("user", "a")], [])


def test_long_names_and_ids_are_shortened_everywhere() -> None:
    long, call_id = "mcp__server__" + "x" * 60, "call_" + "x" * 60
    written = write(
        f"""
        messages {{
          role: ROLE_ASSISTANT blocks {{ tool_use {{ id: "{call_id}" name: "{long}" input_json: "{{}}" }} }}
        }}
        messages {{ role: ROLE_USER blocks {{ tool_result {{ tool_use_id: "{call_id}" }} }} }}
        tools {{ function {{ name: "{long}" }} }}
        tool_choice {{ mode: MODE_TOOL name: "{long}" }}
        user: "{"u" * 140}"
        """
    )
    body = json.loads(written.body)
    ((short, client),) = written.names.items()
    assert (len(short), client) == (64, ClientTool(long))
    assert [body["tools"][0]["name"], body["tool_choice"]["name"], body["input"][0]["name"]] == [short] * 3
    written_id = body["input"][0]["call_id"]
    assert (len(written_id), written_id[:55]) == (64, call_id[:55])
    assert body["input"][1]["call_id"] == written_id
    assert len(body["user"]) == 64
    assert long not in written.body.decode()


def test_calls_without_an_id_go_with_their_results_by_position() -> None:
    text = """
        messages {
          role: ROLE_ASSISTANT
          blocks { tool_use { name: 'f' input_json: '{"a":1}' } }
          blocks { tool_use { name: 'f' input_json: '{"a":2}' } }
        }
        messages {
          role: ROLE_USER
          blocks { tool_result { blocks { text { text: '1' } } } }
          blocks { tool_result { blocks { text { text: '2' } } } }
        }
    """
    found, _ = items(text)
    ids = [item["call_id"] for item in found]
    assert ids[:2] == ids[2:]
    assert len(set(ids)) == 2
    assert all(ids)
    assert [item["output"] for item in found[2:]] == ["1", "2"]


def test_a_malformed_extension_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        write("extensions { key: 'openai_responses' value: '[' }")
