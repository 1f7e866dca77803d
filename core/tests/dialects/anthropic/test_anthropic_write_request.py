import json
import re
from itertools import pairwise

import pytest

from patchbay.canonical import (
    ROLE_ASSISTANT,
    ROLE_DEVELOPER,
    ROLE_SYSTEM,
    ROLE_USER,
    Audio,
    Block,
    CacheMark,
    Chat,
    Citation,
    CustomTool,
    Document,
    FunctionTool,
    Image,
    Message,
    Opaque,
    Reasoning,
    RedactedThinking,
    Refusal,
    ResponseFormat,
    Role,
    Sampling,
    Source,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)
from patchbay.dialects.anthropic import DIALECT, AnthropicQuirks
from patchbay.dialects.base import ReadOptions
from patchbay.dialects.tool_names import ClientTool
from patchbay.errors import InvalidRequest

NEW = "claude-opus-5"
OLD = "claude-sonnet-4-5-20250929"
TURN_OFF = "is not supported by this backend and was left out"

Written = tuple[dict[str, object], dict[str, str]]


def write(chat: Chat, model: str = OLD, quirks: AnthropicQuirks = DIALECT.quirks) -> Written:
    """The body, and the warnings as parameter -> message."""
    written = DIALECT.write_request(chat, model, quirks)
    return json.loads(written.body), {warning.parameter: warning.message for warning in written.warnings}


def text(value: str) -> Block:
    return Block(text=Text(text=value))


def use(call_id: str = "t", name: str = "f", input_json: str = "{}") -> Block:
    return Block(tool_use=ToolUse(id=call_id, name=name, input_json=input_json))


def result(call_id: str = "t", value: str = "r") -> Block:
    return Block(tool_result=ToolResult(tool_use_id=call_id, blocks=[text(value)]))


def message(role: Role.ValueType, *blocks: Block) -> Message:
    return Message(role=role, blocks=blocks)


def user(*blocks: Block) -> Message:
    return message(ROLE_USER, *(blocks or [text("hi")]))


def assistant(*blocks: Block) -> Message:
    return message(ROLE_ASSISTANT, *blocks)


def asking(**fields: object) -> Chat:
    """A chat of one user message with these fields."""
    return Chat(messages=[user()], **fields)  # type: ignore[arg-type]


def tool(name: str = "f") -> Tool:
    return Tool(function=FunctionTool(name=name, input_schema_json='{"type":"object"}'))


def test_whole_body() -> None:
    chat = Chat(
        system=[Block(text=Text(text="be kind"), cache=CacheMark(ttl="1h"))],
        messages=[user(), assistant(text("I'll look."), use(input_json='{"a": 1.50}')), user(result())],
        tools=[Tool(function=FunctionTool(name="f", description="d", input_schema_json='{ "type":"object" }'))],
        tool_choice=ToolChoice(mode=ToolChoice.MODE_AUTO),
        sampling=Sampling(max_tokens=100, temperature=0.5, top_k=3, stop=["x"]),
        user="u",
        stream=True,
        parallel_tool_calls=False,
        service_tier="auto",
        extensions={"anthropic": '{"container": "c"}'},
    )
    written = DIALECT.write_request(chat, OLD, DIALECT.quirks)
    assert written.warnings == ()
    assert written.body.decode() == (
        '{"model":"claude-sonnet-4-5-20250929","max_tokens":100,"stream":true,"temperature":0.5,"top_k":3,'
        '"stop_sequences":["x"],"metadata":{"user_id":"u"},"service_tier":"auto","container":"c",'
        '"tools":[{"name":"f","description":"d","input_schema":{ "type":"object" }}],'
        '"tool_choice":{"type":"auto","disable_parallel_tool_use":true},'
        '"system":[{"type":"text","text":"be kind","cache_control":{"type":"ephemeral","ttl":"1h"}}],'
        '"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]},'
        '{"role":"assistant","content":[{"type":"text","text":"I\'ll look."},'
        '{"type":"tool_use","id":"t","name":"f","input":{"a": 1.50}}]},'
        '{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"r"}]}]}]}'
    )


def test_another_providers_hidden_thinking_is_left_out() -> None:
    own = Block(redacted_thinking=RedactedThinking(data="EuYBCkQYAiJA"))
    foreign = Block(redacted_thinking=RedactedThinking(data='{"google":{"thought_signature":"c2ln"}}'))
    chat = Chat(messages=[user(), assistant(own, foreign, text("b")), user()])
    body = json.loads(DIALECT.write_request(chat, OLD, DIALECT.quirks).body)
    assert [block["type"] for block in body["messages"][1]["content"]] == ["redacted_thinking", "text"]


def test_bytes_of_a_turn_begin_those_of_the_next() -> None:
    turns = [
        user(),
        assistant(text("a"), use("t1"), use("t2")),
        user(result("t1")),
        user(result("t2")),
        message(ROLE_DEVELOPER, text("mind the gap")),
        assistant(Block(thinking=Thinking(text="unsigned")), text("b")),
        user(text("c")),
        assistant(use("t3")),
        user(result("t3"), text("and?")),
    ]
    for model in (OLD, "claude-opus-4-8", NEW):
        bodies = []
        for count in (1, 5, 7, 9):
            chat = Chat(messages=turns[:count], tools=[tool()], system=[text("s")], stream=True, user="u")
            bodies.append(DIALECT.write_request(chat, model, DIALECT.quirks).body)
        for earlier, later in pairwise(bodies):
            assert later.startswith(earlier.removesuffix(b"]}"))


def test_max_tokens_has_a_default() -> None:
    assert write(asking())[0]["max_tokens"] == 32_000
    assert write(asking(), quirks=AnthropicQuirks(default_max_tokens=7))[0]["max_tokens"] == 7


@pytest.mark.parametrize(
    ("chat", "parameter"),
    [
        (asking(sampling=Sampling(seed=0)), "seed"),
        (asking(sampling=Sampling(logit_bias_json='{"5":1}')), "logit_bias"),
        (asking(sampling=Sampling(n=2)), "n"),
        (asking(sampling=Sampling(logprobs=True)), "logprobs"),
        (asking(sampling=Sampling(top_logprobs=3)), "top_logprobs"),
        (asking(sampling=Sampling(presence_penalty=0.5)), "presence_penalty"),
        (asking(sampling=Sampling(frequency_penalty=-0.5)), "frequency_penalty"),
        (asking(metadata={"a": "b"}), "metadata"),
        (asking(extensions={"openai_chat": '{"store":true}'}), "store"),
        (Chat(messages=[Message(role=ROLE_USER, blocks=[text("a")], name="bob")]), "name"),
        (Chat(messages=[Message(role=ROLE_USER, blocks=[text("a")], extensions={"openai_chat": '{"x":1}'})]), "x"),
        (Chat(messages=[user(Block(text=Text(text="a"), extensions={"openai_chat": '{"y":1}'}))]), "y"),
    ],
)
def test_what_cannot_be_said(chat: Chat, parameter: str) -> None:
    body, warnings = write(chat)
    assert warnings == {parameter: f"{parameter} {TURN_OFF}"}
    assert set(body) == {"model", "max_tokens", "messages"}


def test_what_is_the_default_anyway_is_no_warning() -> None:
    sampling = Sampling(n=1, logprobs=False, presence_penalty=0, frequency_penalty=0)
    text_format = ResponseFormat(type=ResponseFormat.TYPE_TEXT)
    chat = asking(sampling=sampling, response_format=text_format, parallel_tool_calls=True, include_usage=True)
    assert write(chat) == (write(asking())[0], {})


def test_foreign_extensions_are_named_one_by_one() -> None:
    _, warnings = write(asking(extensions={"openai_chat": '{"store":true,"verbosity":"low"}', "other": '{"store":1}'}))
    assert sorted(warnings) == ["store", "verbosity"]


@pytest.mark.parametrize(
    ("sampling", "model", "written", "warned"),
    [
        (Sampling(temperature=1.7), OLD, {"temperature": 1}, ["temperature"]),
        (Sampling(temperature=0.0), OLD, {"temperature": 0}, []),
        (Sampling(temperature=0.3, top_p=0.9), OLD, {"temperature": 0.3}, ["top_p"]),
        (Sampling(temperature=0.3, top_p=0.9), "claude-sonnet-4-20250514", {"temperature": 0.3, "top_p": 0.9}, []),
        (Sampling(temperature=0.3, top_p=0.9, top_k=5), NEW, {}, ["temperature", "top_k", "top_p"]),
        (Sampling(temperature=0.3, top_p=0.9), "glm-5", {"temperature": 0.3, "top_p": 0.9}, []),
        (Sampling(stop=["a", " \n", ""]), OLD, {"stop_sequences": ["a"]}, ["stop"]),
        (Sampling(stop=["\n"]), OLD, {}, ["stop"]),
    ],
)
def test_sampling(sampling: Sampling, model: str, written: dict[str, object], warned: list[str]) -> None:
    body, warnings = write(asking(sampling=sampling), model)
    assert {name: value for name, value in body.items() if name not in ("model", "max_tokens", "messages")} == written
    assert sorted(warnings) == warned


def _reasoning(effort: str = "", **fields: object) -> Reasoning:
    return Reasoning(effort=effort or None, **fields)  # type: ignore[arg-type]


SIGNED = Block(thinking=Thinking(text="h", signature="s"))
ENABLED, DISABLED, ADAPTIVE = Reasoning.MODE_ENABLED, Reasoning.MODE_DISABLED, Reasoning.MODE_ADAPTIVE


@pytest.mark.parametrize(
    ("reasoning", "model", "max_tokens", "thinking", "effort", "warned"),
    [
        # An effort alone, as OpenAI clients say it.
        (_reasoning("low"), OLD, None, {"type": "enabled", "budget_tokens": 4096}, None, []),
        (_reasoning("minimal"), OLD, None, {"type": "enabled", "budget_tokens": 1024}, None, []),
        (_reasoning("high"), OLD, None, {"type": "enabled", "budget_tokens": 24_000}, None, []),
        (_reasoning("max"), OLD, 100_000, {"type": "enabled", "budget_tokens": 48_000}, None, []),
        (_reasoning("high"), OLD, 4000, {"type": "enabled", "budget_tokens": 3000}, None, []),
        (_reasoning("high"), OLD, 1300, None, None, ["reasoning_effort"]),
        (_reasoning("none"), OLD, None, None, None, []),
        (_reasoning("high"), "claude-opus-4-6", None, {"type": "adaptive"}, "high", []),
        (_reasoning("xhigh"), "claude-opus-4-6", None, {"type": "adaptive"}, "high", []),
        (_reasoning("xhigh"), "claude-opus-4-7", None, {"type": "adaptive"}, "xhigh", []),
        (_reasoning("high"), NEW, None, None, "high", []),
        (_reasoning("minimal"), NEW, None, None, "low", []),
        (_reasoning("none"), NEW, None, {"type": "disabled"}, None, []),
        (_reasoning("none"), "claude-fable-5-1", None, None, "low", []),
        (_reasoning("high"), "claude-3-5-haiku-latest", None, None, None, ["reasoning_effort"]),
        (_reasoning("high"), "deepseek-chat", None, {"type": "enabled", "budget_tokens": 24_000}, None, []),
        (_reasoning("absurd"), NEW, None, None, None, ["reasoning_effort"]),
        (_reasoning(budget_tokens=40_000), OLD, None, {"type": "enabled", "budget_tokens": 40_000}, None, []),
        # In the API's own terms: kept where the model takes them.
        (_reasoning(mode=ENABLED, budget_tokens=500), OLD, 400, {"type": "enabled", "budget_tokens": 500}, None, []),
        (_reasoning(mode=ENABLED, budget_tokens=5000), NEW, None, {"type": "adaptive"}, None, []),
        (
            _reasoning(mode=ADAPTIVE, effort="max", display="omitted"),
            NEW,
            None,
            {"type": "adaptive", "display": "omitted"},
            "max",
            [],
        ),
        (_reasoning(mode=ADAPTIVE), OLD, None, {"type": "enabled", "budget_tokens": 24_000}, None, []),
        (
            _reasoning(mode=ADAPTIVE, effort="low"),
            OLD,
            None,
            {"type": "enabled", "budget_tokens": 4096},
            None,
            [],
        ),
        (_reasoning(mode=DISABLED), OLD, None, {"type": "disabled"}, None, []),
        (_reasoning(mode=DISABLED), "claude-mythos-5", None, None, None, []),
    ],
)
def test_reasoning(
    reasoning: Reasoning,
    model: str,
    max_tokens: int | None,
    thinking: dict[str, object] | None,
    effort: str | None,
    warned: list[str],
) -> None:
    body, warnings = write(asking(reasoning=reasoning, sampling=Sampling(max_tokens=max_tokens)), model)
    assert body.get("thinking") == thinking
    assert body.get("output_config") == ({"effort": effort} if effort else None)
    assert sorted(warnings) == warned
    budget = reasoning.budget_tokens
    assert body["max_tokens"] == (max_tokens or max(32_000, budget * 4 // 3))


@pytest.mark.parametrize(
    ("sampling", "kept", "warned"),
    [
        (Sampling(temperature=0.5, top_k=5, top_p=0.5), {}, ["temperature", "top_k", "top_p"]),
        (Sampling(temperature=1, top_p=0.97), {"temperature": 1, "top_p": 0.97}, []),
    ],
)
def test_sampling_beside_thinking(sampling: Sampling, kept: dict[str, float], warned: list[str]) -> None:
    body, warnings = write(asking(reasoning=_reasoning("low"), sampling=sampling), "claude-sonnet-4-20250514")
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 4096}
    assert {name: body[name] for name in ("temperature", "top_k", "top_p") if name in body} == kept
    assert sorted(warnings) == warned


def test_rest_of_thinking_goes_with_it() -> None:
    extensions = {"anthropic": '{"thinking":{"x":1}}'}
    chat = asking(reasoning=_reasoning(mode=ADAPTIVE), extensions=extensions)
    assert write(chat, NEW)[0]["thinking"] == {"type": "adaptive", "x": 1}
    assert "thinking" not in write(chat, "claude-3-5-haiku-latest")[0]


@pytest.mark.parametrize("mode", [ToolChoice.MODE_ANY, ToolChoice.MODE_TOOL])
def test_forced_tool_choice_excludes_thinking(mode: ToolChoice.Mode.ValueType) -> None:
    chat = asking(reasoning=_reasoning("low"), tools=[tool()], tool_choice=ToolChoice(mode=mode, name="f"))
    chat.sampling.temperature = 0.5
    body, warnings = write(chat)
    assert "thinking" not in body
    assert body["temperature"] == 0.5
    assert list(warnings) == ["reasoning_effort"]


@pytest.mark.parametrize(
    ("messages", "model", "thinks"),
    [
        ([user(), assistant(use()), user(result())], OLD, False),
        ([user(), assistant(Block(thinking=Thinking(text="unsigned")), use()), user(result())], OLD, False),
        ([user(), assistant(SIGNED, use()), user(result())], OLD, True),
        ([user(), assistant(use()), user(result())], "claude-opus-4-6", True),
        ([user(), assistant(use()), user(result()), assistant(text("done")), user()], OLD, True),
        ([user(), assistant(text("prefilled"))], OLD, False),
        # A turn that began with thinking may go on without, as models do between calls.
        ([user(), assistant(SIGNED, use()), user(result()), assistant(use("u")), user(result("u"))], OLD, True),
        ([user(), assistant(use()), user(result()), assistant(SIGNED, use("u")), user(result("u"))], OLD, False),
        ([user(), assistant(use()), user(result()), user(), assistant(text("a"))], OLD, False),
        ([user(), assistant(use()), user(result()), assistant(text("a")), user(), assistant(SIGNED)], OLD, True),
    ],
)
def test_thinking_in_a_turn_that_goes_on(messages: list[Message], model: str, thinks: bool) -> None:
    body, warnings = write(Chat(messages=messages, tools=[tool()], reasoning=_reasoning("low")), model)
    assert ("thinking" in body) == thinks
    assert not warnings


def contents(chat: Chat, model: str = OLD) -> list[tuple[str, list[str]]]:
    """Role and block kinds (texts spelled out) of every message."""
    messages = write(chat, model)[0]["messages"]
    assert isinstance(messages, list)
    return [(item["role"], [block.get("text", block["type"]) for block in item["content"]]) for item in messages]


@pytest.mark.parametrize("role", [ROLE_SYSTEM, ROLE_DEVELOPER])
def test_system_messages_inside_the_conversation(role: Role.ValueType) -> None:
    inserted = message(role, text("S"))
    allowed = Chat(messages=[user(), inserted, assistant(text("a")), user(), inserted])
    roles = [("user", ["hi"]), ("system", ["S"]), ("assistant", ["a"]), ("user", ["hi"]), ("system", ["S"])]
    assert contents(allowed, "claude-opus-4-8") == roles
    assert write(allowed, "claude-opus-4-8")[1] == {}
    assert contents(allowed) == [("user" if name == "system" else name, texts) for name, texts in roles]
    # A developer's word is of no more weight than the user's.
    assert list(write(allowed)[1]) == (["messages"] if role == ROLE_SYSTEM else [])
    # Not behind a user turn, or not before an assistant's.
    for messages in ([inserted, user()], [user(), inserted, user()], [user(), assistant(text("a")), inserted]):
        assert "system" not in [name for name, _ in contents(Chat(messages=messages), "claude-opus-4-8")]


@pytest.mark.parametrize("model", [OLD, "claude-opus-4-8"])
def test_nothing_stands_between_calls_and_their_results(model: str) -> None:
    inserted = message(ROLE_SYSTEM, text("S"))
    chat = Chat(
        messages=[
            user(),
            assistant(use("a"), use("b")),
            inserted,
            user(result("a")),
            user(result("b")),
            user(text("go")),
        ]
    )
    assert contents(chat, model) == [
        ("user", ["hi"]),
        ("assistant", ["tool_use", "tool_use"]),
        ("user", ["tool_result", "tool_result"]),
        ("user", ["S"]),
        ("user", ["go"]),
    ]


def test_results_of_one_turn_come_together() -> None:
    chat = Chat(messages=[user(), assistant(use("a"), use("b")), user(result("a")), user(result("b"), text("go"))])
    assert contents(chat)[2:] == [("user", ["tool_result", "tool_result", "go"])]


def test_messages_that_say_nothing_are_left_out() -> None:
    chat = Chat(
        messages=[
            user(),
            assistant(text(""), text(" \n")),
            assistant(Block(thinking=Thinking(text="unsigned"))),
            user(text("a")),
        ]
    )
    assert contents(chat) == [("user", ["hi"]), ("user", ["a"])]
    for messages in ([], [user(text(""))]):
        with pytest.raises(InvalidRequest, match="at least one message is required"):
            write(Chat(messages=messages))


BLOCKS: list[tuple[Block, object, list[str]]] = [
    (Block(refusal=Refusal(text="no")), {"type": "text", "text": "no"}, []),
    (
        Block(audio=Audio(base64="x", format="wav")),
        {"type": "text", "text": "[An audio recording was here. It could not be passed on to this model.]"},
        ["input_audio"],
    ),
    (
        Block(text=Text(text="a", citations=[Citation(dialect="openai_chat", json="{}")])),
        {"type": "text", "text": "a"},
        ["citations"],
    ),
    (
        Block(image=Image(source=Source(url="u"), detail="low")),
        {"type": "image", "source": {"type": "url", "url": "u"}},
        ["detail"],
    ),
    (
        Block(image=Image(source=Source(url="u"), detail="auto")),
        {"type": "image", "source": {"type": "url", "url": "u"}},
        [],
    ),
    (
        Block(image=Image(source=Source(base64="/9j/4AAQ"))),
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/4AAQ"}},
        [],
    ),
    (
        Block(image=Image(source=Source(base64="x", media_type="image/jpg"))),
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "x"}},
        [],
    ),
    (
        Block(document=Document(source=Source(base64="JVBE"), title="a.pdf")),
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
            "title": "a.pdf",
        },
        [],
    ),
    (
        Block(document=Document(source=Source(base64="aMOp", media_type="text/markdown"))),
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hé"}},
        [],
    ),
    (use(input_json=""), {"type": "tool_use", "id": "t", "name": "f", "input": {}}, []),
    (
        use(input_json='{"a":'),
        {"type": "tool_use", "id": "t", "name": "f", "input": {"arguments": '{"a":'}},
        ["arguments"],
    ),
    (use(input_json="[1]"), {"type": "tool_use", "id": "t", "name": "f", "input": {"arguments": "[1]"}}, ["arguments"]),
    (
        Block(tool_use=ToolUse(id="t", name="f", text_input="ls")),
        {"type": "tool_use", "id": "t", "name": "f", "input": {"input": "ls"}},
        [],
    ),
    (
        use("functions.f:0", "mcp.f"),
        {"type": "tool_use", "id": "functions_f_0_d6bdd4de", "name": "mcp_f_bdd008bf", "input": {}},
        [],
    ),
    (
        Block(tool_result=ToolResult(tool_use_id="functions.f:0", is_error=True)),
        {"type": "tool_result", "tool_use_id": "functions_f_0_d6bdd4de", "is_error": True},
        [],
    ),
    (
        Block(tool_result=ToolResult(tool_use_id="t", blocks=[Block(image=Image(source=Source(url="u")))])),
        {
            "type": "tool_result",
            "tool_use_id": "t",
            "content": [{"type": "image", "source": {"type": "url", "url": "u"}}],
        },
        [],
    ),
    (Block(opaque=Opaque(dialect="anthropic", json='{"type":"x","n":1}')), {"type": "x", "n": 1}, []),
]


@pytest.mark.parametrize(("block", "written", "warned"), BLOCKS, ids=lambda value: str(value)[:50])
def test_blocks(block: Block, written: object, warned: list[str]) -> None:
    # A result comes with its call.
    called = [Message(role=ROLE_ASSISTANT, blocks=[use(block.tool_result.tool_use_id)])]
    body, warnings = write(Chat(messages=[*(called if block.HasField("tool_result") else []), user(block)]))
    assert body["messages"][-1] == {"role": "user", "content": [written]}
    assert list(warnings) == warned


def test_block_of_another_api_is_left_out() -> None:
    body, warnings = write(Chat(messages=[user(text("a"), Block(opaque=Opaque(dialect="openai_chat", json="{}")))]))
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    assert list(warnings) == ["content"]


def test_system_holds_text_only() -> None:
    chat = asking(system=[text("a"), Block(image=Image(source=Source(url="u"))), text("b")])
    body, warnings = write(chat)
    assert body["system"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert list(warnings) == ["system"]


def test_tools() -> None:
    own, foreign = '{"type":"web_search_20250305","name":"web_search"}', '{"type":"custom"}'
    chat = asking(
        tools=[
            Tool(function=FunctionTool(name="f")),
            Tool(function=FunctionTool(name="g", input_schema_json='{"properties": {}}'), cache=CacheMark()),
            Tool(opaque=Opaque(dialect="anthropic", json=own)),
            Tool(opaque=Opaque(dialect="openai_chat", json=foreign)),
        ]
    )
    body, warnings = write(chat)
    assert body["tools"] == [
        {"name": "f", "input_schema": {"type": "object"}},
        {"name": "g", "input_schema": {"type": "object", "properties": {}}, "cache_control": {"type": "ephemeral"}},
        json.loads(own),
    ]
    assert list(warnings) == ["tools"]


@pytest.mark.parametrize("name", ["", "a.b", "é", "x" * 129, "a b"])
def test_tool_names_that_the_api_forbids(name: str) -> None:
    choice = ToolChoice(mode=ToolChoice.MODE_TOOL, name=name)
    chat = Chat(
        messages=[user(), assistant(use(name=name)), user(result())], tools=[tool(), tool(name)], tool_choice=choice
    )
    written = DIALECT.write_request(chat, OLD, DIALECT.quirks)
    ((upstream, client),) = written.names.items()
    assert client == ClientTool(name)
    assert re.fullmatch("[a-zA-Z0-9_-]{1,128}", upstream)
    body = json.loads(written.body)
    assert [item["name"] for item in body["tools"]] == ["f", upstream]
    assert body["tool_choice"] == {"type": "tool", "name": upstream}
    assert body["messages"][1]["content"][0]["name"] == upstream
    # The answer calls it by the client's name.
    block = {"type": "tool_use", "id": "t", "name": upstream, "input": {}}
    answer = json.dumps({"type": "message", "content": [block], "stop_reason": "tool_use"}).encode()
    reader = DIALECT.read_events(ReadOptions(content_type="application/json", names=written.names))
    events = reader.feed(answer) + reader.close()
    assert [event.block_start.tool_use.name for event in events if event.HasField("block_start")] == [name]


@pytest.mark.parametrize("schema", ["true", "[]", "{", "[" * 99_999])
def test_schemas_that_are_no_objects(schema: str) -> None:
    with pytest.raises(InvalidRequest, match="must be a JSON object"):
        write(asking(tools=[Tool(function=FunctionTool(name="f", input_schema_json=schema))]))


@pytest.mark.parametrize(
    ("choice", "parallel", "written", "warned"),
    [
        (ToolChoice(), None, None, []),
        (ToolChoice(), True, None, []),
        (ToolChoice(), False, {"type": "auto", "disable_parallel_tool_use": True}, []),
        (ToolChoice(mode=ToolChoice.MODE_AUTO), True, {"type": "auto", "disable_parallel_tool_use": False}, []),
        (ToolChoice(mode=ToolChoice.MODE_NONE), False, {"type": "none"}, []),
        (ToolChoice(mode=ToolChoice.MODE_ANY), None, {"type": "any"}, []),
        (
            ToolChoice(mode=ToolChoice.MODE_TOOL, name="f"),
            False,
            {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
            [],
        ),
        (ToolChoice(opaque=Opaque(dialect="openai_chat", json="{}")), None, None, ["tool_choice"]),
        (ToolChoice(opaque=Opaque(dialect="anthropic", json='{"type":"some"}')), None, {"type": "some"}, []),
    ],
)
def test_tool_choice(choice: ToolChoice, parallel: bool | None, written: object, warned: list[str]) -> None:
    body, warnings = write(asking(tools=[tool()], tool_choice=choice, parallel_tool_calls=parallel))
    assert body.get("tool_choice") == written
    assert list(warnings) == warned


def test_tool_choice_without_tools() -> None:
    for mode, warned in (
        (ToolChoice.MODE_AUTO, []),
        (ToolChoice.MODE_NONE, []),
        (ToolChoice.MODE_ANY, ["tool_choice"]),
    ):
        body, warnings = write(asking(tool_choice=ToolChoice(mode=mode), parallel_tool_calls=False))
        assert "tool_choice" not in body
        assert list(warnings) == warned


@pytest.mark.parametrize(
    ("wanted", "written", "warned"),
    [
        (
            ResponseFormat(
                type=ResponseFormat.TYPE_JSON_SCHEMA, name="n", schema_json='{"type":"object"}', strict=True
            ),
            {"format": {"type": "json_schema", "schema": {"type": "object", "additionalProperties": False}}},
            [],
        ),
        (
            ResponseFormat(type=ResponseFormat.TYPE_JSON_SCHEMA, schema_json="{}", description="d"),
            {"format": {"type": "json_schema", "schema": {}}},
            ["response_format.json_schema.description"],
        ),
        (ResponseFormat(type=ResponseFormat.TYPE_JSON_SCHEMA, name="n"), None, ["response_format"]),
        (ResponseFormat(type=ResponseFormat.TYPE_JSON_OBJECT), None, ["response_format"]),
    ],
)
def test_response_format(wanted: ResponseFormat, written: object, warned: list[str]) -> None:
    body, warnings = write(asking(response_format=wanted))
    assert body.get("output_config") == written
    assert list(warnings) == warned


@pytest.mark.parametrize(
    ("tier", "written", "warned"),
    [
        ("auto", "auto", []),
        ("standard_only", "standard_only", []),
        ("default", "standard_only", []),
        ("flex", None, ["service_tier"]),
    ],
)
def test_service_tier(tier: str, written: str | None, warned: list[str]) -> None:
    body, warnings = write(asking(service_tier=tier))
    assert body.get("service_tier") == written
    assert list(warnings) == warned


def test_automatic_caching_is_asked_for_where_no_mark_is() -> None:
    quirks = AnthropicQuirks(automatic_caching=True)
    assert write(asking(), quirks=quirks)[0]["cache_control"] == {"type": "ephemeral"}
    marked = Chat(messages=[user(Block(text=Text(text="a"), cache=CacheMark()))])
    assert "cache_control" not in write(marked, quirks=quirks)[0]
    assert "cache_control" not in write(asking())[0]


def test_custom_tools_and_namespaces() -> None:
    chat = asking(
        namespaces={"n": "Notes."},
        tools=[
            Tool(custom=CustomTool(name="g", namespace="n", description="d", format_json='{"type":"text"}')),
            Tool(function=FunctionTool(name="g", namespace="n")),
            Tool(function=FunctionTool(name="g", description="plain")),
        ],
        tool_choice=ToolChoice(mode=ToolChoice.MODE_TOOL, name="g", namespace="n", custom=True),
    )
    chat.messages.extend([assistant(Block(tool_use=ToolUse(id="t", name="g", text_input="a"))), user(result())])
    written = DIALECT.write_request(chat, OLD, DIALECT.quirks)
    body = json.loads(written.body)
    wrapped, other, plain = body["tools"]
    assert (wrapped["name"], plain["name"]) == ("n__g", "g")
    assert wrapped["description"] == (
        "[n: Notes.]\n\nd\n\nPass the tool's input, which is free text, as the string `input`."
    )
    assert wrapped["input_schema"]["required"] == ["input"]
    assert body["tool_choice"] == {"type": "tool", "name": "n__g"}
    assert body["messages"][1]["content"][0] == {"type": "tool_use", "id": "t", "name": "n__g", "input": {"input": "a"}}
    assert written.names == {
        "n__g": ClientTool("g", "n", is_wrapped=True),
        other["name"]: ClientTool("g", "n"),
    }


def test_thinking_that_openai_signed_is_left_out() -> None:
    signed = Block(thinking=Thinking(text="t", signature="gAAAAB"))
    body, warnings = write(Chat(messages=[user(), assistant(signed, text("a")), user()]))
    assert body["messages"][1]["content"] == [{"type": "text", "text": "a"}]
    assert warnings == {}


def test_a_model_that_thinks_by_itself_is_told_to_show_it() -> None:
    for display in ("summarized", "omitted"):
        chat = asking(reasoning=Reasoning(effort="high", display=display))
        body, _ = write(chat, "claude-opus-5-1")
        assert body["thinking"] == {"type": "adaptive", "display": display}
