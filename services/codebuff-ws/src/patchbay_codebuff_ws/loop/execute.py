"""Runs the tools that an agent calls, but for those that start other agents (see `spawn`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from patchbay.canonical import ROLE_USER, Block, Chat, Message, Text
from patchbay.codebuff.search import search
from patchbay.errors import PatchbayError
from patchbay.settings.codebuff import CodebuffSearch
from patchbay_codebuff_ws.loop import spawn
from patchbay_codebuff_ws.loop.answer import Answer
from patchbay_codebuff_ws.loop.context import unless_cancelled
from patchbay_codebuff_ws.loop.edits import EditError, Replacement, replace_in, unified_diff, whole_file
from patchbay_codebuff_ws.loop.files import UnreadableFile
from patchbay_codebuff_ws.loop.history import both_ends
from patchbay_codebuff_ws.loop.messages import clean_history
from patchbay_codebuff_ws.loop.prompts import agent_text, file_tree, plain
from patchbay_codebuff_ws.loop.tools import Tool
from patchbay_codebuff_ws.ports import JsonObject, Part

if TYPE_CHECKING:
    from patchbay_codebuff_ws.loop.agent import Agent

Handler: TypeAlias = "Callable[[Agent, JsonObject], Awaitable[list[Part]]]"

# What the client is given for its own part of a tool.
_CLIENT_SECONDS = 30.0
# Clients' timers count milliseconds in 31 bits: a longer one is over at once.
_MAX_CLIENT_SECONDS = (2**31 - 1) / 1000
_MAX_FOUND_FILES = 12
# Lines of a search. The client takes no number that JavaScript does not count by, and shows fewer than these.
_MOST_RESULTS = 10_000
# Of what a command says; with more, the conversation would be left out to make place for it.
_MAX_STREAM_CHARACTERS = 60_000


def value_part(value: object) -> list[Part]:
    return [{"type": "json", "value": value}]


def error_part(message: str) -> list[Part]:
    """How a tool says that it failed."""
    return value_part({"errorMessage": message})


def is_error(output: list[Part]) -> bool:
    """Whether a tool says that it failed."""
    values = [part.get("value") for part in output if part.get("type") == "json"]
    return any(isinstance(value, dict) and "errorMessage" in value for value in values)


async def run_tool(agent: Agent, tool: Tool, given: JsonObject) -> list[Part]:
    """Runs a tool whose input has been checked. What goes wrong is its output."""
    handler = _clients(tool) if tool.custom or tool.mcp is not None else _HANDLERS[tool.name]
    try:
        return await handler(agent, given)
    except (EditError, UnreadableFile, PatchbayError) as error:
        return error_part(str(error))


def _clients(tool: Tool) -> Handler:
    # A server of the client's knows its tools without the server's name.
    name = tool.name if tool.mcp is None else tool.name.partition("/")[2]

    async def run(agent: Agent, given: JsonObject) -> list[Part]:
        return await agent.context.client.call_tool(
            name, given, user_input_id=agent.user_input_id, timeout_seconds=_seconds(given), mcp_config=tool.mcp
        )

    return run


async def _client(agent: Agent, name: str, wire: JsonObject, *, seconds: float | None = _CLIENT_SECONDS) -> list[Part]:
    return await agent.context.client.call_tool(name, wire, user_input_id=agent.user_input_id, timeout_seconds=seconds)


def _seconds(given: JsonObject) -> float | None:
    """How long the client may take for a tool, which its input may say, also that of a custom tool; None: for ever."""
    seconds = given.get("timeout_seconds")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        return _CLIENT_SECONDS
    return float(seconds) if 0 <= seconds <= _MAX_CLIENT_SECONDS else None


def _only(given: JsonObject, *names: str) -> JsonObject:
    """The client refuses, without an answer, what its schema does not have: nothing else goes there."""
    return {name: given[name] for name in names if given.get(name) is not None}


async def _read_files(agent: Agent, given: JsonObject) -> list[Part]:
    return value_part(await agent.files.shown(given["paths"]))


async def _write_file(agent: Agent, given: JsonObject) -> list[Part]:
    path = agent.context.project.relative(given["path"])
    before = await _content(agent, path)
    return await _update(agent, "write_file", path, before, whole_file(before, given["content"]))


async def _str_replace(agent: Agent, given: JsonObject) -> list[Part]:
    path = agent.context.project.relative(given["path"])
    before = await _content(agent, path)
    replacements = [
        Replacement(one["old"], one["new"], bool(one.get("allowMultiple"))) for one in given["replacements"]
    ]
    # Comparing large files takes its time, which is not the other prompts'.
    after, problems = await asyncio.to_thread(replace_in, before, replacements)
    return await _update(agent, "str_replace", path, before, after, problems)


async def _content(agent: Agent, path: str) -> str | None:
    """A file as it is, or as an earlier edit of the same step has left it."""
    if path in agent.edited:
        return agent.edited[path]
    return await agent.files.current(path)


async def _update(
    agent: Agent, name: str, path: str, before: str | None, after: str, problems: Sequence[str] = ()
) -> list[Part]:
    output = await _client(agent, name, {"type": "file", "path": path, "content": after})
    if is_error(output):
        agent.edited.pop(path, None)
        return output
    agent.edited[path] = after
    agent.files.note(path, after)
    diff = await asyncio.to_thread(unified_diff, path, before, after)
    return [_update_part(part, diff, problems) for part in output]


def _update_part(part: Part, diff: str, problems: Sequence[str]) -> Part:
    """The client gives back what it was sent, the whole file: the model is shown what changed in place of it."""
    value = part.get("value")
    if part.get("type") != "json" or not isinstance(value, dict):
        return part
    value = {**value}
    if "unifiedDiff" in value:
        value["unifiedDiff"] = diff
    if problems:
        message = "\n\n".join([str(value.get("message") or "Updated file."), "Not all was replaced:", *problems])
        value["message"] = message
    return {**part, "value": value}


async def _create_plan(agent: Agent, given: JsonObject) -> list[Part]:
    # Not every client has the tool; each can write a file.
    path = agent.context.project.relative(given["path"])
    before = await _content(agent, path)
    return await _update(agent, "write_file", path, before, whole_file(before, given["plan"], shows_parts=True))


async def _run_terminal_command(agent: Agent, given: JsonObject) -> list[Part]:
    seconds = _seconds(given)
    wire: JsonObject = {
        "command": given["command"],
        "mode": "assistant",
        "process_type": given.get("process_type") or "SYNC",
        "timeout_seconds": -1 if seconds is None else seconds,
        **_only(given, "cwd"),
    }
    return readable(await _client(agent, "run_terminal_command", wire, seconds=seconds))


def readable(output: list[Part]) -> list[Part]:
    """A command's output as far as a model can read it: of a stream that is too long, the beginning and the end."""
    return [_shortened(part) for part in output]


def _shortened(part: Part) -> Part:
    value = part.get("value")
    if part.get("type") != "json" or not isinstance(value, dict):
        return part
    short = {
        name: both_ends(text, _MAX_STREAM_CHARACTERS)
        for name, text in value.items()
        if name in ("stdout", "stderr") and isinstance(text, str) and len(text) > _MAX_STREAM_CHARACTERS
    }
    return {**part, "value": {**value, **short}} if short else part


async def _code_search(agent: Agent, given: JsonObject) -> list[Part]:
    most = int(min(given.get("maxResults", 30), _MOST_RESULTS))
    wire = {**_only(given, "pattern", "flags", "cwd"), "maxResults": most}
    return readable(await _client(agent, "code_search", wire))


async def _run_file_change_hooks(agent: Agent, given: JsonObject) -> list[Part]:
    return await _client(agent, "run_file_change_hooks", _only(given, "files"))


async def _browser_logs(agent: Agent, given: JsonObject) -> list[Part]:
    return await _client(agent, "browser_logs", _only(given, "type", "url", "waitUntil"))


async def _find_files(agent: Agent, given: JsonObject) -> list[Part]:
    context = agent.context
    request = (
        f"{file_tree(context.project)}\n\nWhich of these files have to do with the following? Answer with their paths, "
        f"the most important first, one a line and nothing else, {_MAX_FOUND_FILES} at most.\n\n{given['prompt']}"
    )
    chat = Chat(messages=[Message(role=ROLE_USER, blocks=[Block(text=Text(text=request))])], stream=True)
    answer = Answer()
    await context.ask(chat, answer, model=agent.model, session_id=f"{agent.state.run_id}-files", output=None)
    await agent.charge(answer)
    known = set(context.project.paths())
    named = (line.strip().removeprefix("- ").strip("`'\" ") for line in answer.text.splitlines())
    paths = list(dict.fromkeys(path for name in named if (path := context.project.relative(name)) in known))
    if not paths:
        return value_part({"message": "No file of the project seems to have to do with it."})
    return value_part(await agent.files.shown(paths[:_MAX_FOUND_FILES]))


async def _web_search(agent: Agent, given: JsonObject) -> list[Part]:
    body = {"query": given["query"], "depth": given.get("depth") or "standard"}
    return await _search(agent, agent.context.settings.web_search, body, answer="result")


async def _read_docs(agent: Agent, given: JsonObject) -> list[Part]:
    body: JsonObject = {
        "libraryTitle": given["libraryTitle"],
        "maxTokens": max(given.get("max_tokens") or 20_000, 10_000),
        **_only(given, "topic"),
    }
    return await _search(agent, agent.context.settings.docs_search, body, answer="documentation")


async def _search(agent: Agent, service: CodebuffSearch | None, body: JsonObject, *, answer: str) -> list[Part]:
    found = await unless_cancelled(agent.context.client, search(service, body, answer=answer))
    return [] if found is None else value_part(found)


async def _lookup_agent_info(agent: Agent, given: JsonObject) -> list[Part]:
    found = agent.context.catalog.find(given["agentId"])
    info: JsonObject = {
        "id": found.id,
        "displayName": found.display_name,
        "model": agent.context.model_of(found),
        "toolNames": list(found.tool_names),
        "spawnableAgents": list(found.spawnable_agents),
        "outputMode": found.output_mode,
        "description": agent_text(found),
    }
    for name, schema in (("inputSchema", found.input_schema), ("outputSchema", found.output_schema)):
        if shown := plain(schema):
            info[name] = shown
    return value_part(info)


async def _nothing(agent: Agent, given: JsonObject) -> list[Part]:
    return []


async def _set_output(agent: Agent, given: JsonObject) -> list[Part]:
    agent.state.output = given
    return value_part({"message": "Output set"})


async def _set_messages(agent: Agent, given: JsonObject) -> list[Part]:
    agent.state.history = clean_history(given["messages"])
    return []


async def _add_message(agent: Agent, given: JsonObject) -> list[Part]:
    agent.added.append({"role": given["role"], "content": given["content"]})
    return []


async def _add_subgoal(agent: Agent, given: JsonObject) -> list[Part]:
    subgoal: JsonObject = {"logs": [], **_only(given, "objective", "status", "plan")}
    if given.get("log"):
        subgoal["logs"] = [given["log"]]
    agent.state.context[given["id"]] = subgoal
    return value_part({"message": "Subgoal added"})


async def _update_subgoal(agent: Agent, given: JsonObject) -> list[Part]:
    existing = agent.state.context.get(given["id"])
    subgoal = {"logs": [], **(existing or {}), **_only(given, "status", "plan")}
    if given.get("log"):
        subgoal["logs"] = [*subgoal["logs"], given["log"]]
    agent.state.context[given["id"]] = subgoal
    if existing is None:
        return value_part({"message": "There was no such subgoal: it is there now, without an objective"})
    return value_part({"message": "Subgoal updated"})


_HANDLERS: Mapping[str, Handler] = {
    "read_files": _read_files,
    "write_file": _write_file,
    "str_replace": _str_replace,
    "create_plan": _create_plan,
    "run_terminal_command": _run_terminal_command,
    "code_search": _code_search,
    "run_file_change_hooks": _run_file_change_hooks,
    "browser_logs": _browser_logs,
    "find_files": _find_files,
    "web_search": _web_search,
    "read_docs": _read_docs,
    "lookup_agent_info": _lookup_agent_info,
    "spawn_agents": spawn.spawn_agents,
    "spawn_agents_async": spawn.spawn_agents_async,
    "spawn_agent_inline": spawn.spawn_agent_inline,
    "think_deeply": _nothing,
    "end_turn": _nothing,
    "set_output": _set_output,
    "set_messages": _set_messages,
    "add_message": _add_message,
    "add_subgoal": _add_subgoal,
    "update_subgoal": _update_subgoal,
}
