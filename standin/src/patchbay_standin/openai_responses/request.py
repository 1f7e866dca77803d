"""Reads and checks the body of a Responses request, with the API's own words for what is wrong.

https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from patchbay_standin.errors import ProviderError, invalid_request
from patchbay_standin.openai.request import explain
from patchbay_standin.openai_responses.checks import bounded, listed, missing, unknown
from patchbay_standin.openai_responses.schemas import check_strict
from patchbay_standin.openai_responses.tools import check_tools
from patchbay_standin.script import JsonObject

_MAX_TOP_LOGPROBS: Final = 20
_MIN_OUTPUT_TOKENS: Final = 16

# Fields of Chat Completions, and what the API calls them here.
_MOVED: Final[Mapping[str, str]] = {
    "messages": "input",
    "response_format": "text.format",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "functions": "tools",
    "function_call": "tool_choice",
}

_SOCKET_ONLY: Final = frozenset({"type", "generate", "stream_id"})
_INCLUDABLE: Final = (
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
)
_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh")
_SUMMARIES: Final = ("auto", "concise", "detailed")
_VERBOSITIES: Final = ("low", "medium", "high")
_FORMATS: Final = ("text", "json_object", "json_schema")
_TIERS: Final = ("auto", "default", "flex", "scale", "priority")


class Format(msgspec.Struct):
    """What the text is to be."""

    type: str
    name: str | None = None
    schema: JsonObject | None = None
    strict: bool | None = None


class Text(msgspec.Struct):
    """How the text is to be written."""

    format: Format | None = None
    verbosity: str | None = None


class Reasoning(msgspec.Struct):
    """How much to reason, and what of it to show."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    encrypted_content: str | None = None


class StreamOptions(msgspec.Struct):
    """Whether deltas are padded."""

    include_obfuscation: bool | None = None


class Request(msgspec.Struct, kw_only=True):
    """A request. What is not known is refused, so every field of the API is here."""

    model: str
    input: str | list[JsonObject] | None = None
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | JsonObject | None = None
    prompt: JsonObject | None = None
    tools: list[JsonObject] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    truncation: str | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: JsonObject | None = None
    context_management: list[JsonObject] | None = None
    moderation: JsonObject | None = None
    access_programs: JsonObject | None = None
    image: JsonObject | None = None
    service_tier: str | None = None
    client_metadata: dict[str, str] | None = None
    # WebSocket.
    type: str | None = None
    generate: bool | None = None
    stream_id: str | None = None

    @property
    def schema(self) -> JsonObject | None:
        """The schema that the answer must fit; empty: any JSON object; None: no JSON asked for."""
        format_ = self.text.format if self.text is not None else None
        if format_ is None or format_.type == "text":
            return None
        return format_.schema if format_.schema is not None else {"type": "object"}

    @property
    def shows_summary(self) -> bool:
        """Whether a summary of the reasoning was asked for."""
        asked = self.reasoning
        return asked is not None and (asked.summary or asked.generate_summary) is not None

    def includes(self, what: str) -> bool:
        """Whether `include` names something."""
        return what in (self.include or ())


_decoder: Final = msgspec.json.Decoder(Request)
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def field_names(body: bytes) -> list[str]:
    """The names of a body's fields. Raises ProviderError."""
    try:
        return list(_fields.decode(body))
    except msgspec.DecodeError as error:
        raise explain(error) from None


def decode(body: bytes, *, is_socket: bool) -> Request:
    """Reads a request, of a frame if `is_socket`; its items are for others to check. Raises ProviderError."""
    for name in field_names(body):
        if name in _MOVED:
            raise _moved(name)
        if name not in Request.__struct_fields__ or (name in _SOCKET_ONLY and not is_socket):
            raise unknown(name)
    try:
        request = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise explain(error) from None
    if request.background and not is_socket:
        raise invalid_request("Background responses are not supported.", param="background", code="unsupported_value")
    _check(request)
    check_tools(request.tools or (), "tools")
    return request


def _moved(name: str) -> ProviderError:
    return invalid_request(
        f"Unsupported parameter: '{name}'. In the Responses API, this parameter has moved to '{_MOVED[name]}'. Try"
        " again with the new parameter. See the API documentation for more information:"
        " https://platform.openai.com/docs/api-reference/responses/create.",
        code="unsupported_parameter",
    )


def _check(request: Request) -> None:
    if not request.model:
        raise missing("model")
    bounded("max_output_tokens", request.max_output_tokens, low=_MIN_OUTPUT_TOKENS)
    bounded("temperature", request.temperature, low=0, high=2)
    bounded("top_p", request.top_p, low=0, high=1)
    bounded("top_logprobs", request.top_logprobs, low=0, high=_MAX_TOP_LOGPROBS)
    listed("truncation", request.truncation, ("auto", "disabled"))
    listed("service_tier", request.service_tier, _TIERS)
    for index, name in enumerate(request.include or ()):
        listed(f"include[{index}]", name, _INCLUDABLE)
    if request.reasoning is not None:
        listed("reasoning.effort", request.reasoning.effort, _EFFORTS)
        listed("reasoning.summary", request.reasoning.summary, _SUMMARIES)
    for name in ("conversation", "prompt"):
        if getattr(request, name) is not None:
            raise invalid_request(f"'{name}' is not supported.", param=name, code="unsupported_parameter")
    if request.text is not None:
        _check_text(request.text)


def _check_text(text: Text) -> None:
    listed("text.verbosity", text.verbosity, _VERBOSITIES)
    if text.format is None:
        return
    listed("text.format.type", text.format.type, _FORMATS)
    if text.format.type == "json_schema":
        if not text.format.name:
            raise missing("text.format.name")
        if text.format.schema is None:
            raise missing("text.format.schema")
        if text.format.strict:
            check_strict(text.format.schema, f"response_format '{text.format.name}'", "text.format.schema")
