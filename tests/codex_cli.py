"""The real Codex CLI, with a home and an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PROGRAM = Path(__file__).parent / "clients" / "node_modules" / ".bin" / "codex"
_INSTALL = "the Codex CLI is not installed: run `make tests/clients/node_modules/.bin/codex`"


@dataclass
class Outcome:
    """What a run of `codex exec --json` said.

    Attributes:
        events: Its lines.
        returncode: 0: the turn is complete.
    """

    events: list[dict[str, Any]]
    returncode: int
    stderr: str

    def texts(self) -> list[str]:
        """What the agent said."""
        items = [event["item"] for event in self.events if event["type"] == "item.completed"]
        return [item["text"] for item in items if item["type"] == "agent_message"]

    @property
    def usage(self) -> dict[str, int]:
        (done,) = (event for event in self.events if event["type"] == "turn.completed")
        usage: dict[str, int] = done["usage"]
        return usage

    @property
    def thread(self) -> str:
        (started,) = (event["thread_id"] for event in self.events if event["type"] == "thread.started")
        return str(started)

    @property
    def errors(self) -> str:
        return "\n".join(json.dumps(event) for event in self.events if event["type"] in ("error", "turn.failed"))


@dataclass
class Codex:
    """An installation that asks one provider.

    Args:
        home: A directory of its own.
        base_url: Of the provider; `/responses` is appended.
        websocket: Whether to ask over a WebSocket.
        settings: More top-level keys of its configuration.
        name: What the provider is called; `OpenAI` changes how conversations are compacted.
    """

    home: Path
    base_url: str
    websocket: bool = False
    settings: dict[str, int | str] = field(default_factory=dict)
    name: str = "Patchbay"

    def run(self, model: str, *arguments: str) -> Outcome:
        """Runs `codex exec`."""
        assert _PROGRAM.exists(), _INSTALL
        self.workspace.mkdir(exist_ok=True, parents=True)
        self._configure(model)
        environ = {
            "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.defpath]),
            "HOME": str(self.home),
            "CODEX_HOME": str(self.home / ".codex"),
            "PATCHBAY_KEY": "made-up",
        }
        command = [str(_PROGRAM), "exec", *arguments]
        done = subprocess.run(
            command,
            env=environ,
            cwd=self.workspace,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        return Outcome([json.loads(line) for line in lines], done.returncode, done.stderr)

    def ask(self, model: str, prompt: str) -> Outcome:
        """One prompt in a conversation of its own."""
        return self.run(model, *self._flags, prompt)

    def go_on(self, model: str, prompt: str, thread: str) -> Outcome:
        """One more prompt in a conversation."""
        return self.run(model, "resume", *self._flags, thread, prompt)

    @property
    def workspace(self) -> Path:
        return self.home / "work"

    @property
    def _flags(self) -> tuple[str, ...]:
        return ("--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")

    def _configure(self, model: str) -> None:
        lines = [f"{name} = {json.dumps(value)}" for name, value in self.settings.items()]
        lines += [
            f"model = {json.dumps(model)}",
            'model_provider = "patchbay"',
            "check_for_update_on_startup = false",
            "[analytics]",
            "enabled = false",
            "[model_providers.patchbay]",
            f"name = {json.dumps(self.name)}",
            f"base_url = {json.dumps(self.base_url)}",
            'wire_api = "responses"',
            'env_key = "PATCHBAY_KEY"',
            f"supports_websockets = {json.dumps(self.websocket)}",
        ]
        path = self.home / ".codex" / "config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
