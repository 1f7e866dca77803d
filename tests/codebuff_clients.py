"""The real SDK of Codebuff that speaks over a WebSocket (0.3): Node processes that run prompts with it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from node_js import node_20

from patchbay.testing.eventually import wait_until

Json = dict[str, Any]

_CLIENTS = Path(__file__).parent / "clients"
_SDK = _CLIENTS / "node_modules" / "codebuff-sdk-websocket"
_INSTALL = "Codebuff's SDK is not installed: run `make tests/clients/node_modules/.bin/codex`"
_STOP_SECONDS = 10


@dataclass
class Run:
    """A run, as its client sees it.

    Attributes:
        events: What `handleEvent` was given.
        chunks: What `handleStreamChunk` was given.
        tools: The calls of custom and replaced tools.
        result: What `run()` has given: `output` and `sessionState`.
    """

    program: Program
    events: list[Json] = field(default_factory=list)
    chunks: list[str] = field(default_factory=list)
    tools: list[Json] = field(default_factory=list)
    result: Json = field(default_factory=dict)

    def wait(self, *, seconds: float = 30.0) -> Self:
        """Waits until it is over."""
        self.until(lambda: self.result, what="the end of a run", seconds=seconds)
        return self

    def until(self, condition: Callable[[], object], *, what: str, seconds: float = 30.0) -> None:
        """Waits until something holds of it, while its program lives."""
        wait_until(
            lambda: condition() or not self.program.alive,
            what=what,
            seconds=seconds,
            log=lambda: f"{self.events}\n{self.program.errors()}",
        )
        assert condition(), f"the program died before {what}: {self.program.errors()}"

    @property
    def output(self) -> Json:
        output: Json = self.result["output"]
        return output

    @property
    def history(self) -> list[Json]:
        """The conversation that the next prompt begins with."""
        messages: list[Json] = self.result["sessionState"]["mainAgentState"]["messageHistory"]
        return messages

    @property
    def text(self) -> str:
        """What came as chunks."""
        return "".join(self.chunks)

    @property
    def texts(self) -> list[str]:
        """What came as events."""
        return [event["text"] for event in self.of("text")]

    def of(self, kind: str) -> list[Json]:
        """The events of a type."""
        return [event for event in self.events if event["type"] == kind]

    def outputs(self, tool: str) -> list[Any]:
        """What the calls of a tool have given, one value a call."""
        return [event["output"][0]["value"] for event in self.of("tool_result") if event["toolName"] == tool]


class Program:
    """A process with the SDK, whose runs go side by side; it ends with the `with` block.

    Args:
        url: Of Patchbay's edge.
        project: The directory that the client works in.
        log: Where its errors go.
        key: What it says who it is.
        survives: Whether it outlives a rejection that nobody handles; `unhandled` has them.
    """

    def __init__(self, url: str, project: Path, log: Path, *, key: str, survives: bool = False) -> None:
        assert _SDK.exists(), _INSTALL
        self._key = key
        self._log = log
        self._ids = itertools.count(1)
        self._runs: dict[str, Run] = {}
        self.project = project
        self.unhandled: list[str] = []
        platform = f"{'arm64' if os.uname().machine in ('aarch64', 'arm64') else 'x64'}-{os.uname().sysname.lower()}"
        environ = {
            "PATH": os.defpath,
            "HOME": str(log.parent),
            "NEXT_PUBLIC_CODEBUFF_BACKEND_URL": urlsplit(url).netloc,
            "CODEBUFF_RG_PATH": str(_SDK / "dist" / "vendor" / "ripgrep" / platform / "rg"),
        }
        command = [str(node_20()), str(_CLIENTS / "codebuff_socket.mjs")]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*command, "--survive"] if survives else command,
                env=environ,
                cwd=project,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, agent: str | Json, prompt: str, **options: object) -> Run:
        """Begins a run; the options are those of `clients/codebuff_socket.mjs`."""
        name = f"run-{next(self._ids)}"
        run = self._runs[name] = Run(self)
        given = {"id": name, "apiKey": self._key, "agent": agent, "prompt": prompt, **options}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()
        return run

    def run(self, agent: str | Json, prompt: str, **options: object) -> Run:
        """A run to its end."""
        return self.start(agent, prompt, **options).wait()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Ends it as a crash would."""
        self._process.kill()
        self._process.wait()

    def errors(self) -> str:
        """What it has written to its standard error."""
        return self._log.read_text(errors="replace")[-3000:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(_STOP_SECONDS)
        self._reader.join(_STOP_SECONDS)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if said["kind"] == "unhandled":
                self.unhandled.append(said["message"])
                continue
            run = self._runs[said["id"]]
            match said["kind"]:
                case "event":
                    run.events.append(said["event"])
                case "chunk":
                    run.chunks.append(said["chunk"])
                case "tool":
                    run.tools.append({"name": said["name"], "input": said["input"]})
                case "result":
                    run.result = said["result"]
