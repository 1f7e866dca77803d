"""The upstreams of the Anthropic dialect, one profile a kind.

Protocol: https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

from collections.abc import Mapping

from patchbay.dialects.anthropic import DIALECT, AnthropicQuirks
from patchbay.upstream.profile import KeyHeader, Profile

ANTHROPIC = Profile(
    kind="anthropic",
    dialect=DIALECT,
    quirks=DIALECT.quirks,
    chat_path="/v1/messages",
    models_path="/v1/models?limit=1000",
    count_tokens_path="/v1/messages/count_tokens",
    count_tokens_fields=frozenset({"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config"}),
    key_header=KeyHeader.X_API_KEY,
    headers={"anthropic-version": "2023-06-01"},
    forwarded_headers=frozenset({"anthropic-beta", "anthropic-version"}),
    owned_by="anthropic",
)

PROFILES: Mapping[str, Profile[AnthropicQuirks]] = {profile.kind: profile for profile in (ANTHROPIC,)}

# What the `claude` program takes as a model beside full names; it knows itself which model each one is.
CLI_MODELS = ("opus", "sonnet", "haiku")
