"""The Response object as far as it repeats the request.

Format: https://platform.openai.com/docs/api-reference/responses/object
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from patchbay.dialects.json_text import Object, add_missing, load_object, one_line

# What a Response says of its request where the request says nothing.
_DEFAULTS: Object = {
    "background": b"false",
    "instructions": b"null",
    "max_output_tokens": b"null",
    "max_tool_calls": b"null",
    "metadata": b"{}",
    "parallel_tool_calls": b"true",
    "previous_response_id": b"null",
    "prompt_cache_key": b"null",
    "reasoning": b'{"effort":null,"summary":null}',
    "safety_identifier": b"null",
    "service_tier": b'"auto"',
    "store": b"true",
    "temperature": b"1.0",
    "text": b'{"format":{"type":"text"}}',
    "tool_choice": b'"auto"',
    "tools": b"[]",
    "top_logprobs": b"0",
    "top_p": b"1.0",
    "truncation": b'"disabled"',
    "user": b"null",
}

# The fields of a request that its Response repeats. A conversation or a prompt it names in a form of its own.
ECHOED = frozenset(_DEFAULTS) | {"prompt_cache_retention"}


def echo_of(body: bytes) -> dict[str, bytes]:
    """The fields of a request's body that its Response repeats, for `AnswerOptions.echo`; none if it is no object."""
    try:
        return {name: value for name, value in load_object(body).items() if name in ECHOED and value != b"null"}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def echoed(echo: Mapping[str, bytes]) -> Object:
    """The fields of a Response that repeat its request, those that the request lacks with their defaults."""
    fields = {name: one_line(value) for name, value in echo.items() if name in ECHOED}
    add_missing(fields, _DEFAULTS)
    return fields
