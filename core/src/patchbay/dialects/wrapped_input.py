"""Free text that a tool is asked for as an object, for upstreams whose tools take nothing else."""

from __future__ import annotations

import msgspec

# The one property of the object that a wrapped tool's input is.
WRAPPED_FIELD = "input"


def unwrapped_input(text: str) -> str:
    """The text inside a whole input; an input that is no such object is the text itself."""
    try:
        fields = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        return text
    value = fields.get(WRAPPED_FIELD)
    return value if isinstance(value, str) and len(fields) == 1 else text
