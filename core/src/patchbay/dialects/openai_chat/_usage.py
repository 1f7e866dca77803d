"""Token counts, to and from Chat Completions' `usage`."""

from __future__ import annotations

from patchbay.dialects.openai_chat._quirks import NAME
from patchbay.dialects.openai_usage import UsageFields

_FIELDS = UsageFields(NAME, "prompt_tokens", "completion_tokens")

read_usage = _FIELDS.read
write_usage = _FIELDS.write
