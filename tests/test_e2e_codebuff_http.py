"""Codebuff's published SDK whose agents run in the client (0.10): its tools, sub-agents, faults, every backend."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from codebuff_http_client import Program, Ran, Scenario
from node_js import node_24
from ways import PIXEL

from patchbay.codebuff.agents import builtin_agents
from patchbay.testing.cluster import Cluster, ServiceProcess
from patchbay.testing.eventually import wait_until
from patchbay.testing.ports import free_port
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin import Account, ErrorEvent, ErrorReply, Script, Text, Thinking, ToolCall, Usage
from patchbay_standin.records import RecordedRequest
from patchbay_standin.testing import StandinProcess

# For the first of them, which starts everything.
pytestmark = pytest.mark.timeout(180)

Json = dict[str, Any]

KEY, ANOTHER_KEY = "pb-made-up", "pb-made-up-2"
BACKENDS = ("chat", "anthropic", "claude", "chatgpt")
"""Chat Completions, Anthropic, `claude` processes, and a ChatGPT account."""
PROJECT = {
    "greet.py": "def greet():\n    return 'hello'\n",
    "src/tree.txt": "oak\nbirch\n",
    "notes.md": "old notes\n",
    "knowledge.md": "Speak of trees.\n",
}
SCENARIOS: dict[str, Json] = {}
SCRIPTS: dict[str, Script] = {}


def step(*blocks: Text | Thinking | ToolCall, **more: Any) -> Script:
    return Script(blocks=list(blocks), **more)


def call(tool: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=tool, input=arguments)


def agent(name: str, *tools: str, model: str | None = None, **more: Any) -> Json:
    """The definition of an agent that asks the script of its name."""
    said = {"id": name, "displayName": name, "model": model or f"chat/{name}", "toolNames": list(tools)}
    return {**said, "instructionsPrompt": "Do as you are told.", **more}


def scripted(name: str, *steps: Script) -> None:
    """What the model of a name says, one step after the other."""
    SCRIPTS[name] = steps[0] if len(steps) == 1 else Script(attempts=list(steps))


def scenario(name: str, asked: Json | str, prompts: tuple[str, ...] = ("Please begin.",), **more: Any) -> str:
    """Adds to what the program runs; `options` are for `run()`."""
    SCENARIOS[name] = {"name": name, "agent": asked, "prompts": prompts, **more}
    return name


# --- What it all runs against.


class Service:
    """Searches, and a provider that says what an answer has cost, on a loopback port.

    Attributes:
        asked: The path, the `authorization` and the body of every request.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, Json]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                service.asked.append((self.path, self.headers["authorization"], body))
                kind, answer = service.answer(self.path, body)
                self.send_response(200)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, path: str, body: Json) -> tuple[str, bytes]:
        if path == "/web":
            return "application/json", json.dumps({"result": f"found {body['query']}"}).encode()
        if path == "/docs":
            return "application/json", json.dumps({"result": f"docs of {body['libraryTitle']}"}).encode()
        costs = {"prompt_tokens": 1000, "completion_tokens": 20, "total_tokens": 1020, "cost": 0.02}
        chunks: list[Json] = [
            {
                "id": "gen-1",
                "model": "paid",
                "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Yes."}}],
            },
            {"id": "gen-1", "model": "paid", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"id": "gen-1", "model": "paid", "choices": [], "usage": costs},
        ]
        sent = [f"data: {json.dumps({'object': 'chat.completion.chunk', **chunk})}\n\n" for chunk in chunks]
        return "text/event-stream", ("".join(sent) + "data: [DONE]\n\n").encode()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class World:
    """What ran, and against what.

    Attributes:
        main: The program that ran nearly everything, at the first edge.
        other: The one at the other edge, on an older Node, which tells the first edge of its runs.
        projects: The directories of the scenarios, by name.
    """

    cluster: Cluster
    upstream: StandinProcess
    service: Service
    main: Ran
    other: Ran
    projects: Path
    requests: list[RecordedRequest]

    def of(self, name: str) -> Scenario:
        return self.main.scenarios[name]

    def bodies(self, model: str) -> list[Json]:
        """What was asked of a model, in order."""
        found = [request.body for request in self.requests if request.model == model]
        assert all(isinstance(body, dict) for body in found)
        return found  # type: ignore[return-value]

    def run(self, run_id: str, key: str = KEY) -> Json:
        """A run, as the API shows it."""
        headers = {"authorization": f"Bearer {key}"}
        shown = httpx.get(f"{self.cluster.url}/v1/codebuff/runs/{run_id}", headers=headers)
        assert shown.status_code == 200, shown.text
        described: Json = shown.json()
        return described


OTHER_EDGE = ("abort-elsewhere", "search-unconfigured", "old-node")


def config_for(upstream: StandinProcess, service: Service, home: Path) -> Json:
    upstream.account("work", Account())
    (home / "auth.json").write_text(json.dumps(upstream.sign_in("work").auth_json()))
    backends: Json = {
        "default_backend": "chat",
        "chat": {"kind": "openai-compatible", "base_url": f"{upstream.url}/v1", "api_key": "sk-made-up"},
        "paid": {"kind": "openai-compatible", "base_url": f"{service.url}/v1", "api_key": "sk-made-up"},
        "anthropic": {"base_url": upstream.url, "api_key": "sk-ant-made-up"},
        "claude": {
            "kind": "claude-cli",
            "base_url": upstream.url,
            "api_key": "sk-ant-made-up",
            "pool": {"min_spare": 1, "max_processes": 8},
        },
        "chatgpt": {
            "kind": "codex",
            "credentials": "signed_in",
            "base_url": f"{upstream.url}/backend-api",
            "oauth_issuer": upstream.url,
            "codex_home": str(home),
        },
    }
    agents = {name: f"chat/{name}" for name in builtin_agents()}
    agents["thinker-anthropic"] = "anthropic/thinker-anthropic"
    kinds = ("core", "shaped", "abort")
    agents |= {f"{kind}-{backend}": f"{backend}/{kind}-{backend}" for kind in kinds for backend in BACKENDS}
    return {
        "backends": backends,
        "security": {
            "require_api_key": True,
            "api_keys": [{"key": KEY, "id": "one"}, {"key": ANOTHER_KEY, "id": "two"}],
            "secrets_key": "5f" * 32,
        },
        "codebuff": {
            "models": {"agents": agents, "cost_modes": {"max": "chat/costly"}},
            "web_search": {"url": f"{service.url}/web", "api_key": "search-key"},
            "docs_search": {"url": f"{service.url}/docs"},
        },
        "redis": {"timeout_seconds": 5},
        # What tells Codebuff's clients of an abort does not wait for these.
        "server": {"keep_alive_ping_seconds": 40},
    }


def add_edge(cluster: Cluster, config: Json, redis_url: str) -> ServiceProcess:
    """One more edge, of a configuration of its own."""
    path = cluster.directory / "other.json"
    path.write_text(json.dumps({**config, "redis": {**config["redis"], "url": redis_url}}))
    environ = {"PATH": os.environ["PATH"], "HOME": str(cluster.directory), "PATCHBAY__TELEMETRY__LOG_FORMAT": "json"}
    log = cluster.directory / "other-edge.log"
    edge = ServiceProcess("edge", config=path, environ=environ, log=log, port=free_port(), forked=True)
    cluster.edges.append(edge)
    return edge


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("codebuff")
    with StandinProcess() as upstream, Service() as service, ValkeyProcess() as valkey:
        config = config_for(upstream, service, directory)
        kinds = ("openai-worker", "claude-worker", "codex-worker")
        with Cluster(config, redis_url=valkey.url, kinds=kinds) as cluster:
            unconfigured = {**config, "codebuff": {"models": config["codebuff"]["models"]}}
            other = add_edge(cluster, unconfigured, valkey.url)
            cluster.wait_ready()
            for name, script in SCRIPTS.items():
                upstream.script(name, script)
            main, elsewhere = make_projects(directory)
            environ = {"TEST_RUNS_URL": cluster.url}
            with (
                Program(main, url=cluster.url, home=directory / "home", api_key=KEY) as first,
                Program(
                    elsewhere,
                    url=other.url,
                    home=directory / "other-home",
                    api_key=KEY,
                    environ=environ,
                    node=node_24(),
                ) as second,
                ThreadPoolExecutor() as pool,
            ):
                ran, ran_elsewhere = pool.map(Program.ran, (first, second))
                projects = directory / "projects"
                yield World(cluster, upstream, service, ran, ran_elsewhere, projects, upstream.requests())


def make_projects(directory: Path) -> tuple[list[Json], list[Json]]:
    """Gives each scenario a project; those of the first edge, and of the other."""
    for name, scene in SCENARIOS.items():
        project = directory / "projects" / name
        for path, content in PROJECT.items():
            file = project / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        scene["cwd"] = str(project)
    main = [scene for name, scene in SCENARIOS.items() if name not in OTHER_EDGE]
    return main, [SCENARIOS[name] for name in OTHER_EDGE]


# --- Text.

WORDS = "Good day, reader: this is a sentence of several pieces. " * 3
scripted(
    "text",
    step(
        Thinking(text="Let me see."),
        Text(text=WORDS),
        delta_size=7,
        # Else those that come together go on together, and a busy machine may find all of them there.
        delta_delay_ms=50,
        usage=Usage(input=40, output=9),
    ),
)
scenario("text", agent("text"), connection=True)


def test_a_text_is_streamed_once(world: World) -> None:
    told = world.of("text")
    assert told.text == WORDS
    assert len([chunk for chunk in told.chunks if isinstance(chunk, str)]) > 5
    # A machine that stalls adds blank thoughts.
    assert " ".join(told.reasoning.split()) == "Let me see."
    assert "".join(event["text"] for event in told.of("text")) == WORDS
    assert told.output["type"] == "lastMessage"
    assert WORDS.strip() in json.dumps(told.output["value"])
    assert (told.events[0]["type"], told.events[-1]["type"]) == ("start", "finish")
    assert told.connections == [True]


def test_all_its_calls_come_here(world: World) -> None:
    refused = {(call["path"], call["status"]) for call in world.main.calls if call["status"] >= 400}
    assert refused == {
        ("/api/v1/me", 401),
        ("/api/v1/agents/codebuff/nobody/latest", 404),
        *(("/api/v1/chat/completions", status) for status in (400, 402, 404, 429)),
    }


def test_it_counts_tokens_here(world: World) -> None:
    counts = [call["tokens"] for call in world.main.calls if call["path"] == "/api/v1/token-count"]
    assert all(counts)
    assert world.of("text").result["contextTokenCount"] in counts


def test_an_upstream_is_not_told_what_is_codebuffs_own(world: World) -> None:
    (body,) = world.bodies("text")
    assert not {"codebuff_metadata", "provider", "usage", "stop"} & set(body)
    assert body["messages"][0]["role"] == "system"


scripted("picture", step(Text(text="A pixel.")))
scenario(
    "picture",
    agent("picture"),
    options={"content": [{"type": "image", "image": PIXEL, "mediaType": "image/png"}]},
)


def test_a_picture_is_shown_to_the_model(world: World) -> None:
    assert world.of("picture").text == "A pixel."
    (body,) = world.bodies("picture")
    assert f"data:image/png;base64,{PIXEL}" in json.dumps(body["messages"])


# --- Tools.

PATCH = "@@\n-old notes\n+new notes\n"
QUESTION: Json = {"question": "Which?", "options": [{"label": "this"}, {"label": "that"}]}
scripted(
    "tools",
    step(
        Text(text="I look first."),
        call("read_files", paths=["greet.py", "none.py"]),
        call("glob", pattern="**/*.txt"),
        call("list_directory", path="."),
        call("code_search", pattern="birch"),
        call("read_subtree", paths=["src"]),
    ),
    step(
        call("str_replace", path="greet.py", replacements=[{"old": "'hello'", "new": "'good day'"}]),
        call("write_file", path="made/new.txt", instructions="New.", content="all new\n"),
        call("apply_patch", operation={"type": "update_file", "path": "notes.md", "diff": PATCH}),
        call("run_terminal_command", command="printf 'from %s' \"$PWD\" > proof.txt; echo out; echo err >&2; exit 3"),
    ),
    step(
        call("write_todos", todos=[{"task": "look", "completed": True}]),
        call("suggest_followups", followups=[{"prompt": "More."}]),
        call("ask_user", questions=[QUESTION]),
    ),
    step(Text(text="All is done.")),
)
TOOLS = (
    *("read_files", "glob", "list_directory", "code_search", "read_subtree", "str_replace", "write_file"),
    *("apply_patch", "run_terminal_command", "write_todos", "suggest_followups", "ask_user"),
)
scenario("tools", agent("tools", *TOOLS))


def test_tools_look_at_the_project(world: World) -> None:
    told = world.of("tools")
    (files,) = told.tool_results("read_files")
    assert {file["path"]: file["content"] for file in files} == {
        "greet.py": PROJECT["greet.py"],
        "none.py": "[FILE_DOES_NOT_EXIST]",
    }
    (globbed,) = told.tool_results("glob")
    assert globbed["files"] == ["src/tree.txt"]
    (listed,) = told.tool_results("list_directory")
    assert {"greet.py", "notes.md"} <= set(listed["files"])
    assert "src" in listed["directories"]
    (searched,) = told.tool_results("code_search")
    assert "birch" in searched["stdout"]
    ((tree,),) = told.tool_results("read_subtree")
    assert "tree.txt" in tree["printedTree"]


def test_tools_change_the_project(world: World) -> None:
    told = world.of("tools")
    project = world.projects / "tools"
    assert (project / "greet.py").read_text() == "def greet():\n    return 'good day'\n"
    assert (project / "made" / "new.txt").read_text() == "all new\n"
    assert (project / "notes.md").read_text() == "new notes\n"
    assert (project / "proof.txt").read_text() == f"from {project}"
    (ran,) = told.tool_results("run_terminal_command")
    assert (ran["stdout"], ran["stderr"], ran["exitCode"]) == ("out\n", "err\n", 3)


def test_tools_of_the_client_itself(world: World) -> None:
    told = world.of("tools")
    assert told.tool_results("write_todos") == [{"message": "Todos written"}]
    assert told.tool_results("suggest_followups") == [{"message": "Followups suggested!"}]
    (refused,) = told.tool_results("ask_user")
    assert "not implemented" in refused["errorMessage"]


def test_a_model_sees_what_its_tools_gave(world: World) -> None:
    told = world.of("tools")
    bodies = world.bodies("tools")
    assert len(bodies) == 4
    results = [message for message in bodies[-1]["messages"] if message["role"] == "tool"]
    calls = [call for message in bodies[-1]["messages"] for call in message.get("tool_calls") or ()]
    assert [call["function"]["name"] for call in calls] == list(TOOLS)
    assert [result["tool_call_id"] for result in results] == [call["id"] for call in calls]
    for piece in ("return 'hello'", "src/tree.txt", "birch", "Todos written", '"exitCode":3'):
        assert any(piece in result["content"] for result in results), piece
    assert {tool["function"]["name"] for tool in bodies[0]["tools"]} == set(TOOLS)
    assert told.text.replace("\n", "") == "I look first.All is done."


scripted(
    "own-tools",
    step(
        call("look_up", word="oak", times=2),
        call("write_file", path="kept.txt", instructions="New.", content="not really\n"),
        call("run_terminal_command", command="touch ran"),
    ),
    step(Text(text="So be it.")),
)
scenario(
    "own-tools",
    agent("own-tools", "look_up", "write_file", "run_terminal_command"),
    overrides={
        "write_file": [{"type": "json", "value": {"file": "kept.txt", "message": "as if", "unifiedDiff": ""}}],
        "run_terminal_command": [{"type": "json", "value": {"command": "touch ran", "stdout": "as if", "exitCode": 0}}],
    },
)


def test_tools_that_the_program_brings(world: World) -> None:
    told = world.of("own-tools")
    assert told.customs == [{"word": "oak", "times": 2}]
    assert told.tool_results("look_up") == [{"meaning": "oak times 2"}]
    (offered,) = (tool for tool in world.bodies("own-tools")[0]["tools"] if tool["function"]["name"] == "look_up")
    assert set(offered["function"]["parameters"]["properties"]) == {"word", "times"}


def test_tools_that_the_program_replaces(world: World) -> None:
    told = world.of("own-tools")
    assert [(one["tool"], one["input"].get("path")) for one in told.overrides] == [
        ("write_file", "kept.txt"),
        ("run_terminal_command", None),
    ]
    project = world.projects / "own-tools"
    assert not (project / "kept.txt").exists()
    assert not (project / "ran").exists()
    assert "as if" in json.dumps(world.bodies("own-tools")[1]["messages"])


scripted(
    "mistakes",
    step(call("fly_away", to="Lisbon"), call("read_files", paths="no list")),
    step(Text(text="I will not try again.")),
)
scenario("mistakes", agent("mistakes", "read_files"))


def test_a_model_that_errs_is_told_so(world: World) -> None:
    told = world.of("mistakes")
    assert len(told.of("error")) == 2
    assert told.text.endswith("I will not try again.")
    assert "fly_away" in json.dumps(world.bodies("mistakes")[1]["messages"])


scripted(
    "search",
    step(call("web_search", query="oaks", depth="deep"), call("read_docs", libraryTitle="zod", topic="unions")),
    step(Text(text="I have read it.")),
)
SEARCHES = agent("search", "web_search", "read_docs")
scenario("search", SEARCHES)
scripted("search-unconfigured", *SCRIPTS["search"].attempts)
scenario("search-unconfigured", agent("search-unconfigured", "web_search", "read_docs"))


def test_searches_find(world: World) -> None:
    told = world.of("search")
    assert told.tool_results("web_search") == [{"result": "found oaks"}]
    assert told.tool_results("read_docs") == [{"documentation": "docs of zod"}]
    asked = {path: (authorization, body) for path, authorization, body in world.service.asked}
    assert asked["/web"] == ("Bearer search-key", {"query": "oaks", "depth": "deep"})
    assert asked["/docs"][1]["topic"] == "unions"
    assert "found oaks" in json.dumps(world.bodies("search")[1]["messages"])


def test_searches_that_are_not_there_say_so_to_the_model(world: World) -> None:
    told = world.other.scenarios["search-unconfigured"]
    reason = "This search is not configured on this server."
    assert told.tool_results("web_search") == [{"errorMessage": reason}]
    (docs,) = told.tool_results("read_docs")
    assert docs["errorMessage"] == reason
    assert told.text.endswith("I have read it.")
    assert json.dumps(world.bodies("search-unconfigured")[1]["messages"]).count(reason) >= 2
    # And nobody asks again.
    searched = [call for call in world.other.calls if call["path"].endswith("-search")]
    assert len(searched) == 2


# A model of their server's own, known by a number, finds files.
scripted(
    "finder",
    step(call("find_files", prompt="Where is the greeting?"), usage=Usage(input=10, output=1)),
    step(Text(text="In greet.py."), usage=Usage(input=20, output=2)),
)
scripted("claude-haiku-4-5", step(Text(text="greet.py"), usage=Usage(input=1000, cache_read=400, output=7)))
scenario("finder", agent("finder", "find_files"))


def test_files_are_found_by_a_model_that_is_there(world: World) -> None:
    told = world.of("finder")
    ((file,),) = told.tool_results("find_files")
    assert file["content"] == PROJECT["greet.py"]
    assert world.bodies("claude-haiku-4-5")


# --- Agents.

scripted("turns", step(Text(text="The first answer.")), step(Text(text="The second answer.")))
scenario("turns", agent("turns"), ("The first question.", "The second question."))


def test_a_conversation_goes_on(world: World) -> None:
    first, second = world.of("turns").results
    assert "The second answer." in json.dumps(second["output"])
    assert first["runId"] != second["runId"]
    texts = json.dumps(world.bodies("turns")[1]["messages"])
    said = ["The first question.", "The first answer.", "The second question."]
    assert sorted(said, key=texts.index) == said


for builtin in builtin_agents():
    scripted(builtin, step(Text(text=f"I am {builtin}.")))
    scenario(builtin, "codebuff/ask@1.0.0" if builtin == "ask" else builtin)
scenario("nobody", "nobody")
scripted("costly", step(Text(text="That is dear.")))
scenario("costly", agent("costly-agent", model="some/model"), options={"costMode": "max"})


@pytest.mark.parametrize("name", builtin_agents())
def test_an_agent_that_is_there_for_everybody(world: World, name: str) -> None:
    told = world.of(name)
    run = world.run(told.result["runId"])
    assert (run["agent_id"], run["status"]) == (f"codebuff/{name}@1.0.0", "completed")
    if name == "context-pruner":
        # It asks no model, and has nothing to leave out of a conversation that is so short.
        assert told.output["message"] == "No response from agent"
    else:
        assert told.text == f"I am {name}."
    for body in world.bodies(name):
        assert "{CODEBUFF_" not in json.dumps(body["messages"])


def test_an_agent_knows_the_project(world: World) -> None:
    (body,) = world.bodies("base")
    system = body["messages"][0]["content"]
    assert "greet.py" in system
    assert "Speak of trees." in system
    assert {"write_file", "run_terminal_command", "spawn_agents"} <= {
        tool["function"]["name"] for tool in body["tools"]
    }


PRUNING = """function* () {
  yield 'STEP'
  yield {
    toolName: 'spawn_agent_inline',
    input: { agent_type: 'context-pruner', params: { maxCharacters: 1500 } },
    includeToolCall: false,
  }
  yield 'STEP'
}"""
scripted("pruned", *(step(Text(text=f"Answer {number}: {'so ' * 200}.")) for number in range(4)))
scenario(
    "pruned",
    agent("pruned", "spawn_agents", spawnableAgents=["context-pruner"], handleSteps=PRUNING),
    ("The first question.", "The second question."),
)


def test_what_is_too_long_is_left_out(world: World) -> None:
    told = world.of("pruned")
    assert [result["output"]["type"] for result in told.results] == ["lastMessage"] * 2, told.results
    bodies = [json.dumps(body["messages"]) for body in world.bodies("pruned")]
    assert len(bodies) == 4
    assert "Answer 1:" in bodies[2]
    assert not any(f"Answer {number}:" in bodies[3] for number in range(4))
    assert "Earlier messages were left out" in bodies[3]
    assert "The second question." in bodies[3]


def test_agents_are_fetched(world: World) -> None:
    fetched = {call["path"] for call in world.main.calls if call["status"] == 200 and "/agents/" in call["path"]}
    assert {"/api/v1/agents/codebuff/base/latest", "/api/v1/agents/codebuff/ask/1.0.0"} <= fetched


def test_an_agent_that_is_not_there(world: World) -> None:
    output = world.of("nobody").output
    assert output["type"] == "error"
    assert "Invalid agent ID" in output["message"]


def test_the_model_of_a_cost_mode(world: World) -> None:
    assert world.of("costly").text == "That is dear."
    assert [body["model"] for body in world.bodies("costly")] == ["costly"]


scripted(
    "parent",
    step(
        call(
            "spawn_agents",
            agents=[{"agent_type": "child", "prompt": "You do it."}, {"agent_type": "file-picker", "prompt": "greet"}],
        ),
        usage=Usage(input=100, output=11),
    ),
    step(Text(text="They have done it."), usage=Usage(input=200, output=12)),
)
scripted(
    "child",
    step(call("spawn_agents", agents=[{"agent_type": "grandchild", "prompt": "Rather you."}])),
    step(Text(text="My child did it."), usage=Usage(input=30, output=13)),
)
scripted("grandchild", step(Text(text="I did it."), usage=Usage(input=3, output=1)))
scenario(
    "parent",
    agent("parent", "spawn_agents", spawnableAgents=["child", "file-picker"]),
    agentDefinitions=[
        agent("child", "spawn_agents", spawnableAgents=["grandchild"]),
        agent("grandchild", model="paid/paid"),
    ],
)


def test_agents_start_agents(world: World) -> None:
    told = world.of("parent")
    assert told.text.endswith("They have done it.")
    assert "My child did it." in told.subagents
    ((child, picker),) = told.tool_results("spawn_agents")[-1:]
    assert "My child did it." in json.dumps(child)
    assert "errorMessage" not in json.dumps(picker)
    started = [event["agentType"] for event in told.of("subagent_start")]
    assert {name.rpartition("/")[2].partition("@")[0] for name in started} == {"child", "grandchild", "file-picker"}


def test_runs_of_agents_that_agents_started(world: World) -> None:
    run_id = world.of("parent").result["runId"]
    parent = world.run(run_id)
    assert (parent["agent_id"], parent["parent_run_id"], parent["status"]) == ("parent", None, "completed")
    children = {run["agent_id"]: run for run in map(world.run, parent["steps"][0]["child_run_ids"])}
    assert set(children) == {"child", "codebuff/file-picker@1.0.0"}
    assert {run["parent_run_id"] for run in children.values()} == {run_id}
    child = children["child"]
    (grandchild_id,) = child["steps"][0]["child_run_ids"]
    grandchild = world.run(grandchild_id)
    assert grandchild["ancestor_run_ids"] == [run_id, child["id"]]
    assert [step["number"] for step in parent["steps"]] == [1, 2]
    # What the provider says of its cost is for the agent that caused it, and those that started it.
    assert (grandchild["direct_credits"], grandchild["total_credits"]) == (2, 2)
    assert (child["direct_credits"], child["total_credits"]) == (0, 2)
    assert (parent["direct_credits"], parent["total_credits"]) == (0, 2)


def test_the_tokens_of_runs(world: World) -> None:
    run_id = world.of("parent").result["runId"]
    parent = world.run(run_id)
    steps = [(step["model"], step["input_tokens"], step["output_tokens"]) for step in parent["steps"]]
    assert steps == [("chat/parent", 100, 11), ("chat/parent", 200, 12)]
    assert (parent["input_tokens"], parent["output_tokens"]) == (300, 23)


def test_the_tokens_of_a_model_that_helps(world: World) -> None:
    run = world.run(world.of("finder").result["runId"])
    assert [(step["input_tokens"], step["output_tokens"]) for step in run["steps"]] == [(1010, 8), (20, 2)]


def test_runs_are_for_those_who_made_them(world: World) -> None:
    url = f"{world.cluster.url}/v1/codebuff/runs/{world.of('parent').result['runId']}"
    assert httpx.get(url, headers={"authorization": f"Bearer {ANOTHER_KEY}"}).status_code == 404


PROMPTED: Json = {"prompt": {"type": "string", "description": "What to do."}}
scripted("direct", step(call("helper", prompt="You do it.")), step(Text(text="The helper did it.")))
scripted("helper", step(Text(text="I did it.")))
scenario(
    "direct",
    agent("direct", "spawn_agents", spawnableAgents=["helper"]),
    agentDefinitions=[agent("helper", inputSchema=PROMPTED)],
)


def test_an_agent_is_a_tool_too(world: World) -> None:
    told = world.of("direct")
    assert told.subagents == "I did it."
    assert told.text.endswith("The helper did it.")
    assert "You do it." in json.dumps(world.bodies("helper")[0]["messages"])


ANSWER: Json = {"type": "object", "properties": {"answer": {"type": "number"}}, "required": ["answer"]}
SHAPED: Json = {"outputMode": "structured_output", "outputSchema": ANSWER}
scripted("shaped", step(Text(text="42, I think.")), step(call("set_output", answer=42)), step(Text(text="There.")))
scenario("shaped", agent("shaped", "set_output", **SHAPED))


def test_an_output_of_a_shape_is_asked_for_until_it_is_there(world: World) -> None:
    assert world.of("shaped").output == {"type": "structuredOutput", "value": {"answer": 42}}


THINKER = agent("thinker-anthropic", "read_files", model="anthropic/claude-sonnet-4.5")
scripted(
    "thinker-anthropic",
    step(Thinking(text="Hm."), Text(text="I read."), call("read_files", paths=["greet.py"])),
    step(Text(text="I thought about it.")),
)
scenario("thinker-anthropic", {**THINKER, "reasoningOptions": {"max_tokens": 2048}})
scripted("thinker-chat", step(Text(text="I thought about it.")))
scenario("thinker-chat", agent("thinker-chat", reasoningOptions={"effort": "high"}))


def test_an_agent_that_is_to_think(world: World) -> None:
    (body,) = world.bodies("thinker-chat")
    assert body["reasoning"] == {"effort": "high"} or body["reasoning_effort"] == "high"
    told = world.of("thinker-anthropic")
    assert told.reasoning.strip() == "Hm."
    first, second = world.bodies("thinker-anthropic")
    assert first["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert "ephemeral" in json.dumps(first["messages"])
    assert "return 'hello'" in json.dumps(second["messages"])


WRITTEN = '<codebuff_tool_call>\n{"cb_tool_name": "read_files", "paths": ["greet.py"]}\n</codebuff_tool_call>'
scripted("written-calls", step(Text(text=f"I look. {WRITTEN}"), delta_size=5), step(Text(text="I have looked.")))
scenario("written-calls", agent("written-calls", "read_files"))


def test_calls_that_a_model_writes_as_text(world: World) -> None:
    told = world.of("written-calls")
    assert told.text.split() == ["I", "look.", "I", "have", "looked."]
    ((file,),) = told.tool_results("read_files")
    assert file["content"] == PROJECT["greet.py"]


PROGRAM = """function* ({ prompt, params }) {
  const { toolResult } = yield { toolName: 'read_files', input: { paths: ['greet.py'] } }
  yield 'STEP'
  const { nResponses } = yield { type: 'GENERATE_N', n: 3 }
  yield {
    toolName: 'set_output',
    input: { read: JSON.stringify(toolResult), answers: nResponses, prompt, depth: params.depth },
  }
}"""
scripted("program", step(Text(text="One step.")), step(Text(text="An answer.")))
scenario(
    "program",
    agent("program", "read_files", "set_output", outputMode="structured_output", handleSteps=PROGRAM),
    options={"params": {"depth": 7}},
)


def test_an_agent_that_is_a_program(world: World) -> None:
    value = world.of("program").output["value"]
    assert "return 'hello'" in value["read"]
    assert value["answers"] == ["An answer."] * 3
    assert (value["prompt"], value["depth"]) == ("Please begin.", 7)
    assert len(world.bodies("program")) == 4


scripted("endless", step(Text(text="Again."), call("run_terminal_command", command="echo again >> log")))
scenario("endless", agent("endless", "run_terminal_command"), options={"maxAgentSteps": 2})


def test_steps_are_limited(world: World) -> None:
    told = world.of("endless")
    assert len(world.bodies("endless")) == 2
    assert (world.projects / "endless" / "log").read_text() == "again\nagain\n"
    assert "quite a few responses in a row" in told.text
    assert world.run(told.result["runId"])["status"] == "completed"


# --- Faults.

scenario("bad-key", agent("bad-key"), apiKey="pb-wrong")


def test_a_key_that_nobody_knows(world: World) -> None:
    (thrown,) = world.of("bad-key").thrown
    assert thrown == {"message": "Authentication failed", "statusCode": 401}


scenario("bad-model", agent("bad-model", model="chat/standin-nothing"))
MODEL_ERRORS = {
    "no-money": (402, "Add some money."),
    "bad-request": (400, "That is no request."),
    "busy": (429, "Far too many."),
}
for name, (status, message) in MODEL_ERRORS.items():
    retry_after = 0.1 if status == 429 else None
    scripted(name, Script(error=ErrorReply(status=status, message=message, retry_after=retry_after)))
    scenario(name, agent(name))
scripted("busy-once", Script(error=ErrorReply(status=429, retry_after=1.0)), step(Text(text="Now I can.")))
scenario("busy-once", agent("busy-once"))


def test_a_model_that_nobody_has(world: World) -> None:
    output = world.of("bad-model").output
    assert (output["type"], output["statusCode"]) == ("error", 404)
    assert "standin-nothing" in output["message"]


@pytest.mark.parametrize("name", MODEL_ERRORS)
def test_what_an_upstream_refuses(world: World, name: str) -> None:
    status, message = MODEL_ERRORS[name]
    told = world.of(name)
    output = told.output
    assert output["type"] == "error"
    assert message in output["message"]
    tries = [request.status for request in world.requests if request.model == name]
    if status == 429:
        assert "Failed after 4 attempts" in output["message"]
        assert len(tries) >= 4
    else:
        assert (output["statusCode"], tries) == (status, [status])
    if status != 402:
        # The client does not keep the run of one that was not paid for.
        assert world.run(told.result["runId"])["status"] == "failed"


def test_the_client_tries_again_when_an_upstream_is_busy(world: World) -> None:
    assert world.of("busy-once").text == "Now I can."


SILENT = (Text(text="I begin, and then nothing comes."),)
ABORTS = ("abort-elsewhere", *(f"abort-{backend}" for backend in BACKENDS))
scripted(
    "boss", step(Text(text="You go on."), call("spawn_agents", agents=[{"agent_type": "silent", "prompt": "Go."}]))
)
scripted("silent", step(*SILENT, silence_after=1))
scenario(
    "boss", agent("boss", "spawn_agents", spawnableAgents=["silent"]), agentDefinitions=[agent("silent")], abortOn="I"
)
for name in ABORTS:
    # The client looks for its user's wish only when something comes, and here nothing does.
    scripted(name, step(*SILENT, silence_after=1))
    scenario(name, agent(name), abortOn="I")
scripted("old-node", step(Text(text="It is old.")))
scenario("old-node", agent("old-node"))


def wait_aborted(world: World, model: str) -> None:
    """Until the generation is given up, long before other clients' streams get a ping."""

    def found() -> RecordedRequest:
        (request,) = (request for request in world.upstream.requests() if request.model == model)
        return request

    wait_until(lambda: found().outcome == "aborted", what="the end of the generation", seconds=5)
    request = found()
    assert request.ended is not None
    assert request.ended - request.started < 30


@pytest.mark.parametrize("name", ABORTS)
def test_an_abort_ends_what_is_generated(world: World, name: str) -> None:
    ran = world.other if name in OTHER_EDGE else world.main
    told = ran.scenarios[name]
    assert "cancelled" in told.output["message"].lower()
    assert world.run(told.result["runId"])["status"] == "cancelled"
    wait_aborted(world, name)


def test_an_abort_ends_what_sub_agents_generate(world: World) -> None:
    told = world.of("boss")
    assert "cancelled" in told.output["message"].lower()
    assert world.run(told.result["runId"])["status"] == "cancelled"
    wait_aborted(world, "silent")


def test_an_older_node(world: World) -> None:
    assert world.other.scenarios["old-node"].text == "It is old."


# --- Every kind of backend.

for backend in BACKENDS:
    scripted(
        f"core-{backend}",
        step(Text(text="I write."), call("write_file", path="new.txt", instructions="New.", content="new\n")),
        step(call("run_terminal_command", command="cat new.txt greet.py > both.txt; echo done")),
        step(Text(text="It is written.")),
        step(Text(text="It was nothing.")),
    )
    scenario(
        f"core-{backend}",
        agent(f"core-{backend}", *TOOLS, "web_search", "read_docs", "look_up", model="some/model"),
        ("Write it.", "Thank you."),
    )
    scripted(f"shaped-{backend}", step(call("set_output", answer=4.5)), step(Text(text="There.")))
    scenario(f"shaped-{backend}", agent(f"shaped-{backend}", "set_output", model="some/model", **SHAPED))
    scripted(
        f"breaks-{backend}", step(Text(text=WORDS), error_event=ErrorEvent(after=4, status=500, message="It broke."))
    )
    scenario(f"breaks-{backend}", agent(f"breaks-{backend}", model=f"{backend}/breaks-{backend}"))
ALL = pytest.mark.parametrize("backend", BACKENDS)


@ALL
def test_text_and_tools_with_every_backend(world: World, backend: str) -> None:
    told = world.of(f"core-{backend}")
    assert not told.thrown
    written, thanked = told.results
    project = world.projects / f"core-{backend}"
    assert (project / "both.txt").read_text() == "new\n" + PROJECT["greet.py"]
    assert "It is written." in json.dumps(written["output"]), told.events
    assert "It was nothing." in json.dumps(thanked["output"])
    assert told.text.replace("\n", "") == "I write.It is written.It was nothing."
    (ran,) = told.tool_results("run_terminal_command")
    assert ran["stdout"] == "done\n"
    run = world.run(written["runId"])
    assert [step["number"] for step in run["steps"]] == [1, 2, 3]
    assert all(step["input_tokens"] and step["output_tokens"] for step in run["steps"])
    last = json.dumps(world.bodies(f"core-{backend}")[-1])
    assert all(piece in last for piece in ("Write it.", "It is written.", "Thank you."))


@ALL
def test_an_output_of_a_shape_with_every_backend(world: World, backend: str) -> None:
    assert world.of(f"shaped-{backend}").output == {"type": "structuredOutput", "value": {"answer": 4.5}}


@ALL
def test_an_answer_that_breaks_with_every_backend(world: World, backend: str) -> None:
    told = world.of(f"breaks-{backend}")
    assert told.text
    assert WORDS.startswith(told.text)
    assert told.output["type"] == "error"
    assert "It broke." in told.output["message"]
    assert world.run(told.result["runId"])["status"] == "failed"
