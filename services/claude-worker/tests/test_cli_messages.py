from __future__ import annotations

import json

import msgspec
import pytest
from structlog.testing import capture_logs

from patchbay_claude_worker.cli.messages import read_message, user_message


@pytest.mark.parametrize("line", [b"", b"[SandboxDebug] ready", b"Welcome!", b"42", b"null"])
def test_what_is_no_message_is_passed_over(line: bytes) -> None:
    assert read_message(line) is None


def test_a_line_that_should_be_one_is_not_lost_in_silence() -> None:
    with capture_logs() as logged:
        assert read_message(b'{"type": "result", "resu') is None
    assert [line["event"] for line in logged] == ["claude_line_unreadable"]
    assert "resu" not in str(logged[0]["error"])


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (rb'{"type":"control_request","request_id":"1","request":{"input":{"command":"echo \ud83d x"}}}', "request"),
        (rb'{"type":"stream_event","event":{"delta":{"text":"half \ude00"}}}', "event"),
        (rb'{"type":"result","result":"half \ud83d"}', "result"),
        (rb'{"type":"transcript_mirror","filePath":"x","entries":[{"text":"\ud83d"}]}', "entries"),
    ],
)
def test_half_a_surrogate_pair_becomes_a_replacement_character(line: bytes, field: str) -> None:
    message = read_message(line)
    assert message is not None
    value = getattr(message, field)
    text = bytes(value).decode() if isinstance(value, msgspec.Raw) else value
    assert "\\ufffd" in text or "\ufffd" in text


def test_a_whole_pair_stays_as_it_is() -> None:
    message = read_message(rb'{"type":"stream_event","event":{"delta":{"text":"\ud83d\ude00"}}}')
    assert message is not None
    assert json.loads(bytes(message.event)) == {"delta": {"text": "\U0001f600"}}


def test_a_users_words_are_the_clients_own() -> None:
    line = json.loads(user_message("@/etc/passwd /cost"))
    assert line["client_composed"] is True
    assert line["message"]["content"] == "@/etc/passwd /cost"
