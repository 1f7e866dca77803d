"""What only backends of kind `claude-cli` take: Claude Code processes, as a plain model or as an agent."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

Mode: TypeAlias = Literal["model", "agent"]
MessageMode: TypeAlias = Literal["forward", "formatted", "ignore"]
PermissionMode: TypeAlias = Literal["default", "acceptEdits", "plan", "dontAsk", "bypassPermissions"]


class Pool(BaseModel):
    """How many `claude` processes, and for how long. One takes 150 to 400 MB, and a second of processor to start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_spare: NonNegativeInt = Field(
        default=2, description="Processes started ahead of the chats that will need them."
    )
    max_processes: PositiveInt = Field(default=8, description="The most at a time per worker replica, spares included.")
    max_rss_mb: PositiveInt = Field(
        default=800, description="A process that has grown beyond is replaced after its chat."
    )
    idle_seconds: PositiveFloat = Field(
        default=900.0, description="How long a process waits: a spare for a chat, an agent for its next turn."
    )
    max_requests: PositiveInt = Field(
        default=100, description="Turns of one conversation that an agent's process serves before it is replaced."
    )
    spawn_parallelism: PositiveInt = Field(default=2, description="Processes that may be starting at a time.")
    acquire_timeout: PositiveFloat = Field(
        default=8.0,
        description="How long a chat waits for a process, less than server.head_hold_seconds; then it is refused.",
    )
    silence_seconds: PositiveFloat = Field(
        default=20.0, description="A process that does not answer the worker for so long hangs, and is replaced."
    )

    @model_validator(mode="after")
    def _fits(self) -> Pool:
        if self.min_spare > self.max_processes:
            raise ValueError("min_spare is more than max_processes")
        return self


class McpServer(BaseModel):
    """An MCP server that an agent may use: a program to start, or a URL."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["stdio", "http", "sse"] = Field(
        default="stdio", description="stdio (a program), http or sse (a URL)."
    )
    command: str | None = Field(default=None, description="The program, of type stdio.")
    args: tuple[str, ...] = Field(default=(), description="The program's arguments.")
    env: dict[str, SecretStr] = Field(default={}, description="The program's environment variables; kept secret.")
    url: str | None = Field(default=None, description="The server's URL, of type http or sse.")
    headers: dict[str, SecretStr] = Field(default={}, description="Headers to send there; kept secret.")

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> McpServer:
        needed = "command" if self.type == "stdio" else "url"
        if not getattr(self, needed):
            raise ValueError(f"a server of type {self.type} needs a {needed}")
        return self


class Sandbox(BaseModel):
    """The sandbox around an agent's shell commands: https://code.claude.com/docs/en/sandboxing"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(
        default=False, description="Run shell commands in a sandbox (needs bubblewrap and socat on Linux)."
    )
    auto_allow_bash: bool = Field(default=True, description="Allow commands in the sandbox without asking.")
    excluded_commands: tuple[str, ...] = Field(default=(), description="Commands that run outside of it, such as git.")
    allow_unsandboxed_commands: bool = Field(
        default=False, description="Whether the model may ask to run a command outside of it."
    )
    weaker_nested: bool = Field(
        default=False, description="A weaker sandbox that works inside unprivileged containers."
    )
    allowed_domains: tuple[str, ...] = Field(default=(), description="Domains that commands may reach.")
    denied_domains: tuple[str, ...] = Field(default=(), description="Domains that they may never reach.")


class ClaudeCliConfig(BaseModel):
    """The keys of a `claude-cli` backend beside those of every backend."""

    mode: Mode = Field(
        default="model",
        description="claude-cli: model (a plain model endpoint), or agent (Claude Code with its own tools).",
    )
    config_dir: str | None = Field(
        default=None,
        description="claude-cli: the CLAUDE_CONFIG_DIR of the operator's own sign-in (credentials: signed_in).",
    )
    cli_path: str | None = Field(
        default=None, description="claude-cli: the claude program; left out: the one that comes with claude-agent-sdk."
    )
    pool: Pool = Field(default=Pool(), description="claude-cli: its processes.")
    cwd: str | None = Field(
        default=None,
        description="claude-cli, agent: the working directory; {key} in it stands for the caller's key id.",
    )
    tools: tuple[str, ...] | None = Field(
        default=None, description="claude-cli, agent: the built-in tools there are; null: all of them."
    )
    allowed_tools: tuple[str, ...] = Field(
        default=(), description="claude-cli, agent: what runs without asking, such as Read or Bash(git *)."
    )
    disallowed_tools: tuple[str, ...] = Field(default=(), description="claude-cli, agent: what never runs.")
    permission_mode: PermissionMode = Field(
        default="default",
        description="claude-cli, agent: default (asks, see `patchbay permissions`), acceptEdits, plan, dontAsk, "
        "bypassPermissions.",
    )
    mcp_servers: dict[str, McpServer] = Field(default={}, description="claude-cli, agent: MCP servers by name.")
    max_turns: PositiveInt | None = Field(
        default=None, description="claude-cli, agent: model calls in one answer; null: no limit."
    )
    sandbox: Sandbox = Field(default=Sandbox(), description="claude-cli, agent: the sandbox of shell commands.")
    message_mode: MessageMode = Field(
        default="forward",
        description="claude-cli, agent: how tool activity shows: forward (blocks), formatted (tagged text) or ignore.",
    )
    permission_timeout_seconds: PositiveFloat = Field(
        default=300.0, description="claude-cli, agent: an unanswered permission request is denied after so long."
    )


CLAUDE_CLI_KEYS = frozenset(ClaudeCliConfig.model_fields)
AGENT_KEYS = CLAUDE_CLI_KEYS - {"mode", "config_dir", "cli_path", "pool"}
