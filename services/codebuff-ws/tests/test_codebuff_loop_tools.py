from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from loop_fakes import Call, Definition, FakeClient, FakeModels, Json, World, history_of, session
from pydantic import SecretStr

from patchbay.settings.codebuff import Codebuff, CodebuffSearch
from patchbay.testing.eventually import eventually
from patchbay_codebuff_ws.loop.schemas import problems_of
from patchbay_codebuff_ws.loop.shortcuts import shell_command, special_prompt
from patchbay_codebuff_ws.loop.tools import BUILT_IN, custom_tool
from patchbay_codebuff_ws.ports import JsonObject, Part


async def called(
    *calls: Call, client: FakeClient | None = None, settings: Codebuff | None = None, **context: Any
) -> tuple[World, list[Any]]:
    """What tools give that a model calls in one step."""
    agent = Definition(id="base", tool_names=[*BUILT_IN, *context.get("customToolDefinitions", {})])
    world = World(FakeModels([*calls], ["Done"]), client or FakeClient(), [agent], settings or Codebuff())
    await world.run(state=session(**context))
    return world, world.client.results()


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(BUILT_IN[name].schema)
    assert BUILT_IN[name].description


@pytest.mark.parametrize(
    ("name", "given", "wire", "seconds"),
    [
        (
            "run_terminal_command",
            {"command": "ls", "extra": 1},
            {"command": "ls", "mode": "assistant", "process_type": "SYNC", "timeout_seconds": 30.0},
            30.0,
        ),
        (
            "run_terminal_command",
            {"command": "ls", "process_type": "BACKGROUND", "cwd": "a", "timeout_seconds": -1},
            {"command": "ls", "mode": "assistant", "process_type": "BACKGROUND", "cwd": "a", "timeout_seconds": -1},
            None,
        ),
        (
            "run_terminal_command",
            {"command": "ls", "timeout_seconds": 2**31 / 1000},
            {"command": "ls", "mode": "assistant", "process_type": "SYNC", "timeout_seconds": -1},
            None,
        ),
        ("code_search", {"pattern": "a.b"}, {"pattern": "a.b", "maxResults": 30}, 30.0),
        (
            "code_search",
            {"pattern": "a", "flags": "-i", "cwd": "b", "maxResults": 2},
            {"pattern": "a", "flags": "-i", "cwd": "b", "maxResults": 2},
            30.0,
        ),
        # JavaScript has no such number, and the client dies of one.
        ("code_search", {"pattern": "a", "maxResults": 10**17}, {"pattern": "a", "maxResults": 10_000}, 30.0),
        ("run_file_change_hooks", {"files": ["a"]}, {"files": ["a"]}, 30.0),
        ("browser_logs", {"type": "navigate", "url": "u"}, {"type": "navigate", "url": "u"}, 30.0),
        (
            "create_plan",
            {"path": "/p/plan.md", "plan": "# A"},
            {"type": "file", "path": "plan.md", "content": "# A\n"},
            30.0,
        ),
        (
            "write_file",
            {"path": "a.py", "instructions": "Add it.", "content": "a = 1\n"},
            {"type": "file", "path": "a.py", "content": "a = 1\n"},
            30.0,
        ),
    ],
)
async def test_the_client_gets_what_its_wire_has(name: str, given: Json, wire: Json, seconds: float | None) -> None:
    world, _ = await called(Call(name, given))
    [(_, sent, input_id, timeout)] = world.client.tool_requests
    assert (sent, input_id, timeout) == (wire, "p1", seconds)
    # The model's own words are what is shown.
    assert world.client.events("tool_call")[0]["input"] == given


async def test_null_is_taken_for_what_is_left_out() -> None:
    world, _ = await called(
        Call("code_search", {"pattern": "a", "cwd": None, "flags": None}),
        Call("mine", {"a": None, "b": None}),
        Call("code_search", {"pattern": None}),
        customToolDefinitions={"mine": {"inputJsonSchema": {"properties": {"a": {"type": ["string", "null"]}}}}},
    )
    sent = [wire for _, wire, _, _ in world.client.tool_requests]
    # One that may be null stays as it is.
    assert sent == [{"pattern": "a", "maxResults": 30}, {"a": None, "b": None}]


@pytest.mark.parametrize("required", [7, None, "a", {"a": 1}, [{"b": 2}]])
async def test_null_for_a_tool_whose_schema_makes_no_sense(required: Any) -> None:
    schema = {"properties": {"a": {"type": "string"}}, "required": required}
    world, _ = await called(Call("mine", {"a": None}), customToolDefinitions={"mine": {"inputJsonSchema": schema}})
    assert [wire for _, wire, _, _ in world.client.tool_requests] == [{"a": None}]


async def test_a_list_of_what_is_wanted_may_be_empty() -> None:
    spawning = (Call(name, {"agents": []}) for name in ("spawn_agents", "spawn_agents_async"))
    world, results = await called(Call("read_files", {"paths": []}), *spawning)
    assert results == [[], [], []]
    assert world.client.text == "Done"


async def test_edits_of_a_step_build_on_each_other() -> None:
    client = FakeClient({"a.py": "a = 1\r\nb = 2\r\n"})

    def edit(old: str, new: str) -> Call:
        return Call("str_replace", {"path": "a.py", "replacements": [{"old": old, "new": new}]})

    world, results = await called(edit("a = 1", "a = 3"), edit("a = 3\nb = 2", "c = 4"), client=client)
    assert client.files["a.py"] == "c = 4\r\n"
    assert client.reads == [["a.py"]]
    assert [name for name, *_ in client.tool_requests] == ["str_replace", "str_replace"]
    assert results[0] == {
        "file": "a.py",
        "message": "Updated file",
        "unifiedDiff": "@@ -1,2 +1,2 @@\n-a = 1\n+a = 3\n b = 2",
    }
    assert world.client.text == "Done"


async def test_a_plan_may_show_a_part_of_a_file() -> None:
    plan = "# Plan\n\n```js\n// ... existing code ...\nadded()\n```\n"
    world, [result] = await called(Call("create_plan", {"path": "plan.md", "plan": plan}))
    assert result["message"] == "Created new file"
    assert world.client.files["plan.md"] == plan


async def test_an_edit_goes_by_the_name_of_the_tool_that_was_called() -> None:
    """A client's own tool in place of one of these is called for that one alone."""
    client = FakeClient({"a.md": "a\n"})
    calls = (
        Call("write_file", {"path": "a.md", "instructions": "", "content": "b\n"}),
        Call("str_replace", {"path": "a.md", "replacements": [{"old": "b", "new": "c"}]}),
        Call("create_plan", {"path": "a.md", "plan": "d\n"}),
    )
    world, _ = await called(*calls, client=client)
    assert [name for name, *_ in world.client.tool_requests] == ["write_file", "str_replace", "write_file"]


async def test_an_edit_that_the_client_refuses_is_not_built_on() -> None:
    client = FakeClient({"a.py": "a\n"})
    client.tools["str_replace"] = lambda _: [{"type": "json", "value": {"file": "a.py", "errorMessage": "read only"}}]
    edit = Call("str_replace", {"path": "a.py", "replacements": [{"old": "a", "new": "b"}]})
    _, results = await called(edit, edit, client=client)
    assert [result["errorMessage"] for result in results] == ["read only"] * 2
    assert client.reads[:2] == [["a.py"], ["a.py"]]


async def test_a_part_that_was_not_replaced_is_told() -> None:
    client = FakeClient({"a.py": "a\n"})
    replacements = [{"old": "a", "new": "b"}, {"old": "zzz", "new": "c"}]
    _, [result] = await called(Call("str_replace", {"path": "a.py", "replacements": replacements}), client=client)
    assert client.files["a.py"] == "b\n"
    assert '"zzz" was not found' in result["message"]


@pytest.mark.parametrize(
    "call",
    [Call("run_terminal_command", {"command": "x"}), Call("run_file_change_hooks", {"files": ["a.py"]}), Call("tidy")],
)
async def test_an_edit_after_a_command_is_of_what_the_command_has_left(call: Call) -> None:
    client = FakeClient({"a.py": "a\n"})

    def format_file(_: Json) -> list[Part]:
        client.files["a.py"] = "# formatted\n" + client.files["a.py"]
        return [{"type": "json", "value": {"stdout": ""}}]

    client.tools[call.name] = format_file
    first, second = ({"path": "a.py", "replacements": [{"old": old, "new": new}]} for old, new in ("ab", "bc"))
    calls = Call("str_replace", first), call, Call("str_replace", second)
    await called(*calls, client=client, customToolDefinitions={"tidy": {}})
    assert client.files["a.py"] == "# formatted\nc\n"


@pytest.mark.parametrize("status", ["[FILE_TOO_LARGE: 2 MB]", "[FILE_IGNORED]"])
async def test_a_file_that_cannot_be_read_is_not_written(status: str) -> None:
    client = FakeClient({"it": status})
    _, [result] = await called(Call("write_file", {"path": "it", "instructions": "", "content": "x"}), client=client)
    assert result == {"errorMessage": status}
    assert client.tool_requests == []


DRAFT_07 = "http://json-schema.org/draft-07/schema#"
TOOL = {
    "inputJsonSchema": {
        "$schema": DRAFT_07,
        "type": "object",
        "properties": {"city": {"type": "string", "pattern": "(a+)+$"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "description": "The weather.",
    "exampleInputs": [{"city": "Oslo"}],
    "endsAgentStep": True,
}


@pytest.mark.parametrize(
    "call", [Call("run_terminal_command", {"command": "x"}), Call("code_search", {"pattern": "x"})]
)
async def test_of_a_long_output_a_model_reads_the_beginning_and_the_end(call: Call) -> None:
    client = FakeClient()
    client.tools[call.name] = lambda _: [
        {"type": "json", "value": {"stdout": "a" * 100_000 + "b" * 100_000, "stderr": "short", "exitCode": 1}}
    ]
    _, [result] = await called(call, client=client)
    left_out = "\n[140000 characters left out]\n"
    assert result == {"stdout": "a" * 30_000 + left_out + "b" * 30_000, "stderr": "short", "exitCode": 1}


async def test_what_a_custom_tool_gives_is_seen_however_much_it_is() -> None:
    client = FakeClient()
    client.tools["query"] = lambda _: [{"type": "json", "value": "a" * 500_000 + "b" * 500_000}]
    world, [result] = await called(Call("query"), client=client, customToolDefinitions={"query": {}})
    assert len(result) == 1_000_000
    [shown] = world.models.chats[1].messages[-1].blocks[-1].tool_result.blocks
    assert shown.text.text.startswith('"aaa')
    assert shown.text.text.endswith('bbb"')


@pytest.mark.parametrize(
    ("given", "seconds"), [({}, 30.0), ({"timeout_seconds": 90}, 90.0), ({"timeout_seconds": -1}, None)]
)
async def test_the_input_of_a_custom_tool_may_say_how_long_it_takes(given: Json, seconds: float | None) -> None:
    world, _ = await called(Call("build", given), customToolDefinitions={"build": {}})
    assert world.client.tool_requests == [("build", given, "p1", seconds)]


async def test_custom_tools_are_the_clients() -> None:
    given = {"city": "a" * 60 + "!"}
    world, results = await called(Call("weather", given), Call("weather", {}), customToolDefinitions={"weather": TOOL})
    assert results == [{"stdout": "weather ran"}]
    assert world.client.tool_requests == [("weather", given, "p1", 30.0)]
    wrong = world.models.chats[1].messages[2].blocks[1].tool_result.blocks[0].text.text
    assert "'city' is a required property" in wrong
    tool = world.models.chats[0].tools[-1].function
    assert tool.name == "weather"
    assert tool.description == 'The weather.\nExamples of its input:\n{"city":"Oslo"}'
    assert "$schema" not in tool.input_schema_json


async def test_tools_of_mcp_servers_are_run_by_the_client() -> None:
    schema = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
    client = FakeClient()
    client.mcp = {"a": [{"name": "look", "description": "Looks.", "inputSchema": schema}]}
    silent, server = {"type": "stdio", "command": "b"}, {"type": "stdio", "command": "a"}
    agent = Definition(id="base", tool_names=("one/look",), mcp_servers={"one": server, "two": silent})
    models = FakeModels([Call("one_look", {"q": "x"}), Call("one_look", {})], ["Done"])
    result = await World(models, client, [agent]).run()
    assert result.output["value"] == "Done"
    assert client.mcp_requests == [(server, ["look"]), (silent, None)]
    assert [tool.function.name for tool in models.chats[0].tools] == ["one_look"]
    assert client.tool_requests == [("look", {"q": "x"}, "p1", 30.0)]
    assert client.mcp_configs == [server]
    assert client.events("tool_call")[0]["toolName"] == "one/look"
    # The conversation keeps one name for it.
    assert models.chats[1].messages[1].blocks[0].tool_use.name == "one_look"


async def test_servers_of_mcp_are_asked_at_once_and_once_for_all_agents() -> None:
    class Waiting(FakeClient):
        async def mcp_tools(self, config: JsonObject, names: Sequence[str] | None) -> Sequence[JsonObject]:
            self.mcp_requests.append((config, names))
            await eventually(lambda: len(self.mcp_requests) == 2)
            return []

    client = Waiting()
    servers = {name: {"type": "stdio", "command": name} for name in "ab"}
    agent = Definition(id="base", tool_names=("spawn_agents",), spawnable_agents=("base",), mcp_servers=servers)
    models = FakeModels([Call("spawn_agents", {"agents": [{"agent_type": "base"}]})], ["Child"], ["Done"])
    assert (await World(models, client, [agent]).run()).output["value"] == "Done"
    assert client.mcp_requests == [(servers["a"], None), (servers["b"], None)]


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        ({"type": "object", "required": ["a"]}, {}, "'a' is a required property"),
        ({"additionalProperties": False}, {"a": 1}, "unexpected"),
        ({"additionalProperties": False, "patternProperties": {"(a+)+$": {}}}, {"a" * 60 + "!": 1}, ""),
        ({"properties": {"a": {"pattern": "(a+)+$"}}}, {"a": "a" * 60 + "!"}, ""),
        ({"properties": {"a": {"$schema": DRAFT_07, "pattern": "(a+)+$"}}}, {"a": "a" * 60 + "!"}, ""),
        ({"properties": {"a": {"$schema": DRAFT_07, "type": "string"}}}, {"a": 1}, "a: 1 is not of type 'string'"),
        # What cannot be read, or is somewhere else, forbids nothing, and nothing is fetched.
        ({"type": "nonsense"}, {}, ""),
        ({"$ref": "http://127.0.0.1:1/schema.json"}, {}, ""),
        ({"$ref": "#"}, {}, ""),
        ({"$ref": "#/definitions/a", "definitions": {"a": {"required": ["b"]}}}, {}, "'b' is a required property"),
    ],
)
def test_schemas_of_clients_are_applied_with_care(schema: Json, value: Json, said: str) -> None:
    found = problems_of(value, schema)
    assert said in found
    assert bool(found) == bool(said)


def doubling(depth: int) -> Json:
    """A schema whose every level is applied twice by the one above it."""
    levels = {f"a{at}": {"allOf": [{"$ref": f"#/$defs/a{at + 1}"}] * 2} for at in range(depth)}
    return {"$ref": "#/$defs/a0", "$defs": {**levels, f"a{depth}": {}}}


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        (doubling(25), {}, "takes too long to check"),
        ({**doubling(25), "unevaluatedItems": False}, [1], "takes too long to check"),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"b": at} for at in range(20_000)]}, ""),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"b": 1, "c": 2}, {"c": 2, "b": 1}]}, "a: "),
        # Such a schema is not read to its end.
        ({"properties": {f"p{at}": {"type": "string"} for at in range(5_000)}}, {}, ""),
    ],
)
def test_a_check_takes_no_more_than_a_moment(schema: Json, value: Any, said: str) -> None:
    started = time.thread_time()
    found = problems_of(value, schema)
    assert time.thread_time() - started < 2
    assert said in found
    assert bool(found) == bool(said)


def test_a_custom_tool_without_a_schema_takes_any_object() -> None:
    assert custom_tool("x", {}).schema == {"type": "object"}


async def test_subgoals_are_kept_in_the_state() -> None:
    agent = Definition(id="base", tool_names=("add_subgoal", "update_subgoal"))
    add = Call("add_subgoal", {"id": "1", "objective": "Win", "status": "NOT_STARTED", "log": "begun"})
    update = Call("update_subgoal", {"id": "1", "status": "COMPLETE", "log": "won"})
    other = Call("update_subgoal", {"id": "2", "plan": "Think"})
    world = World(FakeModels([add, update, other], ["Done"]), agents=[agent])
    result = await world.run()
    assert result.session_state["mainAgentState"]["agentContext"] == {
        "1": {"objective": "Win", "status": "COMPLETE", "logs": ["begun", "won"]},
        "2": {"plan": "Think", "logs": []},
    }
    assert "no such subgoal" in world.client.results()[2]["message"]


async def test_messages_are_set_and_added() -> None:
    agent = Definition(id="base", tool_names=("set_messages", "add_message"))
    messages = [{"role": "user", "content": "new"}, {"role": "assistant", "content": "begun"}]
    calls = [Call("add_message", {"role": "user", "content": "one more"}), Call("set_messages", {"messages": messages})]
    world = World(FakeModels(calls, ["Done"]), agents=[agent])
    assert history_of(await world.run()) == [*messages, {"role": "user", "content": "one more"}]


async def test_files_are_found_by_a_model() -> None:
    tree = [
        {"name": "a", "type": "directory", "filePath": "a", "children": [{"name": "b.py", "type": "file"}]},
        {"name": "c.py", "type": "file", "filePath": "c.py"},
    ]
    client = FakeClient({"a/b.py": "b\n", "c.py": "c\n"})
    agent = Definition(id="base", tool_names=("find_files",))
    models = FakeModels([Call("find_files", {"prompt": "the b"})], ["- `a/b.py`\nno/such.py\n"], ["Done"])
    world = World(models, client, [agent])
    await world.run(state=session(fileTree=tree, tokenCallers={"a/b.py": {"f": ["c.py"]}}))
    assert client.results() == [[{"path": "a/b.py", "content": "b\n", "referencedBy": {"f": ["c.py"]}}]]
    assert "the b" in models.chats[1].messages[0].blocks[0].text.text
    # What this model says is for nobody else.
    assert client.text == "Done"


async def test_agents_are_looked_up() -> None:
    mine = {"id": "mine", "displayName": "Mine", "spawnerPrompt": "For tests.", "inputSchema": {"prompt": {}}}
    _, results = await called(
        Call("lookup_agent_info", {"agentId": "mine"}),
        Call("lookup_agent_info", {"agentId": "nobody"}),
        agentTemplates={"mine": mine},
    )
    assert results[0]["displayName"] == "Mine"
    assert "For tests." in results[0]["description"]
    assert "no agent `nobody`" in results[1]["errorMessage"]


@asynccontextmanager
async def service(status: int, body: bytes, seen: list[bytes]) -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length"))
        seen.extend([head, await reader.readexactly(length)])
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (status, len(body)) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/search"


SEARCH = Call("web_search", {"query": "q", "depth": "deep"})
DOCS = Call("read_docs", {"libraryTitle": "L", "topic": "t", "max_tokens": 5})


@pytest.mark.parametrize(
    ("call", "status", "body", "sent", "expected"),
    [
        (SEARCH, 200, b'{"result":"found"}', {"query": "q", "depth": "deep"}, {"result": "found"}),
        (
            DOCS,
            200,
            b'{"documentation":"read"}',
            {"libraryTitle": "L", "topic": "t", "maxTokens": 10_000},
            {"documentation": "read"},
        ),
        (DOCS, 200, b'{"result":"read"}', None, {"documentation": "read"}),
        (SEARCH, 200, b"[]", None, {"errorMessage": "The search service gave no result."}),
        (SEARCH, 200, b'{"error":"no"}', None, {"errorMessage": "no"}),
        (SEARCH, 500, b"", None, {"errorMessage": "The search service answered with status 500."}),
    ],
)
async def test_searches_go_to_their_services(
    call: Call, status: int, body: bytes, sent: Json | None, expected: Json
) -> None:
    seen: list[bytes] = []
    async with service(status, body, seen) as url:
        place = CodebuffSearch(url=url, api_key=SecretStr("secret"))
        _, [result] = await called(call, settings=Codebuff(web_search=place, docs_search=place))
    assert result == expected
    assert b"authorization: bearer secret" in seen[0].lower()
    if sent is not None:
        assert msgspec.json.decode(seen[1]) == sent


async def test_a_search_that_is_not_there_is_a_result() -> None:
    gone = CodebuffSearch(url="http://127.0.0.1:1/")
    _, results = await called(SEARCH, DOCS, settings=Codebuff(docs_search=gone))
    assert results == [
        {"errorMessage": "This search is not configured on this server."},
        {"errorMessage": "The search service cannot be reached."},
    ]


async def test_a_search_ends_when_the_user_cancels() -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        while await reader.read(1000):
            continue
        writer.close()
        gone.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        place = CodebuffSearch(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        client = FakeClient()
        task = asyncio.create_task(called(SEARCH, client=client, settings=Codebuff(web_search=place)))
        await asyncio.wait_for(asked.wait(), 5)
        client.cancelled = True
        await asyncio.wait_for(task, 5)
        await asyncio.wait_for(gone.wait(), 5)
    assert client.text == ""


@pytest.mark.parametrize(
    ("prompt", "command"),
    [
        ("!make", "make"),
        ("!", None),
        ("/run npm test", "npm test"),
        ("/run", None),
        ("ls", "ls"),
        ("pwd ", "pwd"),
        ("clear", "clear"),
        ("git log -3", "git log -3"),
        ("git is not set up, please help", None),
        ("make it faster", None),
        ("python or go?", None),
        ("fix the bug", None),
        ("ls\nand explain", None),
    ],
)
def test_commands_are_told_from_prompts(prompt: str, command: str | None) -> None:
    assert shell_command(prompt) == command


@pytest.mark.parametrize(
    ("prompt", "name"), [("/init", "init"), ("init", "init"), (" /Compact ", "compact"), ("compact it", None)]
)
def test_special_prompts_are_known(prompt: str, name: str | None) -> None:
    assert special_prompt(prompt) == name
