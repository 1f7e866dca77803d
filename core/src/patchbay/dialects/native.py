"""A client's own body, without reading all of it: its head for routing, and single top-level fields replaced in place.

The body is bytes throughout and every byte that is not replaced stays as it was, so that a provider's prompt cache and
the signatures inside still hold. Both functions are linear in the body's length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from patchbay.errors import InvalidRequest

# Spellings of a field tried at their first places in the text before every token is looked at.
_GUESSES = 3

_WHITESPACE = b" \t\r\n"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# What changes the depth of a JSON text, or must not be looked into.
_TOKEN = re.compile(_STRING + rb"|[{}\[\]]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What routing and admission need of a request, in any HTTP dialect."""

    model: str
    stream: bool = False
    # OpenAI's `stream_options.include_usage`.
    include_usage: bool = False
    # The end user: Anthropic's `metadata.user_id`, else OpenAI's `user`; empty when the client named none.
    user: str = ""
    # The conversation that the body names: OpenAI's `prompt_cache_key`, or the fields that Codex clients and proxies of
    # theirs use (`session_id`, `conversation_id`, `client_metadata.session_id`); empty: none.
    session: str = ""


class _Head(msgspec.Struct):
    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    stream: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    stream_options: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    user: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    prompt_cache_key: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    session_id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    conversation_id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    client_metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read_head(body: bytes) -> RequestHead:
    """Reads only what routing needs; everything else is left to the dialect, or to the upstream.

    Raises:
        InvalidRequest: When the body is not a JSON object, has no string `model`, or a `stream` that is no boolean.
    """
    try:
        head = _decode_head(body)
        model = _value(head.model)
        stream = _value(head.stream)
        options = _value(head.stream_options)
        metadata = _value(head.metadata)
        user = _value(head.user)
        client = _value(head.client_metadata)
        names = [_value(raw) for raw in (head.prompt_cache_key, head.session_id, head.conversation_id)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(error) from error
    if head.model is msgspec.UNSET:
        raise InvalidRequest("model: Field required", "model")
    if not isinstance(model, str):
        raise InvalidRequest("model: Input should be a valid string", "model")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidRequest("stream: Input should be a valid boolean", "stream")
    user_id = metadata.get("user_id") if isinstance(metadata, dict) else None
    named = user_id if isinstance(user_id, str) and user_id else user
    names.append(client.get("session_id") if isinstance(client, dict) else None)
    return RequestHead(
        model=model,
        stream=bool(stream),
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        user=named if isinstance(named, str) else "",
        session=next((name for name in names if isinstance(name, str) and name), ""),
    )


def set_top_level(body: bytes, fields: Mapping[str, bytes]) -> bytes:
    """Sets top-level fields of a JSON object, leaving every other byte untouched.

    Args:
        body: A JSON object.
        fields: Name -> the field's new value as JSON. A field that is there is replaced in place (of a repeated one the
            last, which is the one that counts); a new one is put right behind the opening brace.

    Raises:
        InvalidRequest: When the body is not a JSON object.
    """
    for name, value in fields.items():
        body = _set_one(body, name, value)
    return body


def _set_one(body: bytes, name: str, value: bytes) -> bytes:
    present = _fields(body)
    if name not in present:
        return _insert(body, name, value, first=not present)
    old = bytes(present[name])
    if old == value:
        return body
    # A decoder tells what the field's value is, not where. The text of the field can only mislead where the same pair
    # of name and value occurs deeper as well, and then the decoder, asked again, still sees the old value.
    # The value is compared rather than made part of the pattern: one of megabytes takes seconds to compile.
    key = re.compile(re.escape(msgspec.json.encode(name)) + rb"\s*:\s*")
    places = (match.end() for match in key.finditer(body) if body.startswith(old, match.end()))
    for _, start in zip(range(_GUESSES), places, strict=False):
        spliced = body[:start] + value + body[start + len(old) :]
        try:
            if bytes(_fields(spliced)[name]) == value:
                return spliced
        except (InvalidRequest, KeyError):
            continue
    start = _value_start(body, name)
    return body[:start] + value + body[start + len(old) :]


def _insert(body: bytes, name: str, value: bytes, *, first: bool) -> bytes:
    at = body.index(b"{") + 1
    return body[:at] + msgspec.json.encode(name) + b":" + value + (b"" if first else b",") + body[at:]


def _value_start(body: bytes, name: str) -> int:
    """Where the value of the last top-level field of this name begins, found by walking every token."""
    found = -1
    for start, end in _top_level_keys(body):
        if msgspec.json.decode(body[start:end]) == name:
            found = _skip(body, _skip(body, end, _WHITESPACE) + 1, _WHITESPACE)
    return found


def _top_level_keys(body: bytes) -> Iterator[tuple[int, int]]:
    depth = 0
    for match in _TOKEN.finditer(body):
        token = body[match.start()]
        if token in b"{[":
            depth += 1
        elif token in b"}]":
            depth -= 1
        elif depth == 1:
            after = _skip(body, match.end(), _WHITESPACE)
            if body[after : after + 1] == b":":
                yield match.span()


def _skip(body: bytes, position: int, characters: bytes) -> int:
    while body[position : position + 1] and body[position] in characters:
        position += 1
    return position


def _fields(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _decode_fields(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(error) from error


def _value(raw: msgspec.Raw | msgspec.UnsetType) -> object:
    return None if raw is msgspec.UNSET else msgspec.json.decode(raw)


def _unreadable(error: Exception) -> InvalidRequest:
    if isinstance(error, msgspec.ValidationError):
        return InvalidRequest("The request body must be a JSON object.")
    if isinstance(error, RecursionError):
        return InvalidRequest("The request body is nested too deeply.")
    return InvalidRequest(f"The request body is not valid JSON: {error}")
