from __future__ import annotations

from typing import Any

import pytest

from patchbay.canonical import ROLE_ASSISTANT, ROLE_USER, Message
from patchbay_codebuff_ws.loop.history import canonical, model_name, user_message
from patchbay_codebuff_ws.loop.messages import clean_history
from patchbay_codebuff_ws.loop.prune import OMITTED, message_tokens, pruned
from patchbay_codebuff_ws.loop.state import AgentState, Project

Json = dict[str, Any]


def call(call_id: str, name: str = "read_files", **given: Any) -> Json:
    part = {"type": "tool-call", "toolCallId": call_id, "toolName": name, "input": given}
    return {"role": "assistant", "content": [part]}


def result(call_id: str, value: Any, name: str = "read_files") -> Json:
    output = [{"type": "json", "value": value}]
    content = {"type": "tool-result", "toolCallId": call_id, "toolName": name, "output": output}
    return {"role": "tool", "content": content}


def lines(messages: list[Message]) -> list[str]:
    shown = []
    for message in messages:
        for block in message.blocks:
            kind = block.WhichOneof("kind")
            who = "user" if message.role == ROLE_USER else "assistant"
            if kind == "tool_result":
                text = block.tool_result.tool_use_id + " " + block.tool_result.blocks[0].text.text
            elif kind == "tool_use":
                text = f"{block.tool_use.id} {block.tool_use.input_json}"
            else:
                text = block.text.text
            shown.append(f"{who} {kind}: {text}")
    return shown


def test_calls_and_results_are_kept_together() -> None:
    messages = canonical(
        [user_message("hi"), call("1", a=1), user_message("between"), result("1", [2]), user_message("more")], model="m"
    )
    assert lines(messages) == [
        "user text: hi",
        'assistant tool_use: 1 {"a":1}',
        "user tool_result: 1 [2]",
        "user text: between",
        "user text: more",
    ]
    assert [message.role for message in messages] == [ROLE_USER, ROLE_ASSISTANT, ROLE_USER]


def orphan(call_id: str, value: str) -> str:
    shown = f'{{"toolName":"read_files","toolCallId":"{call_id}","output":[{{"type":"json","value":"{value}"}}]}}'
    return f"user text: <tool_result>\n{shown}\n</tool_result>"


def test_what_lacks_its_other_half_is_no_error() -> None:
    messages = canonical([result("9", "x"), call("1"), call("2"), result("1", "late")], model="m")
    assert lines(messages) == [
        orphan("9", "x"),
        "assistant tool_use: 1 {}",
        "user tool_result: 1 [There is no result of this call.]",
        "assistant tool_use: 2 {}",
        "user tool_result: 2 [There is no result of this call.]",
        orphan("1", "late"),
    ]


def test_messages_of_one_side_become_one_and_empty_ones_none() -> None:
    history = [
        user_message("a"),
        user_message(" "),
        {"role": "system", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "d"}]},
    ]
    messages = canonical(history, model="m")
    assert [message.role for message in messages] == [ROLE_USER, ROLE_ASSISTANT]
    assert lines(messages) == [
        "user text: a",
        "user text: <system>b</system>",
        "assistant text: c",
        "assistant text: d",
    ]


def test_media_become_images_and_documents() -> None:
    parts = [
        {"type": "image", "image": "data:image/jpeg;base64,aGk="},
        {"type": "image", "image": "https://example.com/a.png"},
        {"type": "file", "data": "cGRm", "mediaType": "application/pdf", "filename": "a.pdf"},
    ]
    [message] = canonical([{"role": "user", "content": parts}], model="m")
    first, second, third = message.blocks
    assert (first.image.source.base64, first.image.source.media_type) == ("aGk=", "image/jpeg")
    assert second.image.source.url == "https://example.com/a.png"
    assert (third.document.source.base64, third.document.title) == ("cGRm", "a.pdf")


def test_media_of_tools_are_in_their_results() -> None:
    tool = result("1", "x")
    tool["content"]["output"] = [{"type": "media", "data": "aGk=", "mediaType": "image/png"}]
    messages = canonical([call("1"), tool], model="m")
    assert messages[1].blocks[0].tool_result.blocks[0].image.source.base64 == "aGk="


def test_names_are_what_every_provider_takes() -> None:
    assert model_name("server/tool.é") == "server_tool__"
    assert len(model_name("a" * 100)) == 64
    assert model_name("a" * 64 + "b") != model_name("a" * 64 + "c")


def test_a_history_is_cleaned_to_what_clients_take_back() -> None:
    inner = {"toolCallId": "1", "toolName": "t", "output": [{"type": "json", "value": 1}, "no part"]}
    tool = {"type": "tool-result", "toolCallId": "1", "toolName": "t", "output": [{"type": "json", "value": 1}]}
    assert clean_history(
        [
            "text",
            {"role": "nobody", "content": "x"},
            {"role": ["user"], "content": "x"},
            {"role": "user"},
            {"role": "user", "content": ["x", {"type": "text", "text": "y"}]},
            {"role": "tool", "content": [inner]},
            {"role": "tool", "content": None},
            {"role": "tool", "toolCallId": "1", "toolName": "t", "content": [{"type": "json", "value": 1}]},
        ]
    ) == [
        {"role": "user", "content": [{"type": "text", "text": "y"}]},
        {"role": "tool", "content": tool},
        {"role": "tool", "toolCallId": "1", "toolName": "t", "content": tool},
    ]


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ({"role": "system", "content": [{"type": "text", "text": "a"}, 7]}, {"role": "system", "content": "a"}),
        ({"role": "user", "content": [{"type": "text"}, {"type": "odd"}, {"type": "image", "image": 1}]}, None),
        (
            {"role": "user", "content": [{"type": "image", "image": "aGk=", "mediaType": None}]},
            {"role": "user", "content": [{"type": "image", "image": "aGk="}]},
        ),
        (
            {
                "role": "user",
                "content": "a",
                "timeToLive": "ever",
                "keepDuringTruncation": 1,
                "providerOptions": {"b": 1},
            },
            {"role": "user", "content": "a"},
        ),
        (
            {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image", "image": "aGk="}]},
            {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
        ),
        (
            {"role": "assistant", "content": [{"type": "tool-call", "toolCallId": 1, "toolName": "x", "input": {}}]},
            None,
        ),
        (
            result("1", "x") | {"timeToLive": "agentStep", "providerOptions": {"a": {"b": 1}}},
            result("1", "x") | {"timeToLive": "agentStep", "providerOptions": {"a": {"b": 1}}},
        ),
    ],
)
def test_of_a_message_only_what_clients_take_is_kept(message: Json, kept: Json | None) -> None:
    assert clean_history([message]) == ([] if kept is None else [kept])


@pytest.mark.parametrize("part", [{"type": "json"}, {"type": "media", "data": 1, "mediaType": "a/b"}, {"value": 1}, 7])
def test_of_an_output_only_what_clients_take_is_kept(part: object) -> None:
    message = result("1", None)
    message["content"]["output"].append(part)
    assert clean_history([message]) == [result("1", None)]


def test_a_state_tolerates_what_is_missing() -> None:
    goals = {"a": {"plan": "x"}, "b": {"logs": ["one", 2]}, "c": 7}
    state = AgentState.read({"stepsRemaining": None, "messageHistory": 7, "creditsUsed": 9, "agentContext": goals})
    assert state.write() == {
        "agentId": "main-agent",
        "agentType": None,
        "agentContext": {"a": {"plan": "x", "logs": []}, "b": {"logs": ["one"]}},
        "subagents": [],
        "messageHistory": [],
        "stepsRemaining": 25,
        "creditsUsed": 0,
        "directCreditsUsed": 0,
        "ancestorRunIds": [],
        "childRunIds": [],
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/p/a/b.py", "a/b.py"), ("./a.py", "a.py"), ("/q/a.py", "/q/a.py"), ("/px/a.py", "/px/a.py"), ("a.py", "a.py")],
)
def test_paths_are_relative_to_the_project(path: str, expected: str) -> None:
    assert Project({"projectRoot": "/p"}).relative(path) == expected


def total(messages: list[Json]) -> int:
    return sum(map(message_tokens, messages))


def test_a_conversation_that_fits_is_left_alone() -> None:
    history = [user_message("x" * 3000), call("1"), result("1", "y" * 3000)]
    assert pruned(history, limit=3000, overhead=100) == history


def test_old_terminal_outputs_go_first() -> None:
    history = []
    for number in range(8):
        history += [
            call(str(number), "run_terminal_command"),
            result(str(number), {"command": "c", "exitCode": 0, "stdout": "x" * 3000}, "run_terminal_command"),
        ]
    left = pruned(history, limit=total(history) - 1, overhead=0)
    values = [message["content"]["output"][0]["value"] for message in left if message["role"] == "tool"]
    assert ["stdout" in value for value in values] == [False] * 3 + [True] * 5
    assert values[0] == {"command": "c", "exitCode": 0, "stdoutOmittedForLength": True}
    assert len(left) == len(history)


def test_then_the_oldest_messages_go_with_their_results_and_what_is_kept_stays() -> None:
    kept = user_message("kept " + "x" * 300, keep=True)
    history = [kept]
    for number in range(20):
        history += [call(str(number), a="x" * 300), result(str(number), "y" * 300)]
    limit = total(history) // 2
    left = pruned(history, limit=limit, overhead=50)
    assert left[0] == kept
    assert left[1] == {"role": "user", "content": OMITTED}
    assert total(left) + 50 < limit * 0.75
    assert left[2:] == history[-len(left) + 2 :]
    assert left[2]["role"] == "assistant"
    # Shortened again, there is one such note.
    again = pruned(left, limit=total(left) // 2, overhead=50)
    assert [message["content"] for message in again].count(OMITTED) == 1


def test_of_a_result_that_fills_the_window_alone_both_ends_are_left() -> None:
    asked = user_message("What is in it?", keep=True)
    long = result("2", {"rows": "a" * 50_000 + "b" * 50_000}, "query")
    history = [asked, call("1", "query"), result("1", "short"), call("2", "query"), long]
    left = pruned(history, limit=12_000, overhead=3_000)
    assert left[:4] == history[:4]
    text = left[4]["content"]["output"][0]["value"]
    assert text.startswith('{"rows":"aaa')
    assert text.endswith('bbb"}')
    assert "characters left out" in text
    assert total(left) <= 9_000
    assert pruned(history, limit=4_000, overhead=3_000)[:2] == [asked, user_message(OMITTED)]
    # As it was, it is still there for whoever has it.
    assert long == result("2", {"rows": "a" * 50_000 + "b" * 50_000}, "query")


def test_a_call_with_the_id_of_one_that_is_gone_keeps_its_result() -> None:
    history = [user_message("x" * 3000), call("0"), result("0", "y" * 3000), call("0"), result("0", "z")]
    assert pruned(history, limit=1500, overhead=0)[1:] == history[-2:]


def test_old_files_are_left_out_when_there_are_too_many() -> None:
    history = []
    for number in range(5):
        content = [{"path": f"{number}.txt", "content": "x" * 90_000}]
        history += [call(str(number)), result(str(number), content)]
    left = pruned(history, limit=10_000_000, overhead=0)
    entries = [message["content"]["output"][0]["value"][0] for message in left if message["role"] == "tool"]
    assert entries[0] == {"path": "0.txt", "contentOmittedForLength": True}
    assert "content" in entries[-1]
    assert history[1]["content"]["output"][0]["value"][0]["content"]


def test_media_count_by_their_number() -> None:
    image = {"role": "user", "content": [{"type": "image", "image": "x" * 1_000_000}]}
    assert message_tokens(image) < 2_000
