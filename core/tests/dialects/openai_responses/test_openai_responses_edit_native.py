"""A client's own body made ready for the platform, for ChatGPT's backend and for others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbay.dialects.openai_responses._edit_native import edit_native, without_reasoning
from patchbay.dialects.openai_responses._quirks import CHATGPT, OpenAIResponsesQuirks
from patchbay.errors import InvalidRequest

QUIRKS = OpenAIResponsesQuirks()
CODEX = Path(__file__).with_name("codex.json").read_bytes()

# What ChatGPT's backend wants of every request.
WANTED = {"stream": True, "store": False, "instructions": "", "include": ["reasoning.encrypted_content"]}
HI = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]


def edit(body: dict[str, Any], quirks: OpenAIResponsesQuirks = CHATGPT) -> tuple[dict[str, Any], list[str]]:
    edited = edit_native(json.dumps(body).encode(), None, quirks)
    return json.loads(edited.body), [warning.parameter for warning in edited.warnings]


def test_the_platform_gets_the_very_bytes() -> None:
    assert edit_native(CODEX, None, QUIRKS).body is CODEX
    assert edit_native(CODEX, "gpt-6.1-sol", QUIRKS).body == CODEX
    body = edit_native(CODEX, "gpt-5", QUIRKS).body
    assert body == CODEX.replace(b'"gpt-6.1-sol"', b'"gpt-5"')
    whole = b'{"model": "m", "input": "hi", "max_output_tokens": 5, "user": "u", "store": true, "x": 1.50}'
    assert edit_native(whole, "m", QUIRKS).body == whole


def test_what_another_provider_has_signed_or_hidden_stays_here() -> None:
    theirs = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "of a compatible server"}
    signed, hidden = (
        theirs | {"encrypted_content": content} for content in ("patchbay-signed:E", "patchbay-redacted:E")
    )
    edited, warnings = edit({"input": [theirs, signed, hidden, *HI]}, QUIRKS)
    assert (edited["input"], warnings) == ([theirs, *HI], [])


def test_codex_itself_at_chatgpt() -> None:
    """Only the instructions are added, and nothing is warned of."""
    edited = edit_native(CODEX, None, CHATGPT)
    assert edited.body == CODEX.replace(b"{", b'{"instructions":"",', 1)
    assert edited.warnings == ()


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "a string": ({"input": "hi"}, {"input": HI}, []),
    "instructions": ({"instructions": "s", "input": HI}, {"instructions": "s", "input": HI}, []),
    "no instructions": ({"instructions": None, "input": HI}, {"input": HI}, []),
    "whole answers": ({"stream": False, "input": HI}, {"input": HI}, []),
    "an answer to be stored": ({"store": True, "input": HI}, {"input": HI}, []),
    "more to include": (
        {"include": ["file_search_call.results"], "input": HI},
        {"include": ["file_search_call.results", "reasoning.encrypted_content"], "input": HI},
        [],
    ),
    "what asks for nothing": (
        {
            "input": HI,
            "user": "u",
            "safety_identifier": "s",
            "stream_options": {"include_obfuscation": False},
            "truncation": "disabled",
            "temperature": 1,
            "top_p": None,
            "max_output_tokens": 64000,
            "previous_response_id": None,
            "generate": True,
            "service_tier": "auto",
            "context_management": [{"type": "compaction"}],
        },
        {"input": HI},
        [],
    ),
    "what asks for something": (
        {
            "input": HI,
            "truncation": "auto",
            "temperature": 0.5,
            "top_p": 0.5,
            "max_output_tokens": 64,
            "previous_response_id": "resp_1",
            "metadata": {"a": "b"},
            "seed": 1,
            "service_tier": "flex",
        },
        {"input": HI},
        [
            "max_output_tokens",
            "metadata",
            "previous_response_id",
            "seed",
            "temperature",
            "top_p",
            "truncation",
            "service_tier",
        ],
    ),
    "fast": ({"input": HI, "service_tier": "fast"}, {"input": HI, "service_tier": "priority"}, []),
    "system messages": (
        {"input": [{"role": "system", "content": "s"}, *HI]},
        {"input": [{"role": "developer", "content": "s"}, *HI]},
        [],
    ),
    "items that are only named": (
        {"input": [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_2"}, *HI]},
        {"input": HI},
        ["input.item_reference"],
    ),
    "reasoning": (
        {
            "input": [
                {"type": "reasoning", "id": "rs_1", "summary": []},
                {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": None},
                {"type": "reasoning", "id": "rs_3", "summary": [], "encrypted_content": "EqQB"},
                {"type": "reasoning", "id": "rs_4", "summary": [], "encrypted_content": "gAAAAB"},
                {"type": "reasoning", "id": "rs_" + "x" * 64, "summary": [], "encrypted_content": "gAAAAB"},
                *HI,
            ]
        },
        {
            "input": [
                {"type": "reasoning", "id": "rs_4", "summary": [], "encrypted_content": "gAAAAB"},
                {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAB"},
                *HI,
            ]
        },
        [],
    ),
    "ids of other servers": (
        {
            "input": [
                {"type": "message", "id": "chatcmpl-1", "role": "assistant", "content": []},
                {"type": "function_call", "id": "toolu_1", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "id": "fc_2", "call_id": "c", "output": ""},
                {"type": "additional_tools", "id": "at_1", "role": "developer", "tools": []},
            ]
        },
        {
            "input": [
                {"type": "message", "role": "assistant", "content": []},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "id": "fc_2", "call_id": "c", "output": ""},
                {"type": "additional_tools", "id": "at_1", "role": "developer", "tools": []},
            ]
        },
        [],
    ),
    "marks for the cache": (
        {
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}},
                        {"type": "input_text", "text": '"prompt_cache_breakpoint"'},
                    ],
                }
            ]
        },
        {
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "a"},
                        {"type": "input_text", "text": '"prompt_cache_breakpoint"'},
                    ],
                }
            ]
        },
        [],
    ),
    "tools": (
        {
            "input": HI,
            "parallel_tool_calls": True,
            "tools": [
                {"type": "function", "name": "f", "parameters": {"$schema": "s", "type": "object"}},
                {"type": "web_search_preview", "search_context_size": "low"},
                {"type": "custom", "name": "g"},
            ],
            "tool_choice": {"type": "web_search_preview"},
        },
        {
            "input": HI,
            "parallel_tool_calls": True,
            "tools": [
                {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}},
                {"type": "web_search", "search_context_size": "low"},
                {"type": "custom", "name": "g"},
            ],
            "tool_choice": {"type": "web_search"},
        },
        [],
    ),
    "no tools": (
        {"input": HI, "tools": [], "parallel_tool_calls": True},
        {"input": HI, "tools": []},
        [],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_chatgpt_gets(name: str) -> None:
    body, expected, warnings = CASES[name]
    edited = edit({"model": "m", **body})
    assert edited == ({"model": "m", **WANTED, **expected}, warnings)
    # What has been edited needs no more of it.
    assert edit(edited[0]) == (edited[0], [])


def test_long_call_ids_are_shortened_alike() -> None:
    long = "call_" + "x" * 70
    call = {"type": "custom_tool_call", "call_id": long, "name": "f", "input": ""}
    output = {"type": "custom_tool_call_output", "call_id": long, "output": ""}
    body, _ = edit({"model": "m", "input": [call, output]})
    first, second = (item["call_id"] for item in body["input"])
    assert first == second
    assert len(first) == 64


def test_items_that_need_no_change_keep_their_bytes() -> None:
    item = b'{ "type":"function_call_output" , "call_id":"c", "output":"\\u00e9 1.50" }'
    body = b'{"model":"m","input":[{"role":"system","content":"s"}, ' + item + b'], "metadata":{"a":"b"}, "x": 1.50}'
    edited = edit_native(body, None, CHATGPT).body
    assert item in edited
    assert b'"x":1.50' in edited


def test_other_servers_do_not_get_codex_notes() -> None:
    quirks = replace(QUIRKS, message_metadata=False)
    body = json.loads(CODEX)
    # Ids are such a server's own affair.
    body["input"][5]["id"] = "chatcmpl-1"
    edited, warnings = edit(body, quirks)
    del body["input"][3]["internal_chat_message_metadata_passthrough"]
    assert (edited, warnings) == (body, [])


def test_without_reasoning() -> None:
    body = json.loads(CODEX)
    stripped = json.loads(without_reasoning(CODEX))
    assert stripped == body | {"input": [item for item in body["input"] if item["type"] != "reasoning"]}
    for nothing in (b'{"input":"hi"}', b'{"input":[1]}', b"{}"):
        assert without_reasoning(nothing) == nothing


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"input":' + b"[" * 5000])
@pytest.mark.parametrize("quirks", [QUIRKS, CHATGPT], ids=["platform", "chatgpt"])
def test_what_is_no_request(body: bytes, quirks: OpenAIResponsesQuirks) -> None:
    with pytest.raises(InvalidRequest):
        edit_native(body, "m", quirks)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_body_is_refused_or_edited(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(CODEX) - 1))
    end = data.draw(st.integers(start, min(len(CODEX), start + 8)))
    piece = data.draw(st.binary(max_size=4) | st.sampled_from([b"null", b"{}", b"[]", b"1e999", b'"', rb"\ud800"]))
    body = CODEX[:start] + piece + CODEX[end:]
    try:
        edited = edit_native(body, "m", CHATGPT).body
    except InvalidRequest:
        return
    # What ChatGPT is asked for does not depend on how well the rest is written.
    fields = json.loads(edited.decode(errors="replace"))
    assert (fields["model"], fields["stream"], fields["store"]) == ("m", True, False)
