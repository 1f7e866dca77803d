"""What the stand-in was asked, and how it ended: for assertions."""

from __future__ import annotations

import base64
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

Outcome: TypeAlias = Literal["completed", "aborted", "error", "cut"]

MAX_REQUESTS: Final = 2_000
MAX_BODY_BYTES: Final = 64 * 1024 * 1024


class RecordedRequest(msgspec.Struct, kw_only=True):
    """One request, as `GET /standin/requests` shows it."""

    # Counts up from 1.
    id: int
    method: str
    path: str
    query: str
    # Names in lower case; values of a repeated header are joined with `, `.
    headers: dict[str, str]
    # The parsed body when it is JSON.
    body: object = None
    # The body in base64 when it is not JSON.
    body_base64: str | None = None
    # The body was let go to bound the memory of all records.
    body_dropped: bool = False
    # `anthropic`, `openai`, `openai-responses`, `codex`, `codebuddy`, `oauth`; empty for anything else.
    protocol: str = ""
    model: str = ""
    # Seconds since the epoch; `ended` is None while the request runs.
    started: float
    ended: float | None = None
    # The status answered; 0 before that.
    status: int = 0
    # None while the request runs.
    outcome: Outcome | None = None
    # Content deltas sent.
    deltas: int = 0
    # How often sending waited for a slow reader.
    paused: int = 0


class Stats(msgspec.Struct, kw_only=True):
    """Counts since the start or the last reset, as `GET /standin/stats` shows them."""

    requests: int = 0
    # Running now.
    active: int = 0
    max_active: int = 0
    completed: int = 0
    # The client went away before the end.
    aborted: int = 0
    # Answered with an error, as status or in the stream.
    errors: int = 0
    # Connections closed by the script.
    cut: int = 0
    # How often sending waited for a slow reader.
    paused: int = 0


class Entry:
    """A request that is being served; cheap to keep, turned into a RecordedRequest when asked for."""

    __slots__ = (
        "body",
        "body_dropped",
        "deltas",
        "ended",
        "headers",
        "method",
        "model",
        "number",
        "outcome",
        "path",
        "paused",
        "protocol",
        "query",
        "started",
        "status",
    )

    def __init__(
        self, number: int, method: str, path: str, *, query: bytes, headers: Sequence[tuple[bytes, bytes]]
    ) -> None:
        self.number = number
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = b""
        self.body_dropped = False
        self.protocol = ""
        self.model = ""
        self.started = time.time()
        self.ended: float | None = None
        self.status = 0
        self.outcome: Outcome | None = None
        self.deltas = 0
        self.paused = 0

    def show(self) -> RecordedRequest:
        """The record as JSON shows it."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in self.headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        record = RecordedRequest(
            id=self.number,
            method=self.method,
            path=self.path,
            query=self.query.decode("latin-1"),
            headers=headers,
            body_dropped=self.body_dropped,
            protocol=self.protocol,
            model=self.model,
            started=self.started,
            ended=self.ended,
            status=self.status,
            outcome=self.outcome,
            deltas=self.deltas,
            paused=self.paused,
        )
        if self.body:
            try:
                record.body = msgspec.json.decode(self.body)
            except msgspec.DecodeError:
                record.body_base64 = base64.b64encode(self.body).decode()
        return record


class Records:
    """The last requests, bounded in number and in bytes, and the counts of all.

    Args:
        keep: Whether requests are kept at all; counts are always.
    """

    def __init__(self, *, keep: bool = True) -> None:
        self._keep = keep
        self._entries: deque[Entry] = deque()
        self._with_body: deque[Entry] = deque()
        self._body_bytes = 0
        self._number = 0
        self.stats = Stats()

    def begin(self, method: str, path: str, *, query: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Entry:
        """A request has come."""
        self._number += 1
        entry = Entry(self._number, method, path, query=query, headers=headers)
        stats = self.stats
        stats.requests += 1
        stats.active += 1
        stats.max_active = max(stats.max_active, stats.active)
        if self._keep:
            self._entries.append(entry)
            if len(self._entries) > MAX_REQUESTS:
                self._entries.popleft()
        return entry

    def keep_body(self, entry: Entry, body: bytes) -> None:
        """Keeps a request's body, and lets the oldest ones go when they are too many bytes."""
        if not self._keep or not body:
            return
        entry.body = body
        self._with_body.append(entry)
        self._body_bytes += len(body)
        while self._with_body and (self._body_bytes > MAX_BODY_BYTES or len(self._with_body) > MAX_REQUESTS):
            oldest = self._with_body.popleft()
            self._body_bytes -= len(oldest.body)
            oldest.body, oldest.body_dropped = b"", True

    def end(self, entry: Entry, outcome: Outcome) -> None:
        """A request has ended."""
        entry.ended = time.time()
        entry.outcome = outcome
        stats = self.stats
        stats.active -= 1
        match outcome:
            case "completed":
                stats.completed += 1
            case "aborted":
                stats.aborted += 1
            case "error":
                stats.errors += 1
            case "cut":
                stats.cut += 1

    def show(self, *, after: int = 0) -> list[RecordedRequest]:
        """The records with an id above `after`, oldest first."""
        return [entry.show() for entry in self._entries if entry.number > after]

    def clear(self) -> None:
        """Forgets all requests and sets the counts to 0, but for those still running."""
        self._entries.clear()
        self._with_body.clear()
        self._body_bytes = 0
        active = self.stats.active
        self.stats = Stats(active=active, max_active=active)
