"""Answers of any upstream for any client: the whole way, and what the client's official SDK makes of it.

Needs the packages `anthropic` and `openai`, which the code that it tests does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import anthropic
import httpx2
import openai
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from patchbay.canonical import ChatEvents
from patchbay.dialects import anthropic as anthropic_dialect
from patchbay.dialects import openai_chat, openai_responses
from patchbay.dialects.base import AnswerOptions, Dialect, ReadOptions
from patchbay.dialects.sse import parse_frames
from patchbay.dialects.tool_names import ClientTool
from patchbay.errors import PatchbayError

Json: TypeAlias = dict[str, Any]

DIALECTS: Mapping[str, Dialect[Any]] = {
    dialect.name: dialect for dialect in (anthropic_dialect.DIALECT, openai_chat.DIALECT, openai_responses.DIALECT)
}


_MESSAGES: Any = [{"role": "user", "content": "hi"}]
_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def _windows(upstream: str, pieces: Iterable[bytes], names: Mapping[str, ClientTool]) -> list[ChatEvents]:
    """What the worker sends: the events of each piece of the upstream's stream, through the wire's own bytes."""
    reader = DIALECTS[upstream].read_events(ReadOptions(names=names))
    windows = [ChatEvents(events=reader.feed(piece)) for piece in pieces]
    windows.append(ChatEvents(events=reader.close()))
    return [ChatEvents.FromString(window.SerializeToString()) for window in windows]


def _write(client: str, windows: Iterable[ChatEvents], *, stream: bool) -> bytes:
    options = AnswerOptions(stream=stream, include_usage=True, model="asked", fallback_id="fallback", created=9)
    writer = DIALECTS[client].write_events(options)
    return b"".join([writer.feed(window.events) for window in windows]) + writer.close()


def _transport(status: int, body: bytes, content_type: str) -> httpx2.Client:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=body, headers={"content-type": content_type})

    return httpx2.Client(transport=httpx2.MockTransport(answer))


def _parse(client: str, body: bytes, *, stream: bool, status: int = 200) -> dict[str, Any]:
    """What the client's official SDK makes of an answer."""
    transport = _transport(status, body, "text/event-stream" if stream else "application/json")
    if client == "anthropic":
        messages = anthropic.Anthropic(api_key="none", base_url="http://t", http_client=transport, max_retries=0).beta
        if not stream:
            return messages.messages.create(model="m", max_tokens=9, messages=_MESSAGES).to_dict(
                mode="json", warnings=False
            )
        with messages.messages.stream(model="m", max_tokens=9, messages=_MESSAGES) as events:
            return events.get_final_message().to_dict(mode="json", warnings=False)
    sdk = openai.OpenAI(api_key="none", base_url="http://t", http_client=transport, max_retries=0)
    if client == openai_responses.DIALECT.name:
        return _parse_response(sdk, body, stream=stream)
    completions = sdk.chat
    if not stream:
        return completions.completions.create(model="m", messages=_MESSAGES).to_dict(mode="json", warnings=False)
    with completions.completions.stream(
        model="m", messages=_MESSAGES, stream_options={"include_usage": True}
    ) as chunks:
        for _ in chunks:
            pass
        return chunks.current_completion_snapshot.to_dict(mode="json", warnings=False)


def _parse_response(sdk: openai.OpenAI, body: bytes, *, stream: bool) -> dict[str, Any]:
    if not stream:
        response: Response = sdk.responses.create(model="m", input="hi")
        Response.model_validate_json(body)
        return response.to_dict(mode="json", warnings=False)
    for frame in parse_frames(body):
        data = json.loads(frame.data)
        assert frame.event.decode() == data["type"]
        if data["type"] != "response.failed":  # OpenAI sends more codes than the SDK's types have
            _EVENT.validate_python(data)
    with sdk.responses.stream(model="m", input="hi") as events:
        found = list(events)
    assert [event.sequence_number for event in found] == list(range(len(found)))
    last: Any = found[-1]
    if last.type == "response.failed":
        # The SDK gives a failure like any other event; for the tests it is the error that its caller makes of it.
        raise openai.APIError(last.response.error.message, httpx2.Request("POST", "http://t"), body=None)
    return dict(last.response.to_dict(mode="json", warnings=False))


def answer(
    upstream: str,
    pieces: Iterable[bytes],
    client: str,
    *,
    stream: bool,
    names: Mapping[str, ClientTool] | None = None,
) -> dict[str, Any]:
    """An upstream's stream as the client's SDK has it in the end.

    Raises:
        anthropic.APIError, openai.APIError: The SDK's own exceptions.
    """
    windows = _windows(upstream, pieces, names or {})
    try:
        body, status = _write(client, windows, stream=stream), 200
    except PatchbayError as error:
        written = DIALECTS[client].errors.write(error.error, "req_1")
        return _parse(client, written.body, stream=False, status=written.status)
    return _parse(client, body, stream=stream, status=status)


@dataclass(frozen=True)
class Case:
    """One recording, and what each client has of it in the end."""

    name: str
    stream: Sequence[bytes]
    # For an Anthropic client: the content and the stop reason.
    content: Sequence[Json]
    stop_reason: str
    # For an OpenAI client: the message without its role, and the finish reason.
    message: Json
    finish_reason: str
    # Of another choice, or the choice's log probabilities.
    more: Json = field(default_factory=dict)
    # For a client of the Responses API: the output, without ids. None: what follows from the other two.
    output: Sequence[Json] | None = None
    # Counts: input, cache written, cache read, output, reasoning.
    usage: tuple[int, int, int, int, int] = (25, 0, 0, 9, 0)


def tool_use(call_id: str, name: str, given: object) -> Json:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given}


def tool_call(call_id: str, name: str, arguments: str) -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def signed(value: str, signature: str, index: int) -> Json:
    entry = {"type": "reasoning.text", "text": value, "signature": signature}
    return entry | {"format": "anthropic-claude-v1", "index": index}


def _without_null(value: object) -> Any:
    """A field that is null says what an absent one does."""
    if isinstance(value, dict):
        return {name: _without_null(item) for name, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value


def _anthropic_answer(case: Case) -> Json:
    written, created, read, output, reasoning = case.usage
    usage: Json = {"input_tokens": written, "cache_creation_input_tokens": created}
    usage |= {"cache_read_input_tokens": read, "output_tokens": output}
    if reasoning:
        usage["output_tokens_details"] = {"thinking_tokens": reasoning}
    return {"content": list(case.content), "stop_reason": case.stop_reason, "usage": usage}


def _openai_answer(case: Case) -> Json:
    plain, created, read, output, reasoning = case.usage
    prompt_details: Json = {"cached_tokens": read} | ({"cache_write_tokens": created} if created else {})
    choice: Json = {"index": 0, "message": {"role": "assistant"} | case.message, "finish_reason": case.finish_reason}
    if "logprobs" in case.more:
        choice["logprobs"] = case.more["logprobs"]
    choices = [choice]
    if "second" in case.more:
        second = dict(case.more["second"])
        finish = second.pop("finish_reason")
        choices.append({"index": 1, "message": {"role": "assistant"} | second, "finish_reason": finish})
    total = plain + created + read
    usage: Json = {"prompt_tokens": total, "completion_tokens": output, "total_tokens": total + output}
    usage["prompt_tokens_details"] = prompt_details
    usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return {"choices": choices, "usage": usage}


def _responses_answer(case: Case) -> Json:
    plain, created, read, output, reasoning = case.usage
    total = plain + created + read
    usage: Json = {"input_tokens": total, "output_tokens": output, "total_tokens": total + output}
    usage["input_tokens_details"] = {"cached_tokens": read, "cache_write_tokens": created}
    usage["output_tokens_details"] = {"reasoning_tokens": reasoning}
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(case.finish_reason)
    ending: Json = {"status": "incomplete", "incomplete_details": {"reason": reason}} if reason else {}
    items = _output(case) if case.output is None else case.output
    return {"status": "completed", "output": list(items), "usage": usage} | ending


def _output(case: Case) -> list[Json]:
    """The output that says what the content and the message of a case do."""
    calls = {call["id"]: call for call in case.message.get("tool_calls", ())}
    items: list[Json] = []
    for block in case.content:
        match block["type"]:
            case "thinking":
                item: Json = {"type": "reasoning"}
                item["summary"] = [{"type": "summary_text", "text": block["thinking"]}] if block["thinking"] else []
                if block["signature"]:
                    is_openais = block["signature"].startswith("gAAAA")
                    item["encrypted_content"] = ("" if is_openais else "patchbay-signed:") + block["signature"]
                if len(item) > 2 or item["summary"]:
                    items.append(item)
            case "redacted_thinking":
                items.append(
                    {"type": "reasoning", "summary": [], "encrypted_content": f"patchbay-redacted:{block['data']}"}
                )
            case "text":
                if not items or items[-1]["type"] != "message":
                    items.append({"type": "message", "role": "assistant", "content": []})
                items[-1]["content"].append(_output_part(case, block["text"]))
            case "tool_use":
                items.append(_output_call(calls[block["id"]]))
    return items


def _output_part(case: Case, said: str) -> Json:
    if case.message.get("refusal") == said:
        return {"type": "refusal", "refusal": said}
    logprobs = case.more.get("logprobs", {}).get("content", [])
    return {"type": "output_text", "text": said, "annotations": [], "logprobs": logprobs}


def _output_call(call: Json) -> Json:
    if call["type"] == "custom":
        return {"type": "custom_tool_call", "call_id": call["id"], **call["custom"]}
    arguments = call["function"]["arguments"]
    written = arguments if arguments.strip() else arguments + "{}"
    return {"type": "function_call", "call_id": call["id"], "name": call["function"]["name"], "arguments": written}


def seen(client: str, got: Json) -> Json:
    """What of an answer the table speaks of."""
    got = _without_null(got)
    if client == "anthropic":
        for part in got["content"]:
            part.pop("caller", None)
        return {name: got[name] for name in ("content", "stop_reason", "usage")}
    if client == openai_responses.DIALECT.name:
        ids = [item.pop("id") for item in got["output"]]
        assert len(set(ids)) == len(ids)
        for item in got["output"]:
            item.pop("status", None)
            item.pop("parsed_arguments", None)
            for part in item.get("content", ()):
                part.pop("parsed", None)
        return {name: got[name] for name in ("status", "incomplete_details", "output", "usage") if name in got}
    for choice in got["choices"]:
        for call in choice["message"].get("tool_calls", ()):
            call.pop("index", None)
            call.get("function", {}).pop("parsed_arguments", None)
        choice["message"].pop("parsed", None)
    return {name: got[name] for name in ("choices", "usage")}


def expected(client: str, case: Case) -> Json:
    """What the client's SDK is to have, as `seen` shows it."""
    make = {"anthropic": _anthropic_answer, "openai_chat": _openai_answer}.get(client, _responses_answer)
    wanted: Json = _without_null(make(case))
    return wanted
