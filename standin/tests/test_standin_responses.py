"""The Responses API over HTTP."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from pydantic import BaseModel

from patchbay_standin import (
    ErrorEvent,
    ErrorReply,
    RedactedThinking,
    Refusal,
    Script,
    ServerToolUse,
    Text,
    Thinking,
    ToolCall,
    Usage,
    write_script,
)
from patchbay_standin.testing import StandinProcess

KEY = {"authorization": "Bearer made-up"}
SHOWN: Any = {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
CUSTOM = {"type": "custom", "name": "write"}
GROUP = {"type": "namespace", "name": "functions", "description": "d", "tools": [CUSTOM, {**FUNCTION, "name": "wait"}]}


def header(script: Script) -> dict[str, str]:
    return {"x-standin-script": write_script(script).decode()}


def test_a_stream_on_the_wire(ask: Any) -> None:
    script = Script(text="Hi you", usage=Usage(input=9, cache_read=4, output=3, reasoning=1))
    answer = ask("responses", "gpt-x", stream=True, headers=header(script), metadata={"a": "b"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    names, events = zip(*answer.events, strict=True)
    assert list(names) == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    identity = events[0]["response"]["id"]
    item_id = events[2]["item"]["id"]
    assert (identity[:5], item_id[:4]) == ("resp_", "msg_")
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
    whole = {**part, "text": "Hi you"}
    item = {"id": item_id, "type": "message", "role": "assistant", "phase": "final_answer"}
    done = {**item, "status": "completed", "content": [whole]}
    place = {"item_id": item_id, "output_index": 0, "content_index": 0}
    expected = [
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **place, "part": part},
        *[
            {"type": "response.output_text.delta", **place, "delta": delta, "logprobs": [], "obfuscation": "standin"}
            for delta in ("Hi", " you")
        ],
        {"type": "response.output_text.done", **place, "text": "Hi you", "logprobs": []},
        {"type": "response.content_part.done", **place, "part": whole},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
    ]
    assert [{k: v for k, v in event.items() if k != "sequence_number"} for event in events[2:-1]] == expected
    created, progress, completed = events[0], events[1], events[-1]
    assert (created["type"], progress["type"], completed["type"]) == (
        "response.created",
        "response.in_progress",
        "response.completed",
    )
    assert created["response"] == progress["response"]
    assert created["response"] | {"status": "completed"} == completed["response"] | {
        "output": [],
        "usage": None,
        "completed_at": None,
    }
    assert completed["response"]["output"] == [done]
    assert completed["response"]["metadata"] == {"a": "b"}
    assert completed["response"]["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 12,
    }


CITATION: dict[str, object] = {
    "type": "url_citation",
    "url": "https://example.com",
    "title": "t",
    "start_index": 0,
    "end_index": 3,
}
SCRIPTS = {
    "text": Script(text="One two  three.\n\nFour."),
    "thinking": Script(blocks=[Thinking(text="First.\n\nSecond one."), Text(text="Yes.")]),
    "raw thinking": Script(blocks=[Thinking(text="a b"), Text(text="c")], reasoning_field="reasoning_text"),
    "hidden thinking": Script(blocks=[RedactedThinking(data="x"), Thinking(text="t", signature=""), Text(text="Yes.")]),
    "tools": Script(blocks=[Text(text="Two."), ToolCall(name="f", input={"x": [1, "é"]}), ToolCall(name="g")]),
    "interleaved": Script(
        blocks=[
            Text(text="a"),
            ToolCall(name="f", input={"x": "y" * 50}),
            ToolCall(name="write", text="w" * 30),
            Text(text="b"),
        ],
        interleave_tools=True,
    ),
    "custom": Script(blocks=[ToolCall(name="write", text='say "hi"\n')]),
    "bad arguments": Script(blocks=[ToolCall(name="f", arguments='{"x": ')]),
    "refusal": Script(blocks=[Text(text="Well. "), Refusal(text="I will not.")]),
    "citations": Script(blocks=[Text(text="See it.", citations=[CITATION])]),
    "search": Script(blocks=[ServerToolUse(input={"query": "q"}), Text(text="Found.")]),
    "usage": Script(text="Hi.", usage=Usage(input=100, cache_read=60, cache_write=2, output=7, reasoning=3)),
    "cut short": Script(text="Too long", stop_reason="max_tokens"),
    "filtered": Script(text="No", stop_reason="content_filter"),
    "failed": Script(text="No", stop_reason="failed"),
    "nothing": Script(text=""),
}
STATUSES = {"cut short": "incomplete", "filtered": "incomplete", "failed": "failed"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_sdk_reads_the_same_from_stream_and_body(
    name: str, standin: StandinProcess, openai_client: openai.OpenAI
) -> None:
    arguments: Any = {
        "model": standin.script("scripted", SCRIPTS[name]),
        "input": "hello",
        "tools": [FUNCTION, CUSTOM],
        **SHOWN,
    }
    whole = openai_client.responses.create(**arguments)
    with openai_client.responses.stream(**arguments) as stream:
        events = list(stream)
    last: Any = events[-1]
    assert last.type == f"response.{STATUSES.get(name, 'completed')}"
    done = {event.output_index: event.item for event in events if event.type == "response.output_item.done"}

    def comparable(items: Any) -> list[dict[str, Any]]:
        kept = []
        for item in items:
            fields = item.to_dict()
            for unique in ("id", "call_id", "parsed_arguments"):
                fields.pop(unique, None)
            for part in fields.get("content", ()):
                part.pop("parsed", None)
            kept.append(fields)
        return kept

    assert comparable(last.response.output) == comparable(whole.output)
    assert comparable(done[index] for index in sorted(done)) == comparable(whole.output)
    assert last.response.usage == whole.usage
    assert (whole.status, last.response.status) == (STATUSES.get(name, "completed"),) * 2
    told = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert told == whole.output_text


def test_what_the_parts_become(ask: Any, standin: StandinProcess) -> None:
    def output(name: str, **fields: Any) -> Any:
        model = standin.script("scripted", SCRIPTS[name])
        return ask("responses", model, tools=[FUNCTION, CUSTOM], **fields).json["output"]

    reasoning, message = output("thinking", **SHOWN)
    assert reasoning["summary"] == [
        {"type": "summary_text", "text": "First."},
        {"type": "summary_text", "text": "Second one."},
    ]
    assert reasoning["encrypted_content"].startswith("gAAAA")
    assert message["content"][0]["text"] == "Yes."
    # What was not asked for is not shown.
    assert output("thinking")[0]["summary"] == []
    assert "encrypted_content" not in output("thinking")[0]
    hidden, unsigned, _ = output("hidden thinking", **SHOWN)
    assert hidden["encrypted_content"].startswith("gAAAA")
    assert unsigned["encrypted_content"] is None
    assert output("raw thinking")[0]["content"] == [{"type": "reasoning_text", "text": "a b"}]
    (call,) = output("custom")
    assert (call["type"], call["name"], call["input"], call["id"][:4]) == (
        "custom_tool_call",
        "write",
        'say "hi"\n',
        "ctc_",
    )
    text, first, second = output("tools")
    assert (text["phase"], first["arguments"], second["arguments"]) == ("commentary", '{"x":[1,"é"]}', "{}")
    assert first["call_id"] != second["call_id"]
    (refused,) = output("refusal")
    assert [part["type"] for part in refused["content"]] == ["output_text", "refusal"]
    assert output("citations")[0]["content"][0]["annotations"] == [CITATION]
    assert output("search")[0]["action"] == {"type": "search", "query": "q"}
    (short,) = output("cut short")
    assert short["status"] == "incomplete"


def test_interleaved_calls_alternate(ask: Any) -> None:
    answer = ask("responses", "m", stream=True, tools=[FUNCTION, CUSTOM], headers=header(SCRIPTS["interleaved"]))
    told = [(event["type"].rpartition(".")[0], event["output_index"]) for _, event in answer.events if "delta" in event]
    assert (
        told[1:7]
        == [
            ("response.function_call_arguments", 1),
            ("response.custom_tool_call_input", 2),
        ]
        * 3
    )
    added = [event["output_index"] for name, event in answer.events if name == "response.output_item.added"]
    done = [event["output_index"] for name, event in answer.events if name == "response.output_item.done"]
    assert added == done == [0, 1, 2, 3]


def test_structured_output(openai_client: openai.OpenAI) -> None:
    class Weather(BaseModel):
        city: str
        days: list[int]

    answer = openai_client.responses.parse(model="gpt-x", input="weather", text_format=Weather)
    assert answer.output_parsed == Weather(city="text", days=[])


def call_of(answer: Any) -> tuple[str, str, str | None, str]:
    (item,) = answer.json["output"]
    return item["type"], item["name"], item.get("namespace"), item.get("arguments") or item.get("input")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('use tool f {"a": 1}', ("function_call", "f", None, '{"a":1}')),
        ('use tool write {"input": "x = 1"}', ("custom_tool_call", "write", "functions", "x = 1")),
        ('use tool functions.write {"b": 1}', ("custom_tool_call", "write", "functions", '{"b":1}')),
        ('use tool functions__wait {"b": 1}', ("function_call", "wait", "functions", '{"b":1}')),
    ],
)
@pytest.mark.parametrize("place", ["tools", "additional_tools"])
def test_calls_tools_wherever_they_are_offered(place: str, text: str, expected: object, ask: Any) -> None:
    user = {"role": "user", "content": [{"type": "input_text", "text": text}]}
    offered = [FUNCTION, GROUP]
    if place == "tools":
        answer = ask("responses", "m", input=[user], tools=offered)
    else:
        extra = {"type": "additional_tools", "role": "developer", "id": "at_1", "tools": offered}
        answer = ask("responses", "m", input=[extra, user])
    assert call_of(answer) == expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("required", ("function_call", "f", None, "{}")),
        ({"type": "custom", "name": "write"}, ("custom_tool_call", "write", "functions", "text")),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "wait"}]},
            ("function_call", "wait", "functions", "{}"),
        ),
    ],
)
def test_a_choice_that_demands_a_call(choice: object, expected: object, ask: Any) -> None:
    assert call_of(ask("responses", "m", tools=[FUNCTION, GROUP], tool_choice=choice)) == expected


def test_quotes_results_of_both_kinds_of_calls(ask: Any) -> None:
    items = [
        {"role": "user", "content": 'use tool f {"a": 1}'},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "write", "input": "x"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
    ]
    answer = ask("responses", "m", input=items, tools=[FUNCTION, CUSTOM])
    assert answer.json["output"][0]["content"][0]["text"] == "The tool answered: one\nThe tool answered: two"


def test_max_output_tokens(ask: Any) -> None:
    answer = ask("responses", "m", max_output_tokens=16)
    assert (answer.json["status"], answer.json["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer.json["usage"]["output_tokens"] == 16


def test_goes_on_from_a_stored_response(openai_client: openai.OpenAI) -> None:
    client = openai_client.responses
    first = client.create(model="m", input='use tool f {"a": 1}', tools=[FUNCTION])  # type: ignore[list-item]
    (call,) = first.output
    assert call.type == "function_call"
    second = client.create(
        model="m",
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "done"}],
    )
    assert second.output_text == "The tool answered: done"
    assert client.retrieve(second.id).output_text == second.output_text
    (item,) = client.input_items.list(second.id).data
    assert (item.type, item.id is not None) == ("function_call_output", True)
    client.delete(first.id)
    for identity in (first.id, "resp_unknown"):
        with pytest.raises(openai.NotFoundError, match=f"Response with id '{identity}' not found."):
            client.retrieve(identity)
        with pytest.raises(openai.BadRequestError) as raised:
            client.create(model="m", input="x", previous_response_id=identity)
        assert (raised.value.code, raised.value.param) == ("previous_response_not_found", "previous_response_id")


def test_a_response_that_is_not_stored_is_not_known(ask: Any, call: Any) -> None:
    identity = ask("responses", "m", store=False).json["id"]
    assert call("GET", f"/v1/responses/{identity}", None, KEY).status == 404
    assert ask("responses", "m", previous_response_id=identity).json["error"]["code"] == "previous_response_not_found"


def test_stored_streams_can_be_referred_to(ask: Any) -> None:
    events = ask("responses", "m", stream=True).events
    reference = {"type": "item_reference", "id": events[-1][1]["response"]["output"][0]["id"]}
    user = {"role": "user", "content": "x"}
    assert ask("responses", "m", input=[reference, user]).status == 200
    gone = ask("responses", "m", input=[{"type": "item_reference", "id": "rs_1"}, user])
    assert (gone.status, gone.json["error"]["message"][:24]) == (404, "Item with id 'rs_1' not ")


def test_input_items_in_pages(ask: Any, call: Any) -> None:
    items = [{"role": "user", "content": str(number)} for number in range(5)]
    path = f"/v1/responses/{ask('responses', 'm', input=items).json['id']}/input_items"
    page = call("GET", f"{path}?limit=2&order=asc", None, KEY).json
    assert [item["content"][0]["text"] for item in page["data"]] == ["0", "1"]
    assert (page["has_more"], page["last_id"]) == (True, page["data"][-1]["id"])
    page = call("GET", f"{path}?after={page['last_id']}&order=asc", None, KEY).json
    assert [item["content"][0]["text"] for item in page["data"]] == ["2", "3", "4"]
    assert call("GET", path, None, KEY).json["data"][0]["content"][0]["text"] == "4"


def test_counts_and_compacts(openai_client: openai.OpenAI, ask: Any, call: Any) -> None:
    counted = openai_client.responses.input_tokens.count(model="m", input="x" * 400, instructions="y" * 400)
    assert counted.input_tokens == 204
    history: Any = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    compacted = openai_client.responses.compact(model="m", input=history)
    assert [item.type for item in compacted.output] == ["message", "compaction"]
    items = call("POST", "/v1/responses/compact", {"model": "m", "input": history}, KEY).json["output"]
    assert ask("responses", "m", input=[*items, {"role": "user", "content": "next"}]).status == 200


def test_a_compaction_trigger_is_answered_with_a_compaction(ask: Any) -> None:
    items = [{"role": "user", "content": "a"}, {"type": "compaction_trigger"}]
    answer = ask("responses", "m", input=items, stream=True, headers=header(Script(text="never said")))
    (item,) = answer.events[-1][1]["response"]["output"]
    assert (item["type"], item["encrypted_content"][:5]) == ("compaction", "gAAAA")
    assert "response.compaction.compacting" in [name for name, _ in answer.events]
    assert ask("responses", "m", input=[item, {"role": "user", "content": "next"}]).status == 200


def test_reasoning_comes_back_only_with_content_of_this_api(ask: Any) -> None:
    def again(secret: str | None) -> Any:
        item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": secret}
        return ask("responses", "m", input=[item, {"role": "user", "content": "x"}])

    script = header(SCRIPTS["thinking"])
    made = ask("responses", "m", headers=script, **SHOWN).json["output"][0]["encrypted_content"]
    assert again(made).status == again("gAAAArecorded").status == 200
    foreign = again("EqQBCkYIBxgCKkA=")
    assert (foreign.status, foreign.json["error"]["code"]) == (400, "invalid_encrypted_content")
    assert again(None).status == 404


def test_log_probabilities(ask: Any) -> None:
    script = header(Script(text="a b"))
    fields: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "headers": script}
    (part,) = ask("responses", "m", **fields).json["output"][0]["content"]
    events = ask("responses", "m", stream=True, **fields).events
    streamed = [entry for _, event in events if "delta" in event for entry in event["logprobs"]]
    assert part["logprobs"] == streamed
    assert [(entry["token"], len(entry["top_logprobs"])) for entry in streamed] == [("a", 2), (" b", 2)]


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (ErrorEvent(status=529), "server_is_overloaded"),
        (ErrorEvent(status=429, message="Try again in 1.5s"), "rate_limit_exceeded"),
        (ErrorEvent(code="context_length_exceeded"), "context_length_exceeded"),
    ],
)
def test_a_failure_inside_a_stream(event: ErrorEvent, code: str, ask: Any) -> None:
    script = Script(blocks=[Text(text="a b")], error_event=event)
    name, last = ask("responses", "m", stream=True, headers=header(script)).events[-1]
    assert name == "response.failed"
    assert (last["response"]["status"], last["response"]["error"]["code"]) == ("failed", code)


def test_errors_before_any_content_come_before_any_item(ask: Any) -> None:
    events = ask("responses", "standin-overloaded-in-stream", stream=True).events
    assert [name for name, _ in events] == ["response.created", "response.in_progress", "response.failed"]
    script = Script(blocks=[ToolCall(name="f", input={"a": 1})], error_event=ErrorEvent(after=0))
    assert len(ask("responses", "m", stream=True, headers=header(script)).events) == 3


def test_events_of_the_scripts_own(ask: Any, openai_client: openai.OpenAI, standin: StandinProcess) -> None:
    event: dict[str, object] = {"type": "codex.something", "value": 1}
    script = Script(text="a", extra_events=[event])
    assert ask("responses", "m", stream=True, headers=header(script)).events[2] == ("codex.something", event)
    # A client that does not know it goes on.
    with openai_client.responses.stream(model=standin.script("scripted", script), input="x") as stream:
        assert stream.get_final_response().output_text == "a"


def test_an_error_event_of_its_own(ask: Any) -> None:
    script = Script(text="a b", error_event=ErrorEvent(after=1, event="error", code="c", message="m", param="p"))
    name, last = ask("responses", "m", stream=True, headers=header(script)).events[-1]
    assert (name, last["code"], last["message"], last["param"]) == ("error", "c", "m", "p")


BAD: list[tuple[dict[str, object], str, str | None, str | None]] = [
    ({"messages": []}, "Unsupported parameter: 'messages'. In the Responses API, this", None, "unsupported_parameter"),
    ({"max_tokens": 9}, "Unsupported parameter: 'max_tokens'. In the Responses API", None, "unsupported_parameter"),
    ({"generate": False}, "Unknown parameter: 'generate'.", "generate", "unknown_parameter"),
    ({"type": "response.create"}, "Unknown parameter: 'type'.", "type", "unknown_parameter"),
    ({"stop": "x"}, "Unknown parameter: 'stop'.", "stop", "unknown_parameter"),
    ({"input": None}, 'One of "input" or "previous_response_id" or', None, "missing_required_parameter"),
    ({"stream": "yes"}, "Invalid type for 'stream': expected", "stream", "invalid_type"),
    (
        {"temperature": 3},
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3",
        "temperature",
        "decimal_above_max_value",
    ),
    (
        {"max_output_tokens": 5},
        "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16",
        "max_output_tokens",
        "integer_below_min_value",
    ),
    ({"background": True}, "Background responses are not supported.", "background", "unsupported_value"),
    ({"include": ["x"]}, "Invalid value: 'x'. Supported values are: 'file_search", "include[0]", "invalid_value"),
    ({"metadata": {"a": 1}}, "Invalid type for 'metadata", "metadata[...]", "invalid_type"),
    ({"tool_choice": "required"}, "Tool choice 'required' must be specified with 'tools'", "tool_choice", None),
    ({"tool_choice": {"type": "function", "name": "g"}}, "Tool choice 'g' not found in 'tools'", "tool_choice", None),
    ({"text": {"format": {"type": "json_object"}}}, "Response input messages must contain the word", "input", None),
    ({"text": {"format": {"type": "json_schema"}}}, "Missing required parameter: 'text.format.name'.", None, None),
    (
        {"text": {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": {"type": "object"}}}},
        "Invalid schema for response_format 'n': In context=(), 'additionalProperties' is required",
        "text.format.schema",
        "invalid_json_schema",
    ),
    (
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        "Missing required parameter: 'tools[0].name'.",
        None,
        None,
    ),
    ({"tools": [{**FUNCTION, "cache_control": {}}]}, "Unknown parameter: 'tools[0].cache_control'.", None, None),
    ({"tools": [{**FUNCTION, "name": "a b"}]}, "Invalid 'tools[0].name': string does not match", None, "invalid_value"),
    ({"tools": [{**FUNCTION, "name": "n" * 65}]}, "Invalid 'tools[0].name': string too long.", None, None),
    (
        {"tools": [{**FUNCTION, "parameters": {"type": "array"}}]},
        "Invalid schema for function 'f': schema must be a JSON Schema of 'type: \"object\"'",
        "tools[0].parameters",
        "invalid_function_parameters",
    ),
    ({"tools": [{"type": "bash"}]}, "Invalid value: 'bash'. Supported values are: 'function'", "tools[0].type", None),
    (
        {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "custom"}]}]},
        "Missing required parameter: 'tools[0].tools[0].name'.",
        None,
        None,
    ),
    (
        {"input": [{"role": "tool", "content": "x"}]},
        "Invalid value: 'tool'. Supported values are: 'assistant', ",
        None,
        None,
    ),
    ({"input": [{"type": "tool_use"}]}, "Invalid value: 'tool_use'. Supported values are: 'message'", None, None),
    (
        {"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        "Invalid value: 'text'. Supported values are: 'input_text', 'input_image', 'input_file', and 'input_audio'.",
        "input[0].content[0].type",
        "invalid_value",
    ),
    (
        {"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]},
        "Invalid value: 'input_text'. Supported values are: 'output_text', and 'refusal'.",
        None,
        None,
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": {"url": "data:,"}}]}]},
        "Invalid type for 'input[0].content[0].image_url': expected a string, but got an object instead.",
        "input[0].content[0].image_url",
        "invalid_type",
    ),
    ({"input": [{"role": "user", "content": "x", "name": "n"}]}, "Unknown parameter: 'input[0].name'.", None, None),
    (
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x", "cache_control": {}}]}]},
        "Unknown parameter: 'input[0].content[0].cache_control'.",
        None,
        None,
    ),
    (
        {"input": [{"role": "user", "content": "x", "id": "item_1"}]},
        "Invalid 'input[0].id': 'item_1'. Expected an ID that begins with 'msg'.",
        "input[0].id",
        "invalid_value",
    ),
    (
        {"input": [{"role": "user", "content": "x", "id": "msg_" + "x" * 61}]},
        "Invalid 'input[0].id': string too long. Expected a string with maximum length 64, but got a string with",
        "input[0].id",
        "string_above_max_length",
    ),
    (
        {"input": [{"role": "user", "content": "x", "id": "msg_1"}] * 2},
        "Duplicate item found with id msg_1.",
        "input",
        None,
    ),
    (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
        "No tool call found for function call output with call_id c.",
        "input",
        None,
    ),
    (
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]},
        "No tool output found for function call c.",
        "input",
        None,
    ),
    (
        {"input": [{"type": "custom_tool_call", "call_id": "", "name": "f", "input": ""}]},
        "Invalid 'input[0].call_id': empty string.",
        "input[0].call_id",
        "empty_string",
    ),
    (
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": {}}]},
        "Invalid type for 'input[0].arguments': expected a string, but got an object instead.",
        None,
        None,
    ),
]


@pytest.mark.parametrize(("fields", "message", "param", "code"), BAD, ids=[row[1][:50] for row in BAD])
def test_refuses_what_the_api_refuses(
    fields: dict[str, object], message: str, param: str | None, code: str | None, ask: Any
) -> None:
    answer = ask("responses", "m", **fields)
    assert answer.status == 400
    error = answer.json["error"]
    assert error["message"].startswith(message)
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param
    if code is not None:
        assert error["code"] == code


def test_scripted_errors_are_the_apis(ask: Any, call: Any) -> None:
    reply = ErrorReply(status=429, type="tokens", code="rate_limit_exceeded", message="Slow", fields={"more": 1})
    answer = ask("responses", "m", headers=header(Script(error=reply)))
    error = {"message": "Slow", "type": "tokens", "param": None, "code": "rate_limit_exceeded", "more": 1}
    assert (answer.status, answer.json) == (429, {"error": error})
    assert call("POST", "/v1/responses", {"model": "m", "input": "x"}).status == 401
    assert ask("responses", "standin-nonsense").json["error"]["code"] == "model_not_found"
    cancelled = call("POST", f"/v1/responses/{ask('responses', 'm').json['id']}/cancel", {}, KEY)
    assert cancelled.json["error"]["message"] == "Cannot cancel a synchronous response."
    assert call("PUT", "/v1/responses/x", {}, KEY).status == 404


def test_protocol_in_the_records(ask: Any, standin: StandinProcess) -> None:
    ask("responses", "gpt-x")
    (request,) = standin.requests()
    assert (request.protocol, request.model, request.outcome) == ("openai-responses", "gpt-x", "completed")
