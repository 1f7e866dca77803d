from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest

from patchbay.canonical import BlockStop, ChatEvent, Head, Usage, Warning
from patchbay.dialects.anthropic import DIALECT as ANTHROPIC
from patchbay.dialects.base import AnswerOptions
from patchbay.dialects.openai_chat import DIALECT as OPENAI_CHAT
from patchbay.errors import OVERLOADED, UPSTREAM, PatchbayError, make_error
from patchbay.testing import virtual_time
from patchbay.testing.worker import BLOCK, FINISHED, STARTED, native, text
from patchbay_edge.endpoints import AnyDialect
from patchbay_edge.exchange import Exchange
from patchbay_edge.reply import Reply

Message = MutableMapping[str, Any]
HOLD, PING = 10.0, 4.0
STOP = ChatEvent(block_stop=BlockStop(index=0))


class Socket:
    """What the client gets, and when; `full` makes each further message wait until it is set again."""

    def __init__(self, dialect: AnyDialect = ANTHROPIC, *, stream: bool = True) -> None:
        self.sent: list[tuple[float, Message]] = []
        self.room = asyncio.Event()
        self.room.set()
        self.waiting = 0
        self.most_waiting = 0
        exchange = Exchange({"headers": []}, self._receive, self._send, request_id="req_1")
        writer = dialect.write_events(AnswerOptions(stream=stream, model="m", fallback_id="id_1"))
        self.exchange = exchange
        self.reply = Reply(exchange, writer, stream=stream, hold_seconds=HOLD, ping_seconds=PING)

    async def _receive(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def _send(self, message: Message) -> None:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        await self.room.wait()
        self.waiting -= 1
        self.sent.append((asyncio.get_running_loop().time(), message))

    @property
    def head(self) -> dict[str, str]:
        message = self.sent[0][1]
        assert message["type"] == "http.response.start"
        return {name.decode(): value.decode("latin-1") for name, value in message["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for _, message in self.sent[1:])

    @property
    def names(self) -> list[str]:
        """The events of an Anthropic stream, in order."""
        return [line[7:].decode() for line in self.body.split(b"\n") if line.startswith(b"event: ")]

    def times(self, name: str) -> list[float]:
        """When an event of an Anthropic stream was sent."""
        wanted = f"event: {name}\n".encode()
        return [at for at, message in self.sent if wanted in message.get("body", b"")]


def play(work: Callable[[Socket], Awaitable[None]], dialect: AnyDialect = ANTHROPIC, *, stream: bool = True) -> Socket:
    async def run() -> Socket:
        socket = Socket(dialect, stream=stream)
        with socket.reply:
            await work(socket)
        await virtual_time.pass_time(100)
        assert len(asyncio.all_tasks()) == 1
        return socket

    return virtual_time.run(run())


def test_the_head_waits_for_the_first_content() -> None:
    async def work(socket: Socket) -> None:
        await virtual_time.pass_time(HOLD - 1)
        assert (socket.sent, socket.reply.committed) == ([], False)
        socket.reply.describe({"x-patchbay-backend": "a"}, [ChatEvent(head=Head(headers={"request-id": "up_1"}))])
        await socket.reply.write([STARTED, BLOCK, text("hello")])
        assert socket.reply.committed
        await socket.reply.write([STOP, FINISHED])
        await socket.reply.end()

    socket = play(work)
    assert socket.sent[0][0] == HOLD - 1
    assert socket.sent[0][1]["status"] == 200
    assert socket.head == {
        "request-id": "up_1",
        "x-request-id": "up_1",
        "x-patchbay-request-id": "req_1",
        "content-type": "text/event-stream",
        "x-patchbay-backend": "a",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
    }
    assert socket.names[0] == "message_start"
    assert socket.names[-1] == "message_stop"
    assert [message["more_body"] for _, message in socket.sent[1:]] == [True] * (len(socket.sent) - 2) + [False]


def test_after_the_hold_the_head_goes_out_and_pings_follow() -> None:
    async def work(socket: Socket) -> None:
        await virtual_time.pass_time(HOLD + 2 * PING + 1)
        assert socket.reply.committed
        await socket.reply.write([STARTED, BLOCK, text("hello"), STOP, FINISHED])
        await socket.reply.end()

    socket = play(work)
    assert socket.sent[0][0] == HOLD
    assert socket.times("ping") == [HOLD, HOLD + PING, HOLD + 2 * PING]
    assert socket.names.count("message_start") == 1
    assert socket.names[-1] == "message_stop"


def test_pings_come_only_in_silence_and_never_after_the_end() -> None:
    async def work(socket: Socket) -> None:
        await virtual_time.pass_time(1)
        await socket.reply.write([STARTED, BLOCK, text("hello")])
        for _ in range(10):
            await virtual_time.pass_time(PING - 0.5)
            await socket.reply.write([text("x")])
        await virtual_time.pass_time(2.5 * PING)
        await socket.reply.write([STOP, FINISHED])
        await socket.reply.end()

    socket = play(work)
    silent_since = 1 + 10 * (PING - 0.5)
    assert socket.times("ping") == pytest.approx([silent_since + PING, silent_since + 2 * PING])


@pytest.mark.parametrize("blocked_on", ["content", "the end", "an error"])
def test_no_ping_comes_into_a_write_that_waits_for_the_client(blocked_on: str) -> None:
    async def work(socket: Socket) -> None:
        await socket.reply.write([STARTED, BLOCK, text("hello")])
        socket.room.clear()
        asyncio.get_running_loop().call_later(10 * PING, socket.room.set)
        if blocked_on == "an error":
            await socket.reply.fail(make_error(UPSTREAM, "broken"))
            return
        if blocked_on == "content":
            await socket.reply.write([text("x")])
        else:
            await socket.reply.write([STOP, FINISHED])
        await socket.reply.end()

    socket = play(work)
    assert socket.times("ping") == []
    assert socket.most_waiting == 1


def test_pings_do_not_pile_up_before_a_client_that_does_not_read() -> None:
    async def work(socket: Socket) -> None:
        socket.room.clear()
        await virtual_time.pass_time(HOLD + 10 * PING)
        assert socket.waiting == 1
        socket.room.set()
        await socket.reply.write([STARTED, BLOCK, text("hello"), STOP, FINISHED])
        await socket.reply.end()

    socket = play(work)
    assert socket.most_waiting == 1
    assert [message["type"] for _, message in socket.sent][:2] == ["http.response.start", "http.response.body"]
    assert socket.names.count("ping") == 1
    assert socket.names[-1] == "message_stop"


def test_content_that_comes_while_the_head_goes_out_follows_it() -> None:
    async def work(socket: Socket) -> None:
        socket.room.clear()
        await virtual_time.pass_time(HOLD + 1)
        writing = asyncio.create_task(socket.reply.write([STARTED, BLOCK, text("hello")]))
        await virtual_time.pass_time(1)
        socket.room.set()
        await writing
        await socket.reply.end()

    socket = play(work)
    assert [message["type"] for _, message in socket.sent].count("http.response.start") == 1
    assert socket.names.index("message_start") < socket.names.index("content_block_delta")


@pytest.mark.parametrize("head_is_out", [True, False])
def test_an_error_after_the_commit_ends_the_stream_in_its_dialect(head_is_out: bool) -> None:
    async def work(socket: Socket) -> None:
        if head_is_out:
            await virtual_time.pass_time(HOLD + 1)
        else:
            # The timer has just decided to send it, and nothing of it is sent.
            socket.room.clear()
            await virtual_time.pass_time(HOLD + 0.5)
            asyncio.get_running_loop().call_later(1, socket.room.set)
        assert socket.reply.committed
        await socket.reply.fail(make_error(OVERLOADED, "too much", http_status=529))

    socket = play(work)
    assert socket.names[-1] == "error"
    assert b'"type":"overloaded_error"' in socket.body
    assert socket.sent[-1][1]["more_body"] is False


def test_a_cancelled_start_is_made_up_for_by_the_error() -> None:
    async def work(socket: Socket) -> None:
        socket.room.clear()

        async def answer() -> None:
            await virtual_time.pass_time(HOLD - 1)
            # Waits behind the client, and then behind the sign of life.
            await socket.reply.write([STARTED, BLOCK, text("hello")])

        task = asyncio.create_task(answer())
        await virtual_time.pass_time(HOLD + 1)
        task.cancel()
        await asyncio.wait([task])
        socket.room.set()
        await socket.reply.fail(make_error(OVERLOADED, "shutting down"))

    socket = play(work)
    assert socket.names[-1] == "error"
    assert socket.sent[-1][1]["more_body"] is False


def test_a_plain_answer_is_one_body_with_its_length() -> None:
    async def work(socket: Socket) -> None:
        await virtual_time.pass_time(10 * HOLD)
        assert (socket.sent, socket.reply.committed) == ([], False)
        await socket.reply.write([STARTED, BLOCK, text("hel")])
        await socket.reply.write([text("lo"), STOP, ChatEvent(usage=Usage(input_tokens=3, output_tokens=2)), FINISHED])
        assert socket.sent == []
        await socket.reply.end()

    socket = play(work, OPENAI_CHAT, stream=False)
    assert len(socket.sent) == 2
    assert socket.head["content-length"] == str(len(socket.body))
    assert socket.head["content-type"] == "application/json"
    assert json.loads(socket.body)["choices"][0]["message"]["content"] == "hello"


def test_a_plain_native_answer_passes_untouched() -> None:
    body = b'{"id":"x",  "unknown": [1, 2]}'

    async def work(socket: Socket) -> None:
        await socket.reply.write([native(body[:9])])
        await socket.reply.write([native(body[9:]), FINISHED])
        await socket.reply.end()

    assert play(work, stream=False).body == body


@pytest.mark.parametrize("events", [[STARTED, BLOCK, text("half")], [STARTED], []])
def test_a_plain_answer_that_never_finished_is_an_error_not_an_answer(events: list[ChatEvent]) -> None:
    async def work(socket: Socket) -> None:
        await socket.reply.write(events)
        with pytest.raises(PatchbayError):
            await socket.reply.end()

    assert play(work, stream=False).sent == []


def test_a_stream_that_never_finished_ends_with_an_error() -> None:
    async def work(socket: Socket) -> None:
        await socket.reply.write([STARTED, BLOCK, text("half")])
        await socket.reply.end()

    socket = play(work)
    assert socket.names[-1] == "error"
    assert "message_stop" not in socket.names


def test_warnings_are_one_bounded_line_of_latin_1() -> None:
    warnings = [ChatEvent(warning=Warning(parameter=f"p{n}", message="not\r\nhonoured, 日本 " * 10)) for n in range(50)]

    async def work(socket: Socket) -> None:
        socket.reply.describe({}, [*warnings, ChatEvent(warning=Warning(message="no parameter"))])
        await socket.reply.write([STARTED, BLOCK, text("x"), STOP, FINISHED])
        await socket.reply.end()

    line = play(work).head["x-patchbay-warnings"]
    assert line.startswith("p0: not  honoured, ?? not")
    assert len(line) <= 4096
    assert line.isprintable()
