"""What the connections of a replica share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from patchbay.dispatch.callers import Callers
from patchbay.settings import Settings
from patchbay.state.admission import Admission
from patchbay.state.codebuff_logins import CodebuffLogins
from patchbay.state.codebuff_sessions import CodebuffSessions
from patchbay.state.codebuff_topics import Topics
from patchbay.state.codebuff_usage import CodebuffUsage
from patchbay_codebuff_ws.connection.memory import Room
from patchbay_codebuff_ws.ports import Loop


class Capture(Protocol):
    """Where the frames of a socket are written."""

    def client(self, text: str) -> None: ...

    def server(self, text: str) -> None: ...

    def close(self) -> None: ...


class Load(Protocol):
    """How busy this replica is."""

    def begin(self) -> None:
        """A prompt begins. Raises PatchbayError (OVERLOADED) if there are as many as there may be."""

    def end(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What all connections share."""

    settings: Settings
    loop: Loop
    callers: Callers
    admission: Admission
    sessions: CodebuffSessions
    room: Room
    topics: Topics
    logins: CodebuffLogins
    usage: CodebuffUsage
    load: Load
    worker_id: str
    capture: Callable[[str, Mapping[str, str]], Capture | None]
