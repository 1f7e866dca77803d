"""JSON schemas of tools and answers, made to fit the rules of providers that are stricter than JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from patchbay.dialects.native import set_top_level

_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

# Where a schema holds other schemas: one, a list of them, or one for each name.
_ONE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "$defs", "definitions", "patternProperties")


def as_object_schema(schema: str, *, with_properties: bool) -> bytes:
    """The schema of a tool's input as one of an object, which providers require; else its very bytes.

    Args:
        with_properties: Whether an object without any must say so: OpenAI refuses a bare `{"type":"object"}`.

    Raises:
        msgspec.DecodeError: It is not a JSON object.
    """
    body = schema.encode() or b"{}"
    fields = _fields_of(body)
    missing: dict[str, bytes] = {}
    if with_properties and "properties" not in fields and not fields.keys() & {"$ref", *_LISTS}:
        missing["properties"] = b"{}"
    if "type" not in fields:
        missing["type"] = b'"object"'
    return set_top_level(body, missing) if missing else body


def schemas_in(schema: object) -> Iterator[dict[str, object]]:
    """The schema and every schema inside it."""
    waiting = [schema]
    while waiting:
        found = waiting.pop()
        if not isinstance(found, dict):
            continue
        yield found
        waiting += [found[name] for name in _ONE if name in found]
        for name in _LISTS:
            inner = found.get(name)
            waiting += inner if isinstance(inner, list) else []
        for name in _NAMED:
            inner = found.get(name)
            waiting += inner.values() if isinstance(inner, dict) else []


def is_closed(schema: str) -> bool:
    """Whether every object in the schema has all of its properties required and no others allowed.

    OpenAI's `strict` asks for that: https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
    """
    for inner in schemas_in(msgspec.json.decode(schema)):
        properties = inner.get("properties")
        if properties is None and inner.get("type") != "object":
            continue
        required = inner.get("required", [])
        names = set(properties) if isinstance(properties, dict) else set()
        if inner.get("additionalProperties") is not False or not isinstance(required, list) or names - set(required):
            return False
    return True
