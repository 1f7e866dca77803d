"""Token counts, to and from the `usage` of the Responses API."""

from __future__ import annotations

from patchbay.dialects.openai_responses._quirks import NAME
from patchbay.dialects.openai_usage import UsageFields

# The Codex CLI and typed clients fail on a usage report that lacks a detail.
_FIELDS = UsageFields(NAME, "input_tokens", "output_tokens", all_details=True)

read_usage = _FIELDS.read
write_usage = _FIELDS.write
