"""A small JSON value that fits a JSON schema."""

from __future__ import annotations

from typing import Final, cast

from patchbay_standin.script import JsonObject

_MAX_DEPTH: Final = 20

_FORMATS: Final = {
    "date": "2025-01-01",
    "date-time": "2025-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "hostname": "example.com",
}


def smallest_instance(schema: JsonObject) -> object:
    """A value of the schema: required properties only, shortest arrays and texts, smallest numbers.

    `$ref` into the schema itself, `allOf`, `anyOf` and `oneOf` are followed; `pattern`, `not` and conditions are not.
    """
    return _instance(schema, schema, 0)


def _instance(schema: object, root: JsonObject, depth: int) -> object:
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return None
    schema = _flatten(schema, root, depth)
    if "const" in schema:
        return schema["const"]
    for key in ("enum", "examples"):
        values = schema.get(key)
        if isinstance(values, list) and values:
            return values[0]
    if "default" in schema:
        return schema["default"]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((entry for entry in kind if entry != "null"), "null")
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    match kind:
        case "object":
            return _object(schema, root, depth)
        case "array":
            return [_instance(schema.get("items", {}), root, depth + 1) for _ in range(_number(schema, "minItems", 0))]
        case "string":
            text = _FORMATS.get(str(schema.get("format")), "text")
            return text.ljust(_number(schema, "minLength", 0), "x")[: _number(schema, "maxLength", len(text) + 10_000)]
        case "integer":
            low = schema.get("exclusiveMinimum")
            return int(low) + 1 if isinstance(low, int | float) else _number(schema, "minimum", 0)
        case "number":
            low = schema.get("exclusiveMinimum")
            return low + 1 if isinstance(low, int | float) else schema.get("minimum", 0)
        case "boolean":
            return True
        case _:
            return None


def _object(schema: JsonObject, root: JsonObject, depth: int) -> JsonObject:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return {}
    required = schema.get("required")
    names = required if isinstance(required, list) else []
    return {name: _instance(properties.get(name, {}), root, depth + 1) for name in names}


def _flatten(schema: JsonObject, root: JsonObject, depth: int) -> JsonObject:
    """The schema with `$ref` resolved, `allOf` merged and the first alternative taken."""
    reference = schema.get("$ref")
    if isinstance(reference, str):
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return _flatten({**_resolve(reference, root), **rest}, root, depth + 1) if depth <= _MAX_DEPTH else {}
    parts = schema.get("allOf")
    alternatives = next((schema[key] for key in ("anyOf", "oneOf") if key in schema), None)
    chosen = list(parts) if isinstance(parts, list) else []
    if isinstance(alternatives, list) and alternatives:
        chosen.append(alternatives[0])
    merged = {key: value for key, value in schema.items() if key not in ("allOf", "anyOf", "oneOf")}
    for part in chosen:
        if isinstance(part, dict):
            merged = _merge(merged, _flatten(part, root, depth + 1))
    return merged


def _merge(left: JsonObject, right: JsonObject) -> JsonObject:
    merged = {**left, **right}
    for key in ("properties", "required"):
        if key in left and key in right:
            one, other = left[key], right[key]
            if isinstance(one, dict) and isinstance(other, dict):
                merged[key] = {**one, **other}
            elif isinstance(one, list) and isinstance(other, list):
                merged[key] = [*one, *(entry for entry in other if entry not in one)]
    return merged


def _resolve(reference: str, root: JsonObject) -> JsonObject:
    node: object = root
    for step in reference.removeprefix("#").split("/"):
        if step and isinstance(node, dict):
            node = node.get(step.replace("~1", "/").replace("~0", "~"))
    return cast(JsonObject, node) if isinstance(node, dict) else {}


def _number(schema: JsonObject, key: str, default: int) -> int:
    value = schema.get(key)
    return int(value) if isinstance(value, int | float) else default
