"""The ChatGPT backend that Codex uses: the Responses API with rules of its own, quotas, and accounts."""

from __future__ import annotations

from patchbay_standin.chatgpt.call import ChatGptCall
from patchbay_standin.chatgpt.endpoints import PREFIX, ChatGptEndpoints

__all__ = ["PREFIX", "ChatGptCall", "ChatGptEndpoints"]
