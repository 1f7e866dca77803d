from __future__ import annotations

import base64
import json

import pytest

from patchbay.codex.login import Login


def token(**claims: object) -> str:
    """A made-up JWT."""
    head, payload = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "none"}, claims)
    )
    return f"{head}.{payload}.c2ln"


@pytest.fixture
def login() -> Login:
    said = {"https://api.openai.com/auth": {"chatgpt_account_id": "acc-1", "chatgpt_plan_type": "plus"}}
    return Login(
        access_token=token(exp=2_000_000_000, iat=1_900_000_000),
        refresh_token="rt-made-up-1",
        id_token=token(email="me@x.test", **said),
        account_id="acc-1",
        last_refresh=1_900_000_000.0,
    )
