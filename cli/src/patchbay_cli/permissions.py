"""The command `patchbay permissions`: shows what agents ask permission for, and answers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from patchbay.settings import state_directory
from patchbay_cli import running
from patchbay_cli.permission_client import NotAnswered, PermissionClient, Request, Resolution
from patchbay_cli.permission_prompt import Prompt
from patchbay_cli.printable import json_lines, printable
from patchbay_cli.problems import CommandFailed

_NO_WIDTH = 200
_MOST_CHARACTERS = 60

Url = Annotated[str | None, typer.Option(help="The edge; left out: the system that runs in this directory.")]
Key = Annotated[str | None, typer.Option(envvar="PATCHBAY_KEY", help="Your Patchbay key.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The request's id.")]
Reason = Annotated[str, typer.Option(help="What the agent is told.")]

Value = TypeVar("Value")

app = typer.Typer(
    help="Show what agents ask permission for, and answer. Without a command: live, at this terminal.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@dataclass(frozen=True)
class _Place:
    """Where the requests are: what was said before the name of a command holds after it too."""

    url: str | None
    key: str | None

    def client(self, url: str | None, key: str | None) -> PermissionClient:
        """Raises CommandFailed."""
        url = url or self.url
        if url is None:
            found = running.find(state_directory())
            if found is None:
                raise CommandFailed("nothing runs here: start it with `patchbay up`, or name an edge with --url")
            url = found.url
        return PermissionClient(url.rstrip("/"), key or self.key)


@app.callback()
def live(context: typer.Context, url: Url = None, key: Key = None) -> None:
    context.obj = place = _Place(url, key)
    if context.invoked_subcommand is not None:
        return
    client = place.client(None, None)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        _list(client)
        raise CommandFailed(
            "this is no terminal to answer at: use `patchbay permissions allow ID` or `patchbay permissions deny ID`"
        )

    async def answer(client: PermissionClient) -> None:
        await Prompt(client, _console(), sys.stdin.fileno()).run()

    try:
        _run(client, answer)
    except KeyboardInterrupt:
        # The way to end it.
        with suppress(OSError):
            sys.stdout.write("\n")


@app.command("list")
def list_pending(context: typer.Context, url: Url = None, key: Key = None) -> None:
    """List what waits for an answer."""
    _list(context.obj.client(url, key))


@app.command()
def show(context: typer.Context, request_id: Id, url: Url = None, key: Key = None) -> None:
    """Show one request with all of its input."""
    shown = _run(context.obj.client(url, key), lambda client: client.show(request_id))
    console = _console()
    _describe(console, shown)
    for line in json_lines(bytes(shown.input)):
        _say(console, f"  {line}")
    if shown.decision is not None:
        resolution = Resolution(shown.id, shown.decision, shown.reason, shown.by)
        _say(console, str(resolution))
        if bytes(shown.updated_input) != b"null":
            _say(console, "with the input changed to:")
            for line in json_lines(bytes(shown.updated_input)):
                _say(console, f"  {line}")


@app.command()
def allow(
    context: typer.Context,
    request_id: Id,
    changed: Annotated[str | None, typer.Option("--input", help="Other input for the tool: a JSON object.")] = None,
    reason: Reason = "",
    url: Url = None,
    key: Key = None,
) -> None:
    """Let the tool be used."""
    updated_input = None
    if changed is not None:
        try:
            msgspec.json.decode(changed, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
            raise CommandFailed(f"--input must be a JSON object ({error})") from error
        updated_input = msgspec.Raw(changed.encode())
    _answer(context.obj.client(url, key), request_id, allow=True, updated_input=updated_input, reason=reason)


@app.command()
def deny(context: typer.Context, request_id: Id, reason: Reason = "", url: Url = None, key: Key = None) -> None:
    """Do not let the tool be used."""
    _answer(context.obj.client(url, key), request_id, allow=False, reason=reason)


def _answer(
    client: PermissionClient,
    request_id: str,
    *,
    allow: bool,
    updated_input: msgspec.Raw | None = None,
    reason: str = "",
) -> None:
    try:
        resolution = _run(
            client,
            lambda client: client.answer(request_id, allow=allow, updated_input=updated_input, reason=reason),
        )
    except NotAnswered as error:
        raise CommandFailed(str(error)) from error
    _say(_console(), f"{request_id} {resolution}")


def _list(client: PermissionClient) -> None:
    pending = _run(client, lambda client: client.pending())
    console = _console()
    if not pending:
        _say(console, "Nothing is asked now.")
        return
    table = Table("id", "tool", "backend", "session", "left", "input", box=None)
    for request in pending:
        said = " ".join(json_lines(bytes(request.input)))
        cells = (request.tool_name, request.backend, request.session, f"{_left(request):.0f} s")
        table.add_row(
            Text(request.id, no_wrap=True),
            *(Text(printable(cell)) for cell in cells),
            Text(said if len(said) <= _MOST_CHARACTERS else f"{said[:_MOST_CHARACTERS]} ..."),
        )
    console.print(table)


def _describe(console: Console, request: Request) -> None:
    for name, value in (
        ("tool", request.tool_name),
        ("backend", request.backend),
        ("session", request.session),
        ("asked", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(request.created_at))),
        ("left", f"{_left(request):.0f} s"),
    ):
        _say(console, f"{name + ':':9}{printable(value) or 'none'}")
    _say(console, "input:")


def _left(request: Request) -> float:
    return max(0.0, request.expires_at - time.time())


def _run(client: PermissionClient, work: Callable[[PermissionClient], Coroutine[Any, Any, Value]]) -> Value:
    async def run() -> Value:
        async with client:
            return await work(client)

    return asyncio.run(run())


def _console() -> Console:
    """Standard output, whatever it can show; lines in a file or a pipe are not folded."""
    with suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    return Console() if sys.stdout.isatty() else Console(width=_NO_WIDTH)


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
