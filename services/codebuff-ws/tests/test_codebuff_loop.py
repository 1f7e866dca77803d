from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest
from loop_fakes import Call, Definition, FakeClient, FakeModels, Json, Thought, World, history_of, session

from patchbay.canonical import ROLE_ASSISTANT, ROLE_USER, Usage
from patchbay.errors import CONTEXT_LENGTH, NOT_FOUND, UPSTREAM, PatchbayError, make_error
from patchbay.settings.codebuff import Codebuff, CodebuffModels
from patchbay.testing.eventually import eventually

BASE = Definition(
    id="base",
    display_name="Base",
    tool_names=("read_files", "end_turn"),
    system_prompt="You are {CODEBUFF_AGENT_NAME}.",
)


async def test_a_prompt_is_answered_with_text_events_and_a_session() -> None:
    world = World(FakeModels(["Hello world"]), agents=[BASE])
    result = await world.run("hi")
    assert result.output == {"type": "lastMessage", "value": "Hello world"}
    assert world.client.chunks == [
        {"type": "start", "agentId": "base", "messageHistoryLength": 0},
        "Hello",
        " world",
        {"type": "text", "text": "Hello world"},
        {"type": "finish", "agentId": "base", "totalCost": 0},
    ]
    user, assistant = history_of(result)
    assert user["content"] == "<user_message>hi</user_message>"
    assert assistant == {"role": "assistant", "content": [{"type": "text", "text": "Hello world"}]}
    main = result.session_state["mainAgentState"]
    assert main["agentType"] == "base"
    assert main["stepsRemaining"] == 24
    assert "output" not in main
    assert None not in [value for key, value in main.items() if key != "agentType"]


async def test_the_model_is_given_prompts_and_tools() -> None:
    world = World(FakeModels(["ok"]), agents=[BASE])
    await world.run("hi", params={"a": 1})
    [chat] = world.models.chats
    assert [block.text.text for block in chat.system] == ["You are Base."]
    assert chat.system[0].HasField("cache")
    assert [tool.function.name for tool in chat.tools] == ["read_files", "end_turn"]
    assert chat.messages[0].blocks[0].text.text == '<user_message>hi\n\n{"a":1}</user_message>'


async def test_tools_run_and_their_results_go_to_the_model() -> None:
    client = FakeClient({"a.txt": "one"})
    world = World(FakeModels(["Reading", Call("read_files", {"paths": ["a.txt", "b.txt"]})], ["Done"]), client, [BASE])
    result = await world.run()
    assert result.output["value"] == "Done"
    [call] = client.events("tool_call")
    [outcome] = client.events("tool_result")
    assert call == {
        "type": "tool_call",
        "toolCallId": "t1-1",
        "toolName": "read_files",
        "input": {"paths": ["a.txt", "b.txt"]},
    }
    files = [{"path": "a.txt", "content": "one\n"}, {"path": "b.txt", "content": "[FILE_DOES_NOT_EXIST]"}]
    assert outcome["output"] == [{"type": "json", "value": files}]
    assistant, tool, last = history_of(result)[1:]
    assert [part["type"] for part in assistant["content"]] == ["text", "tool-call"]
    assert tool["content"]["toolCallId"] == "t1-1"
    assert isinstance(tool["content"], dict)
    assert last["content"][0]["text"] == "Done"
    messages = world.models.chats[1].messages
    assert [message.role for message in messages] == [ROLE_USER, ROLE_ASSISTANT, ROLE_USER]
    assert messages[2].blocks[0].tool_result.tool_use_id == "t1-1"


async def test_what_a_model_is_shown_only_grows_from_step_to_step_and_run_to_run() -> None:
    client = FakeClient({"a.txt": "one"})
    read = Call("read_files", {"paths": ["a.txt"]})
    agent = Definition(id="base", tool_names=("read_files",), system_prompt="S", step_prompt="Step on.")
    world = World(FakeModels([Thought("Hm", "sig"), "Reading", read], ["Done"], ["Again"]), client, [agent])
    first = await world.run("hi")
    second = await world.run("more", state=first.session_state)
    assert second.output["value"] == "Again"
    shown = []
    for chat in world.models.chats:
        blocks = [(message.role, block) for message in chat.messages for block in message.blocks]
        assert blocks[-1][1].text.text == "Step on."
        for _, block in blocks:
            block.ClearField("cache")
        shown.append([(role, block.SerializeToString(deterministic=True)) for role, block in blocks[:-1]])
        assert chat.system == world.models.chats[0].system
        assert chat.tools == world.models.chats[0].tools
    for before, after in itertools.pairwise(shown):
        assert after[: len(before)] == before
    thought = world.models.chats[2].messages[1].blocks[0].thinking
    assert (thought.text, thought.signature) == ("Hm", "sig")
    assert len({session_id for _, _, session_id in world.models.asked}) == 1
    assert [chunk["text"] for chunk in client.events("reasoning_delta")] == ["Hm"]


async def test_a_signature_is_not_shown_to_another_model() -> None:
    world = World(FakeModels([Thought("Hm", "sig"), "Hello"], ["Again"]), agents=[BASE])
    first = await world.run("hi")
    world.settings = Codebuff(models=CodebuffModels(default="other"))
    await world.run("more", state=first.session_state)
    thought = world.models.chats[1].messages[1].blocks[0].thinking
    assert thought.text == "Hm"
    assert not thought.HasField("signature")


async def test_prompts_of_a_step_and_of_a_run_do_not_stay() -> None:
    agent = Definition(id="base", instructions_prompt="Be brief.", step_prompt="{CODEBUFF_REMAINING_STEPS} steps left.")
    world = World(FakeModels(["ok"]), agents=[agent])
    result = await world.run("hi")
    [chat] = world.models.chats
    assert [block.text.text for block in chat.messages[0].blocks] == [
        "<user_message>hi</user_message>",
        "Be brief.",
        "25 steps left.",
    ]
    # The mark is on what will be there the next time.
    assert [block.HasField("cache") for block in chat.messages[0].blocks] == [False, True, False]
    assert [message["role"] for message in history_of(result)] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (Call("read_files", '{"paths": ["a'), "no JSON object"),
        (Call("read_files", {"paths": "a.txt"}), "paths: 'a.txt' is not of type 'array'"),
        (Call("read_files", {}), "'paths' is a required property"),
        (Call("no_such_tool", {}), "does not exist (tools: read_files, end_turn)"),
        (Call("write_file", {}), "is not available to this agent"),
    ],
)
async def test_a_wrong_call_is_a_result_for_the_model(call: Call, said: str) -> None:
    world = World(FakeModels([call], ["Sorry"]), agents=[BASE])
    result = await world.run()
    assert result.output["value"] == "Sorry"
    block = world.models.chats[1].messages[2].blocks[0]
    assert said in block.tool_result.blocks[0].text.text
    assert "errorMessage" in block.tool_result.blocks[0].text.text
    assert world.client.events("error", "tool_call") == []


async def test_end_turn_ends_it() -> None:
    world = World(FakeModels(["Bye", Call("end_turn")], ["never"]), agents=[BASE])
    result = await world.run()
    assert result.output["value"] == "Bye"
    assert len(world.models.asked) == 1
    # The next prompt finds a call with its result.
    assert history_of(result)[-1]["content"]["output"] == []


async def test_a_thought_does_not_end_the_turn() -> None:
    agent = Definition(id="base", tool_names=("think_deeply",))
    world = World(FakeModels([Call("think_deeply", {"thought": "Hm"})], ["Done"]), agents=[agent])
    assert (await world.run()).output["value"] == "Done"


async def test_steps_are_limited() -> None:
    client = FakeClient({"a.txt": "one"})
    world = World(FakeModels([Call("read_files", {"paths": ["a.txt"]})]), client, [BASE])
    result = await world.run(state=session(steps=3))
    assert len(world.models.asked) == 3
    assert "pause" in client.text
    assert "pause" in result.output["value"]
    assert result.session_state["mainAgentState"]["stepsRemaining"] == 0


async def test_a_failing_model_is_an_output_and_what_was_said_stays() -> None:
    error = PatchbayError(make_error(UPSTREAM, "the provider failed"))
    world = World(FakeModels(["Part of it", error]), agents=[BASE])
    result = await world.run()
    assert result.output == {"type": "error", "message": "the provider failed"}
    assert history_of(result)[-1]["content"] == [{"type": "text", "text": "Part of it"}]
    assert world.runs.finished[0][1:] == ("failed", 1, 0, 0, "the provider failed")
    assert world.client.events("finish")


async def test_an_answer_of_nothing_is_an_error() -> None:
    world = World(FakeModels([""]), agents=[BASE])
    assert (await world.run()).output == {"type": "error", "message": "No response from agent"}


async def test_an_earlier_answer_is_not_the_output_of_a_prompt_that_has_none() -> None:
    world = World(FakeModels(["First"], [""]), agents=[BASE])
    first = await world.run()
    second = await world.run(state=first.session_state)
    assert second.output == {"type": "error", "message": "No response from agent"}
    world.client.cancelled = True
    third = await world.run(state=second.session_state)
    assert third.output == {"type": "error", "message": "The prompt was cancelled."}


async def test_who_ends_its_turn_need_not_say_anything() -> None:
    world = World(FakeModels([Call("read_files", {"paths": ["a"]})], [Call("end_turn")]), agents=[BASE])
    assert (await world.run()).output == {"type": "lastMessage", "value": ""}


async def test_who_only_writes_a_plan_need_not_say_anything() -> None:
    agent = Definition(id="base", tool_names=("create_plan",))
    world = World(FakeModels([Call("create_plan", {"path": "plan.md", "plan": "# Plan"})], ["never"]), agents=[agent])
    assert (await world.run()).output == {"type": "lastMessage", "value": ""}
    assert world.client.files["plan.md"] == "# Plan\n"


async def test_a_call_has_an_id_of_its_own_in_the_whole_conversation() -> None:
    read_a, read_b = (Call("read_files", {"paths": [path]}, id="call_0") for path in "ab")
    world = World(FakeModels([read_a], [read_b], ["Done"]), FakeClient({"a": "A", "b": "B"}), agents=[BASE])
    history = history_of(await world.run())
    called = [
        part["toolCallId"]
        for message in history
        if message["role"] == "assistant"
        for part in message["content"][:1]
        if part["type"] == "tool-call"
    ]
    assert called[0] == "call_0"
    assert len(set(called)) == 2
    assert [message["content"]["toolCallId"] for message in history if message["role"] == "tool"] == called


async def test_a_conversation_too_long_for_the_model_is_tried_shorter() -> None:
    error = PatchbayError(make_error(CONTEXT_LENGTH, "too long"))
    world = World(FakeModels([error], ["Fits"]), agents=[BASE])
    old = [{"role": "user", "content": f"{number} {'x' * 3000}"} for number in range(20)]
    result = await world.run(state=session(old))
    assert result.output["value"] == "Fits"
    first, second = (sum(len(m.SerializeToString()) for m in chat.messages) for chat in world.models.chats)
    assert second < first * 0.7
    assert "left out" in world.models.chats[1].messages[0].blocks[0].text.text


async def test_what_is_said_beside_a_conversation_does_not_cost_all_of_it() -> None:
    error = PatchbayError(make_error(CONTEXT_LENGTH, "too long"))
    agent = Definition(id="base", system_prompt="x" * 30_000)
    old = [{"role": "user", "content": f"<{number}> {'x' * 3000}"} for number in range(20)]
    for errors, left in ((1, ["<18>", "<19>"]), (2, [])):
        world = World(FakeModels(*[[error]] * errors, ["Fits"]), agents=[agent])
        result = await world.run("What now?", state=session(old))
        assert result.output["value"] == "Fits"
        told = str(history_of(result))
        assert [f"<{number}>" for number in range(20) if f"<{number}>" in told] == left
        assert "What now?" in told


async def test_a_cancelled_prompt_stops_while_its_model_is_silent() -> None:
    async def silence() -> None:
        await asyncio.Event().wait()

    world = World(FakeModels(["Part", silence]), agents=[BASE])
    task = asyncio.create_task(world.run())
    await eventually(lambda: world.client.text == "Part")
    world.client.cancelled = True
    result = await asyncio.wait_for(task, 5)
    assert world.models.closed == 1
    assert history_of(result)[-1]["content"] == [{"type": "text", "text": "Part"}]
    assert result.output == {"type": "lastMessage", "value": "Part"}
    assert world.client.events("finish")
    assert world.runs.finished[0][1] == "cancelled"


async def test_a_cancelled_task_leaves_no_stream_behind() -> None:
    async def silence() -> None:
        await asyncio.Event().wait()

    world = World(FakeModels(["Part", silence]), agents=[BASE])
    task = asyncio.create_task(world.run())
    await eventually(lambda: world.client.text == "Part")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.models.closed == 1
    assert world.runs.finished[0][1] == "cancelled"


async def test_costs_are_told_and_counted() -> None:
    usage = Usage(input_tokens=5, cache_read_tokens=7, output_tokens=3, extensions={"openai": '{"cost":0.02}'})
    world = World(FakeModels(["ok", usage]), agents=[BASE], settings=Codebuff(cost_margin=0.5))
    result = await world.run()
    assert world.client.costs == [(3, "main-agent", "p1")]
    assert world.client.events("finish")[0]["totalCost"] == 3
    assert result.session_state["mainAgentState"]["creditsUsed"] == 3
    [step] = world.runs.steps
    assert (step["number"], step["input_tokens"], step["output_tokens"], step["cost"]) == (1, 12, 3, 3)
    assert world.runs.finished[0][1:] == ("completed", 1, 3, 3, "")


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (CodebuffModels(), "own-model"),
        (CodebuffModels(default="d"), "d"),
        (CodebuffModels(default="d", cost_modes={"max": "m"}), "m"),
        (CodebuffModels(default="d", cost_modes={"max": "m"}, agents={"base": "a"}), "a"),
    ],
)
async def test_the_model_is_chosen_by_agent_cost_mode_and_default(models: CodebuffModels, expected: str) -> None:
    world = World(FakeModels(["ok"]), agents=[BASE], settings=Codebuff(models=models))
    await world.run(cost_mode="max")
    assert world.models.asked[0][0] == expected


@pytest.mark.parametrize(
    ("cost_mode", "config", "expected"),
    [
        ("normal", {}, "base"),
        ("lite", {}, "base-lite"),
        ("max", {}, "base-max"),
        ("experimental", {}, "base2"),
        ("ask", {}, "ask"),
        ("normal", {"baseAgent": "mine"}, "mine"),
    ],
)
async def test_the_agent_is_chosen_by_project_and_cost_mode(cost_mode: str, config: Json, expected: str) -> None:
    agents = [Definition(id=name) for name in ("base", "base-lite", "base-max", "base2", "ask")]
    state = session(codebuffConfig=config, agentTemplates={"mine": {"id": "mine"}})
    world = World(FakeModels(["ok"]), agents=agents)
    await world.run(agent_id=None, cost_mode=cost_mode, state=state)
    assert world.client.events("start")[0]["agentId"] == expected


async def test_an_unknown_agent_is_refused_with_the_known_ones() -> None:
    world = World(FakeModels(["ok"]), agents=[BASE])
    with pytest.raises(PatchbayError, match=r"no agent `nobody`.*base") as caught:
        await world.run(agent_id="nobody")
    assert caught.value.error.code == NOT_FOUND


async def test_a_wrong_definition_matters_only_when_it_is_asked_for() -> None:
    state = session(agentTemplates={"wrong": {"id": "wrong", "model": 7}, "fine": {"id": "fine"}})
    world = World(FakeModels(["ok"]), agents=[BASE])
    assert (await world.run(agent_id="fine", state=state)).output["value"] == "ok"
    with pytest.raises(PatchbayError, match=r"wrong.*not defined well.*model"):
        await world.run(agent_id="wrong", state=state)


async def test_images_go_to_the_model_and_stay() -> None:
    image = {"type": "image", "image": "aGk=", "mediaType": "image/png"}
    world = World(FakeModels(["A cat"]), agents=[BASE])
    result = await world.run("What is it?", content=[image])
    assert world.models.chats[0].messages[0].blocks[1].image.source.base64 == "aGk="
    assert history_of(result)[0]["content"][1] == image


async def test_of_a_prompts_parts_only_what_clients_take_back_is_kept() -> None:
    image = {"type": "image", "image": "aGk=", "mediaType": None}
    world = World(FakeModels(["A cat"]), agents=[BASE])
    result = await world.run("What is it?", content=[image, {"type": "sound"}, {"type": "text"}])
    text = {"type": "text", "text": "<user_message>What is it?</user_message>"}
    assert history_of(result)[0]["content"] == [text, {"type": "image", "image": "aGk="}]


async def test_all_messages_are_an_output() -> None:
    world = World(FakeModels(["ok"]), agents=[Definition(id="base", output_mode="all_messages")])
    output = (await world.run("hi")).output
    assert output["type"] == "allMessages"
    assert [message["role"] for message in output["value"]] == ["assistant"]


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
STRUCTURED = Definition(id="base", output_mode="structured_output", output_schema=SCHEMA)


async def test_a_structured_output_is_checked() -> None:
    world = World(
        FakeModels([Call("set_output", {"n": "x"})], [Call("set_output", {"n": 1})], ["Done"]), agents=[STRUCTURED]
    )
    result = await world.run()
    assert result.output == {"type": "structuredOutput", "value": {"n": 1}}
    assert "'x' is not of type 'integer'" in world.models.chats[1].messages[2].blocks[0].tool_result.blocks[0].text.text
    assert len(world.models.asked) == 2
    assert '"n"' in world.models.chats[0].tools[0].function.input_schema_json
    assert result.session_state["mainAgentState"]["output"] == {"n": 1}


async def test_an_output_may_be_in_a_field_of_its_own() -> None:
    world = World(FakeModels([Call("set_output", {"data": {"n": 1}})], ["never"]), agents=[STRUCTURED])
    assert (await world.run()).output == {"type": "structuredOutput", "value": {"n": 1}}
    assert len(world.models.asked) == 1
    wrong = World(FakeModels([Call("set_output", {"data": {"n": "x"}})], ["Done"]), agents=[STRUCTURED])
    assert (await wrong.run()).output == {"type": "structuredOutput", "value": None}
    free = World(
        FakeModels([Call("set_output", {"data": {"n": 1}})]),
        agents=[Definition(id="base", output_mode="structured_output")],
    )
    assert (await free.run()).output["value"] == {"data": {"n": 1}}


async def test_a_missing_structured_output_is_asked_for_once() -> None:
    world = World(FakeModels(["Done"]), agents=[STRUCTURED])
    assert (await world.run()).output == {"type": "structuredOutput", "value": None}
    assert len(world.models.asked) == 2
    assert "set_output" in world.models.chats[1].messages[-1].blocks[-1].text.text


async def test_a_summary_of_nothing_replaces_nothing() -> None:
    world = World(FakeModels([Call("end_turn")]), agents=[BASE])
    old = [{"role": "user", "content": "Old"}]
    assert history_of(await world.run("/compact", state=session(old)))[0] == old[0]


async def test_a_pause_is_no_summary() -> None:
    look = Call("read_files", {"paths": ["a.txt"]})
    world = World(FakeModels(["I look first.", look]), agents=[BASE])
    old = [{"role": "user", "content": "Old"}]
    assert history_of(await world.run("/compact", state=session(old, steps=2)))[0] == old[0]


async def test_compact_leaves_the_summary() -> None:
    world = World(FakeModels(["All is done."], ["Next"]), agents=[BASE])
    old = [{"role": "user", "content": "old"}, {"role": "assistant", "content": "older"}]
    first = await world.run("/compact", state=session(old))
    [left] = history_of(first)
    assert "All is done." in left["content"]
    assert "<system_instructions>" in world.models.chats[0].messages[-1].blocks[-1].text.text
    await world.run("go on", state=first.session_state)
    assert world.models.asked[0][2] == world.models.asked[1][2]


@pytest.mark.parametrize(
    ("prompt", "command"), [("!ls -la", "ls -la"), ("/run make x", "make x"), ("git status", "git status")]
)
async def test_a_command_needs_no_agent(prompt: str, command: str) -> None:
    world = World(FakeModels(["never"]), agents=[BASE])
    result = await world.run(prompt)
    [(name, given, input_id, seconds)] = world.client.tool_requests
    assert (name, input_id, seconds) == ("run_terminal_command", "p1", None)
    assert given == {"command": command, "mode": "user", "process_type": "SYNC", "timeout_seconds": -1}
    assert result.output == {"type": "lastMessage", "value": [{"type": "json", "value": {"stdout": f"{name} ran"}}]}
    assert world.models.asked == []
    assert history_of(result)[-1]["role"] == "tool"


async def test_files_that_have_changed_since_are_shown_again() -> None:
    client = FakeClient({"a.txt": "one\n", "b.txt": "same\n"})
    read = Call("read_files", {"paths": ["a.txt", "b.txt"]})
    world = World(FakeModels([read], ["Done"], ["Again"]), client, [BASE])
    first = await world.run()
    client.files["a.txt"] = "two\n"
    second = await world.run("more", state=first.session_state)
    update = next(
        m["content"] for m in history_of(second) if m["role"] == "tool" and "files-" in m["content"]["toolCallId"]
    )
    assert update["toolName"] == "file_updates"
    assert update["output"] == [{"type": "json", "value": [{"path": "a.txt", "content": "two\n"}]}]
    assert "two" in world.models.chats[2].messages[-1].blocks[-1].text.text


async def test_of_a_long_file_the_model_is_shown_the_beginning_and_the_end() -> None:
    client = FakeClient({"a": "a" * 300_000 + "b" * 300_000})
    world = World(FakeModels([Call("read_files", {"paths": ["a"]})], ["Done"], ["Again"], ["Seen"]), client, [BASE])
    first = await world.run()
    [read] = world.client.results()[0]
    assert read["content"].startswith("a" * 60_000 + "\n[480001 characters left out]\n")
    assert read["content"].endswith("b" * 59_999 + "\n")
    [shown] = world.models.chats[1].messages[-1].blocks[-1].tool_result.blocks
    assert read["content"][-70_000:] in msgspec.json.decode(shown.text.text)[0]["content"]
    # Cut as it is, it is the file that the model has seen.
    second = await world.run("more", state=first.session_state)
    assert [m["content"]["toolName"] for m in history_of(second) if m["role"] == "tool"] == ["read_files"]


async def test_knowledge_is_shown_once_where_the_prompts_do_not_have_it() -> None:
    world = World(FakeModels(["ok"]), agents=[BASE])
    state = session(knowledgeFiles={"knowledge.md": "Use tabs."})
    first = await world.run(state=state)
    second = await world.run("more", state=first.session_state)
    shown = [message for message in history_of(second) if "Use tabs." in str(message["content"])]
    assert len(shown) == 1
