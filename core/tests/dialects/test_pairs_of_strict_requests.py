"""What a provider would refuse in the other dialect's requests, and what becomes of it."""

from __future__ import annotations

import msgspec
import pytest

from patchbay.testing.dialect_pairs import DIALECTS, Json
from patchbay.testing.request_pairs import check_request, write_request


def test_reasoning_in_a_tool_loop_of_a_client_that_forgets_it() -> None:
    """The API refuses a budget in a turn that began without thinking: it thinks again in the next."""
    ask = {"role": "user", "content": "hi"}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    loop = [ask, {"role": "assistant", "content": None, "tool_calls": [call]}]
    loop.append({"role": "tool", "tool_call_id": "c", "content": "r"})
    for messages, thinks in (
        (loop[:1], True),
        (loop, False),
        ([*loop, {"role": "assistant", "content": "a"}, ask], True),
    ):
        body = {"model": "m", "reasoning_effort": "high", "messages": messages}
        written = write_request("openai_chat", "anthropic", body)
        assert ("thinking" in check_request("anthropic", written)) == thinks
        assert written.warnings == ()


@pytest.mark.parametrize(
    ("thinking", "effort"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, "low"),
        ({"type": "enabled", "budget_tokens": 31_999}, "high"),
        ({"type": "adaptive"}, None),
        ({"type": "disabled"}, None),
    ],
)
def test_how_much_to_think_at_openai(thinking: Json, effort: str | None) -> None:
    body = {"model": "m", "max_tokens": 32_000, "thinking": thinking, "messages": [{"role": "user", "content": "hi"}]}
    written = write_request("anthropic", "openai_chat", body)
    assert check_request("openai_chat", written).get("reasoning_effort") == effort
    assert written.warnings == ()


@pytest.mark.parametrize(
    ("fields", "written", "warned"),
    [
        ({"tool_choice": {"type": "none"}}, {}, []),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, {}, []),
        ({"tool_choice": {"type": "any"}}, {}, ["tool_choice"]),
        ({"service_tier": "standard_only"}, {"service_tier": "default"}, []),
        ({"service_tier": "auto"}, {"service_tier": "auto"}, []),
        ({"stop_sequences": list("abcde")}, {"stop": list("abcd")}, ["stop"]),
        ({"speed": "standard", "cache_control": {"type": "ephemeral"}, "container": None}, {}, []),
        ({"speed": "fast"}, {}, ["speed"]),
    ],
)
def test_what_openai_would_refuse(fields: Json, written: Json, warned: list[str]) -> None:
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]} | fields
    request = write_request("anthropic", "openai_chat", body)
    rest = check_request("openai_chat", request)
    for name in ("model", "messages", "stream", "stream_options", "max_completion_tokens"):
        del rest[name]
    assert rest == written
    assert [warning.parameter for warning in request.warnings] == warned


@pytest.mark.parametrize(
    ("schema", "strict", "parameters", "kept"),
    [
        ({"type": "object"}, None, {"type": "object", "properties": {}}, None),
        ({}, None, {"type": "object", "properties": {}}, None),
        (
            {"type": "object", "anyOf": [{"required": ["a"]}]},
            None,
            {"type": "object", "anyOf": [{"required": ["a"]}]},
            None,
        ),
        (
            {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
            True,
            {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
            None,
        ),
        (
            {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False},
            True,
            {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False},
            True,
        ),
    ],
)
def test_schemas_for_openai(schema: Json, strict: bool | None, parameters: Json, kept: bool | None) -> None:
    tool = {"name": "f", "input_schema": schema} | ({} if strict is None else {"strict": strict})
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], "tools": [tool]}
    request = write_request("anthropic", "openai_chat", body)
    (written,) = check_request("openai_chat", request)["tools"]
    assert written["function"]["parameters"] == parameters
    assert written["function"].get("strict") == kept
    assert [warning.parameter for warning in request.warnings] == (["tools.strict"] if strict and not kept else [])


def test_carried_json_keeps_its_text() -> None:
    schema = b'{ "type":"object","properties":{"n":{"default":1.50e3}} }'
    body = (
        b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"hi"}],"tools":[{"name":"f","input_schema":'
    )
    chat = DIALECTS["anthropic"].read_request(body + schema + b"}]}")
    written = DIALECTS["openai_chat"].write_request(chat, "m", DIALECTS["openai_chat"].quirks)
    assert schema in written.body
    assert msgspec.json.decode(written.body)
