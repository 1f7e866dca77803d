"""Schemas that the Messages API is to enforce, in answers and in strict tools, made to fit what it can enforce.

Rules: https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations
"""

from __future__ import annotations

import msgspec

from patchbay.dialects.tool_schemas import schemas_in

# Constraints that a request is refused for.
_REFUSED = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
)
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")


def enforceable(schema: str) -> tuple[str, list[str]]:
    """The schema as the API takes it, and which of its constraints had to go; a schema that fits keeps its bytes.

    Objects are closed: that allows nothing that the schema forbids.

    Raises:
        msgspec.DecodeError: It is not JSON.
    """
    document = msgspec.json.decode(schema)
    dropped: dict[str, None] = {}
    changed = False
    for inner in schemas_in(document):
        # As the value of an enumeration or in the names of properties these words are no constraints.
        gone = [name for name in _REFUSED if name in inner and not isinstance(inner[name], dict)]
        if inner.get("minItems", 0) not in (0, 1):
            gone.append("minItems")
        if isinstance(inner.get("format"), str) and inner["format"] not in _FORMATS:
            gone.append("format")
        for name in gone:
            del inner[name]
            dropped[name] = None
        is_object = inner.get("type") == "object" or "properties" in inner
        is_open = is_object and inner.get("additionalProperties") is not False
        if is_open:
            if inner.get("additionalProperties"):
                dropped["additionalProperties"] = None
            inner["additionalProperties"] = False
        if "oneOf" in inner and "anyOf" not in inner:
            inner["anyOf"] = inner.pop("oneOf")
            is_open = True
        changed = changed or is_open or bool(gone)
    return (msgspec.json.encode(document).decode() if changed else schema), list(dropped)
