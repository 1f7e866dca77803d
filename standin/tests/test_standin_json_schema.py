from __future__ import annotations

from typing import Any

import pytest

from patchbay_standin.json_schema import smallest_instance

CASES: list[tuple[dict[str, Any], object]] = [
    ({}, "text"),
    ({"type": "string"}, "text"),
    ({"type": "string", "minLength": 6}, "textxx"),
    ({"type": "string", "maxLength": 2}, "te"),
    ({"type": "string", "format": "date"}, "2025-01-01"),
    ({"type": "integer"}, 0),
    ({"type": "integer", "minimum": 5}, 5),
    ({"type": "integer", "exclusiveMinimum": 5}, 6),
    ({"type": "number", "minimum": 0.5}, 0.5),
    ({"type": "boolean"}, True),
    ({"type": "null"}, None),
    ({"type": ["null", "integer"]}, 0),
    ({"enum": ["b", "a"]}, "b"),
    ({"const": 3}, 3),
    ({"default": [1]}, [1]),
    ({"type": "array", "items": {"type": "integer"}}, []),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [0, 0]),
    ({"type": "object"}, {}),
    ({"properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}, {"a": 0}),
    ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, 0),
    (
        {
            "allOf": [
                {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                {"properties": {"b": {"type": "null"}}, "required": ["b"]},
            ]
        },
        {"a": 0, "b": None},
    ),
    (
        {
            "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
            "type": "object",
            "properties": {"at": {"$ref": "#/$defs/point"}},
            "required": ["at"],
        },
        {"at": {"x": 0}},
    ),
]


@pytest.mark.parametrize(("schema", "instance"), CASES)
def test_smallest_instance(schema: dict[str, Any], instance: object) -> None:
    assert smallest_instance(schema) == instance


def test_a_schema_of_itself_ends() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert isinstance(smallest_instance(schema), dict)
    assert smallest_instance({"$ref": "#"}) == "text"
