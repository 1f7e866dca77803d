"""Whose signature a piece of thinking has: a provider refuses what another has signed."""

from __future__ import annotations

# OpenAI's encrypted reasoning is a Fernet token, all of which begin like this.
_OPENAI = "gAAAA"


def is_openai_made(signature: str) -> bool:
    return signature.startswith(_OPENAI)
