"""Routes: which backend answers which model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, field_validator

from patchbay.settings.backends import KINDS, Backend, KindName, ReasoningFormat
from patchbay.settings.errors import SettingsError


class RouteConfig(BaseModel):
    """One route as written in the configuration. The first that fits wins."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: tuple[str, ...] = Field(
        default=("*",), description="Patterns on the client's model name, such as claude-*; one, or a list."
    )
    prefix: str | None = Field(default=None, description="Only requests whose path starts with this, such as /sdk.")
    backend: str = Field(description="The backend that answers.")
    model: str | None = Field(default=None, description="The model to ask it for; left out: the client's.")
    fallbacks: tuple[str, ...] = Field(
        default=(),
        description='Where to go when it fails before its answer begins: "backend" or "backend/model", in order.',
    )
    reasoning_format: ReasoningFormat | None = Field(
        default=None, description="field or xml, as of a backend; null: what the backend says."
    )

    @field_validator("prefix")
    @classmethod
    def _prefix_is_a_path(cls, prefix: str | None) -> str | None:
        if prefix is not None and not prefix.startswith("/"):
            raise ValueError("must start with /")
        return (prefix or "").rstrip("/") or None


@dataclass(frozen=True)
class Target:
    """A backend to ask, and the model to ask it for (None: the client's, or the backend's own)."""

    backend: str
    model: str | None = None


@dataclass(frozen=True)
class Route:
    """A route with only usable backends in it.

    Attributes:
        match: fnmatch patterns on the model name; one has to fit.
        prefix: What the request's path has to start with, without a slash at its end.
        targets: Where to go, in order: the backend, then its fallbacks.
        reasoning_format: How Chat Completions clients get reasoning; None: as the backend that answers says.
    """

    match: tuple[str, ...]
    prefix: str | None
    targets: tuple[Target, ...]
    reasoning_format: ReasoningFormat | None = None


# The models of a provider, and the kinds of backends that offer them, the first choice first.
_DEFAULT_ROUTES: tuple[tuple[tuple[str, ...], tuple[KindName, ...]], ...] = (
    (("claude-*",), ("anthropic", "claude-cli")),
    (("gpt-*", "o1*", "o3*", "o4*", "chatgpt-*"), ("openai", "openai-responses", "codex")),
    (("gemini-*",), ("gemini",)),
)


def _default_routes(usable: Mapping[str, Backend]) -> tuple[Route, ...]:
    """A route for each well-known provider: to the backend named like a kind, or to any that was signed in for it."""
    routes = []
    for match, kinds in _DEFAULT_ROUTES:
        names: list[str] = [kind for kind in kinds if kind in usable]
        names += [name for name, backend in usable.items() if KINDS[backend.kind].signs_in and backend.kind in kinds]
        if names:
            routes.append(Route(match, None, (Target(names[0]),)))
    return tuple(routes)


def target_of(text: str) -> Target:
    """Reads `backend` or `backend/model`."""
    backend, _, model = text.partition("/")
    return Target(backend, model or None)


def referenced(routes: Sequence[RouteConfig]) -> list[tuple[str, str]]:
    """Every backend the routes name, as (where it is written, name)."""
    found: list[tuple[str, str]] = []
    for index, route in enumerate(routes):
        found.append((f"routes.{index}.backend", route.backend))
        for number, fallback in enumerate(route.fallbacks):
            found.append((f"routes.{index}.fallbacks.{number}", target_of(fallback).backend))
    return found


def resolve(
    routes: Sequence[RouteConfig], usable: Mapping[str, Backend], known: Sequence[str]
) -> tuple[tuple[Route, ...], list[str]]:
    """The routes with the usable backends only, and a notice for each one left without any.

    Raises:
        SettingsError: When a route names a backend there is not.
    """
    for where, name in referenced(routes):
        if name not in known:
            raise SettingsError(f"{where}: there is no backend {name}; there are: {', '.join(known) or 'none'}")
    if not routes:
        return _default_routes(usable), []
    resolved: list[Route] = []
    notices: list[str] = []
    for index, route in enumerate(routes):
        targets = [Target(route.backend, route.model), *map(target_of, route.fallbacks)]
        left = tuple(target for target in targets if target.backend in usable)
        if left:
            resolved.append(Route(route.match, route.prefix, left, route.reasoning_format))
        else:
            notices.append(f"routes.{index} is left out: {route.backend} is not enabled or has no credential")
    return tuple(resolved), notices
