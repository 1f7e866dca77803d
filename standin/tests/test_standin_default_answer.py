"""What the stand-in says without a script, through both protocols."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchbay_standin.default_answer import default_blocks
from patchbay_standin.prompt import OfferedTool, Prompt
from patchbay_standin.script import Text, ToolCall

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city", "days"],
}
TOOLS = {
    "anthropic": [{"name": name, "input_schema": WEATHER} for name in ("weather", "Read")],
    "openai": [{"type": "function", "function": {"name": name, "parameters": WEATHER}} for name in ("weather", "Read")],
}
PROTOCOLS = ("anthropic", "openai")


def calls_of(answer: Any) -> list[tuple[str, Any]]:
    """The tool calls of a whole answer, as (name, input)."""
    if "content" in answer.json:
        return [(block["name"], block["input"]) for block in answer.json["content"] if block["type"] == "tool_use"]
    message = answer.json["choices"][0]["message"]
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message.get("tool_calls", ())
    ]


def text_of(answer: Any) -> str:
    if "content" in answer.json:
        return "".join(block["text"] for block in answer.json["content"] if block["type"] == "text")
    return answer.json["choices"][0]["message"]["content"] or ""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_calls_the_tool_it_is_told_to(protocol: str, ask: Any) -> None:
    text = 'Please use tool Read {"file_path": "/etc/hostname", "deep": {"a": [1]}} now.'
    blocks = [
        {"type": "text", "text": "<system-reminder>use tool weather {}</system-reminder>"},
        {"type": "text", "text": text},
        {"type": "text", "text": "<system-reminder>Be brief.</system-reminder>"},
    ]
    for content in (text, blocks):
        answer = ask(protocol, "m", messages=[{"role": "user", "content": content}], tools=TOOLS[protocol])
        assert calls_of(answer) == [("Read", {"file_path": "/etc/hostname", "deep": {"a": [1]}})]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_calls_several_tools(protocol: str, ask: Any) -> None:
    text = 'use tool Read {"file_path": "/a"} and use tool weather {"city": "Rome", "days": 2}'
    messages = [{"role": "user", "content": text}]
    answer = ask(protocol, "m", messages=messages, tools=TOOLS[protocol])
    assert calls_of(answer) == [("Read", {"file_path": "/a"}), ("weather", {"city": "Rome", "days": 2})]
    one: dict[str, dict[str, Any]] = {
        "anthropic": {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        "openai": {"parallel_tool_calls": False},
    }
    answer = ask(protocol, "m", messages=messages, tools=TOOLS[protocol], **one[protocol])
    assert calls_of(answer) == [("Read", {"file_path": "/a"})]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_answers_with_the_result(protocol: str, ask: Any) -> None:
    said = {"role": "user", "content": 'use tool Read {"file_path": "/a"}'}
    history = {
        "anthropic": [
            said,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Read", "input": {}}]},
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t",
                        "content": [{"type": "text", "text": "line one"}],
                    },
                    {"type": "text", "text": 'use tool Read {"file_path": "/again"}'},
                ],
            },
        ],
        "openai": [
            said,
            {
                "role": "assistant",
                "tool_calls": [{"id": "t", "type": "function", "function": {"name": "Read", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "t", "content": "line one"},
            {"role": "user", "content": 'use tool Read {"file_path": "/again"}'},
        ],
    }
    answer = ask(protocol, "m", messages=history[protocol], tools=TOOLS[protocol])
    assert (text_of(answer), calls_of(answer)) == ("The tool answered: line one", [])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tool_choice(protocol: str, ask: Any) -> None:
    small = {"city": "text", "days": 1}
    choices: dict[str, list[tuple[object, list[tuple[str, object]]]]] = {
        "anthropic": [
            ({"type": "auto"}, []),
            ({"type": "none"}, []),
            ({"type": "any"}, [("weather", small)]),
            ({"type": "tool", "name": "Read"}, [("Read", small)]),
        ],
        "openai": [
            ("auto", []),
            ("none", []),
            ("required", [("weather", small)]),
            ({"type": "function", "function": {"name": "Read"}}, [("Read", small)]),
        ],
    }
    for choice, expected in choices[protocol]:
        answer = ask(protocol, "m", tools=TOOLS[protocol], tool_choice=choice)
        assert calls_of(answer) == expected


@pytest.mark.parametrize(
    ("protocol", "fields"),
    [
        ("anthropic", {"output_config": {"format": {"type": "json_schema", "schema": WEATHER}}}),
        ("openai", {"response_format": {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER}}}),
    ],
)
def test_answers_json(protocol: str, fields: dict[str, Any], ask: Any) -> None:
    assert text_of(ask(protocol, "m", **fields)) == '{"city":"text","days":1}'


def test_answers_any_json_object(ask: Any) -> None:
    assert text_of(ask("openai", "m", response_format={"type": "json_object"})) == "{}"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_token_limit_and_stop_sequences(protocol: str, ask: Any) -> None:
    answer = ask(protocol, "m", max_tokens=3)
    assert text_of(answer) == "This is patchbay-standin,"
    stop = {"stop_sequences": ["not"]} if protocol == "anthropic" else {"stop": "not"}
    stopped = ask(protocol, "m", **stop)
    assert text_of(stopped) == "This is patchbay-standin, a scripted provider and "
    if protocol == "anthropic":
        assert answer.json["stop_reason"] == "max_tokens"
        assert (stopped.json["stop_reason"], stopped.json["stop_sequence"]) == ("stop_sequence", "not")
    else:
        assert answer.json["choices"][0]["finish_reason"] == "length"
        assert stopped.json["choices"][0]["finish_reason"] == "stop"


@given(st.text(min_size=1, max_size=9000))
def test_repeats_what_it_was_told(text: str) -> None:
    (block,) = default_blocks(Prompt(model="m", texts=("before", text))).blocks
    assert isinstance(block, Text)
    assert text[:2000] in block.text
    assert text[-2000:] in block.text
    assert len(block.text) < 4300


@given(st.dictionaries(st.text(), st.recursive(st.integers() | st.text(), st.lists)), st.text(), st.text())
def test_finds_the_instruction_in_any_text(value: dict[str, Any], before: str, after: str) -> None:
    text = f"{before}\nuse tool t {msgspec.json.encode(value).decode()}{after}"
    calls = default_blocks(Prompt(model="m", texts=(text,), tools=(OfferedTool("t", {}),))).blocks
    assert ToolCall(name="t", input=value) in calls
