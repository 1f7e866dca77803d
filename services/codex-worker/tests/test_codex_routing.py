"""Where an account's requests have to go, as the provider says: only a place that may have its token."""

from __future__ import annotations

import json

import pytest

from patchbay.settings import Timeouts
from patchbay.testing.upstream import Visit, upstream
from patchbay.upstream.http import HttpUpstream
from patchbay_codex_worker.accounts.routing import Routing, ask

HEADERS = {"authorization": "Bearer made-up", "chatgpt-account-id": "acc-1"}


async def routing_of(body: object, base: str = "", headers: dict[str, str] | None = None) -> Routing | None:
    """What is made of this body; `base` is the base URL that the backend is said to have."""

    async def script(visit: Visit) -> None:
        assert visit.head.startswith(b"GET /wham/accounts/check HTTP/1.1")
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        await visit.answer(raw, "connection: close")

    async with upstream(script) as served:
        http = HttpUpstream(served.url, Timeouts())
        try:
            return await ask(http, HEADERS if headers is None else headers, base or served.url)
        finally:
            await http.aclose()


def page(**account: object) -> dict[str, object]:
    accounts = [7, {"id": "other", "account_routing_override": "us_cr"}, {"id": "acc-1", **account}]
    return {"accounts": accounts, "default_account_id": "other"}


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("https://us.chatgpt.example", Routing("us", "https://us.chatgpt.example:443")),
        ("https://US.chatgpt.example:8443/", Routing("us", "https://us.chatgpt.example:8443")),
        ("https://chatgpt.example", Routing("us")),
        ("HTTPS://chatgpt.example:443/", Routing("us")),
        (None, Routing("us")),
        ("http://chatgpt.example", Routing("us", refused="chatgpt.example")),
        ("http://us.chatgpt.example", Routing("us", refused="us.chatgpt.example")),
    ],
)
async def test_an_origin_is_https_or_the_backends_own(origin: str | None, expected: Routing) -> None:
    said = page(account_routing_override="us", workspace_backend_origin=origin)
    assert await routing_of(said, "https://chatgpt.example/backend-api") == expected


@pytest.mark.parametrize(
    "origin",
    [
        "https://name:secret@us.chatgpt.example",
        "https://name@us.chatgpt.example",
        "https://us.chatgpt.example/path",
        "https://us.chatgpt.example?q",
        "https://us.chatgpt.example:0",
        "https://us.chatgpt.example:65536",
        "https://us chatgpt.example",
        "https://us.chatgpt.example\n",
        "https://",
        "//us.chatgpt.example",
        "ftp://us.chatgpt.example",
        "",
        7,
        {},
    ],
)
async def test_what_is_no_origin_is_none(origin: object) -> None:
    said = page(account_routing_override="us_cr", workspace_backend_origin=origin)
    assert await routing_of(said) == Routing("us_cr", refused="what is no origin")


async def test_on_this_machine_the_backends_own_origin_may_be_plain() -> None:
    said = page(account_routing_override="us", workspace_backend_origin="http://127.0.0.1:9/")
    assert await routing_of(said, "http://127.0.0.1:9/backend-api") == Routing("us")
    assert await routing_of(said, "http://127.0.0.1:10/backend-api") == Routing("us", refused="127.0.0.1")


@pytest.mark.parametrize("override", ["NO_CONSTRAINT", "mars", None, 7, ["us"]])
async def test_without_a_constraint_nothing_is_said(override: object) -> None:
    said = page(account_routing_override=override, workspace_backend_origin="https://us.chatgpt.example")
    assert await routing_of(said) == Routing()


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b'{"accounts": "\xff"}', [], {"accounts": {}}, {"accounts": [{"id": "other"}]}, {"detail": "no"}],
)
async def test_what_cannot_be_read_says_nothing(body: object) -> None:
    assert await routing_of(body) is None


async def test_an_account_without_an_id_is_the_default_one() -> None:
    assert await routing_of(page(), headers={}) == Routing("us_cr")
