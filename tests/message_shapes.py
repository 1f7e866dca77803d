"""Requests of the Messages API in every shape that a client may send: a table for tests of what reaches the upstream.

https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ways import PDF, PIXEL, WEATHER_SCHEMA

Body = dict[str, Any]

MODEL = "claude-sonnet-4-5-20250929"
EPHEMERAL: Body = {"type": "ephemeral"}
HOUR: Body = {"type": "ephemeral", "ttl": "1h"}
WEATHER: Body = {"name": "get_weather", "description": "The weather.", "input_schema": WEATHER_SCHEMA}
CLOCK: Body = {"name": "get_time", "input_schema": {"type": "object", "properties": {"zone": {"type": "string"}}}}
# What no careful program would write so: joined emoji, right to left, escapes, separators, a mended half of a pair.
ODD_TEXT = (
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \u202e\u05e9\u05dc\u05d5\u05dd\u202c"
    " \u0645\u0631\u062d\u0628\u0627 \x00\x1b[31m"
    '\u2028\u2029\ufeff e\u0301 \ufffd \\u0041 "quoted" </tag> \r\n\t\U0010ffff'
)


@dataclass(frozen=True)
class Shape:
    """A request: the fields of its body, and its `anthropic-beta` header."""

    body: Mapping[str, Any]
    betas: str = ""


def user(*blocks: Body) -> Body:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Body) -> Body:
    return {"role": "assistant", "content": list(blocks)}


def text(words: str, **more: Any) -> Body:
    return {"type": "text", "text": words, **more}


def call(identity: str, name: str = "get_weather", **arguments: Any) -> Body:
    return {"type": "tool_use", "id": identity, "name": name, "input": arguments}


def result(identity: str, content: Any = None, **more: Any) -> Body:
    block: Body = {"type": "tool_result", "tool_use_id": identity, **more}
    return block if content is None else {**block, "content": content}


def shape(*messages: Body | str, betas: str = "", **fields: Any) -> Shape:
    """A request with these messages, texts being a user's, and these fields beside the usual ones."""
    written = [{"role": "user", "content": each} if isinstance(each, str) else each for each in messages]
    return Shape({"model": MODEL, "max_tokens": 1000, "messages": written or [_HELLO], **fields}, betas)


def answered(*results: Body, calls: tuple[Body, ...] | None = None, **fields: Any) -> Shape:
    """A request that brings the results of calls."""
    calls = calls or tuple(call(each["tool_use_id"], city="Lisbon") for each in results)
    return shape("Weather?", assistant(*calls), user(*results), **{"tools": [WEATHER], **fields})


def asked(*blocks: Body, **fields: Any) -> Shape:
    """A request of one message with these blocks."""
    return shape(user(*blocks, text("What is it?")), **fields)


def _long_history() -> list[Body]:
    turns: list[Body] = []
    for number in range(100):
        turns.append({"role": "user", "content": f"Question {number}"})
        turns.append(assistant(text(f"Answer {number}")))
    return [*turns[:-1], {"role": "user", "content": "And now?"}]


_HELLO: Body = {"role": "user", "content": "Hello"}
_IMAGE: Body = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
_PLAIN_DOCUMENT: Body = {"type": "text", "media_type": "text/plain", "data": "The grass is green."}
_SEARCH_RESULT: Body = {
    "type": "search_result",
    "source": "https://example.com/grass",
    "title": "Grass",
    "content": [text("Green.")],
    "citations": {"enabled": True},
}
_THOUGHT: Body = {"type": "thinking", "thinking": "Weather needs a tool.", "signature": "c2lnbmVkIGJ5IG1l+/=="}
_SERVER_CALL: Body = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "grass"}}
_FOUND: Body = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [
        {"type": "web_search_result", "url": "https://e.example", "title": "E", "encrypted_content": "YWJj"},
    ],
}
_CITED: Body = text(
    "Green.",
    citations=[
        {
            "type": "web_search_result_location",
            "url": "https://e.example",
            "title": "E",
            "encrypted_index": "aQ==",
            "cited_text": "green",
        }
    ],
)
_JSON_FORMAT: Body = {
    "type": "json_schema",
    "schema": {"type": "object", "properties": {"count": {"type": "integer"}}, "additionalProperties": False},
}
_WEB_SEARCH: Body = {
    "type": "web_search_20250305",
    "name": "web_search",
    "max_uses": 3,
    "allowed_domains": ["example.com"],
    "user_location": {"type": "approximate", "city": "Lisbon"},
}

BLOCKS: Mapping[str, Shape] = {
    "text": shape("Hello"),
    "text blocks": shape(user(text("One."), text("Two."), text(" "))),
    "image in base64": asked(_IMAGE),
    "image by url": asked({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}),
    "image file": asked(
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}}, betas="files-api-2025-04-14"
    ),
    "pdf in base64": asked(
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}
    ),
    "text document": asked(
        {
            "type": "document",
            "source": _PLAIN_DOCUMENT,
            "title": "Facts",
            "context": "Old.",
            "citations": {"enabled": True},
        }
    ),
    "document by url": asked({"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}),
    "document of blocks": asked(
        {"type": "document", "source": {"type": "content", "content": [text("Green."), _IMAGE]}}
    ),
    "document file": asked(
        {"type": "document", "source": {"type": "file", "file_id": "file_2"}}, betas="files-api-2025-04-14"
    ),
    "search result": asked(_SEARCH_RESULT),
    "container upload": asked(
        {"type": "container_upload", "file_id": "file_3"},
        tools=[{"type": "code_execution_20250825", "name": "code_execution"}],
        betas="code-execution-2025-08-25,files-api-2025-04-14",
    ),
    "block of an unknown type": asked({"type": "hologram", "depth": [1, {"a": None}], "text": "~"}),
    "tool use": answered(result("toolu_1", "21")),
    "tool result of blocks": answered(result("toolu_1", [text("21"), text("degrees")])),
    "tool result with an image": answered(result("toolu_1", [text("See:"), _IMAGE])),
    "tool result with documents": answered(
        result("toolu_1", [{"type": "document", "source": _PLAIN_DOCUMENT}, _SEARCH_RESULT])
    ),
    "failed tool": answered(result("toolu_1", [text("No such city."), _IMAGE], is_error=True)),
    "empty tool results": answered(result("toolu_1"), result("toolu_2", ""), result("toolu_3", [])),
    "tool result and words": shape(
        "Weather?", assistant(call("toolu_1")), user(result("toolu_1", "21"), text("Well?"), _IMAGE), tools=[WEATHER]
    ),
    "parallel tools": answered(
        result("toolu_2", "12:00"),
        result("toolu_1", "21"),
        calls=(text("Both."), call("toolu_1", city="Lisbon"), call("toolu_2", "get_time", zone="Europe/Lisbon")),
        tools=[WEATHER, CLOCK],
    ),
    "large tool result": answered(result("toolu_1", "0123456789abcdef" * 25_600)),
    "signed thinking": answered(
        result("toolu_1", "21"),
        calls=(_THOUGHT, text("Let me look."), call("toolu_1", city="Lisbon")),
        thinking={"type": "enabled", "budget_tokens": 1024},
        max_tokens=4000,
        betas="interleaved-thinking-2025-05-14",
    ),
    "redacted thinking": shape(
        "Think.",
        assistant({"type": "redacted_thinking", "data": "c2VjcmV0"}, text("Done.")),
        "Again.",
        thinking={"type": "enabled", "budget_tokens": 1024},
    ),
    "thinking of old turns": shape(
        "One.", assistant(_THOUGHT, text("1")), "Two.", assistant(_THOUGHT, text("2")), "Three."
    ),
    "server tool": shape("Grass?", assistant(_SERVER_CALL, _FOUND, _CITED), "Sure?", tools=[_WEB_SEARCH]),
    "server tool, failed and code": shape(
        "Run.",
        assistant(
            _SERVER_CALL,
            {**_FOUND, "content": {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}},
            {"type": "server_tool_use", "id": "srvtoolu_2", "name": "bash_code_execution", "input": {"command": "ls"}},
            {
                "type": "bash_code_execution_tool_result",
                "tool_use_id": "srvtoolu_2",
                "content": {"type": "bash_code_execution_result", "stdout": "", "stderr": "", "return_code": 0},
            },
        ),
        "Go on.",
    ),
    "mcp tool": shape(
        "Ask.",
        assistant(
            {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "echo", "server_name": "s", "input": {}},
            {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "is_error": False, "content": [text("hi")]},
        ),
        "Again.",
        mcp_servers=[{"type": "url", "url": "https://mcp.example.com", "name": "s", "authorization_token": "made-up"}],
        betas="mcp-client-2025-04-04",
    ),
}  # fmt: skip

CONVERSATIONS: Mapping[str, Shape] = {
    "several turns": shape("One.", assistant(text("1")), "Two.", {"role": "assistant", "content": "2"}, "Three."),
    "users in a row": shape("One.", "Two.", user(text("Three."))),
    "assistants in a row": shape("One.", assistant(text("1")), assistant(text("2")), "Three."),
    "empty prefill": shape("Say a word.", {"role": "assistant", "content": ""}),
    "empty prefill of blocks": shape("Say a word.", assistant()),
    "prefill": shape("As JSON.", assistant(text("{"))),
    "system message": shape("One.", {"role": "system", "content": "Be brief."}, "Two."),
    "200 messages": shape(*_long_history()),
    "cache marks": shape(
        user(text("A long text.", cache_control=HOUR), {**_IMAGE, "cache_control": EPHEMERAL}),
        assistant(call("toolu_1")),
        user(result("toolu_1", [text("21", cache_control=EPHEMERAL)])),
        tools=[{**WEATHER, "cache_control": HOUR}],
        system=[text("Be brief.", cache_control=HOUR)],
    ),
    "cache mark of the system": shape(
        user(text("A long text.", cache_control=EPHEMERAL)),
        system=[text("Be kind."), text("Be brief.", cache_control=EPHEMERAL)],
    ),
    "cache mark of the system, for an hour": shape(
        user(text("A long text.", cache_control=HOUR)), system=[text("Be brief.", cache_control=HOUR)]
    ),
    "cache mark on the last": shape(user(text("A long text.", cache_control=EPHEMERAL))),
    "cache mark on a result": answered(result("toolu_1", "21", cache_control=EPHEMERAL)),
    "automatic cache": shape("Hello", cache_control=EPHEMERAL),
    "system": shape("Hello", system="Be brief."),
    "empty system": shape("Hello", system=""),
    "system of blocks": shape("Hello", system=[text("Be brief."), text("Be kind.\n"), text("  Odd  ")]),
    "odd system": shape("Hello", system=[text(ODD_TEXT), text("<system-reminder>Mine.</system-reminder>")]),
    "system of another program": shape(
        "Hello",
        system=[
            text("x-anthropic-billing-header: cc_version=2.0.1.abc; cc_entrypoint=cli;"),
            text("You are Claude Code, Anthropic's official CLI for Claude."),
            text("Do as you are told."),
        ],
    ),
    "system of nothing but a name": shape("Hello", system="You are Claude Code, Anthropic's official CLI for Claude."),
    "system about attribution": shape("Hello", system="Never write x-anthropic-billing-header: anywhere."),
    "odd text": shape(
        user(text(ODD_TEXT)),
        assistant(call("toolu_1", **{ODD_TEXT: ODD_TEXT})),
        user(result("toolu_1", ODD_TEXT)),
        tools=[WEATHER],
    ),
    "odd keys": answered(
        result("toolu_1", "21"),
        calls=({**call("toolu_1"), "input": {
            "2": "b", "1": "a", "__proto__": {"polluted": True}, "constructor": 1, "toString": 2, "": 3, "10": 4,
        }},),
    ),
    "odd numbers": answered(
        result("toolu_1", "21"),
        calls=({**call("toolu_1"), "input": {
            "float": 1.0, "large": 1e21, "small": 1e-7, "zero": -0.0, "exact": 2**53, "third": 0.1,
            "null": None, "no": False,
        }},),
    ),
    "deep input": answered(
        result("toolu_1", "21"), calls=({**call("toolu_1"), "input": {"a": [[[[[{"b": [[], {}]}]]]]]}},)
    ),
}  # fmt: skip

PARAMETERS: Mapping[str, Shape] = {
    "tools": shape(tools=[WEATHER, CLOCK]),
    "no tools": shape(tools=[]),
    "tool of a long name": shape(tools=[{**CLOCK, "name": "n" * 128}]),
    "tools of the program's names": shape(tools=[{**CLOCK, "name": name} for name in ("Bash", "Task", "mcp__a__b")]),
    "strict and eager tools": shape(
        tools=[{**WEATHER, "type": "custom", "strict": True, "eager_input_streaming": True, "input_examples": [{}]}],
        betas="structured-outputs-2025-11-13,fine-grained-tool-streaming-2025-05-14",
    ),
    "odd schema": shape(
        tools=[
            {
                "name": "odd",
                "description": ODD_TEXT,
                "input_schema": {
                    "type": "object",
                    "properties": {"a": {"$ref": "#/$defs/A"}, "__proto__": {"type": "string"}, "2": {}, "1": {}},
                    "$defs": {"A": {"anyOf": [{"const": None}, {"type": ["string", "null"], "pattern": "^\\d+$"}]}},
                    "x-unknown": [1, None],
                },
            }
        ]
    ),
    "server tools": shape(
        tools=[
            _WEB_SEARCH,
            {"type": "bash_20250124", "name": "bash"},
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 10},
            {"type": "memory_20250818", "name": "memory"},
        ],
        betas="context-management-2025-06-27",
    ),
    "deferred tools": shape(
        tools=[
            {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
            {**WEATHER, "defer_loading": True, "allowed_callers": ["direct"]},
        ],
        betas="advanced-tool-use-2025-11-20",
    ),
    "choice auto": shape(tools=[WEATHER], tool_choice={"type": "auto"}),
    "choice any": shape(tools=[WEATHER], tool_choice={"type": "any"}),
    "choice none": shape(tools=[WEATHER], tool_choice={"type": "none"}),
    "choice of a tool": shape(tools=[WEATHER, CLOCK], tool_choice={"type": "tool", "name": "get_time"}),
    "one call at a time": shape(tools=[WEATHER], tool_choice={"type": "auto", "disable_parallel_tool_use": True}),
    "json schema": shape(output_config={"format": _JSON_FORMAT}),
    "json schema, as it was": shape(output_format=_JSON_FORMAT, betas="structured-outputs-2025-11-13"),
    "effort": shape(model="claude-opus-4-5", output_config={"effort": "low"}, betas="effort-2025-11-24"),
    "effort and schema": shape(model="claude-opus-4-8", output_config={"effort": "max", "format": _JSON_FORMAT}),
    "thinking": shape(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=4000),
    "thinking, shown": shape(
        model="claude-opus-5-5", thinking={"type": "adaptive", "display": "summarized"}, max_tokens=4000
    ),
    "adaptive thinking": shape(model="claude-opus-4-8", thinking={"type": "adaptive"}),
    "adaptive thinking, older model": shape(thinking={"type": "adaptive"}),
    "no thinking": shape(thinking={"type": "disabled"}),
    "no thinking, newest model": shape(model="claude-opus-5-5", thinking={"type": "disabled"}),
    "no thinking and temperature": shape(thinking={"type": "disabled"}, temperature=0.3),
    "stop sequences": shape(stop_sequences=["\n\nHuman:", "END", ODD_TEXT]),
    "temperature": shape(temperature=0.25),
    "temperature 0": shape(temperature=0),
    "top_p": shape(top_p=0.9),
    "top_p, newer model": shape(model="claude-opus-4-8", top_p=0.95),
    "top_p, unknown model": shape(model="my-own-model", top_p=0.95),
    "top_k": shape(top_k=5),
    "temperature, top_p and top_k": shape(model="claude-3-haiku-20240307", temperature=0.1, top_p=0.2, top_k=3),
    "one token": shape(max_tokens=1),
    "many tokens": shape(max_tokens=200_000),
    "service tier": shape(service_tier="standard_only"),
    "metadata": shape(metadata={"user_id": "client-7"}),
    "context management": shape(
        context_management={
            "edits": [{"type": "clear_tool_uses_20250919", "trigger": {"type": "input_tokens", "value": 9}}]
        },
        betas="context-management-2025-06-27",
    ),
    "container": shape(
        container={"id": "container_1", "skills": [{"type": "anthropic", "skill_id": "pdf", "version": "latest"}]},
        betas="skills-2025-10-02,code-execution-2025-08-25",
    ),
    "container id": shape(container="container_1"),
    "unknown fields": shape(
        hologram={"a": [1, None, {"b": ""}]}, speed="fast", inference_geo="eu", user="u", n=1, anthropic_version="x"
    ),
    "odd field names": shape(**{"__proto__": {"polluted": True}, "7": "seven", "": "empty", "toJSON": "x"}),
    "null fields": shape(stop_sequences=None, temperature=None, system=None, metadata=None, thinking=None, tools=None),
    "several betas": shape(betas="context-1m-2025-08-07, my-own-beta-1,output-128k-2025-02-19"),
}  # fmt: skip

MODELS: Mapping[str, Shape] = {
    name: shape(model=name)
    for name in (
        "claude-opus-5-5",
        "claude-opus-4-8",
        "claude-sonnet-4-5",
        "claude-haiku-4-5-20251001",
        "claude-opus-4-1",
        "claude-3-7-sonnet-latest",
        "claude-3-opus-20240229",
        "claude-2.1",
        "gpt-5",
        "My-Model.V1:Free/x",
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    )
}

SHAPES: Mapping[str, Shape] = {**BLOCKS, **CONVERSATIONS, **PARAMETERS, **MODELS}
