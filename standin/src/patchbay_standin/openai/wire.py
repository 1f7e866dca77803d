"""Answers, streams and errors of Chat Completions.

Stream: https://platform.openai.com/docs/api-reference/chat-streaming
Errors: https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from patchbay_standin.answer import Answer, Part
from patchbay_standin.errors import ProviderError
from patchbay_standin.exchange import Headers
from patchbay_standin.openai.message import finish_reason, token_logprobs, tool_call, usage_counts, whole_message
from patchbay_standin.openai.request import decode, to_prompt
from patchbay_standin.prompt import Prompt
from patchbay_standin.script import JsonObject, Script
from patchbay_standin.wire import EVENT_STREAM, Frame

_encode = msgspec.json.Encoder().encode

# Per status: the error's type and, where the API has one, its code.
_ERRORS: Final[Mapping[int, tuple[str, str | None]]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("server_error", "service_unavailable"),
    529: ("server_error", "overloaded"),
}

_DONE: Final = b"data: [DONE]\n\n"


def request_id(number: int) -> str:
    """The `x-request-id` of the request with this number."""
    return f"req_{number:032x}"


class OpenAIWire:
    """Chat Completions."""

    name = "openai"
    keepalive = b": keep-alive\n\n"
    call_prefix = "call_"
    # What a chunk says it is.
    chunk_object = "chat.completion.chunk"
    stream_type: bytes | None = EVENT_STREAM
    reads_compressed = False

    def no_such_model(self, model: str) -> ProviderError:
        """What the API says."""
        return ProviderError(status=404, message=f"The model `{model}` does not exist or you do not have access to it.")

    def authenticate(self, headers: Mapping[bytes, bytes]) -> None:
        """Any key will do, but there must be one."""
        authorization = headers.get(b"authorization", b"")
        if not authorization:
            raise ProviderError(
                status=401,
                message=(
                    "You didn't provide an API key. You need to provide your API key in an Authorization header using"
                    " Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
                ),
                type="invalid_request_error",
            )
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            raise ProviderError(
                status=401, message="Incorrect API key provided. You must use Bearer auth.", code="invalid_api_key"
            )

    def read(self, body: bytes) -> Prompt:
        """Reads the body of `POST .../chat/completions`."""
        return to_prompt(decode(body))

    def headers(self, number: int) -> Headers:
        """Request id and rate limits."""
        return [(b"x-request-id", request_id(number).encode()), *_HEADERS]

    def frames(self, answer: Answer, prompt: Prompt, script: Script) -> Iterator[Frame]:
        """The chunks of a streamed completion."""
        chunks = _Chunks(answer, prompt, script, self.chunk_object)
        yield from chunks.opening()
        answers = [chunks.content(choice) for choice in range(prompt.answers)]
        # The answers to one prompt are written at the same time, token by token.
        yield from answers[0] if len(answers) == 1 else _in_turn(answers)
        yield from chunks.closing()
        if not script.omit_done:
            yield Frame(_DONE)

    def body(self, answer: Answer, prompt: Prompt, script: Script) -> bytes:
        """The completion as one JSON object."""
        choices = [
            {
                "index": index,
                "message": whole_message(answer, script),
                "logprobs": _whole_logprobs(answer, prompt),
                "finish_reason": finish_reason(answer),
            }
            for index in range(prompt.answers)
        ]
        completion = _envelope(answer, "chat.completion")
        return _encode({**completion, "choices": choices, "usage": usage_counts(answer, prompt.answers)})

    def error_body(self, error: ProviderError, number: int) -> bytes:
        """`{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}`"""
        kind, code = _ERRORS.get(
            error.status, ("invalid_request_error" if 400 <= error.status < 500 else "server_error", None)
        )
        return _encode(
            {
                "error": {
                    "message": error.message,
                    "type": error.type or kind,
                    "param": error.param,
                    # An error that names its type has the code that it names, or none.
                    "code": code if error.code is None and error.type is None else error.code,
                }
            }
        )

    def error_frame(self, error: ProviderError, number: int) -> bytes:
        """The error as a chunk of its own."""
        return b"data: %b\n\n" % self.error_body(error, number)


_HEADERS: Final = (
    (b"openai-organization", b"patchbay-standin"),
    (b"openai-processing-ms", b"1"),
    (b"openai-version", b"2020-10-01"),
    (b"x-ratelimit-limit-requests", b"5000"),
    (b"x-ratelimit-limit-tokens", b"800000"),
    (b"x-ratelimit-remaining-requests", b"4999"),
    (b"x-ratelimit-remaining-tokens", b"799999"),
    (b"x-ratelimit-reset-requests", b"12ms"),
    (b"x-ratelimit-reset-tokens", b"0s"),
)


def _envelope(answer: Answer, kind: str) -> JsonObject:
    return {
        "id": f"chatcmpl-standin{answer.number:016d}",
        "object": kind,
        "created": answer.created,
        "model": answer.model,
        "service_tier": "default",
        "system_fingerprint": "fp_standin",
    }


def _whole_logprobs(answer: Answer, prompt: Prompt) -> JsonObject | None:
    if prompt.top_logprobs is None:
        return None
    content: list[JsonObject] = []
    refusal: list[JsonObject] = []
    for part in answer.parts:
        if part.kind in ("text", "refusal"):
            into = content if part.kind == "text" else refusal
            into.extend(token_logprobs(piece, prompt.top_logprobs) for piece in part.pieces)
    return {"content": content or None, "refusal": refusal or None}


def _in_turn(answers: Sequence[Iterator[Frame]]) -> Iterator[Frame]:
    for frames in itertools.zip_longest(*answers):
        yield from (frame for frame in frames if frame is not None)


class _Chunks:
    """Writes the chunks of one stream: everything around a delta is encoded once."""

    def __init__(self, answer: Answer, prompt: Prompt, script: Script, chunk_object: str) -> None:
        self._answer = answer
        self._prompt = prompt
        self._script = script
        envelope = _encode(_envelope(answer, chunk_object))[:-1]
        self._head = b"data: " + envelope + b',"choices":['
        place = script.usage_on
        if place is None:
            place = "own_chunk" if prompt.include_usage else "none"
        self._place = place
        # Asked for usage, the API says `"usage": null` on every chunk but the last.
        self._tail = b'],"usage":null}\n\n' if prompt.include_usage else b"]}\n\n"
        self._sent = 0

    def opening(self) -> Iterator[Frame]:
        """The role, for each answer."""
        speaks = any(part.kind == "text" for part in self._answer.parts)
        delta: JsonObject = {"role": "assistant", "content": "" if speaks else None, "refusal": None}
        for choice in range(self._prompt.answers):
            yield Frame(self._head + self._choice(choice, delta) + self._end())

    def content(self, choice: int) -> Iterator[Frame]:
        """The content of one answer, and its finish."""
        parts = self._answer.parts
        calls = [part for part in parts if part.kind == "tool_call"]
        reasoning = 0
        for part in parts:
            if part.kind == "tool_call":
                if self._script.interleave_tools:
                    continue
                yield from self._tool_call(choice, part, calls.index(part))
            elif part.kind in ("thinking", "redacted_thinking"):
                yield from self._reasoning(choice, part, reasoning)
                reasoning += 1
            elif part.kind in ("text", "refusal"):
                yield from self._text(choice, part)
        if self._script.interleave_tools:
            yield from _in_turn([self._tool_call(choice, part, index) for index, part in enumerate(calls)])
        finish = self._choice(choice, {}, finish_reason(self._answer))
        last = choice == self._prompt.answers - 1
        yield Frame(
            self._head + finish + (self._usage_end() if last and self._place == "finish_chunk" else self._end())
        )

    def closing(self) -> Iterator[Frame]:
        """The usage in a chunk of its own: without a choice, or with an empty one."""
        if self._place == "own_chunk":
            yield Frame(self._head + self._usage_end())
        elif self._place == "last_chunk":
            yield Frame(self._head + self._choice(0, {"role": "assistant", "content": ""}) + self._usage_end())

    def _text(self, choice: int, part: Part) -> Iterator[Frame]:
        field = b"refusal" if part.kind == "refusal" else b"content"
        before = self._head + b'{"index":%d,"delta":{"%b":' % (choice, field)
        top = self._prompt.top_logprobs
        if top is not None:
            for piece in part.pieces:
                logprobs = _encode(
                    {
                        field.decode(): [token_logprobs(piece, top)],
                        "content" if field == b"refusal" else "refusal": None,
                    }
                )
                yield Frame(
                    b'%b%b},"logprobs":%b,"finish_reason":null}%b'
                    % (before, _encode(piece), logprobs, self._end(delta=True)),
                    True,
                )
        elif self._place == "each_chunk":
            for piece in part.pieces:
                after = b'},"logprobs":null,"finish_reason":null}' + self._end(delta=True)
                yield Frame(before + _encode(piece) + after, True)
        else:
            after = b'},"logprobs":null,"finish_reason":null}' + self._tail
            for piece in part.pieces:
                yield Frame(before + _encode(piece) + after, True)
        if part.citations:
            yield Frame(self._head + self._choice(choice, {"annotations": part.citations}) + self._end())

    def _reasoning(self, choice: int, part: Part, index: int) -> Iterator[Frame]:
        field = self._script.reasoning_field
        if field != "reasoning_details":
            for piece in part.pieces:
                yield Frame(self._head + self._choice(choice, {field: piece}) + self._end(delta=True), True)
            return
        # https://openrouter.ai/docs/use-cases/reasoning-tokens
        base: JsonObject = {"format": "anthropic-claude-v1", "index": index}
        if part.kind == "redacted_thinking":
            detail = {"type": "reasoning.encrypted", "data": part.data, **base}
            yield Frame(self._head + self._choice(choice, {"reasoning_details": [detail]}) + self._end())
            return
        for piece in part.pieces:
            detail = {"type": "reasoning.text", "text": piece, **base}
            delta: JsonObject = {"reasoning": piece, "reasoning_details": [detail]}
            yield Frame(self._head + self._choice(choice, delta) + self._end(delta=True), True)
        if part.signature:
            detail = {"type": "reasoning.text", "signature": part.signature, **base}
            yield Frame(self._head + self._choice(choice, {"reasoning_details": [detail]}) + self._end())

    def _tool_call(self, choice: int, part: Part, index: int) -> Iterator[Frame]:
        call: JsonObject = {"index": index, **tool_call(part, "")}
        yield Frame(self._head + self._choice(choice, {"tool_calls": [call]}) + self._end())
        for piece in part.pieces:
            said = {"custom": {"input": piece}} if part.is_custom else {"function": {"arguments": piece}}
            delta: JsonObject = {"tool_calls": [{"index": index, **said}]}
            yield Frame(self._head + self._choice(choice, delta) + self._end(delta=True), True)

    def _choice(self, index: int, delta: JsonObject, finish: str | None = None) -> bytes:
        return _encode({"index": index, "delta": delta, "logprobs": None, "finish_reason": finish})

    def _end(self, *, delta: bool = False) -> bytes:
        """The end of a chunk after its choices."""
        if self._place != "each_chunk":
            return self._tail
        self._sent += delta
        counts = usage_counts(self._answer, 1)
        output = min(self._sent, self._answer.usage.output)
        counts.update(completion_tokens=output, total_tokens=self._answer.usage.input + output)
        return b'],"usage":%b}\n\n' % _encode(counts)

    def _usage_end(self) -> bytes:
        return b'],"usage":%b}\n\n' % _encode(usage_counts(self._answer, self._prompt.answers))
