"""The backends this worker serves, from the configuration."""

from __future__ import annotations

from patchbay.settings import Backend, Settings
from patchbay.upstream.http import HttpUpstream
from patchbay.upstream.provider import HttpProvider
from patchbay.worker.runtime import Shared
from patchbay.worker.service import Provider
from patchbay_codex_worker.profiles import CODEX, openai_responses
from patchbay_codex_worker.provider import CodexProvider
from patchbay_codex_worker.reasoning import ReasoningUpstream


def build(settings: Settings, shared: Shared) -> list[Provider]:
    """One provider for each enabled backend of this worker."""
    return [
        _provider(backend, settings, shared)
        for backend in settings.enabled_backends().values()
        if backend.worker == "codex-worker"
    ]


def _provider(backend: Backend, settings: Settings, shared: Shared) -> Provider:
    if backend.kind == "codex":
        return CodexProvider(backend, CODEX, settings, shared)
    upstream = ReasoningUpstream(HttpUpstream(backend.base_url, backend.timeouts))
    return HttpProvider(backend, openai_responses(backend.base_url), upstream)
