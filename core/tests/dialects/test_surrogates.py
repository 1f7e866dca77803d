import json

import pytest

from patchbay.dialects.surrogates import TextMender, mend_text

HIGH, LOW = r"\ud83d", r"\ude00"


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ('"a"', '"a"'),
        (f'"{HIGH}{LOW}"', '"😀"'),
        (rf'"\\{HIGH[1:]}"', rf'"\\{HIGH[1:]}"'),
        (f'"{HIGH}"', '"\ufffd"'),
        (f'"{LOW}{HIGH}"', '"\ufffd\ufffd"'),
        (f'"{HIGH}{HIGH}{LOW}{LOW}"', '"\ufffd😀\ufffd"'),
        (r'"\uD83Da"', '"\ufffda"'),
        ('"é"', '"é"'),
        (b'"\xff"', '"\ufffd"'),
    ],
)
def test_what_is_no_text_is_replaced(text: str | bytes, mended: str) -> None:
    raw = text if isinstance(text, bytes) else text.encode()
    assert json.loads(mend_text(raw)) == json.loads(mended)


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([f"a{HIGH}", f"{LOW}b"], "a😀b"),
        ([f"a{HIGH}", "", "b", f"{LOW}c"], "ab😀c"),
        ([HIGH, f"{LOW}{HIGH}", LOW], "😀😀"),
        ([LOW], "\ufffd"),
        ([f"{HIGH}a", LOW], "\ufffda\ufffd"),
        # Half a character that never gets its other half is no text.
        ([f"a{HIGH}", "b"], "ab"),
    ],
)
def test_a_pair_cut_between_two_pieces(pieces: list[str], said: str) -> None:
    mender = TextMender()
    mended = [mender.mend(f'{{"text":"{piece}"}}'.encode()) for piece in pieces]
    assert "".join(json.loads(text)["text"] for text in mended) == said
