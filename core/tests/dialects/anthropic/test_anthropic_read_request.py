import json

import pytest
from google.protobuf import text_format

from patchbay.canonical import (
    ROLE_ASSISTANT,
    ROLE_SYSTEM,
    ROLE_USER,
    Block,
    BlockList,
    CacheMark,
    Chat,
    Citation,
    Document,
    FunctionTool,
    Image,
    Message,
    Opaque,
    Reasoning,
    RedactedThinking,
    ResponseFormat,
    Sampling,
    Source,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)
from patchbay.dialects.anthropic import DIALECT
from patchbay.errors import InvalidRequest


def read(**fields: object) -> Chat:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields}
    return DIALECT.read_request(json.dumps(body, separators=(",", ":")).encode())


def read_block(block: object) -> Block:
    return read(messages=[{"role": "user", "content": [block]}]).messages[0].blocks[0]


def said(text: str) -> Block:
    return Block(text=Text(text=text))


def opaque(block: object) -> Block:
    return Block(opaque=Opaque(dialect="anthropic", json=json.dumps(block, separators=(",", ":"))))


_SOURCE_IMAGE = {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"}
_CITATION = {"type": "char_location", "document_index": 0, "cited_text": "x"}

BLOCKS: list[tuple[dict[str, object], Block]] = [
    ({"type": "text", "text": "a"}, said("a")),
    ({"type": "text", "text": "a", "citations": None, "cache_control": None}, said("a")),
    (
        {"type": "text", "text": "a", "citations": [_CITATION]},
        Block(
            text=Text(
                text="a", citations=[Citation(dialect="anthropic", json=json.dumps(_CITATION, separators=(",", ":")))]
            )
        ),
    ),
    (
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        Block(text=Text(text="a"), cache=CacheMark()),
    ),
    (
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h", "scope": "org"}},
        Block(text=Text(text="a"), cache=CacheMark(ttl="1h", extra_json='{"scope":"org"}')),
    ),
    (
        {"type": "text", "text": "a", "cache_control": {"type": "lasting"}},
        Block(text=Text(text="a"), cache=CacheMark(extra_json='{"type":"lasting"}')),
    ),
    (
        {"type": "text", "text": "a", "mood": "good"},
        Block(text=Text(text="a"), extensions={"anthropic": '{"mood":"good"}'}),
    ),
    (
        {"type": "image", "source": _SOURCE_IMAGE},
        Block(image=Image(source=Source(base64="iVBORw0K", media_type="image/png"))),
    ),
    (
        {"type": "image", "source": {"type": "url", "url": "https://a"}},
        Block(image=Image(source=Source(url="https://a"))),
    ),
    ({"type": "image", "source": {"type": "file", "file_id": "f"}}, Block(image=Image(source=Source(file_id="f")))),
    (
        {"type": "image", "source": {"type": "url", "url": "https://a", "proxy": 1}},
        Block(image=Image(source=Source(url="https://a")), extensions={"anthropic": '{"source":{"proxy":1}}'}),
    ),
    (
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
            "title": "t",
            "context": "c",
            "citations": {"enabled": True},
        },
        Block(
            document=Document(
                source=Source(base64="JVBE", media_type="application/pdf"), title="t", context="c", citations=True
            )
        ),
    ),
    (
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"}, "title": None},
        Block(document=Document(source=Source(text="d", media_type="text/plain"))),
    ),
    (
        {"type": "document", "source": {"type": "content", "content": "d"}},
        Block(document=Document(content=BlockList(blocks=[said("d")]))),
    ),
    (
        {"type": "document", "source": {"type": "content", "content": [{"type": "image", "source": _SOURCE_IMAGE}]}},
        Block(
            document=Document(
                content=BlockList(blocks=[Block(image=Image(source=Source(base64="iVBORw0K", media_type="image/png")))])
            )
        ),
    ),
    ({"type": "document", "source": {"type": "url", "url": "u"}}, Block(document=Document(source=Source(url="u")))),
    (
        {"type": "document", "source": {"type": "file", "file_id": "f"}},
        Block(document=Document(source=Source(file_id="f"))),
    ),
    (
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1, None]}},
        Block(tool_use=ToolUse(id="t", name="f", input_json='{"a":[1,null]}')),
    ),
    (
        {"type": "tool_use", "id": "t", "name": "f", "input": {}, "caller": {"type": "direct"}},
        Block(
            tool_use=ToolUse(id="t", name="f", input_json="{}"),
            extensions={"anthropic": '{"caller":{"type":"direct"}}'},
        ),
    ),
    ({"type": "tool_result", "tool_use_id": "t"}, Block(tool_result=ToolResult(tool_use_id="t"))),
    ({"type": "tool_result", "tool_use_id": "t", "content": None}, Block(tool_result=ToolResult(tool_use_id="t"))),
    ({"type": "tool_result", "tool_use_id": "t", "content": ""}, Block(tool_result=ToolResult(tool_use_id="t"))),
    (
        {"type": "tool_result", "tool_use_id": "t", "content": "no", "is_error": True},
        Block(tool_result=ToolResult(tool_use_id="t", blocks=[said("no")], is_error=True)),
    ),
    (
        {
            "type": "tool_result",
            "tool_use_id": "t",
            "content": [
                {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
                {"type": "image", "source": _SOURCE_IMAGE},
                {"type": "document", "source": {"type": "url", "url": "u"}},
                {"type": "search_result", "source": "s"},
            ],
        },
        Block(
            tool_result=ToolResult(
                tool_use_id="t",
                blocks=[
                    Block(text=Text(text="a"), cache=CacheMark()),
                    Block(image=Image(source=Source(base64="iVBORw0K", media_type="image/png"))),
                    Block(document=Document(source=Source(url="u"))),
                    opaque({"type": "search_result", "source": "s"}),
                ],
            )
        ),
    ),
    ({"type": "thinking", "thinking": "h", "signature": "s"}, Block(thinking=Thinking(text="h", signature="s"))),
    ({"type": "thinking", "thinking": "h", "signature": ""}, Block(thinking=Thinking(text="h"))),
    ({"type": "thinking", "thinking": "h"}, Block(thinking=Thinking(text="h"))),
    ({"type": "redacted_thinking", "data": "d"}, Block(redacted_thinking=RedactedThinking(data="d"))),
]

OPAQUE: list[dict[str, object]] = [
    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
    {"type": "web_search_tool_result", "tool_use_id": "s", "content": [], "cache_control": {"type": "ephemeral"}},
    {"type": "search_result", "source": "s", "title": "t", "content": []},
    {"type": "container_upload", "file_id": "f"},
    {"type": "mid_conv_hologram", "n": 1.5},
    {"type": "image", "source": {"type": "hologram", "n": 1}},
]


@pytest.mark.parametrize(("block", "expected"), BLOCKS, ids=lambda value: str(value)[:60])
def test_blocks(block: dict[str, object], expected: Block) -> None:
    assert read_block(block) == expected


@pytest.mark.parametrize("block", OPAQUE, ids=lambda block: str(block["type"]))
def test_blocks_that_only_this_api_knows(block: dict[str, object]) -> None:
    assert read_block(block) == opaque(block)


def test_messages_and_system() -> None:
    chat = read(
        system=[{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "5m"}}],
        messages=[
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}], "id": "msg_1"},
            {"role": "user", "content": [{"type": "text", "text": "c"}]},
            {"role": "system", "content": "d"},
        ],
    )
    assert list(chat.system) == [Block(text=Text(text="s"), cache=CacheMark(ttl="5m"))]
    assert list(chat.messages) == [
        Message(role=ROLE_USER, blocks=[said("a")]),
        Message(role=ROLE_ASSISTANT, blocks=[said("b")], extensions={"anthropic": '{"id":"msg_1"}'}),
        Message(role=ROLE_USER, blocks=[said("c")]),
        Message(role=ROLE_SYSTEM, blocks=[said("d")]),
    ]
    assert list(read(system="s").system) == [said("s")]
    assert list(read(system="").system) == []


def test_tools() -> None:
    server_tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
    chat = read(
        tools=[
            {"name": "f", "description": "d", "input_schema": {"type": "object", "x": 1.0}, "strict": True},
            {"type": "custom", "name": "g", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}},
            {"type": None, "name": "h", "input_schema": {}, "defer_loading": True, "input_examples": [{"a": 1}]},
            server_tool,
        ]
    )
    assert list(chat.tools) == [
        Tool(
            function=FunctionTool(name="f", description="d", input_schema_json='{"type":"object","x":1.0}', strict=True)
        ),
        Tool(function=FunctionTool(name="g", input_schema_json='{"type":"object"}'), cache=CacheMark()),
        Tool(
            function=FunctionTool(name="h", input_schema_json="{}"),
            extensions={"anthropic": '{"defer_loading":true,"input_examples":[{"a":1}]}'},
        ),
        Tool(opaque=Opaque(dialect="anthropic", json=json.dumps(server_tool, separators=(",", ":")))),
    ]


FIELDS: list[tuple[dict[str, object], str]] = [
    ({}, ""),
    ({"stream": True}, "stream: true"),
    ({"stream": None, "system": None, "stop_sequences": None, "tools": None, "thinking": None, "metadata": None}, ""),
    ({"temperature": 1}, "sampling { temperature: 1 }"),
    ({"top_p": 0.5, "top_k": 7}, "sampling { top_p: 0.5 top_k: 7 }"),
    ({"stop_sequences": ["a", "b"]}, 'sampling { stop: "a" stop: "b" }'),
    ({"tool_choice": {"type": "auto"}}, "tool_choice { mode: MODE_AUTO }"),
    ({"tool_choice": {"type": "any"}}, "tool_choice { mode: MODE_ANY }"),
    ({"tool_choice": {"type": "none"}}, "tool_choice { mode: MODE_NONE }"),
    ({"tool_choice": {"type": "tool", "name": "f"}}, 'tool_choice { mode: MODE_TOOL name: "f" }'),
    (
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        "tool_choice { mode: MODE_AUTO } parallel_tool_calls: false",
    ),
    (
        {"tool_choice": {"type": "any", "disable_parallel_tool_use": False}},
        "tool_choice { mode: MODE_ANY } parallel_tool_calls: true",
    ),
    (
        {"tool_choice": {"type": "some", "n": 2}},
        """tool_choice { opaque { dialect: "anthropic" json: '{"type":"some","n":2}' } }""",
    ),
    (
        {"tool_choice": {"type": "auto", "why": 1}},
        """tool_choice { mode: MODE_AUTO } extensions { key: "anthropic" value: '{"tool_choice":{"why":1}}' }""",
    ),
    ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, "reasoning { mode: MODE_ENABLED budget_tokens: 2048 }"),
    ({"thinking": {"type": "disabled"}}, "reasoning { mode: MODE_DISABLED }"),
    ({"thinking": {"type": "adaptive", "display": "omitted"}}, 'reasoning { mode: MODE_ADAPTIVE display: "omitted" }'),
    (
        {"thinking": {"type": "between_tools"}},
        """extensions { key: "anthropic" value: '{"thinking":{"type":"between_tools"}}' }""",
    ),
    ({"output_config": {"effort": "max"}}, 'reasoning { effort: "max" }'),
    (
        {"output_config": {"effort": "low", "task_budget": {"total": 5}}},
        """reasoning { effort: "low" }
        extensions { key: "anthropic" value: '{"output_config":{"task_budget":{"total":5}}}' }""",
    ),
    (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        """response_format { type: TYPE_JSON_SCHEMA schema_json: '{"type":"object"}' }""",
    ),
    (
        {"output_format": {"type": "json_schema", "schema": {"type": "object"}}},
        """response_format { type: TYPE_JSON_SCHEMA schema_json: '{"type":"object"}' }""",
    ),
    (
        {"output_config": {"format": {"type": "grammar", "g": "x"}}},
        """extensions { key: "anthropic" value: '{"output_config":{"format":{"type":"grammar","g":"x"}}}' }""",
    ),
    ({"metadata": {"user_id": "u"}}, 'user: "u"'),
    (
        {"metadata": {"user_id": None, "team": "t"}},
        """extensions { key: "anthropic" value: '{"metadata":{"team":"t"}}' }""",
    ),
    ({"service_tier": "standard_only"}, 'service_tier: "standard_only"'),
    (
        {"context_management": {"edits": []}, "speed": "fast"},
        """extensions { key: "anthropic" value: '{"context_management":{"edits":[]},"speed":"fast"}' }""",
    ),
]


@pytest.mark.parametrize(("fields", "expected"), FIELDS, ids=lambda value: str(value)[:60])
def test_fields(fields: dict[str, object], expected: str) -> None:
    chat = Chat(messages=[Message(role=ROLE_USER, blocks=[said("hi")])], sampling=Sampling(max_tokens=9))
    chat.MergeFrom(text_format.Parse(expected, Chat()))
    assert read(**fields) == chat


def test_carried_json_keeps_its_bytes() -> None:
    schema = '{ "type":"object",\n "x": 1.50, "\\u0061": 1e3 }'
    body = (
        '{"model":"m","messages":[{"role":"assistant","content":[{"input":'
        + schema
        + ',"type":"tool_use","id":"t","name":"f"},'
        '{ "type":"new", "n": 1.0 }]}],"tools":[{"name":"f","input_schema":'
        + schema
        + '},{"type":"t_1", "n": 1.0}],"x":[1.0 ]}'
    )
    chat = DIALECT.read_request(body.encode())
    assert chat.messages[0].blocks[0].tool_use.input_json == schema
    assert chat.messages[0].blocks[1].opaque.json == '{ "type":"new", "n": 1.0 }'
    assert chat.tools[0].function.input_schema_json == schema
    assert chat.tools[1].opaque.json == '{"type":"t_1", "n": 1.0}'
    assert chat.extensions["anthropic"] == '{"x":[1.0 ]}'


def test_max_tokens_may_be_absent() -> None:
    chat = DIALECT.read_request(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}')
    assert not chat.HasField("sampling")


_USER = [{"role": "user", "content": "hi"}]


def _with_block(block: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": [block]}]}


@pytest.mark.parametrize(
    ("fields", "message", "parameter"),
    [
        ({"messages": None}, "messages: Field required", "messages"),
        ({"messages": []}, "messages: at least one message is required", "messages"),
        ({"messages": "hi"}, "messages: Input should be a valid list", "messages"),
        ({"messages": [7]}, "messages.0: Input should be a valid dictionary", "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required", "messages.0.content"),
        ({"messages": [{"content": "x"}]}, "messages.0.role: Field required", "messages.0.role"),
        (
            {"messages": [*_USER, {"role": "user", "content": 3}]},
            "messages.1.content: Input should be a valid list",
            "messages.1.content",
        ),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages.0.role: Input should be 'user', 'assistant' or 'system'",
            "messages.0.role",
        ),
        (_with_block(7), "messages.0.content.0: Input should be a valid dictionary", "messages.0.content.0"),
        (_with_block({"text": "x"}), "messages.0.content.0.type: Field required", "messages.0.content.0.type"),
        (
            _with_block({"type": 7}),
            "messages.0.content.0.type: Input should be a valid string",
            "messages.0.content.0.type",
        ),
        (_with_block({"type": "text"}), "messages.0.content.0.text: Field required", "messages.0.content.0.text"),
        (
            _with_block({"type": "text", "text": None}),
            "messages.0.content.0.text: Field required",
            "messages.0.content.0.text",
        ),
        (
            _with_block({"type": "image", "source": {"type": "base64", "data": 1}}),
            "messages.0.content.0.source.data: Input should be a valid string",
            "messages.0.content.0.source.data",
        ),
        (
            _with_block({"type": "tool_use", "id": "t", "name": "f", "input": "{}"}),
            "messages.0.content.0.input: Input should be a valid dictionary",
            "messages.0.content.0.input",
        ),
        (
            _with_block({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": 1}]}),
            "messages.0.content.0.content.0.text: Input should be a valid string",
            "messages.0.content.0.content.0.text",
        ),
        (
            _with_block({"type": "text", "text": "x", "cache_control": {"ttl": "1h"}}),
            "messages.0.content.0.cache_control.type: Field required",
            "messages.0.content.0.cache_control.type",
        ),
        ({"system": 7}, "system: Input should be a valid list", "system"),
        ({"max_tokens": -1}, "max_tokens: Input should be a valid integer >= 0", "max_tokens"),
        ({"max_tokens": 2**70}, "max_tokens: Input should be a valid integer <= 9223372036854775807", "max_tokens"),
        ({"temperature": "hot"}, "temperature: Input should be a valid number", "temperature"),
        ({"stop_sequences": "x"}, "stop_sequences: Input should be a valid list", "stop_sequences"),
        ({"stop_sequences": ["a", 1]}, "stop_sequences.1: Input should be a valid string", "stop_sequences.1"),
        ({"stream": "yes"}, "stream: Input should be a valid boolean", "stream"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema: Field required", "tools.0.input_schema"),
        (
            {"tools": [{"name": "f", "input_schema": 1}]},
            "tools.0.input_schema: Input should be a valid dictionary",
            "tools.0.input_schema",
        ),
        ({"tools": [1]}, "tools.0: Input should be a valid dictionary", "tools.0"),
        ({"tool_choice": "auto"}, "tool_choice: Input should be a valid dictionary", "tool_choice"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name: Field required", "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens: Field required", "thinking.budget_tokens"),
        ({"output_config": []}, "output_config: Input should be a valid dictionary", "output_config"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id: Input should be a valid string", "metadata.user_id"),
        ({"model": None}, "model: Field required", "model"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_wrong_fields(fields: dict[str, object], message: str, parameter: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(**fields)
    assert (caught.value.error.message, caught.value.error.parameter) == (message, parameter)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"model":"\xff","messages":[]}',
        b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"x","y":"\xff"}]}]}',
        b'{"model":"m","messages":' + b"[" * 99999 + b"}",
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"x","y":' + b"[" * 99999 + b"]" * 99999 + b"}]}]}",
        b'{"model":"m","messages":[{"role":"user","content":'
        + b'[{"type":"tool_result","tool_use_id":"t","content":' * 50
        + b'"x"'
        + b"}]" * 50
        + b"}]}",
    ],
    ids=range(10),
)
def test_unreadable_bodies(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        DIALECT.read_request(body)


def test_half_a_surrogate_pair_is_replaced() -> None:
    """Claude Code shortens the output of tools by code units."""
    body = rb'{"model":"m","messages":[{"role":"user","content":"a\ud83d"},'
    body += rb'{"role":"user","content":[{"type":"text","text":"\ude00\ud83d\ude00"}]}]}'
    chat = DIALECT.read_request(body)
    assert [block.text.text for message in chat.messages for block in message.blocks] == ["a\ufffd", "\ufffd😀"]


def test_types_of_the_canonical_chat_are_all_used() -> None:
    """A guard for the table above: each kind of format and mode that the API has is read by some row."""
    rows = " ".join(expected for _, expected in FIELDS)
    modes = [name for name in ToolChoice.Mode.keys() + Reasoning.Mode.keys() if not name.endswith("UNSPECIFIED")]
    assert all(name in rows for name in [*modes, ResponseFormat.Type.Name(ResponseFormat.TYPE_JSON_SCHEMA)])
