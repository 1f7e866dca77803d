from __future__ import annotations

import json

import pytest

from patchbay.errors import InvalidRequest
from patchbay_claude_worker.model.request import ModelRequest, betas_of, model_request

BODY: dict[str, object] = {
    "model": "m",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "@/etc/hostname /cost"}],
}
MARK = {"type": "ephemeral"}


def build(*, betas: str = "", keeps_account: bool = False, **fields: object) -> ModelRequest:
    body = {name: value for name, value in {**BODY, **fields}.items() if value != "gone"}
    return model_request(json.dumps(body).encode(), betas=betas, keeps_account=keeps_account)


def settings(request: ModelRequest) -> tuple[dict[str, str], dict[str, object]]:
    """The environment that a request sets, and the body it asks for."""
    line = json.loads(request.lines[1])
    environ = line["request"]["settings"]["env"]
    return environ, json.loads(environ["CLAUDE_CODE_EXTRA_BODY"])


def test_the_clients_text_is_never_a_prompt() -> None:
    request = build()
    initialize, settle, prompt = (json.loads(line) for line in request.lines)
    assert (initialize["request"]["subtype"], initialize["request"]["systemPrompt"]) == ("initialize", "")
    assert (settle["request"]["subtype"], settle["request"]["settings"]["model"]) == ("apply_flag_settings", "m")
    assert prompt["message"]["content"] == "-"
    assert prompt["client_composed"] is True
    assert {initialize["request_id"], settle["request_id"]} == set(request.control_ids)
    assert settings(request)[1] == {"max_tokens": 9, "messages": BODY["messages"]}
    # One line each: nothing of the client's may break it.
    assert [line.count(b"\n") for line in request.lines] == [1, 1, 1]


def test_fields_arrive_as_they_were_written() -> None:
    body = (
        b'{"model":"m","temperature":1.0e0,"new":{"a": 12345678901234567890},"top_k":null,"messages":[],"stream":true}'
    )
    request = model_request(body, betas="", keeps_account=False)
    environ = json.loads(request.lines[1])["request"]["settings"]["env"]
    assert environ["CLAUDE_CODE_EXTRA_BODY"] == '{"temperature":1.0e0,"new":{"a": 12345678901234567890},"messages":[]}'
    assert request.stream


@pytest.mark.parametrize(("value", "stream"), [(True, True), (False, False), (None, False), ("gone", False)])
def test_who_streams(value: object, stream: bool) -> None:
    assert build(stream=value).stream is stream


@pytest.mark.parametrize(
    ("system", "prompt", "cached"),
    [
        ("Be brief.", "Be brief.", False),
        (None, "", False),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\n\nb", False),
        ([{"type": "text", "text": "a", "cache_control": MARK}], "a", True),
    ],
)
def test_the_system_prompt_goes_the_programs_own_way(system: object, prompt: object, cached: bool) -> None:
    request = build(system=system)
    assert json.loads(request.lines[0])["request"]["systemPrompt"] == prompt
    environ, body = settings(request)
    assert "system" not in body
    assert (environ.get("DISABLE_PROMPT_CACHING") == "") is cached


@pytest.mark.parametrize(("marks", "cached"), [(2, True), (3, False)])
def test_a_request_never_has_more_than_four_marks(marks: int, cached: bool) -> None:
    content = [{"type": "text", "text": "x", "cache_control": MARK} for _ in range(marks)]
    request = build(
        system=[{"type": "text", "text": "a", "cache_control": MARK}], messages=[{"role": "user", "content": content}]
    )
    assert ("DISABLE_PROMPT_CACHING" in settings(request)[0]) is cached


@pytest.mark.parametrize(
    ("fields", "variable", "thinking"),
    [
        ({}, "1", None),
        ({"temperature": 0.5}, "1", None),
        ({"temperature": 0.5, "top_p": 0.5}, "1", None),
        ({"top_p": 0.5}, None, {"type": "disabled"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, None, {"type": "enabled", "budget_tokens": 1024}),
    ],
)
def test_thinking_is_the_clients_own_choice(fields: dict[str, object], variable: object, thinking: object) -> None:
    environ, body = settings(build(**fields))
    assert environ.get("CLAUDE_CODE_DISABLE_THINKING") == variable
    assert body.get("thinking") == thinking


def test_betas_go_along() -> None:
    assert settings(build(betas="one,two"))[0]["ANTHROPIC_BETAS"] == "one,two"
    assert "ANTHROPIC_BETAS" not in settings(build())[0]
    assert betas_of({"anthropic-beta": "one"}) == "one"
    assert betas_of({}) == ""


def test_who_is_signed_in_stays_who_it_is() -> None:
    metadata = {"user_id": "somebody else"}
    request = build(keeps_account=True, metadata=metadata)
    assert "metadata" not in settings(request)[1]
    assert [warning.parameter for warning in request.warnings] == ["metadata"]
    own = build(metadata=metadata)
    assert settings(own)[1]["metadata"] == metadata
    assert own.warnings == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"model": 7}',
        b'{"messages": []}',
        b'{"model": "m", "system": 7}',
        b'{"model": "m", "system": [{"type": "text", "text": 7}]}',
        b'{"model": "m", "system": [{"type": "image", "source": {}}]}',
    ],
)
def test_what_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        model_request(body, betas="", keeps_account=False)
