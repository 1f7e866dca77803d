"""Where a new sign-in goes, and what it is called: the same for the command and for the worker."""

from __future__ import annotations

from urllib.parse import parse_qs

from patchbay.codex.auth_file import AuthFile
from patchbay.codex.login import Login, Place
from patchbay.settings import Codex, is_account_name
from patchbay.state.codex_accounts import CodexAccounts

# What the issuer knows as addresses to send a browser back to; the second one is for when the first one is taken.
CALLBACK_PORTS = (1455, 1457)
CALLBACK_PATH = "/auth/callback"
_SAVE_SECONDS = 10.0


def redirect_uri(port: int = CALLBACK_PORTS[0]) -> str:
    """The address that the issuer sends a browser back to."""
    return f"http://127.0.0.1:{port}{CALLBACK_PATH}"


def account_name(login: Login) -> str:
    """What an account is called where nobody says: its mail address, else its id."""
    return next((name for name in (login.email, login.account) if is_account_name(name)), "default")


async def keep(login: Login, *, store: CodexAccounts | None, config: Codex, name: str = "") -> Place:
    """Keeps a new sign-in: in our own store where there is one, else in the Codex CLI's file.

    Args:
        name: What the account is to be called in the store; empty: `account_name`.

    Raises:
        NotKept: The file cannot be written.
        PlaceBusy: Another process holds it.
        RedisUnavailable: The store cannot be asked.
    """
    place: Place = AuthFile(config.auth_file) if store is None else store.place(name or account_name(login))
    async with place.exclusive(_SAVE_SECONDS):
        await place.save(login, replacing=None)
    return place


def code_and_state(text: str) -> tuple[str, str]:
    """The code that a browser was sent back with, and its state where it is there: the whole address may be given."""
    text = text.strip()
    if "code=" not in text:
        return text, ""
    address, _, query_part = text.partition("?")
    query = parse_qs((text if "code=" in address else query_part).partition("#")[0])
    return query.get("code", [""])[0], query.get("state", [""])[0]
