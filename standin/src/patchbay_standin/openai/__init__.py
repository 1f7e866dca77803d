"""The OpenAI Chat Completions API: https://platform.openai.com/docs/api-reference/chat"""

from __future__ import annotations

from patchbay_standin.openai.codebuddy import CodeBuddyWire
from patchbay_standin.openai.wire import OpenAIWire

__all__ = ["CodeBuddyWire", "OpenAIWire"]
