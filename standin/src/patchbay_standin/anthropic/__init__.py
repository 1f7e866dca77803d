"""The Anthropic Messages API: https://docs.anthropic.com/en/api/messages"""

from __future__ import annotations

from patchbay_standin.anthropic.wire import AnthropicWire

__all__ = ["AnthropicWire"]
