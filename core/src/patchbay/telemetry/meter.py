"""What a request used, for metrics and the request log."""

from __future__ import annotations

from collections.abc import Iterable

from patchbay.canonical import ChatEvent, Usage
from patchbay.telemetry import metrics

_KINDS = frozenset({"input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"})


class Meter:
    """Reads usage out of an answer's events; the last value of each field wins.

    Attributes:
        usage: What was said so far.
    """

    def __init__(self) -> None:
        self.usage = Usage()
        self.finished = False
        self.failed = False

    def see(self, events: Iterable[ChatEvent]) -> None:
        for event in events:
            kind = event.WhichOneof("event")
            if kind == "usage":
                self.usage.MergeFrom(event.usage)
            elif kind == "finished":
                self.finished = True
            elif kind == "error":
                self.failed = True

    def counts(self) -> dict[str, int]:
        """The tokens by kind (`input_tokens`, ...), as far as the upstream said."""
        return {field.name: value for field, value in self.usage.ListFields() if field.name in _KINDS}

    def record(self, backend: str, model: str) -> None:
        """Adds the tokens of a client's request to the metrics."""
        for kind, tokens in self.counts().items():
            metrics.EDGE_TOKENS.labels(backend, metrics.MODELS.label(model), kind.removesuffix("_tokens")).inc(tokens)

    def record_agent(self, backend: str, model: str, *, key_id: str, cost: int) -> None:
        """Adds the tokens of a Codebuff agent's request to the metrics, and its cost in credits."""
        labels = (key_id, backend, metrics.MODELS.label(model))
        for kind, tokens in self.counts().items():
            metrics.CODEBUFF_TOKENS.labels(*labels, kind.removesuffix("_tokens")).inc(tokens)
        metrics.CODEBUFF_CREDITS.labels(*labels).inc(cost)
