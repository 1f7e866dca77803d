"""From a path prefix and a model name to the backends to try, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from patchbay.errors import NOT_FOUND, PatchbayError, make_error
from patchbay.settings import Backend, ReasoningFormat, Route

# Under it the backends answer that are Claude Code.
SDK_PREFIX = "/sdk"
_NO_SDK_BACKEND = (
    "there is no backend of kind claude-cli, which is what answers under /sdk: configure one, such as "
    "`backends.claude: {kind: claude-cli, mode: agent, cwd: /path/to/work/in}`, or a route with `prefix: /sdk`"
)


@dataclass(frozen=True, slots=True)
class Target:
    """A backend to ask, and the model to ask it for."""

    backend: Backend
    model: str
    # How Chat Completions clients get reasoning.
    reasoning_format: ReasoningFormat = "field"


class Router:
    """Applies the configured routes.

    The model sent upstream is the one after `<backend>/` in the request, else the route's, else the backend's, else the
    client's own. Under `/sdk` only the routes of this prefix count, and then the backends of kind `claude-cli`.
    """

    def __init__(self, routes: Sequence[Route], backends: Mapping[str, Backend], default_backend: str | None) -> None:
        self._routes = routes
        self._backends = backends
        self._default = default_backend
        self._sdk_default = _sdk_default(backends, default_backend)

    def targets(self, prefix: str, model: str) -> list[Target]:
        """The backends to try for a request, the first one first.

        Raises:
            PatchbayError: NOT_FOUND when no backend takes the model.
        """
        name, slash, rest = model.partition("/")
        if slash and rest and name in self._backends:
            return [self._target(name, rest, model)]
        for route in self._routes:
            if _applies(route, prefix, model):
                return [
                    self._target(target.backend, target.model, model, route.reasoning_format)
                    for target in route.targets
                ]
        default = self._sdk_default if prefix == SDK_PREFIX else self._default
        if default is not None:
            return [self._target(default, None, model)]
        if prefix == SDK_PREFIX:
            raise PatchbayError(make_error(NOT_FOUND, _NO_SDK_BACKEND))
        known = ", ".join(sorted(self._backends)) or "none"
        message = f"no backend takes the model `{model}` (backends here: {known})"
        raise PatchbayError(make_error(NOT_FOUND, message, parameter="model", upstream_code="model_not_found"))

    def aliases(self, prefix: str) -> list[str]:
        """The models that the routes of a path prefix name exactly, for model lists."""
        patterns = (pattern for route in self._routes if _is_for(route, prefix) for pattern in route.match)
        return [pattern for pattern in patterns if not any(sign in pattern for sign in "*?[")]

    def offered(self, prefix: str) -> list[Backend]:
        """The backends whose models a path prefix is for, for model lists.

        Raises:
            PatchbayError: NOT_FOUND when there is none under `/sdk`.
        """
        if prefix != SDK_PREFIX:
            return list(self._backends.values())
        routed = {target.backend for route in self._routes if _is_for(route, prefix) for target in route.targets}
        offered = [one for one in self._backends.values() if one.kind == "claude-cli" or one.name in routed]
        if not offered:
            raise PatchbayError(make_error(NOT_FOUND, _NO_SDK_BACKEND))
        return offered

    def _target(
        self, backend: str, override: str | None, model: str, reasoning_format: ReasoningFormat | None = None
    ) -> Target:
        found = self._backends[backend]
        return Target(found, override or found.model or model, reasoning_format or found.reasoning_format)


def _sdk_default(backends: Mapping[str, Backend], default_backend: str | None) -> str | None:
    """The `claude-cli` backend that answers under `/sdk` unless a route says otherwise: agents before models."""
    modes = {name: one.claude_cli.mode for name, one in backends.items() if one.claude_cli is not None}
    if default_backend in modes:
        return default_backend
    return next((name for mode in ("agent", "model") for name in modes if modes[name] == mode), None)


def _applies(route: Route, prefix: str, model: str) -> bool:
    return _is_for(route, prefix) and any(fnmatchcase(model, pattern) for pattern in route.match)


def _is_for(route: Route, prefix: str) -> bool:
    """Whether a route may decide for requests with this path prefix."""
    return route.prefix == prefix or (route.prefix is None and prefix != SDK_PREFIX)
