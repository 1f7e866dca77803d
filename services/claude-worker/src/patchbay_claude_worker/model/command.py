"""How the program is started to be nothing but a way to the model."""

from __future__ import annotations

from pathlib import Path

from patchbay.settings import Backend
from patchbay_claude_worker.cli.program import Command, environment, find_program

# No tools, no settings, no MCP servers, no session files, no commands; one call of the model.
_ARGUMENTS = (
    "--input-format", "stream-json",
    "--output-format", "stream-json",
    "--verbose",
    "--include-partial-messages",
    "--tools", "",
    "--setting-sources=",
    "--strict-mcp-config",
    "--permission-mode", "dontAsk",
    "--no-session-persistence",
    "--disable-slash-commands",
    "--max-turns", "1",
)  # fmt: skip
_ENVIRONMENT = {
    "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
    "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS": "1",
    # It changes how a model thinks: only where the client asks for it.
    "DISABLE_INTERLEAVED_THINKING": "1",
    "DISABLE_PROMPT_CACHING": "1",
    "DISABLE_COMPACT": "1",
    "DISABLE_AUTO_COMPACT": "1",
}


def command(backend: Backend, home: Path) -> Command:
    """The command of a process for one request.

    Raises:
        ProgramMissing: There is no `claude` program.
    """
    assert backend.claude_cli is not None
    environ = environment(backend, home) | _ENVIRONMENT
    if backend.credentials != "signed_in":
        # Bare: no reminders, no hooks, no memory files. It refuses a subscription's sign-in.
        environ["CLAUDE_CODE_SIMPLE"] = "1"
    return Command((find_program(backend.claude_cli.cli_path), *_ARGUMENTS), environ, str(home))
