"""The shape of a dialect: four functions and an error table.

A dialect is one folder here. Its four functions are pure (no I/O, no clock, no settings), so that each dialect can be
both a client's and an upstream's, and a pair of dialects needs no code of its own:

    client bytes   -> read_request  -> Chat   -> write_request -> upstream bytes      (edge, then worker)
    upstream bytes -> read_events   -> events -> write_events  -> client bytes        (worker, then edge)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from patchbay.canonical import Chat, ChatEvent, Error, Warning
from patchbay.dialects.tool_names import ClientTool

Quirks = TypeVar("Quirks")


@dataclass(frozen=True, slots=True)
class WrittenRequest:
    """A request body for an upstream, and what of the chat it could not say."""

    body: bytes
    warnings: tuple[Warning, ...] = ()
    # Tools that the upstream knows by another name, or as another kind of tool: its name -> the client's tool. For
    # `ReadOptions.names`.
    names: Mapping[str, ClientTool] = field(default_factory=dict)
    # Like `warnings`, of what a client sends whether or not it needs it: no reason to refuse the request.
    notes: tuple[Warning, ...] = ()


@dataclass(frozen=True, slots=True)
class NativeEdit:
    """A client's own body made ready for an upstream of the same dialect."""

    body: bytes
    # The client did not ask for the usage report that the body now asks for: keep it from the client.
    hide_usage: bool = False
    # What the upstream would have refused, and was left out.
    warnings: tuple[Warning, ...] = ()
    # The upstream may not be told of tools by the client's names: the request is to be read and written anew, and its
    # answer then names them as the client does.
    is_unfit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How an upstream's answer is to be read."""

    # The answer's media type: `text/event-stream` is read frame by frame, anything else as one JSON body at its end.
    content_type: str = "text/event-stream"
    # Pass the bytes on as Native events (whole frames), with only Usage, Finished and Error read out of them.
    native: bool = False
    # With `native`: keep the stream's usage report from the client.
    hide_usage: bool = False
    # `WrittenRequest.names` of the request: tools to turn back into the client's.
    names: Mapping[str, ClientTool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """How a client wants its answer."""

    stream: bool
    # The model the client asked for; the answer names the upstream's model where that is known.
    model: str = ""
    # OpenAI's `stream_options.include_usage`.
    include_usage: bool = False
    # An id for the answer when the upstream gave none.
    fallback_id: str = ""
    # Seconds since the epoch when the request came, for dialects whose answers say so.
    created: int = 0
    # The fields of the request that a Response object repeats (`openai_responses.echo_of`), each as its JSON text.
    echo: Mapping[str, bytes] = field(default_factory=dict)
    # Where thinking goes in Chat Completions: a field of its own, or a `<reasoning>` element in the visible text.
    reasoning_format: Literal["field", "xml"] = "field"


class EventReader(Protocol):
    """Reads one upstream answer, in pieces cut anywhere."""

    def feed(self, data: bytes) -> list[ChatEvent]:
        """The events that `data` completes. Never raises: what cannot be read becomes an Error event."""

    def close(self) -> list[ChatEvent]:
        """The last events, once the upstream has ended. An answer without its proper end gives an Error event."""


class EventWriter(Protocol):
    """Writes one client answer. Native data passes through untouched."""

    # The media type of the answer.
    content_type: str

    def feed(self, events: Iterable[ChatEvent]) -> bytes:
        """What the client gets for these events; when not streaming, nothing until `close`.

        An Error event ends the stream in the dialect's own way. Events after the end are ignored.
        """

    def close(self) -> bytes:
        """The end of the answer: the whole body when not streaming. A stream that never finished ends with an error.

        Raises:
            PatchbayError: When not streaming and the answer ended in an error or never finished.
        """

    def ping(self) -> bytes:
        """A sign of life between events; empty when not streaming."""


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """An error as an HTTP answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


class ErrorTable(Protocol):
    """A dialect's errors, to and from the closed set."""

    def write(self, error: Error, request_id: str) -> ErrorBody:
        """The HTTP answer for an error, `retry-after` included. An upstream's body of this dialect stays as it is."""

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Error:
        """The error that an upstream's answer stands for; header names in lower case. Never raises."""


@dataclass(frozen=True, slots=True)
class Dialect(Generic[Quirks]):
    """One protocol, as client and as upstream."""

    name: str
    # Reads a client's body. Raises InvalidRequest.
    read_request: Callable[[bytes], Chat]
    # Writes a body for an upstream: (chat, model to ask for, the upstream's quirks). Raises InvalidRequest.
    write_request: Callable[[Chat, str, Quirks], WrittenRequest]
    read_events: Callable[[ReadOptions], EventReader]
    write_events: Callable[[AnswerOptions], EventWriter]
    errors: ErrorTable
    # What upstreams of this dialect may differ in; the default is the protocol's owner.
    quirks: Quirks
    # Readies a client's own body: (body, model to ask for or None for the client's own, the upstream's quirks). Raises
    # InvalidRequest.
    edit_native: Callable[[bytes, str | None, Quirks], NativeEdit]
