"""Bodies of clients as chats, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import text_format

from patchbay.canonical import Chat
from patchbay.dialects.openai_responses._read_request import read_request
from patchbay.errors import InvalidRequest

HI = "messages { role: ROLE_USER blocks { text { text: 'hi' } } }"


def read(fields: dict[str, Any]) -> Chat:
    return read_request(json.dumps({"model": "m", **fields}, separators=(",", ":")).encode())


def own(text: str) -> str:
    return f"extensions {{ key: 'openai_responses' value: '{text}' }}"


ITEMS: dict[str, tuple[list[Any], str]] = {
    "messages of each role": (
        [
            {"role": "system", "content": "s"},
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "d"}]},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "a"},
            {"role": "system", "content": "later"},
            {"role": "developer", "content": "later"},
        ],
        f"""
        system {{ text {{ text: 's' }} {own('{"item":{"role":"system"}}')} }}
        system {{ text {{ text: 'd' }} {own('{"item":{"role":"developer"}}')} }}
        {HI}
        messages {{ role: ROLE_ASSISTANT blocks {{ text {{ text: 'a' }} {own('{"item":{}}')} }} }}
        messages {{ role: ROLE_SYSTEM blocks {{ text {{ text: 'later' }} }} }}
        messages {{ role: ROLE_DEVELOPER blocks {{ text {{ text: 'later' }} }} }}
        """,
    ),
    "parts": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": "https://x/a", "detail": "auto"},
                    {"type": "input_image", "file_id": "file-1", "detail": "low"},
                    {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
                    {"type": "input_file", "filename": "b", "file_data": "AA==", "detail": "high"},
                    {"type": "input_file", "file_url": "https://x/b.pdf"},
                    {"type": "input_file", "file_id": "file-2"},
                    {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                    {"type": "input_text", "text": "t", "prompt_cache_breakpoint": {"mode": "explicit"}},
                    {"type": "input_video", "x": 1},
                ],
            }
        ],
        f"""
        messages {{
          role: ROLE_USER
          blocks {{ image {{ source {{ url: 'https://x/a' }} }} }}
          blocks {{ image {{ source {{ file_id: 'file-1' }} detail: 'low' }} }}
          blocks {{ document {{ source {{ base64: 'AA==' media_type: 'application/pdf' }} title: 'a.pdf' }} }}
          blocks {{ document {{ source {{ base64: 'AA==' }} title: 'b' }} {own('{"detail":"high"}')} }}
          blocks {{ document {{ source {{ url: 'https://x/b.pdf' }} }} }}
          blocks {{ document {{ source {{ file_id: 'file-2' }} }} }}
          blocks {{ audio {{ base64: 'AA==' format: 'wav' }} }}
          blocks {{ text {{ text: 't' }} {own('{"prompt_cache_breakpoint":{"mode":"explicit"}}')} }}
          blocks {{
            opaque {{ dialect: 'openai_responses' json: '{{"type":"input_video","x":1}}' }} {own('{"part":true}')}
          }}
        }}
        """,
    ),
    "what the model says in a row is one message": (
        [
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAB"},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": "a", "annotations": [], "logprobs": []},
                    {"type": "output_text", "text": "b", "annotations": [{"type": "x"}]},
                    {"type": "refusal", "refusal": "no"},
                ],
            },
            {"type": "web_search_call", "id": "ws_1"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": ""},
            {"type": "function_call", "call_id": "d", "name": "f", "namespace": "n", "arguments": {"a": 1}},
            {"type": "custom_tool_call", "call_id": "e", "name": "g", "input": "", "id": "ctc_1"},
            {"type": "message", "role": "assistant", "content": []},
        ],
        f"""
        messages {{
          role: ROLE_ASSISTANT
          blocks {{ thinking {{ signature: 'gAAAAB' }} {own('{"item":{"id":"rs_1"}}')} }}
          blocks {{ text {{ text: 'a' }} {own('{"item":{"id":"msg_1"}}')} }}
          blocks {{ text {{ text: 'b' }} {own('{"annotations":[{"type":"x"}]}')} }}
          blocks {{ refusal {{ text: 'no' }} }}
          blocks {{ opaque {{ dialect: 'openai_responses' json: '{{"type":"web_search_call","id":"ws_1"}}' }} }}
          blocks {{ tool_use {{ id: 'c' name: 'f' input_json: '{{}}' }} }}
          blocks {{ tool_use {{ id: 'd' name: 'f' namespace: 'n' input_json: '{{"a":1}}' }} }}
          blocks {{ tool_use {{ id: 'e' name: 'g' text_input: '' }} {own('{"item":{"id":"ctc_1"}}')} }}
        }}
        """,
    ),
    "and so is what the client answers": (
        [
            {"type": "function_call_output", "call_id": "c", "output": "r", "status": "completed"},
            {"type": "function_call_output", "output": [{"type": "input_text", "text": "r"}]},
            {"type": "custom_tool_call_output", "call_id": "e", "output": ""},
            {"type": "computer_call_output", "call_id": "f"},
            {"type": "compaction_trigger"},
            {"role": "user", "content": "hi"},
        ],
        f"""
        messages {{
          role: ROLE_USER
          blocks {{
            tool_result {{ tool_use_id: 'c' blocks {{ text {{ text: 'r' }} }} }}
            {own('{"item":{"status":"completed"}}')}
          }}
          blocks {{ tool_result {{ blocks {{ text {{ text: 'r' }} }} }} {own('{"item":{"output":[]}}')} }}
          blocks {{ tool_result {{ tool_use_id: 'e' }} {own('{"item":{"type":"custom_tool_call_output"}}')} }}
          blocks {{ opaque {{ dialect: 'openai_responses' json: '{{"type":"computer_call_output","call_id":"f"}}' }} }}
          blocks {{ opaque {{ dialect: 'openai_responses' json: '{{"type":"compaction_trigger"}}' }} }}
        }}
        {HI}
        """,
    ),
    "items that are only named": (
        [{"id": "msg_1"}, {"type": "item_reference", "id": "msg_2"}],
        """
        messages {
          role: ROLE_ASSISTANT
          blocks { opaque { dialect: 'openai_responses' json: '{"id":"msg_1"}' } }
          blocks { opaque { dialect: 'openai_responses' json: '{"type":"item_reference","id":"msg_2"}' } }
        }
        """,
    ),
    "reasoning": (
        [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}, {"text": "b"}]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "c"}], "status": None},
        ],
        f"""
        messages {{
          role: ROLE_ASSISTANT
          blocks {{
            thinking {{ text: 'a\\n\\nb' }}
            {own('{"item":{"summary":[{"type":"summary_text","text":"a"},{"text":"b"}]}}')}
          }}
          blocks {{
            thinking {{ text: 'c' }}
            {own('{"item":{"content":[{"type":"reasoning_text","text":"c"}],"status":null}}')}
          }}
        }}
        """,
    ),
    "what other providers want back": (
        [
            {"type": "reasoning", "summary": [], "encrypted_content": "patchbay-signed:EqQB"},
            {"type": "reasoning", "summary": [], "encrypted_content": "patchbay-redacted:EmwK"},
            {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAB"},
            {
                "type": "reasoning",
                "summary": [],
                "encrypted_content": "of a compatible server, no signature of anyone's",
            },
        ],
        """
        messages {
          role: ROLE_ASSISTANT
          blocks { thinking { signature: 'EqQB' } }
          blocks { redacted_thinking { data: 'EmwK' } }
          blocks { thinking { signature: 'gAAAAB' } }
          blocks { thinking { } }
        }
        """,
    ),
    "tools that come in an item": (
        [
            {"type": "additional_tools", "id": "at_1", "role": "developer", "tools": [{"type": "custom", "name": "g"}]},
            {"role": "developer", "content": "d"},
        ],
        f"""
        tools {{ custom {{ name: 'g' }} {own('{"additional_tools":{"at":0,"id":"at_1","role":"developer"}}')} }}
        system {{ text {{ text: 'd' }} {own('{"item":{"role":"developer"}}')} }}
        """,
    ),
}


@pytest.mark.parametrize("name", ITEMS)
def test_items(name: str) -> None:
    items, expected = ITEMS[name]
    chat = read({"input": items})
    assert chat == text_format.Parse(expected, Chat())


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "instructions": ({"instructions": "s"}, f"""system {{ text {{ text: 's' }} {own('{"instructions":true}')} }}"""),
    "no instructions": ({"instructions": ""}, ""),
    "sampling": (
        {
            "max_output_tokens": 5,
            "temperature": 0.5,
            "top_p": 1,
            "top_logprobs": 2,
            "include": ["message.output_text.logprobs"],
        },
        "sampling { max_tokens: 5 temperature: 0.5 top_p: 1 logprobs: true top_logprobs: 2 }",
    ),
    "include": (
        {"include": ["a", "message.output_text.logprobs"]},
        f"""sampling {{ logprobs: true }} {own('{"include":["a"]}')}""",
    ),
    "reasoning that is shown": (
        {"reasoning": {"effort": "high", "summary": "auto", "context": "all_turns"}},
        f"""
        reasoning {{ effort: 'high' display: 'summarized' }}
        {own('{"reasoning":{"context":"all_turns"}}')}
        """,
    ),
    "reasoning shown in detail": (
        {"reasoning": {"generate_summary": "detailed"}},
        f"""reasoning {{ display: 'summarized' }} {own('{"reasoning":{"summary":"detailed"}}')}""",
    ),
    "reasoning that is hidden": (
        {"reasoning": {"effort": "low", "summary": None}},
        "reasoning { effort: 'low' display: 'omitted' }",
    ),
    "no reasoning": ({"reasoning": {"effort": "none"}}, "reasoning { mode: MODE_DISABLED effort: 'none' }"),
    "a schema": (
        {
            "text": {
                "verbosity": "low",
                "format": {"type": "json_schema", "name": "n", "schema": {"a": 1}, "strict": True, "description": "d"},
            }
        },
        f"""
        response_format {{
          type: TYPE_JSON_SCHEMA name: 'n' description: 'd' schema_json: '{{"a":1}}' strict: true
        }}
        {own('{"text":{"verbosity":"low"}}')}
        """,
    ),
    "plain text": ({"text": {"format": {"type": "text"}}}, "response_format { type: TYPE_TEXT }"),
    "any JSON": ({"text": {"format": {"type": "json_object"}}}, "response_format { type: TYPE_JSON_OBJECT }"),
    "a format of one server": (
        {"text": {"format": {"type": "json_object", "x": 1}}},
        own('{"text":{"format":{"type":"json_object","x":1}}}'),
    ),
    "tools": (
        {
            "tools": [
                {"type": "function", "name": "f", "description": "d", "strict": True, "parameters": {"a": 1}, "x": 1},
                {"type": "function", "name": "g"},
                {"type": "custom", "name": "f", "description": "d", "format": {"type": "text"}},
                {"type": "web_search"},
                {
                    "type": "namespace",
                    "name": "n",
                    "description": "what",
                    "tools": [{"type": "function", "name": "f", "strict": False, "parameters": {}}, {"type": "y"}],
                },
            ],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        },
        f"""
        tools {{
          function {{ name: 'f' description: 'd' strict: true input_schema_json: '{{"a":1}}' }} {own('{"x":1}')}
        }}
        tools {{ function {{ name: 'g' }} {own('{"parameters":null,"strict":null}')} }}
        tools {{ custom {{ name: 'f' description: 'd' format_json: '{{"type":"text"}}' }} }}
        tools {{ opaque {{ dialect: 'openai_responses' json: '{{"type":"web_search"}}' }} }}
        tools {{ function {{ name: 'f' namespace: 'n' strict: false input_schema_json: '{{}}' }} }}
        tools {{ opaque {{ dialect: 'openai_responses' json: '{{"type":"y"}}' }} {own('{"namespace":"n"}')} }}
        namespaces {{ key: 'n' value: 'what' }}
        tool_choice {{ mode: MODE_ANY }} parallel_tool_calls: false
        """,
    ),
    "a function chosen": (
        {"tool_choice": {"type": "function", "name": "f"}},
        "tool_choice { mode: MODE_TOOL name: 'f' }",
    ),
    "a custom tool chosen": (
        {"tool_choice": {"type": "custom", "name": "f", "namespace": "n"}},
        "tool_choice { mode: MODE_TOOL name: 'f' namespace: 'n' custom: true }",
    ),
    "a hosted tool chosen": (
        {"tool_choice": {"type": "file_search"}},
        "tool_choice { opaque { dialect: 'openai_responses' json: '{\"type\":\"file_search\"}' } }",
    ),
    "streaming": ({"stream": True}, "stream: true include_usage: true"),
    "the caller": (
        {"user": "u", "service_tier": "fast", "metadata": {"a": "b"}, "safety_identifier": "s"},
        f"""
        user: 'u' service_tier: 'fast' metadata {{ key: 'a' value: 'b' }}
        {own('{"safety_identifier":"s"}')}
        """,
    ),
    "the rest": (
        {"store": True, "truncation": "auto", "previous_response_id": "r", "client_metadata": {"a": "b"}, "y": None},
        own('{"store":true,"truncation":"auto","previous_response_id":"r","client_metadata":{"a":"b"},"y":null}'),
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str) -> None:
    fields, expected = OPTIONS[name]
    chat = read({"input": "hi", **fields})
    if not chat.sampling.ByteSize():
        chat.ClearField("sampling")
    assert chat == text_format.Parse(HI + expected, Chat())


@pytest.mark.parametrize(
    ("fields", "parameter", "message"),
    [
        ({}, "input", "Missing required parameter: 'input'."),
        ({"input": 5}, "input", "Invalid type for 'input': expected one of a string or array of objects"),
        ({"input": ["x"]}, "input[0]", "Invalid type for 'input[0]': expected an object, but got a string instead."),
        (
            {"input": [{"role": "x", "content": ""}]},
            "input[0].role",
            "Invalid value: 'x'. Supported values are: 'user'",
        ),
        ({"input": [{"role": "user"}]}, "input[0].content", "Missing required parameter: 'input[0].content'."),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input[0].content[0].text",
            "Missing required parameter: 'input[0].content[0].text'.",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].image_url",
            "Missing required parameter",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "input[0].content[0].file_data",
            "Missing required parameter",
        ),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id", "Missing required parameter"),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": 5}]},
            "input[0].arguments",
            "Invalid type for 'input[0].arguments': expected a string, but got an integer instead.",
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": {}}]},
            "input[0].output",
            "Invalid type for 'input[0].output': expected one of a string or array of objects",
        ),
        ({"input": [{"type": "reasoning", "summary": "x"}]}, "input[0].summary", "expected an array"),
        ({"input": "", "tools": [{"type": "function"}]}, "tools[0].name", "Missing required parameter"),
        (
            {"input": "", "tools": [{"type": "namespace", "name": "n", "tools": [{"type": "custom"}]}]},
            "tools[0].tools[0].name",
            "Missing required parameter",
        ),
        (
            {"input": "", "tools": [{"type": "function", "name": "f", "parameters": "x"}]},
            "tools[0].parameters",
            "expected an object",
        ),
        ({"input": "", "tool_choice": "x"}, "tool_choice", "Supported values are: 'auto', 'none', 'required'."),
        ({"input": "", "tool_choice": {"type": "function"}}, "tool_choice.name", "Missing required parameter"),
        ({"input": "", "temperature": "x"}, "temperature", "expected a number"),
        ({"input": "", "max_output_tokens": -1}, "max_output_tokens", "expected an integer from 0"),
        ({"input": "", "stream": "x"}, "stream", "expected a boolean"),
        ({"input": "", "reasoning": "x"}, "reasoning", "expected an object"),
        ({"input": "", "text": {"format": {"type": "json_schema"}}}, "text.format.name", "Missing required parameter"),
        (
            {"input": "", "text": {"format": {"type": "json_schema", "name": "n", "schema": []}}},
            "text.format.schema",
            "expected an object",
        ),
        ({"input": "", "metadata": {"a": 1}}, "metadata.a", "expected a string"),
        ({"input": "", "instructions": []}, "instructions", "expected a string"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], parameter: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(fields)
    assert caught.value.error.parameter == parameter
    assert message in caught.value.error.message


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"input":"\xff"}', b'{"input":' + b"[" * 5000])
def test_what_is_no_request(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_request(body)


def test_a_clients_field_is_no_note() -> None:
    """A field that is called like one of the notes that the reader leaves for the writer."""
    names: dict[str, Any] = dict.fromkeys(("item", "part", "instructions", "additional_tools", "namespace", "group"), 5)
    part = {"type": "input_text", "text": "hi", **names}
    tools = [{"type": "custom", "name": "g", **names}]
    chat = read({"input": [{"role": "user", "content": [part]}], "tools": tools})
    assert chat == text_format.Parse(HI + "tools { custom { name: 'g' } }", Chat())
