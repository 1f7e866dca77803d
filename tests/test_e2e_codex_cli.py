"""The real Codex CLI: over HTTP and over a WebSocket, with each kind of backend behind Patchbay."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from codex_cli import Codex, Outcome
from wire_tap import WireTap

from patchbay.testing.cluster import Cluster
from patchbay.testing.eventually import wait_until
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin import Account, Script, Text, Thinking, ToolCall, Usage
from patchbay_standin.testing import StandinProcess

Json = dict[str, Any]
NewCodex = Callable[..., Codex]

# A model that Codex takes for one of those that only run code.
LITE = "gpt-6.1-sol"
BACKENDS = ("chatgpt", "anthropic", "chat")
# Beside them, Chat Completions with tools that take free text.
OPENAI = "openai"
PATHS = {
    "chatgpt": "/backend-api/codex/responses",
    "anthropic": "/v1/messages",
    "chat": "/v1/chat/completions",
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[StandinProcess]:
    with StandinProcess() as process:
        yield process


@pytest.fixture(scope="module")
def cluster(upstream: StandinProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    upstream.account("work", Account())
    home = tmp_path_factory.mktemp("codex-home")
    (home / "auth.json").write_text(json.dumps(upstream.sign_in("work").auth_json()))
    config = {
        "backends": {
            "default_backend": "anthropic",
            "chatgpt": {
                "kind": "codex",
                "credentials": "signed_in",
                "base_url": f"{upstream.url}/backend-api",
                "oauth_issuer": upstream.url,
                "codex_home": str(home),
            },
            "anthropic": {"base_url": upstream.url, "api_key": "sk-ant-made-up"},
            OPENAI: {"kind": "openai", "base_url": f"{upstream.url}/v1", "api_key": "sk-made-up"},
            "chat": {"kind": "openai-compatible", "base_url": f"{upstream.url}/v1", "api_key": "sk-made-up"},
        },
        "routes": [
            {"match": [LITE], "prefix": f"/on-{name}", "backend": name, "model": "lite-standin"}
            for name in (*BACKENDS, OPENAI)
        ],
    }
    with (
        ValkeyProcess() as valkey,
        Cluster(config, redis_url=valkey.url, kinds=("codex-worker", "openai-worker", "claude-worker")) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def tap(cluster: Cluster) -> Iterator[WireTap]:
    with WireTap(cluster.url) as running:
        yield running


@pytest.fixture
def new_codex(tap: WireTap, upstream: StandinProcess, tmp_path: Path) -> Iterator[NewCodex]:
    """Makes installations; after the test, that each of them asked in the way it was told to.

    Codex goes over to HTTP without a word when a WebSocket does not work.
    """
    upstream.reset()
    tap.reset()
    made = []

    def make(path: str = "/codex", **options: Any) -> Codex:
        home = tmp_path / f"home{len(list(tmp_path.iterdir()))}"
        home.mkdir()
        made.append(Codex(home, tap.url + path, **options))
        return made[-1]

    yield make
    (websocket,) = {codex.websocket for codex in made}
    heads = [(exchange.request.start.split(), exchange.answer.start.split()) for exchange in tap.exchanges()]
    asked = [(line[0], answer[1]) for line, answer in heads if line[1].endswith(b"/responses")]
    assert set(asked) == {(b"GET", b"101") if websocket else (b"POST", b"200")}


def frames(tap: WireTap) -> list[Json]:
    """What was asked for over WebSockets, other than warm-ups."""
    texts = [json.loads(text) for exchange in tap.exchanges() for text in exchange.frames()]
    return [frame for frame in texts if frame.get("generate") is not False]


def done(outcome: Outcome) -> Outcome:
    assert outcome.returncode == 0, (outcome.errors, outcome.stderr)
    return outcome


WAYS = pytest.mark.parametrize("websocket", [False, True], ids=["http", "websocket"])
ALL = pytest.mark.parametrize("backend", BACKENDS)


@ALL
@WAYS
def test_a_text(new_codex: NewCodex, upstream: StandinProcess, backend: str, websocket: bool) -> None:
    model = upstream.script("text-standin", Script(blocks=[Thinking(text="Hm."), Text(text="Hello there.")]))
    outcome = done(new_codex(websocket=websocket).ask(f"{backend}/{model}", "Say hello."))
    assert outcome.texts() == ["Hello there."]
    assert outcome.usage["input_tokens"] > 0
    (request,) = upstream.requests()
    assert (request.path, request.status) == (PATHS[backend], 200)
    assert "Say hello." in json.dumps(request.body)


@ALL
@WAYS
def test_a_command_is_run_and_its_output_seen(
    new_codex: NewCodex, tap: WireTap, upstream: StandinProcess, backend: str, websocket: bool
) -> None:
    command = {"cmd": "printf 'patch\"bay' | tee proof.txt"}
    call = Script(blocks=[Text(text="I will look."), ToolCall(name="exec_command", input=command, id="call_1")])
    model = upstream.script("call-standin", Script(attempts=[call, Script(text="It is there.")]))
    codex = new_codex(websocket=websocket)
    outcome = done(codex.ask(f"{backend}/{model}", "Write the file."))
    assert outcome.texts() == ["I will look.", "It is there."]
    assert (codex.workspace / "proof.txt").read_text() == 'patch"bay'
    first, second = upstream.requests()
    assert (first.status, second.status) == (200, 200)
    assert json.dumps('patch"bay')[1:-1] in json.dumps(second.body)
    # The second request goes on with the first one's very words: the provider's cache knows them.
    said = "messages" if "messages" in first.body else "input"
    before, after = (json.dumps(request.body[said])[1:-1] for request in (first, second))
    assert after.startswith(before)
    if websocket:
        # Codex itself sends only what is new.
        _, gone_on = frames(tap)
        assert gone_on["previous_response_id"]
        assert "Write the file." in json.dumps(first.body)
        assert "Write the file." not in json.dumps(gone_on["input"])
        assert len(gone_on["input"]) < len(second.body[said])


def test_a_turn_over_a_websocket_goes_on_when_the_edge_is_another_one(
    new_codex: NewCodex, tap: WireTap, cluster: Cluster, upstream: StandinProcess
) -> None:
    """The new edge knows nothing of what was said in the old one's connection."""
    waits = "touch begun; while [ ! -e restarted ]; do sleep 0.1; done; echo restarted > proof.txt; cat proof.txt"
    call = ToolCall(name="exec_command", input={"cmd": waits, "yield_time_ms": 30_000}, id="call_1")
    model = upstream.script("restart-standin", Script(attempts=[Script(blocks=[call]), Script(text="It is there.")]))
    codex = new_codex(websocket=True)
    (edge,) = cluster.edges
    with ThreadPoolExecutor(1) as beside:
        outcome = beside.submit(codex.ask, f"chatgpt/{model}", "Write the file.")
        try:
            wait_until((codex.workspace / "begun").exists, what="the command", seconds=20)
            edge.kill()
            edge.start()
            cluster.wait_ready()
        finally:
            codex.workspace.mkdir(exist_ok=True, parents=True)
            (codex.workspace / "restarted").touch()
    assert done(outcome.result()).texts() == ["It is there."]
    # Over another WebSocket, with all that was said.
    assert len([exchange for exchange in tap.exchanges() if exchange.frames()]) == 2
    said = json.dumps(upstream.requests()[-1].body)
    assert said.index("Write the file.") < said.index("touch begun") < said.index("call_1", said.index("touch begun"))


@pytest.mark.parametrize("backend", ["chatgpt", "anthropic"])
def test_calls_in_parallel(new_codex: NewCodex, upstream: StandinProcess, backend: str) -> None:
    calls = [
        ToolCall(name="exec_command", input={"cmd": f"echo {name} > {name}.txt"}, id=f"call_{name}") for name in "ab"
    ]
    model = upstream.script("calls-standin", Script(attempts=[Script(blocks=[*calls]), Script(text="Both.")]))
    codex = new_codex()
    assert done(codex.ask(f"{backend}/{model}", "Write both.")).texts() == ["Both."]
    assert [(codex.workspace / f"{name}.txt").read_text() for name in "ab"] == ["a\n", "b\n"]


@ALL
@WAYS
def test_a_conversation_is_resumed(
    new_codex: NewCodex, upstream: StandinProcess, backend: str, websocket: bool
) -> None:
    codex = new_codex(websocket=websocket)
    model = upstream.script(
        "first-standin", Script(blocks=[Thinking(text="A secret number."), Text(text="I have it.")])
    )
    thread = done(codex.ask(f"{backend}/{model}", "Think of a number.")).thread
    model = upstream.script("second-standin", Script(text="Seven."))
    assert done(codex.go_on(f"{backend}/{model}", "Which one?", thread)).texts() == ["Seven."]
    said = json.dumps(upstream.requests()[-1].body)
    assert said.index("Think of a number.") < said.index("I have it.") < said.index("Which one?")


@pytest.mark.parametrize("backend", [*BACKENDS, OPENAI])
@WAYS
def test_a_model_that_only_runs_code(
    new_codex: NewCodex, upstream: StandinProcess, backend: str, websocket: bool
) -> None:
    code = "const done = await tools.exec_command({cmd: 'echo lite > lite.txt && cat lite.txt'});\ntext(done.output);"
    # What has no namespaces of tools knows it by both names; what has no tools with free text gets the text in JSON.
    call = ToolCall(name="functions__exec", input={"input": code}, id="call_1")
    if backend == "chatgpt":
        call = ToolCall(name="exec", namespace="functions", text=code, id="call_1")
    elif backend == OPENAI:
        call = ToolCall(name="functions__exec", text=code, id="call_1")
    upstream.script("lite-standin", Script(attempts=[Script(blocks=[call]), Script(text="Done.")]))
    codex = new_codex(f"/on-{backend}/v1", websocket=websocket)
    outcome = done(codex.ask(LITE, "Write the file."))
    assert outcome.texts() == ["Done."]
    assert (codex.workspace / "lite.txt").read_text() == "lite\n"
    second = upstream.requests()[-1]
    assert second.status == 200
    assert "lite\\n" in json.dumps(second.body)


@ALL
def test_a_long_conversation_is_summed_up_by_the_client(
    new_codex: NewCodex, upstream: StandinProcess, backend: str
) -> None:
    codex = new_codex(settings={"model_auto_compact_token_limit": 20_000})
    last = gone_on_after_compaction(codex, upstream, backend)
    assert "In short: a story was told." in last
    assert "A long story." not in last


@ALL
@WAYS
def test_a_long_conversation_is_compacted(
    new_codex: NewCodex, upstream: StandinProcess, backend: str, websocket: bool
) -> None:
    codex = new_codex(name="OpenAI", websocket=websocket, settings={"model_auto_compact_token_limit": 20_000})
    last = gone_on_after_compaction(codex, upstream, backend)
    assert '"type": "compaction"' in last if backend == "chatgpt" else "In short: a story was told." in last
    assert "A long story." not in last


def gone_on_after_compaction(codex: Codex, upstream: StandinProcess, backend: str) -> str:
    """The last request of a conversation that has grown too long in between."""
    long = Usage(input=50_000, output=10)
    model = upstream.script("long-standin", Script(text="A long story.", usage=long))
    thread = done(codex.ask(f"{backend}/{model}", "Tell me a story.")).thread
    summary = [Script(text="In short: a story was told."), Script(text="And on it goes.")]
    model = upstream.script("short-standin", Script(attempts=summary))
    assert done(codex.go_on(f"{backend}/{model}", "Go on.", thread)).texts()[-1] == "And on it goes."
    return json.dumps(upstream.requests()[-1].body)


@ALL
def test_structured_output(new_codex: NewCodex, upstream: StandinProcess, tmp_path: Path, backend: str) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    model = upstream.script("json-standin", Script(text='{"a":"b"}'))
    codex = new_codex()
    flags = ("--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
    outcome = done(codex.run(f"{backend}/{model}", *flags, "--output-schema", str(path), "Say it."))
    assert outcome.texts() == ['{"a":"b"}']
    assert '"additionalProperties": false' in json.dumps(upstream.requests()[-1].body)
