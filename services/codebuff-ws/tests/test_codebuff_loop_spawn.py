from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest
from loop_fakes import Call, Definition, FakeClient, FakeModels, Json, Turn, World, history_of, session

from patchbay.canonical import Usage
from patchbay.errors import UPSTREAM, PatchbayError, make_error
from patchbay.settings.codebuff import Codebuff
from patchbay.testing.eventually import eventually

SPAWN = ("spawn_agents", "spawn_agents_async", "spawn_agent_inline", "read_files")


def parent(*spawnable: str, **more: Any) -> Definition:
    return Definition(id="base", model="base", tool_names=SPAWN, spawnable_agents=spawnable, **more)


def child(name: str, **more: Any) -> Definition:
    return Definition(id=name, display_name=name.title(), model=name, **more)


def spawn(*names: str, tool: str = "spawn_agents", **more: Any) -> Call:
    return Call(tool, {"agents": [{"agent_type": name, "prompt": f"Be {name}", **more} for name in names]})


def world_of(agents: list[Definition], **by_model: list[Turn]) -> World:
    return World(FakeModels(["?"], by_model=by_model), agents=agents)


async def test_agents_run_side_by_side_and_report() -> None:
    both = asyncio.Event()
    running = 0

    async def meet() -> None:
        nonlocal running
        running += 1
        if running == 2:
            both.set()
        await both.wait()

    world = world_of(
        [parent("one", "two"), child("one"), child("two")],
        base=[["Go", spawn("one", "two")], ["Done"]],
        one=[["I am one", meet]],
        two=[["I am two", meet]],
    )
    result = await asyncio.wait_for(world.run(), 10)
    assert result.output["value"] == "Done"
    assert world.client.results() == [
        [
            {"agentName": "One", "agentType": "one", "value": {"type": "lastMessage", "value": "I am one"}},
            {"agentName": "Two", "agentType": "two", "value": {"type": "lastMessage", "value": "I am two"}},
        ]
    ]
    # Two at a time are shown each on its own, not among the words of their parent.
    assert world.client.text == "GoDone"
    assert {(kind, text) for kind, text in world.client.subagent_chunks} >= {("one", "I am"), ("two", "I am")}
    starts, ends = world.client.events("subagent_start"), world.client.events("subagent_finish")
    assert sorted(event["displayName"] for event in starts) == ["One", "Two"]
    assert len(ends) == 2
    assert not starts[0]["onlyChild"]
    prompts = {model: chat.messages[0].blocks[0].text.text for model, chat, _ in world.models.asked}
    assert prompts["one"] == "<user_message>Be one</user_message>"


async def test_an_only_child_is_heard_on_its_parents_stream() -> None:
    world = world_of([parent("one"), child("one")], base=[[spawn("one")], ["Done"]], one=[["I am one"]])
    await world.run()
    assert world.client.text == "\n\n[One]\n\nI am oneDone"
    [mine] = [event for event in world.client.events("text") if "agentId" in event]
    assert mine["text"] == "I am one"
    assert world.client.events("subagent_start")[0]["onlyChild"]


async def test_runs_know_their_ancestors_and_costs_add_up() -> None:
    cost = Usage(extensions={"openai": '{"cost":0.01}'})
    world = world_of(
        [parent("one"), child("one", tool_names=SPAWN, spawnable_agents=("two",)), child("two")],
        base=[[spawn("one"), cost], ["Done", cost]],
        one=[[spawn("two"), cost], ["One", cost]],
        two=[["Two", cost]],
    )
    result = await world.run()
    (base, _, none), (one, _, first), (two, _, second) = world.runs.started
    assert (none, first, second) == ([], [base], [base, one])
    finished = {run_id: rest for run_id, *rest in world.runs.finished}
    assert finished[base] == ["completed", 2, 2, 5, ""]
    assert finished[one] == ["completed", 2, 2, 3, ""]
    assert finished[two] == ["completed", 1, 1, 1, ""]
    steps = {(step["run_id"], step["number"]): step["child_run_ids"] for step in world.runs.steps}
    assert steps[base, 1] == [one]
    assert steps[base, 2] == []
    assert result.session_state["mainAgentState"]["creditsUsed"] == 5
    assert result.session_state["mainAgentState"]["directCreditsUsed"] == 2
    ids = [input_id for _, _, input_id in world.client.costs]
    assert all(input_id.startswith("p1") for input_id in ids)
    deepest = max(ids, key=len)
    assert deepest.startswith("p1-one")
    assert "-two" in deepest


PROGRAM = """function* () {
  yield { toolName: 'spawn_agents', input: { agents: [{ agent_type: 'one' }] } }
  yield 'STEP_ALL'
}"""


@pytest.mark.parametrize(
    ("program", "turns"),
    [(PROGRAM, [["Done"]]), (None, [[spawn("one", tool="spawn_agents_async")], ["Waiting"], ["Done"]])],
)
async def test_an_agent_that_was_started_between_steps_is_one_of_a_steps(
    program: str | None, turns: list[Turn]
) -> None:
    world = world_of([parent("one", handle_steps=program), child("one")], base=turns, one=[["I am one"]])
    await world.run()
    (base, _, _), (one, _, _) = world.runs.started
    steps = [step["child_run_ids"] for step in world.runs.steps if step["run_id"] == base]
    assert [run_id for children in steps for run_id in children] == [one]


@pytest.mark.parametrize(
    ("asked", "params", "said"),
    [
        ("stranger", {}, "may not be started here (agents: one, ghost)"),
        ("other/one", {}, "there is no agent `other/one`"),
        ("one@1.0", {}, None),
        ("ghost", {}, "there is no agent `ghost`"),
        ("one", {"n": "x"}, "params for `one` are wrong: n: 'x' is not of type 'integer'"),
    ],
)
async def test_only_whom_it_may_start_and_only_as_they_want(asked: str, params: Json, said: str | None) -> None:
    schema = {"params": {"type": "object", "properties": {"n": {"type": "integer"}}}}
    world = world_of(
        [parent("one", "ghost"), child("one", input_schema=schema), child("stranger")],
        base=[[spawn(asked, params=params)], ["Done"]],
        one=[["I am one"]],
    )
    await world.run()
    [[report]] = world.client.results()
    if said is None:
        assert report["value"] == {"type": "lastMessage", "value": "I am one"}
    else:
        assert said in report["value"]["errorMessage"]


async def test_a_failing_agent_is_a_report() -> None:
    error = PatchbayError(make_error(UPSTREAM, "the provider failed"))
    world = world_of([parent("one"), child("one")], base=[[spawn("one")], ["Done"]], one=[[error]])
    assert (await world.run()).output["value"] == "Done"
    assert world.client.results()[0][0]["value"] == {"errorMessage": "the provider failed"}
    assert [status for _, status, *_ in world.runs.finished] == ["failed", "completed"]


async def test_depth_is_limited() -> None:
    again = child("again", tool_names=SPAWN, spawnable_agents=("again",))
    world = world_of([again], again=[[spawn("again")], *[[spawn("again")]] * 3, ["End"]])
    world.settings = Codebuff(max_agent_depth=2)
    await world.run()
    assert len(world.runs.started) == 3
    shown = [chat.SerializeToString() for chat in world.models.chats]
    assert any(b"more than 2 deep" in text for text in shown)


async def test_agents_at_work_are_limited_and_those_that_wait_do_not_count() -> None:
    world = world_of(
        [parent("one"), child("one", tool_names=SPAWN, spawnable_agents=("two",)), child("two")],
        base=[[spawn("one", "one", "one")], ["Done"]],
        one=[[spawn("two", "two")]] * 3 + [["One"]],  # type: ignore[operator]
        two=[["Two"]],
    )
    world.settings = Codebuff(max_running_agents=1)
    result = await asyncio.wait_for(world.run(), 10)
    assert result.output["value"] == "Done"
    assert world.models.most_running == 1
    assert len(world.runs.started) == 10


async def test_an_agent_may_know_the_conversation() -> None:
    world = world_of(
        [parent("one"), child("one", include_message_history=True)], base=[[spawn("one")], ["Done"]], one=[["Ok"]]
    )
    await world.run("the secret")
    told = world.models.chats[1].messages[0].blocks
    assert "the secret" in told[0].text.text
    assert told[1].text.text == "<user_message>Be one</user_message>"


async def test_of_a_conversation_an_agent_gets_what_it_can_read_and_no_more_than_fits() -> None:
    world = world_of(
        [parent("one"), child("one", include_message_history=True)], base=[[spawn("one")], ["Done"]], one=[["Ok"]]
    )
    world.settings = Codebuff(context_tokens=20_000)
    media = {"data": "aGk=" * 30_000, "mediaType": "image/png"}
    shot = {"type": "tool-result", "toolCallId": "1", "toolName": "look", "output": [{"type": "media", **media}]}
    history: list[Json] = [{"role": "user", "content": f"{at} {'x' * 3_000}"} for at in range(18)]
    history += [
        {"role": "tool", "content": shot},
        {"role": "user", "content": [{"type": "text", "text": "See"}, {"type": "file", **media}]},
    ]
    await world.run("the secret", state=session(history))
    told = world.models.chats[1].messages[0].blocks[0].text.text
    assert "the secret" in told
    assert "See" in told
    assert "aGk=" not in told
    assert len(told) < 20_000 * 3


async def test_agents_that_are_there_at_a_time_are_limited() -> None:
    world = world_of(
        [parent("one"), child("one")], base=[[spawn(*["one"] * 12)], [spawn("one")], ["Done"]], one=[["Ok"]]
    )
    world.settings = Codebuff(max_running_agents=1)
    await world.run()
    first, second = world.client.results()
    assert [report["value"] for report in first[-2:]] == [
        {"errorMessage": "There are as many agents as may be at a time (10): start fewer."}
    ] * 2
    assert [report["value"]["value"] for report in (*first[:10], *second)] == ["Ok"] * 11


async def test_a_child_may_inherit_the_system_prompt() -> None:
    world = world_of(
        [parent("one", system_prompt="Mine."), child("one", inherit_parent_system_prompt=True, system_prompt="Own.")],
        base=[[spawn("one")], ["Done"]],
        one=[["Ok"]],
    )
    await world.run()
    assert world.models.chats[1].system[0].text.text == world.models.chats[0].system[0].text.text


async def test_a_child_with_its_parents_system_prompt_knows_its_own_agents() -> None:
    inheriting = child("one", inherit_parent_system_prompt=True, tool_names=SPAWN, spawnable_agents=("two",))
    world = world_of(
        [parent("one", system_prompt="Mine."), inheriting, child("two", spawner_prompt="For tests.")],
        base=[[spawn("one")], ["Done"]],
        one=[["Ok"]],
    )
    result = await world.run()
    asked = world.models.chats[1]
    assert "## two" not in asked.system[0].text.text
    assert "## two: Two\nFor tests." in asked.messages[-1].blocks[-1].text.text
    assert "For tests." not in str(history_of(result))


async def test_an_agent_beside_reports_by_a_message_and_the_turn_waits_for_it() -> None:
    release = asyncio.Event()
    world = world_of(
        [parent("one"), child("one")],
        base=[[spawn("one", tool="spawn_agents_async")], ["Waiting"], ["Done"]],
        one=[["I am one", release.wait]],
    )
    task = asyncio.create_task(world.run())
    await eventually(lambda: "Waiting" in world.client.text)
    release.set()
    result = await asyncio.wait_for(task, 10)
    assert result.output["value"] == "Done"
    [[report]] = world.client.results()
    assert report["success"]
    told = world.models.chats[-1].messages[-1].blocks[-1].text.text
    value = msgspec.json.decode(told.partition(":\n")[2].removesuffix("</system>"))
    assert value["agentId"] == report["agentId"]
    assert value["value"]["value"] == "I am one"


async def test_the_costs_of_an_agent_that_outlives_its_parent_count() -> None:
    release = asyncio.Event()
    cost = Usage(extensions={"openai": '{"cost":0.01}'})
    failure = PatchbayError(make_error(UPSTREAM, "the provider failed"))
    world = world_of(
        [parent("one"), child("one", tool_names=SPAWN, spawnable_agents=("two",)), child("two")],
        base=[[spawn("one"), cost], ["Done", cost]],
        one=[[spawn("two", tool="spawn_agents_async"), cost], [failure]],
        two=[["Two", release.wait, cost]],
    )
    task = asyncio.create_task(world.run())
    await eventually(lambda: "Done" in world.client.text)
    release.set()
    result = await asyncio.wait_for(task, 10)
    assert result.session_state["mainAgentState"]["creditsUsed"] == 4
    assert world.client.events("finish")[0]["totalCost"] == 4


async def test_what_an_agent_beside_has_said_does_not_wait_for_the_others() -> None:
    said, release = asyncio.Event(), asyncio.Event()
    world = world_of(
        [parent("one", "two"), child("one"), child("two")],
        base=[[spawn("one", "two", tool="spawn_agents_async")], ["Waiting", said.wait], ["Heard"], ["Done"]],
        one=[["I am one"]],
        two=[["I am two", release.wait]],
    )
    task = asyncio.create_task(world.run())
    await eventually(lambda: "Waiting" in world.client.text and len(world.runs.finished) == 1)
    said.set()
    await eventually(lambda: "Heard" in world.client.text)
    release.set()
    assert (await asyncio.wait_for(task, 10)).output["value"] == "Done"


async def test_cancelling_stops_the_agents_of_an_agent() -> None:
    async def silence() -> None:
        await asyncio.Event().wait()

    world = world_of(
        [parent("one", "two"), child("one"), child("two")],
        base=[[spawn("one", tool="spawn_agents_async"), spawn("two")], ["never"]],
        one=[["One", silence]],
        two=[["Two", silence]],
    )
    task = asyncio.create_task(world.run())
    await eventually(lambda: world.models.running == 2)
    world.client.cancelled = True
    await asyncio.wait_for(task, 5)
    assert world.models.running == 0
    assert {status for _, status, *_ in world.runs.finished} == {"cancelled"}
    assert "never" not in world.client.text


async def test_an_inline_agent_works_on_the_conversation_itself() -> None:
    inline = Call("spawn_agent_inline", {"agent_type": "one", "prompt": "Go on"})
    world = world_of(
        [parent("one", instructions_prompt="Parent's."), child("one", instructions_prompt="Child's.")],
        base=[["First", inline], ["Done"]],
        one=[["I am one"]],
    )
    result = await world.run("hi")
    texts = [str(message["content"]) for message in history_of(result)]
    assert any("I am one" in text for text in texts)
    assert not any("Child's." in text or "Parent's." in text for text in texts)
    # What is said for the run of the parent is there until its end.
    shown = world.models.chats[2].SerializeToString()
    assert b"Parent's." in shown
    assert b"Child's." not in shown
    assert b"I am one" in shown


async def test_the_subgoals_of_an_inline_agent_are_its_parents() -> None:
    add = Call("add_subgoal", {"id": "1", "objective": "Win", "status": "IN_PROGRESS"})
    update = Call("update_subgoal", {"id": "1", "status": "COMPLETE"})
    agents = [
        Definition(id="base", model="base", tool_names=(*SPAWN, "add_subgoal"), spawnable_agents=("one",)),
        child("one", tool_names=("update_subgoal",)),
    ]
    inline = Call("spawn_agent_inline", {"agent_type": "one", "prompt": "Go on"})
    world = world_of(agents, base=[[add, inline], ["Done"]], one=[[update], ["Ok"]])
    result = await world.run()
    goals = {"1": {"objective": "Win", "status": "COMPLETE", "logs": []}}
    assert result.session_state["mainAgentState"]["agentContext"] == goals


async def test_an_inline_agent_need_not_say_anything() -> None:
    world = world_of(
        [parent("one"), child("one", handle_steps="function* () {}")],
        base=[[Call("spawn_agent_inline", {"agent_type": "one"})], ["Done"]],
    )
    await world.run()
    assert world.client.results() == []


async def test_an_edit_after_an_agents_keeps_what_the_agent_has_changed() -> None:
    client = FakeClient({"a.txt": "one two\n"})

    def edit(old: str, new: str) -> Call:
        return Call("str_replace", {"path": "a.txt", "replacements": [{"old": old, "new": new}]})

    editor = Definition(id="base", model="base", tool_names=(*SPAWN, "str_replace"), spawnable_agents=("one",))
    models = FakeModels(
        by_model={
            "base": [[edit("one", "1"), spawn("one"), edit("1", "first")], ["Done"]],
            "one": [[edit("two", "2")], ["Ok"]],
        }
    )
    await World(models, client, [editor, child("one", tool_names=("str_replace",))]).run()
    assert client.files["a.txt"] == "first 2\n"


async def test_what_an_agent_beside_has_changed_is_shown_with_its_report() -> None:
    client = FakeClient({"a.txt": "one\n"})
    waited = asyncio.Event()
    write = Call("write_file", {"path": "a.txt", "instructions": "", "content": "two\n"})
    models = FakeModels(
        by_model={
            "base": [
                [Call("read_files", {"paths": ["a.txt"]}), spawn("one", tool="spawn_agents_async")],
                ["Waiting"],
                ["Done"],
            ],
            "one": [[waited.wait, write], ["Ok"]],
        }
    )
    world = World(models, client, [parent("one"), child("one", tool_names=("write_file",))])
    task = asyncio.create_task(world.run())
    await eventually(lambda: "Waiting" in client.text)
    waited.set()
    await asyncio.wait_for(task, 10)
    shown = models.chats[-1].messages[-1].SerializeToString()
    assert b"file_updates" in shown
    assert b"two" in shown


async def test_what_a_child_has_changed_is_shown_to_its_parent() -> None:
    client = FakeClient({"a.txt": "one\n"})
    write = Call("write_file", {"path": "a.txt", "instructions": "", "content": "two\n"})
    models = FakeModels(
        by_model={
            "base": [[Call("read_files", {"paths": ["a.txt"]})], [spawn("one")], ["Done"]],
            "one": [[write], ["Ok"]],
        }
    )
    world = World(models, client, [parent("one"), child("one", tool_names=("write_file",))])
    await world.run()
    last = models.chats[-1].messages[-1].blocks[-1].text.text
    assert "file_updates" in last
    assert "two" in last


@pytest.mark.parametrize("each", ["one", "codebuff/one@1.0.{n}", "nobody-{n}", "nobody-{n}-" + "a+" * 500])
async def test_a_definition_that_names_agents_without_end_holds_nobody_up(
    each: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [each.format(n=n) for n in range(5_000)]
    world = world_of([parent(*names), child("one", spawner_prompt="For one thing only.")], base=[["Done"]])
    began = time.thread_time()
    assert (await world.run()).output["value"] == "Done"
    assert time.thread_time() - began < 2
    assert str(world.models.chats[0].system).count("For one thing only.") == each.count("one")
    assert len("".join(capsys.readouterr())) < 100_000


async def test_many_agents_that_may_not_be_started_are_told_so_briefly() -> None:
    names = [f"agent-number-{n}" for n in range(5_000)]
    world = world_of([parent(*names)], base=[[spawn(*["nobody"] * 1_000)], ["Done"]])
    assert (await world.run()).output["value"] == "Done"
    [reports] = world.client.results()
    assert len(reports) == 1_000
    assert "agent-number-3, " in reports[0]["value"]["errorMessage"]
    assert "and 4950 more" in reports[0]["value"]["errorMessage"]
    assert len(str(reports)) < 4_000_000
