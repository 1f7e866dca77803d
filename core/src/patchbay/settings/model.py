"""The configuration: every key once, with its default and what it is for."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from patchbay.settings.backends import Backend, BackendsConfig
from patchbay.settings.codebuff import Codebuff
from patchbay.settings.embedded import embedded_url
from patchbay.settings.routes import Route, RouteConfig
from patchbay.settings.sources import Tree

Port: TypeAlias = Annotated[int, Field(ge=0, le=65535)]

_SHORTEST_SECRETS_KEY = 16

# What flags, environment and file say, the strongest first, while `load` builds the settings.
layers: ContextVar[tuple[Tree, ...]] = ContextVar("layers", default=())


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(Section):
    """The edge's HTTP server."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: Port = Field(default=8000, description="Port to listen on; 0 takes any free one.")
    drain_seconds: NonNegativeFloat = Field(
        default=60.0, description="On shutdown, how long running answers may go on."
    )
    keep_alive_ping_seconds: PositiveFloat = Field(default=10.0, description="How often a silent stream gets a ping.")
    head_hold_seconds: NonNegativeFloat = Field(
        default=10.0,
        description="How long an answer's status may wait for its first content, so that a failure can fail over.",
    )
    metrics_port: Port = Field(
        default=0, description="Port of Prometheus /metrics; 0: none, so that several edges share a host."
    )


class Redis(Section):
    """The shared state."""

    url: SecretStr = Field(
        default=SecretStr("embedded"),
        description="embedded (started by `patchbay up`), or redis://, rediss://, unix://, redis+sentinel://, "
        "redis+cluster://.",
    )
    timeout_seconds: PositiveFloat = Field(default=0.5, description="Longest wait for one command.")

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: SecretStr) -> SecretStr:
        schemes = (
            "redis://",
            "rediss://",
            "unix://",
            *(f"{tls}+{how}://" for tls in ("redis", "rediss") for how in ("sentinel", "cluster")),
        )
        if url.get_secret_value() != "embedded" and not url.get_secret_value().startswith(schemes):
            raise ValueError(f"must be embedded or start with one of {', '.join(schemes)}")
        return url

    @property
    def embedded(self) -> bool:
        return self.url.get_secret_value() == "embedded"

    def connect_url(self) -> str:
        """The URL to connect to: a secret, since it may hold a password."""
        return embedded_url() if self.embedded else self.url.get_secret_value()


class ApiKey(Section):
    """A key that clients of this system may use."""

    # In a list of keys, a plain text is a key of its own.
    WRITTEN_AS_SECRET: ClassVar[bool] = True

    key: SecretStr = Field(description="The secret itself, or env:NAME or file:PATH.")
    id: str = Field(
        default="", description="What logs and limits call the key; left out: made from the key, not reversible."
    )
    organization: str = Field(default="", description="The organization the key belongs to.")
    user: str = Field(default="", description="The person the key belongs to.")
    requests_per_minute: PositiveInt | None = Field(default=None, description="This key's own limit.")
    concurrent_requests: PositiveInt | None = Field(default=None, description="This key's own limit.")
    operator: bool = Field(
        default=False, description="May sign backends in and out, and answer every caller's permission requests."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if isinstance(value, str):
            value = {"key": value}
        if isinstance(value, dict) and isinstance(value.get("key"), str) and not value.get("id"):
            digest = hmac.new(b"patchbay api key id", value["key"].encode(), hashlib.sha256)
            value = {**value, "id": digest.hexdigest()[:12]}
        return value

    @field_validator("key")
    @classmethod
    def _not_empty(cls, key: SecretStr) -> SecretStr:
        if not key.get_secret_value():
            raise ValueError("is empty")
        return key


class Security(Section):
    """Who may use this system."""

    require_api_key: bool = Field(default=False, description="Refuse requests without one of the keys below.")
    api_keys: tuple[ApiKey, ...] = Field(
        default=(), description="The keys: each a secret, or {key, id, organization, user, requests_per_minute, ...}."
    )

    secrets_key: tuple[SecretStr, ...] = Field(
        default=(),
        description="What seals secrets in Redis: 32 bytes in hex or base64, or a passphrase of 16 characters or more; "
        "several: the first one seals, all open. None: no sign-in is kept in Redis.",
    )

    @field_validator("secrets_key")
    @classmethod
    def _long_enough(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < _SHORTEST_SECRETS_KEY for key in keys):
            raise ValueError(
                f"each key is 32 bytes in hex or base64, or a passphrase of {_SHORTEST_SECRETS_KEY} characters or more"
            )
        return keys

    @model_validator(mode="after")
    def _keys_fit(self) -> Security:
        if self.require_api_key and not self.api_keys:
            raise ValueError("require_api_key is true but there are no api_keys")
        for what, values in (
            ("id", [key.id for key in self.api_keys]),
            ("key", [key.key.get_secret_value() for key in self.api_keys]),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"two api_keys have the same {what}")
        return self

    def sealing_keys(self) -> tuple[str, ...]:
        """The secrets to make a sealer of (`patchbay.state.sealing.make_sealer`)."""
        return tuple(key.get_secret_value() for key in self.secrets_key)


class Limits(Section):
    """How much at a time."""

    max_connections: PositiveInt = Field(default=10_000, description="Requests and sockets at a time, over all edges.")
    max_request_bytes: PositiveInt = Field(default=64 * 1024 * 1024, description="Largest request body, uncompressed.")
    requests_per_minute: PositiveInt | None = Field(default=None, description="Per key; null: no limit.")
    concurrent_requests: PositiveInt | None = Field(default=None, description="Per key; null: no limit.")
    lease_seconds: Annotated[float, Field(ge=3.0)] = Field(
        default=30.0, description="A killed edge's slots come back after this long."
    )
    on_redis_down: Literal["allow", "deny"] = Field(
        default="allow",
        description="What becomes of new requests while Redis is away: allow (each edge within its share), or deny.",
    )


class Sessions(Section):
    """What is kept of conversations that clients of the Responses API go on from."""

    ttl_seconds: PositiveFloat = Field(default=86_400.0, description="How long a response is kept after its last turn.")
    max_bytes: PositiveInt = Field(
        default=8 * 1024 * 1024, description="The most that is kept of one conversation; a longer one is not kept."
    )


class Workers(Section):
    """What the workers on this machine share."""

    host: str = Field(default="127.0.0.1", description="Address the gRPC servers listen on.")
    advertise_host: str | None = Field(
        default=None,
        description="Address edges reach this machine's workers at; null: host, or the machine's own address.",
    )
    openai_port: Port = Field(default=0, description="openai-worker's gRPC port; 0: any free one.")
    claude_port: Port = Field(default=0, description="claude-worker's gRPC port; 0: any free one.")
    codex_port: Port = Field(default=0, description="codex-worker's gRPC port; 0: any free one.")
    codebuff_port: Port = Field(default=0, description="codebuff-ws's gRPC port; 0: any free one.")
    capacity: PositiveInt = Field(default=1000, description="Streams at a time per worker.")
    openai_metrics_port: Port = Field(default=0, description="Port of openai-worker's Prometheus /metrics; 0: none.")
    claude_metrics_port: Port = Field(default=0, description="Port of claude-worker's Prometheus /metrics; 0: none.")
    codex_metrics_port: Port = Field(default=0, description="Port of codex-worker's Prometheus /metrics; 0: none.")
    codebuff_metrics_port: Port = Field(default=0, description="Port of codebuff-ws's Prometheus /metrics; 0: none.")
    drain_seconds: NonNegativeFloat = Field(
        default=60.0, description="On shutdown, how long running answers may go on."
    )
    batch_window_ms: NonNegativeFloat = Field(
        default=40.0, description="Events of so many milliseconds travel together; the first and the last at once."
    )
    heartbeat_seconds: PositiveFloat = Field(default=1.0, description="How often a worker says that it lives.")
    heartbeat_ttl_seconds: PositiveFloat = Field(default=5.0, description="A worker silent for so long is dead.")

    @model_validator(mode="after")
    def _heartbeats_fit(self) -> Workers:
        if self.heartbeat_ttl_seconds <= self.heartbeat_seconds:
            raise ValueError("heartbeat_ttl_seconds must be more than heartbeat_seconds")
        return self


def _yes_or_no(value: object) -> object:
    return {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value


class StandIn(Section):
    """The scripted provider that answers when there is no credential."""

    enabled: Annotated[Literal["auto", "true", "false"], BeforeValidator(_yes_or_no)] = Field(
        default="auto", description="true, false, or auto: `patchbay up` starts it when no backend has a credential."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on, and to reach it at.")
    port: Port = Field(default=8010, description="Port to listen on.")


class Telemetry(Section):
    """What is said about what goes on."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="console for people, json for machines, auto: console on a terminal."
    )


class Settings(BaseSettings):
    """The whole configuration, as `patchbay.settings.load` returns it."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    server: Server = Server()
    redis: Redis = Redis()
    security: Security = Security()
    backends: BackendsConfig = BackendsConfig.model_validate({})
    routes: tuple[RouteConfig, ...] = Field(
        default=(),
        description="Which backend answers which model; the first that fits. None: claude-*, gpt-*, gemini-* by name.",
    )
    limits: Limits = Limits()
    sessions: Sessions = Sessions()
    codebuff: Codebuff = Codebuff()
    workers: Workers = Workers()
    standin: StandIn = StandIn()
    telemetry: Telemetry = Telemetry()

    _backends: dict[str, Backend] = PrivateAttr(default_factory=dict)
    _routes: tuple[Route, ...] = PrivateAttr(default=())
    _default_backend: str | None = PrivateAttr(default=None)
    _notices: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, *(InitSettingsSource(settings_cls, dict(layer)) for layer in layers.get()))

    def enabled_backends(self) -> Mapping[str, Backend]:
        """Every backend in use, by name, with all defaults and credentials filled in."""
        return self._backends

    def enabled_routes(self) -> tuple[Route, ...]:
        """The routes, the first that fits wins; without any in the configuration, those of the well-known models."""
        return self._routes

    @property
    def default_backend(self) -> str | None:
        """What answers when no route fits; None: there is no backend."""
        return self._default_backend

    @property
    def notices(self) -> tuple[str, ...]:
        """What the operator should hear at start."""
        return self._notices


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
