"""The backends this worker serves, from the configuration."""

from __future__ import annotations

from patchbay.settings import Backend, Settings
from patchbay.upstream.provider import HttpProvider
from patchbay.worker.runtime import Shared
from patchbay.worker.service import Provider
from patchbay_claude_worker.agent.provider import AgentProvider
from patchbay_claude_worker.model.provider import ModelProvider
from patchbay_claude_worker.profiles import PROFILES


def build(settings: Settings, shared: Shared) -> list[Provider]:
    """One provider for each enabled backend of this worker."""
    backends = settings.enabled_backends().values()
    return [_provider(backend, shared) for backend in backends if backend.worker == "claude-worker"]


def _provider(backend: Backend, shared: Shared) -> Provider:
    if backend.claude_cli is None:
        return HttpProvider(backend, PROFILES[backend.kind])
    if backend.claude_cli.mode == "model":
        return ModelProvider(backend)
    return AgentProvider(backend, shared)
