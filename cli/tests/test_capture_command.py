"""`patchbay capture show` on files as codebuff-ws writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from patchbay_cli.__main__ import app
from patchbay_cli.problems import CommandFailed

LINES = [
    {
        "from": "client",
        "frame": {"type": "action", "txid": 0, "data": {"type": "prompt", "promptId": "p1", "prompt": "\x1b[31mhi"}},
    },
    {"from": "server", "frame": {"type": "ack", "txid": 0, "success": True}},
    {"from": "server", "frame": {"type": "action", "data": {"type": "response-chunk", "chunk": "x" * 500}}},
    {"from": "client", "text": "no\x07t JSON"},
    {"from": "client", "frame": [1]},
    {"full": True},
]


@pytest.fixture
def captured(tmp_path: Path) -> Path:
    path = tmp_path / "codebuff-c1.jsonl"
    lines = [json.dumps({"at": "2026-01-31T12:00:00.000Z", "worker": "w1", **line}) for line in LINES]
    path.write_text("\n".join([*lines, '{"at": "cut off']))
    return path


def test_each_frame_is_a_line(captured: Path) -> None:
    shown = CliRunner().invoke(app, ["capture", "show", str(captured)])
    assert shown.exit_code == 0, shown.output
    lines = [line.removeprefix("2026-01-31T12:00:00.000Z") for line in shown.output.splitlines()]
    assert lines[0] == ' -> action #0 prompt p1  {"prompt":"\\u001b[31mhi"}'
    assert lines[1] == ' <- ack #0  {"success":true}'
    assert lines[2].endswith("... (535 characters)")
    assert lines[3] == " -> no JSON: no\\x07t JSON"
    assert lines[4] == " -> ?  [1]"
    assert lines[5] == "    (the file is full: what came after this was left out)"
    assert lines[6] == "(line 7 is not whole)"


def test_whole_frames(captured: Path) -> None:
    shown = CliRunner().invoke(app, ["capture", "show", "--full", str(captured)])
    assert shown.exit_code == 0
    assert '        "chunk": "' + "x" * 500 + '"' in shown.output
    assert "\x1b" not in shown.output


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["capture", "show", str(tmp_path / "none")])
    assert isinstance(shown.exception, CommandFailed)
    assert "cannot be read: No such file" in str(shown.exception)
