"""Answers, streams and errors of the Messages API.

Stream: https://docs.anthropic.com/en/docs/build-with-claude/streaming
Errors: https://docs.anthropic.com/en/api/errors
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from patchbay_standin.answer import Answer, Part
from patchbay_standin.anthropic.request import read_request
from patchbay_standin.errors import ProviderError
from patchbay_standin.exchange import Headers
from patchbay_standin.prompt import Prompt
from patchbay_standin.script import JsonObject, Script
from patchbay_standin.wire import EVENT_STREAM, Frame

_encode = msgspec.json.Encoder().encode

_ERROR_TYPES: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_PING: Final = b'event: ping\ndata: {"type": "ping"}\n\n'
_MESSAGE_STOP: Final = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

# The delta that carries a part's content: its type, and the field that holds the piece.
_DELTAS: Final[Mapping[str, tuple[str, str]]] = {
    "text": ("text_delta", "text"),
    "refusal": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_call": ("input_json_delta", "partial_json"),
    "server_tool_use": ("input_json_delta", "partial_json"),
}


def request_id(number: int) -> str:
    """The `request-id` of the request with this number."""
    return f"req_standin{number:016d}"


def _frame(event: str, data: JsonObject) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event.encode(), _encode(data))


class AnthropicWire:
    """The Messages API."""

    name = "anthropic"
    keepalive = _PING
    call_prefix = "toolu_"
    stream_type = EVENT_STREAM
    reads_compressed = False

    def no_such_model(self, model: str) -> ProviderError:
        """What the API says."""
        return ProviderError(status=404, message=f"model: {model}")

    def authenticate(self, headers: Mapping[bytes, bytes]) -> None:
        """Any key will do, but there must be one, and a version."""
        if not headers.get(b"x-api-key") and not headers.get(b"authorization"):
            raise ProviderError(status=401, message="x-api-key header is required")
        if not headers.get(b"anthropic-version"):
            raise ProviderError(status=400, message="anthropic-version: header is required")

    def read(self, body: bytes) -> Prompt:
        """Reads the body of `POST /v1/messages`."""
        return read_request(body)

    def headers(self, number: int) -> Headers:
        """Request id and rate limits."""
        reset = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
        stamp = reset.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
        return [
            (b"request-id", request_id(number).encode()),
            (b"anthropic-organization-id", b"00000000-0000-4000-8000-000000000000"),
            *((name, stamp if value is None else value) for name, value in _LIMITS),
        ]

    def frames(self, answer: Answer, prompt: Prompt, script: Script) -> Iterator[Frame]:
        """The events of a streamed message."""
        yield Frame(_frame("message_start", {"type": "message_start", "message": self._message(answer, start=True)}))
        index = 0
        for part in answer.parts:
            for block, events in _streamed_blocks(part, index):
                yield Frame(
                    _frame(
                        "content_block_start", {"type": "content_block_start", "index": index, "content_block": block}
                    )
                )
                if index == 0:
                    yield Frame(_PING)
                yield from events
                yield Frame(_frame("content_block_stop", {"type": "content_block_stop", "index": index}))
                index += 1
        delta: JsonObject = {"stop_reason": answer.stop_reason, "stop_sequence": answer.stop_sequence}
        if answer.stop_reason == "refusal":
            delta["stop_details"] = _REFUSAL_DETAILS
        yield Frame(_frame("message_delta", {"type": "message_delta", "delta": delta, "usage": _final_usage(answer)}))
        yield Frame(_MESSAGE_STOP)

    def body(self, answer: Answer, prompt: Prompt, script: Script) -> bytes:
        """The message as one JSON object."""
        return _encode(self._message(answer, start=False))

    def error_body(self, error: ProviderError, number: int) -> bytes:
        """`{"type": "error", "error": {...}, "request_id": ...}`"""
        return _encode(
            {
                "type": "error",
                "error": {"type": error.type or error_type(error.status), "message": error.message},
                "request_id": request_id(number),
            }
        )

    def error_frame(self, error: ProviderError, number: int) -> bytes:
        """The `error` event."""
        return b"event: error\ndata: %b\n\n" % self.error_body(error, number)

    def _message(self, answer: Answer, *, start: bool) -> JsonObject:
        usage = answer.usage
        counts: JsonObject = {
            "input_tokens": usage.input - usage.cache_read - usage.cache_write,
            "cache_creation_input_tokens": usage.cache_write,
            "cache_read_input_tokens": usage.cache_read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": usage.cache_write,
                "ephemeral_1h_input_tokens": 0,
            },
            "output_tokens": 1 if start else usage.output,
            "service_tier": "standard",
        }
        message: JsonObject = {
            "id": f"msg_standin{answer.number:016d}",
            "type": "message",
            "role": "assistant",
            "model": answer.model,
            "content": [] if start else [block for part in answer.parts for block in _whole_blocks(part)],
            "stop_reason": None if start else answer.stop_reason,
            "stop_sequence": None if start else answer.stop_sequence,
            "usage": counts,
        }
        if not start:
            _add_output_details(counts, answer)
            if answer.stop_reason == "refusal":
                message["stop_details"] = _REFUSAL_DETAILS
        return message


_REFUSAL_DETAILS: Final[JsonObject] = {"type": "refusal", "category": None, "explanation": None}


def error_type(status: int) -> str:
    """The API's error type for a status."""
    return _ERROR_TYPES.get(status) or ("invalid_request_error" if 400 <= status < 500 else "api_error")


def _limit_headers() -> Iterator[tuple[bytes, bytes | None]]:
    limits = (("requests", 4000), ("tokens", 480_000), ("input-tokens", 400_000), ("output-tokens", 80_000))
    for name, limit in limits:
        stem = f"anthropic-ratelimit-{name}"
        yield f"{stem}-limit".encode(), str(limit).encode()
        yield f"{stem}-remaining".encode(), str(limit - 1).encode()
        yield f"{stem}-reset".encode(), None


# None: the time of the next reset.
_LIMITS: Final = tuple(_limit_headers())


def _final_usage(answer: Answer) -> JsonObject:
    usage = answer.usage
    counts: JsonObject = {
        "input_tokens": usage.input - usage.cache_read - usage.cache_write,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output,
    }
    _add_output_details(counts, answer)
    return counts


def _add_output_details(counts: JsonObject, answer: Answer) -> None:
    if answer.usage.reasoning:
        counts["output_tokens_details"] = {"thinking_tokens": answer.usage.reasoning}
    searches = sum(part.kind == "server_tool_use" and part.name == "web_search" for part in answer.parts)
    if searches:
        counts["server_tool_use"] = {"web_search_requests": searches, "web_fetch_requests": 0}


def _streamed_blocks(part: Part, index: int) -> Iterator[tuple[JsonObject, Iterator[Frame]]]:
    """The blocks of a part: each as it starts, and the events that fill it."""
    match part.kind:
        case "text" | "refusal":
            start: JsonObject = {"type": "text", "text": ""}
            if part.citations:
                start["citations"] = []
            yield start, _deltas(part, index)
        case "thinking":
            yield {"type": "thinking", "thinking": "", "signature": ""}, _deltas(part, index)
        case "redacted_thinking":
            yield {"type": "redacted_thinking", "data": part.data}, iter(())
        case "tool_call":
            yield {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}, _deltas(part, index)
        case "server_tool_use":
            yield {"type": "server_tool_use", "id": part.id, "name": part.name, "input": {}}, _deltas(part, index)
            if part.result is not None:
                yield _server_tool_result(part), iter(())


def _deltas(part: Part, index: int) -> Iterator[Frame]:
    kind, field = _DELTAS[part.kind]
    head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":' % index
    before = head + b'{"type":"%b","%b":' % (kind.encode(), field.encode())
    # Citations come before the text they belong to.
    for citation in part.citations:
        yield Frame(head + _encode({"type": "citations_delta", "citation": citation}) + b"}\n\n")
    for piece in part.pieces:
        yield Frame(before + _encode(piece) + b"}}\n\n", True)
    if part.signature:
        yield Frame(head + _encode({"type": "signature_delta", "signature": part.signature}) + b"}\n\n")


def _whole_blocks(part: Part) -> Iterator[JsonObject]:
    match part.kind:
        case "text" | "refusal":
            block: JsonObject = {"type": "text", "text": part.text}
            if part.citations:
                block["citations"] = part.citations
            yield block
        case "thinking":
            yield {"type": "thinking", "thinking": part.text, "signature": part.signature}
        case "redacted_thinking":
            yield {"type": "redacted_thinking", "data": part.data}
        case "tool_call" | "server_tool_use":
            kind = "tool_use" if part.kind == "tool_call" else part.kind
            yield {"type": kind, "id": part.id, "name": part.name, "input": _tool_input(part.text)}
            if part.result is not None:
                yield _server_tool_result(part)


def _tool_input(arguments: str) -> object:
    try:
        return msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        # The API has no place for input that is not JSON but a text inside an object.
        return {"INVALID_JSON": arguments}


def _server_tool_result(part: Part) -> JsonObject:
    return {"type": f"{part.name}_tool_result", "tool_use_id": part.id, "content": part.result}
