"""What the console shows of a running system: one table and the first request to try."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from patchbay.settings import Backend, Settings
from patchbay_cli import addresses
from patchbay_cli.plan import Plan
from patchbay_cli.readiness import BackendReadiness

# A model that each kind of backend is sure to have.
_MODELS = {
    "openai": "gpt-5",
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-2.5-flash",
    "openrouter": "openai/gpt-5",
    "codebuddy": "gpt-5.5",
    "codex": "gpt-5.5",
    "openai-responses": "gpt-5",
}
_STANDIN_MODELS = {"standin-openai": "gpt-5", "standin-anthropic": "claude-sonnet-4-5"}


def show(
    console: Console, plan: Plan, backends: Mapping[str, BackendReadiness], workers: Mapping[str, Sequence[str]]
) -> None:
    """Prints where everything is, and what to try."""
    settings = plan.settings
    console.print(_table(console, plan, backends, workers=workers))
    for notice in settings.notices:
        _say(console, f"Notice: {notice}")
    if plan.standin:
        _say(console, "The stand-in provider answers: there is no credential for a real one. Its answers are made up.")
        _say(console, "Set OPENAI_API_KEY, ANTHROPIC_API_KEY or another provider's key to talk to a model.")
    _say(console, "\nTry it:\n")
    for line in requests_to_try(settings):
        _say(console, f"  {line}\n")
    _say(console, f"Logs are in {plan.state / 'logs'}. Ctrl-C stops everything.")


def _say(console: Console, text: str) -> None:
    """Prints a text as it is, so that a command can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _table(
    console: Console, plan: Plan, backends: Mapping[str, BackendReadiness], *, workers: Mapping[str, Sequence[str]]
) -> Table:
    # Nobody draws frames into a file or a pipe.
    table = Table(title="Patchbay is up", title_justify="left", box=box.ROUNDED if console.is_terminal else None)
    for column in ("service", "address", "backends", "signed in"):
        table.add_column(column, overflow="fold")
    settings = plan.settings
    configured = settings.enabled_backends()
    for service in reversed(plan.services):
        if service.name == "edge":
            row = (addresses.url(settings.server.host, settings.server.port), "", "")
        elif service.name == "standin":
            row = (addresses.url(settings.standin.host, settings.standin.port), "", "")
        elif service.name == "valkey":
            row = (settings.redis.connect_url(), "", "")
        else:
            served = {
                name: backends[name]
                for name, backend in configured.items()
                if backend.worker == service.name and name in backends
            }
            row = (
                "\n".join(workers.get(service.name, ())) or "not announced yet",
                "\n".join(served) or "none",
                "\n".join(_signed_in(name, backend) for name, backend in served.items()),
            )
        table.add_row(service.name, *row)
    if not settings.redis.embedded:
        table.add_row("redis", "as configured", "", "")
    return table


def _signed_in(name: str, backend: BackendReadiness) -> str:
    if name in _STANDIN_MODELS:
        return "not needed"
    return "yes" if backend.signed_in else f"no: {backend.detail}"


def requests_to_try(settings: Settings) -> list[str]:
    """Commands that get an answer from this system: one for each client dialect."""
    url = addresses.url(settings.server.host, settings.server.port)
    key = ' -H "authorization: Bearer $PATCHBAY_KEY"' if settings.security.require_api_key else ""
    messages = [{"role": "user", "content": "Hello, who are you?"}]
    backends = settings.enabled_backends()
    default = backends[settings.default_backend or next(iter(backends))]
    native = [backend for backend in backends.values() if backend.kind == "anthropic" and backend.signed_in]
    bodies = {
        "/v1/chat/completions": {"model": _model(default), "messages": messages},
        "/v1/messages": {"model": _model((native or [default])[0]), "max_tokens": 200, "messages": messages},
    }
    return [
        f"curl {url}{path}{key} -H 'content-type: application/json' -d '{json.dumps(body)}'"
        for path, body in bodies.items()
    ]


def _model(backend: Backend) -> str:
    """The model to name in a request, so that it goes to this backend whatever the routes say."""
    if backend.name in _STANDIN_MODELS:
        return _STANDIN_MODELS[backend.name]
    model = backend.model or next(iter(backend.models), None) or _MODELS.get(backend.kind, "default")
    return f"{backend.name}/{model}"
