"""An agent's turn as one answer, from the lines that the program writes."""

from __future__ import annotations

import json

import pytest

from patchbay.canonical import ChatEvent, Finished
from patchbay.dialects.anthropic import DIALECT as ANTHROPIC
from patchbay.dialects.base import AnswerOptions
from patchbay.errors import OVERLOADED, UPSTREAM
from patchbay.settings.claude_cli import MessageMode
from patchbay_claude_worker.agent.answer import AgentAnswer
from patchbay_claude_worker.cli.messages import read_message

CALL = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "<done>", "is_error": False}


def event(kind: str, **fields: object) -> dict[str, object]:
    return {"type": "stream_event", "event": {"type": kind, **fields}, "parent_tool_use_id": None}


def started(number: int = 1) -> dict[str, object]:
    return event("message_start", message={"id": f"msg_{number}", "model": "m", "usage": {"input_tokens": 5}})


def block(index: int, block: dict[str, object], *deltas: dict[str, object]) -> list[dict[str, object]]:
    return [
        event("content_block_start", index=index, content_block=block),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def words(index: int, *texts: str) -> list[dict[str, object]]:
    return block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": text} for text in texts))


def call(index: int, *parts: str) -> list[dict[str, object]]:
    return block(index, CALL, *({"type": "input_json_delta", "partial_json": part} for part in parts))


def stopped(reason: str | None) -> list[dict[str, object]]:
    return [event("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 3}), event("message_stop")]


def results(*blocks: dict[str, object]) -> dict[str, object]:
    return {"type": "user", "message": {"role": "user", "content": list(blocks)}, "parent_tool_use_id": None}


def result(**fields: object) -> dict[str, object]:
    usage = {"input_tokens": 12, "output_tokens": 7}
    return {"type": "result", "subtype": "success", "is_error": False, "usage": usage, **fields}


TURN = [
    started(),
    *words(0, "Let me ", "look."),
    *call(1, '{"command":', '"ls"}'),
    *stopped("tool_use"),
    results(RESULT),
    started(2),
    *words(0, "All done."),
    *stopped("end_turn"),
    result(),
]


def read(lines: list[dict[str, object]], mode: MessageMode = "forward") -> tuple[list[ChatEvent], AgentAnswer]:
    answer = AgentAnswer(mode)
    events = []
    for line in lines:
        message = read_message(json.dumps(line).encode())
        assert message is not None
        events += answer.feed(message)
    return events, answer


def written(events: list[ChatEvent]) -> list[dict[str, object]]:
    """The blocks that a client of the Messages API gets."""
    writer = ANTHROPIC.write_events(AnswerOptions(stream=False, model="m", fallback_id="x"))
    writer.feed(events)
    blocks: list[dict[str, object]] = json.loads(writer.close())["content"]
    return blocks


def test_forward_shows_blocks_that_are_nobodys_to_run() -> None:
    events, answer = read(TURN)
    assert written(events) == [
        {"type": "text", "text": "Let me look."},
        {
            "type": "mcp_tool_use",
            "id": "toolu_1",
            "name": "Bash",
            "server_name": "claude-code",
            "input": {"command": "ls"},
        },
        {
            "type": "mcp_tool_result",
            "tool_use_id": "toolu_1",
            "is_error": False,
            "content": [{"type": "text", "text": "<done>"}],
        },
        {"type": "text", "text": "All done."},
    ]
    assert answer.ended
    assert [event.WhichOneof("event") for event in events].count("started") == 1
    assert events[-2].usage.input_tokens == 12
    assert events[-1].finished.stop_reason == Finished.STOP_REASON_END_TURN


def test_formatted_shows_text_whose_tags_nothing_closes_from_inside() -> None:
    events, _ = read(TURN, "formatted")
    texts = [block["text"] for block in written(events)]
    assert texts == [
        "Let me look.",
        '<tool_use id="toolu_1" name="Bash">{"command":"ls"}</tool_use>\n',
        '<tool_result tool_use_id="toolu_1">"\\u003cdone>"</tool_result>\n',
        "All done.",
    ]


def test_ignore_shows_the_last_text_only() -> None:
    events, _ = read(TURN, "ignore")
    assert written(events) == [{"type": "text", "text": "All done."}]


def test_tools_take_their_time_between_the_messages() -> None:
    _, answer = read(TURN[: TURN.index(results(RESULT))])
    assert answer.is_working
    _, answer = read(TURN[: TURN.index(results(RESULT)) + 2])
    assert not answer.is_working


@pytest.mark.parametrize("mode", ["forward", "formatted", "ignore"])
def test_a_message_that_failed_is_closed_and_tried_again(mode: MessageMode) -> None:
    broken = [started(), *words(0, "Half a sen")[:-1], event("content_block_stop", index=0), *stopped(None)]
    events, _ = read([*broken, started(2), *words(0, "Whole."), *stopped("end_turn"), result()], mode)
    texts = [block["text"] for block in written(events)]
    assert texts == (["Whole."] if mode == "ignore" else ["Half a sen", "Whole."])
    # Without the program's own closing words, too.
    events, _ = read(
        [started(), *words(0, "Half")[:-1], started(2), *words(0, "Whole."), *stopped("end_turn"), result()]
    )
    assert [block["text"] for block in written(events)] == ["Half", "Whole."]


def test_what_a_subagent_does_is_its_callers_affair() -> None:
    inner = [{**line, "parent_tool_use_id": "toolu_1"} for line in TURN[:-1]]
    at = TURN.index(results(RESULT))
    assert written(read([*TURN[:at], *inner, *TURN[at:]])[0]) == written(read(TURN)[0])


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (result(subtype="error_max_turns", is_error=True), Finished.STOP_REASON_PAUSE_TURN),
        (result(), Finished.STOP_REASON_REFUSAL),
    ],
)
def test_says_why_it_stopped(last: dict[str, object], reason: Finished.StopReason.ValueType) -> None:
    events, _ = read([started(), *words(0, "No."), *stopped("refusal"), last])
    assert events[-1].finished.stop_reason == reason


def test_a_failure_is_an_error_without_the_programs_apology() -> None:
    apology = {"type": "assistant", "message": {"content": []}, "error": "server_error", "request_id": "req_1"}
    words = "API Error: 529 Overloaded. This is a server-side issue, usually temporary"
    failed = result(is_error=True, api_error_status=529, api_error_type="overloaded_error", result=words)
    events, _ = read([apology, failed])
    assert (events[-1].error.code, events[-1].error.message) == (OVERLOADED, "Overloaded")
    events, _ = read([started(), result(subtype="error_during_execution", is_error=True)])
    assert events[-1].error.code == UPSTREAM
