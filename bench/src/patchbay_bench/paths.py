"""A path: how a stream gets from the load generator to the stand-in and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from patchbay_bench.jobs import ClientDialect
from patchbay_bench.meters import Roles

System: TypeAlias = Literal["direct", "patchbay", "litellm", "ccproxy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One of them.

    Attributes:
        name: What the report calls it.
        system: What stands in between.
        client: The client's dialect.
        upstream: The upstream's dialect.
        base_path: What the URL has before the dialect's own path.
        model_prefix: What the system wants before the stand-in's model names.
        headers: What it wants of a client: its key.
        roles: The processes in between, whose CPU time and memory are its cost.
    """

    name: str
    system: System
    client: ClientDialect
    upstream: ClientDialect
    # Whether the client asks over a WebSocket.
    websocket: bool = False
    port: int
    base_path: str = ""
    model_prefix: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    roles: Roles

    @property
    def native(self) -> bool:
        """Whether the client speaks the upstream's dialect."""
        return self.client == self.upstream


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What could not be measured, and why."""

    name: str
    reason: str


DIRECT_ANTHROPIC: Final = "direct, Anthropic"
DIRECT_OPENAI: Final = "direct, OpenAI"
DIRECT_RESPONSES: Final = "direct, Responses"
NATIVE_ANTHROPIC: Final = "Patchbay native, Anthropic"
NATIVE_OPENAI: Final = "Patchbay native, OpenAI"
OPENAI_TO_ANTHROPIC: Final = "Patchbay, OpenAI to Anthropic"
ANTHROPIC_TO_OPENAI: Final = "Patchbay, Anthropic to OpenAI"
NATIVE_RESPONSES: Final = "Patchbay native, Responses"
RESPONSES_TO_ANTHROPIC: Final = "Patchbay, Responses to Anthropic"
SOCKET_RESPONSES: Final = "Patchbay native, Responses over WebSocket"
SOCKET_TO_ANTHROPIC: Final = "Patchbay, Responses over WebSocket to Anthropic"
LITELLM_OPENAI: Final = "LiteLLM, OpenAI"
LITELLM_ANTHROPIC: Final = "LiteLLM, Anthropic"
CCPROXY_ANTHROPIC: Final = "CCProxy, Anthropic"
CCPROXY_TRANSLATED: Final = "CCProxy, OpenAI to Anthropic"
