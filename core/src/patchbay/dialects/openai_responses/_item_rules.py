"""What a server takes of a request that was written for another, or by an older client."""

from __future__ import annotations

import msgspec

from patchbay.dialects.hints import is_hint, is_limit
from patchbay.dialects.json_text import Object, dump
from patchbay.dialects.openai_responses._quirks import NAME, OpenAIResponsesQuirks

# Item type -> how the ids of such items begin.
_ID_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fc",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctc",
}
MESSAGE_METADATA = "internal_chat_message_metadata_passthrough"


def fit_fields(fields: Object, kind: str, quirks: OpenAIResponsesQuirks, *, keeps_ids: bool = False) -> bool:
    """Takes out, or changes, the fields of an item that the server would refuse it for; whether there were any.

    Args:
        keeps_ids: Whether the item's id is the client's to get right.
    """
    before = len(fields)
    if "id" in fields and not keeps_ids and not _may_be_id(fields["id"], kind, quirks):
        del fields["id"]
    if not quirks.message_metadata:
        fields.pop(MESSAGE_METADATA, None)
    changed = len(fields) != before
    if fields.get("role") == b'"system"' and not quirks.system_role:
        fields["role"] = b'"developer"'
        changed = True
    return changed


def fit_schema(schema: Object, quirks: OpenAIResponsesQuirks) -> bool:
    """The same for the schema of a tool's input."""
    refused = quirks.unsupported_schema_fields & schema.keys()
    for name in refused:
        del schema[name]
    return bool(refused)


def is_missed(name: str, value: bytes) -> bool:
    """Whether a field of the request asked for something, so that it is not to be left out without a word."""
    if name == "max_output_tokens" and value.isdigit():
        return is_limit(int(value))
    return not is_hint(NAME, name, value)


def fit_tier(tier: str, quirks: OpenAIResponsesQuirks) -> str | None:
    """The service tier in the server's words; None: it has none for it."""
    if quirks.service_tiers is None or tier in quirks.service_tiers:
        return tier
    return "priority" if tier == "fast" and "priority" in quirks.service_tiers else None


def fit_tool_type(kind: bytes, quirks: OpenAIResponsesQuirks) -> bytes:
    """The `type` of a hosted tool, a JSON text, as the server calls it."""
    if kind.startswith(b'"web_search_preview') and not quirks.web_search_preview:
        return dump("web_search")
    return kind


def _may_be_id(value: bytes, kind: str, quirks: OpenAIResponsesQuirks) -> bool:
    if not value.startswith(b'"'):
        return False
    item_id = msgspec.json.decode(value, type=str)
    return len(item_id) <= quirks.max_item_id and item_id.startswith(_ID_PREFIXES.get(kind, ""))
