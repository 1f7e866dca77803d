"""Where an account's requests have to be answered: of some workspaces in one region, at an origin of its own.

The Codex CLI asks before its requests, and sends them to the origin that it is told, with the path of its base URL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from patchbay.upstream.transport import Upstream
from patchbay_codex_worker.accounts.pages import read_page

CHECK_PATH = "/wham/accounts/check"
OVERRIDE_HEADER = "x-openai-account-routing-override"
_OVERRIDES = frozenset({"us", "us_cr"})
_ORIGIN = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/?\Z")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Routing:
    """What the provider says of an account.

    Attributes:
        override: `us` or `us_cr`; empty: anywhere.
        origin: Where its requests go; empty: to the backend's own.
        refused: What was named as the origin, and is none that a token is sent to; empty: nothing.
    """

    override: str = ""
    origin: str = ""
    refused: str = ""


async def ask(upstream: Upstream, headers: Mapping[str, str], base_url: str) -> Routing | None:
    """The routing of the account that `headers` are of; None: nothing that can be read.

    Args:
        base_url: The backend's.
    """
    body = await read_page(upstream, CHECK_PATH, headers)
    try:
        page = msgspec.json.decode(body) if body is not None else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(page, dict) or not isinstance(accounts := page.get("accounts"), list):
        return None
    wanted = headers.get("chatgpt-account-id") or page.get("default_account_id")
    for account in accounts:
        if isinstance(account, dict) and account.get("id") == wanted:
            return _read(account, base_url)
    return None


def _read(account: Mapping[object, object], base_url: str) -> Routing:
    override = account.get("account_routing_override")
    if not isinstance(override, str) or override not in _OVERRIDES:
        return Routing()
    said = account.get("workspace_backend_origin")
    if said is None:
        return Routing(override)
    origin = _origin(said)
    if origin is None:
        return Routing(override, refused="what is no origin")
    base = urlsplit(base_url)
    if origin == _origin(f"{base.scheme}://{base.netloc}"):
        return Routing(override)
    scheme, host, port = origin
    # The account's token goes there.
    return Routing(override, f"https://{host}:{port}") if scheme == "https" else Routing(override, refused=host)


def _origin(said: object) -> tuple[str, str, int] | None:
    """Scheme, host and port of a URL that has nothing else."""
    found = _ORIGIN.match(said.lower()) if isinstance(said, str) else None
    if found is None:
        return None
    port = int(found[3] or _PORTS[found[1]])
    return (found[1], found[2], port) if 0 < port < 65_536 else None
