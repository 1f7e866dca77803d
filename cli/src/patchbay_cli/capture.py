"""The command `patchbay capture`: shows the frames of Codebuff's clients that were written to files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from patchbay_cli.printable import printable
from patchbay_cli.problems import CommandFailed

_MOST_CHARACTERS = 160
_ARROWS = {"client": "->", "server": "<-"}
# What names a message beside its type.
_IDS = ("promptId", "userInputId", "requestId", "toolName")

app = typer.Typer(help="Show captured frames (`codebuff.capture`).", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def capture() -> None:
    """Show captured frames (`codebuff.capture`)."""


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of `codebuff.capture_directory`.")],
    full: Annotated[bool, typer.Option("--full", help="Show each frame whole, as JSON over several lines.")] = False,
) -> None:
    """Print what was said on one socket: -> by the client, <- by the server."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                for text in _shown(line, number, full=full):
                    sys.stdout.write(text + "\n")
    except BrokenPipeError:
        # Whoever reads has seen enough.
        raise typer.Exit(0) from None
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror}") from error


def _shown(line: bytes, number: int, *, full: bool) -> list[str]:
    try:
        said = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        # The last line of a process that was killed.
        return [f"(line {number} is not whole)"]
    at = printable(str(said.get("at", "")))
    if said.get("full") is True:
        return [f"{at}    (the file is full: what came after this was left out)"]
    head = f"{at} {_ARROWS.get(said.get('from', ''), '??')} "
    if "frame" not in said:
        return [head + "no JSON: " + printable(str(said.get("text", "")))]
    frame = said["frame"]
    if full:
        whole = msgspec.json.format(msgspec.json.encode(frame), indent=2).decode()
        return [head + _title(frame), *("    " + printable(text) for text in whole.split("\n"))]
    text = f"{_title(frame)}  {msgspec.json.encode(_rest(frame)).decode()}"
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[:_MOST_CHARACTERS]}... ({len(text)} characters)"
    return [head + printable(text)]


def _title(frame: Any) -> str:
    """What a message is, in a few words."""
    if not isinstance(frame, dict):
        return "?"
    words = [str(frame.get("type", "?"))]
    if "txid" in frame:
        words.append(f"#{frame['txid']}")
    data = frame.get("data")
    if isinstance(data, dict):
        words.append(str(data.get("type", "?")))
        words += [str(data[name]) for name in _IDS if isinstance(data.get(name), str)]
    return printable(" ".join(words))


def _rest(frame: Any) -> Any:
    if not isinstance(frame, dict):
        return frame
    data = frame.get("data")
    if isinstance(data, dict):
        return {name: value for name, value in data.items() if name not in ("type", *_IDS)}
    return {name: value for name, value in frame.items() if name not in ("type", "txid")}
