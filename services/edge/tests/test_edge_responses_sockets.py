"""The Responses API over a WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import pytest
from uvicorn.protocols.utils import ClientDisconnected
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from patchbay.canonical import ChatEvent, Head
from patchbay.errors import RATE_LIMITED, make_error
from patchbay.state.admission import Lease
from patchbay.testing.eventually import eventually
from patchbay.testing.worker import BLOCK, FINISHED, HANG, STARTED, ScriptedWorker, answer, failed, native, text
from patchbay_edge.responses.frames import FrameExchange
from patchbay_proto.v1.provider_pb2 import ChatRequest

StartEdge = Callable[..., AbstractAsyncContextManager]
Json = dict[str, Any]

KEYS = {"require_api_key": True, "api_keys": [{"key": "pb-secret", "id": "k1", "concurrent_requests": 1}]}
PLATFORM = {"p": {"kind": "openai-responses", "base_url": "http://platform.test", "api_key": "made-up"}}
ENDS = ("response.completed", "response.incomplete", "response.failed", "error")


@asynccontextmanager
async def socket(port: int, path: str = "/v1/responses", **headers: str) -> AsyncIterator[ClientConnection]:
    async with connect(f"ws://127.0.0.1:{port}{path}", additional_headers=headers, open_timeout=20) as connection:
        yield connection


def create(words: str, **fields: object) -> str:
    return json.dumps({"type": "response.create", "model": "m", "input": words, **fields})


async def events(connection: ClientConnection) -> list[Json]:
    """The frames up to the end of one response."""
    found: list[Json] = []
    async with asyncio.timeout(20):
        while not found or found[-1]["type"] not in ENDS:
            found.append(json.loads(await connection.recv()))
    return found


async def last(connection: ClientConnection) -> Json:
    return (await events(connection))[-1]


async def close_code(connection: ClientConnection) -> int | None:
    """What the server closes the connection with, after all that it still says."""
    with suppress(ConnectionClosed):
        async with asyncio.timeout(20):
            while True:
                await connection.recv()
    return connection.close_code


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


def said(request: ChatRequest) -> list[str]:
    return [block.text.text for message in request.chat.messages for block in message.blocks]


@pytest.mark.parametrize("path", ["/v1/responses", "/codex/responses", "/codex/one/responses", "/api/v1/responses"])
async def test_each_event_is_a_frame(start_edge: StartEdge, path: str) -> None:
    async with start_edge(ScriptedWorker([answer("Fine.")])) as running, socket(running.port, path) as connection:
        await connection.send(create("How are you?", stream=False))
        found = await events(connection)
        assert [event["sequence_number"] for event in found] == list(range(len(found)))
        assert (found[0]["type"], found[-1]["type"]) == ("response.created", "response.completed")
        assert found[-1]["response"]["output"][0]["content"][0]["text"] == "Fine."


@pytest.mark.parametrize("store", [True, False])
async def test_the_connection_remembers_its_last_response(start_edge: StartEdge, store: bool) -> None:
    worker = ScriptedWorker([answer("Fine."), answer("Very."), answer("Bye.")])
    async with start_edge(worker) as running, socket(running.port) as connection:
        await connection.send(create("How are you?", store=store))
        first = (await last(connection))["response"]["id"]
        await connection.send(create("Really?", store=store, previous_response_id=first))
        second = (await last(connection))["response"]["id"]
        await connection.send(create("Bye!", store=store, previous_response_id=second))
        third = (await last(connection))["response"]["id"]
        assert said(worker.requests[2]) == ["How are you?", "Fine.", "Really?", "Very.", "Bye!"]
        for response_id in (first, second, third):
            stored = await running.client.get(f"/v1/responses/{response_id}")
            assert stored.status_code == (200 if store else 404)
        # Of what is not stored only the last one is known.
        await connection.send(create("And?", store=store, previous_response_id=first))
        end = await last(connection)
        assert end["type"] == ("response.completed" if store else "error")
        if not store:
            assert (end["status"], end["error"]["code"]) == (400, "previous_response_not_found")


async def test_what_was_said_in_a_connection_is_stored_when_that_is_asked_for(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("Fine."), answer("Very."), answer("Bye.")])
    async with start_edge(worker) as running:
        async with socket(running.port) as connection:
            await connection.send(create("How are you?", store=False))
            first = (await last(connection))["response"]["id"]
            await connection.send(create("Really?", store=True, previous_response_id=first))
            second = (await last(connection))["response"]["id"]
        body = {"model": "m", "input": "Bye!", "previous_response_id": second}
        await running.client.post("/v1/responses", json=body)
        assert said(worker.requests[2]) == ["How are you?", "Fine.", "Really?", "Very.", "Bye!"]


@pytest.mark.parametrize("store", [True, False])
async def test_another_connection_of_a_session_knows_what_was_said(start_edge: StartEdge, store: bool) -> None:
    worker = ScriptedWorker([answer("Fine."), answer("Very."), answer("Who?")])
    async with start_edge(worker) as running:
        for words in ("How are you?", "Really?"):
            async with socket(running.port, "/codex/one/responses") as connection:
                await connection.send(create(words, store=store))
                assert (await last(connection))["type"] == "response.completed"
        async with socket(running.port, "/codex/two/responses") as connection:
            await connection.send(create("And you?", store=store))
            assert (await last(connection))["type"] == "response.completed"
    assert said(worker.requests[1]) == ["How are you?", "Fine.", "Really?"]
    assert said(worker.requests[2]) == ["And you?"]


async def test_a_warm_up_costs_nothing_and_is_gone_on_from(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("Fine.")])
    async with start_edge(worker) as running, socket(running.port) as connection:
        await connection.send(create("You are helpful.", store=False, generate=False))
        warm = await events(connection)
        assert (warm[-1]["type"], warm[-1]["response"]["output"]) == ("response.completed", [])
        assert worker.requests == []
        warm_id = warm[-1]["response"]["id"]
        assert warm_id == warm[0]["response"]["id"]
        await connection.send(create("How are you?", store=False, previous_response_id=warm_id))
        assert (await last(connection))["type"] == "response.completed"
        assert said(worker.requests[0]) == ["You are helpful.", "How are you?"]


async def test_a_warm_up_may_go_on_from_what_was_said(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("Fine."), answer("Very.")])
    async with start_edge(worker) as running, socket(running.port) as connection:
        await connection.send(create("How are you?", store=False))
        first = (await last(connection))["response"]["id"]
        await connection.send(create("By the way.", store=False, generate=False, previous_response_id=first))
        warm = (await last(connection))["response"]["id"]
        await connection.send(create("Really?", store=False, previous_response_id=warm))
        assert (await last(connection))["type"] == "response.completed"
        assert said(worker.requests[1]) == ["How are you?", "Fine.", "By the way.", "Really?"]
        await connection.send(create("So?", generate=False, previous_response_id="resp_gone"))
        end = await last(connection)
        assert (end["status"], end["error"]["code"]) == (400, "previous_response_not_found")


async def test_a_conversation_over_a_socket_is_stored_once(start_edge: StartEdge) -> None:
    async with start_edge(ScriptedWorker([answer("Fine.")])) as running, socket(running.port) as connection:
        previous = None
        for words in ("How are you?", "Really?", "Sure?"):
            await connection.send(create(words, previous_response_id=previous))
            previous = (await last(connection))["response"]["id"]
        redis = running.edge.redis
        assert [await redis.llen(name) async for name in redis.scan_iter("pb:story:*")] == [6]


async def test_a_connection_remembers_no_more_than_one_request_can_say(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("Fine.")])
    limits = {"max_request_bytes": 3000}
    async with start_edge(worker, limits=limits) as running, socket(running.port) as connection:
        previous, ends = None, []
        for number in range(3):
            fields = {"store": False, "generate": number == 1, "previous_response_id": previous}
            await connection.send(create(str(number) * 1400, **fields))
            ends.append(await last(connection))
            previous = ends[-1].get("response", {}).get("id")
        assert [end["type"] for end in ends] == ["response.completed", "response.completed", "error"]
        assert ends[2]["error"]["code"] == "previous_response_not_found"


BAD_FRAMES: dict[str, tuple[str, str | None]] = {
    "no JSON": ("{", None),
    "no object": ("[]", None),
    "another type": ('{"type":"session.update"}', "type"),
    "no type": ("{}", "type"),
    "a wrong generate": ('{"type":"response.create","generate":1,"model":"m","input":"x"}', "generate"),
    "no model": ('{"type":"response.create","input":"x"}', "model"),
    "a wrong input": ('{"type":"response.create","model":"m","input":7}', "input"),
    "a warm-up with a wrong input": ('{"type":"response.create","model":"m","input":7,"generate":false}', "input"),
    "deep": ('{"type":"response.create","model":"m","input":' + "[" * 99_999, None),
}


async def test_bad_frames_are_refused_and_the_connection_goes_on(start_edge: StartEdge) -> None:
    async with start_edge(ScriptedWorker([answer("Fine.")])) as running, socket(running.port) as connection:
        for name, (frame, parameter) in BAD_FRAMES.items():
            await connection.send(frame)
            end = await last(connection)
            assert (end["type"], end["status"]) == ("error", 400), name
            assert (end["error"]["type"], end["error"]["param"]) == ("invalid_request_error", parameter), name
        await connection.send(create("How are you?"))
        assert (await last(connection))["type"] == "response.completed"


async def test_an_error_has_its_status_and_when_to_come_again(start_edge: StartEdge) -> None:
    limited = failed(make_error(RATE_LIMITED, "slow down", retry_after=7))
    async with start_edge(ScriptedWorker([[limited]])) as running, socket(running.port) as connection:
        await connection.send(create("How are you?"))
        (end,) = await events(connection)
        assert (end["type"], end["status"], end["headers"]["retry-after"]) == ("error", 429, "7")
        assert end["error"]["message"] == "slow down"


async def test_an_answer_that_breaks_off_fails_in_the_stream(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([[[STARTED, BLOCK, text("half")]], answer("Fine.")])
    async with start_edge(worker) as running, socket(running.port) as connection:
        await connection.send(create("How are you?"))
        assert (await last(connection))["type"] == "response.failed"
        await connection.send(create("Again."))
        assert (await last(connection))["type"] == "response.completed"


async def test_bytes_that_are_no_text_are_replaced(start_edge: StartEdge) -> None:
    body = b'data: {"type":"response.completed","response":{"id":"r","output":[],"x":"a\xffb"}}\n\n'
    worker = ScriptedWorker([[[native(body), FINISHED]]], backends=[("p", "openai_responses")])
    async with start_edge(worker, backends=PLATFORM) as running, socket(running.port) as connection:
        await connection.send(create("How are you?"))
        end = await last(connection)
        assert (end["type"], end["response"]["x"]) == ("response.completed", "a\ufffdb")


async def test_a_backend_that_keeps_responses_is_told_only_what_is_new(start_edge: StartEdge) -> None:
    body = b'data: {"type":"response.completed","response":{"id":"resp_up","status":"completed","output":[]}}\n\n'
    worker = ScriptedWorker([[[native(body), FINISHED]]], backends=[("p", "openai_responses")])
    async with start_edge(worker, backends=PLATFORM) as running, socket(running.port) as connection:
        for store, expected in ((True, "resp_up"), (False, None)):
            await connection.send(create("How are you?", store=store))
            await last(connection)
            await connection.send(create("Really?", store=store, previous_response_id="resp_up"))
            assert (await last(connection))["type"] == "response.completed"
            sent = json.loads(worker.requests[-1].native.body)
            assert sent["previous_response_id"] == expected
            assert isinstance(sent["input"], str) == store


async def test_frames_are_answered_one_after_the_other(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("1"), answer("2"), answer("3")])
    async with start_edge(worker) as running, socket(running.port) as connection:
        for words in ("a", "b", "c"):
            await connection.send(create(words))
        texts = [(await last(connection))["response"]["output"][0]["content"][0]["text"] for _ in range(3)]
        assert texts == ["1", "2", "3"]


async def test_the_limits_of_an_account_come_as_a_frame(start_edge: StartEdge) -> None:
    headers = {"x-codex-primary-used-percent": "12.5", "x-codex-primary-window-minutes": "300"}
    headers |= {"x-codex-credits-has-credits": "True", "x-codex-credits-balance": "4.5"}
    script = [[ChatEvent(head=Head(status=200, headers=headers))], *answer("Fine.")]
    async with start_edge(ScriptedWorker([script])) as running, socket(running.port) as connection:
        await connection.send(create("How are you?"))
        first = (await events(connection))[0]
        assert first["type"] == "codex.rate_limits"
        assert first["rate_limits"] == {"primary": {"used_percent": 12.5, "window_minutes": 300}, "secondary": None}
        assert first["credits"] == {"has_credits": True, "balance": "4.5"}


async def test_what_codex_says_of_one_request_in_its_frame_is_a_header(start_edge: StartEdge) -> None:
    flag = "x_openai_internal_codex_responses_lite"
    worker = ScriptedWorker([answer("Fine.")])
    async with start_edge(worker) as running, socket(running.port, originator="codex_exec") as connection:
        for metadata in ({f"ws_request_header_{flag}": "true", "other": 1}, {f"ws_request_header_{flag}": 1}, "none"):
            await connection.send(create("How are you?", client_metadata=metadata))
            await last(connection)
    found = [dict(request.headers).get(flag.replace("_", "-")) for request in worker.requests]
    assert found == ["true", None, None]


async def test_a_frame_with_half_an_emoji_is_answered_as_it_is_over_http(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([answer("Fine.")])
    async with start_edge(worker) as running, socket(running.port) as connection:
        for generate in (True, False):
            await connection.send(create("How are you? \ud83d", generate=generate))
            assert (await last(connection))["type"] == "response.completed"
    assert said(worker.requests[0]) == ["How are you? \ufffd"]


async def test_what_cannot_be_a_header_is_none(start_edge: StartEdge, caplog: pytest.LogCaptureFixture) -> None:
    metadata = {"x_codex_a": "1\r\nx: 2", "x_codex b": "2", "x_codex_c": "caf\xe9", "X_Codex_D": "4"}
    metadata |= {"x_codex_\u2603": "5", "x_codex_e": "\u2603", "authorization": "Bearer \u2603", "": "6"}
    named = {f"ws_request_header_{name}": value for name, value in metadata.items()}
    worker = ScriptedWorker([answer("Fine.")])
    keys = {"api_keys": KEYS["api_keys"]}
    async with start_edge(worker, security=keys) as running, socket(running.port, originator="codex") as connection:
        await connection.send(create("How are you?", client_metadata=named))
        assert (await last(connection))["type"] == "response.completed"
    found = {name: value for name, value in worker.requests[0].headers.items() if name.startswith("x-codex")}
    assert found == {"x-codex-c": "caf\xe9", "x-codex-d": "4"}
    assert not errors(caplog)


async def test_a_client_that_leaves_stops_its_answer(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([[[STARTED, BLOCK, text("half")], HANG]])
    async with start_edge(worker) as running:
        async with socket(running.port) as connection:
            await connection.send(create("How are you?"))
            await connection.recv()
        await eventually(lambda: worker.cancelled == 1)
        await running.idle()


async def test_a_client_that_sends_more_than_can_wait_is_cut_off(start_edge: StartEdge) -> None:
    worker = ScriptedWorker([[[STARTED, BLOCK, text("half")], HANG]])
    large = create("x" * 40_000)
    for frames in ([create("Again.")] * 20, [large, large]):
        limits = {"max_request_bytes": 60_000}
        async with start_edge(worker, limits=limits) as running, socket(running.port) as connection:
            await connection.send(create("How are you?"))
            assert json.loads(await connection.recv())["type"] == "response.created"
            for frame in frames:
                await connection.send(frame)
            assert await close_code(connection) == 1008
            await running.idle()
    assert (len(worker.requests), worker.cancelled) == (2, 2)


async def test_a_binary_frame_ends_the_answer_too(start_edge: StartEdge, caplog: pytest.LogCaptureFixture) -> None:
    worker = ScriptedWorker([[[STARTED, BLOCK, text("half")], *[0.001, [text(".")]] * 2000, HANG]])
    async with start_edge(worker) as running, socket(running.port) as connection:
        await connection.send(create("How are you?"))
        assert json.loads(await connection.recv())["type"] == "response.created"
        await connection.send(b"\x00")
        assert await close_code(connection) == 1003
        await eventually(lambda: worker.cancelled == 1)
    assert not errors(caplog)


class FakeSocket:
    """A client's end of a WebSocket, as the server shows it to an application.

    Args:
        closed_at: What the server refuses to send, since the client is gone.
    """

    def __init__(self, *frames: str | bytes, closed_at: str = "") -> None:
        self.sent: list[Json] = []
        self._frames = list(frames)
        self._closed_at = closed_at

    async def serve(self, running: Any) -> None:
        headers = [(b"host", b"edge.test")]
        scope: Json = {"type": "websocket", "path": "/v1/responses", "headers": headers}
        await asyncio.wait_for(running.edge.sockets.serve(scope, self._receive, self._send), 20)

    async def _receive(self) -> Json:
        if not self.sent:
            return {"type": "websocket.connect"}
        if not self._frames:
            await asyncio.Event().wait()
        frame = self._frames.pop(0)
        return {"type": "websocket.receive", "text" if isinstance(frame, str) else "bytes": frame}

    async def _send(self, message: Json) -> None:
        if self._closed_at and self._closed_at in str(message):
            raise ClientDisconnected
        self.sent.append(message)


@pytest.mark.parametrize(
    ("frame", "closed_at"),
    [
        (create("How are you?"), "response.created"),
        (create("How are you?"), "half"),
        (create("How are you?", generate=False), "response.created"),
        ("{", "error"),
        (b"\x00", "websocket.close"),
    ],
)
async def test_a_client_that_the_server_knows_gone_is_no_crash(
    start_edge: StartEdge, caplog: pytest.LogCaptureFixture, frame: str | bytes, closed_at: str
) -> None:
    worker = ScriptedWorker([[[STARTED, BLOCK], [text("half")], HANG]])
    async with start_edge(worker) as running:
        await FakeSocket(frame, closed_at=closed_at).serve(running)
    assert worker.cancelled == len(worker.requests)
    assert not errors(caplog)


async def test_an_answer_that_ends_without_a_word_ends_the_connection(
    start_edge: StartEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(FrameExchange, "end", crash)
    async with start_edge(ScriptedWorker([answer("Fine.")])) as running, socket(running.port) as connection:
        await connection.send(create("How are you?"))
        assert await close_code(connection) == 1011


async def test_an_upgrade_is_refused_with_a_status(start_edge: StartEdge, caplog: pytest.LogCaptureFixture) -> None:
    async with start_edge(ScriptedWorker([answer("Fine.")]), security=KEYS) as running:
        for path, headers, status in (
            ("/v1/responses", {}, 401),
            ("/v1/responses", {"authorization": "Bearer wrong"}, 401),
            ("/v1/chat/completions", {"authorization": "Bearer pb-secret"}, 404),
            ("/nowhere", {"authorization": "Bearer pb-secret"}, 404),
        ):
            with pytest.raises(InvalidStatus) as raised:
                async with socket(running.port, path, **headers):
                    pass
            assert raised.value.response.status_code == status
            assert json.loads(raised.value.response.body or b"")["error"]["message"]
        assert not errors(caplog)
        # The key's own limit is for what is answered, not for sockets.
        allowed = {"authorization": "Bearer pb-secret"}
        async with socket(running.port, **allowed) as one, socket(running.port, **allowed) as other:
            for connection in (one, other):
                await connection.send(create("How are you?"))
                assert (await last(connection))["type"] == "response.completed"


async def test_no_page_of_another_site_opens_a_socket(start_edge: StartEdge) -> None:
    async with start_edge(ScriptedWorker([answer("Fine.")])) as running:
        for origin in ("https://evil.test", "null", "http://[", f"http://127.0.0.1:{running.port + 1}"):
            with pytest.raises(InvalidStatus) as raised:
                async with socket(running.port, origin=origin):
                    pass
            assert raised.value.response.status_code == 403
        async with socket(running.port, origin=f"http://127.0.0.1:{running.port}") as connection:
            await connection.send(create("How are you?"))
            assert (await last(connection))["type"] == "response.completed"


async def test_sockets_are_counted_among_the_connections(start_edge: StartEdge) -> None:
    async with start_edge(ScriptedWorker([answer("Fine.")]), limits={"max_connections": 2}) as running:
        async with socket(running.port), socket(running.port):
            with pytest.raises(InvalidStatus) as raised:
                async with socket(running.port):
                    pass
            assert raised.value.response.status_code == 503
            assert raised.value.response.headers["retry-after"] == "1"
        await running.idle()
        async with socket(running.port):
            pass


async def test_binary_frames_end_the_connection(start_edge: StartEdge) -> None:
    async with start_edge(ScriptedWorker([answer("Fine.")])) as running, socket(running.port) as connection:
        await connection.send(b"\x00")
        assert await close_code(connection) == 1003


async def test_a_socket_that_comes_while_a_drain_begins_is_refused(
    start_edge: StartEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start_edge(ScriptedWorker([answer("Fine.")])) as running:
        admit = running.edge.admission.admit

        async def admit_late(**arguments: Any) -> Lease:
            lease: Lease = await admit(**arguments)
            running.server._drain()
            await asyncio.sleep(0)
            return lease

        monkeypatch.setattr(running.edge.admission, "admit", admit_late)
        with pytest.raises(InvalidStatus) as refused:
            async with socket(running.port):
                pass
        assert refused.value.response.status_code == 503
        await asyncio.wait_for(asyncio.shield(running.serving), 20)
        assert running.edge.admission.held == 0


async def test_a_drain_lets_answers_end_and_closes_the_idle(start_edge: StartEdge) -> None:
    release = asyncio.Event()
    worker = ScriptedWorker([[[STARTED, BLOCK, text("slow")], release, [FINISHED]]])
    async with start_edge(worker) as running, socket(running.port) as busy, socket(running.port) as idle:
        await busy.send(create("How are you?"))
        assert json.loads(await busy.recv())["type"] == "response.created"
        running.server._drain()
        assert await asyncio.wait_for(close_code(idle), 5) == 1001
        with pytest.raises(InvalidStatus) as refused:
            async with socket(running.port):
                pass
        assert refused.value.response.status_code == 503
        release.set()
        assert (await last(busy))["type"] == "response.completed"
        assert await close_code(busy) == 1001
        await asyncio.wait_for(asyncio.shield(running.serving), 10)
