"""The files that frames are written to."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sockets import replica

from patchbay.settings import Settings
from patchbay_codebuff_ws.connection import capture
from patchbay_codebuff_ws.connection.capture import Captures, redacted

SettingsWith = Callable[..., Settings]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_session_is_captured_without_its_secrets(settings_with: SettingsWith, tmp_path: Path) -> None:
    settings = settings_with(codebuff={"capture": True, "capture_directory": str(tmp_path / "captures")})
    async with replica(settings) as serving:
        async with serving.socket("c1") as socket:
            await socket.prompt(text="echo pb-secret-key", authToken="pb-secret-key", fingerprintId="finger-1")
            await socket.until_ended()
            await socket.say("no JSON")
            await socket.until(lambda message: message.frames_done.number == 2)
        async with serving.socket("c1", again=True) as socket:
            await socket.say({"type": "ping"})
            await socket.until_frame("ack")
        await serving.idle()
    [path] = (tmp_path / "captures").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert "pb-secret-key" not in text
    assert "finger-1" not in text
    lines = lines_of(path)
    prompt = lines[0]
    assert (prompt["from"], prompt["worker"]) == ("client", "w1")
    assert prompt["frame"]["data"]["prompt"] == "echo **********"
    kinds = [line.get("frame", {}).get("data", line.get("frame", {})).get("type", line.get("text")) for line in lines]
    assert kinds[:2] == ["prompt", "ack"]
    assert "prompt-response" in kinds
    assert "no JSON" in kinds
    assert kinds[-2:] == ["ping", "ack"]


def test_the_key_of_an_upgrade_is_taken_out_too(tmp_path: Path) -> None:
    headers = {"authorization": "Bearer pb-first-key", "x-api-key": "pb-second-key"}
    opened = Captures(tmp_path, worker_id="w1").open("c1", headers)
    assert opened is not None
    opened.server('{"type":"action","data":{"output":"pb-first-key pb-second-key"}}')
    opened.close()
    [path] = tmp_path.iterdir()
    [line] = lines_of(path)
    assert line["frame"]["data"]["output"] == f"{capture.MASK} {capture.MASK}"


@pytest.mark.parametrize("token", ["true", "false", "null", "2026", "1e10", "-1.5", "[[[]]]", "[1, 2]"])
def test_a_key_that_may_be_anything_breaks_no_frame(tmp_path: Path, token: str) -> None:
    opened = Captures(tmp_path, worker_id="w1").open("c1", {})
    assert opened is not None
    said = json.dumps({"type": "action", "data": {"authToken": token, "n": json.loads(token)}})
    opened.client(said)
    opened.client(said)
    opened.close()
    [path] = tmp_path.iterdir()
    assert [line["frame"]["data"]["n"] for line in lines_of(path)] == [json.loads(token)] * 2


def test_a_frame_that_is_odd_keeps_its_secrets_too(tmp_path: Path) -> None:
    opened = Captures(tmp_path, worker_id="w1").open("c1", {})
    assert opened is not None
    # Half of a character, as JavaScript's texts may have it; the replica reads such a frame.
    opened.client(r'{"type":"action","data":{"authToken":"pb-first-key","prompt":"half \ud83d"}}')
    opened.client("not JSON: pb-first-key")
    opened.client(r'{"type":"action","data":{"authToken": "pb-second\"-key","fingerprintId":"finger-1","prompt":')
    opened.close()
    text = (tmp_path / "codebuff-c1.jsonl").read_text()
    for secret in ("pb-first", "pb-second", "finger-1"):
        assert secret not in text
    first, _, third = lines_of(tmp_path / "codebuff-c1.jsonl")
    assert first["frame"]["data"]["prompt"] == "half \ufffd"
    assert third["text"].endswith('"prompt":')


def test_what_is_taken_out() -> None:
    frame = {
        "data": {
            "authToken": "a",
            "fingerprintId": "b",
            "fingerprintHash": "c",
            "text": "use sk-ant-1234567890abcdef",
            "mcpConfig": {"command": "x", "args": ["--key", "g"], "env": {"ANY": "d"}, "headers": {"h": "e"}},
            "mcpServers": {"s": {"type": "http", "url": "http://x/?k=h", "params": {"key": "f"}}},
            "input": {"command": "ls", "args": "none", "url": "http://x/?page=1"},
            "mcp": {"type": "sse", "url": "https://x/sse?city=Rome&api_key=g&accessToken=h#i"},
            "shellConfigFiles": {"~/.zshrc": "export GITHUB_PAT=j"},
            "params": {"city": "Rome"},
            "usage": {"input_tokens": 7},
            "n": [1, 1.5, True, None],
        }
    }
    data = redacted(frame)["data"]
    mask = capture.MASK
    assert data == {
        "authToken": mask,
        "fingerprintId": mask,
        "fingerprintHash": mask,
        "text": f"use {mask}",
        "mcpConfig": {"command": "x", "args": [mask, mask], "env": {"ANY": mask}, "headers": {"h": mask}},
        "mcpServers": {"s": {"type": "http", "url": f"http://x/?{mask}", "params": {"key": mask}}},
        "input": {"command": "ls", "args": "none", "url": "http://x/?page=1"},
        "mcp": {"type": "sse", "url": f"https://x/sse?city=Rome&api_key={mask}&accessToken={mask}#i"},
        "shellConfigFiles": {"~/.zshrc": mask},
        "params": {"city": "Rome"},
        "usage": {"input_tokens": 7},
        "n": [1, 1.5, True, None],
    }


# As clients send them, and as nobody should.
@pytest.mark.parametrize(
    "text",
    [
        # JavaScript cuts emoji in half.
        '{"data": {"authToken": "plain-key", "fingerprintHash": "plain-hash", "prompt": "plain-key \\ud83d"}}',
        '{"data": {"authToken": "plain-key", "fingerprintHash": "plain-hash", "deep": %s}}' % ("[" * 900 + "]" * 900),
        '{"data": {"authToken": "plain-key", "fingerprintHash": "plain-hash", "deep": %s}}' % ("[" * 9999 + "]" * 9999),
        '{"data": {"authToken": "plain-key", "fingerprintHash": "plain-hash", "more": tru',
        '{"data": {"authToken" : "plain-key", "fingerprintHash": "plain-ha',
        '{"data": {"more": "%s", "authToken": "plain-key"}, ' % ("x" * 1955),
    ],
)  # fmt: skip
def test_secrets_of_odd_frames_are_taken_out(tmp_path: Path, text: str) -> None:
    opened = Captures(tmp_path, worker_id="w1").open("c1", {})
    assert opened is not None
    opened.client(text)
    opened.close()
    [path] = tmp_path.iterdir()
    assert len(lines_of(path)) == 1
    assert "plain-" not in path.read_text()


def test_files_and_their_number_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_MOST_BYTES", 1_000)
    monkeypatch.setattr(capture, "_MOST_FILES", 3)
    captures = Captures(tmp_path, worker_id="w1")
    for number in range(5):
        opened = captures.open(f"c/{number}", {})
        assert opened is not None
        for _ in range(20):
            opened.client('{"type":"ping"}')
        opened.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    for path in files:
        assert path.stat().st_size < 1_200
        assert lines_of(path)[-1]["full"] is True


def test_a_directory_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Captures(tmp_path / "file" / "captures", worker_id="w1").open("c1", {}) is None
