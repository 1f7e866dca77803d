"""What Anthropic models and servers of the Messages API differ in.

Sources: https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking (and `effort`, `extended-thinking`,
`mid-conversation-system-messages` beside it), https://platform.claude.com/docs/en/about-claude/models/migration-guide
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

NAME = "anthropic"

# claude-3-7-sonnet-20250219, claude-opus-4-20250514, us.anthropic.claude-opus-4-6-v1, anthropic/claude-4.5-sonnet
_VERSION = re.compile(r"claude(?:-[a-z]+)?-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_NEWEST = (99, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFeatures:
    """What a model accepts in a request; the rest is translated, or dropped with a warning."""

    # `thinking.type: enabled` with `budget_tokens`.
    budget_thinking: bool = True
    # `thinking.type: adaptive`.
    adaptive_thinking: bool = False
    # Thinks although the request does not say `thinking`.
    thinks_by_default: bool = False
    # `thinking.type: disabled`.
    disabled_thinking: bool = True
    # Values of `output_config.effort`, lowest first.
    efforts: tuple[str, ...] = ()
    # `temperature`, `top_p`, `top_k`.
    sampling: bool = True
    # `temperature` and `top_p` in one request.
    temperature_with_top_p: bool = True
    # Messages of role `system` after the first user turn.
    system_messages: bool = False
    # `output_config.format`, and `strict` tools.
    structured_outputs: bool = True


def features_of(model: str) -> ModelFeatures:
    """What a model accepts, by its name.

    A Claude model whose name has no version is taken for the newest. Models of other makers, behind their own servers
    of the Messages API, are taken to accept what that API accepted before adaptive thinking.
    """
    name = model.lower()
    if "claude" not in name:
        return ModelFeatures()
    match = _VERSION.search(name)
    version = (int(match[1]), int(match[2] or 0)) if match else _NEWEST
    return ModelFeatures(
        budget_thinking=(3, 7) <= version <= (4, 6),
        adaptive_thinking=version >= (4, 6),
        thinks_by_default=version >= (5, 0),
        disabled_thinking="fable" not in name and "mythos" not in name,
        efforts=_efforts(name, version),
        sampling=version < (4, 7),
        temperature_with_top_p=version < (4, 1),
        system_messages=version >= (4, 8) and not ("sonnet" in name and version == (5, 0)),
        structured_outputs=version >= (4, 5) or ("opus" in name and version == (4, 1)),
    )


def _efforts(name: str, version: tuple[int, int]) -> tuple[str, ...]:
    if version >= (4, 7):
        return ("low", "medium", "high", "xhigh", "max")
    if version == (4, 6):
        return ("low", "medium", "high", "max")
    return ("low", "medium", "high") if version == (4, 5) and "opus" in name else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnthropicQuirks:
    """How a server of the Messages API differs from Anthropic's own."""

    # Sent when the client gave no limit, which the API requires: the most that every current Claude model takes.
    default_max_tokens: int = 32_000
    # What the model that is asked for accepts.
    features: Callable[[str], ModelFeatures] = features_of
    # Ask the provider to cache prompts that have no cache mark of their own, as prompts of OpenAI clients never have.
    # Off: writing to the cache costs more than plain input.
    automatic_caching: bool = False
