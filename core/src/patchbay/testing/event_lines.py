"""Events as readable lines, for tests that compare many of them."""

from __future__ import annotations

from patchbay.canonical import ChatEvent, Error, Finished, Usage
from patchbay_proto.v1.events_pb2 import ErrorCode


def _usage_line(usage: Usage) -> str:
    counts = [f"{field.name.removesuffix('_tokens')}={value}" for field, value in usage.ListFields()[:5]]
    return " ".join(["usage", *[count for count in counts if "extensions" not in count], *usage.extensions.values()])


def _finished_line(finished: Finished) -> str:
    reason = Finished.StopReason.Name(finished.stop_reason).removeprefix("STOP_REASON_").lower()
    more = [finished.stop_sequence, finished.raw, *finished.extensions.values()]
    return " ".join([f"finished {finished.choice} {reason}", *[text for text in more if text]])


def _error_line(error: Error) -> str:
    retry = " retryable" if error.retryable else ""
    return f"error {ErrorCode.Name(error.code).removeprefix('ERROR_CODE_').lower()}{retry}: {error.message}"


def event_line(event: ChatEvent) -> str:
    """An event in one line."""
    kind = event.WhichOneof("event")
    match kind:
        case "started":
            return f"started {event.started.id} {event.started.model} {event.started.created}"
        case "block_start":
            start = event.block_start
            block = start.WhichOneof("kind")
            detail = ""
            match block:
                case "tool_use":
                    use = start.tool_use
                    name = f"{use.namespace}/{use.name}" if use.namespace else use.name
                    detail = f" {use.id} {name}" + (" text" * use.text_input)
                case "redacted_thinking":
                    detail = f" {start.redacted_thinking.data}"
                case "opaque":
                    detail = f" {start.opaque.dialect} {start.opaque.json}"
            choice = f" of {start.choice}" if start.choice else ""
            return f"{start.index} {block}{detail}{choice}"
        case "block_stop":
            return f"{event.block_stop.index} stop"
        case "text_delta":
            delta = event.text_delta
            return f"{delta.index} + {delta.text}" + (
                f" {delta.logprobs_json}" if delta.HasField("logprobs_json") else ""
            )
        case "thinking_delta":
            return f"{event.thinking_delta.index} + {event.thinking_delta.text}"
        case "tool_input_delta":
            return f"{event.tool_input_delta.index} + {event.tool_input_delta.text}"
        case "signature_delta":
            return f"{event.signature_delta.index} signed {event.signature_delta.signature}"
        case "citation_delta":
            return f"{event.citation_delta.index} cites {event.citation_delta.json}"
        case "usage":
            return _usage_line(event.usage)
        case "finished":
            return _finished_line(event.finished)
        case "error":
            return _error_line(event.error)
        case "native":
            return f"native{' preamble' * event.native.preamble} {event.native.data!r}"
        case _:
            return str(kind)
