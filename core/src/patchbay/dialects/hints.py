"""What a request says that may be left out without a word.

A warning is for what a client asked of its answer and does not get. Left out, or honoured as nearly as a backend can,
without one are:

- advice on cost, speed and caching: cache marks, and the fields below;
- how much to think: a budget becomes an effort, an effort the nearest one there is, and none at all where the provider
  would refuse it in the middle of a turn;
- what only repeats an earlier answer: thinking (no provider takes another's), citations, and the fields below;
- Claude Code's line of attribution in the system prompt, which is meant for Anthropic and differs from request to
  request, so that no other provider's cache would ever find the prompt again;
- that a tool's result is an error, where a result is a text that says so itself.

Claude Code sends most of these with every request, so that a backend with `strict_parameters` would refuse them all.
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
}

# Fields with a value that asks for what happens anyway.
_DEFAULTS: dict[tuple[str, str], bytes] = {
    ("openai_chat", "store"): b"false",
    ("openai_chat", "modalities"): b'["text"]',
    ("openai_chat", "verbosity"): b'"medium"',
    ("anthropic", "speed"): b'"standard"',
}

_ATTRIBUTION = "x-anthropic-billing-header:"


def is_hint(dialect: str, name: str, value: bytes) -> bool:
    """Whether a field of a dialect, with its value as JSON text, may be left out without a word.

    So may an object that holds nothing else, such as what is left of one that was read.
    """
    if _is_hint(dialect, name, value):
        return True
    if not value.startswith(b"{"):
        return False
    return all(_is_hint(dialect, inner, bytes(raw)) for inner, raw in _fields_of(value).items())


def is_attribution(text: str) -> bool:
    """Whether a text of the system prompt is Claude Code's line of attribution."""
    return text.startswith(_ATTRIBUTION)


def _is_hint(dialect: str, name: str, value: bytes) -> bool:
    if value == b"null" or name in _FIELDS.get(dialect, ()):
        return True
    default = _DEFAULTS.get((dialect, name))
    return default is not None and value.replace(b" ", b"") == default
