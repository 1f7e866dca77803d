from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchbay.dialects import sse
from patchbay.dialects.sse import Frame, FrameSplitter, FrameTooLarge, cut_frames, parse_frames


def read(*pieces: bytes) -> list[Frame]:
    """The frames of a stream that came in these pieces, what is left at the end included."""
    splitter = FrameSplitter()
    frames = [frame for piece in pieces for frame in parse_frames(splitter.feed(piece))]
    return frames + parse_frames(splitter.close())


@pytest.mark.parametrize(
    ("stream", "frames"),
    [
        (b"data: a\n\n", [Frame(b"", b"a")]),
        (b"data:a\n\ndata:  b\n\n", [Frame(b"", b"a"), Frame(b"", b" b")]),
        (b"event: ping\ndata: {}\n\n", [Frame(b"ping", b"{}")]),
        (b"event:ping\n\n", [Frame(b"ping", b"")]),
        (b"data: a\ndata: b\ndata\n\n", [Frame(b"", b"a\nb\n")]),
        (b": comment\n\n:\n\ndata: a\n\n", [Frame(b"", b"a")]),
        (b": comment\ndata: a\nid: 7\nretry: 5\nunknown\n\n", [Frame(b"", b"a")]),
        (b"\n\n\n\ndata: a\n\n\n\n\n", [Frame(b"", b"a")]),
        (b"\xef\xbb\xbfdata: a\n\ndata: b\n\n", [Frame(b"", b"a"), Frame(b"", b"b")]),
        (b"\xef\xbb\xbf\n\ndata: a\n\n", [Frame(b"", b"a")]),
        (b"data: a\n\ndata: cut", [Frame(b"", b"a"), Frame(b"", b"cut")]),
        (b"", []),
        (b"data: \xc3\xa9\n\n", [Frame(b"", b"\xc3\xa9")]),
        (b"event: one\nevent: two\ndata: a\n\n", [Frame(b"two", b"a")]),
    ],
)
def test_frames_with_every_line_ending_at_every_cut(stream: bytes, frames: list[Frame]) -> None:
    for ending in (b"\n", b"\r\n", b"\r"):
        text = stream.replace(b"\n", ending)
        assert read(text) == frames
        for at in range(len(text) + 1):
            assert read(text[:at], text[at:]) == frames
        assert read(*(text[at : at + 1] for at in range(len(text)))) == frames


@given(
    lines=st.lists(
        st.tuples(
            st.sampled_from([b"", b"data: a", b"data: b", b"event: e", b": c"]),
            st.sampled_from([b"\n", b"\r\n", b"\r"]),
        ),
        max_size=12,
    ),
    cuts=st.lists(st.integers(0, 120), max_size=6),
)
def test_mixed_line_endings(lines: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    # A line ended by CR and an empty one ended by LF would be one CRLF.
    kept = [
        (text, b"\r\n" if ending == b"\r" and following[:1] == [(b"", b"\n")] else ending)
        for index, (text, ending) in enumerate(lines)
        for following in [lines[index + 1 : index + 2]]
    ]
    stream = b"".join(text + ending for text, ending in kept)
    plain = b"".join(text + b"\n" for text, _ in kept)
    points = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(points)]
    assert read(*pieces) == read(plain)


@given(st.lists(st.sampled_from([b"data: a", b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n"]), max_size=20))
def test_splitting_and_cutting_lose_no_byte(parts: list[bytes]) -> None:
    stream = b"".join(parts)
    splitter = FrameSplitter()
    frames = b"".join(splitter.feed(stream[at : at + 1]) for at in range(len(stream)))
    assert frames + splitter.close() == stream
    assert b"".join(cut_frames(stream)) == stream


def test_cut_frames() -> None:
    assert cut_frames(b"data: a\n\n\r\n\r\nevent: b\rdata: c\r\r") == [
        b"data: a\n\n",
        b"\r\n\r\n",
        b"event: b\rdata: c\r\r",
    ]


def test_whole_frames_come_at_once() -> None:
    splitter = FrameSplitter()
    assert splitter.feed(b"data: a\n\ndata: b\n\nda") == b"data: a\n\ndata: b\n\n"
    assert splitter.feed(b"ta: c\n") == b""
    assert splitter.feed(b"\n") == b"data: c\n\n"
    assert splitter.close() == b""


def test_frame_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_FRAME_BYTES", 100)
    splitter = FrameSplitter()
    splitter.feed(b"data: a\n\n" * 50 + b"x" * 60)
    with pytest.raises(FrameTooLarge):
        splitter.feed(b"x" * 60)


def test_large_frame_in_small_pieces() -> None:
    data = b"data: " + b"x" * 3_000_000 + b"\n\n"
    assert read(*(data[at : at + 1000] for at in range(0, len(data), 1000))) == [Frame(b"", b"x" * 3_000_000)]
