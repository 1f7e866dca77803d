from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchbay.settings import Backend, load
from patchbay_claude_worker.agent.command import command, config_directory, working_directory
from patchbay_claude_worker.cli.program import Command


def backend_of(**config: object) -> Backend:
    written = {"kind": "claude-cli", "mode": "agent", "cwd": "/srv/work", "api_key": "sk-ant-made-up", **config}
    return load([f"--backends.agent={json.dumps(written)}"], {}).enabled_backends()["agent"]


def built(home: Path, *, resume: str | None = None, **config: object) -> Command:
    return command(backend_of(**config), home, cwd=Path("/srv/work"), resume=resume)


def option(made: Command, name: str) -> str | None:
    arguments = made.arguments
    return arguments[arguments.index(name) + 1] if name in arguments else None


def test_asks_us_where_it_would_ask_a_person(tmp_path: Path) -> None:
    made = built(tmp_path)
    assert (option(made, "--permission-mode"), option(made, "--permission-prompt-tool")) == ("default", "stdio")
    assert "--permission-prompt-tool" not in built(tmp_path, permission_mode="bypassPermissions").arguments
    assert "--setting-sources=" in made.arguments
    assert made.cwd == "/srv/work"
    assert made.environ["HOME"] == str(tmp_path)


def test_tools_are_those_that_are_configured(tmp_path: Path) -> None:
    made = built(
        tmp_path, tools=["Read", "Bash"], allowed_tools=["Bash(git *)"], disallowed_tools=["WebFetch"], max_turns=7
    )
    assert option(made, "--tools") == "Read,Bash"
    assert option(made, "--allowedTools") == "Bash(git *)"
    assert option(made, "--disallowedTools") == "WebFetch"
    assert option(made, "--max-turns") == "7"
    denied = option(built(tmp_path, disallowed_tools=["WebFetch"]), "--disallowedTools")
    assert denied is not None
    assert {"WebFetch", "AskUserQuestion", "CronCreate"} <= set(denied.split(","))


def test_mcp_servers_have_what_they_are_given(tmp_path: Path) -> None:
    servers = {
        "a": {"command": "/bin/a", "args": ["-x"], "env": {"TOKEN": "t"}},
        "b": {"type": "http", "url": "https://b.example/mcp", "headers": {"authorization": "secret"}},
    }
    made = built(tmp_path, mcp_servers=servers)
    assert not any("secret" in argument for argument in made.arguments)
    place = Path(option(made, "--mcp-config") or "")
    assert (place.parent, place.stat().st_mode & 0o777) == (tmp_path, 0o600)
    assert json.loads(place.read_text()) == {
        "mcpServers": {
            "a": {"type": "stdio", "command": "/bin/a", "args": ["-x"], "env": {"TOKEN": "t"}},
            "b": {"type": "http", "url": "https://b.example/mcp", "headers": {"authorization": "secret"}},
        }
    }


@pytest.mark.parametrize(
    ("sandbox", "allowed", "hides_the_key"),
    [
        ({}, "Bash", True),
        ({"auto_allow_bash": False}, None, True),
        ({"excluded_commands": ["git"]}, None, False),
        ({"allow_unsandboxed_commands": True}, None, False),
    ],
)
def test_the_sandbox(tmp_path: Path, sandbox: dict[str, object], allowed: str | None, hides_the_key: bool) -> None:
    made = built(tmp_path, sandbox={"enabled": True, "allowed_domains": ["pypi.org"], **sandbox})
    settings = json.loads(option(made, "--settings") or "")["sandbox"]
    assert settings["enabled"] is True
    assert settings["network"]["allowedDomains"] == ["pypi.org"]
    assert settings["autoAllowBashIfSandboxed"] is sandbox.get("auto_allow_bash", True)
    assert option(made, "--allowedTools") == allowed
    assert ("CLAUDE_CODE_SUBPROCESS_ENV_SCRUB" in made.environ) is hides_the_key


def test_no_sandbox_no_settings(tmp_path: Path) -> None:
    made = built(tmp_path)
    assert "--settings" not in made.arguments
    assert "CLAUDE_CODE_SUBPROCESS_ENV_SCRUB" not in made.environ


def test_a_session_is_resumed_by_one_argument(tmp_path: Path) -> None:
    assert built(tmp_path, resume="--dangerous").arguments[-1] == "--resume=--dangerous"


def test_files_are_where_the_account_is(tmp_path: Path) -> None:
    assert config_directory(backend_of(), tmp_path) == tmp_path / ".claude"
    signed_in = backend_of(api_key=None, credentials="signed_in", config_dir="/srv/claude")
    assert config_directory(signed_in, tmp_path) == Path("/srv/claude")
    assert command(signed_in, tmp_path, cwd=tmp_path).environ["CLAUDE_CONFIG_DIR"] == "/srv/claude"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("alice", "alice"),
        ("", "anonymous"),
        ("anonymous", "anonymous-2f183a4e6449"),
        ("../../etc", "______etc-"),
        ("a/b c", "a_b_c-"),
        (".", "_-"),
    ],
)
def test_a_keys_directory_is_below_the_configured_one(tmp_path: Path, key: str, name: str) -> None:
    config = backend_of(cwd=f"{tmp_path}/{{key}}/src").claude_cli
    assert config is not None
    made = working_directory(config, key)
    assert (made.parent.parent, made.name) == (tmp_path, "src")
    assert made.parent.name == name or made.parent.name.startswith(name)
    assert made.is_dir()


def test_no_two_keys_share_a_directory(tmp_path: Path) -> None:
    config = backend_of(cwd=f"{tmp_path}/{{key}}").claude_cli
    assert config is not None
    keys = ["team.x", "team_x", "team x", "", "anonymous"]
    assert len({working_directory(config, key) for key in keys}) == len(keys)
