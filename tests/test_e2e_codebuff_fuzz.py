"""What no client of Codebuff's would send: nothing crashes, nothing leaks, and others do not notice."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from codebuff_sockets import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FILE_CONTEXT,
    KINDS,
    MUCH,
    PING,
    TEXT,
    Json,
    RawSocket,
    Socket,
    agent,
    answer_of,
    complaints,
    config_on,
    dial,
    dial_deaf,
    has_connection,
    open_socket,
    open_sockets,
    prompt_action,
    raw_frame,
    replicas,
    reset,
    rss,
    sockets_held,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from patchbay.testing.cluster import Cluster
from patchbay.testing.eventually import eventually, hold
from patchbay.testing.ports import free_port
from patchbay.testing.valkey import ValkeyProcess
from patchbay_standin.testing import StandinProcess

MIB = 1024 * 1024
MOST_BYTES = 64 * MIB
HEARTBEAT_SECONDS = 4
# Of the ping that follows what is sent: when it is acknowledged, all before it is done.
LAST_TXID = 123_456_789


class Target:
    """One edge and one replica of codebuff-ws, under test for as long as they live."""

    def __init__(self, cluster: Cluster, redis_url: str, metrics: dict[str, int]) -> None:
        self.edge = cluster.edges[0]
        self.replica = replicas(cluster)[0]
        self._redis_url = redis_url
        self._metrics = metrics

    @property
    def memory(self) -> dict[str, int]:
        return {process.name: rss(process) // MIB for process in (self.edge, self.replica)}

    def gauge(self, service: str, name: str) -> float:
        text = httpx.get(f"http://127.0.0.1:{self._metrics[service]}/metrics").text
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    async def until_nothing_is_left(self) -> None:
        """Waits until no trace of any socket or prompt is left in Redis and in the gauges, and nothing has crashed."""

        async def is_gone() -> bool:
            return not (
                await sockets_held(self._redis_url)
                or self.gauge("edge", "patchbay_edge_codebuff_sockets")
                or self.gauge("edge", "patchbay_edge_codebuff_unattached")
                or self.gauge("replica", "patchbay_worker_in_flight")
            )

        await eventually(is_gone, seconds=10, what="no socket and no prompt is left")
        for process in (self.edge, self.replica):
            assert process.alive, process.output()
            assert complaints(process) == []


@pytest.fixture(scope="module")
def target(shared_valkey: ValkeyProcess, standin: StandinProcess) -> Iterator[Target]:
    metrics = {"edge": free_port(), "replica": free_port()}
    config = config_on(
        standin.url,
        codebuff={
            "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
            "request_timeout_seconds": 1,
            "legacy_protocol": True,
        },
        server={"metrics_port": metrics["edge"]},
        workers={"codebuff_metrics_port": metrics["replica"]},
    )
    url = shared_valkey.url.removesuffix("0") + "6"
    with Cluster(config, redis_url=url, kinds=KINDS) as cluster:
        yield Target(cluster, url, metrics)


@asynccontextmanager
async def undisturbed(target: Target, *, seconds: float = 5) -> AsyncIterator[None]:
    """Has another client run prompts meanwhile, each of which must be answered rightly and within so long."""
    enough = asyncio.Event()

    async def ask() -> None:
        async with open_socket(target.edge) as other:
            number = 0
            while not number or not enough.is_set():
                number += 1
                assert f"question {number}" in answer_of(await other.ask(f"question {number}", seconds=seconds))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask())
        yield
        enough.set()


async def say_all(socket: Socket, frames: list[str]) -> list[Json]:
    """Sends frames as they are; the acknowledgements that came, without that of the ping that followed."""
    before = len(socket.of_type("ack"))
    for frame in [*frames, json.dumps({"type": "ping", "txid": LAST_TXID})]:
        await socket.connection.send(frame)
    await socket.until(lambda one: len(socket.of_type("ack")) == before + len(frames) + 1, seconds=30)
    return socket.of_type("ack")[before:-1]


def ack_of(frame: str) -> Json:
    """The acknowledgement that a frame is due."""
    try:
        message = json.loads(frame, parse_constant=_no_json)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        return {"type": "ack", "success": False}
    txid = message.get("txid")
    if isinstance(txid, int) and not isinstance(txid, bool):
        return {"type": "ack", "success": True, "txid": txid}
    return {"type": "ack", "success": True}


def _no_json(constant: str) -> None:
    raise ValueError(constant)


# Scalars, and what else a field may be instead of what it should be.
WRONG: list[Any] = [None, True, -1.5, 2**63, "x\u2028\ud83d", [], [[None]], {"type": []}]
NOISE = [
    "",
    " ",
    "{",
    "[]",
    "7",
    '"x"',
    "null",
    "nonsense",
    "{}",
    '{"type": 7}',
    '{"txid": null}',
    '{"txid": true, "type": "ping"}',
    '{"txid": "1", "type": "ping"}',
    '{"txid": -1, "type": "ping"}',
    '{"txid": 9007199254740993, "type": "ping"}',
    '{"txid": 1, "txid": 2, "type": "pong", "type": "ping"}',
    '{"txid": 3, "type": "action"}',
    '{"txid": 3, "type": "action", "data": NaN}',
    '{"txid": 3, "type": "action", "data": {"type": -Infinity}}',
    '{"txid": 4, "type": "action", "data": {"type": "prompt", "promptId": "\\ud83d"}}',
    '{"txid": 4, "type": "action", "data": {"type": "init", "fileContext": {"\\udc00": "\\ud83d"}}}',
    '{"txid": 5, "type": "ping", "x": "' + "y" * MIB + '"}',
    '{"txid": 6, "type": "' + "p" * 100_000 + '"}',
    '{"txid": 7, "type": "ping", "\\u0000": "\\u0000"}',
    '\ufeff{"txid": 8, "type": "ping"}',
    '{"txid": 9, "type": "subscribe", "topics": [' + '"t",' * 20_000 + '"t"]}',
    '{"txid": 9, "type": "unsubscribe", "topics": {"a": 1}}',
    '{"txid": 9, "type": "identify", "clientSessionId": [1]}',
    '{"txid": 10, "type": "action", "data": {"type": "user-input", "userInputId": 1, "messages": 7}}',
]


def actions_with_wrong_fields() -> list[Json]:
    """Prompts, and whatever else clients say, with each field in turn of each wrong type."""
    prompt = prompt_action("")
    state = prompt["sessionState"]
    inner = [("sessionState", part, *name) for part in state for name in ((), *((one,) for one in state[part]))]
    changed = [_with(prompt, path, value) for path in ((name,) for name in prompt) for value in WRONG]
    changed += [_with(prompt, path, value) for path in inner for value in WRONG[::2]]
    others: list[Json] = [{"type": "init", "fingerprintId": "f", "authToken": "t", "fileContext": FILE_CONTEXT}]
    others += [{"type": kind, "requestId": "r", "files": {}, "output": [], "tools": []} for kind in ANSWERS]
    changed += [_with(other, (name,), value) for other in others for name in other for value in WRONG]
    return changed


ANSWERS = ("read-files-response", "tool-call-response", "mcp-tool-data", "cancel-user-input")


def _with(value: Json, path: tuple[str, ...], new: object) -> Json:
    name, *rest = path
    return {**value, name: _with(value[name], tuple(rest), new) if rest else new}


async def test_noise_is_acknowledged_and_harms_nobody(target: Target) -> None:
    async with undisturbed(target), open_socket(target.edge) as socket:
        assert await say_all(socket, NOISE) == [ack_of(frame) for frame in NOISE]
        deep = ['{"txid": 1, "x": ' + "[" * depth + "]" * depth + "}" for depth in (10_000, 1_000_000)]
        deep += ['{"a":' * 100_000, "[" * MIB]
        assert await say_all(socket, deep) == [{"type": "ack", "success": False}] * len(deep)
        for depth in (100, 300, 450, 600, 900):
            nested: Any = "\ud83d"
            for _ in range(depth):
                nested = [nested]
            context = {**FILE_CONTEXT, "codebuffConfig": {"x": nested}}
            await socket.ask(promptParams={"x": nested}, sessionState={"fileContext": context})
        assert "hi" in answer_of(await socket.ask())
    await target.until_nothing_is_left()


async def test_wrong_types_in_every_field_end_every_prompt_once(target: Target) -> None:
    actions = actions_with_wrong_fields()
    prompts = [action for action in actions if action["type"] == "prompt" and action["promptId"] == ""]
    for number, action in enumerate(prompts):
        action["promptId"] = f"w{number}"
    frames = [json.dumps({"txid": number, "type": "action", "data": action}) for number, action in enumerate(actions)]
    async with undisturbed(target), open_socket(target.edge) as socket:
        # A client may have 50 prompts at a time.
        for start in range(0, len(actions), 40):
            await say_all(socket, frames[start : start + 40])
            for action in actions[start : start + 40]:
                if action in prompts:
                    await socket.ended(action["promptId"])
        acks = [ack for ack in socket.of_type("ack") if ack.get("txid") != LAST_TXID]
        assert acks == [ack_of(frame) for frame in frames]
        assert all(len(socket.ends(action["promptId"])) == 1 for action in prompts)
    await target.until_nothing_is_left()


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20)
_names = st.sampled_from(["type", "role", "content", "promptId", "txid", "a.py", ""]) | st.text(max_size=5)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3), max_leaves=10
)
_actions = st.builds(
    lambda kind, changes: {**prompt_action("h"), "type": kind, **changes},
    st.sampled_from(["prompt", "init", "user-input", "usage", *ANSWERS]),
    st.dictionaries(st.sampled_from([*prompt_action("h"), "requestId", "output", "files", "fileContext"]), _values),
)
_messages = st.builds(
    lambda kind, txid, data: json.dumps({"type": kind, "txid": txid, "data": data, "topics": data}),
    st.sampled_from(["action", "ping", "subscribe", "unsubscribe", "identify", "", 7]),
    st.integers(0, 2**53) | _scalars,
    _actions | _values,
)
_frames = _messages | st.builds(lambda text, end: text[:end], _messages, st.integers(0, 2000)) | st.text(max_size=50)


@settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(frames=st.lists(_frames, min_size=30, max_size=60))
async def test_random_and_truncated_frames(target: Target, frames: list[str]) -> None:
    frames = [frame.encode(errors="replace").decode() for frame in frames]
    async with open_socket(target.edge) as socket:
        acks = await say_all(socket, frames)
        assert len(acks) == len(frames)
        assert not any("error" in ack for ack in acks)
        for ack, frame in zip(acks, frames, strict=True):
            # JSON has numbers that no decoder but JavaScript's takes.
            assert ack == ack_of(frame) or not ack["success"], frame


# What is wrong below the protocol: the code that it is closed with.
BROKEN: list[tuple[int, list[bytes]]] = [
    (1003, [raw_frame(BINARY, b'{"type": "ping"}')]),
    (1007, [raw_frame(TEXT, b'{"type": "ping\xff"}')]),
    (1007, [raw_frame(TEXT, b"\xed\xa0\xbd")]),
    (1002, [raw_frame(TEXT, b"{}", mask=False)]),
    (1002, [raw_frame(TEXT, b"{}", bits=0x40)]),
    (1002, [raw_frame(5, b"")]),
    (1002, [raw_frame(PING, b"x" * 126)]),
    (1002, [raw_frame(CONTINUATION, b"{}")]),
    (1002, [raw_frame(TEXT, b"{", fin=False), raw_frame(TEXT, b"}")]),
    (1002, [raw_frame(CLOSE, b"\x03")]),
    (1009, [raw_frame(TEXT, b"x" * MIB, fin=False), raw_frame(CONTINUATION, b"x" * (MOST_BYTES - MIB + 1))]),
    (1009, [raw_frame(TEXT, b"x" * (MOST_BYTES + 1))]),
]


async def test_what_is_no_websocket_is_closed_with_a_code(target: Target) -> None:
    async def code_of(frames: list[bytes]) -> int:
        raw = await RawSocket.open(target.edge)
        try:
            for frame in frames:
                await raw.send(frame)
            return await raw.close_code()
        finally:
            await raw.aclose()

    async with undisturbed(target):
        assert [await code_of(frames) for _, frames in BROKEN] == [code for code, _ in BROKEN]
        # The library of a client, which waits for the end of the connection as well.
        socket = Socket(await dial(target.edge))
        sending = socket.connection.send("x" * (MOST_BYTES + 1))
        _, code = await asyncio.gather(sending, socket.closed(seconds=5), return_exceptions=True)
        assert code == 1009
    await target.until_nothing_is_left()


async def test_frames_of_just_under_64_mib_are_handled_and_leave_nothing(target: Target) -> None:
    before = target.memory
    async with undisturbed(target), open_socket(target.edge) as socket:
        frame = '{"type": "ping", "txid": 1, "x": "' + "é" * (MOST_BYTES // 2 - 20) + '"}'
        assert MOST_BYTES - 10 <= len(frame.encode()) <= MOST_BYTES
        assert await say_all(socket, [frame]) == [{"type": "ack", "txid": 1, "success": True}]
        del frame
    # The state comes back with the answer.
    scores = {"a.py": {"x" * (MOST_BYTES - 4000): 1}}
    for _ in range(2):
        async with undisturbed(target), open_socket(target.edge) as socket:
            action = prompt_action("large")
            action["sessionState"]["fileContext"] = {**FILE_CONTEXT, "fileTokenScores": scores}
            await socket.act(action)
            end = await socket.ended("large", seconds=30)
            assert "hi" in answer_of(end)
            assert end["sessionState"]["fileContext"]["fileTokenScores"] == scores
            del action, end
    await target.until_nothing_is_left()
    assert all(size - before[name] < 50 for name, size in target.memory.items()), (before, target.memory)


async def test_clients_come_and_go_in_every_state_and_nothing_is_left(target: Target) -> None:
    async def round_of() -> None:
        async with open_sockets([target.edge], 30) as sockets:
            for number, socket in enumerate(sockets):
                await socket.prompt(definition=agent(deltas=500, delta_delay_ms=10))
                match number % 3:
                    case 0:
                        reset(socket.connection)
                    case 1:
                        await socket.begun("p1")
                        reset(socket.connection)
            for socket in sockets[2::3]:
                await socket.begun("p1")
        halves = await asyncio.gather(*(RawSocket.open(target.edge) for _ in range(10)))
        for half in halves:
            await half.send(raw_frame(TEXT, b"x" * MIB)[:-1])
            await half.aclose()
        await target.until_nothing_is_left()

    async with open_socket(target.edge) as talker:
        for number in range(2000):
            await talker.connection.send(f'{{"type": "ping", "txid": {number}}}')
        await talker.acked(1999)
        assert [ack["txid"] for ack in talker.of_type("ack")] == list(range(2000))
    await round_of()
    before = target.memory
    for _ in range(2):
        await round_of()
    assert all(size - before[name] < 20 for name, size in target.memory.items()), (before, target.memory)


async def test_who_says_nothing_is_gone_and_who_says_anything_is_not(target: Target) -> None:
    text = raw_frame(TEXT, b'{"type": "ping", "txid": 7}')
    deaf = await dial_deaf(target.edge)
    await Socket(deaf, listens=False).act(prompt_action("much", definition=MUCH))
    async with open_socket(target.edge) as silent, open_socket(target.edge) as noisy:
        started = time.monotonic()
        slow = await RawSocket.open(target.edge)
        closed = asyncio.create_task(silent.closed(seconds=HEARTBEAT_SECONDS + 3))
        sent = 0
        while not closed.done() or time.monotonic() - started < HEARTBEAT_SECONDS + 1:
            await noisy.connection.send("noise")
            # A frame may take its time, but not for ever.
            if sent < len(text):
                await slow.send(text[sent : sent + 4])
                sent += 4
            await hold(0.25)
        assert await closed == 1001
        assert json.loads((await slow.hear())[1]) == {"type": "ack", "txid": 7, "success": True}
        await noisy.ping()
        await slow.aclose()
    await target.until_nothing_is_left()
    # What waits for it is not kept either.
    await eventually(lambda: not has_connection(target.edge, deaf), what="the connection of who does not read is gone")
    reset(deaf)


async def test_init_with_a_full_context_is_what_later_prompts_work_with(target: Target) -> None:
    context = {**FILE_CONTEXT, "cwd": "/elsewhere", "agentTemplates": {"tester": agent(text="from init")}}
    async with open_socket(target.edge) as socket:
        await socket.init(context)
        end = await socket.ask(sessionState={}, agentId="tester")
        assert answer_of(end) == "from init"
        assert end["sessionState"]["fileContext"] == context
