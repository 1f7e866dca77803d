"""The upstreams of the Responses dialect, one profile a kind."""

from __future__ import annotations

from typing import TypeVar

from patchbay.dialects.base import Dialect
from patchbay.upstream.profile import Profile

Quirks = TypeVar("Quirks")

# The Codex CLI that the backend is told of where the client is none, and asked for the models of.
_VERSION = "0.169.0"

# What a Codex CLI says of itself and of its turn. Its own account and its cookies are not among these.
_CODEX_HEADERS = frozenset(
    {
        "originator",
        "session-id",
        "thread-id",
        "user-agent",
        "version",
        "x-client-request-id",
        "x-codex-beta-features",
        "x-codex-routing-hint",
        "x-codex-turn-metadata",
        "x-codex-turn-state",
        "x-codex-window-id",
        "x-openai-internal-codex-responses-lite",
    }
)


def chatgpt(dialect: Dialect[Quirks], quirks: Quirks) -> Profile[Quirks]:
    """The backend that Codex uses with a ChatGPT account."""
    return Profile(
        kind="codex",
        dialect=dialect,
        quirks=quirks,
        chat_path="/codex/responses",
        models_path=f"/codex/models?client_version={_VERSION}",
        # Generic agents meet a firewall.
        headers={
            "accept": "text/event-stream",
            "originator": "codex_cli_rs",
            "user-agent": f"codex_cli_rs/{_VERSION} (Linux; x86_64)",
        },
        forwarded_headers=_CODEX_HEADERS,
        owned_by="openai",
    )


def platform(dialect: Dialect[Quirks], quirks: Quirks) -> Profile[Quirks]:
    """The Responses API of OpenAI, and of servers compatible with it."""
    return Profile(
        kind="openai-responses",
        dialect=dialect,
        quirks=quirks,
        chat_path="/responses",
        models_path="/models",
        owned_by="openai",
    )
