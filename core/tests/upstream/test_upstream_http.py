from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from patchbay.errors import INVALID_REQUEST, TIMEOUT, UNAVAILABLE, UPSTREAM, Code, PatchbayError
from patchbay.settings import Timeouts
from patchbay.testing.eventually import eventually, hold, settled
from patchbay.testing.ports import free_port
from patchbay.testing.upstream import Script, Upstream, Visit
from patchbay.upstream import http, transport
from patchbay.upstream.http import HttpUpstream

Dial = Callable[..., HttpUpstream]
Serve = Callable[[Script], Awaitable[Upstream]]


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    opened: list[HttpUpstream] = []

    def make(url: str, *, connect: float = 5, first_byte: float = 5, idle: float = 5) -> HttpUpstream:
        timeouts = Timeouts(connect=connect, first_byte=first_byte, idle=idle)
        opened.append(HttpUpstream(url, timeouts))
        return opened[-1]

    yield make
    for upstream in opened:
        await upstream.aclose()


async def read_all(upstream: HttpUpstream, *, body: bytes = b"{}") -> bytes:
    async with upstream.request("POST", "/chat", headers={"x-a": "b"}, body=body) as response:
        return b"".join([piece async for piece in response.pieces()])


async def failure(upstream: HttpUpstream) -> tuple[Code, bool]:
    with pytest.raises(PatchbayError) as caught:
        await asyncio.wait_for(read_all(upstream), 10)
    return caught.value.error.code, caught.value.error.retryable


async def test_sends_the_request_and_reads_the_answer(serve: Serve, dial: Dial) -> None:
    async def script(visit: Visit) -> None:
        await visit.answer(b"hello", "Content-Type: Text/Event-Stream; charset=utf-8", "X-Limit: 1", "X-Limit: 2")

    server = await serve(script)
    async with dial(server.url + "/v1/").request("POST", "/chat", headers={"x-a": "b"}, body=b'{"a":1}') as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        assert response.headers["x-limit"] == "1, 2"
        assert [piece async for piece in response.pieces()] == [b"hello"]
    visit = server.visits[0]
    assert visit.head.startswith(b"POST /v1/chat HTTP/1.1\r\n")
    assert visit.body == b'{"a":1}'
    assert visit.header("x-a") == "b"
    assert visit.header("user-agent") == "patchbay"
    assert visit.header("accept-encoding") == "identity"
    assert visit.header("cookie") is None


async def test_another_origin_has_the_same_paths(serve: Serve, dial: Dial) -> None:
    async def script(visit: Visit) -> None:
        await visit.answer(b"hello")

    server = await serve(script)
    elsewhere = dial("http://127.0.0.1:1/v1/", idle=7).at(server.url)
    try:
        assert await read_all(elsewhere) == b"hello"
    finally:
        await elsewhere.aclose()
    assert server.visits[0].head.startswith(b"POST /v1/chat HTTP/1.1\r\n")


async def test_nobody_listens(dial: Dial) -> None:
    assert await failure(dial(f"http://127.0.0.1:{free_port()}")) == (UNAVAILABLE, True)


async def test_a_host_that_does_not_exist(dial: Dial) -> None:
    assert await failure(dial("http://nowhere.invalid")) == (UNAVAILABLE, True)


async def test_no_head_in_time(serve: Serve, dial: Dial) -> None:
    server = await serve(Visit.wait_left)
    assert await failure(dial(server.url, first_byte=0.1)) == (TIMEOUT, True)
    await eventually(lambda: server.visits[0].left_at is not None)


async def test_a_head_that_never_ends(serve: Serve, dial: Dial) -> None:
    async def script(visit: Visit) -> None:
        await visit.say(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n")
        await visit.wait_left()

    assert await failure(dial((await serve(script)).url, first_byte=0.1)) == (TIMEOUT, True)


async def test_silence_between_pieces(serve: Serve, dial: Dial) -> None:
    async def script(visit: Visit) -> None:
        await visit.say_head("transfer-encoding: chunked")
        for _ in range(5):
            await visit.say_chunk(b"x")
            await hold(0.1)
        await visit.wait_left()

    server = await serve(script)
    got = bytearray()

    async def work() -> None:
        async with dial(server.url, idle=0.4).request("POST", "/", headers={}) as response:
            async for piece in response.pieces():
                got.extend(piece)

    with pytest.raises(PatchbayError) as caught:
        await work()
    assert caught.value.error.code == TIMEOUT
    # The whole took longer than the limit on silence; only the silence counted.
    assert bytes(got) == b"xxxxx"
    await eventually(lambda: server.visits[0].left_at is not None)


async def test_a_slow_reader_is_no_silence(serve: Serve, dial: Dial) -> None:
    async def script(visit: Visit) -> None:
        await visit.say_head("transfer-encoding: chunked")
        await visit.say_chunk(b"one")
        await hold(0.05)
        await visit.say_chunk(b"two")
        await visit.say(b"0\r\n\r\n")

    got = []
    async with dial((await serve(script)).url, idle=0.2).request("POST", "/", headers={}) as response:
        async for piece in response.pieces():
            got.append(piece)
            await hold(0.3)
    assert b"".join(got) == b"onetwo"


async def test_a_reader_that_stops_stops_the_upstream(serve: Serve, dial: Dial) -> None:
    sent = 0

    async def script(visit: Visit) -> None:
        nonlocal sent
        await visit.say_head("transfer-encoding: chunked")
        for _ in range(1600):
            await visit.say_chunk(b"x" * 32768)
            sent += 32768
        await visit.say(b"0\r\n\r\n")

    async with dial((await serve(script)).url, idle=0.5).request("POST", "/", headers={}) as response:
        pieces = response.pieces()
        first = await anext(pieces)
        await settled(lambda: sent)
        # Socket buffers and one buffer of ours, of 50 MB.
        assert sent < 12_000_000
        rest = [len(piece) async for piece in pieces]
    assert len(first) + sum(rest) == sent == 1600 * 32768


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("content-length: 10", b"short"),
        ("transfer-encoding: chunked", b"5\r\nhello\r\n"),
        ("transfer-encoding: chunked", b"ff\r\nhello"),
        ("transfer-encoding: chunked", b"zz\r\nhello\r\n"),
    ],
    ids=["content-length", "between chunks", "within a chunk", "bad chunk size"],
)
async def test_a_body_that_breaks_off(serve: Serve, dial: Dial, head: str, body: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.say_head(head)
        await visit.say(body)

    assert await failure(dial((await serve(script)).url)) == (UPSTREAM, True)


async def test_a_reset_in_the_middle(serve: Serve, dial: Dial) -> None:
    async def script(visit: Visit) -> None:
        await visit.say_head("transfer-encoding: chunked")
        await visit.say_chunk(b"hello")
        visit.writer.transport.abort()

    assert await failure(dial((await serve(script)).url)) == (UPSTREAM, True)


async def test_no_answer_at_all(serve: Serve, dial: Dial) -> None:
    async def script(visit: Visit) -> None:
        return

    assert await failure(dial((await serve(script)).url)) == (UNAVAILABLE, True)


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"HTTP/1.1 two hundred\r\n\r\n", b"\x16\x03\x01\x02"]
)
async def test_an_answer_that_is_not_http(serve: Serve, dial: Dial, answer: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.say(answer)

    code, _ = await failure(dial((await serve(script)).url))
    assert code in (UPSTREAM, UNAVAILABLE)


async def test_leaving_early_closes_the_connection_at_once(serve: Serve, dial: Dial) -> None:
    async def script(visit: Visit) -> None:
        await visit.say_head("transfer-encoding: chunked")
        await visit.say_chunk(b"hello")
        await visit.wait_left()

    server = await serve(script)
    async with (
        dial(server.url).request("POST", "/", headers={}) as response,
        contextlib.aclosing(response.pieces()) as pieces,
    ):
        assert await anext(pieces) == b"hello"
    left_at = asyncio.get_running_loop().time()
    await eventually(lambda: server.visits[0].left_at is not None)
    assert server.visits[0].left_at - left_at < 1


@pytest.mark.parametrize("moment", ["connecting", "waiting for the head", "reading", "between pieces"])
async def test_cancelling_closes_the_connection_at_once(serve: Serve, dial: Dial, moment: str) -> None:
    reached = asyncio.Event()

    async def script(visit: Visit) -> None:
        if moment == "waiting for the head":
            reached.set()
        else:
            await visit.say_head("transfer-encoding: chunked")
            await visit.say_chunk(b"hello")
        await visit.wait_left()

    server = await serve(script)
    upstream = dial(server.url)

    async def work() -> None:
        if moment == "connecting":
            reached.set()
        async with upstream.request("POST", "/", headers={}) as response:
            async for _ in response.pieces():
                reached.set()
                if moment == "between pieces":
                    await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await reached.wait()
    cancelled_at = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if moment != "connecting":
        await eventually(lambda: server.visits[0].left_at is not None)
        assert server.visits[0].left_at - cancelled_at < 1


async def test_an_upstream_that_refuses_without_reading_the_request(serve: Serve, dial: Dial) -> None:
    server_saw: list[int] = []

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_saw.append(len(await reader.readuntil(b"\r\n\r\n")))
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 4\r\n\r\nmuch")
        await asyncio.Event().wait()

    server = await asyncio.start_server(visit, "127.0.0.1", 0, limit=1024)
    try:
        upstream = dial(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with asyncio.timeout(5):
            async with upstream.request("POST", "/", headers={}, body=b"x" * 30_000_000) as response:
                assert response.status == 413
                assert await transport.read_all(response, 100) == b"much"
    finally:
        server.close()


async def test_redirects_are_answers_not_followed(serve: Serve, dial: Dial) -> None:
    async def elsewhere(visit: Visit) -> None:
        await visit.answer(b"")

    other = await serve(elsewhere)

    async def script(visit: Visit) -> None:
        await visit.answer(b"", f"location: {other.url}/", status="307 Temporary Redirect")

    upstream = dial((await serve(script)).url)
    async with upstream.request("POST", "/", headers={"authorization": "Bearer secret"}) as response:
        assert response.status == 307
    assert other.visits == []


async def test_cookies_are_not_kept(serve: Serve, dial: Dial) -> None:
    async def script(visit: Visit) -> None:
        await visit.answer(b"", "set-cookie: who=alice; Path=/", "connection: close")

    server = await serve(script)
    upstream = dial(server.url)
    await read_all(upstream)
    await read_all(upstream)
    assert [visit.header("cookie") for visit in server.visits] == [None, None]


async def test_connections_are_used_again(serve: Serve, dial: Dial) -> None:
    async def script(visit: Visit) -> None:
        await visit.answer(b"1")
        while await visit.read_request():
            await visit.answer(b"n")

    server = await serve(script)
    upstream = dial(server.url)
    assert [await read_all(upstream) for _ in range(4)] == [b"1", b"n", b"n", b"n"]
    assert len(server.visits) == 1


async def test_compressed_bytes_stay_as_they_are(serve: Serve, dial: Dial) -> None:
    packed = gzip.compress(b"{}")

    async def script(visit: Visit) -> None:
        await visit.answer(packed, "content-encoding: gzip")

    assert await read_all(dial((await serve(script)).url)) == packed


async def test_an_upstream_that_stays_after_its_answer_is_left(
    serve: Serve, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "LINGER_SECONDS", 0.1)

    async def script(visit: Visit) -> None:
        await visit.say_head("transfer-encoding: chunked")
        await visit.say_chunk(b"all")
        await hold(0.05)
        await visit.say_chunk(b" of it")
        await visit.wait_left()

    server = await serve(script)
    got = []
    async with asyncio.timeout(3), dial(server.url, idle=30).request("POST", "/", headers={}) as response:
        async for piece in response.pieces():
            got.append(piece)
            response.finished()
            # A slow reader does not shorten what the upstream still has to say.
            await hold(0.2)
    assert b"".join(got) == b"all of it"
    await eventually(lambda: server.visits[0].left_at is not None)


async def test_a_connection_that_breaks_after_the_answer_does_not_matter(serve: Serve, dial: Dial) -> None:
    async def script(visit: Visit) -> None:
        await visit.say_head("transfer-encoding: chunked")
        await visit.say_chunk(b"all")

    got = []
    async with dial((await serve(script)).url).request("POST", "/", headers={}) as response:
        async for piece in response.pieces():
            got.append(piece)
            response.finished()
    assert got == [b"all"]


async def test_read_takes_no_more_than_asked(serve: Serve, dial: Dial) -> None:
    async def script(visit: Visit) -> None:
        await visit.answer(b"x" * 1_000_000)

    server = await serve(script)
    async with dial(server.url).request("POST", "/", headers={}) as response:
        assert await transport.read_all(response, 1000) == b"x" * 1000


async def test_a_header_that_cannot_be_sent_is_an_error_without_it(serve: Serve, dial: Dial) -> None:
    async def script(visit: Visit) -> None:
        await visit.answer(b"")

    upstream = dial((await serve(script)).url)
    with pytest.raises(PatchbayError) as caught:
        async with upstream.request("POST", "/", headers={"x-api-key": "schlüssel"}):
            raise AssertionError("unreachable")
    assert caught.value.error.code == INVALID_REQUEST
    assert "schl" not in caught.value.error.message
    assert caught.value.__cause__ is None


async def test_hundreds_at_once(serve: Serve, dial: Dial) -> None:
    everyone = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.say_head("transfer-encoding: chunked")
        await visit.say_chunk(visit.body)
        if len(server.visits) == 300:
            everyone.set()
        await everyone.wait()
        await visit.say_chunk(b"!")
        await visit.say(b"0\r\n\r\n")

    server: Upstream = await serve(script)
    upstream = dial(server.url, idle=20)
    answers = await asyncio.gather(*(read_all(upstream, body=b"%d" % number) for number in range(300)))
    assert answers == [b"%d!" % number for number in range(300)]
