"""The requests of one conversation, turn after turn, for each pair of dialects.

A provider caches by prefix: what was sent in turn N is sent again, byte for byte, in turn N+1. `test_pairs_of_turns`
goes the whole way, with what the upstream answers; here the conversations are longer and stranger than an SDK's.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from patchbay.dialects.openai_responses._quirks import CHATGPT
from patchbay.testing.dialect_pairs import DIALECTS, Json
from patchbay.testing.request_pairs import check_request, write_request

LONG_NAME = "mcp__server__" + "tool_" * 20
LONG_ID = "call_" + "x" * 70
SCHEMA: Json = {"type": "object", "properties": {"a": {"type": "array"}}}


def anthropic_turns() -> tuple[Json, list[list[Json]]]:
    body: Json = {
        "max_tokens": 4000,
        "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
        "tools": [{"name": name, "input_schema": SCHEMA} for name in (LONG_NAME, "f")],
        "thinking": {"type": "adaptive"},
    }

    def answer(*calls: tuple[str, str]) -> Json:
        uses = [{"type": "tool_use", "id": call, "name": name, "input": {"a": [1.5]}} for call, name in calls]
        thoughts = [{"type": "thinking", "thinking": "hm", "signature": signature} for signature in ("gAAAAB", "EqQB")]
        return {"role": "assistant", "content": [*thoughts, {"type": "text", "text": "I look."}, *uses]}

    def results(*calls: str, text: str = "") -> Json:
        blocks: list[Json] = [{"type": "tool_result", "tool_use_id": call, "is_error": True} for call in calls]
        return {"role": "user", "content": [*blocks, *([{"type": "text", "text": text}] if text else [])]}

    return body, [
        [{"role": "user", "content": "hi"}],
        [answer(("call_0", LONG_NAME), (LONG_ID, "f")), results("call_0", LONG_ID, text="so")],
        [answer(("call_0", "f")), results("call_0")],
        [answer(), {"role": "user", "content": "and?"}],
    ]


def chat_turns() -> tuple[Json, list[list[Json]]]:
    functions = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in (LONG_NAME, "f")]
    body: Json = {
        "reasoning_effort": "low",
        "tools": [*functions, {"type": "custom", "custom": {"name": "f"}}],
    }

    def answer(*calls: tuple[str, str]) -> Json:
        given = [
            {"id": call, "type": "function", "function": {"name": name, "arguments": '{"a": [1.50]}'}}
            for call, name in calls
        ]
        return {"role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": given}

    free = {"id": "free", "type": "custom", "custom": {"name": "f", "input": "x"}}
    return body, [
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
        [
            answer(("call_0", LONG_NAME), (LONG_ID, "f")),
            {"role": "tool", "tool_call_id": "call_0", "content": "r"},
            {"role": "tool", "tool_call_id": LONG_ID, "content": ""},
        ],
        [
            {"role": "assistant", "content": None, "tool_calls": [free]},
            {"role": "tool", "tool_call_id": "free", "content": "r"},
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "so"},
        ],
        [{"role": "assistant", "content": "a"}, {"role": "user", "content": "and?"}],
    ]


def responses_turns() -> tuple[Json, list[list[Json]]]:
    tools = [{"type": "function", "name": name, "strict": False, "parameters": SCHEMA} for name in (LONG_NAME, "f")]
    body: Json = {
        "reasoning": {"effort": "high", "summary": "auto"},
        "store": False,
        "tools": [*tools, {"type": "custom", "name": "f"}],
    }
    group = {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "custom", "name": "f"}]}
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}

    def said(role: str, text: str) -> Json:
        kind = "output_text" if role == "assistant" else "input_text"
        return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}

    def call(call_id: str, name: str) -> Json:
        return {"type": "function_call", "call_id": call_id, "name": name, "arguments": '{"a": [1.50]}'}

    def output(call_id: str, kind: str = "function_call_output") -> Json:
        return {"type": kind, "call_id": call_id, "output": "r"}

    return body, [
        [
            {"type": "additional_tools", "role": "developer", "tools": [group]},
            said("developer", "Be kind."),
            said("user", "hi"),
        ],
        [
            reasoning | {"encrypted_content": "gAAAAB"},
            call("call_0", LONG_NAME),
            call(LONG_ID, "f"),
            said("developer", "Look closely."),
            output("call_0"),
            output(LONG_ID),
        ],
        [
            reasoning | {"encrypted_content": "EqQB"},
            said("assistant", "I look."),
            {"type": "custom_tool_call", "call_id": "call_0", "name": "f", "namespace": "n", "input": "x"},
            {"type": "custom_tool_call", "call_id": "e", "name": "f", "input": "x"},
            output("call_0", "custom_tool_call_output"),
            output("e", "custom_tool_call_output"),
        ],
        [said("assistant", "a"), said("developer", "Be brief."), said("user", "and?")],
    ]


TURNS: dict[str, tuple[str, Callable[[], tuple[Json, list[list[Json]]]]]] = {
    "anthropic": ("messages", anthropic_turns),
    "openai_chat": ("messages", chat_turns),
    "openai_responses": ("input", responses_turns),
}
UPSTREAMS: dict[str, tuple[str, object]] = {name: (name, dialect.quirks) for name, dialect in DIALECTS.items()}
UPSTREAMS["chatgpt"] = ("openai_responses", CHATGPT)


def prompt(body: bytes) -> bytes:
    """What the provider reads, in its order, up to the end of the last message."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    names = ("tools", "system", "instructions", "messages", "input")
    return b"".join([bytes(fields[name]) for name in names if name in fields]).removesuffix(b"]")


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize("client", TURNS)
def test_a_turn_begins_with_the_one_before(client: str, upstream: str) -> None:
    field, turns = TURNS[client]
    dialect, quirks = UPSTREAMS[upstream]
    body, later = turns()
    body |= {"model": "m", field: []}
    before = b""
    for items in later:
        body[field] = [*body[field], *items]
        written = write_request(client, dialect, body, quirks=quirks)
        check_request(dialect, written)
        now = prompt(written.body)
        assert now[: len(before)] == before
        assert len(now) > len(before)
        before = now


def test_a_responses_body_begins_with_the_one_before() -> None:
    """To the last byte, since the input comes last."""
    for client in TURNS:
        field, turns = TURNS[client]
        body, later = turns()
        body |= {"model": "m", field: []}
        before = b""
        for items in later:
            body[field] = [*body[field], *items]
            now = write_request(client, "openai_responses", body).body
            assert now[: len(before)] == before
            before = now.removesuffix(b"]}")
