from __future__ import annotations

import pytest
from pydantic import SecretStr

from patchbay.errors import AUTHENTICATION, PatchbayError
from patchbay.settings import Backend, Timeouts
from patchbay.upstream.credentials import auth_headers
from patchbay.upstream.profile import KeyHeader
from patchbay_proto.v1.provider_pb2 import Credential

BEARER, X_API_KEY, BOTH = KeyHeader.BEARER, KeyHeader.X_API_KEY, KeyHeader.BOTH
OWN_BEARER = Credential(scheme=Credential.SCHEME_BEARER, secret="mine")
OWN_KEY = Credential(scheme=Credential.SCHEME_API_KEY, secret="mine")


def backend(**more: object) -> Backend:
    values = {"name": "a", "kind": "openai", "base_url": "http://a.test", "worker": "openai-worker", **more}
    return Backend(timeouts=Timeouts(), **values)  # type: ignore[arg-type]


KEY = backend(api_key=SecretStr("k"))
TOKEN = backend(auth_token=SecretStr("t"), api_key=SecretStr("k"))
OWN = backend(credentials="pass_through")
LOCAL = backend(kind="openai-compatible")


@pytest.mark.parametrize(
    ("configured", "key_header", "caller", "headers"),
    [
        (KEY, BEARER, None, {"authorization": "Bearer k"}),
        (KEY, X_API_KEY, None, {"x-api-key": "k"}),
        (KEY, BOTH, None, {"authorization": "Bearer k", "x-api-key": "k"}),
        # What the caller sent goes nowhere, where the operator's key is used.
        (KEY, BEARER, OWN_BEARER, {"authorization": "Bearer k"}),
        (TOKEN, X_API_KEY, OWN_KEY, {"authorization": "Bearer t"}),
        (LOCAL, BEARER, OWN_BEARER, {}),
        (OWN, BEARER, OWN_BEARER, {"authorization": "Bearer mine"}),
        (OWN, BEARER, OWN_KEY, {"authorization": "Bearer mine"}),
        (OWN, X_API_KEY, OWN_KEY, {"x-api-key": "mine"}),
        # A token is no key: it stays a bearer.
        (OWN, X_API_KEY, OWN_BEARER, {"authorization": "Bearer mine"}),
        (OWN, BOTH, OWN_BEARER, {"authorization": "Bearer mine", "x-api-key": "mine"}),
        (OWN, BOTH, OWN_KEY, {"authorization": "Bearer mine", "x-api-key": "mine"}),
    ],
)  # fmt: skip
def test_which_credential_goes_where(
    configured: Backend, key_header: KeyHeader, caller: Credential | None, headers: dict[str, str]
) -> None:
    assert auth_headers(configured, key_header, caller) == headers


@pytest.mark.parametrize(
    ("configured", "caller", "words"),
    [
        (OWN, None, "you sent none"),
        (OWN, Credential(scheme=Credential.SCHEME_BEARER), "you sent none"),
        (backend(detail="set OPENAI_API_KEY"), OWN_KEY, "set OPENAI_API_KEY"),
    ],
)
def test_nothing_to_send(configured: Backend, caller: Credential | None, words: str) -> None:
    with pytest.raises(PatchbayError, match=words) as caught:
        auth_headers(configured, BEARER, caller)
    assert caught.value.error.code == AUTHENTICATION
