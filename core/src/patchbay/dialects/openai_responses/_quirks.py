"""What servers of the Responses API differ in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

# The dialect's name: in the registry, and of what it leaves in extensions and opaque blocks.
NAME: Final = "openai_responses"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIResponsesQuirks:
    """One server's ways. The defaults are those of api.openai.com."""

    # Top-level parameters the server refuses; dropped, with a warning where they asked for something.
    unsupported: frozenset[str] = frozenset()
    # Fields of content parts the server refuses.
    unsupported_part_fields: frozenset[str] = frozenset()
    # Words of a tool's schema the server refuses, at its top.
    unsupported_schema_fields: frozenset[str] = frozenset()
    # Whether the server answers in a stream only.
    stream_only: bool = False
    # Whether the server keeps answers, so that later requests may name them and their items. Else `store` is to be
    # there and false, and reasoning comes back encrypted or not at all.
    keeps_answers: bool = True
    # Ask for encrypted reasoning in every request, not only where the client wants reasoning: models that cannot reason
    # refuse to be asked.
    always_encrypted: bool = False
    # Where a system prompt goes that another dialect's client wrote.
    system_place: Literal["instructions", "input"] = "instructions"
    # Whether `instructions` must be there, if only empty.
    instructions_required: bool = False
    # Whether messages may have the role `system`; else they are a developer's.
    system_role: bool = True
    # Whether the input may be one string.
    string_input: bool = True
    # The values of `service_tier` the server takes; None: any.
    service_tiers: frozenset[str] | None = None
    # Whether the server is OpenAI's, which alone takes Codex's notes about where a message comes from.
    message_metadata: bool = True
    # Whether the former names of the web search tool are known.
    web_search_preview: bool = True
    # Whether `parallel_tool_calls` may be said without tools.
    parallel_without_tools: bool = True
    # The efforts the server knows, weakest first; another one becomes the nearest of these.
    efforts: tuple[str, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
    # The effort that stands for "do not think" when the client said only that; None: nothing is sent, since models that
    # cannot think refuse the parameter.
    disabled_effort: str | None = None
    # Tool names longer than this are shortened; the answer's names are turned back.
    max_tool_name: int = 64
    # Longer ids are shortened, the same way in a call and in its output.
    max_call_id: int = 64
    # Longer ids of items are left out: they are not this server's, and items need none.
    max_item_id: int = 64
    # A longer `user` is shortened: Claude Code's is.
    max_user: int = 64
    # A smaller output limit is refused.
    min_output_tokens: int = 16


# The backend that Codex uses with a ChatGPT account: https://chatgpt.com/backend-api/codex/responses
CHATGPT = OpenAIResponsesQuirks(
    unsupported=frozenset(
        {
            "context_management",
            "frequency_penalty",
            "generate",
            "logit_bias",
            "logprobs",
            "max_completion_tokens",
            "max_output_tokens",
            "max_tokens",
            "metadata",
            "n",
            "presence_penalty",
            "previous_response_id",
            "prompt_cache_options",
            "prompt_cache_retention",
            "safety_identifier",
            "seed",
            "stop",
            "stream_options",
            "temperature",
            "top_logprobs",
            "top_p",
            "truncation",
            "user",
        }
    ),
    unsupported_part_fields=frozenset({"prompt_cache_breakpoint"}),
    unsupported_schema_fields=frozenset({"$schema", "cache_control"}),
    stream_only=True,
    keeps_answers=False,
    always_encrypted=True,
    system_place="input",
    instructions_required=True,
    system_role=False,
    string_input=False,
    service_tiers=frozenset({"priority"}),
    web_search_preview=False,
    parallel_without_tools=False,
    disabled_effort="low",
)
