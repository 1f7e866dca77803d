"""Token counts of the Messages API, to and from canonical ones."""

from __future__ import annotations

import msgspec

from patchbay.canonical import Usage
from patchbay.dialects.anthropic._json import Fields, Object, load_fields, object_text
from patchbay.dialects.anthropic._quirks import NAME

_count = msgspec.json.Decoder(int).decode

_MAX = 2**63


class UsageReader:
    """Reads the usage reports of one answer. Fields that no canonical one covers add up over the reports."""

    def __init__(self) -> None:
        self._rest: Fields = {}

    def read(self, raw: msgspec.Raw) -> Usage | None:
        """The counts of one report; what cannot be read in it is passed over. None: it is no object."""
        fields = _object(raw)
        if fields is None:
            return None
        usage = Usage(
            input_tokens=_take(fields, "input_tokens"),
            cache_read_tokens=_take(fields, "cache_read_input_tokens"),
            cache_write_tokens=_take(fields, "cache_creation_input_tokens"),
            output_tokens=_take(fields, "output_tokens"),
        )
        creation = _object(fields.pop("cache_creation", None))
        if creation is not None:
            hour = _take(creation, "ephemeral_1h_input_tokens")
            minutes = _take(creation, "ephemeral_5m_input_tokens")
            if hour is not None:
                usage.cache_write_1h_tokens = hour
            if not usage.HasField("cache_write_tokens") and (hour is not None or minutes is not None):
                usage.cache_write_tokens = (hour or 0) + (minutes or 0)
        details = _object(fields.pop("output_tokens_details", None))
        if details is not None:
            thinking = _take(details, "thinking_tokens")
            if thinking is not None:
                usage.reasoning_tokens = thinking
        self._rest.update((name, value) for name, value in fields.items() if bytes(value) != b"null")
        if self._rest:
            usage.extensions[NAME] = object_text(self._rest)
        return usage


def usage_object(usage: Usage) -> Object:
    """The counts as the API reports them; counts that are not known are 0, as the API's clients expect numbers."""
    written: Object = {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.HasField("cache_write_1h_tokens"):
        hour = usage.cache_write_1h_tokens
        written["cache_creation"] = {
            "ephemeral_5m_input_tokens": max(0, usage.cache_write_tokens - hour),
            "ephemeral_1h_input_tokens": hour,
        }
    if usage.HasField("reasoning_tokens"):
        written["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    if NAME in usage.extensions:
        written.update(load_fields(usage.extensions[NAME]))
    return written


def _object(raw: msgspec.Raw | None) -> Fields | None:
    if raw is None:
        return None
    try:
        return load_fields(raw)
    except msgspec.ValidationError:
        return None


def _take(fields: Fields, name: str) -> int | None:
    raw = fields.pop(name, None)
    if raw is None:
        return None
    try:
        count = _count(raw)
    except msgspec.ValidationError:
        return None
    return count if 0 <= count < _MAX else None
