from __future__ import annotations

from typing import Any

import pytest

from patchbay_standin import (
    ErrorEvent,
    ErrorReply,
    Script,
    ScriptError,
    Text,
    ToolCall,
    read_script,
    write_script,
)
from patchbay_standin.testing import StandinFailed, StandinProcess


def test_what_is_written_is_read() -> None:
    script = Script(
        blocks=[Text(text="a"), ToolCall(name="f", input={"x": 1})],
        deltas=3,
        error=ErrorReply(status=429, retry_after=0.5, headers={"x-a": "b"}),
        error_event=ErrorEvent(after=2, message="m"),
        attempts=[Script(text="one"), Script(text="two")],
    )
    assert read_script(write_script(script)) == script


BAD: list[tuple[str, str]] = [
    ("{", "script: Input data was truncated"),
    ('{"txt": "a"}', "script: Object contains unknown field `txt`"),
    ('{"deltas": 0}', "script: Expected `int` >= 1 - at `$.deltas`"),
    ('{"text": "a", "blocks": []}', "script: `text` and `blocks` exclude each other"),
    ('{"deltas": 1, "delta_size": 1}', "script: `deltas` and `delta_size` exclude each other"),
    ('{"blocks": [{"type": "song"}]}', "script: Invalid value 'song' - at `$.blocks[0].type`"),
    ('{"attempts": [{"attempts": [{}]}]}', "script: `attempts` cannot hold `attempts`"),
    ('{"error": {"status": 99}}', "script: Expected `int` >= 200 - at `$.error.status`"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_script_that_cannot_be_read_says_why(text: str, message: str, ask: Any, standin: StandinProcess) -> None:
    with pytest.raises(ScriptError) as raised:
        read_script(text)
    assert str(raised.value) == message
    for answer in (
        ask("anthropic", "m", headers={"x-standin-script": text}),
        ask("openai", f"script:{text}", stream=True),
    ):
        assert (answer.status, answer.json["error"]["message"]) == (400, message)


def test_registering_a_bad_script_is_refused(standin: StandinProcess, call: Any) -> None:
    answer = call("PUT", "/standin/scripts/bad", b'{"txt": 1}')
    assert (answer.status, answer.json) == (400, {"error": "script: Object contains unknown field `txt`"})
    with pytest.raises(StandinFailed, match="after"):
        standin.wait_for(lambda standin: standin.requests(), seconds=0.05)


def test_three_ways_to_script(ask: Any, standin: StandinProcess) -> None:
    standin.script("my script/1", Script(text="registered"))

    def text(model: str, **headers: str) -> tuple[str, str]:
        body = ask("anthropic", model, headers=headers).json
        return body["model"], body["content"][0]["text"]

    assert text("my script/1") == ("my script/1", "registered")
    assert text('script:{"text": "in the model name"}') == ("standin-script", "in the model name")
    assert text('script:{"text": "x", "model": "claude-y"}') == ("claude-y", "x")
    assert text("my script/1", **{"x-standin-script": '{"text": "header wins"}'}) == ("my script/1", "header wins")
    standin.reset()
    assert text("my script/1")[1].startswith("This is patchbay-standin")


def test_attempts(ask: Any, standin: StandinProcess) -> None:
    attempts = [Script(error=ErrorReply(status=529)), Script(error=ErrorReply(status=429)), Script(text="at last")]
    standin.script("flaky", Script(attempts=attempts))
    assert [ask("openai", "flaky").status for _ in range(4)] == [529, 429, 200, 200]
    header = {"x-standin-script": write_script(Script(attempts=attempts)).decode()}
    assert [ask("anthropic", "m", headers=header).status for _ in range(4)] == [529, 429, 200, 200]
    standin.script("flaky", Script(attempts=attempts))
    assert ask("openai", "flaky").status == 529


def test_echo_headers_model_and_text(ask: Any) -> None:
    script = Script(text="Heard: ", echo=True, model="other", echo_headers=["Anthropic-Beta"], headers={"X-Own": "1"})
    answer = ask("anthropic", "m", headers={"anthropic-beta": "a,b", "x-standin-script": write_script(script).decode()})
    assert answer.headers["x-standin-echo-anthropic-beta"] == "a,b"
    assert answer.headers["x-own"] == "1"
    assert answer.json["model"] == "other"
    assert [block["text"] for block in answer.json["content"]] == ["Heard: ", "hello"]


@pytest.mark.parametrize("protocol", ["anthropic", "openai"])
@pytest.mark.parametrize(
    ("script", "pieces"),
    [
        (Script(text="ab cd  e"), ["ab", " cd", "  e"]),
        (Script(text="abcdefg", deltas=3), ["ab", "cd", "efg"]),
        (Script(text="abc", deltas=9), ["a", "b", "c"]),
        (Script(text="abcdefg", delta_size=3), ["abc", "def", "g"]),
        (Script(deltas=3), ["the", " quick", " brown"]),
    ],
)
def test_how_text_is_cut(protocol: str, script: Script, pieces: list[str], ask: Any) -> None:
    answer = ask(protocol, "m", stream=True, headers={"x-standin-script": write_script(script).decode()})
    if protocol == "anthropic":
        got = [data["delta"]["text"] for name, data in answer.events if name == "content_block_delta"]
    else:
        deltas = [data["choices"][0]["delta"] for _, data in answer.events if data != "[DONE]"]
        got = [delta["content"] for delta in deltas[1:] if "content" in delta]
    assert got == pieces
