from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import pytest
from loop_fakes import Call, Definition, FakeClient, FakeModels, Json, World, history_of, session

from patchbay.errors import UPSTREAM, PatchbayError, make_error
from patchbay.settings.codebuff import Codebuff, CodebuffSteps
from patchbay_codebuff_ws.loop.steps import (
    CallTool,
    Ended,
    Generate,
    Log,
    Step,
    StepAll,
    StepsError,
    StepText,
    Yield,
    read_yield,
)

Source = Callable[[Json], Generator[Any, Json, None]]


@dataclass
class PythonProgram:
    """A generator of Python's in place of one of JavaScript's."""

    generator: Generator[Any, Json, None]
    results: list[Json] = field(default_factory=list)
    closed: int = 0

    async def advance(self, result: Json | None) -> Yield:
        try:
            if result is None:
                return read_yield(next(self.generator))
            self.results.append(result)
            return read_yield(self.generator.send(result))
        except StopIteration:
            return Ended()
        except ZeroDivisionError as error:
            raise StepsError(str(error)) from error

    async def aclose(self) -> None:
        self.closed += 1


@dataclass
class PythonSteps:
    source: Source
    programs: list[PythonProgram] = field(default_factory=list)
    states: list[Json] = field(default_factory=list)

    async def start(self, source: str, state: Json, *, log: Log) -> PythonProgram:
        assert source == "function* () {}"
        self.states.append(state)
        self.programs.append(PythonProgram(self.source(state)))
        return self.programs[-1]


def world_of(source: Source, *turns: Any, client: FakeClient | None = None, **more: Any) -> tuple[World, PythonSteps]:
    steps = PythonSteps(source)
    names = ("read_files", "set_output", "add_message", "end_turn")
    agent = Definition(id="base", tool_names=names, handle_steps="function* () {}", **more)
    return World(FakeModels(*turns), client or FakeClient({"a": "one"}), [agent], steps=steps), steps


READ = {"toolName": "read_files", "input": {"paths": ["a"]}}


async def test_a_program_runs_tools_and_steps() -> None:
    def source(state: Json) -> Generator[Any, Json, None]:
        yield READ
        yield "STEP"
        yield "STEP"
        yield "STEP_ALL"

    turns = (["One"], ["Two"], [Call("read_files", {"paths": ["a"]})], ["Three"])
    world, steps = world_of(source, *turns)
    result = await world.run("hi", params={"p": 1})
    assert result.output["value"] == "Three"
    assert steps.states[0]["prompt"] == "hi"
    assert steps.states[0]["params"] == {"p": 1}
    assert steps.states[0]["agentState"]["messageHistory"][0]["content"].startswith("<user_message>hi")
    [program] = steps.programs
    assert [result["stepsComplete"] for result in program.results] == [False, True, True, True]
    read = program.results[0]["toolResult"]
    assert read == [{"type": "json", "value": [{"path": "a", "content": "one\n"}]}]
    assert program.results[1]["toolResult"] == []
    assert program.closed == 1
    # The call is in the conversation as if the model had made it.
    first = world.models.chats[0].messages
    assert first[1].blocks[0].tool_use.name == "read_files"
    assert first[2].blocks[0].tool_result.tool_use_id == first[1].blocks[0].tool_use.id


async def test_a_step_knows_which_tools_it_and_the_program_before_it_have_called() -> None:
    def source(state: Json) -> Generator[Any, Json, None]:
        yield {**READ, "includeToolCall": False}
        yield "STEP_ALL"

    calls = [Call("read_files", {"paths": "no list"}), Call("fly"), Call("end_turn")]
    world, _ = world_of(source, [Call("set_output", {"n": 1}), *calls])
    await world.run()
    [step] = world.runs.steps
    assert step["tool_calls"] == [
        ("read_files", False),
        ("set_output", False),
        ("read_files", True),
        ("fly", True),
        ("end_turn", False),
    ]


async def test_a_call_may_be_left_out_of_the_conversation() -> None:
    def source(state: Json) -> Generator[Any, Json, None]:
        yield {**READ, "includeToolCall": False}
        yield "STEP"

    world, _ = world_of(source, ["One"])
    result = await world.run("hi")
    assert [message["role"] for message in history_of(result)] == ["user", "assistant"]
    assert len(world.client.events("tool_call")) == 1


async def test_one_prompt_does_not_take_all_programs() -> None:
    def source(state: Json) -> Generator[Any, Json, None]:
        if state["prompt"] == "start some":
            agents = [{"agent_type": "child", "prompt": str(number)} for number in range(3)]
            result = yield {"toolName": "spawn_agents", "input": {"agents": agents}}
            outputs = [report["value"] for report in result["toolResult"][0]["value"]]
            yield {"type": "STEP_TEXT", "text": json.dumps(outputs)}
        else:
            yield "STEP"

    steps = PythonSteps(source)
    program = "function* () {}"
    agents = [
        Definition(id="base", tool_names=("spawn_agents",), spawnable_agents=("child",), handle_steps=program),
        Definition(id="child", handle_steps=program),
    ]
    settings = Codebuff(steps=CodebuffSteps(max_programs=8))
    world = World(FakeModels(["I ran"]), FakeClient(), agents, settings, steps=steps)
    outputs = json.loads((await world.run("start some")).output["value"])
    assert sorted(output.get("value", "") for output in outputs) == ["", "", "I ran"]
    assert sum("as may run at a time" in json.dumps(output) for output in outputs) == 2
    # The places are free again.
    assert len(steps.programs) == 2
    assert json.loads((await world.run("start some")).output["value"])


async def test_a_program_needs_no_model() -> None:
    def source(state: Json) -> Generator[Any, Json, None]:
        result = yield {"toolName": "add_message", "input": {"role": "assistant", "content": "From the program"}}
        assert result["agentState"]["messageHistory"][-1]["content"] == "From the program"

    world, _ = world_of(source, ["never"])
    assert (await world.run()).output == {"type": "lastMessage", "value": "From the program"}
    assert world.models.asked == []


async def test_a_program_sets_an_output() -> None:
    def source(state: Json) -> Generator[Any, Json, None]:
        result = yield {"toolName": "set_output", "input": {"n": 1}}
        assert result["agentState"]["output"] == {"n": 1}

    world, _ = world_of(source, ["never"], output_mode="structured_output")
    assert (await world.run()).output == {"type": "structuredOutput", "value": {"n": 1}}


async def test_a_program_may_put_its_output_into_a_field_of_its_own() -> None:
    def source(state: Json) -> Generator[Any, Json, None]:
        yield {"toolName": "set_output", "input": {"data": {"n": 1}}}

    schema = {"type": "object", "required": ["n"]}
    world, _ = world_of(source, ["never"], output_mode="structured_output", output_schema=schema)
    assert (await world.run()).output == {"type": "structuredOutput", "value": {"n": 1}}


async def test_a_program_may_end_the_turn_as_a_model_does() -> None:
    def source(state: Json) -> Generator[Any, Json, None]:
        while True:
            yield "STEP"
            yield {"toolName": "end_turn", "input": {}}

    world, steps = world_of(source, ["One"], ["never"])
    assert (await world.run()).output == {"type": "lastMessage", "value": "One"}
    assert len(world.models.asked) == 1
    assert steps.programs[0].closed == 1


async def test_texts_and_many_answers() -> None:
    def source(state: Json) -> Generator[Any, Json, None]:
        yield {"type": "STEP_TEXT", "text": "Said"}
        result = yield {"type": "GENERATE_N", "n": 3}
        yield {"type": "STEP_TEXT", "text": "-".join(result["nResponses"])}

    world, _ = world_of(source, ["x"], ["x"], ["x"])
    result = await world.run()
    assert result.output["value"] == "x-x-x"
    assert world.client.text == "Saidx-x-x"


async def test_many_answers_take_a_step() -> None:
    def source(state: Json) -> Generator[Any, Json, None]:
        while True:
            yield {"type": "GENERATE_N", "n": 2}

    world, _ = world_of(source, *[["x"]] * 7)
    output = (await world.run(state=session(steps=3))).output
    assert "used all its steps" in output["message"]
    assert len(world.models.asked) == 6


async def test_many_answers_fail_as_one_does() -> None:
    def source(state: Json) -> Generator[Any, Json, None]:
        yield {"type": "GENERATE_N", "n": 2}

    failure = PatchbayError(make_error(UPSTREAM, "the provider failed"))
    world, _ = world_of(source, [failure])
    assert (await world.run()).output == {"type": "error", "message": "the provider failed"}


@pytest.mark.parametrize(
    ("yielded", "said"),
    [
        ({"toolName": "write_file", "input": {}}, "not among the agent's toolNames"),
        ({"toolName": "read_files", "input": {}}, "'paths' is a required property"),
        ("NONSENSE", "neither a step nor a tool call"),
        (None, "division"),
    ],
)
async def test_a_failing_program_ends_the_run(yielded: Any, said: str) -> None:
    def source(state: Json) -> Generator[Any, Json, None]:
        yield yielded if yielded is not None else 1 / 0

    world, steps = world_of(source, ["never"])
    result = await world.run()
    assert result.output["type"] == "error"
    assert said in result.output["message"]
    assert said in world.client.text
    assert said in result.session_state["mainAgentState"]["output"]["error"]
    assert steps.programs[0].closed == 1


async def test_a_program_that_calls_tools_for_ever_is_stopped() -> None:
    def source(state: Json) -> Generator[Any, Json, None]:
        while True:
            yield {"toolName": "set_output", "input": {}, "includeToolCall": False}

    world, _ = world_of(source, ["never"])
    assert "tool calls without a step" in (await world.run()).output["message"]


async def test_a_program_that_steps_for_ever_is_stopped() -> None:
    def source(state: Json) -> Generator[Any, Json, None]:
        while True:
            yield "STEP"

    world, _ = world_of(source, ["Again"])
    await world.run()
    assert len(world.models.asked) == 25


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("STEP", Step()),
        ("STEP_ALL", StepAll()),
        ({"toolName": "a"}, CallTool("a", {})),
        ({"toolName": "a", "input": {"b": 1}, "includeToolCall": False}, CallTool("a", {"b": 1}, shown=False)),
        ({"type": "STEP_TEXT", "text": "x"}, StepText("x")),
        ({"type": "GENERATE_N", "n": 2.0}, Generate(2)),
    ],
)
def test_yields_are_read(value: object, expected: Yield) -> None:
    assert read_yield(value) == expected


@pytest.mark.parametrize("value", [None, 1, "", {}, {"toolName": 1}, {"toolName": "a", "input": []}])
def test_other_yields_are_refused(value: object) -> None:
    with pytest.raises(StepsError):
        read_yield(value)
