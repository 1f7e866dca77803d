"""From a path prefix and a model name to the backends to try, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from patchbay.errors import NOT_FOUND, PatchbayError, make_error
from patchbay.settings import Backend, Route


@dataclass(frozen=True, slots=True)
class Target:
    """A backend to ask, and the model to ask it for."""

    backend: Backend
    model: str


class Router:
    """Applies the configured routes.

    The model sent upstream is the one after `<backend>/` in the request, else the route's, else the backend's, else the
    client's own.
    """

    def __init__(self, routes: Sequence[Route], backends: Mapping[str, Backend], default_backend: str | None) -> None:
        self._routes = routes
        self._backends = backends
        self._default = default_backend

    def targets(self, prefix: str, model: str) -> list[Target]:
        """The backends to try for a request, the first one first.

        Raises:
            PatchbayError: NOT_FOUND when no backend takes the model.
        """
        name, slash, rest = model.partition("/")
        if slash and rest and name in self._backends:
            return [Target(self._backends[name], rest)]
        for route in self._routes:
            if _applies(route, prefix, model):
                return [self._target(target.backend, target.model, model) for target in route.targets]
        if self._default is not None:
            return [self._target(self._default, None, model)]
        known = ", ".join(sorted(self._backends)) or "none"
        message = f"no backend takes the model `{model}` (backends here: {known})"
        raise PatchbayError(make_error(NOT_FOUND, message, parameter="model", upstream_code="model_not_found"))

    def aliases(self, prefix: str) -> list[str]:
        """The models that the routes of a path prefix name exactly, for model lists."""
        patterns = (pattern for route in self._routes if route.prefix in (None, prefix) for pattern in route.match)
        return [pattern for pattern in patterns if not any(sign in pattern for sign in "*?[")]

    def _target(self, backend: str, override: str | None, model: str) -> Target:
        found = self._backends[backend]
        return Target(found, override or found.model or model)


def _applies(route: Route, prefix: str, model: str) -> bool:
    if route.prefix is not None and route.prefix != prefix:
        return False
    return any(fnmatchcase(model, pattern) for pattern in route.match)
