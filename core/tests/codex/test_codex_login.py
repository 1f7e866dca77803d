"""What a sign-in's tokens say, whatever they look like."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest

from patchbay.codex.login import Login, claims_of


def token(**claims: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{payload}.c2ln"


AUTH = "https://api.openai.com/auth"
PROFILE = "https://api.openai.com/profile"


def test_reads_what_the_tokens_say(login: Login) -> None:
    assert (login.email, login.plan, login.account) == ("me@x.test", "plus", "acc-1")
    assert login.expires_at == 2_000_000_000
    other = Login(
        access_token=token(exp="2000000000", **{AUTH: {"chatgpt_account_id": "acc-2", "chatgpt_plan_type": "team"}}),
        id_token=token(**{PROFILE: {"email": "you@x.test"}}),
    )
    assert (other.email, other.plan, other.account) == ("you@x.test", "team", "acc-2")
    assert other.expires_at == 2_000_000_000
    # What was stored is the account, whatever a token names.
    assert msgspec.structs.replace(other, account_id="acc-3").account == "acc-3"


@pytest.mark.parametrize("text", ["", "opaque", "a.b", "a.!.c", "a.e30.c", "e30.W10.c", "a.bnVsbA.c", "é.é.é"])
def test_a_token_that_says_nothing_is_no_error(text: str) -> None:
    assert claims_of(text).exp == 0
    login = Login(access_token=text, last_refresh=1_000_000.0)
    assert (login.email, login.plan, login.account) == ("", "", "")


@pytest.mark.parametrize(("seconds_left", "due"), [(360, False), (301, False), (300, True), (240, True), (-1, True)])
def test_is_renewed_five_minutes_before_its_end(login: Login, seconds_left: float, due: bool) -> None:
    assert login.is_due(login.expires_at - seconds_left) is due


@pytest.mark.parametrize(("days", "due"), [(7, False), (9, True)])
def test_a_token_that_does_not_say_when_it_ends_is_renewed_after_eight_days(days: int, due: bool) -> None:
    assert Login(access_token="opaque", last_refresh=1_000_000.0).is_due(1_000_000 + days * 86_400) is due


def test_a_fingerprint_changes_with_every_renewal_and_shows_nothing(login: Login) -> None:
    renewed = msgspec.structs.replace(login, access_token=token(exp=1, iat=1_900_000_001))
    rotated = msgspec.structs.replace(login, refresh_token="rt-made-up-2")
    assert len({login.fingerprint, renewed.fingerprint, rotated.fingerprint}) == 3
    for shown in (repr(login), str([login]), f"{login}"):
        assert login.refresh_token not in shown
        assert login.access_token not in shown


@pytest.mark.parametrize(
    "claims",
    [
        {"email": None, AUTH: {"chatgpt_account_id": "acc-2", "chatgpt_plan_type": None}, PROFILE: None},
        {"email": 7, AUTH: {"chatgpt_account_id": "acc-2", "chatgpt_plan_type": []}, PROFILE: {"email": None}},
    ],
)
def test_what_a_token_leaves_empty_hides_nothing_else_it_says(claims: dict[str, object]) -> None:
    login = Login(access_token=token(exp=2_000_000_000, **claims), id_token=token(**claims))
    assert (login.account, login.plan, login.email) == ("acc-2", "", "")
    assert login.expires_at == 2_000_000_000
