"""The response object: what the request asked for, repeated, and what came of it.

https://platform.openai.com/docs/api-reference/responses/object
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from patchbay_standin.answer import Answer
from patchbay_standin.openai_responses.request import Request
from patchbay_standin.script import JsonObject

_INCOMPLETE: Final = {"max_tokens": "max_output_tokens", "refusal": "content_filter"}


def response_id(nonce: str, number: int) -> str:
    """The id of the response with this number. `nonce` makes it unique among processes."""
    return f"resp_{nonce}{number:016x}"


def opened(request: Request, answer: Answer, identity: str) -> JsonObject:
    """The response before it has any output."""
    text = request.text
    format_ = text.format if text is not None else None
    reasoning = request.reasoning
    return {
        "id": identity,
        "object": "response",
        "created_at": answer.created,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "model": answer.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "prompt_cache_retention": request.prompt_cache_retention,
        "reasoning": {
            "effort": reasoning.effort if reasoning is not None else None,
            "summary": reasoning.summary if reasoning is not None else None,
        },
        "safety_identifier": request.safety_identifier,
        "service_tier": request.service_tier if request.service_tier not in (None, "auto") else "default",
        "store": request.store is not False,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {
            "format": {"type": "text"} if format_ is None else _without_nothing(msgspec.to_builtins(format_)),
            "verbosity": (text.verbosity if text is not None else None) or "medium",
        },
        "tool_choice": "auto" if request.tool_choice is None else request.tool_choice,
        "tools": request.tools or [],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": request.truncation or "disabled",
        "usage": None,
        "user": request.user,
        "metadata": request.metadata or {},
    }


def ended(response: JsonObject, answer: Answer, output: list[JsonObject]) -> JsonObject:
    """The response with its output, as the answer's stop reason ends it."""
    status = final_status(answer)
    closed = {**response, "status": status, "output": output, "usage": usage_counts(answer)}
    if status == "incomplete":
        closed["incomplete_details"] = {"reason": _INCOMPLETE[answer.stop_reason]}
    elif status == "failed":
        closed["error"] = {"code": "server_error", "message": "The model failed to answer."}
    else:
        closed["completed_at"] = int(time.time())
    return closed


def failed(response: JsonObject, code: str, message: str, output: list[JsonObject]) -> JsonObject:
    """The response that an error ended."""
    return {**response, "status": "failed", "error": {"code": code, "message": message}, "output": output}


def final_status(answer: Answer) -> str:
    """How a response ends: `completed`, `incomplete` or `failed`."""
    # The model's own refusal is an answer like any other; only a filter's is none.
    own_refusal = any(part.kind == "refusal" for part in answer.parts)
    if answer.stop_reason in _INCOMPLETE and not (answer.stop_reason == "refusal" and own_refusal):
        return "incomplete"
    return "failed" if answer.stop_reason == "failed" else "completed"


def usage_counts(answer: Answer) -> JsonObject:
    """Token counts, with both details."""
    usage = answer.usage
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }


def _without_nothing(value: JsonObject) -> JsonObject:
    return {key: entry for key, entry in value.items() if entry is not None}
