"""What a provider would refuse in the other dialect's requests, and what becomes of it."""

from __future__ import annotations

import json

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


NONE = "[There is no result of this call.]"

# Conversations whose calls and results are apart, or lack one another: what is asked, and what the provider is told.
LOOSE: dict[str, tuple[list[str], list[str]]] = {
    "a message between": (["call a", "user wait", "result a r"], ["call a", "result a r", "user wait"]),
    "an instruction between": (["call a", "developer now", "result a r"], ["call a", "result a r", "developer now"]),
    "a message between results": (
        ["call a", "call b", "result b r", "user wait", "result a r"],
        ["call a", "call b", "result a r", "result b r", "user wait"],
    ),
    "no result": (["call a", "user so"], ["call a", f"result a {NONE}", "user so"]),
    "one result of two": (
        ["call a", "call b", "result b r", "user so"],
        ["call a", "call b", f"result a {NONE}", "result b r", "user so"],
    ),
    "no result in the end": (["call a"], ["call a", f"result a {NONE}"]),
    "no call": (["result a r", "user so"], ["user Result of tool call a:", "user r", "user so"]),
    "two results": (
        ["call a", "result a r", "result a s"],
        ["call a", "result a r", "user Result of tool call a:", "user s"],
    ),
    "a result after the next answer": (
        ["call a", "user so", "assistant no", "result a r"],
        ["call a", f"result a {NONE}", "user so", "assistant no", "user Result of tool call a:", "user r"],
    ),
}


def item(line: str) -> Json:
    """An item of the Responses API."""
    kind, name, *text = line.split(maxsplit=2)
    if kind == "call":
        return {"type": "function_call", "call_id": name, "name": "f", "arguments": "{}"}
    if kind == "result":
        return {"type": "function_call_output", "call_id": name, "output": text[0]}
    part = "output_text" if kind == "assistant" else "input_text"
    return {"type": "message", "role": kind, "content": [{"type": part, "text": name}]}


def lines_of(message: Json) -> list[str]:
    """What a message of the other two APIs says, a line for each text, call and result."""
    content = message["content"] or []
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    role = "developer" if message["role"] == "system" else message["role"]
    if role == "tool":
        return [f"result {message['tool_call_id']} {block['text']}" for block in blocks]
    lines = [f"call {call['id']}" for call in message.get("tool_calls", ())]
    for block in blocks:
        match block["type"]:
            case "tool_use":
                lines.append(f"call {block['id']}")
            case "tool_result":
                lines += [f"result {block['tool_use_id']} {inner['text']}" for inner in block["content"]]
            case _:
                lines.append(f"{role} {block['text']}")
    return lines


@pytest.mark.parametrize("upstream", ["anthropic", "openai_chat"])
@pytest.mark.parametrize("name", LOOSE)
def test_results_go_right_behind_their_calls(name: str, upstream: str) -> None:
    """OpenAI's Responses API takes some of these, the others none."""
    asked, told = LOOSE[name]
    body = {"model": "m", "input": [item("user hi"), *[item(line) for line in asked]]}
    written = write_request("openai_responses", upstream, body, "claude-opus-4-8")
    messages = check_request(upstream, written)["messages"]
    assert [line for message in messages for line in lines_of(message)] == ["user hi", *told]
    assert written.warnings == ()


@pytest.mark.parametrize("upstream", DIALECTS)
def test_calls_without_an_id_go_with_their_results_by_position(upstream: str) -> None:
    calls = [{"type": "function_call", "call_id": "", "name": "f", "arguments": "{}"}] * 2
    outputs = [{"type": "function_call_output", "call_id": "", "output": text} for text in ("first", "second")]
    written = write_request("openai_responses", upstream, {"model": "m", "input": [*calls, *outputs]})
    body = check_request(upstream, written)
    if upstream == "openai_responses":
        ids = [(entry["call_id"], entry.get("output")) for entry in body["input"]]
        assert ids == [(ids[0][0], None), (ids[1][0], None), (ids[0][0], "first"), (ids[1][0], "second")]
    else:
        first, second, *results = [line.split() for message in body["messages"] for line in lines_of(message)]
        assert results == [["result", first[1], "first"], ["result", second[1], "second"]]
        assert first != second


LONG_NAME = "mcp__server__" + "x" * 70


def choosing(client: str, mode: str, *more: Json) -> Json:
    """A request that offers four tools, of which two may be called."""
    kinds = {LONG_NAME: "function", "f": "function", "g": "custom", "h": "custom"}
    if client == "openai_responses":
        tools = [{"type": kind, "name": name} for name, kind in kinds.items()]
        choice = {"type": "allowed_tools", "mode": mode, "tools": [tools[2], tools[0], *more]}
        return {"input": "hi", "tools": [*tools, *more], "tool_choice": choice}
    named = [{"type": kind, kind: {"name": name}} for name, kind in kinds.items()]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named[2], named[0]]}}
    return {"messages": [{"role": "user", "content": "hi"}], "tools": named, "tool_choice": choice}


@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize("upstream", DIALECTS)
@pytest.mark.parametrize("client", ["openai_chat", "openai_responses"])
def test_a_choice_among_some_tools(client: str, upstream: str, mode: str) -> None:
    written = write_request(client, upstream, {"model": "m"} | choosing(client, mode))
    body = json.loads(written.body)
    assert written.warnings == ()
    (long,) = [name for name, tool in written.names.items() if tool.name == LONG_NAME] or [LONG_NAME]
    offered = [tool.get("name") or tool[tool["type"]]["name"] for tool in body["tools"]]
    if upstream == "openai_responses":
        assert offered == [long, "f", "g", "h"]
        tools = [{"type": "custom", "name": "g"}, {"type": "function", "name": long}]
        assert body["tool_choice"] == {"type": "allowed_tools", "mode": mode, "tools": tools}
    else:
        assert offered == [long, "g"]
        in_anthropics_words = {"auto": {"type": "auto"}, "required": {"type": "any"}}
        assert body["tool_choice"] == (in_anthropics_words[mode] if upstream == "anthropic" else mode)


@pytest.mark.parametrize("upstream", ["anthropic", "openai_chat"])
def test_a_choice_among_tools_of_others_is_left_out(upstream: str) -> None:
    body = {"model": "m"} | choosing("openai_responses", "auto", {"type": "web_search"})
    written = write_request("openai_responses", upstream, body)
    assert "tool_choice" not in json.loads(written.body)
    assert [warning.parameter for warning in written.warnings] == ["tool_choice"]


@pytest.mark.parametrize(
    ("others", "choice", "warned"), [([], "required", []), ([{"name": "f", "input_schema": {}}], None, ["tool_choice"])]
)
def test_a_web_search_that_claude_code_forces(others: list[Json], choice: str | None, warned: list[str]) -> None:
    """Servers that compare with OpenAI's types refuse a choice of the tool itself, but not of the only one there is."""
    body = {
        "model": "m",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}, *others],
        "tool_choice": {"type": "tool", "name": "web_search"},
    }
    written = write_request("anthropic", "openai_responses", body)
    assert check_request("openai_responses", written).get("tool_choice") == choice
    assert [warning.parameter for warning in written.warnings] == warned


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
        # Alone it asks for nothing, and Chat Completions refuses it.
        ({"top_logprobs": 3}, {}),
        ({"top_logprobs": 0}, {}),
    ],
)
def test_log_probabilities_of_the_responses_api(asked: Json, told: Json) -> None:
    written = write_request("openai_responses", "openai_chat", {"model": "m", "input": "hi"} | asked)
    body = check_request("openai_chat", written)
    assert {name: value for name, value in body.items() if "logprobs" in name} == told
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
