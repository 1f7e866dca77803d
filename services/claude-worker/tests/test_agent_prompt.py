from __future__ import annotations

import json

import pytest

from patchbay.canonical import Chat
from patchbay.dialects.anthropic import DIALECT
from patchbay.errors import InvalidRequest
from patchbay.state.conversations import ConversationRecord
from patchbay_claude_worker.agent.prompt import fingerprint, is_continued, read_prompt


def chat(*messages: tuple[str, object], **fields: object) -> Chat:
    said = [{"role": role, "content": content} for role, content in messages]
    return DIALECT.read_request(json.dumps({"model": "m", "max_tokens": 9, "messages": said, **fields}).encode())


def text(words: str, **fields: object) -> dict[str, object]:
    return {"type": "text", "text": words, **fields}


STORY = (("user", "one"), ("assistant", "two"), ("user", "three"), ("user", [text("four")]))


def test_the_story_so_far_and_the_message_to_answer() -> None:
    prompt = read_prompt(chat(*STORY, system=[text("first"), text("second")]), "m", goes_on=False)
    assert prompt.system == "first\n\nsecond"
    assert [message["role"] for message in prompt.history] == ["user", "assistant"]
    assert prompt.content == (text("three"), text("four"))
    assert prompt.warnings == ()


def test_an_agent_that_knows_the_story_gets_what_is_new() -> None:
    prompt = read_prompt(chat(*STORY), "m", goes_on=True)
    assert prompt.history == ()
    assert prompt.content == (text("three"), text("four"))


def test_its_own_tool_activity_comes_back_as_text() -> None:
    use = {"type": "mcp_tool_use", "id": "t", "name": "Bash", "server_name": "claude-code", "input": {"command": "ls"}}
    done = {"type": "mcp_tool_result", "tool_use_id": "t", "is_error": True, "content": [text("no")]}
    prompt = read_prompt(
        chat(("user", "go"), ("assistant", [use, done, text("Well.")]), ("user", "on")), "m", goes_on=False
    )
    assert [block["text"] for block in prompt.history[1]["content"]] == [
        '<tool_use id="t" name="Bash">{"command":"ls"}</tool_use>\n',
        '<tool_result tool_use_id="t" is_error="true">[{"type":"text","text":"no"}]</tool_result>\n',
        "Well.",
    ]


def test_cache_marks_are_the_agents_own_affair() -> None:
    marked = [text("one", cache_control={"type": "ephemeral"})]
    assert read_prompt(chat(("user", marked)), "m", goes_on=False).content == (text("one"),)


def test_the_last_word_is_the_users() -> None:
    with pytest.raises(InvalidRequest, match="must be the user's"):
        read_prompt(chat(("user", "one"), ("assistant", "two")), "m", goes_on=False)


@pytest.mark.parametrize(
    ("fields", "environment"),
    [
        ({}, {}),
        ({"output_config": {"effort": "low"}}, {"CLAUDE_CODE_EFFORT_LEVEL": "low"}),
        ({"thinking": {"type": "disabled"}}, {"CLAUDE_CODE_DISABLE_THINKING": "1"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, {"MAX_THINKING_TOKENS": "2000"}),
    ],
)
def test_thinks_as_it_is_asked_to(fields: dict[str, object], environment: dict[str, str]) -> None:
    assert read_prompt(chat(("user", "one"), **fields), "m", goes_on=False).environment == environment


def test_says_what_an_agent_cannot_honour() -> None:
    tool = {"name": "f", "input_schema": {"type": "object"}}
    asked = chat(("user", "one"), tools=[tool], tool_choice={"type": "any"}, temperature=0, stop_sequences=["x"])
    warned = [warning.parameter for warning in read_prompt(asked, "m", goes_on=False).warnings]
    assert warned == ["tools", "tool_choice", "temperature", "stop"]


def standing_after(*messages: tuple[str, object]) -> ConversationRecord:
    said = chat(*messages).messages
    return ConversationRecord("session", "project", 1, len(said), fingerprint(said), "w")


def test_a_conversation_goes_on_with_the_story_it_has() -> None:
    record = standing_after(("user", "one"))
    assert is_continued(chat(*STORY), record)
    # Clients move their cache marks from turn to turn, and write a text as a list of blocks or not.
    moved = [text("one", cache_control={"type": "ephemeral"})]
    assert is_continued(chat(("user", moved), ("assistant", "two"), ("user", "three")), record)
    # Who says only what is new tells no other story.
    assert is_continued(chat(("user", "three")), record)


@pytest.mark.parametrize(
    "story",
    [
        (("user", "other"), ("assistant", "two"), ("user", "three")),
        (("user", [text("one"), text("more")]), ("assistant", "two"), ("user", "three")),
        (("assistant", "one"), ("user", "three")),
    ],
)
def test_another_story_is_another_conversation(story: tuple[tuple[str, object], ...]) -> None:
    assert not is_continued(chat(*story), standing_after(("user", "one")))
