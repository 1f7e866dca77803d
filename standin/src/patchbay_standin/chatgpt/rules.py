"""What the ChatGPT backend refuses of a Responses request that the platform takes.

Nobody publishes these rules; they are as clients report them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from patchbay_standin.errors import ProviderError
from patchbay_standin.openai_responses.checks import list_field
from patchbay_standin.openai_responses.items import kind_of, not_persisted
from patchbay_standin.openai_responses.request import Request
from patchbay_standin.script import JsonObject

# The models that a plan has, the default one first.
MODELS: Final = (
    "gpt-6.1-sol",
    "gpt-6-astra",
    "gpt-6.1-terra",
    "gpt-6-sol",
    "gpt-6-luna",
    "gpt-5.6-sol",
    "gpt-5.6-terra",
    "gpt-5.6-luna",
    "gpt-5.5",
)
HIDDEN_MODELS: Final = ("codex-auto-review",)

UNSUPPORTED: Final = frozenset(
    {
        "max_output_tokens",
        "max_completion_tokens",
        "max_tokens",
        "temperature",
        "top_p",
        "metadata",
        "user",
        "truncation",
        "safety_identifier",
        "prompt_cache_retention",
        "prompt_cache_options",
        "stream_options",
        "context_management",
        "previous_response_id",
        "generate",
        "n",
        "seed",
        "logprobs",
        "top_logprobs",
        "frequency_penalty",
        "presence_penalty",
    }
)
# Over a WebSocket these have a meaning.
SOCKET_ONLY: Final = frozenset({"previous_response_id", "generate"})
LITE_HEADER: Final = b"x-openai-internal-codex-responses-lite"
LITE_METADATA: Final = "ws_request_header_x_openai_internal_codex_responses_lite"

_TIER: Final = "priority"
_UNKNOWN_TO_SCHEMAS: Final = ("$schema", "cache_control")


def detail(message: str, *, status: int = 400) -> ProviderError:
    """An error of the shape `{"detail": message}`."""
    return ProviderError(status=status, message=message, shape="detail")


def check_fields(names: Sequence[str], *, is_socket: bool) -> None:
    """Refuses fields that the backend does not take."""
    for name in names:
        if name in UNSUPPORTED and not (is_socket and name in SOCKET_ONLY):
            raise detail(f"Unsupported parameter: {name}")


def check_request(request: Request, names: Sequence[str], *, is_socket: bool, is_lite: bool) -> None:
    """Refuses a request whose fields are not as the backend wants them."""
    if not is_socket and not request.stream:
        raise detail("Stream must be set to true")
    if request.store is not False:
        raise detail("Store must be set to false")
    if request.instructions is None:
        raise detail("Instructions are required")
    if not isinstance(request.input, list):
        raise detail("Input must be a list")
    if not request.input and not is_socket:
        raise detail("Input must not be empty")
    if request.service_tier not in (None, _TIER):
        raise detail(f"Unsupported service_tier: {request.service_tier}")
    if is_lite and "tools" in names:
        raise detail("Unsupported parameter: tools")
    has_tools = request.tools or any(kind_of(item) == "additional_tools" for item in request.input)
    if request.parallel_tool_calls and (is_lite or not has_tools):
        raise detail("Unsupported parameter: parallel_tool_calls")
    for index, item in enumerate(request.input):
        _check_item(item, index)
    _check_tools(request.tools or [])


def _check_item(item: JsonObject, index: int) -> None:
    kind = kind_of(item)
    if kind == "item_reference":
        raise not_persisted(str(item.get("id")))
    if kind == "message" and item.get("role") == "system":
        raise detail("System messages are not allowed")
    if kind == "additional_tools":
        _check_tools(list_field(item, "tools", f"input[{index}]"))
    for field in ("content", "output"):
        content = item.get(field)
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict):
                _check_part(part)


def _check_part(part: JsonObject) -> None:
    if "prompt_cache_breakpoint" in part:
        raise detail("Unsupported parameter: prompt_cache_breakpoint")
    url = part.get("image_url")
    if isinstance(url, str) and not url.startswith("data:"):
        raise ProviderError(
            status=400,
            message=f"Error while downloading {url}.",
            type="invalid_request_error",
            param="url",
            code="invalid_value",
        )


def _check_tools(tools: Sequence[JsonObject]) -> None:
    for tool in tools:
        kind = str(tool.get("type"))
        if kind.startswith("web_search_preview"):
            raise detail(f"Unsupported tool type: {kind}")
        nested = tool.get("tools")
        if kind == "namespace" and isinstance(nested, list):
            _check_tools([entry for entry in nested if isinstance(entry, dict)])
        schema = tool.get("parameters")
        if not isinstance(schema, dict):
            continue
        for name in _UNKNOWN_TO_SCHEMAS:
            if name in schema:
                raise _schema_error(tool, f"'{name}' is not permitted.")
        if schema.get("type") == "object" and "properties" not in schema:
            raise _schema_error(tool, "In context=(), object schema missing properties.")


def _schema_error(tool: JsonObject, reason: str) -> ProviderError:
    return ProviderError(
        status=400,
        message=f"Invalid schema for function '{tool.get('name')}': {reason}",
        type="invalid_request_error",
        param="tools",
        code="invalid_function_parameters",
    )
