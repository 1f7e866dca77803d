"""Token counts, to and from the `usage` of OpenAI's dialects.

There the prompt's count has every token of it; the canonical one leaves out those read from or written to a cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from patchbay.canonical import Usage
from patchbay.dialects.json_text import Object, add_missing, dump, dump_object, load_object, object_text

_NULL = b"null"


@dataclass(frozen=True, slots=True)
class UsageFields:
    """One dialect's names for the counts."""

    dialect: str
    prompt: str
    output: str
    # Whether clients of the dialect want every detail to be there.
    all_details: bool = False

    def read(self, raw: bytes) -> Usage | None:
        """Reads a server's `usage`; None when it is not an object, or says nothing."""
        try:
            usage = self._read(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return usage if usage.ByteSize() else None

    def _read(self, raw: bytes) -> Usage:
        fields = load_object(raw)
        prompt_details = _details(fields, self._prompt_details)
        output_details = _details(fields, self._output_details)
        usage = Usage()
        prompt = _count(fields, self.prompt)
        output = _count(fields, self.output)
        total = _count(fields, "total_tokens")
        cached = _count(prompt_details, "cached_tokens")
        if cached is None:
            # DeepSeek: https://api-docs.deepseek.com/guides/kv_cache
            cached = _peek(fields, "prompt_cache_hit_tokens")
        written = _count(prompt_details, "cache_write_tokens")
        reasoning = _count(output_details, "reasoning_tokens")
        if prompt is not None:
            usage.input_tokens = max(0, prompt - (cached or 0) - (written or 0))
        if cached is not None:
            usage.cache_read_tokens = cached
        if written is not None:
            usage.cache_write_tokens = written
        if output is not None:
            usage.output_tokens = output
        if reasoning is not None:
            usage.reasoning_tokens = reasoning
        if total is not None and total != (prompt or 0) + (output or 0):
            # Gemini's total has the thinking that its other counts leave out.
            fields["total_tokens"] = dump(total)
        for name, details in ((self._prompt_details, prompt_details), (self._output_details, output_details)):
            if details:
                fields[name] = dump_object(details)
        if fields:
            usage.extensions[self.dialect] = object_text(fields)
        return usage

    def write(self, usage: Usage) -> bytes:
        """Writes the counts as a `usage` object; what nobody counted is 0."""
        prompt = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        prompt_details: Object = {"cached_tokens": dump(usage.cache_read_tokens)}
        if self.all_details or usage.HasField("cache_write_tokens"):
            prompt_details["cache_write_tokens"] = dump(usage.cache_write_tokens)
        own = load_object(usage.extensions[self.dialect]) if self.dialect in usage.extensions else {}
        fields: Object = {
            self.prompt: dump(prompt),
            self.output: dump(usage.output_tokens),
            "total_tokens": own.pop("total_tokens", dump(prompt + usage.output_tokens)),
            self._prompt_details: dump_object(prompt_details),
            self._output_details: dump_object({"reasoning_tokens": dump(usage.reasoning_tokens)}),
        }
        add_missing(fields, own)
        return dump_object(fields)

    @property
    def _prompt_details(self) -> str:
        return self.prompt + "_details"

    @property
    def _output_details(self) -> str:
        return self.output + "_details"


def _details(fields: Object, name: str) -> Object:
    value = fields.pop(name, _NULL)
    return {} if value == _NULL else load_object(value)


def _count(fields: Object, name: str) -> int | None:
    """Takes a count out of the fields. One that is not a whole number stays there."""
    count = _peek(fields, name)
    if count is not None or fields.get(name) == _NULL:
        fields.pop(name)
    return count


def _peek(fields: Object, name: str) -> int | None:
    try:
        number = msgspec.json.decode(fields.get(name, _NULL))
    except msgspec.DecodeError:
        return None
    # A count over 64 bits is none.
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < 2**63:
        return None
    return int(number)
