"""Backends: what may be configured, and what comes out once defaults and credentials are filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

from patchbay.settings.claude_cli import AGENT_KEYS, CLAUDE_CLI_KEYS, ClaudeCliConfig
from patchbay.settings.codex import CODEX_KEYS, Codex, CodexConfig, url
from patchbay.settings.codex import resolve as resolve_codex
from patchbay.settings.errors import SettingsError

KindName: TypeAlias = Literal[
    "openai",
    "codebuddy",
    "gemini",
    "openrouter",
    "openai-compatible",
    "anthropic",
    "claude-cli",
    "codex",
    "openai-responses",
]
CredentialSource: TypeAlias = Literal["api_key", "pass_through", "signed_in"]
WorkerName: TypeAlias = Literal["openai-worker", "claude-worker", "codex-worker"]
ReasoningFormat: TypeAlias = Literal["field", "xml"]

_NAME = re.compile(r"[A-Za-z0-9_-]+\Z")
_CODEBUDDY_KEY = re.compile(r"ck_[^.\s]+\.\S+\Z")


@dataclass(frozen=True)
class Kind:
    """What is known of a kind of backend before it is configured."""

    worker: WorkerName
    base_url: str | None
    key_variable: str | None
    token_variable: str | None = None
    # Whether a key in its variable is enough to have such a backend.
    automatic: bool = True
    # Whether it can use the operator's own sign-in (`credentials: signed_in`).
    signs_in: bool = False


KINDS: Mapping[KindName, Kind] = {
    "openai": Kind("openai-worker", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    "anthropic": Kind("claude-worker", "https://api.anthropic.com", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "gemini": Kind("openai-worker", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    "openrouter": Kind("openai-worker", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "codebuddy": Kind("openai-worker", "https://www.codebuddy.ai/v2", "CODEBUDDY_API_KEY"),
    "openai-compatible": Kind("openai-worker", None, None),
    "claude-cli": Kind(
        "claude-worker",
        "https://api.anthropic.com",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        automatic=False,
        signs_in=True,
    ),
    "codex": Kind("codex-worker", "https://chatgpt.com/backend-api", None, automatic=False, signs_in=True),
    "openai-responses": Kind("codex-worker", "https://api.openai.com/v1", "OPENAI_API_KEY", automatic=False),
}


class Timeouts(BaseModel):
    """How long an upstream may take, in seconds. A single number is the longest silence: first byte and idle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connect: PositiveFloat = Field(default=10.0, description="Until the connection stands.")
    first_byte: PositiveFloat = Field(
        default=600.0,
        description="From the request to the answer's head: deep reasoning and cold models are silent for minutes.",
    )
    idle: PositiveFloat = Field(default=300.0, description="The longest silence within an answer.")
    total: PositiveFloat = Field(default=3600.0, description="The whole answer, however lively.")

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: object) -> object:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            seconds = float(value)
            return {
                "connect": min(10.0, seconds),
                "first_byte": seconds,
                "idle": seconds,
                "total": max(3600.0, seconds),
            }
        return value


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


OptionalSecret: TypeAlias = Annotated[SecretStr | None, BeforeValidator(_empty_is_none)]


class BackendConfig(ClaudeCliConfig, CodexConfig):
    """One backend as written in the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(default=True, description="false takes the backend out without deleting its settings.")
    kind: KindName | None = Field(
        default=None,
        description="openai, codebuddy, gemini, openrouter, openai-compatible, anthropic, claude-cli, codex or "
        "openai-responses; may be left out when the backend's name is a kind.",
    )
    base_url: Annotated[str, AfterValidator(url)] | None = Field(
        default=None, description="The upstream's URL; each kind but openai-compatible has one of its own."
    )
    api_key: OptionalSecret = Field(
        default=None, description="The upstream's key; left out: the kind's standard variable, such as OPENAI_API_KEY."
    )
    auth_token: OptionalSecret = Field(
        default=None, description="An OAuth bearer token instead of a key (anthropic); left out: ANTHROPIC_AUTH_TOKEN."
    )
    credentials: CredentialSource = Field(
        default="api_key",
        description="api_key, pass_through (the caller's own key goes upstream and nowhere else), or signed_in "
        "(claude-cli, codex: the operator's own sign-in).",
    )
    model: str | None = Field(default=None, description="The model to ask for, whatever the client names.")
    models: tuple[str, ...] = Field(default=(), description="What /v1/models lists; empty: what the upstream offers.")
    timeout: Timeouts = Field(
        default=Timeouts(), description="Seconds of silence, or connect, first_byte, idle and total."
    )
    strict_parameters: bool = Field(
        default=False,
        description="Refuse what the backend cannot honour with 400, instead of dropping it with a warning.",
    )
    headers: dict[str, SecretStr] = Field(
        default={}, description="Headers to add to each request upstream; kept secret."
    )
    reasoning_format: ReasoningFormat = Field(
        default="field",
        description="How Chat Completions clients get reasoning: field (reasoning_content), or xml (<reasoning> tags "
        "in the content).",
    )
    max_concurrency: PositiveInt | None = Field(
        default=None, description="Requests at a time per worker replica; null: the worker's capacity."
    )


class BackendsConfig(BaseModel):
    """The `backends` section: `default_backend` beside the backends by name."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, BackendConfig]

    default_backend: str | None = Field(
        default=None, description="What answers when no route matches; left out: the first backend with a credential."
    )

    @property
    def named(self) -> Mapping[str, BackendConfig]:
        return self.__pydantic_extra__ or {}


@dataclass(frozen=True)
class Backend:
    """A backend with everything filled in.

    Attributes:
        worker: The service that serves it.
        signed_in: Whether a credential is there, or none is needed. Presence, not validity.
        detail: What is missing and how to mend it; empty: nothing.
        headers: To add to each request upstream; secrets.
        max_concurrency: Requests at a time per worker replica.
        reasoning_format: How Chat Completions clients get reasoning, unless the route says otherwise.
        claude_cli: What only a backend of that kind has.
        codex: What only a backend of that kind has.
    """

    name: str
    kind: KindName
    base_url: str
    worker: WorkerName
    timeouts: Timeouts
    api_key: SecretStr | None = None
    auth_token: SecretStr | None = None
    credentials: CredentialSource = "api_key"
    model: str | None = None
    models: tuple[str, ...] = ()
    strict_parameters: bool = False
    headers: Mapping[str, SecretStr] = field(default_factory=lambda: MappingProxyType({}))
    max_concurrency: int | None = None
    signed_in: bool = False
    detail: str = ""
    claude_cli: ClaudeCliConfig | None = None
    codex: Codex | None = None
    reasoning_format: ReasoningFormat = "field"


def resolve(name: str, config: BackendConfig, environ: Mapping[str, str]) -> Backend:
    """Fills in what a backend's configuration leaves out.

    Raises:
        SettingsError: When something is missing or does not fit.
    """
    where = f"backends.{name}"
    kind = _kind(name, config)
    known = KINDS[kind]
    base_url = config.base_url or known.base_url
    if base_url is None:
        raise SettingsError(
            f"{where}.base_url: an openai-compatible backend needs one, such as http://127.0.0.1:11434/v1"
        )
    _check_credentials(where, kind, config)
    _check_claude_cli(where, kind, config)
    _check_codex(where, kind, config)
    if config.auth_token is not None and known.token_variable is None:
        raise SettingsError(f"{where}.auth_token: kind {kind} takes an api_key")
    api_key, auth_token = _credential(where, kind, config, environ=environ)
    # Whether an operator's own sign-in is there, only its worker can tell.
    signed_in = bool(api_key or auth_token) or config.credentials != "api_key" or known.key_variable is None
    return Backend(
        name=name,
        kind=kind,
        base_url=base_url,
        worker=known.worker,
        timeouts=config.timeout,
        api_key=api_key,
        auth_token=auth_token,
        credentials=config.credentials,
        model=config.model or None,
        models=config.models,
        strict_parameters=config.strict_parameters,
        headers=MappingProxyType(dict(config.headers)),
        max_concurrency=config.max_concurrency,
        signed_in=signed_in,
        detail="" if signed_in else f"no credential: set {known.key_variable} or {where}.api_key",
        claude_cli=config if kind == "claude-cli" else None,
        codex=resolve_codex(config, environ) if kind == "codex" else None,
        reasoning_format=config.reasoning_format,
    )


def _check_credentials(where: str, kind: KindName, config: BackendConfig) -> None:
    if config.credentials == "signed_in" and not KINDS[kind].signs_in:
        raise SettingsError(
            f"{where}.credentials: signed_in is not possible for kind {kind}; use api_key or pass_through"
        )
    if config.credentials == "pass_through" and kind == "claude-cli":
        raise SettingsError(
            f"{where}.credentials: pass_through is not possible for kind claude-cli, whose processes start before the "
            "caller is known; use kind anthropic"
        )


def _check_codex(where: str, kind: KindName, config: BackendConfig) -> None:
    if kind != "codex":
        if foreign := sorted(config.model_fields_set & CODEX_KEYS):
            raise SettingsError(f"{where}.{foreign[0]}: only a backend of kind codex takes it")
    elif config.credentials != "signed_in":
        raise SettingsError(
            f"{where}.credentials: a backend of kind codex uses the operator's own ChatGPT sign-in, and has to say so: "
            "write signed_in (or use kind openai-responses with an API key)"
        )


def _check_claude_cli(where: str, kind: KindName, config: BackendConfig) -> None:
    if kind != "claude-cli":
        if foreign := sorted(config.model_fields_set & CLAUDE_CLI_KEYS):
            raise SettingsError(f"{where}.{foreign[0]}: only a backend of kind claude-cli takes it")
        return
    if config.credentials == "signed_in" and not config.config_dir:
        raise SettingsError(
            f"{where}.config_dir: is missing; with credentials: signed_in it names the CLAUDE_CONFIG_DIR of the sign-in"
        )
    if config.mode == "agent" and not config.cwd:
        raise SettingsError(f"{where}.cwd: is missing; with mode: agent it names the directory to work in")
    if config.mode == "model" and (unused := sorted(config.model_fields_set & AGENT_KEYS)):
        raise SettingsError(f"{where}.{unused[0]}: only with mode: agent")


def _kind(name: str, config: BackendConfig) -> KindName:
    if not _NAME.match(name):
        raise SettingsError(f"backends.{name}: a backend's name is made of letters, digits, - and _")
    if config.kind is not None:
        return config.kind
    for kind in KINDS:
        if name == kind:
            return kind
    raise SettingsError(f"backends.{name}.kind: is missing; one of {', '.join(KINDS)}")


def _credential(
    where: str, kind: KindName, config: BackendConfig, *, environ: Mapping[str, str]
) -> tuple[SecretStr | None, SecretStr | None]:
    """The key or the token, from the configuration or else from the standard variables."""
    if config.credentials != "api_key":
        if config.api_key or config.auth_token:
            owner = "the caller brings the key" if config.credentials == "pass_through" else "no key is used"
            raise SettingsError(f"{where}.api_key: with credentials: {config.credentials} {owner}; leave it out")
        return None, None
    known = KINDS[kind]
    api_key, auth_token, source = config.api_key, config.auth_token, f"{where}.api_key"
    if api_key is None and auth_token is None:
        if key := environ.get(known.key_variable or "", "").strip():
            api_key, source = SecretStr(key), str(known.key_variable)
        elif token := environ.get(known.token_variable or "", "").strip():
            auth_token = SecretStr(token)
    if kind == "codebuddy" and api_key and not _CODEBUDDY_KEY.match(api_key.get_secret_value()):
        raise SettingsError(f"{source}: a CodeBuddy key has the form ck_<id>.<secret>")
    return api_key, auth_token


def has_standard_credential(kind: KindName, environ: Mapping[str, str]) -> bool:
    """Whether one of the kind's standard variables is set."""
    known = KINDS[kind]
    return any(environ.get(name, "").strip() for name in (known.key_variable, known.token_variable) if name)
