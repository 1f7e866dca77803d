"""What a request says that may be left out without a word.

A warning is for what a client asked of its answer and does not get. Left out, or honoured as nearly as a backend can,
without one are:

- advice on cost, speed and caching: cache marks, and the fields below;
- how much to think: a budget becomes an effort, an effort the nearest one there is, and none at all where the provider
  would refuse it in the middle of a turn;
- what only repeats an earlier answer: thinking (no provider takes another's), citations, and the fields below;
- Claude Code's line of attribution in the system prompt, which is meant for Anthropic and differs from request to
  request, so that no other provider's cache would ever find the prompt again;
- that a tool's result is an error, where a result is a text that says so itself;
- who the end user is, and what the client tells about itself, where the provider does not want to know;
- that a message inside the conversation is a developer's, where the provider has no such role: it is the user's then;
- that an answer is to be stored: Patchbay itself keeps what it has to;
- an output limit that is larger than answers are, where the provider takes none: the Messages API requires one.

Claude Code and Codex send most of these with every request, so that a backend with `strict_parameters` would refuse
them all. Codex also offers tools that OpenAI runs, whether or not it needs them: where they are left out the client is
told, but no backend refuses the request for it.
"""

from __future__ import annotations

import msgspec

_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_FIELDS: dict[str, frozenset[str]] = {
    "anthropic": frozenset(
        {
            # Automatic caching, and what of an old conversation to forget.
            "cache_control",
            "context_management",
            # How a tool is loaded, and how its input is streamed.
            "defer_loading",
            "eager_input_streaming",
            # Who made a call: of calls in earlier answers.
            "caller",
        }
    ),
    "openai_chat": frozenset(
        {
            "prompt_cache_key",
            "prompt_cache_retention",
            "prediction",
            "safety_identifier",
            # All but `include_usage`, which is read.
            "stream_options",
            # Of earlier answers: citations, and what the official SDK adds to them.
            "annotations",
            "parsed",
            "parsed_arguments",
            # OpenRouter: whether to report the cost.
            "usage",
        }
    ),
    "openai_responses": frozenset(
        {
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "prompt_cache_breakpoint",
            "context_management",
            "safety_identifier",
            "user",
            # About the client, its session and its machine.
            "client_metadata",
            # Whether to store the answer.
            "store",
            # Padding against eavesdroppers.
            "stream_options",
            # More about hosted tools, whose absence is told, and reasoning in a form that only OpenAI reads. Log
            # probabilities are asked for here too, but those are read.
            "include",
            # How long an answer is to be, and how reasoning is summed up: advice, of which Codex always gives some.
            "verbosity",
            "summary",
            # Which of the earlier reasoning the model is to see: there is none where only OpenAI reads it.
            "context",
            # Whether the warm-up of a connection is to be answered.
            "generate",
            # Of a file: how closely to look.
            "detail",
            # How a tool is loaded, who may call it, and what it returns.
            "defer_loading",
            "allowed_callers",
            "output_schema",
            # Read where they are asked for.
            "top_logprobs",
            # Of earlier answers.
            "annotations",
            "logprobs",
            # How a block or a tool was written, for it to be written so again: see `openai_responses._notes`.
            "part",
            "instructions",
            "additional_tools",
        }
    ),
    # Of an item: what only repeats an earlier answer, and how it was written.
    "openai_responses.item": frozenset(
        {
            "id",
            "status",
            "phase",
            "caller",
            "summary",
            "content",
            "type",
            "role",
            "output",
            "internal_chat_message_metadata_passthrough",
        }
    ),
}

# Fields with a value that asks for what happens anyway.
_DEFAULTS: dict[tuple[str, str], bytes] = {
    ("openai_chat", "store"): b"false",
    ("openai_chat", "modalities"): b'["text"]',
    ("openai_chat", "verbosity"): b'"medium"',
    ("anthropic", "speed"): b'"standard"',
    ("openai_responses", "truncation"): b'"disabled"',
    ("openai_responses", "background"): b"false",
    ("openai_responses", "mode"): b'"standard"',
    ("openai_responses", "async"): b"false",
    ("openai_responses.item", "async"): b"false",
    ("openai_responses", "temperature"): b"1",
    ("openai_responses", "top_p"): b"1",
    ("openai_responses", "service_tier"): b'"auto"',
}

# The types of tools that a client offers with every request.
_ALWAYS_OFFERED = {"openai_responses": frozenset({"web_search", "tool_search", "image_generation"})}

# An output limit that asks for nothing: few answers are longer.
_NO_LIMIT = 4_096

_ATTRIBUTION = "x-anthropic-billing-header:"


def is_hint(dialect: str, name: str, value: bytes) -> bool:
    """Whether a field of a dialect, with its value as JSON text, may be left out without a word.

    So may an object that holds nothing else, such as what is left of one that was read.
    """
    if _is_hint(dialect, name, value):
        return True
    if not value.startswith(b"{"):
        return False
    inner_fields = f"{dialect}.{name}" if f"{dialect}.{name}" in _FIELDS else dialect
    return all(_is_hint(inner_fields, inner, bytes(raw)) for inner, raw in _fields_of(value).items())


def is_always_offered(dialect: str, kind: object) -> bool:
    """Whether a tool of this type says nothing about what the client needs."""
    return kind in _ALWAYS_OFFERED.get(dialect, ())


def is_limit(max_tokens: int) -> bool:
    """Whether an output limit is one that an answer would meet."""
    return max_tokens < _NO_LIMIT


def is_attribution(text: str) -> bool:
    """Whether a text of the system prompt is Claude Code's line of attribution."""
    return text.startswith(_ATTRIBUTION)


def _is_hint(dialect: str, name: str, value: bytes) -> bool:
    if value == b"null" or name in _FIELDS.get(dialect, ()):
        return True
    default = _DEFAULTS.get((dialect, name))
    return default is not None and value.replace(b" ", b"").removesuffix(b".0") == default
