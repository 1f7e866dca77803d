"""Reads the configuration from file, environment and flags, and says clearly what is wrong with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from patchbay.settings import backends as backend_settings
from patchbay.settings import routes as route_settings
from patchbay.settings.backends import KINDS, Backend, BackendConfig
from patchbay.settings.errors import SettingsError
from patchbay.settings.model import Settings, StandIn, is_loopback, layers
from patchbay.settings.routes import Route, Target
from patchbay.settings.schema import leaves, node_of
from patchbay.settings.sources import Reader, Tree, find_file, split_flags

STANDIN_OPENAI = "standin-openai"
STANDIN_ANTHROPIC = "standin-anthropic"
# Made up: the stand-in takes any key.
_STANDIN_KEY = SecretStr("standin")


def load(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Reads the configuration: a file, overridden by the environment, overridden by flags.

    Args:
        argv: `--config FILE` and `--section.key value` flags; None: none.
        environ: The environment; None: the process's own.

    Raises:
        SettingsError: With one line that names what is wrong.
    """
    environ = os.environ if environ is None else environ
    config, flags = split_flags(argv or ())
    path = find_file(config, environ)
    root = node_of(Settings)
    standin = (STANDIN_OPENAI, STANDIN_ANTHROPIC)
    from_file = Reader(root, environ, (*KINDS, *standin)).file(path) if path else {}
    reader = Reader(root, environ, (*_backend_names(from_file), *KINDS, *standin))
    from_flags, from_environment = reader.flags(flags), reader.environment()
    token = layers.set((from_flags, from_environment, from_file))
    try:
        settings = Settings()
    except ValidationError as error:
        raise SettingsError(_said_plainly(error.errors(include_url=False)[0], path)) from None
    finally:
        layers.reset(token)
    return _Resolution(settings, environ).settings()


def load_or_exit(program: str, argv: Sequence[str] | None = None) -> Settings:
    """`load` for an entry point: a wrong configuration is printed as one line and ends the process with status 2.

    Args:
        program: The command's name.
        argv: Its arguments; None: the process's own.
    """
    argv = sys.argv[1:] if argv is None else argv
    if any(argument in ("-h", "--help") for argument in argv):
        print_help(program)
    try:
        return load(argv)
    except SettingsError as error:
        sys.stderr.write(f"{program}: {error}\n")
        sys.exit(2)


def print_help(program: str) -> NoReturn:
    """Prints every flag there is, and ends the process."""
    lines = [f"usage: {program} [--config FILE] [--section.key value ...]", ""]
    lines += [f"  --{path:40} {node.description}" for path, node in leaves(node_of(Settings))]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(0)


def _backend_names(tree: Tree) -> list[str]:
    section = tree.get("backends")
    return [name for name in section if name != "default_backend"] if isinstance(section, dict) else []


def _said_plainly(error: ErrorDetails, path: Path | None) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "configuration"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        message = "is missing"
    # No input in the text: it may be a secret.
    return f"{where}: {message[:1].lower()}{message[1:]}" + (f" (file: {path})" if path else "")


class _Resolution:
    """Works out the backends and routes that a configuration comes to."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._notices: list[str] = []

    def settings(self) -> Settings:
        settings = self._settings
        backends = self._backends()
        standin = settings.standin.enabled == "true"
        # With the stand-in on, it answers for every backend that has no credential.
        usable = {name: backend for name, backend in backends.items() if backend.signed_in or not standin}
        default = self._default(backends, usable)
        known = [*dict.fromkeys([*backends, *settings.backends.named])]
        routes, notices = route_settings.resolve(settings.routes, usable, known)
        if standin:
            routes = (*routes, Route(("claude-*",), None, (Target(STANDIN_ANTHROPIC),)))
        settings._backends = backends
        settings._routes = routes
        settings._default_backend = default
        settings._notices = (*self._notices, *notices, *self._warnings(backends))
        return settings

    def _backends(self) -> dict[str, Backend]:
        """Everything configured, named in a route, or given a credential by its standard variable."""
        section = self._settings.backends
        configs = dict(section.named)
        named = [name for _, name in route_settings.referenced(self._settings.routes)]
        for kind in KINDS:
            wanted = kind in named or kind == section.default_backend
            given = KINDS[kind].automatic and backend_settings.has_standard_credential(kind, self._environ)
            if given or (wanted and KINDS[kind].base_url):
                configs.setdefault(kind, BackendConfig())
        resolved = {
            name: backend_settings.resolve(name, config, self._environ)
            for name, config in configs.items()
            if config.enabled
        }
        if self._settings.standin.enabled == "true":
            for name, backend in _standin_backends(self._settings.standin).items():
                if name in configs:
                    raise SettingsError(f"backends.{name}: this name is the stand-in's own")
                resolved[name] = backend
        return resolved

    def _default(self, backends: Mapping[str, Backend], usable: Mapping[str, Backend]) -> str | None:
        wanted = self._settings.backends.default_backend
        if wanted is not None and wanted not in backends:
            raise SettingsError(
                f"backends.default_backend: there is no enabled backend {wanted}; "
                f"there are: {', '.join(backends) or 'none'}"
            )
        if wanted in usable:
            return wanted
        if STANDIN_OPENAI in usable:
            return STANDIN_OPENAI
        signed_in = [name for name, backend in usable.items() if backend.signed_in]
        return next(iter([*signed_in, *usable]), None)

    def _warnings(self, backends: Mapping[str, Backend]) -> list[str]:
        notices = []
        server = self._settings.server
        if not is_loopback(server.host) and not self._settings.security.require_api_key:
            notices.append(
                f"server.host is {server.host} and security.require_api_key is false: "
                "anyone who can reach this machine can use your backends"
            )
        for backend in backends.values():
            if backend.credentials == "signed_in":
                notices.append(
                    f"backends.{backend.name} uses the operator's own sign-in: the provider's terms say who may use a "
                    "consumer subscription and how, and some reserve it for their own applications"
                )
        if not backends:
            notices.append("there is no backend: set OPENAI_API_KEY or ANTHROPIC_API_KEY, or configure one")
        return notices


def _standin_backends(standin: StandIn) -> dict[str, Backend]:
    host = f"[{standin.host}]" if ":" in standin.host else standin.host
    url = f"http://{host}:{standin.port}"
    openai = backend_settings.resolve(
        STANDIN_OPENAI, BackendConfig(kind="openai-compatible", base_url=f"{url}/v1", api_key=_STANDIN_KEY), {}
    )
    anthropic = replace(
        openai, name=STANDIN_ANTHROPIC, kind="anthropic", base_url=url, worker=KINDS["anthropic"].worker
    )
    return {STANDIN_OPENAI: openai, STANDIN_ANTHROPIC: anthropic}
