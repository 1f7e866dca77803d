"""What the benchmark asks of the load generator, and what it gets back: one line of JSON each."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

ClientDialect: TypeAlias = Literal["anthropic", "openai", "responses", "codebuff"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A number of streams to run against one URL.

    Attributes:
        host: A loopback address.
        headers: Names and values beside content type and length.
        expected: The text that every answer has to hold.
        concurrency: Streams at once; each slot starts the next as soon as one has ended.
        streams: At least so many, however long they take.
        seconds: After those, new streams start only within this time from the job's start.
        most: Never more streams than this.
        patience: Seconds after which what still runs counts as failed.
        spread: Seconds over which the slots start, so that they do not run in step.
        websocket: Ask in frames of a WebSocket, each connection one answer after the other.
        before: With `websocket`: a request to begin each connection with, which is not measured. `body` then goes on
            from the connection's last response.
        fresh: Open a connection for each stream, which counts as part of it.
        hold: Open `concurrency` streams, say so, and drop them when told, instead of reading them to the end.
        ping_seconds: With `hold`, to Codebuff's WebSocket: ask nothing, but ping so often in each connection.
    """

    host: str
    port: int
    path: str
    dialect: ClientDialect
    headers: dict[str, str]
    body: str
    expected: str
    concurrency: int
    streams: int
    seconds: float = 0.0
    most: int = 100_000
    patience: float = 120.0
    spread: float = 0.0
    websocket: bool = False
    before: str = ""
    fresh: bool = False
    hold: bool = False
    ping_seconds: float = 0.0


class JobResult(msgspec.Struct, kw_only=True):
    """What came of a job. Times in seconds.

    Attributes:
        completed: Streams whose text, stop reason and end were all as expected.
        failures: What was wrong with the others, each sort once.
        failed: How many others there were.
        wall: From the first byte sent to the last byte received.
        deltas: Content deltas received, over all completed streams.
        received: Bytes of bodies, over all completed streams.
        pieces: HTTP chunks in which they came: the fewer, the more deltas travelled together.
        first_byte: Of each completed stream, from its request to the first read of its answer.
        first_content: Of each completed stream, from its request to the read that held its first content.
        duration: Of each completed stream, from its request to its end.
        cpu: The generator's own CPU time.
    """

    completed: int = 0
    failed: int = 0
    failures: list[str] = []
    wall: float = 0.0
    deltas: int = 0
    received: int = 0
    pieces: int = 0
    first_byte: list[float] = []
    first_content: list[float] = []
    duration: list[float] = []
    cpu: float = 0.0
