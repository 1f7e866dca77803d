"""The Responses API through Patchbay with the official SDKs, over every kind of upstream; sessions and accounts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from claude_code import Claude
from pydantic import BaseModel
from redis import Redis
from ways import PIXEL

from patchbay.testing.cluster import Cluster, ServiceProcess
from patchbay.testing.eventually import wait_until
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin import Account, ErrorReply, Quota, RefreshFault, Refusal, Script, Text, Thinking, ToolCall, Usage
from patchbay_standin.testing import StandinProcess

Json = dict[str, Any]

SECRETS_KEY = "5f" * 32
BACKENDS = ("chatgpt", "platform", "anthropic", "chat")
WEATHER: Json = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
CALL = ToolCall(name="get_weather", input={"city": "Lisbon"}, id="call_weather")
PHOTO = f"data:image/png;base64,{PIXEL}"


class Answer(BaseModel):
    city: str
    degrees: int


@pytest.fixture(scope="module")
def upstream() -> Iterator[StandinProcess]:
    with StandinProcess() as process:
        yield process


def config_for(upstream: StandinProcess, home: Path, *accounts: str, kinds: tuple[str, ...] = BACKENDS) -> Json:
    """The backends of `kinds`; the ChatGPT one with these accounts in files of their own."""
    files = []
    for name in accounts:
        upstream.account(name, Account())
        path = home / f"{name}.json"
        path.write_text(json.dumps(upstream.sign_in(name).auth_json()))
        files.append(str(path))
    backends: Json = {
        "chatgpt": {
            "kind": "codex",
            "credentials": "signed_in",
            "base_url": f"{upstream.url}/backend-api",
            "oauth_issuer": upstream.url,
            "codex_home": str(home),
            "accounts": files,
        },
        "platform": {"kind": "openai-responses", "base_url": f"{upstream.url}/v1", "api_key": "sk-made-up"},
        "anthropic": {"base_url": upstream.url, "api_key": "sk-ant-made-up"},
        "chat": {"kind": "openai", "base_url": f"{upstream.url}/v1", "api_key": "sk-made-up"},
    }
    chosen = {name: backend for name, backend in backends.items() if name in kinds}
    return {"backends": {"default_backend": kinds[0], **chosen}, "security": {"secrets_key": SECRETS_KEY}}


KINDS = ("codex-worker", "openai-worker", "claude-worker")


@pytest.fixture(scope="module")
def cluster(upstream: StandinProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    config = config_for(upstream, tmp_path_factory.mktemp("codex-home"), "work")
    with ValkeyProcess() as valkey, Cluster(config, redis_url=valkey.url, kinds=KINDS) as running:
        yield running


@pytest.fixture
def client(cluster: Cluster, upstream: StandinProcess) -> Iterator[openai.OpenAI]:
    upstream.reset()
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="made-up", max_retries=0, timeout=20) as made:
        yield made


ALL = pytest.mark.parametrize("backend", BACKENDS)


def scripted(upstream: StandinProcess, backend: str, script: Script, name: str = "scripted-standin") -> str:
    return f"{backend}/{upstream.script(name, script)}"


@ALL
def test_an_answer_with_reasoning(client: openai.OpenAI, upstream: StandinProcess, backend: str) -> None:
    script = Script(blocks=[Thinking(text="Hm."), Text(text="Fine.")], usage=Usage(input=30, cache_read=10, output=7))
    response = client.responses.create(
        model=scripted(upstream, backend, script),
        instructions="Be brief.",
        input="How are you?",
        reasoning={"effort": "low", "summary": "auto"},
        metadata={"a": "b"} if backend != "chatgpt" else {},
    )
    assert (response.status, response.output_text) == ("completed", "Fine.")
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (30, 7)
    assert response.usage.input_tokens_details.cached_tokens == 10
    assert response.instructions == "Be brief." or backend == "chatgpt"
    if backend in ("chatgpt", "platform"):
        (reasoning,) = (item for item in response.output if item.type == "reasoning")
        assert [part.text for part in reasoning.summary] == ["Hm."]


@ALL
def test_the_stream_and_what_it_adds_up_to(client: openai.OpenAI, upstream: StandinProcess, backend: str) -> None:
    script = Script(blocks=[Text(text="I will look it up."), CALL])
    model = scripted(upstream, backend, script)
    with client.responses.stream(model=model, input="Lisbon?", tools=[WEATHER]) as stream:  # type: ignore[list-item]
        events = list(stream)
        final = stream.get_final_response()
    assert events[0].type == "response.created"
    assert (
        "".join(event.delta for event in events if event.type == "response.output_text.delta") == "I will look it up."
    )
    (call,) = (item for item in final.output if item.type == "function_call")
    assert (call.name, call.call_id, json.loads(call.arguments)) == ("get_weather", "call_weather", {"city": "Lisbon"})
    done = [event for event in events if event.type == "response.output_item.done"]
    assert [event.item.id for event in done] == [item.id for item in final.output]


@ALL
def test_a_round_trip_of_a_tool(client: openai.OpenAI, upstream: StandinProcess, backend: str) -> None:
    asked: list[Any] = [{"role": "user", "content": "Lisbon?"}]
    first = client.responses.create(
        model=scripted(upstream, backend, Script(blocks=[CALL])), input=asked, tools=[WEATHER], store=False,  # type: ignore[list-item]
        include=["reasoning.encrypted_content"],
    )  # fmt: skip
    result = {"type": "function_call_output", "call_id": "call_weather", "output": "21 degrees"}
    second = client.responses.create(
        model=scripted(upstream, backend, Script(text="21.")),
        input=[*asked, *(item.to_dict() for item in first.output), result],
        tools=[WEATHER],  # type: ignore[list-item]
        store=False,
    )
    assert second.output_text == "21."
    said = json.dumps(upstream.requests()[-1].body)
    assert said.index("Lisbon?") < said.index("call_weather") < said.index("21 degrees")


@ALL
def test_images_and_structured_answers(client: openai.OpenAI, upstream: StandinProcess, backend: str) -> None:
    image = {"type": "input_image", "image_url": PHOTO, "detail": "auto"}
    asked: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "Where?"}, image]}]
    model = scripted(upstream, backend, Script(text='{"city":"Lisbon","degrees":21}'), "claude-sonnet-4-5-standin")
    response = client.responses.parse(model=model, input=asked, text_format=Answer)
    assert response.output_parsed == Answer(city="Lisbon", degrees=21)
    said = json.dumps(upstream.requests()[-1].body)
    assert PIXEL in said


@ALL
def test_a_turn_that_goes_on(client: openai.OpenAI, upstream: StandinProcess, backend: str) -> None:
    first = client.responses.create(model=scripted(upstream, backend, Script(text="Seven.")), input="A number?")
    model = scripted(upstream, backend, Script(text="Because."))
    second = client.responses.create(model=model, input="Why?", previous_response_id=first.id)
    assert second.output_text == "Because."
    assert client.responses.retrieve(second.id).output_text == "Because."
    body = upstream.requests()[-1].body
    if backend == "platform":
        # It has made that response and keeps it itself.
        assert body["previous_response_id"] == first.id
    else:
        said = json.dumps(body)
        assert said.index("A number?") < said.index("Seven.") < said.index("Why?")
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)


@ALL
def test_a_conversation_is_compacted(client: openai.OpenAI, upstream: StandinProcess, backend: str) -> None:
    model = scripted(upstream, backend, Script(text="A key is hidden."))
    said: Any = [
        {"role": "user", "content": "Where is the key?"},
        {"role": "assistant", "content": "Under the mat."},
    ]
    compacted = client.responses.compact(model=model, input=said)
    asked, compaction = compacted.output
    assert (compacted.object, asked.type, compaction.type) == ("response.compaction", "message", "compaction")
    assert compacted.usage.input_tokens > 0
    going_on: Any = [*(item.model_dump(exclude_none=True) for item in compacted.output), said[0]]
    model = scripted(upstream, backend, Script(text="As I said."), "again-standin")
    assert client.responses.create(model=model, input=going_on).output_text == "As I said."
    last = json.dumps(upstream.requests()[-1].body)
    assert ("A key is hidden." in last) == (backend in ("anthropic", "chat"))
    assert last.count("Where is the key?") == 2


@pytest.mark.parametrize("backend", ["chatgpt", "platform"])
def test_a_tool_with_a_long_name_is_called_by_it(client: openai.OpenAI, upstream: StandinProcess, backend: str) -> None:
    tool = WEATHER | {"name": "mcp__weather__" + "station_" * 10}
    arguments: Json = {"input": "How is it?", "tools": [tool], "parallel_tool_calls": False}
    model = scripted(upstream, backend, Script(text="Let me see."))
    client.responses.create(model=model, **arguments)
    told = _body_of(upstream)["tools"][0]["name"]
    assert len(told) <= 64
    call = ToolCall(name=told, input={"city": "Lisbon"}, id="call_weather")
    model = scripted(upstream, backend, Script(blocks=[call]), "calls-standin")
    with client.responses.stream(model=model, **arguments) as stream:
        said = stream.get_final_response().output[-1]
    assert (said.type, said.name) == ("function_call", tool["name"])
    result = {"type": "function_call_output", "call_id": said.call_id, "output": "Sunny"}
    called = {name: value for name, value in said.to_dict().items() if name != "parsed_arguments"}
    arguments["input"] = [{"role": "user", "content": "How is it?"}, called, result]
    model = scripted(upstream, backend, Script(text="Sunny."), "last-standin")
    assert client.responses.create(model=model, **arguments).output_text == "Sunny."
    assert told in [item.get("name") for item in _body_of(upstream)["input"]]


def _body_of(upstream: StandinProcess) -> Json:
    body = upstream.requests()[-1].body
    assert isinstance(body, dict)
    return body


@ALL
def test_over_a_websocket(client: openai.OpenAI, upstream: StandinProcess, backend: str) -> None:
    model = scripted(upstream, backend, Script(text="Seven."))
    with client.responses.connect() as connection:
        said = []
        previous: Json = {}
        for words in ("A number?", "Another?"):
            connection.response.create(model=model, input=words, store=False, **previous)
            for event in connection:
                if event.type == "response.completed":
                    said.append(event.response.output_text)
                    previous = {"previous_response_id": event.response.id}
                    break
    assert said == ["Seven.", "Seven."]
    sent = json.dumps(upstream.requests()[-1].body)
    assert sent.index("A number?") < sent.index("Seven.") < sent.index("Another?")


FAULTS: list[tuple[Script, type[openai.APIStatusError]]] = [
    (Script(error=ErrorReply(status=400, message="no good")), openai.BadRequestError),
    (Script(error=ErrorReply(status=429, message="slow down", retry_after=3)), openai.RateLimitError),
    (Script(error=ErrorReply(status=500, message="broken")), openai.InternalServerError),
]


@ALL
@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_an_upstreams_error_is_the_clients(
    client: openai.OpenAI, upstream: StandinProcess, backend: str, number: int
) -> None:
    script, expected = FAULTS[number]
    model = scripted(upstream, backend, script)
    for stream in (False, True):
        with pytest.raises(expected) as raised:
            client.responses.create(model=model, input="x", stream=stream)
        assert script.error is not None
        assert script.error.message in str(raised.value)


@ALL
def test_an_answer_that_breaks_off_fails_in_the_stream(
    client: openai.OpenAI, upstream: StandinProcess, backend: str
) -> None:
    model = scripted(upstream, backend, Script(deltas=20, cut_after=5))
    with pytest.raises(openai.APIError):
        client.responses.create(model=model, input="x")
    kinds = [event.type for event in client.responses.create(model=model, input="x", stream=True)]
    assert kinds[-1] == "response.failed"


@ALL
def test_an_answer_at_its_limit_and_a_refusal(client: openai.OpenAI, upstream: StandinProcess, backend: str) -> None:
    cut = client.responses.create(
        model=scripted(upstream, backend, Script(text="Half", stop_reason="max_tokens")), input="x"
    )
    assert (cut.status, cut.incomplete_details and cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    refused = client.responses.create(
        model=scripted(upstream, backend, Script(blocks=[Refusal(text="No.")])), input="x"
    )
    assert "No." in json.dumps(refused.to_dict())


CALLS = [ToolCall(name="get_weather", input={"city": city}, id=f"call_{city}") for city in ("Lisbon", "Porto")]


@ALL
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_calls_in_parallel(client: openai.OpenAI, upstream: StandinProcess, backend: str, stream: bool) -> None:
    arguments: Any = {"input": "Lisbon and Porto?", "tools": [WEATHER], "parallel_tool_calls": True, "store": False}
    model = scripted(upstream, backend, Script(blocks=[Text(text="I will look."), *CALLS]))
    if stream:
        # As it comes: what the SDK's own helper adds to the items is no input.
        *_, end = client.responses.create(model=model, stream=True, **arguments)
        assert end.type == "response.completed"
        output = end.response.output
    else:
        output = client.responses.create(model=model, **arguments).output
    called = [(item.call_id, json.loads(item.arguments)) for item in output if item.type == "function_call"]
    assert called == [(call.id, call.input) for call in CALLS]
    # The results come back in another order than the calls were made in.
    results = [
        {"type": "function_call_output", "call_id": call.id, "output": f"Fine in {call.input['city']}."}
        for call in reversed(CALLS)
    ]
    said = [item.to_dict() for item in output]
    arguments["input"] = [{"role": "user", "content": "Lisbon and Porto?"}, *said, *results]
    model = scripted(upstream, backend, Script(text="Fine in both."), "last-standin")
    assert client.responses.create(model=model, **arguments).output_text == "Fine in both."
    sent = json.dumps(upstream.requests()[-1].body)
    assert all(f"Fine in {call.input['city']}." in sent for call in CALLS)


OTHERS = pytest.mark.parametrize("backend", ["chatgpt", "platform"])
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
SCHEMA: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}


def ask_as_anthropic(url: str, model: str, stream: bool, content: Any = "Hi", **fields: Any) -> anthropic.types.Message:
    messages: Any = [{"role": "user", "content": content}]
    with anthropic.Anthropic(base_url=url, api_key="made-up", max_retries=0, timeout=20) as claude:
        asked: Json = {"model": model, "max_tokens": 8000, "messages": messages, **fields}
        if not stream:
            message: anthropic.types.Message = claude.messages.create(**asked)
            return message
        with claude.messages.stream(**asked) as events:
            return events.get_final_message()


def ask_as_chat(url: str, model: str, stream: bool, content: Any = "Hi", **fields: Any) -> Any:
    """The choice."""
    messages: Any = [{"role": "user", "content": content}]
    with openai.OpenAI(base_url=f"{url}/codex", api_key="made-up", max_retries=0, timeout=20) as under_codex:
        asked: Json = {"model": model, "messages": messages, **fields}
        if not stream:
            return under_codex.chat.completions.create(**asked).choices[0]
        with under_codex.chat.completions.stream(**asked) as events:
            for _ in events:
                pass
            return events.get_final_completion().choices[0]


@OTHERS
@STREAMS
def test_the_other_clients_on_a_codex_backend(
    cluster: Cluster, client: openai.OpenAI, upstream: StandinProcess, backend: str, stream: bool
) -> None:
    model = scripted(upstream, backend, Script(blocks=[Thinking(text="Hm."), Text(text="Fine."), *CALLS]))
    tools: Any = [{"name": "get_weather", "input_schema": WEATHER["parameters"]}]
    thinking = {"type": "enabled", "budget_tokens": 2000}
    message = ask_as_anthropic(cluster.url, model, stream, tools=tools, thinking=thinking)
    kinds = [block.type for block in message.content]
    assert (kinds, message.stop_reason) == (["thinking", "text", "tool_use", "tool_use"], "tool_use")
    calls = [(block.id, block.input) for block in message.content if block.type == "tool_use"]
    assert calls == [(call.id, call.input) for call in CALLS]
    chat_tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER["parameters"]}}]
    choice = ask_as_chat(cluster.url, model, stream, tools=chat_tools)
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Fine.")
    called = [(call.id, json.loads(call.function.arguments)) for call in choice.message.tool_calls]
    assert called == [(call.id, call.input) for call in CALLS]


@OTHERS
@STREAMS
def test_images_and_schemas_of_the_other_clients_on_a_codex_backend(
    cluster: Cluster, client: openai.OpenAI, upstream: StandinProcess, backend: str, stream: bool
) -> None:
    model = scripted(upstream, backend, Script(text='{"city":"Lisbon","degrees":21}'))
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    content: Any = [{"type": "text", "text": "Where?"}, {"type": "image", "source": source}]
    output_config = {"format": {"type": "json_schema", "schema": SCHEMA}}
    message = ask_as_anthropic(cluster.url, model, stream, content, output_config=output_config)
    (block,) = message.content
    assert block.type == "text"
    asked = [_body_of(upstream)]
    content = [{"type": "text", "text": "Where?"}, {"type": "image_url", "image_url": {"url": PHOTO}}]
    response_format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    choice = ask_as_chat(cluster.url, model, stream, content, response_format=response_format)
    asked.append(_body_of(upstream))
    for text in (block.text, choice.message.content):
        assert Answer.model_validate_json(text) == Answer(city="Lisbon", degrees=21)
    for body in asked:
        said, image = body["input"][-1]["content"]
        assert (said["text"], image["type"], image["image_url"]) == ("Where?", "input_image", PHOTO)
        assert (body["text"]["format"]["type"], body["text"]["format"]["schema"]) == ("json_schema", SCHEMA)


@OTHERS
@STREAMS
@pytest.mark.parametrize("status", [400, 429])
def test_errors_of_a_codex_backend_are_those_of_the_other_clients(
    cluster: Cluster, client: openai.OpenAI, upstream: StandinProcess, backend: str, stream: bool, status: int
) -> None:
    after = 3 if status == 429 else None
    model = scripted(upstream, backend, Script(error=ErrorReply(status=status, message="no good", retry_after=after)))
    with pytest.raises(anthropic.APIStatusError) as of_anthropic:
        ask_as_anthropic(cluster.url, model, stream)
    with pytest.raises(openai.APIStatusError) as of_chat:
        ask_as_chat(cluster.url, model, stream)
    for failure in (of_anthropic.value, of_chat.value):
        assert (failure.status_code, "no good" in str(failure)) == (status, True)
        assert failure.response.headers.get("retry-after") == (str(after) if after else None)
    kind = {400: "invalid_request_error", 429: "rate_limit_error"}[status]
    assert of_anthropic.value.response.json()["error"]["type"] == kind


@pytest.mark.parametrize("backend", ["chatgpt", "platform"])
def test_the_claude_program_on_an_upstream_of_this_api(
    cluster: Cluster, upstream: StandinProcess, tmp_path: Path, backend: str
) -> None:
    claude = Claude(tmp_path)
    (claude.work / "note.txt").write_text("the colour of the day is ultramarine")
    call = ToolCall(name="Bash", input={"command": "cat note.txt", "description": "Shows it"}, id="call_1")
    script = Script(attempts=[Script(blocks=[Thinking(text="Hm."), call]), Script(text="Ultramarine.")])
    answer = claude.run("Which colour?", url=cluster.url, model=scripted(upstream, backend, script), tools=("Bash",))
    assert (answer["subtype"], answer["num_turns"], answer["result"]) == ("success", 2, "Ultramarine.")
    assert answer["usage"]["output_tokens"] > 0
    first, second = (request.body for request in upstream.requests()[-2:])
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    # What the provider has cached of the first request holds for the second.
    assert second["input"][: len(first["input"])] == first["input"]
    assert second["tools"] == first["tools"]
    *_, called, result = second["input"]
    assert (called["type"], called["name"], called["call_id"]) == ("function_call", "Bash", result["call_id"])
    assert "ultramarine" in json.dumps(result["output"])


def test_codex_is_told_of_models_as_its_own_provider_tells_it(cluster: Cluster, upstream: StandinProcess) -> None:
    models = httpx.get(f"{cluster.url}/codex/models", params={"client_version": "0.169.0"}, timeout=20).json()["models"]
    tokens = upstream.sign_in("work")
    headers = {"authorization": f"Bearer {tokens.access_token}", "chatgpt-account-id": tokens.account_id}
    url = f"{upstream.url}/backend-api/codex/models"
    own = httpx.get(url, params={"client_version": "0.169.0"}, headers=headers, timeout=20).json()["models"]
    theirs = {model["slug"]: model for model in own}
    # Names that other backends offer as well stand for those.
    listed = [model for model in models if model["slug"].startswith("gpt-") and model["slug"] in theirs]
    assert len(listed) >= 3
    for model in listed:
        assert model == theirs[model["slug"]] | {"priority": model["priority"]}


@pytest.mark.parametrize("backend", ["chatgpt", "platform"])
def test_another_model_than_asked_for_is_no_header(
    client: openai.OpenAI, upstream: StandinProcess, backend: str
) -> None:
    """Codex would tell its user that the account was flagged."""
    script = Script(text="Fine.", headers={"openai-model": "another", "x-should-retry": "false"})
    model = scripted(upstream, backend, script)
    answer = client.responses.with_raw_response.create(model=model, input="x")
    assert answer.headers["x-should-retry"] == "false"
    assert "openai-model" not in answer.headers


def test_reasoning_as_an_element_of_the_text(upstream: StandinProcess, tmp_path: Path) -> None:
    upstream.reset()
    config = config_for(upstream, tmp_path, "xml", kinds=("chatgpt",))
    config["backends"]["chatgpt"]["reasoning_format"] = "xml"
    model = scripted(upstream, "chatgpt", Script(blocks=[Thinking(text="Hm."), Text(text="Fine.")]))
    body: Json = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "reasoning_effort": "low"}
    with ValkeyProcess() as valkey, Cluster(config, redis_url=valkey.url, kinds=("codex-worker",)) as running:
        answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=20).json()
    assert answer["choices"][0]["message"]["content"] == "<reasoning>Hm.</reasoning>\n\nFine."


# -- sessions and accounts ---------------------------------------------------------------------------------------------


BY = ("session", "id")


@dataclass(frozen=True)
class Survivor:
    """A Patchbay of which everything that had answered a first turn is dead.

    Attributes:
        answers: The ids of the first turns, by backend and how they are to be gone on from.
        kept: What Redis holds of them.
    """

    url: str
    answers: dict[tuple[str, str], str]
    kept: list[bytes]


@pytest.fixture(scope="module")
def survivor(upstream: StandinProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survivor]:
    config = config_for(upstream, tmp_path_factory.mktemp("survivor"), "survivor")
    answers: dict[tuple[str, str], str] = {}
    with ValkeyProcess() as valkey, Cluster(config, redis_url=valkey.url, kinds=KINDS) as running:
        # Of each there is one only, so that it is the one that answers.
        first = [running.edges[0], *(worker for kind in KINDS for worker in running.workers[kind])]
        for backend in BACKENDS:
            for by in BY:
                body = {"model": scripted(upstream, backend, Script(text="Seven.")), "input": f"A {by}?"}
                path = f"/codex/{backend}-story/responses" if by == "session" else "/v1/responses"
                answer = httpx.post(running.url + path, json=body, timeout=20)
                assert answer.status_code == 200, answer.text
                answers[backend, by] = answer.json()["id"]
        with Redis.from_url(valkey.url) as redis:
            kept = [redis.get(name) for name in redis.scan_iter("pb:response:*")]
            kept += [item for name in redis.scan_iter("pb:story:*") for item in redis.lrange(name, 0, -1)]
        second = running.add_edge()
        for kind in KINDS:
            running.add_worker(kind)
        running.wait_ready(replicas=2)
        for service in first:
            service.kill()
        yield Survivor(second.url, answers, kept)


@ALL
@pytest.mark.parametrize("by", BY)
def test_a_conversation_survives_the_edge_and_the_worker_that_had_it(
    survivor: Survivor, upstream: StandinProcess, backend: str, by: str
) -> None:
    body = {"model": scripted(upstream, backend, Script(text="Because.")), "input": "Why?"}
    path = f"/codex/{backend}-story/responses"
    if by == "id":
        path = "/v1/responses"
        body["previous_response_id"] = survivor.answers[backend, by]
    answer = httpx.post(survivor.url + path, json=body, timeout=20)
    assert answer.status_code == 200, answer.text
    asked = _body_of(upstream)
    if backend == "platform" and by == "id":
        # It has made that response and keeps it itself.
        assert asked["previous_response_id"] == survivor.answers[backend, by]
    else:
        said = json.dumps(asked)
        assert said.index(f"A {by}?") < said.index("Seven.") < said.index("Why?")


def test_what_is_kept_of_a_conversation_is_sealed(survivor: Survivor) -> None:
    assert len(survivor.kept) > len(BACKENDS)
    assert not any(b"Seven" in value for value in survivor.kept)


def used_up(seconds: float) -> Account:
    """An account at its limit, which is empty again in so many seconds."""
    return Account(primary=Quota(used_percent=100, resets_at=time.time() + seconds))


def test_an_account_at_its_limit_is_nobodys_trouble_until_all_are(upstream: StandinProcess, tmp_path: Path) -> None:
    upstream.reset()
    config = config_for(upstream, tmp_path, "one", "two", "three", kinds=("chatgpt",))
    model = scripted(upstream, "chatgpt", Script(text="Fine."))
    with ValkeyProcess() as valkey, Cluster(config, redis_url=valkey.url, kinds=("codex-worker",)) as running:
        ask = {"model": model, "input": "Hi"}
        upstream.account("one", used_up(900))
        for number in range(8):
            answer = httpx.post(
                f"{running.url}/v1/responses", json=ask, headers={"session-id": f"s{number}"}, timeout=20
            )
            assert (answer.status_code, answer.json()["status"]) == (200, "completed")
            with httpx.stream("POST", f"{running.url}/v1/responses", json=ask | {"stream": True}, timeout=20) as stream:
                assert stream.status_code == 200
                assert "event: response.completed" in stream.read().decode()
        for name, seconds in (("two", 600), ("three", 1200)):
            upstream.account(name, used_up(seconds))

        def refused() -> bool:
            return httpx.post(f"{running.url}/v1/responses", json=ask, timeout=20).status_code == 429

        wait_until(refused, what="every account at its limit")
        answer = httpx.post(f"{running.url}/v1/responses", json=ask, timeout=20)
        assert answer.json()["error"]["type"] == "usage_limit_reached"
        assert 500 < answer.json()["error"]["resets_at"] - time.time() <= 601
        assert 500 < int(answer.headers["retry-after"]) <= 600
        # Streams and clients of Chat Completions are told so in the head, too.
        said = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
        for path, body in (
            ("/v1/responses", ask),
            ("/v1/chat/completions", said),
            ("/v1/messages", said | {"max_tokens": 9}),
        ):
            for stream in (False, True):
                answer = httpx.post(running.url + path, json=body | {"stream": stream}, timeout=20)
                assert (answer.status_code, 500 < int(answer.headers["retry-after"]) <= 600) == (429, True), path


def test_reasoning_of_an_account_at_its_limit_is_no_trouble_to_the_next(
    upstream: StandinProcess, tmp_path: Path
) -> None:
    """Only the account that it was encrypted for can read it; the other one goes on without it."""
    upstream.reset()
    config = config_for(upstream, tmp_path, "left", "right", kinds=("chatgpt",))
    script = Script(blocks=[Thinking(text="Hm."), Text(text="Seven.")])
    asked: list[Json] = [{"role": "user", "content": "A number?"}]
    ask: Json = {"model": scripted(upstream, "chatgpt", script), "input": asked, "store": False}
    ask |= {"include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low"}}
    with ValkeyProcess() as valkey, Cluster(config, redis_url=valkey.url, kinds=("codex-worker",)) as running:

        def answered(body: Json) -> Json:
            answer = httpx.post(f"{running.url}/v1/responses", json=body, headers={"session-id": "s"}, timeout=20)
            assert answer.status_code == 200, answer.text
            found: Json = answer.json()
            return found

        def by() -> str:
            return upstream.requests()[-1].headers["chatgpt-account-id"]

        output = answered(ask)["output"]
        assert [item["type"] for item in output if item.get("encrypted_content")] == ["reasoning"]
        first = by()
        upstream.account(first.removeprefix("acc-"), used_up(900))
        going_on = ask | {"input": [*asked, *output, {"role": "user", "content": "Why?"}]}
        assert answered(going_on)["status"] == "completed"
        assert {first, by()} == {"acc-left", "acc-right"}
        said = json.dumps(upstream.requests()[-1].body)
        assert said.index("A number?") < said.index("Seven.") < said.index("Why?")
        assert "gAAAA" not in said


def test_an_account_of_a_region_says_so_and_another_one_does_not(upstream: StandinProcess, tmp_path: Path) -> None:
    upstream.reset()
    config = config_for(upstream, tmp_path, "free", "bound", kinds=("chatgpt",))
    upstream.account("bound", Account(routing="us_cr"))
    model = scripted(upstream, "chatgpt", Script(text="Fine."))
    with ValkeyProcess() as valkey, Cluster(config, redis_url=valkey.url, kinds=("codex-worker",)) as running:

        def both_were_asked() -> bool:
            asked = [one for one in upstream.requests() if one.path.endswith("/wham/accounts/check") and one.ended]
            return len(asked) == 2

        wait_until(both_were_asked, what="where each account's requests go")
        for number in range(6):
            body = {"model": model, "input": "Hi"}
            # What a client says of it counts for nothing.
            headers = {"session-id": f"s{number}", "x-openai-account-routing-override": "us"}
            assert httpx.post(f"{running.url}/v1/responses", json=body, headers=headers, timeout=20).status_code == 200
        said = {
            (one.headers["chatgpt-account-id"], one.headers.get("x-openai-account-routing-override"))
            for one in upstream.requests()
            if one.method == "POST" and one.path == "/backend-api/codex/responses"
        }
    assert said == {("acc-free", None), ("acc-bound", "us_cr")}


@pytest.fixture
def worn(upstream: StandinProcess, tmp_path: Path) -> Iterator[tuple[Cluster, ValkeyProcess, str]]:
    """Three replicas with an account whose tokens are refused from now on, their Redis, and a model."""
    upstream.reset()
    config = config_for(upstream, tmp_path, "worn", kinds=("chatgpt",))
    model = scripted(upstream, "chatgpt", Script(text="Fine."))
    with (
        ValkeyProcess() as valkey,
        Cluster(config, redis_url=valkey.url, workers=3, kinds=("codex-worker",)) as running,
    ):
        assert twenty_at_once(running, model, requests=1) == [200]
        upstream.expire_access_tokens("worn")
        yield running, valkey, model
        upstream.on_refresh("worn", None)


def twenty_at_once(cluster: Cluster, model: str, *, requests: int = 20) -> list[int]:
    """The statuses of so many answers."""
    ask = {"model": model, "input": "Hi"}
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(requests) as at_once:

        def status(_: int) -> int:
            return client.post(f"{cluster.url}/v1/responses", json=ask).status_code

        return list(at_once.map(status, range(requests)))


def test_tokens_that_end_are_renewed_once_for_everyone(
    worn: tuple[Cluster, ValkeyProcess, str], upstream: StandinProcess
) -> None:
    cluster, _, model = worn
    before = upstream.account_report("worn").refreshes
    # Long enough for every replica to want it.
    upstream.on_refresh("worn", RefreshFault(delay_ms=700))
    assert twenty_at_once(cluster, model) == [200] * 20
    assert upstream.account_report("worn").refreshes == before + 1


def test_when_the_replica_that_renews_is_killed_another_one_does(
    worn: tuple[Cluster, ValkeyProcess, str], upstream: StandinProcess
) -> None:
    cluster, valkey, model = worn
    before = upstream.account_report("worn").refreshes
    upstream.on_refresh("worn", RefreshFault(hang="before", times=1))

    def the_one_that_renews() -> ServiceProcess | None:
        with Redis.from_url(valkey.url, decode_responses=True) as redis:
            claimants = [redis.hget(name, "claimant") for name in redis.scan_iter("pb:{codex-renewal:*")]
        ids = [str(claimant).rpartition(".")[0] for claimant in claimants if claimant]
        return next((one for one in cluster.workers["codex-worker"] for worker in ids if worker in one.output()), None)

    with ThreadPoolExecutor(1) as beside:
        answers = beside.submit(twenty_at_once, cluster, model)
        wait_until(lambda: upstream.account_report("worn").holding == 1, what="a replica renews")
        killed = the_one_that_renews()
        assert killed is not None
        killed.kill()
        # No client sees it: its requests go to the replicas that live.
        assert answers.result() == [200] * 20
    assert upstream.account_report("worn").refreshes == before + 1
