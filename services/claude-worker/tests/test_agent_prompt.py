from __future__ import annotations

import json

import pytest

from patchbay.canonical import Chat
from patchbay.dialects.anthropic import DIALECT
from patchbay.errors import InvalidRequest
from patchbay.state.conversations import ConversationRecord
from patchbay_claude_worker.agent.prompt import fingerprint, is_continued, read_prompt, story_of, system_digest


def chat(*messages: tuple[str, object], **fields: object) -> Chat:
    said = [{"role": role, "content": content} for role, content in messages]
    return DIALECT.read_request(json.dumps({"model": "m", "max_tokens": 9, "messages": said, **fields}).encode())


def text(words: str, **fields: object) -> dict[str, object]:
    return {"type": "text", "text": words, **fields}


STORY = (("user", "one"), ("assistant", "two"), ("user", "three"), ("user", [text("four")]))


def test_the_story_so_far_and_the_message_to_answer() -> None:
    prompt = read_prompt(chat(*STORY, system=[text("first"), text("second")]), "m", known=None)
    assert prompt.system == "first\n\nsecond"
    assert [message["role"] for message in prompt.history] == ["user", "assistant"]
    assert prompt.content == (text("three"), text("four"))
    assert prompt.warnings == ()


def test_an_agent_that_knows_the_story_gets_what_is_new() -> None:
    prompt = read_prompt(chat(*STORY), "m", known=standing_after(("user", "one")))
    assert prompt.history == ()
    assert prompt.content == (text("three"), text("four"))


def test_its_own_tool_activity_comes_back_as_text() -> None:
    use = {"type": "mcp_tool_use", "id": "t", "name": "Bash", "server_name": "claude-code", "input": {"command": "ls"}}
    done = {"type": "mcp_tool_result", "tool_use_id": "t", "is_error": True, "content": [text("no")]}
    prompt = read_prompt(
        chat(("user", "go"), ("assistant", [use, done, text("Well.")]), ("user", "on")), "m", known=None
    )
    assert [block["text"] for block in prompt.history[1]["content"]] == [
        '<tool_use id="t" name="Bash">{"command":"ls"}</tool_use>\n',
        '<tool_result tool_use_id="t" is_error="true">[{"type":"text","text":"no"}]</tool_result>\n',
        "Well.",
    ]


def test_cache_marks_are_the_agents_own_affair() -> None:
    marked = [text("one", cache_control={"type": "ephemeral"})]
    assert read_prompt(chat(("user", marked)), "m", known=None).content == (text("one"),)


def test_the_last_word_is_the_users() -> None:
    with pytest.raises(InvalidRequest, match="must be the user's"):
        read_prompt(chat(("user", "one"), ("assistant", "two")), "m", known=None)


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
    # What is not asked for is unset: it may have been asked for in the turn before.
    unset = {"CLAUDE_CODE_EFFORT_LEVEL": "", "CLAUDE_CODE_DISABLE_THINKING": "", "MAX_THINKING_TOKENS": ""}
    assert read_prompt(chat(("user", "one"), **fields), "m", known=None).environment == unset | environment


def test_says_what_an_agent_cannot_honour() -> None:
    tool = {"name": "f", "input_schema": {"type": "object"}}
    asked = chat(("user", "one"), tools=[tool], tool_choice={"type": "any"}, temperature=0, stop_sequences=["x"])
    warned = [warning.parameter for warning in read_prompt(asked, "m", known=None).warnings]
    assert warned == ["tools", "tool_choice", "temperature", "stop"]


def standing_after(*messages: tuple[str, object], is_under_way: bool = False, **fields: object) -> ConversationRecord:
    said = chat(*messages, **fields)
    return ConversationRecord(
        "session", "project", 1, len(said.messages), fingerprint(said.messages), system_digest(said), "w", is_under_way
    )


MARKED = [text("one", cache_control={"type": "ephemeral"})]
THOUGHT = [{"type": "thinking", "thinking": "hm", "signature": "s"}, text("two")]


@pytest.mark.parametrize(
    "messages",
    [
        STORY,
        # Clients move their cache marks from turn to turn, and write a text as a list of blocks or not.
        (("user", MARKED), ("assistant", "two"), ("user", "three")),
        # One answer may be several messages.
        (("user", "one"), ("assistant", "two"), ("assistant", "and a half"), ("user", "three")),
    ],
)
def test_a_conversation_goes_on_behind_its_last_answer(messages: tuple[tuple[str, object], ...]) -> None:
    assert is_continued(chat(*messages), standing_after(("user", "one")), is_named=False)


@pytest.mark.parametrize(
    "messages",
    [
        # Edited.
        (("user", "other"), ("assistant", "two"), ("user", "three")),
        (("user", [text("one"), text("more")]), ("assistant", "two"), ("user", "three")),
        (("assistant", "one"), ("user", "three")),
        # Another backend has answered a turn in between.
        (("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"), ("user", "five")),
        # The answer is to be given anew.
        (("user", "one"),),
        # Two messages, and nobody knows who should have answered the first.
        (("user", "one"), ("user", "three"), ("assistant", "two"), ("user", "five")),
    ],
)
def test_another_story_is_told_from_the_beginning(messages: tuple[tuple[str, object], ...]) -> None:
    assert not is_continued(chat(*messages), standing_after(("user", "one")), is_named=False)


def test_an_image_in_the_history_counts() -> None:
    def image(data: str) -> list[dict[str, object]]:
        return [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}]

    record = standing_after(("user", image("AAAA")))
    for data, continued in (("AAAA", True), ("BBBB", False)):
        told = chat(("user", image(data)), ("assistant", "two"), ("user", "three"))
        assert is_continued(told, record, is_named=False) is continued


def test_thinking_that_a_client_drops_does_not() -> None:
    record = standing_after(("user", "one"), ("assistant", THOUGHT), ("user", "three"))
    told = chat(("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"), ("user", "five"))
    assert is_continued(told, record, is_named=False)


def test_who_has_named_the_session_for_us_may_say_only_what_is_new() -> None:
    record = standing_after(("user", "one"), system="S")
    assert is_continued(chat(("user", "three"), system="S"), record, is_named=True)
    assert not is_continued(chat(("user", "three"), system="S"), record, is_named=False)
    # With another system prompt it is another task in the same session.
    assert not is_continued(chat(("user", "three"), system="Write a title."), record, is_named=True)


def test_a_turn_that_broke_off_is_gone_on_with_when_it_is_asked_for_again() -> None:
    record = standing_after(("user", "one"), is_under_way=True)
    assert is_continued(chat(("user", "one")), record, is_named=False)
    assert not is_continued(chat(("user", "other")), record, is_named=False)


def test_claude_codes_attribution_is_no_part_of_a_system_prompt() -> None:
    def told(version: str) -> Chat:
        line = text(f"x-anthropic-billing-header: cc_version={version};")
        return chat(("user", "one"), system=[line, text("Be brief.")])

    assert system_digest(told("1")) == system_digest(told("2"))
    assert story_of(told("1")) == story_of(told("2"))
    assert story_of(told("1")) != story_of(chat(("user", "two"), system=[text("Be brief.")]))


def test_says_when_a_system_prompt_comes_too_late() -> None:
    record = standing_after(("user", "one"), system="S")
    for system, warned in (("S", []), ("T", ["system"])):
        prompt = read_prompt(chat(*STORY, system=system), "m", known=record)
        assert [warning.parameter for warning in prompt.warnings] == warned
