"""Checks values by JSON schemas, both of which anyone may have sent: in bounded time, and without fetching anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import msgspec
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import ValidationError  # type: ignore[import-untyped]
from jsonschema.validators import extend  # type: ignore[import-untyped]
from referencing import Registry
from referencing.exceptions import Unresolvable

from patchbay_codebuff_ws.ports import JsonObject


class _TakesTooLong(Exception):
    """A check has had its time."""


# Schemas are the clients' own, and so may values be. A few lines of schema can ask for more checks than anyone can wait
# for, and all other prompts of the replica would wait along. Time of this thread: on a busy machine it is no less.
_CHECK_SECONDS = 0.3
_check_ends: ContextVar[float] = ContextVar("check_ends")


def _timed(check: Callable[..., Any]) -> Callable[..., Any]:
    """A keyword's check, as long as there is time for it."""

    def checked(validator: Any, wanted: Any, instance: Any, schema: Any) -> Any:
        if time.thread_time() > _check_ends.get():
            raise _TakesTooLong
        return check(validator, wanted, instance, schema)

    return checked


def _nothing(*_: Any) -> tuple[()]:
    return ()


def _additional(validator: Any, allowed: Any, instance: Any, schema: Any) -> Any:
    if "patternProperties" in schema:
        return
    yield from Draft202012Validator.VALIDATORS["additionalProperties"](validator, allowed, instance, schema)


def _unique(validator: Any, wanted: Any, instance: Any, schema: Any) -> Any:
    """In one pass: the library compares each item with each other one."""
    if wanted and validator.is_type(instance, "array"):
        items = [msgspec.json.encode(item, order="deterministic") for item in instance]
        if len(set(items)) < len(items):
            yield ValidationError("has items that are the same")


_KEYWORDS: Mapping[str, Callable[..., Any]] = {
    **Draft202012Validator.VALIDATORS,
    # A regular expression may take for ever: none is tried.
    "pattern": _nothing,
    "patternProperties": _nothing,
    "additionalProperties": _additional,
    # What is left of a value, by all that a schema refers to, is found by the library without a look at the time.
    "unevaluatedProperties": _nothing,
    "unevaluatedItems": _nothing,
    "uniqueItems": _unique,
}
_Validator = extend(Draft202012Validator, {keyword: _timed(check) for keyword, check in _KEYWORDS.items()})
_evolve = _Validator.evolve


def _evolved(validator: Any, **changes: Any) -> Any:
    """The validator of a part. One that names a draft would be given the library's checks of that draft."""
    schema = changes.get("schema", validator.schema)
    if isinstance(schema, Mapping) and "$schema" in schema:
        changes["schema"] = {name: value for name, value in schema.items() if name != "$schema"}
    return _evolve(validator, **changes)


_Validator.evolve = _evolved
_MAX_PROBLEMS = 5


def problems_of(value: object, schema: JsonObject) -> str:
    """What is wrong with a value by a JSON schema, for a model to read; empty: nothing.

    A schema that cannot be read, not in time either, or that refers to another place, forbids nothing.
    """
    if not _is_schema(schema):
        return ""
    # An empty registry: nothing that a schema refers to is fetched.
    validator = _Validator(schema, registry=Registry())
    _check_ends.set(time.thread_time() + _CHECK_SECONDS)
    try:
        found = [
            f"{'.'.join(map(str, error.absolute_path)) or 'input'}: {error.message[:300]}"
            for error, _ in zip(validator.iter_errors(value), range(_MAX_PROBLEMS), strict=False)
        ]
    except _TakesTooLong:
        return "input: it takes too long to check: make it smaller"
    except (Unresolvable, RecursionError, ValueError, TypeError):
        return ""
    return "; ".join(found)


def _is_schema(schema: JsonObject) -> bool:
    _check_ends.set(time.thread_time() + _CHECK_SECONDS)
    try:
        return bool(_Validator(Draft202012Validator.META_SCHEMA).is_valid(schema))
    except (_TakesTooLong, RecursionError):
        return False
