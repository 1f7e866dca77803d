"""Answers of the Messages API in the shape the API gives them, streamed and whole."""

import json
from dataclasses import dataclass

import pytest

Event = dict[str, object]

_BASE_USAGE: Event = {
    "input_tokens": 25,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 1,
    "service_tier": "standard",
    "inference_geo": "global",
}


@dataclass(frozen=True)
class Recording:
    """One answer, as a stream and as one body that say the same."""

    name: str
    stream: bytes
    body: bytes
    # Kinds of its blocks, in order.
    kinds: tuple[str, ...]


def frames(events: list[Event]) -> bytes:
    """Events as the API sends them."""
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'), ensure_ascii=False)}\n\n".encode()
        for event in events
    )


def _record(
    name: str,
    blocks: list[tuple[Event, list[Event], Event]],
    stop: Event,
    usage: Event | None = None,
    final: Event | None = None,
) -> Recording:
    """Blocks are (as started, deltas, as in a whole body)."""
    usage = {**_BASE_USAGE, **(usage or {})}
    final = {"output_tokens": 15, **(final or {})}
    message: Event = {
        "id": f"msg_{name}",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    events: list[Event] = [{"type": "message_start", "message": message}]
    for index, (start, deltas, _) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        if index == 0:
            events.append({"type": "ping"})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": None, "stop_sequence": None, **stop}
    events.append({"type": "message_delta", "delta": delta, "usage": final})
    events.append({"type": "message_stop"})
    whole = {**message, **delta, "content": [block for _, _, block in blocks], "usage": {**usage, **final}}
    kinds = tuple(str(start["type"]) for start, _, _ in blocks)
    return Recording(name, frames(events), json.dumps(whole, indent=2, ensure_ascii=False).encode(), kinds)


def text(*pieces: str) -> tuple[Event, list[Event], Event]:
    deltas: list[Event] = [{"type": "text_delta", "text": piece} for piece in pieces]
    return {"type": "text", "text": ""}, deltas, {"type": "text", "text": "".join(pieces)}


def thinking(pieces: list[str], signature: str) -> tuple[Event, list[Event], Event]:
    deltas: list[Event] = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    deltas.append({"type": "signature_delta", "signature": signature})
    start: Event = {"type": "thinking", "thinking": "", "signature": ""}
    return start, deltas, {**start, "thinking": "".join(pieces), "signature": signature}


def tool(kind: str, call_id: str, name: str, *pieces: str) -> tuple[Event, list[Event], Event]:
    deltas: list[Event] = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *pieces)]
    start: Event = {"type": kind, "id": call_id, "name": name, "input": {}}
    return start, deltas, {**start, "input": json.loads("".join(pieces) or "{}")}


def whole(block: Event) -> tuple[Event, list[Event], Event]:
    return block, [], block


_CITATION: Event = {
    "type": "web_search_result_location",
    "cited_text": "Claude Shannon was born on April 30, 1916",
    "url": "https://en.wikipedia.org/wiki/Claude_Shannon",
    "title": "Claude Shannon — Wikipedia",
    "encrypted_index": "Eo8BCioIAhgBIiQyYjQ0OWJmZi1lNm",
}

RECORDINGS = [
    _record("text", [text("Hel", "lo!\n", ' "quoted" \\ é 😀')], {"stop_reason": "end_turn"}),
    _record("empty", [], {"stop_reason": "end_turn"}),
    _record("max_tokens", [text("One, two")], {"stop_reason": "max_tokens"}),
    _record("stop_sequence", [text("One, ")], {"stop_reason": "stop_sequence", "stop_sequence": "two"}),
    _record("context", [text("So long")], {"stop_reason": "model_context_window_exceeded"}),
    _record(
        "refusal",
        [text("I")],
        {"stop_reason": "refusal", "stop_details": {"type": "refusal", "category": "cyber", "explanation": None}},
    ),
    _record(
        "tools",
        [
            text("I'll look."),
            tool("tool_use", "toolu_1", "get_weather", '{"city"', ': "Par', 'is"}'),
            tool("tool_use", "toolu_2", "get_time"),
        ],
        {"stop_reason": "tool_use"},
    ),
    _record("tool_first", [tool("tool_use", "toolu_1", "f", '{"a":[1,2.5]}')], {"stop_reason": "tool_use"}),
    _record(
        "thinking",
        [
            thinking(["Let me", " think.\n"], "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"),
            thinking([], "signature-of-omitted-thinking"),
            whole({"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix/LafPsn4a"}),
            text("42"),
        ],
        {"stop_reason": "end_turn"},
        final={"output_tokens": 300, "output_tokens_details": {"thinking_tokens": 290}},
    ),
    _record(
        "web_search",
        [
            tool("server_tool_use", "srvtoolu_1", "web_search", '{"query":', ' "Shannon"}'),
            whole(
                {
                    "type": "web_search_tool_result",
                    "tool_use_id": "srvtoolu_1",
                    "content": [
                        {
                            "type": "web_search_result",
                            "title": "Claude Shannon",
                            "url": "https://a",
                            "encrypted_content": "EqgfCioIARgB",
                            "page_age": None,
                        }
                    ],
                }
            ),
            (
                {"citations": [], "type": "text", "text": ""},
                [{"type": "citations_delta", "citation": _CITATION}, {"type": "text_delta", "text": "In 1916."}],
                {"citations": [_CITATION], "type": "text", "text": "In 1916."},
            ),
        ],
        {"stop_reason": "end_turn"},
        final={
            "input_tokens": 2679,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 510,
            "server_tool_use": {"web_search_requests": 1},
        },
    ),
    _record(
        "pause",
        [tool("server_tool_use", "srvtoolu_1", "code_execution", '{"code":"1"}')],
        {"stop_reason": "pause_turn", "container": {"id": "container_1", "expires_at": "2026-11-21T00:00:00Z"}},
    ),
    _record(
        "compaction",
        [
            (
                {"type": "compaction", "content": None},
                [{"type": "compaction_delta", "content": "Summary: ...", "encrypted_content": "xyz"}],
                {"type": "compaction", "content": "Summary: ...", "encrypted_content": "xyz"},
            )
        ],
        {"stop_reason": "compaction"},
    ),
    _record(
        "cache",
        [text("Hi")],
        {"stop_reason": "end_turn"},
        usage={
            "input_tokens": 3,
            "cache_creation_input_tokens": 700,
            "cache_read_input_tokens": 2000,
            "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 200},
        },
    ),
]


@pytest.fixture(params=RECORDINGS, ids=lambda recording: recording.name)
def recording(request: pytest.FixtureRequest) -> Recording:
    recorded: Recording = request.param
    return recorded
