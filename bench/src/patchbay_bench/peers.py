"""The peers: one process each, quiet logging, made-up keys, and the stand-in as their only upstream."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path as Folder
from typing import Final

from patchbay.testing.ports import free_port
from patchbay_bench.environments import environment
from patchbay_bench.paths import (
    CCPROXY_ANTHROPIC,
    CCPROXY_TRANSLATED,
    LITELLM_ANTHROPIC,
    LITELLM_OPENAI,
    Path,
)
from patchbay_bench.processes import CleanProcess
from patchbay_bench.wire import VERSION_HEADER

READY_SECONDS: Final = 90.0
# Far from now, so that no token is refreshed, which would leave the loopback.
_NEVER_MS: Final = 4_102_444_800_000


class LiteLLM:
    """LiteLLM's proxy (https://docs.litellm.ai/docs/simple_proxy).

    Args:
        home: The bench's folder.
        upstream: The stand-in's URL.
        models: The names it will be asked for. Each gets a price, as its own models have: without one it logs an error
            with its stack for every request, which would be unfair.

    Raises:
        NotInstalled: When its environment cannot be made.
    """

    def __init__(self, *, home: Folder, uv: str | None, upstream: str, models: Sequence[str]) -> None:
        programs = environment("litellm", home=home, uv=uv)
        self._port = free_port()
        self._key = f"sk-{secrets.token_hex(24)}"
        bases = {"openai": f"{upstream}/v1", "anthropic": upstream}
        config = {
            "model_list": [
                {
                    "model_name": f"{provider}/{model}",
                    "litellm_params": {"model": f"{provider}/{model}", "api_base": base, "api_key": "made-up"},
                    "model_info": {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6},
                }
                for provider, base in bases.items()
                for model in models
            ],
            "litellm_settings": {"telemetry": False, "num_retries": 0, "set_verbose": False},
        }
        serve = ["--config", "{home}/config.json", "--host", "127.0.0.1", "--port", str(self._port)]
        self.process = CleanProcess(
            [str(programs / "python"), str(programs / "litellm"), *serve, "--num_workers", "1"],
            environ={
                "LITELLM_MASTER_KEY": self._key,
                "LITELLM_LOG": "ERROR",
                "LITELLM_TELEMETRY": "False",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "NO_DOCS": "True",
                "NO_PROXY": "*",
            },
            files={"config.json": json.dumps(config)},
            port=self._port,
        )

    def paths(self) -> list[Path]:
        """Its paths, once its process runs."""
        roles = {"proxy": [self.process.pid]}
        return [
            Path(
                name=LITELLM_OPENAI,
                system="litellm",
                client="openai",
                upstream="openai",
                port=self._port,
                model_prefix="openai/",
                headers={"authorization": f"Bearer {self._key}"},
                roles=roles,
            ),
            Path(
                name=LITELLM_ANTHROPIC,
                system="litellm",
                client="anthropic",
                upstream="anthropic",
                port=self._port,
                model_prefix="anthropic/",
                headers={"x-api-key": self._key, **VERSION_HEADER},
                roles=roles,
            ),
        ]


class CCProxy:
    """CCProxy (https://github.com/CaddyGlow/ccproxy-api): its Claude provider, with a made-up sign-in.

    It would start Claude Code and Codex to learn their headers, and ask GitHub for its own newest version: only the two
    plugins needed are enabled, no package runner is allowed, and its scheduler is off.

    Raises:
        NotInstalled: When its environment cannot be made.
    """

    def __init__(self, *, home: Folder, uv: str | None, upstream: str) -> None:
        programs = environment("ccproxy", home=home, uv=uv)
        self._port = free_port()
        credentials = {
            "claudeAiOauth": {
                "accessToken": "made-up-access",
                "refreshToken": "made-up-refresh",
                "expiresAt": _NEVER_MS,
                "scopes": ["user:inference"],
                "subscriptionType": "max",
            }
        }
        self.process = CleanProcess(
            [str(programs / "python"), str(programs / "ccproxy"), "serve", "--config", "{home}/config.toml"],
            environ={
                # Parts of it read this and not the option.
                "CONFIG_FILE": "{home}/config.toml",
                "ENABLED_PLUGINS": '["claude_api", "oauth_claude"]',
                "BINARY__FALLBACK_ENABLED": "false",
                "SCHEDULER__ENABLED": "false",
                "SCHEDULER__VERSION_CHECK_ENABLED": "false",
                "SCHEDULER__PRICING_UPDATE_ENABLED": "false",
                "LOGGING__PLUGIN_LOG_BASE_DIR": "{home}/logs",
                "NO_PROXY": "*",
            },
            files={
                ".claude/.credentials.json": json.dumps(credentials),
                "config.toml": _ccproxy_config(self._port, upstream),
            },
            port=self._port,
        )

    def paths(self) -> list[Path]:
        """Its paths, once its process runs."""
        roles = {"proxy": [self.process.pid]}
        return [
            Path(
                name=CCPROXY_ANTHROPIC,
                system="ccproxy",
                client="anthropic",
                upstream="anthropic",
                port=self._port,
                base_path="/claude",
                headers={"x-api-key": "made-up", **VERSION_HEADER},
                roles=roles,
            ),
            Path(
                name=CCPROXY_TRANSLATED,
                system="ccproxy",
                client="openai",
                upstream="anthropic",
                port=self._port,
                base_path="/claude",
                headers={"authorization": "Bearer made-up"},
                roles=roles,
            ),
        ]


def _ccproxy_config(port: int, upstream: str) -> str:
    return f"""\
enabled_plugins = ["claude_api", "oauth_claude"]
plugins_disable_local_discovery = true

[server]
host = "127.0.0.1"
port = {port}

[logging]
level = "ERROR"

[binary]
fallback_enabled = false

[scheduler]
enabled = false

[plugins.claude_api]
base_url = "{upstream}"
"""
