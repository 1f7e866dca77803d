"""The API's words for a value that it does not take."""

from __future__ import annotations

from collections.abc import Sequence

from patchbay_standin.errors import ProviderError, invalid_request
from patchbay_standin.script import JsonObject


def missing(param: str) -> ProviderError:
    """A required field is not there."""
    return invalid_request(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def unknown(param: str) -> ProviderError:
    """A field that the API does not have."""
    return invalid_request(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")


def wrong_type(param: str, wanted: str, value: object) -> ProviderError:
    """A field of the wrong type."""
    got = _word(value)
    return invalid_request(
        f"Invalid type for '{param}': expected {wanted}, but got {got} instead.", param=param, code="invalid_type"
    )


def invalid_value(param: str, value: object, supported: Sequence[str]) -> ProviderError:
    """A value that is none of those supported."""
    names = [f"'{name}'" for name in supported]
    listing = names[0] if len(names) == 1 else f"{', '.join(names[:-1])}, and {names[-1]}"
    return invalid_request(
        f"Invalid value: '{value}'. Supported values are: {listing}.", param=param, code="invalid_value"
    )


def listed(param: str, value: str | None, supported: Sequence[str]) -> None:
    """Refuses a value that is none of those supported."""
    if value is not None and value not in supported:
        raise invalid_value(param, value, supported)


def bounded(param: str, value: float | None, *, low: float, high: float | None = None) -> None:
    """Refuses a number out of its bounds."""
    if value is None or (value >= low and (high is None or value <= high)):
        return
    below = value < low
    kind = "integer" if isinstance(value, int) else "decimal"
    raise invalid_request(
        f"Invalid '{param}': {kind} {'below minimum' if below else 'above maximum'} value. Expected a value"
        f" {'>=' if below else '<='} {low if below else high}, but got {value:g} instead.",
        param=param,
        code=f"{kind}_{'below_min' if below else 'above_max'}_value",
    )


def sized(param: str, value: str, longest: int) -> None:
    """Refuses a text that is empty or too long."""
    if not value:
        raise invalid_request(
            f"Invalid '{param}': empty string. Expected a string with minimum length 1, but got an empty string"
            " instead.",
            param=param,
            code="empty_string",
        )
    if len(value) > longest:
        raise invalid_request(
            f"Invalid '{param}': string too long. Expected a string with maximum length {longest}, but got a string"
            f" with length {len(value)} instead.",
            param=param,
            code="string_above_max_length",
        )


def text_field(value: JsonObject, name: str, path: str) -> str:
    """A field that must be there, and a text."""
    found = value.get(name)
    if found is None:
        raise missing(f"{path}.{name}")
    if not isinstance(found, str):
        raise wrong_type(f"{path}.{name}", "a string", found)
    return found


def list_field(value: JsonObject, name: str, path: str) -> list[JsonObject]:
    """A field that must be there, and a list of objects."""
    found = value.get(name)
    if found is None:
        raise missing(f"{path}.{name}")
    if not isinstance(found, list):
        raise wrong_type(f"{path}.{name}", "an array of objects", found)
    for index, entry in enumerate(found):
        if not isinstance(entry, dict):
            raise wrong_type(f"{path}.{name}[{index}]", "an object", entry)
    return found


def _word(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
