from __future__ import annotations

import hmac

import pytest

from patchbay.dispatch import callers
from patchbay.dispatch.callers import Callers, Identity
from patchbay.errors import AUTHENTICATION, PatchbayError
from patchbay.settings import load
from patchbay.state.admission import Limits
from patchbay_proto.v1.provider_pb2 import Credential

DEFAULTS = Limits(requests_per_minute=60, concurrent_requests=6, max_connections=1000)
KEYS = (
    '[{"key":"pb-one","id":"one","organization":"acme","user":"ann"},'
    '{"key":"pb-two","id":"two","requests_per_minute":5},'
    '{"key":"clé","id":"three"},{"key":"voilà","id":"four"}]'
)


def known_keys(*, required: bool) -> Callers:
    flags = [f"--security.api_keys={KEYS}", f"--security.require_api_key={str(required).lower()}"]
    return Callers(load(flags, {}).security, DEFAULTS)


def bearer(secret: str) -> Credential:
    return Credential(scheme=Credential.SCHEME_BEARER, secret=secret)


def api_key(secret: str) -> Credential:
    return Credential(scheme=Credential.SCHEME_API_KEY, secret=secret)


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(
    ("headers", "key_id", "credential"),
    [
        ({"x-api-key": "pb-one"}, "one", None),
        ({"authorization": "Bearer pb-one"}, "one", None),
        ({"authorization": "bearer pb-two"}, "two", None),
        ({"authorization": "BEARER   pb-two  "}, "two", None),
        ({"x-api-key": " pb-two "}, "two", None),
        ({"x-patchbay-key": "pb-one"}, "one", None),
        ({"x-patchbay-key": "pb-one", "x-api-key": "sk-mine"}, "one", api_key("sk-mine")),
        ({"x-patchbay-key": "pb-one", "authorization": "Bearer sk-mine"}, "one", bearer("sk-mine")),
        # A key of ours is never a credential, wherever it stands.
        ({"x-patchbay-key": "pb-one", "x-api-key": "pb-one"}, "one", None),
        ({"x-patchbay-key": "pb-one", "x-api-key": "pb-two"}, "one", None),
        ({"x-patchbay-key": "pb-one", "x-api-key": "pb-two", "authorization": "Bearer sk-1"}, "one", bearer("sk-1")),
        # Clients that have both a key and a token configured send both.
        ({"x-api-key": "sk-mine", "authorization": "Bearer pb-one"}, "one", api_key("sk-mine")),
        ({"x-api-key": "pb-one", "authorization": "Bearer sk-mine"}, "one", bearer("sk-mine")),
        ({"x-api-key": "pb-one", "authorization": "Bearer pb-two"}, "one", None),
        # An empty header is no header.
        ({"x-patchbay-key": "", "x-api-key": "pb-one"}, "one", None),
        ({"x-patchbay-key": "  ", "authorization": "Bearer pb-one"}, "one", None),
        ({"x-api-key": "", "authorization": "Bearer pb-one"}, "one", None),
        # UTF-8 on the wire, as latin-1 text.
        ({"x-api-key": "clé".encode().decode("latin-1")}, "three", None),
        ({"x-api-key": "voilà".encode().decode("latin-1")}, "four", None),
        ({"x-patchbay-key": "\tvoilà ".encode().decode("latin-1")}, "four", None),
        ({"authorization": "Bearer voilà".encode().decode("latin-1")}, "four", None),
    ],
)  # fmt: skip
def test_knows_who_calls(headers: dict[str, str], key_id: str, credential: Credential | None, required: bool) -> None:
    identity = known_keys(required=required).identify(headers)
    assert identity.caller.key_id == key_id
    assert identity.credential == credential


NOBODY: list[tuple[dict[str, str], Credential | None]] = [
    ({}, None),
    ({"x-api-key": ""}, None),
    ({"authorization": ""}, None),
    ({"authorization": "Bearer"}, None),
    ({"authorization": "Bearer "}, None),
    ({"authorization": "Basic cGItb25lOg=="}, None),
    ({"authorization": "pb-one"}, None),
    ({"x-patchbay-key": ""}, None),
    ({"x-patchbay-key": "wrong"}, None),
    ({"x-api-key": "PB-ONE"}, api_key("PB-ONE")),
    ({"x-api-key": "pb-on"}, api_key("pb-on")),
    ({"x-api-key": "pb-one, pb-one"}, api_key("pb-one, pb-one")),
    ({"x-api-key": "\xff\xfe\x80"}, api_key("\xff\xfe\x80")),
    ({"x-api-key": "clé"}, api_key("clé")),
    # The header made for it decides: a key elsewhere does not stand in for a wrong one.
    ({"x-patchbay-key": "wrong", "x-api-key": "pb-one"}, None),
]


@pytest.mark.parametrize(("headers", "credential"), NOBODY)
def test_anybody_may_call_where_no_key_is_required(headers: dict[str, str], credential: Credential | None) -> None:
    identity = known_keys(required=False).identify(headers)
    assert identity == Identity(identity.caller, None, credential)
    assert identity.caller.key_id == ""


@pytest.mark.parametrize("headers", [headers for headers, _ in NOBODY])
def test_nobody_gets_in_without_a_key_where_one_is_required(headers: dict[str, str]) -> None:
    with pytest.raises(PatchbayError) as caught:
        known_keys(required=True).identify(headers)
    assert caught.value.error.code == AUTHENTICATION
    assert not caught.value.error.retryable
    for secret in headers.values():
        assert not secret.strip() or secret not in caught.value.error.message


def test_a_key_brings_its_owner_and_its_limits() -> None:
    known = known_keys(required=True)
    one, two = known.identify({"x-api-key": "pb-one"}), known.identify({"x-api-key": "pb-two"})
    assert (one.caller.organization, one.caller.user, one.limits) == ("acme", "ann", None)
    assert two.limits == Limits(requests_per_minute=5, concurrent_requests=6, max_connections=1000)


def test_every_key_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    known = known_keys(required=True)
    compared: list[bool] = []
    real = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(real(one, other))
        return compared[-1]

    monkeypatch.setattr(callers.hmac, "compare_digest", counting)
    known.identify({"x-api-key": "pb-one"})
    assert compared == [True, False, False, False]


def test_without_any_keys_every_header_is_a_provider_credential() -> None:
    identity = Callers(load([], {}).security, DEFAULTS).identify({"authorization": "Bearer sk-mine"})
    assert identity.credential == bearer("sk-mine")
