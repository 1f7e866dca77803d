from __future__ import annotations

import pytest

from patchbay.canonical import (
    Audio,
    Block,
    BlockList,
    Chat,
    CustomTool,
    Document,
    FunctionTool,
    Image,
    Message,
    Opaque,
    RedactedThinking,
    Refusal,
    ResponseFormat,
    Source,
    Text,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
)
from patchbay.upstream.estimate import estimate_tokens

LONG = "x" * 3000
TEXT = Block(text=Text(text=LONG))


def of(block: Block) -> int:
    return estimate_tokens(Chat(messages=[Message(blocks=[block])]))


@pytest.mark.parametrize(
    ("chat", "least"),
    [
        (Chat(system=[TEXT]), 1000),
        (Chat(messages=[Message(blocks=[TEXT, TEXT])]), 2000),
        (Chat(tools=[Tool(function=FunctionTool(name="f", description=LONG, input_schema_json=LONG))]), 2000),
        (Chat(tools=[Tool(custom=CustomTool(name="f", description=LONG, format_json=LONG))]), 2000),
        (Chat(tools=[Tool(opaque=Opaque(json=LONG))]), 1000),
        (Chat(response_format=ResponseFormat(schema_json=LONG)), 1000),
    ],
)
def test_system_tools_and_formats_count(chat: Chat, least: int) -> None:
    assert least <= estimate_tokens(chat) <= least + 20


@pytest.mark.parametrize(
    ("block", "least"),
    [
        (TEXT, 1000),
        (Block(thinking=Thinking(text=LONG)), 1000),
        (Block(thinking=Thinking(signature=LONG)), 1000),
        (Block(redacted_thinking=RedactedThinking(data=LONG)), 1000),
        (Block(refusal=Refusal(text=LONG)), 1000),
        (Block(tool_use=ToolUse(name="f", input_json=LONG)), 1000),
        (Block(tool_use=ToolUse(name="f", text_input=LONG)), 1000),
        (Block(tool_result=ToolResult(blocks=[TEXT, TEXT])), 2000),
        (Block(document=Document(content=BlockList(blocks=[TEXT]))), 1000),
        (Block(document=Document(source=Source(text=LONG))), 1000),
        (Block(opaque=Opaque(json=LONG)), 1000),
    ],
)
def test_every_kind_of_text_counts(block: Block, least: int) -> None:
    assert least <= of(block) <= least + 20


def test_pictures_pages_and_sounds_count() -> None:
    assert 1000 <= of(Block(image=Image(source=Source(url="http://a.test")))) <= 3000
    assert 2000 <= of(Block(document=Document(source=Source(base64="x" * 10_000)))) <= 4000
    assert 20_000 <= of(Block(document=Document(source=Source(base64="x" * 500_000)))) <= 40_000
    # A minute of compressed speech.
    assert 600 <= of(Block(audio=Audio(base64="x" * 320_000))) <= 2000


def test_it_counts_bytes_so_that_other_scripts_are_not_taken_for_short() -> None:
    assert of(Block(text=Text(text="語" * 1000))) >= 1000


def test_nothing_is_nothing() -> None:
    assert estimate_tokens(Chat()) == 0
