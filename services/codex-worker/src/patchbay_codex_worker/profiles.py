"""The upstreams of the Responses dialect, one profile a kind."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from patchbay.dialects.openai_responses import CHATGPT, DIALECT, OpenAIResponsesQuirks
from patchbay.upstream.profile import Profile

_OPENAI = "api.openai.com"
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


# The backend that Codex uses with a ChatGPT account.
CODEX = Profile(
    kind="codex",
    dialect=DIALECT,
    quirks=CHATGPT,
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

# https://platform.openai.com/docs/api-reference/responses, and servers compatible with it.
OPENAI_RESPONSES = Profile(
    kind="openai-responses",
    dialect=DIALECT,
    quirks=OpenAIResponsesQuirks(),
    chat_path="/responses",
    models_path="/models",
    count_tokens_path="/responses/input_tokens",
    count_tokens_fields=frozenset(
        {
            "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "reasoning", "text",
            "truncation", "previous_response_id", "conversation",
        }
    ),
    owned_by="openai",
)  # fmt: skip


def openai_responses(base_url: str) -> Profile[OpenAIResponsesQuirks]:
    """What the server at this URL is like, which may be another one than OpenAI's."""
    host = urlsplit(base_url).hostname or ""
    if host == _OPENAI or host.endswith(f".{_OPENAI}"):
        return OPENAI_RESPONSES
    return replace(OPENAI_RESPONSES, quirks=replace(OPENAI_RESPONSES.quirks, message_metadata=False))
