"""How the program is started to be an agent."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from patchbay.settings import Backend
from patchbay.settings.claude_cli import ClaudeCliConfig, McpServer, Sandbox
from patchbay_claude_worker.cli.program import Command, environment, find_program

_ARGUMENTS = (
    "--input-format", "stream-json",
    "--output-format", "stream-json",
    "--verbose",
    "--include-partial-messages",
    # The directory's own settings could allow themselves anything.
    "--setting-sources=",
    "--strict-mcp-config",
    "--session-mirror",
    "--disable-slash-commands",
)  # fmt: skip
# They want a person at a terminal, or go on after the answer has ended.
_INTERACTIVE_TOOLS = (
    "AskUserQuestion",
    "CronCreate",
    "CronDelete",
    "CronList",
    "EnterWorktree",
    "ExitWorktree",
    "Monitor",
    "ScheduleWakeup",
    "SendMessage",
)
_ENVIRONMENT = {
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_CRON": "1",
    # Tools of MCP servers are offered at once: looking for them is a tool that `tools` may leave out.
    "ENABLE_TOOL_SEARCH": "false",
    # An agent in the middle of its work has more to lose than one request.
    "CLAUDE_CODE_MAX_RETRIES": "3",
}
_KEY_PLACE = "{key}"
_NO_KEY = "anonymous"
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


def working_directory(config: ClaudeCliConfig, key_id: str) -> Path:
    """Where a caller's agent works; a directory of a key's own is made when it is first needed.

    Raises:
        OSError: It cannot be made.
    """
    assert config.cwd is not None
    written = os.path.abspath(os.path.expanduser(config.cwd))
    if _KEY_PLACE not in config.cwd:
        return Path(written)
    directory = Path(written.replace(_KEY_PLACE, _directory_name(key_id)))
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def _directory_name(key_id: str) -> str:
    """A name for a key that no other key has."""
    if not key_id:
        return _NO_KEY
    name = _UNSAFE.sub("_", key_id)
    if name == key_id and name != _NO_KEY:
        return name
    return f"{name}-{hashlib.sha256(key_id.encode()).hexdigest()[:12]}"


def is_shared(config: ClaudeCliConfig) -> bool:
    """Whether all callers work in one directory, so that processes can be started before their callers are known."""
    return _KEY_PLACE not in (config.cwd or "")


def config_directory(backend: Backend, home: Path) -> Path:
    """Where the program keeps its files: the sign-in's directory, or the process's own home."""
    assert backend.claude_cli is not None
    if backend.credentials == "signed_in" and backend.claude_cli.config_dir:
        return Path(os.path.abspath(os.path.expanduser(backend.claude_cli.config_dir)))
    return home / ".claude"


def command(backend: Backend, home: Path, *, cwd: Path, resume: str | None = None) -> Command:
    """The command of an agent's process.

    Args:
        cwd: Where it works.
        resume: The session to go on with, whose transcript is in its place.

    Raises:
        ProgramMissing: There is no `claude` program.
    """
    config = backend.claude_cli
    assert config is not None
    environ = environment(backend, home) | _ENVIRONMENT
    arguments = [find_program(config.cli_path), *_ARGUMENTS, "--permission-mode", config.permission_mode]
    if config.permission_mode != "bypassPermissions":
        # Ask us, over standard output, where it would ask a person.
        arguments += ["--permission-prompt-tool", "stdio"]
    if config.tools is not None:
        arguments += ["--tools", ",".join(config.tools)]
    if allowed := _allowed_tools(config):
        arguments += ["--allowedTools", ",".join(allowed)]
    denied = config.disallowed_tools if config.tools is not None else (*config.disallowed_tools, *_INTERACTIVE_TOOLS)
    if denied:
        arguments += ["--disallowedTools", ",".join(denied)]
    if config.max_turns is not None:
        arguments += ["--max-turns", str(config.max_turns)]
    if config.mcp_servers:
        # Everybody on the machine may read arguments, and nobody this file.
        place = home / "mcp.json"
        place.touch(mode=0o600)
        place.write_text(_json({"mcpServers": _mcp_servers(config.mcp_servers)}), encoding="utf-8")
        arguments += ["--mcp-config", str(place)]
    if config.sandbox.enabled:
        arguments += ["--settings", _json({"sandbox": _sandbox(config.sandbox)})]
        if not config.sandbox.auto_allow_bash or _is_closed(config.sandbox):
            # Commands do not see the backend's key. With this, the program asks for every one that no rule allows.
            environ["CLAUDE_CODE_SUBPROCESS_ENV_SCRUB"] = "1"
    if resume is not None:
        arguments.append(f"--resume={resume}")
    return Command(tuple(arguments), environ, str(cwd))


def _allowed_tools(config: ClaudeCliConfig) -> tuple[str, ...]:
    sandbox = config.sandbox
    if sandbox.enabled and sandbox.auto_allow_bash and _is_closed(sandbox):
        return (*config.allowed_tools, "Bash")
    return config.allowed_tools


def _is_closed(sandbox: Sandbox) -> bool:
    """Whether no command may run outside of the sandbox."""
    return not sandbox.excluded_commands and not sandbox.allow_unsandboxed_commands


def _mcp_servers(servers: Mapping[str, McpServer]) -> dict[str, object]:
    written: dict[str, object] = {}
    for name, server in servers.items():
        if server.type == "stdio":
            env = {key: value.get_secret_value() for key, value in server.env.items()}
            written[name] = {"type": "stdio", "command": server.command, "args": server.args, "env": env}
        else:
            headers = {key: value.get_secret_value() for key, value in server.headers.items()}
            written[name] = {"type": server.type, "url": server.url, "headers": headers}
    return written


def _sandbox(sandbox: Sandbox) -> dict[str, object]:
    """https://code.claude.com/docs/en/settings#sandbox-settings"""
    return {
        "enabled": True,
        "autoAllowBashIfSandboxed": sandbox.auto_allow_bash,
        "excludedCommands": sandbox.excluded_commands,
        "allowUnsandboxedCommands": sandbox.allow_unsandboxed_commands,
        "enableWeakerNestedSandbox": sandbox.weaker_nested,
        "network": {"allowedDomains": sandbox.allowed_domains, "deniedDomains": sandbox.denied_domains},
    }


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
