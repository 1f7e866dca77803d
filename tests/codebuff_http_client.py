"""Programs that use the published `@codebuff/sdk` 0.10, whose agents run in the program; each has its own home."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from node_js import node_20

Json = dict[str, Any]

_CLIENTS = Path(__file__).parent / "clients"
_REDIRECT = Path(__file__).parent.parent / "deploy" / "codebuff" / "redirect.mjs"
_SDK = _CLIENTS / "node_modules" / "codebuff-sdk-http"
_INSTALL = "Codebuff's SDK is not installed: run `make tests/clients/node_modules/.bin/codex`"
_SECONDS = 90


@dataclass
class Scenario:
    """What a program did of one scenario (see `clients/codebuff_http.mjs`).

    Attributes:
        events: What `handleEvent` was given.
        chunks: What `handleStreamChunk` was given.
        overrides: The calls of tools that the program replaced.
        customs: The inputs of its own tool, `look_up`.
        connections: What `checkConnection` said.
        results: For each prompt its output, its messages, its run and its credits.
        thrown: What `run` raised.
    """

    events: list[Json] = field(default_factory=list)
    chunks: list[Any] = field(default_factory=list)
    overrides: list[Json] = field(default_factory=list)
    customs: list[Json] = field(default_factory=list)
    connections: list[bool] = field(default_factory=list)
    results: list[Json] = field(default_factory=list)
    thrown: list[Json] = field(default_factory=list)

    @property
    def result(self) -> Json:
        """Of the one prompt."""
        assert not self.thrown, self.thrown
        (result,) = self.results
        return result

    @property
    def output(self) -> Json:
        output: Json = self.result["output"]
        return output

    @property
    def text(self) -> str:
        """The text of the stream, without what sub-agents said."""
        return "".join(chunk for chunk in self.chunks if isinstance(chunk, str))

    @property
    def reasoning(self) -> str:
        return self._joined("reasoning_chunk")

    @property
    def subagents(self) -> str:
        return self._joined("subagent_chunk")

    def _joined(self, kind: str) -> str:
        return "".join(chunk["chunk"] for chunk in self.chunks if isinstance(chunk, dict) and chunk["type"] == kind)

    def of(self, kind: str) -> list[Json]:
        """The events of a kind."""
        return [event for event in self.events if event["type"] == kind]

    def tool_results(self, tool: str) -> list[Any]:
        """What a tool gave, each time."""
        found = [event["output"] for event in self.of("tool_result") if event["toolName"] == tool]
        return [part["value"] for output in found for part in output]


@dataclass
class Ran:
    """What a program did.

    Attributes:
        scenarios: By name.
        calls: Its calls over HTTP: `method`, `path` and `status`; `tokens` of a count.
    """

    scenarios: dict[str, Scenario]
    calls: list[Json]


_PLACES = {
    "event": "events",
    "chunk": "chunks",
    "override": "overrides",
    "custom": "customs",
    "connection": "connections",
    "result": "results",
    "thrown": "thrown",
}


class Program:
    """A program that runs scenarios, side by side, and then stays, with its connections, until the block ends.

    Args:
        url: The Patchbay that it asks.
        home: A directory of its own.
        environ: More variables (see `clients/codebuff_http_network.mjs`).
        node: What it runs with; None: Node 20.
    """

    def __init__(
        self,
        scenarios: Sequence[Json],
        *,
        url: str,
        home: Path,
        api_key: str,
        environ: Mapping[str, str] | None = None,
        node: Path | None = None,
    ) -> None:
        assert _SDK.exists(), _INSTALL
        home.mkdir(parents=True, exist_ok=True)
        self._names = [scenario["name"] for scenario in scenarios]
        self._errors = home / "stderr.txt"
        command = [
            str(node or node_20()),
            "--import",
            str(_CLIENTS / "codebuff_http_network.mjs"),
            "--import",
            str(_REDIRECT),
        ]
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [*command, str(_CLIENTS / "codebuff_http.mjs")],
                env={
                    "PATH": "/usr/local/bin:/usr/bin:/bin",
                    "HOME": str(home),
                    "PATCHBAY_URL": url,
                    "CODEBUFF_API_KEY": api_key,
                    **(environ or {}),
                },
                cwd=home,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(scenarios) + "\n")
        self._process.stdin.flush()

    def ran(self) -> Ran:
        """What it did, once it has done everything.

        Raises:
            AssertionError: It died, or takes too long.
        """
        ran = Ran({name: Scenario() for name in self._names}, [])
        watchdog = threading.Timer(_SECONDS, self._process.kill)
        watchdog.start()
        try:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                said = json.loads(line)
                if said["kind"] == "calls":
                    ran.calls = said["value"]
                    return ran
                getattr(ran.scenarios[said["scenario"]], _PLACES[said["kind"]]).append(said["value"])
        finally:
            watchdog.cancel()
        left = [name for name, scenario in ran.scenarios.items() if not scenario.results and not scenario.thrown]
        raise AssertionError(f"not in {_SECONDS} s: {left}\n{self._errors.read_text()[-4000:]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
