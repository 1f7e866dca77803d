from __future__ import annotations

import asyncio
import gzip
import itertools
import os
import zlib
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from patchbay.errors import INVALID_REQUEST, REQUEST_TOO_LARGE, Error, PatchbayError
from patchbay.testing import virtual_time
from patchbay.testing.eventually import eventually
from patchbay.testing.virtual_time import in_virtual_time, pass_time
from patchbay_edge.exchange import ClientGone, Exchange

Message = MutableMapping[str, Any]
LIMIT = 100_000
PLAIN = b'{"model":"m","messages":[' + b'{"role":"user","content":"hello"},' * 500 + b"]}"


class Client:
    """The client's side of one exchange."""

    def __init__(self, *pieces: bytes, headers: list[tuple[bytes, bytes]] | None = None, leaves: bool = False) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[Message] = []
        for number, piece in enumerate(pieces):
            more = leaves or number + 1 < len(pieces)
            self.messages.put_nowait({"type": "http.request", "body": piece, "more_body": more})
        if leaves:
            self.leave()
        scope = {"type": "http", "headers": headers or []}
        self.exchange = Exchange(scope, self.messages.get, self.send, request_id="req_1")

    def leave(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def header_lines(self) -> list[tuple[bytes, bytes]]:
        return list(self.sent[0]["headers"])


def encoded(encoding: str) -> list[tuple[bytes, bytes]]:
    return [(b"content-encoding", encoding.encode())]


async def refused(client: Client) -> Error:
    with pytest.raises(PatchbayError) as caught:
        await client.exchange.read_body(LIMIT)
    return caught.value.error


def zstd_unsized(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return compressor.compress(data) + compressor.flush()


PACK: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "case and space": (" GZip ", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "zstd": ("zstd", zstandard.ZstdCompressor().compress),
    "zstd of unknown size": ("zstd", zstd_unsized),
}
packed = pytest.mark.parametrize(("encoding", "pack"), PACK.values(), ids=PACK.keys())


@given(body=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=5))
def test_reads_a_body_in_whatever_pieces(body: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[start:end] for start, end in itertools.pairwise(edges)]

    async def work() -> bytes:
        return await Client(*pieces).exchange.read_body(LIMIT)

    assert asyncio.run(work()) == body


@packed
async def test_unpacks_a_body(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    whole = pack(PLAIN)
    client = Client(whole[:7], whole[7:], headers=encoded(encoding))
    assert await client.exchange.read_body(LIMIT) == PLAIN


@packed
async def test_a_body_of_just_the_limit(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    body = os.urandom(500) * (LIMIT // 500)
    assert await Client(pack(body), headers=encoded(encoding)).exchange.read_body(LIMIT) == body
    error = await refused(Client(pack(body + b"x"), headers=encoded(encoding)))
    assert error.code == REQUEST_TOO_LARGE


@packed
async def test_a_bomb(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(b"\0" * 50_000_000)
    assert len(bomb) < LIMIT
    error = await refused(Client(bomb, headers=encoded(encoding)))
    assert error.code == REQUEST_TOO_LARGE


async def test_a_zstd_frame_that_lies_about_its_size() -> None:
    bomb = bytearray(zstandard.ZstdCompressor().compress(b"\0" * 50_000_000))
    assert zstandard.get_frame_parameters(bytes(bomb)).content_size == 50_000_000
    # https://datatracker.ietf.org/doc/html/rfc8878#section-3.1.1.1: magic, descriptor, window, then four bytes of size.
    bomb[6:10] = (1000).to_bytes(4, "little")
    assert zstandard.get_frame_parameters(bytes(bomb)).content_size == 1000
    error = await refused(Client(bytes(bomb), headers=encoded("zstd")))
    assert (error.code, error.message) == (INVALID_REQUEST, "the body is not valid zstd")


@packed
async def test_a_packed_body_that_is_cut_off(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    whole = pack(PLAIN)
    for length in (0, 1, 5, len(whole) // 2, len(whole) - 1):
        error = await refused(Client(whole[:length], headers=encoded(encoding)))
        assert error.code == INVALID_REQUEST


@packed
async def test_a_packed_body_with_more_behind_it(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    for more in (b"garbage", pack(PLAIN)):
        error = await refused(Client(pack(PLAIN) + more, headers=encoded(encoding)))
        assert error.code == INVALID_REQUEST


@packed
async def test_a_body_that_is_not_what_it_says(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    error = await refused(Client(PLAIN, headers=encoded(encoding)))
    assert (error.code, error.http_status) == (INVALID_REQUEST, 400)


@pytest.mark.parametrize("encoding", ["br", "gzip, zstd", "compress"])
async def test_an_encoding_that_is_not_known(encoding: str) -> None:
    error = await refused(Client(PLAIN, headers=encoded(encoding)))
    assert (error.code, error.http_status) == (INVALID_REQUEST, 415)


@pytest.mark.parametrize("encoding", ["", "identity", "Identity"])
async def test_no_encoding(encoding: str) -> None:
    assert await Client(PLAIN, headers=encoded(encoding)).exchange.read_body(LIMIT) == PLAIN


async def test_a_declared_length_over_the_limit_is_refused_unread() -> None:
    client = Client(headers=[(b"content-length", b"100001")])
    assert (await refused(client)).code == REQUEST_TOO_LARGE


@pytest.mark.parametrize("declared", [[], [(b"content-length", b"5")], [(b"content-length", "²".encode("latin-1"))]])
async def test_an_undeclared_length_over_the_limit_is_refused_where_it_goes_over(
    declared: list[tuple[bytes, bytes]],
) -> None:
    client = Client(b"x" * 60_000, b"x" * 60_000, b"never read", headers=declared)
    assert (await refused(client)).code == REQUEST_TOO_LARGE
    assert client.messages.qsize() == 1


async def test_a_client_that_leaves_while_it_sends() -> None:
    with pytest.raises(ClientGone):
        await Client(b"{", leaves=True).exchange.read_body(LIMIT)


def test_a_client_that_falls_silent_while_it_sends() -> None:
    async def work() -> Error:
        client = Client(b"{", leaves=True)
        client.messages.get_nowait()
        client.messages.get_nowait()
        return await refused(client)

    error = virtual_time.run(work())
    assert (error.code, error.http_status) == (INVALID_REQUEST, 408)


def test_header_names_are_lower_case_and_lines_of_one_name_a_list() -> None:
    client = Client(headers=[(b"Anthropic-Beta", b"one"), (b"anthropic-beta", b"two"), (b"X-A", "é".encode("latin-1"))])
    assert client.exchange.headers == {"anthropic-beta": "one, two", "x-a": "é"}


async def test_answers_with_the_request_id() -> None:
    client = Client()
    await client.exchange.answer(200, b"hello", {"content-type": "text/plain"})
    assert client.sent == [
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"request-id", b"req_1"),
                (b"x-request-id", b"req_1"),
                (b"x-patchbay-request-id", b"req_1"),
                (b"content-type", b"text/plain"),
                (b"content-length", b"5"),
            ],
        },
        {"type": "http.response.body", "body": b"hello", "more_body": False},
    ]
    assert (client.exchange.started, client.exchange.ended, client.exchange.status) == (True, True, 200)


async def test_the_upstreams_request_id_stands_where_there_is_one() -> None:
    client = Client()
    await client.exchange.start(200, {"request-id": "up_1"})
    assert client.header_lines == [
        (b"request-id", b"up_1"),
        (b"x-request-id", b"req_1"),
        (b"x-patchbay-request-id", b"req_1"),
    ]


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("a\r\nset-cookie: evil=1", b"a  set-cookie: evil=1"),
        ("a\nb\rc\0d\x1be\x7ff\tg", b"a b c d e f\tg"),
        ("é", "é".encode("latin-1")),
        ("日本 ok", b"?? ok"),
        ("\ud800", b"?"),
    ],
)
async def test_a_header_is_one_line_whatever_it_holds(value: str, sent: bytes) -> None:
    client = Client()
    await client.exchange.start(200, {"x-a": value})
    assert client.header_lines[-1] == (b"x-a", sent)


async def test_a_client_that_leaves_cancels_the_work_at_once() -> None:
    client = Client()
    reached = asyncio.Event()

    async def work() -> None:
        async with client.exchange.watch_disconnect():
            reached.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await reached.wait()
    await asyncio.sleep(0)
    client.leave()
    with pytest.raises(ClientGone):
        await asyncio.wait_for(task, 1)
    assert task.cancelling() == 0


async def test_late_pieces_of_a_body_are_no_leaving() -> None:
    client = Client(b"more", b"and more")
    async with client.exchange.watch_disconnect():
        await eventually(lambda: client.messages.empty())
        await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0


@in_virtual_time
async def test_work_that_ends_is_left_alone() -> None:
    client = Client()
    async with client.exchange.watch_disconnect():
        await asyncio.sleep(0)
    client.leave()
    await pass_time(60)
    assert len(asyncio.all_tasks()) == 1


@in_virtual_time
async def test_what_servers_say_after_the_end_of_an_answer_is_no_leaving() -> None:
    client = Client()
    async with client.exchange.watch_disconnect():
        await client.exchange.answer(200, b"", {})
        client.leave()
        await pass_time(60)
        assert client.exchange.ended


@pytest.mark.parametrize("client_first", [True, False])
async def test_another_cancellation_is_never_swallowed(client_first: bool) -> None:
    client = Client()
    reached = asyncio.Event()

    async def work() -> None:
        async with client.exchange.watch_disconnect():
            reached.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await reached.wait()
    await asyncio.sleep(0)
    # In one step of the loop, in either order: the watcher cancels, and somebody else does.
    if client_first:
        client.leave()
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, task.cancel)
    else:
        client.leave()
        task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or isinstance(task.exception(), ClientGone)
    if not client_first:
        assert task.cancelled()


@in_virtual_time
async def test_a_leaving_is_seen_in_the_cleanup_of_a_cancelled_task() -> None:
    client = Client()
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            try:
                async with client.exchange.watch_disconnect():
                    await asyncio.Event().wait()
            except ClientGone:
                seen.append("gone")
            raise

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await pass_time(60)
    client.leave()
    await asyncio.wait([task])
    assert seen == ["gone"]
    assert task.cancelled()


async def test_other_errors_of_the_work_come_out_as_they_are() -> None:
    async def work() -> None:
        async with Client().exchange.watch_disconnect():
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await work()
