"""Checks of the JSON schemas in a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from patchbay_standin.errors import ProviderError, invalid_request
from patchbay_standin.script import JsonObject

_NESTED: Final = ("properties", "$defs", "definitions")


def check_parameters(tool: JsonObject, param: str) -> None:
    """Refuses parameters of a function that are not the schema of an object."""
    schema = tool.get("parameters")
    if schema is None:
        return
    kind = schema.get("type") if isinstance(schema, dict) else None
    if not isinstance(schema, dict) or kind != "object":
        raise _invalid(
            f"function '{tool.get('name')}'",
            f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'.",
            param,
            code="invalid_function_parameters",
        )
    if tool.get("strict"):
        check_strict(schema, f"function '{tool.get('name')}'", param, code="invalid_function_parameters")


def check_strict(schema: JsonObject, what: str, param: str, *, code: str = "invalid_json_schema") -> None:
    """Refuses a schema that a strict format cannot hold to: objects are closed, and all their properties required."""
    for context, entry in _objects(schema, ()):
        if entry.get("additionalProperties") is not False:
            reason = "'additionalProperties' is required to be supplied and to be false."
            raise _invalid(what, f"In context={context}, {reason}", param, code=code)
        properties = entry.get("properties")
        required = entry.get("required")
        names = required if isinstance(required, list) else []
        absent = [name for name in properties if name not in names] if isinstance(properties, dict) else []
        if absent:
            reason = (
                "'required' is required to be supplied and to be an array including every key in properties. Missing"
                f" '{absent[0]}'."
            )
            raise _invalid(what, f"In context={context}, {reason}", param, code=code)


def _objects(schema: object, context: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], JsonObject]]:
    """The schemas of objects in a schema, each with the path to it."""
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "object" or "properties" in schema:
        yield context, schema
    for key in _NESTED:
        inner = schema.get(key)
        if isinstance(inner, dict):
            for name, entry in inner.items():
                yield from _objects(entry, (*context, key, name))
    yield from _objects(schema.get("items"), (*context, "items"))
    for key in ("anyOf", "allOf", "oneOf"):
        alternatives = schema.get(key)
        for index, entry in enumerate(alternatives if isinstance(alternatives, list) else ()):
            yield from _objects(entry, (*context, key, str(index)))


def _invalid(what: str, reason: str, param: str, *, code: str) -> ProviderError:
    return invalid_request(f"Invalid schema for {what}: {reason}", param=param, code=code)
