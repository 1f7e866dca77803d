"""Codebuff's clients: their socket, their agents' models, and what is kept of their runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

from patchbay.settings.codex import url as web_address


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _path(text: str) -> str:
    if not text.startswith("/") or any(sign in text for sign in "?#*% "):
        raise ValueError("must be a path that begins with / and has none of ?#*% and no space")
    if text.endswith("/responses"):
        raise ValueError("must be a path of its own; the Responses API has its WebSockets at those that end so")
    return text


class CodebuffModels(_Section):
    """Which model answers which agent: by the agent, else by the cost mode, else the default, else as the agent says.

    The values are models as any client would ask for them, so that the routes, and `<backend>/<model>`, decide.
    """

    agents: dict[str, str] = Field(default_factory=dict, description="Agent id -> model.")
    cost_modes: dict[str, str] = Field(
        default_factory=dict, description="Cost mode (lite, normal, max, experimental, ask) -> model."
    )
    default: str | None = Field(default=None, description="For every other agent; null: the model its template names.")


class CodebuffSearch(_Section):
    """A service that searches, asked with POST and answering `{"result": text}`."""

    url: Annotated[str, AfterValidator(web_address)] = Field(description="Where to post the search.")
    api_key: SecretStr | None = Field(default=None, description="Sent as a bearer token.")


class CodebuffSteps(_Section):
    """What the programs of agents (`handleSteps`) may use, each in a process of its own."""

    memory_bytes: Annotated[int, Field(ge=8 * 1024 * 1024)] = Field(
        default=64 * 1024 * 1024,
        description="Memory of one program; its agent's conversation, as JSON, has to fit in a quarter of it.",
    )
    seconds: PositiveFloat = Field(
        default=5.0, description="How long a program may compute between two yields; on the clock, twice as long."
    )
    max_programs: PositiveInt = Field(default=100, description="Programs of one replica at a time.")


class Codebuff(_Section):
    """Codebuff's clients."""

    enabled: bool = Field(default=True, description="Whether they are served; false: 404.")
    websocket_path: Annotated[str, AfterValidator(_path)] = Field(default="/ws", description="Path of the WebSocket.")
    legacy_protocol: bool = Field(default=False, description="Whether the protocol of February 2025 is spoken as well.")
    compression: bool = Field(
        default=False, description="Whether frames may be compressed (permessage-deflate); then every WebSocket's may."
    )
    max_frame_bytes: PositiveInt = Field(default=64 * 1024 * 1024, description="The largest frame of a client.")
    max_kept_bytes: PositiveInt = Field(
        default=1024 * 1024 * 1024,
        description="What one edge keeps of frames, of all clients together; who sends more then is closed.",
    )
    heartbeat_timeout_seconds: PositiveFloat = Field(
        default=60.0, description="A client that sends nothing at all for so long is gone."
    )
    max_connections: PositiveInt = Field(default=1000, description="WebSockets at a time, of all edges together.")
    max_connections_per_key: PositiveInt = Field(default=100, description="Of these, those of one caller.")
    request_timeout_seconds: PositiveFloat = Field(
        default=60.0, description="How long a client may take to read files, and over a command's own time."
    )
    max_agent_depth: PositiveInt = Field(default=5, description="How deep agents may start agents.")
    max_running_agents: PositiveInt = Field(default=20, description="Agents of one prompt that run at a time.")
    context_tokens: PositiveInt = Field(
        default=190_000, description="Over so many tokens the oldest of a conversation is left out."
    )
    models: CodebuffModels = CodebuffModels()
    steps: CodebuffSteps = CodebuffSteps()
    runs_ttl_seconds: PositiveFloat = Field(default=86_400.0, description="How long a run is kept to be looked at.")
    session_ttl_seconds: PositiveFloat = Field(
        default=3_600.0,
        description="How long what a client said of its project is kept for other replicas once it is silent.",
    )
    capture: bool = Field(default=False, description="Whether frames are written to files, without secrets.")
    capture_directory: str = Field(default="captures", description="Where to.")
    web_search: CodebuffSearch | None = Field(default=None, description="What searches the web; null: nothing does.")
    docs_search: CodebuffSearch | None = Field(default=None, description="What searches documentation.")
    cost_margin: NonNegativeFloat = Field(default=0.0, description="Credits over the price: 0.1 is 10 %.")

    @model_validator(mode="after")
    def _keeps_the_largest_frame(self) -> Codebuff:
        if self.max_kept_bytes <= self.max_frame_bytes:
            raise ValueError("max_kept_bytes must be more than max_frame_bytes")
        return self
