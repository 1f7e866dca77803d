"""Where the `claude` program is, and in what surroundings it runs."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from patchbay.settings import Backend

# What the program may have of the worker's own environment: where programs are, and how the network is reached.
_HANDED_ON = (
    "PATH", "LANG", "LC_ALL", "TZ", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
# Nothing but answers: no updates, no telemetry, no second try and no other model behind the caller's back.
_QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
    "CLAUDE_CODE_MAX_RETRIES": "0",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
    "CLAUDE_CODE_DISABLE_REFUSAL_RETRY": "1",
    "CLAUDE_CODE_DISABLE_REFUSAL_FALLBACK": "1",
    "CLAUDE_CODE_DISABLE_LEGACY_MODEL_REMAP": "1",
    "CLAUDE_CODE_NO_MODEL_FALLBACK": "1",
}
_IDLE_MARGIN_SECONDS = 30


class ProgramMissing(Exception):
    """There is no `claude` program; the message says how to get one."""


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run: its path with its arguments, its whole environment, and the directory it works in.

    `elsewhere` names files outside of its home that are to be removed with it.
    """

    arguments: tuple[str, ...]
    environ: Mapping[str, str]
    cwd: str
    elsewhere: tuple[Path, ...] = ()


def find_program(cli_path: str | None) -> str:
    """The path of the `claude` program: the configured one, else the one in claude-agent-sdk's wheel.

    Raises:
        ProgramMissing: It is not there, or cannot be run.
    """
    if cli_path is not None:
        found = shutil.which(os.path.expanduser(cli_path))
        if found is None:
            raise ProgramMissing(
                f"there is no claude program at cli_path: {cli_path}; "
                "install it (npm install -g @anthropic-ai/claude-code) or leave cli_path out"
            )
        return found
    # Found, not imported: the library is large, and a model's pool needs none of it.
    spec = importlib.util.find_spec("claude_agent_sdk")
    bundled = Path(spec.origin).parent / "_bundled" / "claude" if spec is not None and spec.origin else None
    if bundled is None or not os.access(bundled, os.X_OK):
        raise ProgramMissing(
            "the claude program is missing: claude-agent-sdk has none for this platform; "
            "install it (npm install -g @anthropic-ai/claude-code) and name it as cli_path"
        )
    return str(bundled)


def environment(backend: Backend, home: Path) -> dict[str, str]:
    """Every variable that a `claude` process of this backend has.

    Args:
        home: The process's own home, where it may write.
    """
    cli = backend.claude_cli
    assert cli is not None
    environ = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    environ |= _QUIET
    environ |= {"HOME": str(home), "TMPDIR": str(home / "tmp"), "ANTHROPIC_BASE_URL": backend.base_url}
    # The worker watches the upstream itself.
    idle_ms = str(int((backend.timeouts.idle + _IDLE_MARGIN_SECONDS) * 1000))
    environ |= {"API_TIMEOUT_MS": str(int(backend.timeouts.total * 1000)), "CLAUDE_STREAM_IDLE_TIMEOUT_MS": idle_ms}
    if backend.headers:
        lines = (f"{name}: {value.get_secret_value()}" for name, value in backend.headers.items())
        environ["ANTHROPIC_CUSTOM_HEADERS"] = "\n".join(lines)
    if backend.credentials == "signed_in":
        assert cli.config_dir is not None
        environ["CLAUDE_CONFIG_DIR"] = os.path.abspath(os.path.expanduser(cli.config_dir))
    elif backend.auth_token is not None:
        environ["ANTHROPIC_AUTH_TOKEN"] = backend.auth_token.get_secret_value()
    elif backend.api_key is not None:
        environ["ANTHROPIC_API_KEY"] = backend.api_key.get_secret_value()
    return environ
