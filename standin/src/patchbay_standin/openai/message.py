"""The pieces of a completion: message, token counts, log probabilities, finish reasons."""

from __future__ import annotations

from typing import Final

from patchbay_standin.answer import STOP_OF_FINISH, Answer, Part
from patchbay_standin.script import JsonObject, Script

_FINISH_OF_STOP: Final = {
    **{stop: finish for finish, stop in STOP_OF_FINISH.items()},
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "model_context_window_exceeded": "length",
}


def finish_reason(answer: Answer) -> str:
    """The API's name for the stop reason of an answer; one it does not know stays as it is."""
    if answer.stop_reason == "refusal" and any(part.kind == "refusal" for part in answer.parts):
        # The model's own refusal is an answer like any other; only a filter's is named.
        return "stop"
    return _FINISH_OF_STOP.get(answer.stop_reason, answer.stop_reason)


def whole_message(answer: Answer, script: Script) -> JsonObject:
    """The assistant's message with all that the parts of an answer say."""
    texts: dict[str, str] = {}
    for part in answer.parts:
        texts[part.kind] = texts.get(part.kind, "") + part.text
    message: JsonObject = {"role": "assistant", "content": texts.get("text"), "refusal": texts.get("refusal")}
    annotations = [citation for part in answer.parts for citation in part.citations]
    message["annotations"] = annotations
    thinking = texts.get("thinking")
    if thinking is not None:
        field = script.reasoning_field
        message["reasoning" if field == "reasoning_details" else field] = thinking
    if script.reasoning_field == "reasoning_details":
        details = _reasoning_details(answer)
        if details:
            message["reasoning_details"] = details
    calls = [tool_call(part, part.text) for part in answer.parts if part.kind == "tool_call"]
    if calls:
        message["tool_calls"] = calls
    return message


def tool_call(part: Part, text: str) -> JsonObject:
    """A call with this much of its input."""
    if part.is_custom:
        return {"id": part.id, "type": "custom", "custom": {"name": part.name, "input": text}}
    return {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": text}}


def _reasoning_details(answer: Answer) -> list[JsonObject]:
    details: list[JsonObject] = []
    for part in answer.parts:
        base: JsonObject = {"format": "anthropic-claude-v1", "index": len(details)}
        if part.kind == "thinking":
            details.append({"type": "reasoning.text", "text": part.text, "signature": part.signature, **base})
        elif part.kind == "redacted_thinking":
            details.append({"type": "reasoning.encrypted", "data": part.data, **base})
    return details


def usage_counts(answer: Answer, answers: int) -> JsonObject:
    """Token counts; the output is that of all `answers` together."""
    usage = answer.usage
    output = usage.output * answers
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": output,
        "total_tokens": usage.input + output,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning * answers,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def token_logprobs(token: str, alternatives: int) -> JsonObject:
    """The log probability of a token, with made-up alternatives."""
    entry = _logprob(token, -0.125)
    entry["top_logprobs"] = [
        _logprob(token if rank == 0 else f"{token}{rank}", -0.125 - rank) for rank in range(alternatives)
    ]
    return entry


def _logprob(token: str, value: float) -> JsonObject:
    return {"token": token, "logprob": value, "bytes": list(token.encode())}
