"""The upstreams of the OpenAI Chat Completions dialect, one profile a kind.

To add a provider: a profile here, its kind in `patchbay.settings.backends`, and a row in docs/configuration.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from patchbay.dialects.openai_chat import DIALECT, OpenAIChatQuirks
from patchbay.upstream.profile import KeyHeader, Profile

_CHAT = "/chat/completions"
_MODELS = "/models"

# https://platform.openai.com/docs/api-reference/chat
OPENAI = Profile(
    kind="openai",
    dialect=DIALECT,
    quirks=OpenAIChatQuirks(),
    chat_path=_CHAT,
    models_path=_MODELS,
    owned_by="openai",
)

# https://ai.google.dev/gemini-api/docs/openai and, for the signature of calls that another model made,
# https://ai.google.dev/gemini-api/docs/thought-signatures
GEMINI = Profile(
    kind="gemini",
    dialect=DIALECT,
    quirks=OpenAIChatQuirks(
        max_tokens_field="max_tokens",
        developer_role=False,
        disabled_effort="none",
        efforts=("none", "minimal", "low", "medium", "high"),
        tool_extra_content=True,
        default_extra_content='{"google":{"thought_signature":"skip_thought_signature_validator"}}',
        custom_tools=False,
        unsupported=frozenset({"logit_bias", "service_tier", "metadata"}),
    ),
    chat_path=_CHAT,
    models_path=_MODELS,
    owned_by="google",
)

# https://openrouter.ai/docs/api-reference/chat-completion and https://openrouter.ai/docs/use-cases/reasoning-tokens
OPENROUTER = Profile(
    kind="openrouter",
    dialect=DIALECT,
    quirks=OpenAIChatQuirks(
        max_tokens_field="max_tokens",
        reasoning_field="reasoning",
        echo_reasoning="reasoning_details",
        document_urls=True,
        cache_control=True,
        top_k=True,
        custom_tools=False,
    ),
    chat_path=_CHAT,
    models_path=_MODELS,
    owned_by="openrouter",
)

# vLLM, Ollama, LM Studio, llama.cpp and the like: the oldest common form of the protocol.
OPENAI_COMPATIBLE = Profile(
    kind="openai-compatible",
    dialect=DIALECT,
    quirks=OpenAIChatQuirks(max_tokens_field="max_tokens", developer_role=False, max_stop=None, custom_tools=False),
    chat_path=_CHAT,
    models_path=_MODELS,
    owned_by="openai-compatible",
)

# CodeBuddy refuses chats without a system message and chats that do not stream (code 11101), so a client's own body
# never goes there as it is.
CODEBUDDY = Profile(
    kind="codebuddy",
    dialect=DIALECT,
    quirks=OpenAIChatQuirks(
        max_tokens_field="max_tokens",
        developer_role=False,
        system_required="You are a helpful assistant.",
        custom_tools=False,
    ),
    chat_path=_CHAT,
    key_header=KeyHeader.BOTH,
    native=False,
    models=("gpt-5.5", "gpt-5.4", "claude-sonnet-4.6", "gemini-3.1-pro"),
    owned_by="codebuddy",
)

PROFILES: Mapping[str, Profile[OpenAIChatQuirks]] = {
    profile.kind: profile for profile in (OPENAI, GEMINI, OPENROUTER, OPENAI_COMPATIBLE, CODEBUDDY)
}
