"""What a custom tool's input must look like: with a level more here than in the Responses API, as which it travels."""

from __future__ import annotations

from patchbay.dialects.json_text import Object, dump_object, load_object, object_text
from patchbay.dialects.openai_fields import Fields

_GRAMMAR = "grammar"


def read_format(fields: Fields) -> str:
    """The format as a JSON object of the Responses API.

    Raises:
        InvalidRequest: When its `grammar` is no object.
    """
    grammar = fields.object(_GRAMMAR)
    return object_text(fields.rest() | (grammar.rest() if grammar is not None else {}))


def write_format(text: str) -> bytes:
    """The format as a JSON object of Chat Completions.

    Raises:
        msgspec.DecodeError: When it is not a JSON object.
    """
    fields = load_object(text)
    if fields.get("type") != b'"grammar"':
        return dump_object(fields)
    written: Object = {"type": fields.pop("type")}
    return dump_object(written | {_GRAMMAR: dump_object(fields)})
