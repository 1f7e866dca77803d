"""Answers permission requests at a terminal, one after the other, as they come.

The terminal stays in its usual line mode, so that this works over SSH and whatever the terminal is.
"""

from __future__ import annotations

import asyncio
import os
import termios
import time
from contextlib import aclosing
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.text import Text

from patchbay_cli.permission_client import Away, Connected, Event, NotAnswered, PermissionClient, Request, Resolution
from patchbay_cli.printable import json_lines, printable
from patchbay_cli.problems import CommandFailed

_MOST_LINES = 40
_MOST_CHARACTERS = 500
# An answer so soon after the question has changed by itself was meant for the one before.
_TOO_SOON_SECONDS = 0.5
_CHOICES = "y = allow, n [reason] = deny, e {...} = allow with this input, f = full input, s = skip, l = list, q = quit"


class _Line(NamedTuple):
    """A line that was typed, and when (the loop's clock); `text` None: the end of the input."""

    text: str | None
    at: float


class Prompt:
    """Shows a question, takes its answer, and goes on to the next."""

    def __init__(self, client: PermissionClient, console: Console, terminal: int) -> None:
        self._client = client
        self._console = console
        self._terminal = terminal
        self._inbox: asyncio.Queue[_Line | Event | CommandFailed] = asyncio.Queue()
        self._typed = b""
        self._pending: dict[str, Request] = {}
        self._current: Request | None = None
        self._answers_from = 0.0
        self._is_away = False
        self._interrupted = False

    async def run(self) -> None:
        """Goes on until told to quit, or the end of the input. Raises CommandFailed."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._terminal, self._on_readable)
        following = asyncio.create_task(self._follow(), name="permission-stream")
        try:
            while True:
                match await self._inbox.get():
                    case CommandFailed() as failure:
                        raise failure
                    case _Line() as line:
                        if not await self._take(line):
                            return
                    case event:
                        self._happen(event)
        finally:
            loop.remove_reader(self._terminal)
            following.cancel()
            await asyncio.wait((following,))

    async def _follow(self) -> None:
        try:
            async with aclosing(self._client.follow()) as events:
                async for event in events:
                    self._inbox.put_nowait(event)
        except CommandFailed as failure:
            self._inbox.put_nowait(failure)
        except msgspec.DecodeError as error:
            self._inbox.put_nowait(CommandFailed(f"{self._client.url} sends what this release cannot read: {error}"))

    def _on_readable(self) -> None:
        # In line mode a terminal is readable once a whole line is there.
        try:
            data = os.read(self._terminal, 65536)
        except OSError:
            data = b""
        now = asyncio.get_running_loop().time()
        if not data:
            asyncio.get_running_loop().remove_reader(self._terminal)
            self._inbox.put_nowait(_Line(None, now))
        *lines, self._typed = (self._typed + data).split(b"\n")
        for line in lines:
            self._inbox.put_nowait(_Line(line.decode(errors="replace").strip(), now))

    # -- what happens -------------------------------------------------------------------------------------------------

    def _happen(self, event: Event) -> None:
        match event:
            case Connected():
                self._is_away = False
                self._say(f"Watching {self._client.url} for permission requests. Ctrl-C ends.")
            case Away():
                if not self._is_away:
                    self._say(f"{self._line_break()}The edge is away ({event.why}): trying again.")
                self._is_away = True
                # All that is pending comes again with the next stream, perhaps in another order.
                self._interrupted |= self._current is not None
                self._pending.clear()
                self._current = None
            case Request():
                self._pending[event.id] = event
                if self._current is None:
                    self._next(by_itself=self._interrupted)
                    self._interrupted = False
            case Resolution():
                self._pending.pop(event.id, None)
                if self._current is not None and self._current.id == event.id:
                    self._say(f"{self._line_break()}No longer asked: {event}.")
                    self._next(by_itself=True)

    async def _take(self, line: _Line) -> bool:
        """Does what a typed line says; False: to quit."""
        if line.text is None:
            self._say("")
            return False
        word, _, rest = line.text.partition(" ")
        rest = rest.strip()
        match word.lower():
            case "q" | "quit":
                return False
            case "l" | "list":
                self._list()
            case "":
                pass
            case _ if self._current is None:
                self._say("Nothing is asked now.")
                return True
            case _ if line.at < self._answers_from:
                self._say("The question changed just before that: please answer again.")
            case "y" | "yes" if not rest:
                return await self._answer(allow=True)
            case "n" | "no":
                return await self._answer(allow=False, reason=rest)
            case "e" | "edit":
                return await self._edit(rest)
            case "f" | "full":
                self._show(self._current, full=True)
            case "s" | "skip":
                # Behind all others.
                self._pending[self._current.id] = self._pending.pop(self._current.id)
                self._next(by_itself=False)
                return True
            case _:
                self._say(f"Not understood. {_CHOICES}.")
        self._ask()
        return True

    async def _edit(self, text: str) -> bool:
        try:
            msgspec.json.decode(text.encode(errors="replace"), type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, RecursionError) as error:
            self._say(f"The input must be a JSON object ({printable(str(error))}): not answered.")
            self._ask()
            return True
        return await self._answer(allow=True, updated_input=msgspec.Raw(text.encode()))

    async def _answer(self, *, allow: bool, updated_input: msgspec.Raw | None = None, reason: str = "") -> bool:
        request = self._current
        if request is None:
            return True
        try:
            resolution = await self._client.answer(request.id, allow=allow, updated_input=updated_input, reason=reason)
        except NotAnswered as error:
            self._say(f"Not answered: {error}.")
            if not error.final:
                self._ask()
                return True
        else:
            self._say(f"{printable(request.tool_name)}: {resolution}.")
        self._pending.pop(request.id, None)
        self._next(by_itself=False)
        return True

    # -- what is shown ------------------------------------------------------------------------------------------------

    def _next(self, *, by_itself: bool) -> None:
        """Goes on to the first question that waits.

        Args:
            by_itself: Not because of what was typed, so that what is typed now may be meant for the one before.
        """
        self._current = next(iter(self._pending.values()), None)
        # What was typed before a question is shown is no answer to it.
        self._typed = b""
        termios.tcflush(self._terminal, termios.TCIFLUSH)
        self._answers_from = asyncio.get_running_loop().time() + (_TOO_SOON_SECONDS if by_itself else 0)
        if self._current is not None:
            self._show(self._current)
            self._ask()
        else:
            self._say("Nothing more is asked; waiting.")

    def _show(self, request: Request, *, full: bool = False) -> None:
        title = Text("\n" + printable(request.tool_name), "bold")
        left = max(0.0, request.expires_at - time.time())
        about = [request.backend, f"session {request.session}" if request.session else "", request.id]
        others = len(self._pending) - 1
        about += [f"{left:.0f} s left", f"{others} more waiting" if others else ""]
        title.append("  " + " · ".join(printable(part) for part in about if part), "not bold")
        self._console.print(title, soft_wrap=True)
        for line in shown_input(bytes(request.input), full=full):
            self._console.print(Text("  " + line), soft_wrap=True)

    def _ask(self) -> None:
        if self._current is not None:
            self._console.print(
                Text(f"{_CHOICES}\nAllow {printable(self._current.tool_name)}? "), end="", soft_wrap=True
            )

    def _list(self) -> None:
        for request in self._pending.values():
            self._say(f"{request.id}  {printable(request.tool_name)}  {printable(request.backend)}")
        if not self._pending:
            self._say("Nothing is asked now.")

    def _line_break(self) -> str:
        """What ends the line at which an answer is typed, if there is one."""
        return "" if self._current is None else "\n"

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def shown_input(raw: bytes, *, full: bool) -> list[str]:
    """A tool's input as lines to read; unless `full`, a long one is cut, which is said."""
    lines = json_lines(raw)
    if full:
        return lines
    shown = [
        line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]} [{len(line) - _MOST_CHARACTERS} MORE]"
        for line in lines[:_MOST_LINES]
    ]
    left = len(lines) - _MOST_LINES
    if left > 0:
        shown.append(f"[{left} MORE LINES: f shows all]")
    return shown
