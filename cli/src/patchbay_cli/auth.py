"""The command `patchbay auth`: signs accounts in and out, and shows who is signed in."""

from __future__ import annotations

import asyncio
import os
import sys
import webbrowser
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from patchbay.codex.auth_file import AuthFile
from patchbay.codex.login import NotKept, PlaceBusy, SignInMissing
from patchbay.codex.oauth import Issuer, IssuerError
from patchbay.codex.signing_in import account_name, keep
from patchbay.settings import is_account_name, state_directory
from patchbay_cli import auth_status, codex_accounts, running
from patchbay_cli.codex_accounts import Accounts
from patchbay_cli.codex_login import with_browser, with_device
from patchbay_cli.printable import printable
from patchbay_cli.problems import CommandFailed

# A table in a pipe is as wide as it is.
_NO_WIDTH = 1_000

Provider = Annotated[str, typer.Argument(metavar="PROVIDER", help="codex.")]
Account = Annotated[str | None, typer.Option(help="What the account is called here; left out: its mail address.")]
Backend = Annotated[str | None, typer.Option(help="Which backend of kind codex; left out: the first.")]
Config = Annotated[Path | None, typer.Option(help="The configuration; left out: as for `patchbay up`.")]
Url = Annotated[str | None, typer.Option(help="The edge; left out: the system that runs in this directory.")]
Key = Annotated[str | None, typer.Option(envvar="PATCHBAY_KEY", help="Your Patchbay key.")]

app = typer.Typer(help="Sign in to providers, and show who is signed in.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def login(
    provider: Provider,
    device: Annotated[bool, typer.Option("--device", help="With a code to type on another machine.")] = False,
    account: Account = None,
    port: Annotated[
        int | None, typer.Option(help="Where the browser comes back to; left out: 1455 or 1457, which OpenAI knows.")
    ] = None,
    backend: Backend = None,
    config: Config = None,
) -> None:
    """Sign in with a ChatGPT account: into Redis where security.secrets_key is set, else into the Codex CLI's file."""
    _require_codex(provider)
    _require_name(account)

    async def sign_in(accounts: Accounts) -> None:
        if account and accounts.store is None:
            raise CommandFailed(f"--account names an account in Redis: {accounts.file.path} holds one alone")
        # Before anybody signs in for nothing.
        await accounts.stored()
        issuer = Issuer(accounts.codex)
        if device:
            got = await with_device(issuer, _say)
        else:
            got = await with_browser(issuer, _say, _show, ports=(port,) if port else ())
        place = await keep(got, store=accounts.store, config=accounts.codex, name=account or "")
        _say(f"Signed in as {printable(account_name(got))}{f' ({printable(got.plan)})' if got.plan else ''}.")
        _say(f"Kept in {place.name}." if place.is_file else f"Kept in Redis, as the account {printable(place.name)}.")

    _run(sign_in, config, backend)


@app.command("import")
def import_file(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="An auth.json, such as ~/.codex/auth.json.")],
    account: Account = None,
    backend: Backend = None,
    config: Config = None,
) -> None:
    """Take a sign-in of the Codex CLI into Redis, for all replicas."""
    _require_name(account)

    async def take(accounts: Accounts) -> None:
        file = AuthFile(path)
        store = accounts.require_store()
        got = await file.load()
        if not got.refresh_token:
            raise CommandFailed(f"{file.path} holds no refresh token: its sign-in would end soon")
        place = await keep(got, store=store, config=accounts.codex, name=account or "")
        _say(f"Kept in Redis, as the account {printable(place.name)}.")
        if file.path != accounts.file.path:
            _say(f"A Codex CLI that goes on with {file.path} will have to sign in anew once Patchbay renews it.")
            _say("To share one sign-in with a running CLI, name the file under `accounts` of the backend instead.")

    _run(take, config, backend)


@app.command()
def logout(
    provider: Provider,
    account: Annotated[str | None, typer.Option(help="Its name, or the path of its auth.json.")] = None,
    backend: Backend = None,
    config: Config = None,
) -> None:
    """Sign an account out, and give its tokens back."""
    _require_codex(provider)

    async def sign_out(accounts: Accounts) -> None:
        place = accounts.place(account) if account else await accounts.only()
        got = await place.load()
        await place.forget()
        try:
            await Issuer(accounts.codex).revoke(got)
        except IssuerError as error:
            _say(f"The issuer has not taken the tokens back ({printable(str(error))}): they are good until they end.")
        _say(f"Signed out: {printable(place.name)}")

    _run(sign_out, config, backend)


@app.command()
def status(url: Url = None, key: Key = None, config: Config = None) -> None:
    """Show every backend and who is signed in. Ends with 1 unless all are."""
    if url is None and (found := running.find(state_directory())) is not None:
        url = found.url

    async def show(accounts: Accounts) -> None:
        rows = await auth_status.rows(accounts, url, key)
        _console().print(auth_status.table(rows))
        if not all(row.signed_in for row in rows):
            raise typer.Exit(1)

    _run(show, config, None)


def _run(work: Callable[[Accounts], Awaitable[None]], config: Path | None, backend: str | None) -> None:
    async def run() -> None:
        async with codex_accounts.opened(config, backend) as accounts:
            await work(accounts)

    try:
        asyncio.run(run())
    except (SignInMissing, NotKept, PlaceBusy) as error:
        raise CommandFailed(str(error)) from error
    except IssuerError as error:
        raise CommandFailed(f"the sign-in failed: {printable(str(error))}") from error
    except KeyboardInterrupt:
        raise CommandFailed("stopped") from None


def _require_codex(provider: str) -> None:
    if provider == "claude":
        raise CommandFailed(
            "the claude program signs in by itself: see `POST /auth/login` in docs/operations.md, or run "
            "`CLAUDE_CONFIG_DIR=... claude auth login` as the worker's user"
        )
    if provider != "codex":
        raise CommandFailed(f"{printable(provider)} is no provider to sign in to: codex is")


def _require_name(account: str | None) -> None:
    if account is not None and not is_account_name(account):
        raise CommandFailed(f"{printable(account)!r} is no name for an account: use letters, digits, . _ @ + and -")


def _show(url: str) -> None:
    # In a pipe nobody sits here, and without a display only a text browser would open, in this very terminal.
    if sys.stdout.isatty() and (sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()):
        with suppress(webbrowser.Error):
            webbrowser.open(url)


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=_NO_WIDTH)


def _say(text: str) -> None:
    _console().print(Text(text), soft_wrap=True)
    sys.stdout.flush()
