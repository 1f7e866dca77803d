"""The real SDK of Codebuff that speaks over a WebSocket; the model is the stand-in, behind every kind of backend."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from codebuff_clients import Program, Run
from websockets.sync.client import connect

from patchbay.testing.cluster import Cluster
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin import Account, ErrorEvent, ErrorReply, Script, Text, Thinking, ToolCall
from patchbay_standin.records import RecordedRequest
from patchbay_standin.script import Block
from patchbay_standin.testing import StandinProcess

Json = dict[str, Any]

KEY = "pb-codebuff-key"
# Backends, and in what their providers want their reasoning back.
BACKENDS = {"local": None, "anthropic": "signature", "cli": "signature", "chatgpt": "encrypted_content"}
KINDS = ("codebuff-ws", "openai-worker", "claude-worker", "codex-worker")


@dataclass
class World:
    """A Patchbay, its models, and a client in a project."""

    upstream: StandinProcess
    cluster: Cluster
    program: Program

    @property
    def project(self) -> Path:
        return self.program.project

    def model(self, name: str, *turns: Sequence[Block] | str | Script, backend: str = "local") -> str:
        """A model that answers so, one turn after another."""
        attempts = [
            turn if isinstance(turn, Script) else Script(text=turn) if isinstance(turn, str) else Script(blocks=[*turn])
            for turn in turns
        ]
        return f"{backend}/{self.upstream.script(name, Script(attempts=attempts))}"

    def run(self, name: str, *turns: Sequence[Block] | str | Script, **options: Any) -> Run:
        """A run of an agent to its end; see `start`."""
        return self.start(name, *turns, **options).wait()

    def start(
        self,
        name: str,
        *turns: Sequence[Block] | str | Script,
        tools: Sequence[str] = (),
        prompt: str = "Go",
        fields: Json | None = None,
        program: Program | None = None,
        **options: object,
    ) -> Run:
        """Begins a run of an agent `name`, with more `fields`, whose model, of the same name, answers so."""
        definition = agent(name, self.model(name, *turns), tools, **(fields or {}))
        return (program or self.program).start(definition, prompt, **options)

    def asked(self, name: str) -> list[Json]:
        """The bodies of what a model was asked."""
        found = [record.body for record in self.upstream.requests() if record.model == name]
        return [body for body in found if isinstance(body, dict)]


def agent(name: str, model: str, tools: Sequence[str] = (), **fields: object) -> Json:
    """An agent as a user of the SDK defines it."""
    return {"id": name, "displayName": name.title(), "model": model, "toolNames": [*tools], **fields}


def call(name: str, **given: Any) -> ToolCall:
    return ToolCall(name=name, input=given)


def told(body: Json) -> list[Any]:
    """The results of tools in a request, oldest first."""
    return [message["content"] for message in body["messages"] if message["role"] == "tool"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    project = tmp_path_factory.mktemp("project")
    (project / "src").mkdir()
    (project / "src" / "hello.py").write_text("def hello():\n    return 'hello'\n")
    (project / "knowledge.md").write_text("The project greets people.\n")
    with StandinProcess() as upstream, ValkeyProcess() as valkey:
        home = tmp_path_factory.mktemp("home")
        upstream.account("work", Account())
        (home / "auth.json").write_text(json.dumps(upstream.sign_in("work").auth_json()))
        steered = {name: f"local/{name}" for name in ("base", "file-picker")}
        steered |= {f"core-{name}": f"{name}/core-{name}" for name in BACKENDS}
        config: Json = {
            "redis": {"timeout_seconds": 5},
            "security": {"require_api_key": True, "api_keys": [{"key": KEY, "id": "house"}]},
            "codebuff": {"request_timeout_seconds": 3.0, "models": {"agents": steered}},
            "backends": {
                "default_backend": "local",
                "local": {"kind": "openai-compatible", "base_url": f"{upstream.url}/v1", "api_key": "none"},
                "anthropic": {"base_url": upstream.url, "api_key": "sk-ant-made-up"},
                "cli": {
                    "kind": "claude-cli",
                    "base_url": upstream.url,
                    "api_key": "sk-ant-made-up",
                    "pool": {"min_spare": 1, "max_processes": 3, "acquire_timeout": 30},
                },
                "chatgpt": {
                    "kind": "codex",
                    "credentials": "signed_in",
                    "base_url": f"{upstream.url}/backend-api",
                    "oauth_issuer": upstream.url,
                    "codex_home": str(home),
                },
            },
        }
        log = tmp_path_factory.mktemp("client") / "errors.log"
        with (
            Cluster(config, redis_url=valkey.url, kinds=KINDS) as cluster,
            Program(cluster.url, project, log, key=KEY) as program,
        ):
            yield World(upstream, cluster, program)
            assert "crashed" not in cluster.workers["codebuff-ws"][0].output()


def test_a_text_comes_whole_as_chunks_and_as_an_event(world: World) -> None:
    text = "Grüß Gott, 👩\u200d👩\u200d👧!\n\nFine  words, <b>and</b> more.\n"
    turn = Script(blocks=[Thinking(text="Hm. Well."), Text(text=text)], delta_delay_ms=30)
    run = world.run("talker", turn, prompt="Say something")
    assert run.text == text
    assert len(run.chunks) > 1
    assert run.texts == [text]
    assert run.output == {"type": "lastMessage", "value": text}
    start, *_, finish = run.events
    assert start == {"type": "start", "agentId": "talker", "messageHistoryLength": 0}
    assert finish == {"type": "finish", "agentId": "talker", "totalCost": 0}
    assert not run.of("error")
    (asked,) = world.asked("talker")
    assert "Say something" in json.dumps(asked["messages"])


def test_files(world: World) -> None:
    (world.project / "old.txt").write_bytes(b"one\r\ntwo\r\nthree\r\n")
    run = world.run(
        "editor",
        [Text(text="Reading."), call("read_files", paths=["src/hello.py", "none.txt", "src", "../other.txt"])],
        [
            Text(text="Writing."),
            call("write_file", path="deep/er/new.txt", instructions="Create.", content="new\n"),
            call("write_file", path="src/hello.py", instructions="Replace.", content="def hello(): ...\n"),
            call("str_replace", path="old.txt", replacements=[{"old": "two", "new": "2"}]),
            call("str_replace", path="old.txt", replacements=[{"old": "three", "new": "3"}, {"old": "x", "new": "y"}]),
            call("str_replace", path="none.txt", replacements=[{"old": "x", "new": "y"}]),
            call("write_file", path="src", instructions="Is a directory.", content="x"),
        ],
        "Done.",
        tools=["read_files", "write_file", "str_replace"],
    )
    assert (world.project / "deep/er/new.txt").read_text() == "new\n"
    assert (world.project / "src/hello.py").read_text() == "def hello(): ...\n"
    assert (world.project / "old.txt").read_bytes() == b"one\r\n2\r\n3\r\n"
    assert not (world.project / "none.txt").exists()
    assert run.outputs("read_files") == [
        [
            {"path": "src/hello.py", "content": "def hello():\n    return 'hello'\n"},
            {"path": "none.txt", "content": "[FILE_DOES_NOT_EXIST]"},
            {"path": "src", "content": "[FILE_READ_ERROR]"},
            {"path": "../other.txt", "content": "[FILE_OUTSIDE_PROJECT]"},
        ]
    ]
    created, updated, directory = run.outputs("write_file")
    assert (created["message"], updated["message"]) == ("Created new file", "Updated file")
    assert "+def hello(): ..." in updated["unifiedDiff"]
    assert "[FILE_READ_ERROR]" in directory["errorMessage"]
    first, second, missing = run.outputs("str_replace")
    assert first["message"] == "Updated file"
    assert 'The old string "x" was not found' in second["message"]
    assert missing["errorMessage"]
    assert run.text == "Reading.Writing.Done."
    assert run.texts == ["Reading.", "Writing.", "Done."]
    *_, last = world.asked("editor")
    outputs = [event["output"][0]["value"] for event in run.of("tool_result")]
    assert [json.loads(text) for text in told(last)] == outputs


def test_commands(world: World) -> None:
    run = world.run(
        "runner",
        [call("run_terminal_command", command="echo out; echo err >&2; touch touched; exit 3")],
        [
            call("run_terminal_command", command="pwd", cwd="src"),
            call("run_terminal_command", command="sleep 30", timeout_seconds=0.5),
            call("run_terminal_command", command="sleep 30", process_type="BACKGROUND"),
            call("run_terminal_command", command="sleep 0.2; echo patient", timeout_seconds=10**9),
        ],
        [call("run_terminal_command", command="echo begin; yes | head -c 2000000; echo end")],
        "Done.",
        tools=["run_terminal_command"],
    )
    assert (world.project / "touched").exists()
    failed, where, late, background, patient, long = run.outputs("run_terminal_command")
    assert (failed["stdout"], failed["stderr"], failed["exitCode"]) == ("out\n", "err\n", 3)
    assert where["stdout"] == f"{world.project}/src\n"
    assert late == {"errorMessage": "Command timed out after 0.5 seconds"}
    assert "not implemented" in background["errorMessage"]
    assert patient["stdout"] == "patient\n"
    *_, last = world.asked("runner")
    assert [json.loads(text) for text in told(last)] == [failed, where, late, background, patient, long]
    # More than a model can read in one go: how it begins and how it ends.
    assert long["stdout"].startswith("begin\n")
    assert long["stdout"].endswith("end\n")
    assert len(long["stdout"]) < 100_000


def test_the_other_tools_of_the_client(world: World) -> None:
    (world.project / "bye.py").write_text("def bye(): ...\n")
    tools = ["code_search", "run_file_change_hooks", "create_plan", "browser_logs", "find_files"]
    run = world.run(
        "helper",
        [
            call("code_search", pattern="def b.e", flags="-g *.py"),
            call("run_file_change_hooks", files=["bye.py"]),
            call("create_plan", path="plan.md", plan="# Plan\n"),
            call("browser_logs", type="navigate", url="http://127.0.0.1:9/"),
            call("find_files", prompt="farewells"),
        ],
        # What `find_files` asks the model.
        "- `bye.py`\nnone.py",
        "Done.",
        tools=tools,
    )
    (searched,), (hooks,), (plan,), (browser,), (found,) = map(run.outputs, tools)
    assert searched["stdout"] == "./bye.py:def bye(): ...\n"
    assert "not supported" in hooks["message"]
    assert plan["message"] == "Created new file"
    assert (world.project / "plan.md").read_text() == "# Plan\n"
    assert "not implemented" in browser["errorMessage"]
    assert found == [{"path": "bye.py", "content": "def bye(): ...\n"}]
    _, finding, last = world.asked("helper")
    assert "bye.py" in json.dumps(finding["messages"])
    assert [json.loads(text) for text in told(last)] == [searched, hooks, plan, browser, found]


def test_custom_tools(world: World) -> None:
    run = world.run(
        "counter",
        [call("add", a="one", b=2), call("add", a=1), call("no_such_tool"), ToolCall(name="add", arguments='{"a": ')],
        [call("add", a=1, b=2.5), call("photograph"), call("mumble", say="words"), call("mumble", say=None)],
        "Done.",
        tools=["add", "photograph", "mumble"],
        customTools=["add", "photograph", "mumble"],
    )
    # What was wrong has not got to the client.
    assert [tool["input"] for tool in run.tools] == [{"a": 1, "b": 2.5}, {}, {"say": "words"}, {"say": None}]
    first, second, last = world.asked("counter")
    (offered,) = (tool["function"] for tool in first["tools"] if tool["function"]["name"] == "add")
    assert offered["parameters"]["required"] == ["a", "b"]
    assert "Adds two numbers." in offered["description"]
    for problem, text in zip(("'one'", "'b'", "does not exist", "no JSON"), told(second), strict=True):
        assert problem in json.loads(text)["errorMessage"]
    assert json.loads(told(last)[4]) == {"sum": 3.5}
    assert json.loads(told(last)[6]) == "words"
    assert json.loads(told(last)[7]) == {"errorMessage": "The tool has given no output."}
    assert "data:image/png;base64,iVBORw0KGgo" in json.dumps(last["messages"])
    assert run.output["value"] == "Done."


def test_replaced_tools(world: World) -> None:
    parts = [{"type": "json", "value": {"stdout": "from elsewhere"}}]
    run = world.run(
        "elsewhere",
        [
            call("read_files", paths=["a.txt"]),
            call("str_replace", path="a.txt", replacements=[{"old": "theirs", "new": "ours"}]),
            call("run_terminal_command", command="touch never"),
            call("browser_logs", type="navigate", url="http://127.0.0.1:9/"),
        ],
        "Done.",
        tools=["read_files", "str_replace", "run_terminal_command", "browser_logs"],
        overrides={
            "read_files": {"returns": {"a.txt": "it is theirs"}},
            "write_file": {"returns": [{"type": "json", "value": {"file": "a.txt", "message": "Noted"}}]},
            "run_terminal_command": {"returns": parts},
            "browser_logs": {"throws": "no browser today"},
        },
    )
    assert run.outputs("read_files") == [[{"path": "a.txt", "content": "it is theirs\n"}]]
    assert run.outputs("str_replace") == [{"file": "a.txt", "message": "Noted"}]
    assert run.outputs("run_terminal_command") == [parts[0]["value"]]
    assert run.outputs("browser_logs") == [{"errorMessage": "no browser today"}]
    (written,) = (tool["input"] for tool in run.tools if tool["name"] == "write_file")
    assert written == {"type": "file", "path": "a.txt", "content": "it is ours"}
    assert not (world.project / "never").exists()
    assert not (world.project / "a.txt").exists()


def test_one_turn_after_another(world: World) -> None:
    (world.project / "shared.txt").write_text("before\n")
    turns = ([call("read_files", paths=["shared.txt"])], "The word is plum.", "It was plum.", "Still plum.")
    first = world.run("rememberer", *turns, tools=["read_files"], prompt="Pick a word", params={"length": 4})
    (world.project / "shared.txt").write_text("after\n")
    second = world.program.run("rememberer", "Which word?", previousRun=first.result)
    third = world.program.run("rememberer", "And now?", previousRun=second.result)
    assert second.output["value"] == "It was plum."
    assert second.of("start")[0]["messageHistoryLength"] == len(first.history)
    assert third.output["value"] == "Still plum."
    *_, asked_second, asked_third = world.asked("rememberer")
    written = json.dumps(asked_third["messages"])
    for earlier in ("Pick a word", "length", "before", "The word is plum.", "Which word?", "It was plum.", "And now?"):
        assert written.count(earlier) == 1, earlier
    # What others have changed since is told once.
    assert json.dumps(asked_second["messages"]).count("after") == written.count("after") == 1
    # The earlier prompts are the beginning of the later ones, so that providers need not read them again.
    common = asked_second["messages"][:-1]
    assert asked_third["messages"][: len(common)] == common


def test_agents_that_are_there_for_everyone(world: World) -> None:
    (world.project / "picked.py").write_text("picked = True\n")
    world.model(
        "base",
        [call("spawn_agents", agents=[{"agent_type": "file-picker", "prompt": "What is picked?"}])],
        "It is in picked.py.",
    )
    world.model("file-picker", [call("find_files", prompt="picked")], "picked.py", "picked.py: says what is picked")
    run = world.program.run("base", "Where is it?")
    shell = world.program.run("base", "!echo directly")
    assert run.output["value"] == "It is in picked.py."
    (report,) = run.outputs("spawn_agents")[0]
    assert report["value"]["value"] == "picked.py: says what is picked"
    assert "picked = True" in told(world.asked("file-picker")[-1])[0]
    system = json.dumps(world.asked("base")[0]["messages"][0])
    assert "The project greets people." in system
    assert "picked.py" in system
    assert str(world.project) in system
    (value,) = (part["value"] for part in shell.output["value"])
    assert value["stdout"] == "directly\n"


def test_an_agent_of_the_users_own(world: World) -> None:
    fields = {
        "systemPrompt": "You are {CODEBUFF_AGENT_NAME} in {CODEBUFF_PROJECT_ROOT}.",
        "instructionsPrompt": "Be brief.",
        "stepPrompt": "{CODEBUFF_REMAINING_STEPS} steps are left.",
        "reasoningOptions": {"enabled": True, "effort": "high"},
    }
    run = world.run(
        "own",
        [call("add", a=1, b=1)],
        "2",
        tools=["add"],
        prompt="Count",
        fields=fields,
        params={"to": 2},
        customTools=["add"],
        maxAgentSteps=7,
    )
    assert run.output["value"] == "2"
    first, second = world.asked("own")
    system, user = (json.dumps(message["content"]) for message in first["messages"])
    assert f"You are Own in {world.project}." in system
    for text in ("Count", "to", "Be brief.", "7 steps are left."):
        assert text in user, text
    assert "6 steps are left." in json.dumps(second["messages"])
    assert "7 steps are left." not in json.dumps(second["messages"])
    assert first["reasoning_effort"] == "high"
    # Of what was said to the model, the next prompts have what the user said.
    written = json.dumps(run.history)
    assert "Count" in written
    assert "Be brief." not in written
    assert "steps are left" not in written


PROGRAM = """function* ({ agentState, prompt, params, logger }) {
  const { toolResult } = yield { toolName: 'read_files', input: { paths: ['program.txt'] } }
  yield 'STEP'
  const { agentState: after } = yield {
    toolName: 'run_terminal_command', input: { command: 'echo by program' }, includeToolCall: false,
  }
  yield 'STEP_ALL'
  yield {
    toolName: 'set_output',
    input: { read: toolResult[0].value[0].content, prompt, params, messages: after.messageHistory.length > 2 },
  }
}"""


def test_an_agent_that_is_a_program(world: World) -> None:
    (world.project / "program.txt").write_text("for the program\n")
    fields = {"handleSteps": PROGRAM, "outputMode": "structured_output"}
    tools = ["read_files", "run_terminal_command", "set_output"]
    turns = ("A step.", [call("run_terminal_command", command="echo by model")], "All steps.")
    run = world.run("programmed", *turns, tools=tools, fields=fields, prompt="Obey", params={"n": 1})
    said = {"read": "for the program\n", "prompt": "Obey", "params": {"n": 1}, "messages": True}
    assert run.output == {"type": "structuredOutput", "value": said}
    assert [found["stdout"] for found in run.outputs("run_terminal_command")] == ["by program\n", "by model\n"]
    # The program's own call that it wants shown comes as words, too.
    assert run.text.endswith("A step.All steps.")
    first, second, _ = world.asked("programmed")
    assert "for the program" in json.dumps(first["messages"])
    assert "by program" not in json.dumps(second["messages"])


def test_a_program_that_fails(world: World) -> None:
    throws = "function* () { yield 'STEP'; throw new Error('it is over') }"
    run = world.run("thrower", "A step.", fields={"handleSteps": throws})
    assert run.output["type"] == "error"
    assert "it is over" in run.output["message"]
    assert run.text.startswith("A step.")


def test_agents_side_by_side(world: World) -> None:
    one_does = call("run_terminal_command", command="echo by a child")
    workers = [
        agent("side-one", world.model("side-one", [one_does], "I am one."), ["run_terminal_command"]),
        agent("side-two", world.model("side-two", "I am two."), includeMessageHistory=True),
    ]
    run = world.run(
        "side-parent",
        [
            Text(text="Asking."),
            call(
                "spawn_agents",
                agents=[
                    {"agent_type": "side-one", "prompt": "Who?"},
                    {"agent_type": "side-two", "prompt": "Who?", "params": {"deep": True}},
                    {"agent_type": "stranger"},
                ],
            ),
        ],
        "Both said so.",
        tools=["spawn_agents"],
        prompt="Ask both",
        fields={"spawnableAgents": ["side-one", "side-two"]},
        agentDefinitions=workers,
    )
    started = run.of("subagent_start")
    assert sorted((event["displayName"], event["onlyChild"]) for event in started) == [
        ("Side-One", False),
        ("Side-Two", False),
    ]
    assert {event["agentId"] for event in started} == {event["agentId"] for event in run.of("subagent_finish")}
    one, two, stranger = run.outputs("spawn_agents")[0]
    assert one["value"] == {"type": "lastMessage", "value": "I am one."}
    assert two["value"] == {"type": "lastMessage", "value": "I am two."}
    assert "stranger" in stranger["value"]["errorMessage"]
    assert json.loads(told(world.asked("side-one")[-1])[0])["stdout"] == "by a child\n"
    knows = {name: "Ask both" in json.dumps(world.asked(name)[0]["messages"]) for name in ("side-one", "side-two")}
    assert knows == {"side-one": False, "side-two": True}
    # Their words are not those of the agent that the user has asked.
    assert run.text == "Asking.Both said so."
    assert run.texts == ["Asking.", "Both said so."]


def test_an_agent_alone_and_one_on_the_same_conversation(world: World) -> None:
    only = agent("only-child", world.model("only-child", "Alone."))
    inline = agent("inline-child", world.model("inline-child", "Here too."))
    run = world.run(
        "whole-parent",
        [call("spawn_agents", agents=[{"agent_type": "only-child", "prompt": "Speak"}])],
        [call("spawn_agent_inline", agent_type="inline-child", prompt="Go on here")],
        "Done.",
        tools=["spawn_agents", "spawn_agent_inline"],
        fields={"spawnableAgents": ["only-child", "inline-child"]},
        agentDefinitions=[only, inline],
        prompt="Begin",
    )
    assert [(event["displayName"], event["onlyChild"]) for event in run.of("subagent_start")] == [
        ("Only-Child", True),
        ("Inline-Child", True),
    ]
    assert run.text.count("Alone.") == run.text.count("Here too.") == 1
    assert run.texts == ["Alone.", "Here too.", "Done."]
    (asked,) = world.asked("inline-child")
    assert "Begin" in json.dumps(asked["messages"])
    *_, last = world.asked("whole-parent")
    assert "Here too." in json.dumps(last["messages"])
    assert run.output["value"] == "Done."


def test_an_agent_beside_another(world: World) -> None:
    beside = agent("beside-child", world.model("beside-child", Script(text="I was slow.", first_byte_delay_ms=300)))
    run = world.run(
        "beside-parent",
        [call("spawn_agents_async", agents=[{"agent_type": "beside-child", "prompt": "Take your time"}])],
        "Meanwhile.",
        "It has come.",
        tools=["spawn_agents", "spawn_agents_async"],
        fields={"spawnableAgents": ["beside-child"]},
        agentDefinitions=[beside],
    )
    assert run.outputs("spawn_agents_async")[0][0]["success"] is True
    *_, last = world.asked("beside-parent")
    assert "I was slow." in json.dumps(last["messages"])
    assert run.output["value"] == "It has come."
    kinds = [event["type"] for event in run.events]
    assert kinds.index("tool_result") < kinds.index("subagent_finish")


FORM: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "number"}},
    "required": ["city", "degrees"],
}


def test_an_output_with_a_form(world: World) -> None:
    run = world.run(
        "former",
        [call("set_output", city="Lisbon", degrees="many")],
        "I have not done it.",
        [call("set_output", city="Lisbon", degrees=21)],
        tools=["set_output"],
        fields={"outputMode": "structured_output", "outputSchema": FORM},
    )
    assert run.output == {"type": "structuredOutput", "value": {"city": "Lisbon", "degrees": 21}}
    _, second, third = world.asked("former")
    assert "'many'" in json.loads(told(second)[0])["errorMessage"]
    assert "set_output" in json.dumps(third["messages"][-1])
    fields = {"outputMode": "structured_output", "outputSchema": FORM}
    stubborn = world.run("stubborn", "No.", "No!", fields=fields)
    assert stubborn.output == {"type": "structuredOutput", "value": None}


def test_every_message(world: World) -> None:
    fields = {"outputMode": "all_messages"}
    run = world.run("witness", [call("add", a=1, b=1)], "2", tools=["add"], fields=fields, customTools=["add"])
    assert run.output["type"] == "allMessages"
    assert [message["role"] for message in run.output["value"]] == ["assistant", "tool", "assistant"]


def test_the_tools_that_need_no_client(world: World) -> None:
    run = world.run(
        "planner",
        [
            call("add_subgoal", id="1", objective="Greet", status="NOT_STARTED", plan="Say it", log="Begun"),
            call("update_subgoal", id="1", status="COMPLETE", log="Said"),
            call("update_subgoal", id="2", log="Unplanned"),
            call("think_deeply", thought="Hm."),
            call("lookup_agent_info", agentId="file-picker"),
            call("add_message", role="user", content="And mind the cat."),
            call("web_search", query="cats"),
        ],
        [Text(text="Done."), call("set_messages", messages=ODD_MESSAGES)],
        "Gone on.",
        tools=[
            "add_subgoal",
            "update_subgoal",
            "think_deeply",
            "lookup_agent_info",
            "add_message",
            "web_search",
            "set_messages",
        ],
    )
    assert run.output == {"type": "lastMessage", "value": "Done."}
    assert run.result["sessionState"]["mainAgentState"]["agentContext"] == {
        "1": {"objective": "Greet", "status": "COMPLETE", "plan": "Say it", "logs": ["Begun", "Said"]},
        "2": {"logs": ["Unplanned"]},
    }
    _, second = world.asked("planner")
    assert "And mind the cat." in json.dumps(second["messages"])
    (looked_up,) = run.outputs("lookup_agent_info")
    assert looked_up["displayName"] == "File Picker"
    (searched,) = run.outputs("web_search")
    assert searched["errorMessage"]
    # The client checks the conversation that it gets back, and would refuse all of it.
    again = world.program.run("planner", "Go on", previousRun=run.result)
    assert again.output["value"] == "Gone on."
    asked = json.dumps(world.asked("planner")[-1]["messages"])
    for text in ("kept text", "kept system", "kept result", "kept_call", "Go on"):
        assert text in asked, text


ODD_MESSAGES: list[Json] = [
    {"role": "system", "content": [{"type": "text", "text": "kept system"}]},
    {"role": "user", "content": [{"type": "text", "text": "kept text"}, {"type": "text"}, {"type": "bogus"}, 7]},
    {
        "role": "user",
        "content": "x",
        "timeToLive": "forever",
        "keepDuringTruncation": "yes",
        "providerOptions": {"a": 1},
    },
    {"role": "user", "content": [{"type": "image", "image": 1}, {"type": "file", "data": "aGk="}]},
    {
        "role": "assistant",
        "content": [
            {"type": "tool-call", "toolCallId": "kept", "toolName": "kept_call", "input": {"a": 1}},
            {"type": "tool-call", "toolCallId": 7, "toolName": "x", "input": {}},
            {"type": "tool-call", "toolCallId": "no-input", "toolName": "x", "input": "none"},
            {"type": "image", "image": "aGk="},
        ],
    },
    {
        "role": "tool",
        "content": {
            "type": "tool-result",
            "toolCallId": "kept",
            "toolName": "kept_call",
            "output": [{"type": "json", "value": "kept result"}, {"type": "json"}, {"type": "media", "data": 1}, {}],
        },
    },
    {"role": "tool", "content": "text"},
    {"role": "wizard", "content": "abracadabra"},
    {"role": "user", "content": None},
]


def test_many_runs_at_once(world: World) -> None:
    runs = [
        world.start(
            f"many-{number}",
            [Text(text=f"I am {number}."), call("run_terminal_command", command=f"echo {number}")],
            f"Still {number}.",
            tools=["run_terminal_command"],
        )
        for number in range(12)
    ]
    for number, run in enumerate(runs):
        assert run.wait().text == f"I am {number}.Still {number}."
        assert [ran["stdout"] for ran in run.outputs("run_terminal_command")] == [f"{number}\n"]


def test_a_prompt_of_megabytes(world: World) -> None:
    run = world.run("reader", "Read.", "Read again.", prompt="Gr\u00fc\u00dfe " * 250_000)
    assert run.output["value"] == "Read."
    again = world.program.run("reader", "Once more", previousRun=run.result)
    assert again.output["value"] == "Read again."


def test_odd_prompts(world: World) -> None:
    empty = world.start("empty", "Nothing, then.", prompt="")
    # JavaScript's texts may hold half of a character.
    half = world.start(
        "half",
        [call("read_files", paths=["half.txt"])],
        "Half of it.",
        tools=["read_files"],
        prompt="half \ud83d of it",
        overrides={"read_files": {"returns": {"half.txt": "also \udc69 half"}}},
    )
    assert empty.wait().output["value"] == "Nothing, then."
    assert half.wait().output["value"] == "Half of it."
    asked = json.dumps(world.asked("half")[-1]["messages"], ensure_ascii=False)
    assert "half \ufffd of it" in asked
    assert "also \ufffd half" in asked
    again = world.program.run("half", "And the rest?", previousRun=half.result)
    assert again.output["value"] == "Half of it."


def test_the_steps_end(world: World) -> None:
    run = world.run(
        "stepper", [Text(text="More."), call("add", a=1, b=1)], tools=["add"], customTools=["add"], maxAgentSteps=2
    )
    assert len(world.asked("stepper")) == len(run.tools) == 2
    assert run.text.startswith("More.More.")
    assert "pause here" in run.text
    assert run.text == "".join(run.texts)
    again = world.program.run("stepper", "continue", previousRun=run.result, customTools=["add"], maxAgentSteps=1)
    assert len(world.asked("stepper")) == 3
    assert again.output["type"] == "lastMessage"


SLOW = Script(deltas=400, delta_delay_ms=50)


def test_a_cancelled_answer(world: World) -> None:
    run = world.run("cancelled", SLOW, "Afterwards.", cancelAfterChunks=3)
    assert world.upstream.wait_for(lambda standin: _record(standin, "cancelled").outcome) == "aborted"
    # Ends as any other run, with what was said until then.
    assert run.output == {"type": "lastMessage", "value": run.text}
    assert run.texts == [run.text]
    assert run.of("finish")
    again = world.program.run("cancelled", "Go on", previousRun=run.result)
    assert again.output["value"] == "Afterwards."
    assert run.text in json.dumps(world.asked("cancelled")[-1]["messages"])


def test_a_cancelled_command(world: World) -> None:
    run = world.run(
        "interrupted",
        [Text(text="Running."), call("run_terminal_command", command="sleep 60", timeout_seconds=60)],
        "Never said.",
        tools=["run_terminal_command"],
        overrides={"run_terminal_command": {"hangs": True, "cancels": True}},
    )
    assert run.output == {"type": "lastMessage", "value": "Running."}
    assert len(world.asked("interrupted")) == 1


def test_a_cancelled_agent_of_an_agent(world: World) -> None:
    child = agent("cancelled-child", world.model("cancelled-child", SLOW))
    run = world.run(
        "cancelled-parent",
        [call("spawn_agents", agents=[{"agent_type": "cancelled-child"}])],
        "Never said.",
        tools=["spawn_agents"],
        fields={"spawnableAgents": ["cancelled-child"]},
        agentDefinitions=[child],
        # The first one says whose words follow.
        cancelAfterChunks=3,
    )
    assert world.upstream.wait_for(lambda standin: _record(standin, "cancelled-child").outcome) == "aborted"
    assert len(world.asked("cancelled-parent")) == 1
    assert [event["type"] for event in run.events[-2:]] == ["tool_result", "finish"]


def test_a_client_that_is_gone(world: World, other: Program) -> None:
    run = world.start("abandoned", SLOW, program=other)
    run.until(lambda: run.chunks, what="the first words")
    other.kill()
    assert world.upstream.wait_for(lambda standin: _record(standin, "abandoned").outcome) == "aborted"


def test_a_client_that_does_not_answer(world: World, other: Program) -> None:
    """A handler of the client's that throws answers nothing at all."""
    no_project = world.start(
        "no-project", [call("read_files", paths=["a.txt"])], "Done.", tools=["read_files"], program=other, cwd=None
    )
    exploded = world.start(
        "exploded",
        [call("explode", timeout_seconds=0.5)],
        "Done.",
        tools=["explode"],
        program=other,
        customTools=["explode"],
    )
    hanging = world.start(
        "hanging",
        [call("run_terminal_command", command="true", timeout_seconds=0.5)],
        "Done.",
        tools=["run_terminal_command"],
        program=other,
        overrides={"run_terminal_command": {"hangs": True}},
    )
    # The SDK knows nothing of MCP, whatever its agents' definitions say.
    servers = {"mcpServers": {"docs": {"command": "docs-server"}}}
    serverless = world.start("serverless", "Done.", program=other, fields=servers)
    for run in (no_project, exploded, hanging, serverless):
        assert run.wait().output == {"type": "lastMessage", "value": "Done."}
    unread = "[FILE_READ_ERROR] The client has not answered within 3 s."
    assert no_project.outputs("read_files") == [[{"path": "a.txt", "content": unread}]]
    for name, tool in (("exploded", "explode"), ("hanging", "run_terminal_command")):
        (text,) = told(world.asked(name)[-1])
        assert f"has not answered the call of `{tool}` within 3.5 s" in json.loads(text)["errorMessage"]
    assert len(other.unhandled) == 2
    assert any("the tool exploded" in message for message in other.unhandled)


def test_what_cannot_be_run(world: World) -> None:
    failures = {
        "a wrong key": world.start("keyless", "Never.", apiKey="pb-wrong-key"),
        "an unknown agent": world.program.start("nobody-knows", "Go"),
        "a wrong definition": world.program.start(agent("Bad Id", "local/standin"), "Go"),
        "an unknown model": world.program.start(agent("lost", "local/standin-nothing"), "Go"),
        "a refused request": world.start("refused", Script(error=ErrorReply(status=400, message="no such thing"))),
        "a broken stream": world.start("broken", Script(deltas=20, error_event=ErrorEvent(after=5, status=500))),
    }
    words = ("key", "nobody-knows", "Bad Id", "standin-nothing", "no such thing", "")
    for (name, run), word in zip(failures.items(), words, strict=True):
        output = run.wait().output
        assert output["type"] == "error", name
        assert word in output["message"], name
        assert output["message"], name
    assert not world.asked("keyless")
    # What was said before the failure is part of the conversation.
    broken = failures["a broken stream"]
    assert broken.text
    assert broken.texts == [broken.text]
    assert broken.text in json.dumps(broken.history)
    # None of it is the client's end, and the conversation goes on from there.
    again = world.start("survivor", "Fine.", previousRun=failures["a wrong key"].result)
    assert again.wait().output["value"] == "Fine."


def test_nonsense_from_another_client(world: World) -> None:
    slow = Script(text="One two three four five six seven eight.", delta_delay_ms=50)
    url = f"{world.cluster.url.replace('http', 'ws')}/ws"
    run = world.start("undisturbed", slow)
    run.until(lambda: run.chunks, what="the first words")
    with connect(url, compression=None) as socket:
        for text in NONSENSE:
            socket.send(text)
        socket.send(json.dumps({"type": "ping", "txid": 77}))
        answers = []
        while not answers or answers[-1].get("txid") != 77:
            answers.append(json.loads(socket.recv(timeout=10)))
    assert answers[-1] == {"type": "ack", "txid": 77, "success": True}
    assert all("error" not in answer for answer in answers)
    assert run.wait().text == slow.text
    assert run.texts == [slow.text]


NONSENSE = (
    "",
    "no JSON",
    "[" * 10_000,
    "[]",
    "null",
    "{}",
    '{"type": "action"}',
    '{"type": "action", "txid": "one", "data": 7}',
    '{"type": "action", "txid": 1, "data": {"type": "prompt"}}',
    '{"type": "action", "txid": 2, "data": {"type": "prompt", "promptId": 1, "sessionState": "none"}}',
    '{"type": "action", "txid": 3, "data": {"type": "tool-call-response", "requestId": "none", "output": 1}}',
    '{"type": "action", "txid": 4, "data": {"type": "read-files-response", "requestId": null, "files": []}}',
    '{"type": "action", "txid": 5, "data": {"type": "cancel-user-input", "promptId": "none"}}',
    '{"type": "what", "txid": 6}',
)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_kind_of_backend(world: World, backend: str) -> None:
    file = f"on-{backend}.txt"
    world.model(
        f"core-{backend}",
        [
            Thinking(text="A file, then."),
            Text(text="Writing."),
            call("write_file", path=file, instructions="Create.", content="plum\n"),
            call("run_terminal_command", command=f"cat {file}; exit 4"),
            call("set_output", city="Lisbon", degrees="many"),
        ],
        [Text(text="It says plum."), call("set_output", city="Lisbon", degrees=21)],
        [Text(text="You asked for a file."), call("set_output", city="Porto", degrees=18)],
        backend=backend,
    )
    definition = agent(
        f"core-{backend}",
        # The configuration says who answers, whatever the agent's own model is.
        "made-up/model",
        ["write_file", "run_terminal_command", "set_output"],
        outputMode="structured_output",
        outputSchema=FORM,
    )
    first = world.program.run(definition, "Write a file")
    second = world.program.run(definition, "What did I ask for?", previousRun=first.result)
    assert (world.project / file).read_text() == "plum\n"
    (ran,) = first.outputs("run_terminal_command")
    assert (ran["stdout"], ran["exitCode"]) == ("plum\n", 4)
    assert first.text == "Writing.It says plum."
    assert first.texts == ["Writing.", "It says plum."]
    assert first.output == {"type": "structuredOutput", "value": {"city": "Lisbon", "degrees": 21}}
    assert second.texts == ["You asked for a file."]
    assert second.output == {"type": "structuredOutput", "value": {"city": "Porto", "degrees": 18}}
    requests = [json.dumps(body) for body in world.asked(f"core-{backend}")]
    assert len(requests) == 3
    for earlier in ("Write a file", "Created new file", "exitCode", "'many'", "It says plum.", "What did I ask for?"):
        assert earlier in requests[-1], earlier
    if (sealed := BACKENDS[backend]) is not None:
        assert f'"{sealed}": "' in requests[-1]


@pytest.fixture
def other(world: World, tmp_path: Path) -> Iterator[Program]:
    """A client of the test's own, which may come to harm."""
    with Program(world.cluster.url, tmp_path, tmp_path / "errors.log", key=KEY, survives=True) as program:
        yield program


def _record(standin: StandinProcess, model: str) -> RecordedRequest:
    return next(record for record in standin.requests() if record.model == model)
