"""The command `patchbay`."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from patchbay.settings import SettingsError, Telemetry, state_directory
from patchbay.telemetry import logs
from patchbay_cli import auth, capture, permissions, readiness, running, up
from patchbay_cli.problems import CommandFailed
from patchbay_cli.supervision import Supervisor, SupervisorGone

_POLL_SECONDS = 0.1
_NO_WIDTH = 200

app = typer.Typer(
    help="One URL for every coding agent, any model behind it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(auth.app, name="auth")
app.add_typer(capture.app, name="capture")
app.add_typer(permissions.app, name="permissions")


@app.command("up", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def start(context: typer.Context) -> None:
    """Run everything on this machine until Ctrl-C. Takes --config FILE and --section.key VALUE for any setting."""
    raise typer.Exit(up.run(context.args, console=_console()))


@app.command()
def down(
    seconds: Annotated[float, typer.Option(help="How long to wait for running answers to end.")] = 150.0,
) -> None:
    """Stop the system that runs in this directory."""
    state = state_directory()
    supervisor = Supervisor(state)
    found = running.find(state)
    if found is not None:
        os.kill(found.pid, signal.SIGTERM)
    elif supervisor.answers():
        # What started it was killed.
        supervisor.shut_down()
    else:
        _console().print("Nothing runs here.")
        return
    deadline = time.monotonic() + seconds
    while running.find(state) is not None or supervisor.answers():
        if time.monotonic() > deadline:
            raise CommandFailed(f"it is still stopping after {seconds:g} s")
        time.sleep(_POLL_SECONDS)
    _console().print("Stopped.")


@app.command()
def status() -> None:
    """Show the services and backends of the system that runs in this directory. Ends with 1 unless it is ready."""
    state = state_directory()
    found = running.find(state)
    if found is None:
        raise CommandFailed("nothing runs here: start it with `patchbay up`")
    table = Table("service", "state", "process", box=None)
    try:
        for process in Supervisor(state).processes():
            table.add_row(process.name, process.state.lower(), str(process.pid or ""))
    except SupervisorGone as error:
        raise CommandFailed("it is starting or stopping") from error
    answer = readiness.ask(found.url)
    console = _console()
    console.print(table)
    table = Table("backend", "replicas", "signed in", box=None)
    for name, backend in answer.backends.items():
        table.add_row(name, str(backend.replicas), "yes" if backend.signed_in else f"no: {backend.detail}")
    console.print(table)
    said = "ready" if answer.ready else f"not ready: {answer.detail}"
    console.print(f"{found.url} is {said}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if answer.ready else 1)


def _console() -> Console:
    """Standard output; lines in a file or a pipe are not folded to a terminal's width."""
    return Console() if sys.stdout.isatty() else Console(width=_NO_WIDTH)


def main() -> None:
    """Runs the command; what is wrong is said in one line, not in a stack trace."""
    # The console is for people: of what the shared code logs, only errors belong there.
    logs.configure(Telemetry(log_level="error"), service="patchbay")
    try:
        app(prog_name="patchbay")
    except SettingsError as error:
        sys.stderr.write(f"patchbay: {error}\n")
        sys.exit(2)
    except CommandFailed as error:
        sys.stderr.write(f"patchbay: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
