"""Who is signed in: as the edge says where a system runs, else as the configuration and the stores here say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import msgspec
from rich.table import Table
from rich.text import Text

from patchbay.codex.login import Login, Place, SignInMissing
from patchbay.settings import Backend, is_loopback
from patchbay.state.codex_limits import Limits, Quota
from patchbay.state.connection import RedisUnavailable
from patchbay_cli.codex_accounts import Accounts
from patchbay_cli.printable import printable
from patchbay_cli.problems import CommandFailed

_TIMEOUT_SECONDS = 10.0
_SIGN_IN = "sign in with `patchbay auth login codex`"


@dataclass(frozen=True)
class Row:
    """One account of a backend, or a backend without any."""

    backend: str
    kind: str
    signed_in: bool
    account: str = ""
    plan: str = ""
    used: str = ""
    detail: str = ""


class _Window(msgspec.Struct):
    name: str
    used_percent: float
    minutes: int = 0
    resets_at: float = 0


class _Account(msgspec.Struct):
    name: str
    signed_in: bool
    plan: str = ""
    detail: str = ""
    windows: list[_Window] = []
    cooling_until: float = 0


class _Backend(msgspec.Struct):
    kind: str
    signed_in: bool
    credentials: str = ""
    detail: str = ""
    accounts: list[_Account] = []


class _Status(msgspec.Struct):
    backends: dict[str, _Backend]


async def rows(accounts: Accounts, url: str | None, key: str | None) -> list[Row]:
    """All backends with their accounts.

    Args:
        accounts: This machine's.
        url: The edge to ask; None: no system runs here.
        key: The caller's Patchbay key.

    Raises:
        CommandFailed: The edge does not say.
    """
    if url is not None:
        answer = await _ask(url.rstrip("/"), key)
        found = [row for name, backend in answer.backends.items() for row in _rows_of(name, backend)]
        has_codex = any(backend.kind == "codex" for backend in answer.backends.values())
    else:
        backends = accounts.settings.enabled_backends().values()
        found = [_row_of(backend) for backend in backends if backend.codex is None]
        has_codex = False
    return found if has_codex else found + await _local(accounts)


def table(rows: list[Row]) -> Table:
    """The rows, to be printed."""
    shown = Table("backend", "kind", "account", "signed in", "plan", "used", "detail", box=None)
    for row in rows:
        cells = (row.backend, row.kind, row.account, "yes" if row.signed_in else "no", row.plan, row.used, row.detail)
        shown.add_row(*(Text(printable(cell)) for cell in cells))
    return shown


async def _ask(url: str, key: str | None) -> _Status:
    try:
        host = httpx.URL(url).host
        headers = {b"x-patchbay-key": key.encode()} if key else None
        # No proxy stands between this machine and itself.
        async with httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=not is_loopback(host)) as client:
            response = await client.get(f"{url}/auth/status", headers=headers)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise CommandFailed(f"{printable(url)} does not answer ({printable(str(error))})") from error
    try:
        if response.status_code == 200:
            return msgspec.json.decode(response.content, type=_Status)
        message = msgspec.json.decode(response.content)["error"]["message"]
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        said = f"{printable(url)} answers {response.status_code}: is it a Patchbay edge?"
        raise CommandFailed(said) from error
    raise CommandFailed(printable(str(message)))


def _rows_of(name: str, backend: _Backend) -> Iterator[Row]:
    if not backend.accounts:
        yield Row(name, backend.kind, backend.signed_in, detail=backend.detail)
    for account in backend.accounts:
        used = _used(account.windows, account.cooling_until)
        yield Row(name, backend.kind, account.signed_in, account.name, account.plan, used, account.detail)


def _row_of(backend: Backend) -> Row:
    if backend.credentials == "signed_in":
        return Row(backend.name, backend.kind, False, detail="only its worker can tell, which does not run")
    detail = "each caller brings a key" if backend.credentials == "pass_through" else backend.detail
    return Row(backend.name, backend.kind, backend.signed_in, detail=detail)


async def _local(accounts: Accounts) -> list[Row]:
    """The ChatGPT accounts of this machine; a line that says that there is none only where one is needed."""
    backends = [one.name for one in accounts.settings.enabled_backends().values() if one.codex is not None]
    name = backends[0] if backends else ""
    limits = await accounts.known_limits()
    found: list[Row] = []
    try:
        for account, login in (await accounts.stored()).items():
            found.append(_row_of_login(name, account, login, limits))
    except RedisUnavailable as error:
        found.append(Row(name, "codex", False, detail=f"sign-ins are kept in Redis, which does not answer ({error})"))
    places: list[Place] = [accounts.place(one) for one in accounts.codex.accounts if "/" in one] or [accounts.file]
    for place in places:
        try:
            found.append(_row_of_login(name, place.name, await place.load(), limits))
        except SignInMissing as error:
            if backends and not found:
                found.append(Row(name, "codex", False, place.name, detail=f"{error}: {_SIGN_IN}"))
    return found


def _row_of_login(backend: str, account: str, login: Login, limits: Limits) -> Row:
    quota: Quota | None = limits.quotas.get(login.account)
    cooling = limits.cooling.get(login.account)
    until = cooling.until if cooling is not None else 0.0
    windows = [
        _Window(window.name, window.used_percent, window.minutes, window.resets_at)
        for window in (quota.windows if quota is not None else ())
    ]
    plan = (quota.plan if quota is not None else "") or login.plan
    return Row(backend, "codex", True, account, plan, _used(windows, until))


def _used(windows: list[_Window], cooling_until: float) -> str:
    now = time.time()
    said = [f"{window.used_percent:.0f} % of {_length(window)}" for window in windows]
    if cooling_until > now:
        said.append(f"rests until {time.strftime('%Y-%m-%d %H:%M', time.localtime(cooling_until))}")
    return ", ".join(said)


def _length(window: _Window) -> str:
    if window.minutes and window.minutes % 1440 == 0:
        return f"{window.minutes // 1440} d"
    return f"{window.minutes / 60:g} h" if window.minutes else window.name
