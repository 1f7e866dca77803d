"""Whose signature a piece of thinking has: a provider refuses what another has signed.

A client of the Responses API brings back the `encrypted_content` of reasoning as it came. So it carries what other
providers than OpenAI want back as well, marked, so that OpenAI's servers never get it.
"""

from __future__ import annotations

from patchbay.canonical import Block, RedactedThinking, Thinking

# OpenAI's encrypted reasoning is a Fernet token, all of which begin like this.
_OPENAI = "gAAAA"
_MARK = "patchbay-"
_SIGNED = _MARK + "signed:"
_REDACTED = _MARK + "redacted:"
MARK_IN_JSON = b'"' + _MARK.encode()


def is_openai_made(signature: str) -> bool:
    return signature.startswith(_OPENAI)


def carried_signature(signature: str) -> str:
    """A signature of thinking as `encrypted_content`."""
    return signature if is_openai_made(signature) else _SIGNED + signature


def carried_redacted(data: str) -> str:
    """Redacted thinking as `encrypted_content`."""
    return _REDACTED + data


def is_carried(encrypted_content: str) -> bool:
    """Whether it is another provider's than OpenAI's."""
    return encrypted_content.startswith(_MARK)


def carried_thinking(encrypted_content: str, text: str) -> Block:
    """The thinking that came with an `encrypted_content`; empty: with none.

    What is neither OpenAI's nor marked by us is a compatible server's own, and a signature to no other provider.
    """
    if encrypted_content.startswith(_REDACTED):
        return Block(redacted_thinking=RedactedThinking(data=encrypted_content.removeprefix(_REDACTED)))
    thinking = Thinking(text=text)
    if encrypted_content.startswith(_SIGNED) or is_openai_made(encrypted_content):
        thinking.signature = encrypted_content.removeprefix(_SIGNED)
    return Block(thinking=thinking)
