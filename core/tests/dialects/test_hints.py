"""What of a request may be left out without a word, and what may not."""

from __future__ import annotations

import pytest

from patchbay.dialects.hints import is_always_offered, is_hint, is_limit


@pytest.mark.parametrize(
    ("name", "value", "is_silent"),
    [
        # Of every request of Codex.
        ("store", "false", True),
        ("include", '["reasoning.encrypted_content"]', True),
        ("prompt_cache_key", '"k"', True),
        ("client_metadata", '{"session_id":"s"}', True),
        ("text", '{"verbosity":"low"}', True),
        ("reasoning", '{"context":"all_turns","summary":"detailed"}', True),
        ("additional_tools", '{"at":0,"id":"at_1"}', True),
        ("item", '{"id":"rs_1","summary":[],"content":null,"status":"completed","phase":"final_answer"}', True),
        ("item", '{"internal_chat_message_metadata_passthrough":{"turn_id":"1"}}', True),
        # Defaults, and what says nothing.
        ("truncation", '"disabled"', True),
        ("background", "false", True),
        ("temperature", "1.0", True),
        ("previous_response_id", "null", True),
        ("store", "true", True),
        ("user", '"u"', True),
        ("stream_options", '{"include_obfuscation":false}', True),
        # What a client asked for and does not get.
        ("truncation", '"auto"', False),
        ("background", "true", False),
        ("temperature", "0.5", False),
        ("previous_response_id", '"resp_1"', False),
        ("conversation", '"conv_1"', False),
        ("prompt", '{"id":"pmpt_1"}', False),
        ("max_tool_calls", "1", False),
        ("reasoning", '{"mode":"pro"}', False),
        ("text", '{"verbosity":"low","format":{"type":"grammar"}}', False),
        ("metadata", '{"a":"b"}', False),
        ("item", '{"something":1}', False),
    ],
)
def test_responses_fields(name: str, value: str, is_silent: bool) -> None:
    assert is_hint("openai_responses", name, value.encode()) is is_silent


def test_what_means_something_in_one_dialect_only() -> None:
    assert not is_hint("openai_chat", "client_metadata", b'"x"')
    assert not is_hint("another", "store", b"true")


@pytest.mark.parametrize("kind", ["web_search", "tool_search", "image_generation"])
def test_tools_that_are_always_offered(kind: str) -> None:
    assert is_always_offered("openai_responses", kind)
    assert not is_always_offered("anthropic", kind)


def test_tools_that_a_client_means() -> None:
    assert not any(is_always_offered("openai_responses", kind) for kind in ("mcp", "file_search", "x", None))


def test_limits_that_an_answer_meets() -> None:
    assert is_limit(1_000)
    assert not is_limit(32_000)
