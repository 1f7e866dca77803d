"""Agents with `handleSteps`, as a client of Codebuff's protocol sees them: real edge, worker, models and programs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest
from conftest import backends_on
from websockets.asyncio.client import ClientConnection, connect

from patchbay.testing.cluster import Cluster
from patchbay.testing.eventually import eventually
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin import Script, ToolCall
from patchbay_standin.testing import StandinProcess

Json = dict[str, Any]

PROGRAM = """function* ({ agentState, prompt, params, logger }) {
  logger.info({ prompt, params, history: agentState.messageHistory.length }, "begun")
  const { toolResult: files } = yield { toolName: "read_files", input: { paths: ["a.txt"] } }
  const read = files[0].value[0].content
  yield { type: "STEP_TEXT", text: `I have read: ${read}` }
  const one = yield "STEP"
  const { nResponses } = yield { type: "GENERATE_N", n: 2 }
  console.warn("drafts", nResponses.length)
  const all = yield "STEP_ALL"
  const said = all.agentState.messageHistory.map(({ role }) => role).join(" ")
  yield { toolName: "set_output", input: { read, nResponses, ended: [one.stepsComplete, all.stepsComplete], said } }
}"""
FOR_EVER = "function* () { console.log('now'); yield 'STEP'; Array(4e9).join('x') }"


@dataclass
class Socket:
    """A client's socket; it answers what it is asked, and keeps what it is told."""

    connection: ClientConnection
    actions: list[Json] = field(default_factory=list)

    async def prompt(self, model: str, handle_steps: str) -> None:
        agent = {
            "id": "programmed",
            "displayName": "Programmed",
            "model": model,
            "toolNames": ["read_files", "run_terminal_command", "set_output"],
            "outputMode": "structured_output",
            "handleSteps": handle_steps,
        }
        context = {
            "projectRoot": "/p",
            "cwd": "/p",
            "fileTree": [],
            "fileTokenScores": {},
            "knowledgeFiles": {},
            "agentTemplates": {"programmed": agent},
            "customToolDefinitions": {},
            "gitChanges": {"status": "", "diff": "", "diffCached": "", "lastCommitMessages": ""},
            "changesSinceLastChat": {},
            "shellConfigFiles": {},
            "systemInfo": {
                "platform": "linux",
                "shell": "bash",
                "nodeVersion": "20",
                "arch": "x64",
                "homedir": "/",
                "cpus": 2,
            },
        }
        state = {
            "agentId": "main-agent",
            "agentType": None,
            "agentContext": {},
            "subagents": [],
            "messageHistory": [],
            "stepsRemaining": 25,
        }
        await self.act(
            "prompt",
            promptId="p1",
            prompt="Do it",
            promptParams={"n": 1},
            fingerprintId="f",
            costMode="normal",
            authToken="made-up",
            toolResults=[],
            agentId="programmed",
            sessionState={"mainAgentState": state, "fileContext": context},
        )

    async def act(self, kind: str, **data: Any) -> None:
        await self.connection.send(json.dumps({"type": "action", "txid": 0, "data": {"type": kind, **data}}))

    async def until(self, kind: str) -> Json:
        """Reads up to and with the first action of this type."""
        async with asyncio.timeout(20):
            while True:
                message = json.loads(await self.connection.recv())
                if message["type"] != "action":
                    continue
                action: Json = message["data"]
                self.actions.append(action)
                match action["type"]:
                    case "read-files":
                        files = dict.fromkeys(action["filePaths"], "one")
                        await self.act("read-files-response", requestId=action["requestId"], files=files)
                    case "tool-call-request":
                        output = [{"type": "json", "value": {"stdout": "two"}}]
                        await self.act("tool-call-response", requestId=action["requestId"], output=output)
                if action["type"] == kind:
                    return action

    def of(self, kind: str) -> list[Json]:
        return [action for action in self.actions if action["type"] == kind]


@pytest.fixture(scope="module")
def programs(shared_valkey: ValkeyProcess, standin: StandinProcess) -> Iterator[Cluster]:
    config = {
        "backends": {"openai": backends_on(standin.url)["openai"]},
        "redis": {"timeout_seconds": 5},
        # A program that computes for ever is not stopped within the test.
        "codebuff": {"steps": {"seconds": 60}},
    }
    own = shared_valkey.url.removesuffix("0") + "7"  # apart from the workers of the other clusters
    with Cluster(config, redis_url=own, kinds=("openai-worker", "codebuff-ws")) as running:
        yield running


@pytest.fixture
def new_socket(programs: Cluster) -> Callable[[], Any]:
    @asynccontextmanager
    async def open_socket() -> AsyncIterator[Socket]:
        async with connect(programs.url.replace("http", "ws") + "/ws", proxy=None) as connection:
            yield Socket(connection)

    return open_socket


def children(cluster: Cluster) -> list[psutil.Process]:
    """The processes of programs that the worker has."""
    [worker] = cluster.workers["codebuff-ws"]
    return psutil.Process(worker.pid).children()


async def test_a_program_runs_tools_steps_and_models(
    new_socket: Callable[[], Any], programs: Cluster, upstream: StandinProcess
) -> None:
    model = upstream.script(
        "programmed",
        Script(
            attempts=[
                Script(text="One step."),
                Script(text="A draft."),
                Script(text="A draft."),
                Script(blocks=[ToolCall(name="run_terminal_command", input={"command": "ls"})]),
                Script(text="All done."),
            ]
        ),
    )
    async with new_socket() as socket:
        await socket.prompt(f"openai/{model}", PROGRAM)
        end = await socket.until("prompt-response")
        assert end["output"] == {
            "type": "structuredOutput",
            "value": {
                "read": "one\n",
                "nResponses": ["A draft.", "A draft."],
                "ended": [True, True],
                "said": "user assistant tool assistant assistant assistant tool assistant",
            },
        }
        assert [(log["level"], log["data"], log.get("message")) for log in socket.of("handlesteps-log-chunk")] == [
            ("info", {"prompt": "Do it", "params": {"n": 1}, "history": 1}, "begun"),
            ("warn", ["drafts", 2], None),
        ]
        [request] = socket.of("tool-call-request")
        assert request["input"]["command"] == "ls"
        chunks = [action["chunk"] for action in socket.of("response-chunk")]
        calls = [chunk["toolName"] for chunk in chunks if isinstance(chunk, dict) and chunk["type"] == "tool_call"]
        assert calls == ["read_files", "run_terminal_command", "set_output"]
        said = "".join(chunk for chunk in chunks if isinstance(chunk, str))
        assert said == "I have read: one\nOne step.All done."
    assert len(upstream.requests()) == 5
    await eventually(lambda: not children(programs))


async def test_a_program_ends_with_its_prompt_and_its_socket(
    new_socket: Callable[[], Any], programs: Cluster, upstream: StandinProcess
) -> None:
    async with new_socket() as stays, new_socket() as goes:
        for socket in (stays, goes):
            await socket.prompt("openai/standin-echo", FOR_EVER)
        for socket in (stays, goes):
            await socket.until("handlesteps-log-chunk")
        await eventually(lambda: len(children(programs)) == 2)
        await goes.connection.close()
        await eventually(lambda: len(children(programs)) == 1)
        await stays.act("cancel-user-input", authToken="made-up", promptId="p1")
        await stays.until("prompt-response")
        await eventually(lambda: not children(programs))
