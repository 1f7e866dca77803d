"""Runs the real `claude` program as a client, in an environment that holds nothing but what is given here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import claude_agent_sdk

Body = dict[str, Any]

CLAUDE = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"


class Claude:
    """The program in a home and a directory of its own."""

    def __init__(self, directory: Path) -> None:
        assert CLAUDE.exists(), "no claude program; install it: pip install --force-reinstall claude-agent-sdk"
        self._home = directory / "home"
        self.work = directory / "work"
        self._home.mkdir()
        self.work.mkdir()

    def run(self, prompt: str, *, url: str, model: str, key: str = "made-up", tools: tuple[str, ...] = ()) -> Body:
        """What one `claude -p` answers, as its JSON output says it."""
        finished = subprocess.run(
            [CLAUDE, "-p", prompt, "--model", model, "--output-format", "json", "--allowedTools", ",".join(tools)],
            cwd=self.work,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(self._home),
                "ANTHROPIC_BASE_URL": url,
                "ANTHROPIC_API_KEY": key,
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "DISABLE_AUTOUPDATER": "1",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert finished.stdout, finished.stderr
        result: Body = json.loads(finished.stdout)
        assert (finished.returncode == 0) is not result["is_error"]
        return result
