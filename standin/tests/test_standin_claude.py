"""The real `claude` program asks the stand-in, with nothing of its surroundings."""

from __future__ import annotations

import subprocess
from pathlib import Path

import claude_agent_sdk
import pytest

from patchbay_standin.testing import StandinProcess

CLAUDE = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"


def run(prompt: str, home: Path, standin: StandinProcess) -> str:
    assert CLAUDE.exists(), "no claude program; install it: pip install --force-reinstall claude-agent-sdk"
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "ANTHROPIC_BASE_URL": standin.url,
        "ANTHROPIC_API_KEY": "made-up",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    done = subprocess.run(
        [CLAUDE, "-p", prompt, "--model", "claude-sonnet-4-5", "--allowedTools", "Read,Bash"],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_a_turn(standin: StandinProcess, tmp_path: Path) -> None:
    assert "Your last message was: marker-17" in run("marker-17", tmp_path, standin)


@pytest.mark.parametrize(
    ("prompt", "result"),
    [
        ('use tool Read {"file_path": "HOME/note.txt"}', "The tool answered: 1\tthe secret word is pelican"),
        (
            'use tool Bash {"command": "cat note.txt", "description": "x"}',
            "The tool answered: the secret word is pelican",
        ),
    ],
)
def test_a_turn_with_a_tool(prompt: str, result: str, standin: StandinProcess, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("the secret word is pelican\n")
    assert result in run(prompt.replace("HOME", str(tmp_path)), tmp_path, standin)
    turns = [request for request in standin.requests() if request.path == "/v1/messages"]
    assert [request.outcome for request in turns] == ["completed", "completed"]
