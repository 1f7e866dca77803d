"""Sealing: only the same key and the same place open what was sealed."""

from __future__ import annotations

import base64

import pytest

from patchbay.state.sealing import CannotOpen, Sealer, key_of, make_sealer

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
PLACE = "pb:{codex}:logins"


@pytest.mark.parametrize("plain", [b"", b"a made-up token", b"\x00" * 10_000])
def test_what_was_sealed_opens_in_its_place(plain: bytes) -> None:
    sealer = Sealer([KEY])
    sealed = sealer.seal(plain, PLACE)
    assert not plain or plain not in sealed
    assert sealer.open(sealed, PLACE) == plain
    assert sealer.seal(plain, PLACE) != sealed


def test_it_does_not_open_elsewhere_or_changed_at_any_byte() -> None:
    sealer = Sealer([KEY])
    sealed = sealer.seal(b"a made-up token", PLACE)
    with pytest.raises(CannotOpen):
        sealer.open(sealed, "pb:{codex}:other")
    for index in range(len(sealed)):
        changed = bytearray(sealed)
        changed[index] ^= 1
        with pytest.raises(CannotOpen):
            sealer.open(bytes(changed), PLACE)
        with pytest.raises(CannotOpen):
            sealer.open(sealed[:index], PLACE)


def test_the_first_key_seals_and_all_open() -> None:
    old, both, new = Sealer([OTHER]), Sealer([KEY, OTHER]), Sealer([KEY])
    assert both.open(old.seal(b"x", PLACE), PLACE) == b"x"
    assert new.open(both.seal(b"x", PLACE), PLACE) == b"x"
    with pytest.raises(CannotOpen, match=r"not among security\.secrets_key"):
        new.open(old.seal(b"x", PLACE), PLACE)


@pytest.mark.parametrize(
    "text",
    [
        KEY.hex(),
        KEY.hex().upper(),
        base64.b64encode(KEY).decode(),
        base64.urlsafe_b64encode(KEY).decode().rstrip("="),
        f" {KEY.hex()}\n",
    ],
)
def test_spellings_of_a_key(text: str) -> None:
    assert key_of(text) == KEY


def test_any_other_text_is_a_passphrase_that_every_replica_understands_alike() -> None:
    words = "correct horse, battery staple"
    assert len(key_of(words)) == 32
    assert key_of(words) == key_of(words) != key_of(words + "!")
    # One digit short of a key.
    assert key_of(KEY.hex()[:-2]) != KEY


def test_without_a_key_there_is_no_sealer() -> None:
    assert make_sealer([]) is None
    sealer = make_sealer(["words of a passphrase", KEY.hex()])
    assert sealer is not None
    assert sealer.open(Sealer([KEY]).seal(b"x", PLACE), PLACE) == b"x"
