"""What the stand-in needs of a protocol: reading requests, and writing answers and errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, Protocol

from patchbay_standin.answer import Answer
from patchbay_standin.errors import ProviderError
from patchbay_standin.exchange import Headers
from patchbay_standin.prompt import Prompt
from patchbay_standin.script import Script

EVENT_STREAM: Final = b"text/event-stream; charset=utf-8"


class Frame(NamedTuple):
    """One server-sent event, with the empty line that ends it."""

    data: bytes
    # Whether it carries content: what `deltas`, `silence_after` and the like count.
    is_delta: bool = False


class Wire(Protocol):
    """A protocol, as its provider speaks it."""

    @property
    def name(self) -> str:
        """The protocol's name in the records."""

    @property
    def keepalive(self) -> bytes:
        """A frame that says nothing but that the stream is alive."""

    @property
    def call_prefix(self) -> str:
        """What the ids of tool calls begin with."""

    @property
    def stream_type(self) -> bytes | None:
        """The content type that the provider gives a stream; None: it gives none."""

    @property
    def reads_compressed(self) -> bool:
        """Whether request bodies may be compressed."""

    def no_such_model(self, model: str) -> ProviderError:
        """What the provider says of a model that it does not have."""

    def authenticate(self, headers: Mapping[bytes, bytes]) -> None:
        """Checks key and version headers; names in lower case. Raises ProviderError."""

    def read(self, body: bytes) -> Prompt:
        """Reads and checks a request body. Raises ProviderError."""

    def headers(self, number: int) -> Headers:
        """The headers of an answer, without its content type."""

    def frames(self, answer: Answer, prompt: Prompt, script: Script) -> Iterator[Frame]:
        """A whole streamed answer."""

    def body(self, answer: Answer, prompt: Prompt, script: Script) -> bytes:
        """A whole answer in one piece."""

    def error_frame(self, error: ProviderError, number: int) -> bytes:
        """An error inside a stream."""

    def error_body(self, error: ProviderError, number: int) -> bytes:
        """An error instead of an answer."""
